"""Learning with noisy labels as scikit-learn estimators over torch."""

from noisyfit import methods
from noisyfit._base import BaseNoisyClassifier
from noisyfit._incv import INCVCleaner
from noisyfit._mentor import Mentor
from noisyfit._network import Network
from noisyfit._resume import fit_resumable
from noisyfit._simclr import SimCLR
from noisyfit.methods import *  # noqa: F403

__all__ = [
    "BaseNoisyClassifier",
    "INCVCleaner",
    "Mentor",
    "Network",
    "SimCLR",
    "fit_resumable",
    *methods.__all__,
]
__version__ = "0.1.0.dev0"
