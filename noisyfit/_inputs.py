"""What the caller may pass as X and y, and how it becomes numbers for a network."""

import os

import numpy as np
import torch
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, validate_data
from torch.utils.data import Dataset, IterableDataset

from noisyfit.images import ImageFiles

_CHANNELS = (1, 3, 4)
_FLOATS = (np.float64, np.float32)
_RANGES = {"uint8": "0 to 255 (uint8)", "unit": "0 to 1"}
_STATISTICS_ROWS = 512  # of a streamed data set, read once to find mean and deviation


def validate_X(estimator, X, reset):
    """Check `X` and return a float table (n, d), an image tensor (n, C, H, W) or a `Dataset`.

    Sets ``n_features_in_``, ``feature_names_in_``, ``_image_shape_`` (None for tables) and
    ``_image_range_`` when `reset`, and compares with them otherwise.
    """
    if _are_paths(X):
        X = ImageFiles(list(X))
    if isinstance(X, Dataset):
        return _validate_dataset(estimator, X, reset)
    if isinstance(X, torch.Tensor):
        X = X.detach().cpu()
        X = (X.float() if X.dtype in (torch.bfloat16, torch.float16) else X).numpy()
    elif isinstance(X, list | tuple) and X and np.ndim(X[0]) in (2, 3):
        X = np.asarray(X)
    if getattr(X, "ndim", 2) in (3, 4):
        return _validate_images(estimator, X, reset)
    if not reset and estimator._image_shape_ is not None:
        raise ValueError(
            f"{type(estimator).__name__} was fitted on images and is expecting them as "
            f"(n, C, H, W) or (n, H, W, C); got an array with {np.ndim(X)} dimension(s)."
        )
    table = validate_data(
        estimator, X, reset=reset, dtype=_FLOATS, ensure_min_samples=2 if reset else 1
    )
    if reset:
        estimator._image_shape_ = None
    return table


def _are_paths(X):
    if isinstance(X, list | tuple) or getattr(X, "ndim", 0) == 1:
        return len(X) > 0 and isinstance(next(iter(X)), str | os.PathLike)
    return False


def _validate_dataset(estimator, dataset, reset):
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"):
        raise TypeError("X must be a map-style Dataset, with a length and items by position.")
    least = 2 if reset else 1
    if len(dataset) < least:
        raise ValueError(
            f"Found a Dataset with {len(dataset)} sample(s) while a minimum of {least} is required."
        )
    shape = tuple(item_tensor(dataset[0]).shape)
    if reset:
        estimator._image_shape_ = shape if len(shape) == 3 else None
        estimator._image_range_ = None
        estimator.n_features_in_ = int(np.prod(shape))
    elif np.prod(shape) != estimator.n_features_in_ or (
        len(shape) == 3 and shape != estimator._image_shape_
    ):
        raise ValueError(
            f"The items of X have shape {shape}, but {type(estimator).__name__} is expecting "
            f"{estimator._image_shape_ or (estimator.n_features_in_,)}."
        )
    return dataset


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
    kind, shape = _image_layout(X.shape)
    value_range = _image_range(X)
    if reset:
        estimator._image_shape_, estimator._image_range_ = shape, value_range
        estimator.n_features_in_ = int(np.prod(shape))
    elif shape != estimator._image_shape_:
        expected = estimator._image_shape_
        what = "a 2D table" if expected is None else f"images of shape (C, H, W) = {expected}"
        raise ValueError(
            f"X has shape {X.shape}, read as images of shape {shape}, but "
            f"{type(estimator).__name__} is expecting {what} as input."
        )
    elif {value_range, estimator._image_range_} == {"uint8", "unit"}:
        raise ValueError(
            f"X holds images in the range {_RANGES[value_range]}, but {type(estimator).__name__} "
            f"was fitted on the range {_RANGES[estimator._image_range_]}; scale them alike."
        )
    images = torch.from_numpy(np.ascontiguousarray(X) if X.flags.writeable else X.copy())
    if kind == "last":
        images = images.permute(0, 3, 1, 2).contiguous()
    return images.reshape(len(images), *shape)


def _image_range(X):
    """Whether images are uint8, floats from 0 to 1, or others."""
    if X.dtype == np.uint8:
        return "uint8"
    return "unit" if X.min() >= 0 and 0 < X.max() <= 1 else None


def _image_layout(shape):
    """Which axis holds the channels, and the shape (C, H, W) of one image."""
    if len(shape) == 3:
        return "none", (1, *shape[1:])
    square_in_front = shape[1] == shape[2] != shape[3]
    if shape[1] not in _CHANNELS and (shape[3] in _CHANNELS or square_in_front):
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
        y = y.detach().cpu()
        y = (y.float() if y.dtype == torch.bfloat16 else y).numpy()
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
        return x[None] if x.ndim == 2 else x
    array = np.asarray(x)
    if array.dtype == bool:
        array = array.astype(np.uint8) * 255
    if array.ndim == 2:
        array = array[None]
    tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
    if tensor.ndim == 3 and tensor.shape[-1] in _CHANNELS and tensor.shape[0] not in _CHANNELS:
        tensor = tensor.permute(2, 0, 1)
    return tensor if tensor.dtype == torch.uint8 else tensor.float()


class InputScale:
    """Scaling to zero mean and unit variance, learnt from the training rows.

    Tables are scaled on the host in their own precision, before they become float32; images
    stay uint8 on the device and are scaled batch by batch. `normalize` is ``"auto"`` (the
    statistics of the training rows), None (uint8 is divided by 255, nothing else) or a pair
    (mean, std) in units of the network's input (uint8 images: of the range 0 to 1). The statistics
    are those of the positions `rows` (int64 tensor), or of all rows.
    """

    def __init__(self, X, normalize, rows=None):
        self.is_table = isinstance(X, np.ndarray)
        sample = _sample(X, rows)
        self.shape = tuple(sample.shape[1:])
        is_uint8 = not self.is_table and sample.dtype == torch.uint8
        unit = 255.0 if is_uint8 else 1.0
        if normalize is None:
            mean, std = 0.0, 1.0
        elif isinstance(normalize, str):
            mean, std = self._statistics(sample, unit, isinstance(X, Dataset))
        else:
            mean, std = _given_statistics(normalize, self.shape)
        self.mean, self.scale = mean * unit, 1 / (std * unit)

    def _statistics(self, sample, unit, streamed):
        if self.is_table:
            with np.errstate(over="ignore", invalid="ignore"):
                std = sample.std(axis=0, dtype=np.float64)
            if not np.isfinite(std).all():
                raise ValueError("X contains values too large for their squares to be summed.")
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
        with np.errstate(over="ignore", invalid="ignore"):
            X = X - self.mean
            X *= self.scale
            table = X.astype(np.float32, copy=False)
        if not np.isfinite(table.sum(dtype=np.float64)):
            raise ValueError("X contains values too large for float32 after scaling.")
        return torch.from_numpy(table)

    def constants(self, device):
        """(scale, shift) float32 on `device`, so that ``x * scale + shift`` is the input."""
        shape = (1, -1, *(1,) * (len(self.shape) - 1))

        def on_device(value):
            tensor = torch.as_tensor(np.asarray(value, dtype=np.float32), device=device)
            return tensor if tensor.ndim == 0 else tensor.reshape(shape)

        return on_device(self.scale), on_device(-np.asarray(self.mean) * self.scale)


def _given_statistics(normalize, shape):
    """Mean and std as float64 arrays of shape () or (n_columns,) or (C,)."""
    if len(normalize) != 2:
        raise ValueError(f"normalize must be a pair (mean, std), got {normalize!r}.")
    parts = [np.asarray(part, dtype=np.float64) for part in normalize]
    for part in parts:
        if part.shape not in ((), (1,), shape[:1]):
            what = "column" if len(shape) == 1 else "channel"
            raise ValueError(
                f"normalize must hold one mean and std, or one for each of the {shape[0]} "
                f"{what}s; got shape {part.shape}."
            )
        if not np.isfinite(part).all():
            raise ValueError(f"normalize must be finite, got {normalize!r}.")
    if (parts[1] <= 0).any():
        raise ValueError(f"The std of normalize must be positive, got {normalize[1]!r}.")
    return parts


def _sample(X, rows):
    if not isinstance(X, Dataset):
        return X if rows is None else X[rows.numpy() if isinstance(X, np.ndarray) else rows]
    rows = np.arange(len(X)) if rows is None else np.sort(rows.numpy())
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, _STATISTICS_ROWS).astype(int))]
    items = [item_tensor(X[int(i)]) for i in rows]
    shapes = sorted({tuple(item.shape) for item in items})
    if len(shapes) > 1:
        raise ValueError(
            f"The items of X differ in shape: {shapes[0]}, {shapes[1]}; give images one size, for "
            "files by ImageFiles(paths, size=...)."
        )
    sample = torch.stack(items)
    if sample.is_floating_point() and not torch.isfinite(sample).all():
        raise ValueError("Input X contains NaN or infinity.")
    return sample


def _uint8_moments(images):
    """Mean and mean square per channel from counts of the 256 values: exact and in one pass."""
    values = torch.arange(256, dtype=torch.float64)
    counts = torch.stack([torch.bincount(c.flatten(), minlength=256) for c in images.unbind(1)])
    share = counts.double() / counts.sum(1, keepdim=True)
    return share @ values, share @ values.square()
