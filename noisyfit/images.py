"""Image files as a data set of uint8 tensors."""

import operator
import os

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

__all__ = ["ImageFiles"]


class ImageFiles(Dataset):
    """Images that stay on disk until they are asked for.

    Every item is one decoded image, without augmentation or normalisation, which belong to whole
    batches on the device. Copies for loader workers carry only the paths.

    Parameters
    ----------
    paths : sequence of str or path
        Image files in any format that Pillow reads.
    size : int or tuple (height, width), optional
        An int resizes the shorter side to it and crops the centre square; a tuple resizes to it
        exactly. Without it images keep their sizes, which then must be equal to form a batch.
    y : sequence of length n_samples, optional
        Labels, kept beside the paths as the attribute `y`.

    Attributes
    ----------
    paths : list of str
        The files, in the order of the items.

    Raises
    ------
    TypeError
        For a single path instead of a sequence.
    ValueError
        For a size that is not positive, or labels that do not match the paths. On access, for a
        file that cannot be read: the message names it.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from noisyfit.images import ImageFiles
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (40, 30), "red").save(f"{folder}/red.png")
    ...     images = ImageFiles([f"{folder}/red.png"], size=8)
    ...     red = images[0]
    >>> red.shape, red.dtype, red[:, 0, 0].tolist()
    (torch.Size([3, 8, 8]), torch.uint8, [255, 0, 0])
    """

    def __init__(self, paths, size=None, y=None):
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"paths must be a sequence of paths, got the single path {paths!r}.")
        self.paths = [os.fspath(path) for path in paths]
        self.size = _check_size(size)
        if y is not None and len(y) != len(self.paths):
            raise ValueError(f"y has {len(y)} labels for {len(self.paths)} paths.")
        self.y = y

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        """Return image `index` as a uint8 tensor (3, H, W), channels red, green, blue."""
        path = self.paths[operator.index(index)]
        try:
            image = read_rgb(path)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"The image file {path!r} could not be read: {error}") from error
        if self.size is not None:
            image = _resized(image, self.size)
        return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())

    def __repr__(self):
        return f"ImageFiles({len(self)} paths, size={self.size})"


def read_rgb(file):
    """Return the decoded image of a path or binary file as a Pillow image in RGB."""
    with Image.open(file) as image:
        return image.convert("RGB")


def _check_size(size):
    sides = size if isinstance(size, (tuple, list)) else (size, size)
    if size is None:
        return None
    if len(sides) != 2 or not all(isinstance(s, (int, np.integer)) and s > 0 for s in sides):
        raise ValueError(f"size must be a positive int or (height, width), got {size!r}.")
    return tuple(sides) if isinstance(size, (tuple, list)) else size


def _resized(image, size):
    """Return the image at (height, width), or its centre square of side `size`."""
    if isinstance(size, tuple):
        return image.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    # the roundings of torchvision's Resize and CenterCrop, so that pixels agree with theirs
    width, height = (int(size * side / min(image.size)) for side in image.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return image.crop((left, top, left + size, top + size))
