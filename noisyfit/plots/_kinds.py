"""Kinds of samples: right label, wrong label, and of no class at all."""

import numpy as np

from noisyfit.metrics.detection import check_wrong
from noisyfit.mixtures._kinds import KINDS
from noisyfit.plots._axes import COLOURS

CLEAN, WRONG, OPEN = KINDS
COLOUR_OF = dict(zip(KINDS, COLOURS, strict=False))


def check_kinds(kinds):
    """The mask (n,) of wrong labels, or the kinds (n,) by name, from what a caller may pass.

    That is such a mask, the pair (y_true, y_noisy), or the names of the kinds.
    """
    if isinstance(kinds, tuple) and len(kinds) == 2 and np.ndim(kinds[0]) > 0:
        return check_wrong(kinds)
    names = np.asarray(kinds)
    if names.ndim != 1 or not len(names) or not all(isinstance(name, str) for name in names):
        return check_wrong(kinds)
    unknown = np.setdiff1d(names.astype(str), KINDS)
    if len(unknown):
        raise ValueError(f"The kinds of samples are {KINDS}, got {unknown.tolist()} too.")
    return names.astype(str)


def name_kinds(kinds):
    """The kinds (n,) by name, from what a caller may pass."""
    kinds = check_kinds(kinds)
    return np.where(kinds, WRONG, CLEAN) if kinds.dtype == bool else kinds


def groups_of(kinds):
    """Masks (n,) of right and wrong labels, or of all three kinds, from checked `kinds`."""
    return [~kinds, kinds] if kinds.dtype == bool else [kinds == name for name in KINDS]
