"""Operations on batches of images, with parameters of its own for each image."""

import torch
from torch.nn import functional as F

_GREY = (0.2989, 0.587, 0.114)  # of red, green and blue
BRIGHTNESS, CONTRAST, SATURATION = range(3)  # as indices of a factor
_WHITE = 255.0
_TO_BYTE = 255.999 / _WHITE  # truncation then gives all 256 values an equal share


def resized_crop(x, box, mirror):
    """Cut a box out of each image and stretch it to the image's size, bilinearly.

    Parameters
    ----------
    x : floating tensor of shape (batch, channels, height, width)
    box : tensor of shape (4, batch)
        Top, left, height and width.
    mirror : tensor of shape (batch,)
        1 for images to mirror left to right, else 0.

    Returns
    -------
    tensor like `x`
    """
    batch, _, height, width = x.shape
    top, left, n_rows, n_columns = box.to(x.dtype)[:, :, None]
    rows = top + _source(n_rows, height)  # (batch, height)
    columns = left + _source(n_columns, width)
    columns = torch.where(mirror[:, None] > 0, columns.flip(1), columns)
    grid = torch.empty(batch, height, width, 2, dtype=x.dtype, device=x.device)
    grid[..., 0] = ((2 * columns + 1) / width - 1)[:, None]
    grid[..., 1] = ((2 * rows + 1) / height - 1)[:, :, None]
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _source(size, n):
    """Where in a stretch of `size` pixels (batch, 1) the centres of `n` new ones lie."""
    centre = torch.arange(0.5, n, dtype=size.dtype, device=size.device)
    return ((size / n) * centre - 0.5).clamp_min_(0).minimum(size - 1)


def blend(x, factor, to_mean, to_grey, dtype):
    """Change brightness, contrast or saturation of images in place.

    ``x <- factor x + to_mean mean + to_grey grey`` with the grey of each pixel, its mean over the
    image, and coefficients (batch, 1, 1): `BRIGHTNESS` has the factor alone, the others have
    ``1 - factor`` for theirs. Images that have no colours are their own grey.
    """
    if x.shape[1] == 3:
        grey = _grey(x, dtype)
        target = torch.addcmul(to_mean * grey.mean((1, 2), keepdim=True), to_grey, grey)
    else:
        target = to_mean * x.mean((1, 2, 3))[:, None, None]
    torch.addcmul(target[:, None], factor[:, None], x, out=x)
    if dtype == torch.uint8:
        x.clamp_(0, _WHITE).floor_()


def turn_hue(x, turn, dtype):
    """Turn the hue of colour images in place, by the share `turn` (batch, 1, 1) of the circle."""
    red, green, blue = x.unbind(1)
    high = torch.maximum(red, green).maximum(blue)
    low = torch.minimum(red, green).minimum(blue)
    chroma = high - low
    # Where on the circle, red being 0 and 6, green 2 and blue 4, by the strongest of the three;
    # 0 and 1 as weights choose several times faster than torch.where.
    hue = (red - green).add_(chroma, alpha=4)
    for channel, other in (
        (green, (blue - red).add_(chroma, alpha=2)),
        (red, green - blue),
    ):
        hue.addcmul_(other.sub_(hue), torch.eq(channel, high, out=torch.empty_like(high)))
    hue.div_(chroma.clamp_min(torch.finfo(x.dtype).tiny)).add_(6 * turn)
    hue.sub_((hue / 6).floor_(), alpha=6)
    shares = (
        (hue - 3).abs_().sub_(1),
        (hue - 2).abs_().neg_().add_(2),
        (hue - 4).abs_().neg_().add_(2),
    )
    for channel, share in zip((red, green, blue), shares, strict=True):
        torch.addcmul(low, chroma, share.clamp_(0, 1), out=channel)
    if dtype == torch.uint8:
        x.mul_(_TO_BYTE).floor_()


def remove_colours(x, grey):
    """Colour images, those of the mask `grey` (batch,), which lies on the host, in grey."""
    index = grey.nonzero().flatten().to(x.device, non_blocking=True)
    images = x.index_select(0, index)
    images = _grey(images.float(), x.dtype)[:, None].expand(images.shape)
    return x.index_copy_(0, index, images.to(x.dtype))


def _grey(x, dtype):
    """Grey of colour images, (batch, height, width)."""
    red, green, blue = x.unbind(1)
    grey = (red * _GREY[0]).add_(green, alpha=_GREY[1]).add_(blue, alpha=_GREY[2])
    return grey.floor_() if dtype == torch.uint8 else grey
