"""Splitters: clean or not, from a number per sample.

Transformers of per-sample losses, or of other numbers that are larger for suspicious labels, to the
probability that the label is right. They know no network and no labels.
"""

from noisyfit.mixtures._beta import BetaMixtureSplitter
from noisyfit.mixtures._gaussian import GaussianMixtureSplitter
from noisyfit.mixtures._history import HistorySplitter
from noisyfit.mixtures._kinds import sample_kinds
from noisyfit.mixtures._splitter import effective_threshold

__all__ = [
    "BetaMixtureSplitter",
    "GaussianMixtureSplitter",
    "HistorySplitter",
    "effective_threshold",
    "sample_kinds",
]
