"""What the caller may pass as X and y, and how it becomes numbers for a network."""

import os

import numpy as np
import torch
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, validate_data
from torch.utils.data import Dataset

from noisyfit.images import ImageFiles

_CHANNELS = (1, 3, 4)
_FLOATS = (np.float64, np.float32)
_STATISTICS_ROWS = 512  # of a streamed data set, read once to find mean and deviation


def validate_X(estimator, X, reset):
    """Check `X` and return a float table (n, d), an image tensor (n, C, H, W) or a `Dataset`.

    Sets ``n_features_in_``, ``feature_names_in_`` and ``_image_layout`` when `reset`, and
    compares with them otherwise.
    """
    if isinstance(X, Dataset):
        return X
    if isinstance(X, list | tuple) and X and isinstance(X[0], str | os.PathLike):
        return ImageFiles(X)
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).numpy()
    elif isinstance(X, list | tuple) and X and np.ndim(X[0]) in (2, 3):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) in (3, 4):
        return _validate_images(estimator, X, reset)
    if not reset and getattr(estimator, "_image_layout", None) is not None:
        raise ValueError(
            f"{type(estimator).__name__} was fitted on images and is expecting them as "
            f"(n, C, H, W) or (n, H, W, C); got an array with {np.ndim(X)} dimension(s)."
        )
    table = validate_data(
        estimator, X, reset=reset, dtype=_FLOATS, ensure_min_samples=2 if reset else 1
    )
    if reset:
        estimator._image_layout = None
    return table


def _validate_images(estimator, X, reset):
    X = check_array(
        X,
        dtype=None if getattr(X, "dtype", None) == np.uint8 else [np.float32],
        ensure_2d=False,
        allow_nd=True,
        ensure_min_samples=2 if reset else 1,
        estimator=estimator,
        input_name="X",
    )
    layout = _image_layout(X.shape)
    if reset:
        estimator._image_layout = layout
        estimator.n_features_in_ = int(np.prod(X.shape[1:]))
    elif layout != getattr(estimator, "_image_layout", None):
        expected = getattr(estimator, "_image_layout", None)
        what = "a 2D table" if expected is None else f"images of shape (C, H, W) = {expected[1]}"
        raise ValueError(
            f"X has shape {X.shape}, but {type(estimator).__name__} is expecting {what} as input."
        )
    images = torch.from_numpy(np.ascontiguousarray(X) if X.flags.writeable else X.copy())
    kind, shape = layout
    if kind == "last":
        images = images.permute(0, 3, 1, 2).contiguous()
    return images.reshape(len(images), *shape)


def _image_layout(shape):
    """Which axis holds the channels, and the shape (C, H, W) of one image."""
    if len(shape) == 3:
        return "none", (1, *shape[1:])
    if shape[1] not in _CHANNELS and shape[3] in _CHANNELS:
        return "last", (shape[3], shape[1], shape[2])
    return "first", tuple(shape[1:])


def validate_y(estimator, X, y, classes=None):
    """Codes int64 (n,) and classes of the labels, which are read from a `Dataset` if `y` is None.

    Known `classes` may be given; labels outside of them are then refused.
    """
    if y is None and isinstance(X, Dataset):
        y = _labels_of(X)
    if y is None:
        raise ValueError(
            f"{type(estimator).__name__} requires y to be passed, but the target y is None."
        )
    if isinstance(y, torch.Tensor):
        y = y.detach().cpu().numpy()
    y = column_or_1d(y, warn=True)
    y = check_array(y, dtype=None, ensure_2d=False, input_name="y", estimator=estimator)
    check_consistent_length(X, y)
    check_classification_targets(y)
    if classes is None:
        classes, codes = np.unique(y, return_inverse=True)
    else:
        codes = np.searchsorted(classes, y).clip(max=len(classes) - 1)
        if (classes[codes] != y).any():
            unknown = np.unique(y[classes[codes] != y])
            raise ValueError(f"y_val contains labels that y lacks: {unknown[:10]}.")
    return codes.reshape(-1).astype(np.int64), classes


def _labels_of(dataset):
    for name in ("targets", "labels", "y"):
        labels = getattr(dataset, name, None)
        if labels is not None:
            return np.asarray(labels)
    first = dataset[0]
    if not isinstance(first, tuple | list) or len(first) < 2:
        return None
    return np.asarray([np.asarray(dataset[i][1]).item() for i in range(len(dataset))])


def item_tensor(item):
    """The input of one item of a `Dataset` as a tensor; images become (C, H, W)."""
    x = item[0] if isinstance(item, tuple | list) else item
    if isinstance(x, torch.Tensor):
        return x
    array = np.asarray(x)
    if array.ndim == 2 and array.dtype == np.uint8:
        array = array[:, :, None]
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if tensor.ndim == 3 and tensor.shape[-1] in _CHANNELS and tensor.shape[0] not in _CHANNELS:
        tensor = tensor.permute(2, 0, 1)
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


class InputScale:
    """Scaling to zero mean and unit variance, learnt from the training rows.

    Tables are scaled on the host in their own precision, before they become float32; images
    stay uint8 on the device and are scaled batch by batch. `normalize` is ``"auto"`` (the
    statistics of the training rows), None (uint8 is divided by 255, nothing else) or a pair
    (mean, std) in units of the network's input (uint8 images: of the range 0 to 1).
    """

    def __init__(self, X, normalize):
        self.is_table = isinstance(X, np.ndarray)
        sample = _sample(X)
        self.shape = tuple(sample.shape[1:])
        is_uint8 = not self.is_table and sample.dtype == torch.uint8
        unit = 255.0 if is_uint8 else 1.0
        if normalize is None:
            mean, std = 0.0, 1.0
        elif isinstance(normalize, str):
            mean, std = self._statistics(sample, unit, isinstance(X, Dataset))
        else:
            mean, std = (np.asarray(part, dtype=np.float64) for part in normalize)
        self.mean, self.scale = mean * unit, 1 / (std * unit)

    def _statistics(self, sample, unit, streamed):
        if self.is_table:
            std = sample.std(axis=0, dtype=np.float64)
            return sample.mean(axis=0, dtype=np.float64), np.where(std > 0, std, 1.0)
        if streamed and sample.dtype != torch.uint8:
            return 0.0, 1.0  # floats from a data set were scaled by its own transform
        over = [d for d in range(sample.ndim) if d != 1]
        if sample.dtype == torch.uint8:
            mean, square = _uint8_moments(sample)
        else:
            mean = sample.double().mean(over)
            square = sample.double().square().mean(over)
        std = (square - mean.square()).clamp_min(0).sqrt()
        std = torch.where(std > 1e-8 * unit, std, torch.full_like(std, unit))
        return mean.numpy() / unit, std.numpy() / unit

    def table(self, X):
        """Scaled float32 tensor (n, d) of a table."""
        X = X - self.mean
        X *= self.scale
        return torch.from_numpy(X.astype(np.float32, copy=False))

    def constants(self, device):
        """(scale, shift) float32 on `device`, so that ``x * scale + shift`` is the input."""
        shape = (1, -1, *(1,) * (len(self.shape) - 1))

        def on_device(value):
            tensor = torch.as_tensor(np.asarray(value, dtype=np.float32), device=device)
            return tensor if tensor.ndim == 0 else tensor.reshape(shape)

        return on_device(self.scale), on_device(-np.asarray(self.mean) * self.scale)


def _sample(X):
    if not isinstance(X, Dataset):
        return X
    rows = np.unique(np.linspace(0, len(X) - 1, _STATISTICS_ROWS).astype(int))
    return torch.stack([item_tensor(X[int(i)]) for i in rows])


def _uint8_moments(images):
    """Mean and mean square per channel from counts of the 256 values: exact and in one pass."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    return share @ values, share @ values.square()
