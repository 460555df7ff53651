"""The methods: one file each, one class each."""

from noisyfit.methods.co_teaching import CoTeachingClassifier
from noisyfit.methods.cross_entropy import CrossEntropyClassifier
from noisyfit.methods.dividemix import DivideMixClassifier
from noisyfit.methods.mixup import MixupClassifier

__all__ = [
    "CoTeachingClassifier",
    "CrossEntropyClassifier",
    "DivideMixClassifier",
    "MixupClassifier",
]
