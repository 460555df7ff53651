"""Views for contrastive learning: crops and colours of images, entries of tables."""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from sklearn.utils import check_scalar

from noisyfit._checks import check_real
from noisyfit.augment._draws import on_host, where
from noisyfit.augment._pixels import (
    CONTRAST,
    SATURATION,
    blend,
    remove_colours,
    resized_crop,
    turn_hue,
)

_TRIES = 10  # boxes drawn before the largest central one is taken
_NEVER = 4  # as a place of the hue: no jitter at all


class SimCLRDraws(NamedTuple):
    """What `SimCLRView` drew for each image of a batch; tensors on the host."""

    box: torch.Tensor  # (4, n) top, left, height, width in pixels
    mirror: torch.Tensor  # (n,) bool
    factors: torch.Tensor  # (n, 3) of brightness, contrast and saturation
    order: torch.Tensor  # (n, 3) in which these are applied
    turn: torch.Tensor  # (n,) share of the colour circle by which the hue turns
    place: torch.Tensor  # (n,) how many of the three come before the hue; 4: no jitter
    grey: torch.Tensor  # (n,) bool


@dataclass(frozen=True)
class SimCLRView:
    """Random crop, mirroring, colour jitter and greyscale: the view of SimCLR, without blur.

    A box of random area and shape is cut out and stretched back to the size of the image; the
    image is mirrored with probability 1/2; brightness, contrast, saturation and hue change in
    random order, in some images; some lose their colours. Images without three channels are
    cropped and mirrored, and only their brightness and contrast change.

    Parameters
    ----------
    scale : tuple of two floats in (0, 1], default=(0.2, 1.0)
        Smallest and largest share of the image's area in the box.
    ratio : tuple of two floats above 0, default=(3 / 4, 4 / 3)
        Smallest and largest width of the box over its height.
    jitter : tuple of four floats, default=(0.4, 0.4, 0.4, 0.1)
        How far brightness, contrast and saturation change, by factors between ``1 - jitter`` (at
        least 0) and ``1 + jitter``, and by which share of the colour circle (at most 0.5) the hue
        turns, either way.
    jitter_probability : float in [0, 1], default=0.8
        Share of images whose colours change.
    grey_probability : float in [0, 1], default=0.2
        Share of images that lose their colours.
    flip : bool, default=True
        Whether images are mirrored; for digits and letters they should not be.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or lies outside its range.

    Notes
    -----
    The distribution is that of torchvision's ``RandomResizedCrop``, ``RandomHorizontalFlip``,
    ``ColorJitter`` and ``RandomGrayscale`` on each image by itself, and uint8 images are rounded
    after each step as there. Floating images may have any scale, so that nothing is clipped.

    References
    ----------
    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import SimCLRView
    >>> x = torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)
    >>> SimCLRView()(x, torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3, 8, 8])
    """

    scale: tuple = (0.2, 1.0)
    ratio: tuple = (3 / 4, 4 / 3)
    jitter: tuple = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = 0.8
    grey_probability: float = 0.2
    flip: bool = True

    def __post_init__(self):
        _check_range(self.scale, "scale", 1)
        _check_range(self.ratio, "ratio", None)
        _check_tuple(self.jitter, "jitter", 4)
        for amount in self.jitter:
            check_real(amount, "jitter", 0)
        check_real(self.jitter[3], "jitter of the hue", 0, 0.5)
        check_real(self.jitter_probability, "jitter_probability", 0, 1)
        check_real(self.grey_probability, "grey_probability", 0, 1)
        check_scalar(self.flip, "flip", (bool, np.bool_))

    def draw(self, n_images, height, width, generator):
        """Draw `SimCLRDraws` for one batch, on the host."""
        generator = on_host(generator)
        box = draw_boxes(n_images, height, width, self.scale, self.ratio, generator)
        mirror, jittered, grey, hue, place = torch.rand(5, n_images, generator=generator)
        order = torch.rand(n_images, 3, generator=generator).argsort(1)
        low = torch.tensor([max(0.0, 1 - amount) for amount in self.jitter[:3]])
        high = torch.tensor([1.0 + amount for amount in self.jitter[:3]])
        return SimCLRDraws(
            box,
            mirror < 0.5 if self.flip else torch.zeros(n_images, dtype=torch.bool),
            torch.rand(n_images, 3, generator=generator) * (high - low) + low,
            order,
            (2 * hue - 1) * self.jitter[3],
            torch.where(jittered < self.jitter_probability, (4 * place).long(), _NEVER),
            grey < self.grey_probability,
        )

    def __call__(self, x, generator):
        """View of images (batch, channels, height, width), uint8 or floating."""
        if x.ndim != 4:
            shape = tuple(x.shape)
            raise ValueError(f"Expected images (batch, channels, height, width), got {shape}.")
        return simclr_view(x, self.draw(len(x), *x.shape[2:], generator))


@torch.no_grad()
def simclr_view(x, draws):
    """Apply `SimCLRDraws` to a batch.

    Images are sorted by the place of the hue among the other changes, so that each change is made
    at once in all images that it is to be made in.
    """
    has_colours, device = x.shape[1] == 3, x.device
    sorting = draws.place.argsort()
    stops = torch.bincount(draws.place, minlength=_NEVER + 1).cumsum(0).tolist()
    numbers = torch.cat(
        [draws.box, draws.mirror[None], draws.turn[None], coefficients(draws, has_colours)]
    )
    numbers = numbers[:, sorting].to(device, non_blocking=True)
    box, mirror, numbers = numbers[:4], numbers[4], numbers[5:, :, None, None]
    images = x.index_select(0, sorting.to(device, non_blocking=True))
    images = resized_crop(images.float(), box, mirror)
    if x.dtype == torch.uint8:
        images.round_()
    turn, *changes = numbers.split([1, 3, 3, 3])
    for place, (start, stop) in enumerate(pairwise([0, *stops[:_NEVER]])):
        if has_colours and stop > start:
            turn_hue(images[start:stop], turn[0, start:stop], x.dtype)
        if place < 3:
            jittered = slice(stops[_NEVER - 1])
            blend(images[jittered], *(c[place, jittered] for c in changes), x.dtype)
    images = images.to(x.dtype).index_select(0, sorting.argsort().to(device, non_blocking=True))
    return remove_colours(images, draws.grey) if has_colours else images


def coefficients(draws, has_colours):
    """``factor``, ``to_mean`` and ``to_grey`` of `blend`, each in the order drawn: (9, n)."""
    step = draws.order.T
    factor = draws.factors.T.gather(0, step)
    if not has_colours:
        factor = torch.where(step == SATURATION, 1, factor)
    rest = 1 - factor
    return torch.cat([factor, rest * (step == CONTRAST), rest * (step == SATURATION)])


def draw_boxes(n, height, width, scale, ratio, generator):
    """Boxes to cut out: (4, n) float32 of top, left, height and width, whole numbers.

    Area and logarithm of the ratio are uniform; what does not fit is drawn again, and after ten
    tries it is the largest box in the middle that the ratios allow.
    """
    u = torch.rand(2 * _TRIES + 2, n, dtype=torch.float64, generator=generator)
    area, ratios, corner = u.split([_TRIES, _TRIES, 2])
    area = torch.lerp(*_ends(scale), area) * (height * width)
    ratios = torch.lerp(*_ends(ratio).log(), ratios).exp()
    sizes = torch.stack([(area / ratios).sqrt(), (area * ratios).sqrt()]).round()  # (2, tries, n)
    full = torch.tensor([height, width], dtype=sizes.dtype)[:, None]
    fits = ((sizes > 0) & (sizes <= full[:, None])).all(0)  # (tries, n)
    first = fits.to(torch.uint8).argmax(0)  # the first that fits
    size = sizes[:, first, torch.arange(n)]  # (2, n)
    central = torch.tensor(central_box(height, width, ratio), dtype=sizes.dtype)[:, None]
    fits = fits.any(0)
    size = torch.where(fits, size, central)
    room = full - size
    corner = torch.where(fits, (corner * (room + 1)).floor(), (room / 2).floor())
    return torch.cat([corner.minimum(room), size]).float()


def central_box(height, width, ratio):
    """Height and width of the largest box whose ratio is allowed."""
    if width < ratio[0] * height:
        return max(1, round(width / ratio[0])), width
    if width > ratio[1] * height:
        return height, max(1, round(height * ratio[1]))
    return height, width


def _ends(pair):
    return torch.tensor(pair, dtype=torch.float64)


def _check_tuple(value, name, length):
    if not isinstance(value, tuple) or len(value) != length:
        raise TypeError(f"{name} must be a tuple of {length} numbers, got {value!r}.")


def _check_range(value, name, largest):
    """Refuse what is no pair of numbers above 0 in rising order."""
    _check_tuple(value, name, 2)
    for bound in value:
        check_real(bound, name, 0, largest, closed="right" if largest else "neither")
    if value[0] > value[1]:
        raise ValueError(f"{name} must be (smallest, largest), got {value!r}.")


@dataclass(frozen=True)
class FeatureCorruption:
    """Replace entries of a table by those of other rows in the same column.

    Each entry by itself is replaced with a probability of `share`, by that of a row of the batch
    which is drawn for it alone. A column keeps its distribution, whatever its scale and whether or
    not it is continuous; what suffers is how the columns of a row go together.

    Parameters
    ----------
    share : float in [0, 1], default=0.3
        Of the entries that are replaced.

    Raises
    ------
    TypeError, ValueError
        If `share` is not a number or outside [0, 1].

    Notes
    -----
    The paper replaces the same number of entries in every row, 60 % of them, and draws from all
    rows of the training data. A batch of one row stays as it is.

    References
    ----------
    Bahri, Jiang, Tay, Metzler, "SCARF: Self-Supervised Contrastive Learning using Random Feature
    Corruption", ICLR 2022.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import FeatureCorruption
    >>> x = torch.tensor([[0.0, 10.0], [1.0, 11.0]])
    >>> FeatureCorruption(share=1.0)(x, torch.Generator().manual_seed(0))
    tensor([[ 1., 11.],
            [ 0., 10.]])
    """

    share: float = 0.3

    def __post_init__(self):
        check_real(self.share, "share", 0, 1)

    def __call__(self, x, generator):
        """View of a table (batch, n_features)."""
        options = where(generator)
        if x.ndim != 2:
            raise ValueError(f"Expected a table (batch, n_features), got {tuple(x.shape)}.")
        n = len(x)
        if n < 2:
            return x
        replaced = torch.rand(x.shape, **options) < self.share
        step = torch.randint(1, n, x.shape, **options).to(x.device)  # never to the row itself
        other = (torch.arange(n, device=x.device)[:, None] + step) % n
        return torch.where(replaced.to(x.device), x.gather(0, other), x)
