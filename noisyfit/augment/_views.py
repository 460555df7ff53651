"""Weak views of images and tables."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.utils import check_scalar
from torch.nn import functional as F

from noisyfit._checks import check_integer, check_real
from noisyfit.augment._draws import where


@dataclass(frozen=True)
class CropFlip:
    """Shift each image at random and mirror half of them, the usual weak view of small images.

    Each image is surrounded with zeros, cut back to its size at a random place and, with
    probability 1/2, mirrored left to right.

    Parameters
    ----------
    padding : int, default=4
        Pixels added on each side. They are 0, so raw images (black) should be padded before
        they are normalised.
    flip : bool, default=True
        Whether images are mirrored.

    Raises
    ------
    TypeError, ValueError
        If `padding` is not an integer or negative, or `flip` not a bool.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import CropFlip
    >>> x = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    >>> CropFlip(padding=1)(x, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """

    padding: int = 4
    flip: bool = True

    def __post_init__(self):
        check_integer(self.padding, "padding", 0)
        check_scalar(self.flip, "flip", (bool, np.bool_))

    def draw(self, n_images, generator):
        """Draw (dy, dx, flip) of `crop_flip` for one batch, on the device of the generator."""
        options = where(generator)
        dy, dx = torch.randint(2 * self.padding + 1, (2, n_images), **options)
        if not self.flip:
            return dy, dx, torch.zeros_like(dy, dtype=torch.bool)
        return dy, dx, torch.rand(n_images, **options) < 0.5

    def __call__(self, x, generator):
        """View of images (batch, channels, height, width), uint8 being the fastest."""
        dy, dx, flip = (draw.to(x.device) for draw in self.draw(len(x), generator))
        return crop_flip(x, dy, dx, flip, self.padding)


def crop_flip(x, dy, dx, flip, padding):
    """Pad a batch with zeros, cut each image out at its own place, mirror some.

    Parameters
    ----------
    x : tensor of shape (batch, channels, height, width)
    dy, dx : int64 tensors of shape (batch,)
        Rows and columns skipped in the padded image, 0 to ``2 * padding`` (not checked, which
        would stop the device).
    flip : bool tensor of shape (batch,)
        Images to mirror left to right, after the cut.
    padding : int
        Zero pixels added on each side.

    Returns
    -------
    tensor like `x`

    Raises
    ------
    ValueError
        If `x` is not a batch of images.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import crop_flip
    >>> x = torch.tensor([[[[1, 2], [3, 4]]]])
    >>> one = torch.tensor([1])
    >>> crop_flip(x, dy=0 * one, dx=one, flip=one > 1, padding=1).tolist()
    [[[[0, 0], [1, 2]]]]
    >>> crop_flip(x, dy=one, dx=one, flip=one > 0, padding=1).tolist()
    [[[[2, 1], [4, 3]]]]
    """
    if x.ndim != 4:
        raise ValueError(f"Expected images (batch, channels, height, width), got {tuple(x.shape)}.")
    batch, channels, height, width = x.shape
    padded = F.pad(x, [padding] * 4)
    n_rows, n_columns = padded.shape[2:]
    # Every pixel of the padded batch starts a row of `width` pixels; copy the rows that are wanted.
    plane = n_rows * n_columns * torch.arange(batch * channels, device=x.device)
    row = n_columns * torch.arange(height, device=x.device)
    corner = n_columns * dy + dx
    start = plane.view(batch, channels, 1) + corner.view(batch, 1, 1) + row
    rows = padded.flatten().unfold(0, width, 1)  # (n_pixels - width + 1, width), a view
    cut = rows.index_select(0, start.flatten()).view(x.shape)
    # Choosing among both mirrorings copies whole images, several times faster than torch.where.
    both = torch.cat([cut, cut.flip(3)])
    return both.index_select(0, torch.arange(batch, device=x.device) + batch * flip)


@dataclass(frozen=True)
class FeatureNoise:
    """Add Gaussian noise to every entry, a weak view for tables.

    Parameters
    ----------
    std : float, default=0.1
        Standard deviation of the noise in the units of the columns; the default suits
        standardised columns.

    Raises
    ------
    TypeError, ValueError
        If `std` is not a number, negative or not finite.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import FeatureNoise
    >>> x = torch.zeros(1000, 4)
    >>> round(FeatureNoise(std=0.5)(x, torch.Generator().manual_seed(0)).std().item(), 1)
    0.5
    """

    std: float = 0.1

    def __post_init__(self):
        check_real(self.std, "std", 0)

    def __call__(self, x, generator):
        """View of a floating table (batch, n_features)."""
        if not x.is_floating_point():
            raise TypeError(f"FeatureNoise needs a floating table, got {x.dtype}; convert it.")
        noise = torch.randn(x.shape, dtype=x.dtype, **where(generator))
        return x + self.std * noise.to(x.device)
