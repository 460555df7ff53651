"""The random views that ``"auto"`` means, by the shape of a row."""

from noisyfit import augment

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
