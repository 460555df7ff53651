"""Random views and mixup on whole batches; every draw comes from a generator that is handed in.

A view is a callable ``(x, generator) -> x`` that keeps shape and dtype and makes one draw per
sample, on the device of `x`, without reading a value back to the host.
"""

from noisyfit.augment._chain import Chain
from noisyfit.augment._contrastive import FeatureCorruption, SimCLRView
from noisyfit.augment._fixmatch import FixMatchRandAugment
from noisyfit.augment._mixing import beta, mix, mixup, random_permutation
from noisyfit.augment._policies import AutoAugment, RandAugment
from noisyfit.augment._views import CropFlip, FeatureNoise, crop_flip

__all__ = [
    "AutoAugment",
    "Chain",
    "CropFlip",
    "FeatureCorruption",
    "FeatureNoise",
    "FixMatchRandAugment",
    "RandAugment",
    "SimCLRView",
    "beta",
    "crop_flip",
    "mix",
    "mixup",
    "random_permutation",
]
