"""The operations of the strong policies on a batch, each image with its own operation.

Images are sorted by operation, so that one call works on all images of a kind; the results on
uint8 images are those of ``torchvision.transforms.v2.functional`` to the bit.
"""

import numpy as np
import torch

from noisyfit.augment._geometry import GEOMETRIC, move

ENHANCEMENTS = ("Brightness", "Color", "Contrast", "Sharpness")
# In the order in which a sorted batch holds them, so that kinds worked on together are neighbours
OPERATIONS = (
    *("Identity", *GEOMETRIC, *ENHANCEMENTS, "AutoContrast"),
    *("Posterize", "Solarize", "Invert", "Equalize"),
)
CODE = {name: code for code, name in enumerate(OPERATIONS)}
SIGNED = (*GEOMETRIC, *ENHANCEMENTS)
_NAMES = np.array(OPERATIONS)


def apply_operations(x, operations, magnitudes, fill=128, reuse=True):
    """Apply to each image its own operations, one after another.

    Parameters
    ----------
    x : tensor of shape (n, channels, height, width)
        1 or 3 channels, uint8 or floating in [0, 1].
    operations : int array of shape (n_stages, n)
        Positions in `OPERATIONS`.
    magnitudes : float64 array of shape (n_stages, n)
        Strength with its sign: shear as a share, shift in pixels, angle in degrees; factor minus
        one for the enhancements; bits that Posterize keeps; threshold of Solarize on the scale of
        uint8. The rest has none.
    fill : int, default=128
        Grey value of what comes in from outside, on the scale of uint8.
    reuse : bool, default=True
        Whether geometric operations have few magnitudes, which come again in later batches.

    Returns
    -------
    tensor like `x`
    """
    check_images(x)
    if x.shape[1] == 1:  # grey images have no colour
        operations = np.where(operations == CODE["Color"], CODE["Identity"], operations)
    x, place = x.contiguous(), np.arange(len(x))  # row of each image
    for codes, values in zip(operations, magnitudes, strict=True):
        order = np.argsort(codes, kind="stable")
        x = x.index_select(0, _tensor(place[order], x))
        place = np.argsort(order)
        _apply_sorted(x, codes[order], values[order], fill, reuse)
    return x.index_select(0, _tensor(place, x))


def check_images(x):
    """Refuse what is no batch of images. The range of floats is looked at on the CPU only."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(
            "Expected images (batch, channels, height, width) with 1 or 3 channels, got "
            f"{tuple(x.shape)}."
        )
    if x.dtype == torch.uint8:
        return
    if not x.is_floating_point():
        raise ValueError(f"Expected images that are uint8 or floating, got {x.dtype}.")
    if x.device.type == "cpu" and x.numel():
        low, high = x.aminmax()
        if not (low > -1e-3 and high < 1 + 1e-3):
            raise ValueError(
                f"Floating images must lie in [0, 1] for this view, got values from {low:.4g} to "
                f"{high:.4g}; scale them, or give them as uint8."
            )


def _tensor(array, x, dtype=None):
    return torch.from_numpy(array).to(x.device, dtype, non_blocking=True)


def _per_image(array, x, dtype):
    return _tensor(array, x, dtype).view(-1, 1, 1, 1)


def _apply_sorted(x, codes, values, fill, reuse):
    """Work in place on images sorted by their codes."""
    ends = np.searchsorted(codes, np.arange(len(OPERATIONS) + 1)).tolist()

    def rows(first, last):
        return slice(ends[CODE[first]], ends[CODE[last] + 1])

    moved, scaled = rows("ShearX", "Rotate"), rows("Brightness", "AutoContrast")
    coded, levelled = rows("Posterize", "Invert"), rows("Equalize", "Equalize")
    if moved.start < moved.stop:
        level = fill if x.dtype == torch.uint8 else fill / 255
        x[moved] = move(x[moved], _NAMES[codes[moved]], values[moved], level, reuse)
    if scaled.start < scaled.stop:
        sizes = np.diff(ends[CODE["Brightness"] : CODE["AutoContrast"] + 2]).tolist()
        _scale(x[scaled], values[scaled], sizes)
    if coded.start < coded.stop:
        code = _code_uint8 if x.dtype == torch.uint8 else _code_floating
        code(x[coded], codes[coded], values[coded])
    if levelled.start < levelled.stop:
        x[levelled] = equalize(x[levelled])


def _scale(x, magnitudes, sizes):
    """Brightness, colour, contrast, sharpness and auto-contrast, in place, `sizes` images of each.

    An enhancement is factor * x + (1 - factor) * plain, with plain the black, the grey, the mean
    grey or the blurred image. Sums are made by `addcmul`, rounded like torchvision's sums.
    """
    is_uint8 = x.dtype == torch.uint8
    bound = 255 if is_uint8 else 1
    full = x.float() if is_uint8 or x.dtype in (torch.float16, torch.bfloat16) else x.clone()
    bright, colour, contrast, sharp, auto = full.split(sizes)
    factor = 1 + magnitudes[: len(magnitudes) - sizes[-1]]
    rest = _per_image(1 - factor, x, full.dtype)
    _, colour_rest, contrast_rest, sharp_rest = rest.split(sizes[:-1])
    grey = _grey(torch.cat([colour, contrast])) ...
