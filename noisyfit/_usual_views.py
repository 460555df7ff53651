"""The random views that ``"auto"`` means, by the shape of a row."""

import torch

from noisyfit import augment
from noisyfit._checks import is_auto
from noisyfit._module_check import check_shape_of_view

_SMALLEST_TO_SHIFT = 4  # pixels; a shift by one leaves too little of smaller images
_SMALLEST_TO_DISTORT = 8


def weak_view(shape):
    """Shift images, mirror colour images; None for tables and tiny images."""
    if len(shape) == 1 or min(shape[1:]) < _SMALLEST_TO_SHIFT:
        return None
    return augment.CropFlip(padding=max(1, min(shape[1:]) // 8), flip=shape[0] == 3)


def strong_view(shape, weak):
    """`AutoAugment` behind the `weak` view, if there is one.

    None for tables, tiny images and channels that it does not know.
    """
    if len(shape) == 1 or min(shape[1:]) < _SMALLEST_TO_DISTORT or shape[0] not in (1, 3):
        return None
    return augment.AutoAugment() if weak is None else augment.Chain(weak, augment.AutoAugment())


def resolve_strong(given, run, estimator):
    """The view that ``strong_augment=given`` means for a fit, tried on a batch; None for none.

    ``"auto"`` is none for floats that are not known to lie in [0, 1].
    """
    if is_auto(given):
        is_uint8 = next(iter(run.data.batches(2))).x.dtype == torch.uint8
        if not is_uint8 and getattr(estimator, "_image_range_", None) != "unit":
            return None
        given = strong_view(estimator._shape, estimator._resolve_augment())
    if given is not None:
        check_shape_of_view(run, given, "strong_augment")
    return given
