"""The methods: one file each, one class each."""

from noisyfit.methods.backward_correction import BackwardCorrectionClassifier
from noisyfit.methods.co_teaching import CoTeachingClassifier
from noisyfit.methods.cross_entropy import CrossEntropyClassifier
from noisyfit.methods.dividemix import DivideMixClassifier
from noisyfit.methods.forward_correction import ForwardCorrectionClassifier
from noisyfit.methods.m_correction import MCorrectionClassifier
from noisyfit.methods.mixup import MixupClassifier
from noisyfit.methods.noise_adaptation import NoiseAdaptationClassifier

__all__ = [
    "BackwardCorrectionClassifier",
    "CoTeachingClassifier",
    "CrossEntropyClassifier",
    "DivideMixClassifier",
    "ForwardCorrectionClassifier",
    "MCorrectionClassifier",
    "MixupClassifier",
    "NoiseAdaptationClassifier",
]
