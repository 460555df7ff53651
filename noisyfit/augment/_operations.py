"""The operations of the strong policies on a batch, each image with its own operation.

Images are sorted by operation, so that one call works on all images of a kind. On uint8 images the
results are those of ``torchvision.transforms.v2.functional`` to the bit.
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
    if x.shape[1] == 1:  # grey images have no colour
        operations = np.where(operations == CODE["Color"], CODE["Identity"], operations)
    x, place = x.contiguous(), np.arange(len(x))  # the row where each image lies
    with torch.inference_mode():  # a tenth faster than without gradients only
        for codes, values in zip(operations, magnitudes, strict=True):
            order = np.argsort(codes, kind="stable")
            x = x.index_select(0, _tensor(place[order], x))
            place = np.argsort(order)
            _apply_sorted(x, codes[order], values[order], fill, reuse)
    return x.index_select(0, _tensor(place, x))  # out here, so that it can enter a network


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


def _apply_sorted(x, codes, values, fill, reuse):
    """Work in place on images sorted by their codes."""
    is_uint8 = x.dtype == torch.uint8
    ends = np.searchsorted(codes, np.arange(len(OPERATIONS) + 1))

    def rows(first, last):
        return slice(ends[CODE[first]], ends[CODE[last] + 1])

    moved, scaled = rows("ShearX", "Rotate"), rows("Brightness", "AutoContrast")
    coded, levelled = rows("Posterize", "Invert"), rows("Equalize", "Equalize")
    if moved.start < moved.stop:
        level = fill if is_uint8 else fill / 255
        x[moved] = move(x[moved], _NAMES[codes[moved]], values[moved], level, reuse)
    if scaled.start < scaled.stop:
        sizes = np.diff(ends[CODE["Brightness"] : CODE["Posterize"] + 1]).tolist()
        _scale(x[scaled], values[scaled], sizes)
    if coded.start < coded.stop:
        code = _code_uint8 if is_uint8 else _code_floating
        code(x[coded], codes[coded], values[coded])
    if levelled.start < levelled.stop:
        x[levelled] = equalize(x[levelled])


def _tensor(array, x):
    return torch.from_numpy(array).to(x.device, non_blocking=True)


def _per_image(arrays, x, dtype=np.float32):
    """Tensors of shape (n, 1, 1, 1), in one transfer."""
    return _tensor(np.array(arrays, dtype), x).view(len(arrays), -1, 1, 1, 1).unbind()


def _scale(x, magnitudes, sizes):
    """Brightness, colour, contrast, sharpness and auto-contrast, in place, `sizes` images of each.

    The first four are ``factor * x + rest * plain``, with plain the black, the grey, the mean grey
    or the blurred image. `addcmul` rounds that sum as torchvision does.
    """
    is_uint8 = x.dtype == torch.uint8
    full = x.float() if x.element_size() < 4 else x.clone()
    factor = 1 + magnitudes
    factor, rest = _per_image((factor, 1 - factor), x)
    _, _, _, sharp, auto = full.split(sizes)
    _, colour_rest, contrast_rest, sharp_rest, _ = rest.split(sizes)

    n_bright, n_colour, n_contrast, n_sharp, n_auto = sizes
    simple = full[: n_bright + n_colour + n_contrast]
    grey, grey_of_contrast = _grey(simple[n_bright:], is_uint8).split((n_colour, n_contrast))
    mean = grey_of_contrast.mean((1, 2, 3), keepdim=True)
    _, colour, contrast = simple.mul_(factor[: len(simple)]).split(sizes[:3])
    colour.addcmul_(grey, colour_rest)
    contrast.addcmul_(mean, contrast_rest)
    if n_sharp:
        _sharpen(sharp, sharp_rest, is_uint8)
    if n_auto:
        _stretch(auto, is_uint8)
    full.clamp_(0, 255 if is_uint8 else 1)
    x.copy_(full.short() if is_uint8 else full)  # float to uint8 at once is several times slower


def _sharpen(x, rest, is_uint8):
    """Blend in place with the mean of 3x3 pixels, the middle one counted five times."""
    height, width = x.shape[2:]
    if min(height, width) <= 2:
        return
    # Sums along the flat batch are fastest; those across an edge fall on pixels left as they are.
    flat, change = x.view(-1), torch.empty_like(x)
    middle = slice(width + 1, -width - 1)
    row = (flat[:-2] + flat[1:-1]).add_(flat[2:])
    square = (row[: -2 * width] + row[width:-width]).add_(row[2 * width :])
    blurred = square.add_(flat[middle], alpha=4).mul_(1 / 13)
    if is_uint8:
        blurred.round_()
    torch.sub(blurred, flat[middle], out=change.view(-1)[middle])
    x[..., 1:-1, 1:-1].addcmul_(change[..., 1:-1, 1:-1], rest)


def _stretch(x, is_uint8):
    """Spread each channel in place from black to white (auto-contrast), unless it is constant."""
    low, high = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    is_flat = low == high
    scale = (high - low).mul_(1 / 255 if is_uint8 else 1)
    x.sub_(low.masked_fill_(is_flat, 0)).div_(scale.masked_fill_(is_flat, 1))


def _grey(x, is_uint8):
    """Luminance (n, 1, height, width)."""
    if x.shape[1] == 1:
        return x.clone()
    red, green, blue = x.split(1, dim=1)
    grey = red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return grey.floor_() if is_uint8 else grey


def _code_uint8(x, codes, values):
    """Posterize, Solarize and Invert in place: drop bits, mirror what is not below a threshold."""
    is_posterize = codes == CODE["Posterize"]
    n_dropped = np.where(is_posterize, 8 - values.astype(int), 0)
    start = np.where(codes == CODE["Solarize"], np.ceil(values.astype(np.float32)), 0)
    mirrored = np.where(is_posterize | (start > 255), 0, 255)
    parameters = 256 - (1 << n_dropped), start.clip(max=255), mirrored
    kept, start, mirrored = _per_image(parameters, x, np.uint8)
    above = torch.ge(x, start, out=torch.empty_like(x))  # as 0 or 1, much faster than as bool
    x.bitwise_and_(kept).bitwise_xor_(above.mul_(mirrored))


def _code_floating(x, codes, values):
    """The same for floats from 0 to 1, where torchvision's Posterize keeps the lower levels."""
    n_posterize = np.searchsorted(codes, CODE["Solarize"])
    levels = 2.0 ** values[:n_posterize].astype(int)
    start = np.where(codes == CODE["Solarize"], values / 255, -1)[n_posterize:]
    posterize, mirror = x[:n_posterize], x[n_posterize:]
    (levels,), (start,) = _per_image([levels], x), _per_image([start], x)
    posterize.copy_((posterize * levels).floor_().minimum(levels - 1).div_(levels))
    mirror.copy_(torch.where(mirror >= start, 1 - mirror, mirror))


def equalize(x):
    """Spread the values of each channel evenly, by a table of the 256 values.

    Floating images are rounded to 256 values for it. Counts are floats, exact up to 2**24 pixels.
    """
    if x.dtype != torch.uint8:
        levels = x.clamp(0, 1).mul_(255.999).to(torch.uint8)
        return equalize(levels).to(x.dtype).mul_(1 / 255)
    index = x.flatten(2).long()  # (n, channels, n_pixels)
    counts = torch.zeros(*x.shape[:2], 256, device=x.device)
    counts.scatter_add_(2, index, counts.new_ones(1).expand_as(index))
    upto = counts.cumsum(2)
    below_last = upto.masked_fill(upto == index.shape[2], 0).amax(2, keepdim=True)
    step = below_last.div_(255).floor_()
    table = upto.sub_(counts).add_(step / 2).div_(step).clamp_(max=255)
    same = torch.arange(256.0, device=x.device)
    return torch.where(step > 0, table, same).to(torch.uint8).gather(2, index).view(x.shape)
