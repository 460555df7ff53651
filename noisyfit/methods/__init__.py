"""The methods: one file each, one class each."""

from noisyfit.methods.backward_correction import BackwardCorrectionClassifier
from noisyfit.methods.bayesian_dividemix_pp import BayesianDivideMixPP
from noisyfit.methods.bootstrapping import BootstrappingClassifier
from noisyfit.methods.co_teaching import CoTeachingClassifier
from noisyfit.methods.co_teaching_plus import CoTeachingPlusClassifier
from noisyfit.methods.cross_entropy import CrossEntropyClassifier
from noisyfit.methods.dividemix import DivideMixClassifier
from noisyfit.methods.elr import ELRClassifier
from noisyfit.methods.elr_plus import ELRPlusClassifier
from noisyfit.methods.forward_correction import ForwardCorrectionClassifier
from noisyfit.methods.incv import INCVClassifier
from noisyfit.methods.joint_optimization import JointOptimizationClassifier
from noisyfit.methods.m_correction import MCorrectionClassifier
from noisyfit.methods.manifold_dividemix import ManifoldDivideMixClassifier
from noisyfit.methods.mentormix import MentorMixClassifier
from noisyfit.methods.mentornet import MentorNetClassifier
from noisyfit.methods.mixup import MixupClassifier
from noisyfit.methods.mlnt import MLNTClassifier
from noisyfit.methods.moment_elr import MomentELRClassifier
from noisyfit.methods.noise_adaptation import NoiseAdaptationClassifier
from noisyfit.methods.pencil import PencilClassifier
from noisyfit.methods.robust_loss import RobustLossClassifier
from noisyfit.methods.self_paced import SelfPacedClassifier

__all__ = [
    "BackwardCorrectionClassifier",
    "BayesianDivideMixPP",
    "BootstrappingClassifier",
    "CoTeachingClassifier",
    "CoTeachingPlusClassifier",
    "CrossEntropyClassifier",
    "DivideMixClassifier",
    "ELRClassifier",
    "ELRPlusClassifier",
    "ForwardCorrectionClassifier",
    "INCVClassifier",
    "JointOptimizationClassifier",
    "MCorrectionClassifier",
    "MLNTClassifier",
    "ManifoldDivideMixClassifier",
    "MentorMixClassifier",
    "MentorNetClassifier",
    "MixupClassifier",
    "MomentELRClassifier",
    "NoiseAdaptationClassifier",
    "PencilClassifier",
    "RobustLossClassifier",
    "SelfPacedClassifier",
]
