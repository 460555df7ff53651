"""Defaults that a table with few columns needs, measured on tables of 30 to 400 rows.

In few columns the classes lie close: a mixture of two rows is often a row of a third class, and a
network takes many steps to bend its border round them, during which it contradicts right labels.
There is also little room to memorise wrong labels meanwhile.
"""

import math

_COLUMNS_TO_MIX = 32
_COLUMNS_TO_BEND = 8
_STEPS_TO_BEND = 200


def mixing_alpha(alpha, shape):
    """Parameter of the Beta distribution of mixup weights: `alpha`, in few columns less.

    `shape` is (n_features,) or (C, H, W).
    """
    return alpha * min(1.0, shape[0] / _COLUMNS_TO_MIX) if len(shape) == 1 else alpha


def epochs_before_doubt(epochs, shape, steps_per_epoch):
    """Epochs of plain training before labels may be doubted: `epochs`, in few columns more."""
    if len(shape) > 1:
        return epochs
    steps = _STEPS_TO_BEND * (1 - shape[0] / _COLUMNS_TO_BEND)
    return max(epochs, math.ceil(steps / steps_per_epoch))


def steps_to_start(n_classes, shape):
    """Steps of cross-entropy after which a bounded loss has a gradient to go on."""
    return (1 if len(shape) == 1 else 3) * (40 + 1.6 * n_classes)
