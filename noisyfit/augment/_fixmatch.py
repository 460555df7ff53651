"""The strong view of FixMatch: RandAugment of any strength, then Cutout."""

from dataclasses import dataclass

import numpy as np
import torch

from noisyfit._checks import check_integer
from noisyfit.augment._operations import (
    CODE,
    ENHANCEMENTS,
    OPERATIONS,
    apply_operations,
    check_images,
)
from noisyfit.augment._policies import any_operation, uniform

_COLOUR = (125, 123, 114)
_GREY = (123,)  # its luminance


@dataclass(frozen=True)
class FixMatchRandAugment:
    """Strong view of FixMatch: operations of any strength, then a square painted over.

    Each image draws `n_ops` of the 14 operations of `RandAugment`, each with a strength uniform
    over its range: factor 0.05 to 0.95 for brightness, colour, contrast and sharpness, rotation up
    to 30 degrees, shear and shift up to 0.3 (of the side), 4 to 7 bits, threshold 0 to 256. A
    square of a side uniform between 0 and half the width, its middle anywhere in the image, is
    then painted in one colour (Cutout). "RandAugment" in the code of AugDesc means this view.

    Parameters
    ----------
    n_ops : int, default=1
        Operations per image.
    fill : int, default=128
        Grey value, 0 to 255, of what shears, shifts and rotations bring in from outside.

    Raises
    ------
    TypeError, ValueError
        If `n_ops` is no integer or negative, or `fill` no integer from 0 to 255.

    See Also
    --------
    AutoAugment : Its notes on images hold here too.

    Notes
    -----
    The strength of RandAugment, M, has no effect in that code and is no parameter here. Shifts are
    whole pixels. A pixel is painted if its middle lies in the square.

    References
    ----------
    Sohn et al., "FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence",
    NeurIPS 2020.

    Nishi, Ding, Rich, Höllerer, "Augmentation Strategies for Learning with Noisy Labels",
    CVPR 2021.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import FixMatchRandAugment
    >>> x = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    >>> FixMatchRandAugment()(x, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 32, 32])
    """

    n_ops: int = 1
    fill: int = 128

    def __post_init__(self):
        check_integer(self.n_ops, "n_ops", 0)
        check_integer(self.fill, "fill", 0, 255)

    def draw(self, n_images, height, width, generator):
        """Draw operations and magnitudes for `apply_operations`, squares for `paint_squares`."""
        draws = uniform(generator, 2 * self.n_ops + 3, n_images)
        which, share, (y, x, side) = np.split(draws, [self.n_ops, 2 * self.n_ops])
        operations = any_operation(which)
        low, high = _ranges(height, width)[:, operations]
        side = side * width / 2
        squares = np.stack([y * height - side / 2, x * width - side / 2, side])
        return operations, low + (high - low) * share, squares

    def __call__(self, x, generator):
        """View of images (batch, channels, height, width), uint8 being the fastest."""
        check_images(x)
        operations, magnitudes, squares = self.draw(len(x), *x.shape[2:], generator)
        x = apply_operations(x, operations, magnitudes, self.fill, reuse=False)
        return paint_squares(x, squares)


def _ranges(height, width):
    """Least and largest magnitude of each operation, float64 array (2, operations)."""
    ends = {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30}
    ends |= {"TranslateX": 0.3 * width, "TranslateY": 0.3 * height}
    ranges = {name: (-end, end) for name, end in ends.items()}
    ranges |= dict.fromkeys(ENHANCEMENTS, (-0.95, -0.05))  # factors less one
    ranges |= {"Posterize": (4, 8), "Solarize": (0, 256)}
    table = np.zeros((2, len(OPERATIONS)))
    for name, pair in ranges.items():
        table[:, CODE[name]] = pair
    return table


def paint_squares(x, squares):
    """Paint a square over each image, in place.

    Parameters
    ----------
    x : tensor of shape (n, channels, height, width)
    squares : array of shape (3, n)
        Top, left and side in pixels; pixels whose middle lies inside are painted.

    Returns
    -------
    `x`
    """
    top, left, side = torch.from_numpy(squares).float().to(x.device, non_blocking=True).unsqueeze(2)
    middles = [torch.arange(size, device=x.device) + 0.5 for size in x.shape[2:]]
    rows, columns = (
        (start <= middle) & (middle < start + side)
        for start, middle in zip((top, left), middles, strict=True)
    )
    painted = (rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1).to(x.dtype)
    unit = 1 if x.dtype == torch.uint8 else 255
    colour = torch.tensor(_COLOUR if x.shape[1] == 3 else _GREY).div(unit).to(x.dtype)
    colour = colour.view(1, -1, 1, 1).to(x.device, non_blocking=True)
    return x.mul_(1 - painted).add_(colour * painted)  # faster than torch.where
