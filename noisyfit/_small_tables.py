"""Defaults that a table with few rows or columns needs, measured on tables of 30 to 400 rows.

In few columns the classes lie close: a mixture of two rows is often a row of a third class, and a
network takes many steps to bend its border round them, during which it contradicts right labels.
There is also little room to memorise wrong labels meanwhile.
"""

import math

_COLUMNS_TO_MIX = 32
_COLUMNS_TO_BEND = 8
_STEPS_TO_BEND = 200
_STEPS_TO_LEARN, _STEPS_PER_CLASS = 20, 6


def mixing_alpha(alpha, shape):
    """Parameter of the Beta distribution of mixup weights: `alpha`, in few columns less.

    `shape` is (n_features,) or (C, H, W).
    """
    return alpha * min(1.0, shape[0] / _COLUMNS_TO_MIX) if len(shape) == 1 else alpha


def steps_to_bend(shape):
    """Steps of plain training that bend the border in few columns; 0 elsewhere."""
    is_narrow = len(shape) == 1 and shape[0] < _COLUMNS_TO_BEND
    return _STEPS_TO_BEND * (1 - shape[0] / _COLUMNS_TO_BEND) if is_narrow else 0


def epochs_before_doubt(epochs, shape, steps_per_epoch):
    """Epochs of plain training before labels may be doubted: `epochs`, in few columns more."""
    return max(epochs, math.ceil(steps_to_bend(shape) / steps_per_epoch))


def steps_to_learn(n_classes, shape, rareness=1.0):
    """Steps of plain training after which predictions say more of a row than of the start.

    A table of few rows makes them in many epochs; of images the published schedules take care.
    `rareness` is 1 for classes of equal size and falls with the share of the rarest.
    """
    if len(shape) > 1:
        return _STEPS_TO_LEARN
    by_classes = min(_STEPS_PER_CLASS * n_classes, steps_to_start(n_classes, shape))
    return max(max(by_classes, _STEPS_TO_LEARN) / rareness, steps_to_bend(shape))


def steps_to_start(n_classes, shape):
    """Steps of cross-entropy after which a bounded loss has a gradient to go on."""
    return (1 if len(shape) == 1 else 3) * (40 + 1.6 * n_classes)
