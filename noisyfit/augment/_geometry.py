"""Shear, shift and turn each image of a batch by its own amount, with nearest neighbours.

Where an image reads its pixels from is a row of indices. torchvision's arithmetic decides it, so
that ties fall to the same side, and policies with fixed strengths keep the rows.
"""

from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def move(x, names, magnitudes, fill, reuse):
    """Images moved, each by its own operation.

    Parameters
    ----------
    x : tensor of shape (n, channels, height, width)
    names, magnitudes : arrays of shape (n,)
        See `inverse_matrices`.
    fill : number
        What comes in from outside.
    reuse : bool
        Whether the magnitudes are few and come again, so that their indices are kept.
    """
    height, width = x.shape[2:]
    if reuse:
        pairs = zip(names.tolist(), magnitudes.tolist(), strict=True)
        index = torch.stack([_kept(*pair, height, width, x.device) for pair in pairs])
    else:
        index = source_index(inverse_matrices(names, magnitudes, height, width), x)
    source = F.pad(x.flatten(2), (1, 0), value=fill)  # (n, channels, 1 + n_pixels)
    return source.gather(2, index.unsqueeze(1).expand(-1, x.shape[1], -1)).view(x.shape)


@lru_cache(maxsize=64)
def _kept(name, magnitude, height, width, device):
    matrix = inverse_matrices(np.array([name]), np.array([magnitude]), height, width)
    index = source_index(matrix, torch.empty(1, 1, height, width)).squeeze(0)
    return index.to(device, non_blocking=True)


def inverse_matrices(names, magnitudes, height, width):
    """Where a pixel comes from: (x, y) = matrix @ (x', y', 1), counted from the middle.

    Parameters
    ----------
    names : array of shape (n,)
        Members of `GEOMETRIC`.
    magnitudes : float64 array of shape (n,)
        Shear as a share, against the upper left corner; shift in pixels, cut to an integer;
        angle in degrees, counter-clockwise.

    Returns
    -------
    float64 array of shape (n, 2, 3)
    """
    matrices = np.zeros((len(names), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = 1
    shear_x, shear_y, shift_x, shift_y, turn = (names == name for name in GEOMETRIC)
    m = magnitudes
    matrices[shear_x, 0, 1], matrices[shear_x, 0, 2] = m[shear_x], m[shear_x] * height / 2
    matrices[shear_y, 1, 0], matrices[shear_y, 1, 2] = m[shear_y], m[shear_y] * width / 2
    matrices[shift_x, 0, 2] = -np.trunc(m[shift_x])
    matrices[shift_y, 1, 2] = -np.trunc(m[shift_y])
    angle = np.radians(m[turn])
    matrices[turn, 0, 0] = matrices[turn, 1, 1] = np.cos(angle)
    matrices[turn, 0, 1], matrices[turn, 1, 0] = -np.sin(angle), np.sin(angle)
    return matrices


def source_index(matrices, like):
    """Pixel of the input that each pixel reads, from 1 on; 0 is outside.

    Parameters
    ----------
    matrices : array of shape (n, 2, 3)
    like : tensor of shape (..., height, width)
        Gives size and device.

    Returns
    -------
    int64 tensor of shape (n, height * width)
    """
    height, width = like.shape[-2:]
    options = {"dtype": torch.float32, "device": like.device}
    x = torch.linspace((1 - width) / 2, (width - 1) / 2, width, **options)
    y = torch.linspace((1 - height) / 2, (height - 1) / 2, height, **options).unsqueeze(1)
    half = np.array([[width / 2], [height / 2]], dtype=np.float32)  # grid_sample counts in these
    theta = torch.from_numpy(matrices.astype(np.float32) / half).to(like.device, non_blocking=True)
    of_x, of_y, offset = theta[..., None, None].unbind(2)  # (n, 2, 1, 1), for x and for y
    # A sum by addcmul is rounded like torchvision's matrix product, which autocast would cut down.
    grid = torch.addcmul(of_x * x, of_y, y).add_(offset).permute(0, 2, 3, 1)
    # Sampling the numbers of the pixels, which float32 holds exactly up to 2**24 of them
    numbers = torch.arange(1, height * width + 1, **options).view(1, 1, height, width)
    numbers = numbers.expand(len(grid), -1, -1, -1)
    return F.grid_sample(numbers, grid, mode="nearest", align_corners=False).flatten(1).long()
