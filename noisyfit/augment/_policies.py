"""AutoAugment and RandAugment on whole batches, drawn per image."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from noisyfit._checks import check_integer, is_one_of
from noisyfit.augment._draws import on_host
from noisyfit.augment._operations import (
    CODE,
    OPERATIONS,
    SIGNED,
    apply_operations,
    check_images,
)

_DATA_SETS = ("cifar10", "imagenet", "svhn")
_IS_SIGNED = np.isin(OPERATIONS, SIGNED)
_RAND_AUGMENT = np.array([CODE[name] for name in OPERATIONS if name != "Invert"])


class _Policy:
    def __call__(self, x, generator):
        """View of images (batch, channels, height, width), uint8 being the fastest."""
        check_images(x)
        return apply_operations(x, *self.draw(len(x), *x.shape[2:], generator), self.fill)


@dataclass(frozen=True)
class AutoAugment(_Policy):
    """Strong view of AutoAugment: two operations per image, from a table that a search found.

    Each image draws one of 25 sub-policies; each of its two operations happens with the
    probability and the strength of the table, in a random direction.

    Parameters
    ----------
    policy : {"cifar10", "imagenet", "svhn"}, default="cifar10"
        The data set that the table was found for.
    fill : int, default=128
        Grey value, 0 to 255, of what shears, shifts and rotations bring in from outside.

    Raises
    ------
    TypeError, ValueError
        If `policy` is unknown or `fill` no integer from 0 to 255.

    See Also
    --------
    Chain : Crop and flip come first, ``Chain(CropFlip(), AutoAugment())``.

    Notes
    -----
    Images have 1 or 3 channels and are uint8, or floating in [0, 1]; another range raises on a CPU
    and is not looked for on an accelerator. On uint8 images the operations are those of
    ``torchvision.transforms.v2`` to the bit. Floats are rounded, to 256 values, by Equalize only.

    The code used in papers on noisy labels differs from torchvision's, which is followed here:
    there, shears interpolate (nearest pixel here), the threshold of Solarize falls from 256 (255)
    and rotations go one way only (either). Grey from outside is that of the papers' code, where
    torchvision has black.

    References
    ----------
    Cubuk, Zoph, Mané, Vasudevan, Le, "AutoAugment: Learning Augmentation Strategies from Data",
    CVPR 2019.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import AutoAugment
    >>> x = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    >>> AutoAugment()(x, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 3, 32, 32])
    """

    policy: str = "cifar10"
    fill: int = 128

    def __post_init__(self):
        if not is_one_of(self.policy, _DATA_SETS):
            raise ValueError(f"policy must be one of {_DATA_SETS}, got {self.policy!r}.")
        check_integer(self.fill, "fill", 0, 255)

    def draw(self, n_images, height, width, generator):
        """Draw operations and magnitudes (n_ops, n_images) for `apply_operations`."""
        codes, probability, magnitude = _auto_augment_table(self.policy, height, width)
        draws = uniform(generator, 5, n_images)
        chosen = (draws[0] * len(codes)).astype(int)
        fires = draws[1:3] < probability[chosen].T
        operations = np.where(fires, codes[chosen].T, CODE["Identity"])
        return operations, _with_sign(magnitude[chosen].T, operations, draws[3:])


@dataclass(frozen=True)
class RandAugment(_Policy):
    """Strong view of RandAugment: some operations per image, all at one strength.

    Each image draws `n_ops` of 14 operations, with replacement: identity, auto-contrast, equalise,
    rotate, solarise, colour, posterise, contrast, brightness, sharpness, and shear and shift along
    either side; where it makes sense in a random direction.

    Parameters
    ----------
    n_ops : int, default=2
        Operations per image, N of the paper.
    magnitude : int, default=9
        Common strength from 0 to ``n_bins - 1``, M of the paper.
    n_bins : int, default=31
        Number of strengths between nothing and the most of each operation.
    fill : int, default=128
        Grey value, 0 to 255, of what shears, shifts and rotations bring in from outside.

    Raises
    ------
    TypeError, ValueError
        If a parameter is no integer or outside its range.

    See Also
    --------
    AutoAugment : Its notes on images and on what differs from the papers hold here too.

    References
    ----------
    Cubuk, Zoph, Shlens, Le, "RandAugment: Practical Automated Data Augmentation with a Reduced
    Search Space", CVPR Workshops 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import Chain, CropFlip, RandAugment
    >>> view = Chain(CropFlip(padding=4), RandAugment(magnitude=5))
    >>> x = torch.randint(256, (4, 3, 32, 32), dtype=torch.uint8)
    >>> view(x, torch.Generator().manual_seed(0)).dtype
    torch.uint8
    """

    n_ops: int = 2
    magnitude: int = 9
    n_bins: int = 31
    fill: int = 128

    def __post_init__(self):
        check_integer(self.n_ops, "n_ops", 0)
        check_integer(self.n_bins, "n_bins", 2)
        check_integer(self.magnitude, "magnitude", 0, self.n_bins - 1)
        check_integer(self.fill, "fill", 0, 255)

    def draw(self, n_images, height, width, generator):
        """Draw operations and magnitudes (n_ops, n_images) for `apply_operations`."""
        magnitudes = _magnitudes(self.n_bins, height, width)[:, self.magnitude]
        draws = uniform(generator, 2, self.n_ops, n_images)
        operations = any_operation(draws[0])
        return operations, _with_sign(magnitudes[operations], operations, draws[1])


def any_operation(draws):
    """Codes of the operations of RandAugment, from uniform draws."""
    return _RAND_AUGMENT[(draws * len(_RAND_AUGMENT)).astype(int)]


def uniform(generator, *shape):
    """Uniform draws from [0, 1) as float64 array; on the host, where images are grouped."""
    return torch.rand(shape, generator=on_host(generator), dtype=torch.float64).numpy()


def _with_sign(magnitudes, operations, draws):
    return np.where(_IS_SIGNED[operations] & (draws < 0.5), -magnitudes, magnitudes)


@lru_cache(maxsize=32)
def _magnitudes(n_bins, height, width):
    """Strengths, float64 array (operations, n_bins), in the float32 steps of torchvision."""
    table = np.zeros((len(OPERATIONS), n_bins))
    most = dict.fromkeys(SIGNED, 0.9) | {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
    most |= {"TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height}
    for name, value in most.items():
        table[CODE[name]] = torch.linspace(0, value, n_bins)
    table[CODE["Posterize"]] = (8 - torch.arange(n_bins) / ((n_bins - 1) / 4)).round()
    table[CODE["Solarize"]] = 255 * torch.linspace(1, 0, n_bins).double()
    return table


@lru_cache(maxsize=32)
def _auto_augment_table(policy, height, width):
    """Codes, probabilities and magnitudes of the sub-policies, arrays of shape (25, 2)."""
    from torchvision import transforms  # slow to import, and needed here only

    rows = transforms.AutoAugment(transforms.AutoAugmentPolicy(policy)).policies
    codes = np.array([[CODE[name] for name, _, _ in row] for row in rows])
    probability = np.array([[p for _, p, _ in row] for row in rows])
    strength = np.array([[step or 0 for _, _, step in row] for row in rows])
    return codes, probability, _magnitudes(10, height, width)[codes, strength]
