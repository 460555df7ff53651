"""Batches of (x, y, index) from tensors that live on the device, or from a streamed data set."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from noisyfit._inputs import item_tensor

_EVALUATION_ROWS = 2048
_IN_CACHE = 2**16  # values of a batch of images whose activations stay in a CPU's cache
_ON_DEVICE = 2**25  # ... that leave room on an accelerator: 222 images of 3x224x224
_IMAGES = 64  # where smaller batches cost more than they save


def as_data(source, codes, scale, device, net, seed=0):
    """Data of a checked `source`, with class codes (int64 array or tensor) or None.

    `scale` is the `InputScale`; `net` knows the loader workers and `seed` is theirs.
    """
    y = None if codes is None else torch.as_tensor(codes)
    if isinstance(source, Dataset):
        workers = net.get_params_for("iterator_train").get("num_workers", 0)
        of_rows = scale.constants(device) if len(scale.shape) == 1 else None
        return StreamData(source, y, device, tuple(scale.shape), workers, seed, of_rows)
    is_table = isinstance(source, np.ndarray)  # the network may have been trained on a stream
    return TensorData(scale.table(source) if is_table else source, y, device)


class Batch(NamedTuple):
    """One batch on the device: inputs as stored, class codes, positions in the training set."""

    x: torch.Tensor  # (batch, ...) uint8 or float32, neither augmented nor scaled
    y: torch.Tensor  # (batch,) int64
    index: torch.Tensor  # (batch,) int64


def rows_at_once(shape, device):
    """Rows of the given shape in a batch without gradient: as many as pay."""
    if len(shape) == 1:
        return _EVALUATION_ROWS
    values = _IN_CACHE if device.type == "cpu" else _ON_DEVICE
    return min(max(values // math.prod(shape), _IMAGES), _EVALUATION_ROWS)


def cut(n, size, drop_last=False):
    """Ends of consecutive batches over `n` rows; a last batch of one joins the one before."""
    ends = list(range(size, n + 1, size))
    if drop_last and ends:
        return ends
    if not ends or ends[-1] < n:
        ends.append(n)
    if len(ends) > 1 and ends[-1] - ends[-2] == 1:
        del ends[-2]
    return ends


class TensorData:
    """Rows held on the device.

    Parameters
    ----------
    x : tensor of shape (n, ...)
    y : int64 tensor of shape (n,), or None for prediction
    device : torch.device

    Attributes
    ----------
    rows : dict of tensors (n,)
        What else is known of each row, such as whether its label is ``"trusted"``.
    """

    def __init__(self, x, y, device):
        self.x = x.to(device)
        self.y = None if y is None else y.to(device)
        self.device = device
        self.rows = {}

    def __len__(self):
        return len(self.x)

    @property
    def evaluation_size(self):
        """Rows of a batch without gradient."""
        return rows_at_once(self.x.shape[1:], self.device)

    def batches(self, size, order=None, drop_last=False):
        """Yield batches of `size` rows in the given order of positions, or as stored."""
        n = len(self) if order is None else len(order)
        start = 0
        if order is None:
            order = torch.arange(n, device=self.device)
            for end in cut(n, size, drop_last):
                rows = slice(start, end)
                yield Batch(self.x[rows], None if self.y is None else self.y[rows], order[rows])
                start = end
            return
        for end in cut(n, size, drop_last):
            index = order[start:end]
            yield Batch(self.x.index_select(0, index), self.y.index_select(0, index), index)
            start = end

    def get_state(self):
        """None: nothing here is random."""

    def set_state(self, state):
        """Nothing to set."""

    def subset(self, index):
        """The rows at `index` (int64 tensor) as data of their own."""
        index = index.to(self.device)
        part = TensorData(self.x[index], None if self.y is None else self.y[index], self.device)
        part.rows = {name: values[index] for name, values in self.rows.items()}
        return part

    def dataset(self):
        """Map-style view with items (x, y), for callbacks that want a data set."""
        return _Items(self)


class _Items(Dataset):
    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, i):
        return self.data.x[i], self.data.y[i]


class StreamData:
    """Rows fetched from a map-style `Dataset`, decoded by loader workers.

    Parameters
    ----------
    source : torch.utils.data.Dataset
        Items are inputs or tuples that begin with one.
    y : int64 tensor of shape (n,), or None for prediction
    device : torch.device
    shape : tuple
        Of a row.
    n_workers : int
        0 decodes in the training process.
    seed : int
        Of the workers.
    table_scale : pair of tensors, optional
        Scale and shift of rows of a table.

    Attributes
    ----------
    rows : dict of tensors (n,)
        What else is known of each row, such as whether its label is ``"trusted"``.
    """

    def __init__(self, source, y, device, shape, n_workers=0, seed=0, table_scale=None):
        self._table_scale = table_scale
        self.source = source
        self.shape = shape
        self.y = None if y is None else y.to(device)
        self.device = device
        self.n_workers = n_workers
        self.rows = {}
        self._generator = torch.Generator().manual_seed(seed)  # seeds the workers

    def __len__(self):
        return len(self.source)

    @property
    def evaluation_size(self):
        """Rows of a batch without gradient."""
        return rows_at_once(self.shape, self.device)

    def batches(self, size, order=None, drop_last=False):
        """Yield batches of `size` rows in the given order of positions, or as stored."""
        order = range(len(self)) if order is None else order.tolist()
        ends = cut(len(order), size, drop_last)
        loader = DataLoader(
            _Rows(self.source),
            batch_sampler=[order[a:b] for a, b in zip([0, *ends[:-1]], ends, strict=True)],
            num_workers=self.n_workers,
            pin_memory=self.device.type == "cuda",
            generator=self._generator,
        )
        for x, index in loader:
            x = x.to(self.device, non_blocking=True)
            if self._table_scale is not None:
                scale, shift = self._table_scale
                x = torch.addcmul(shift, x.float(), scale)
            index = index.to(self.device, non_blocking=True)
            yield Batch(x, None if self.y is None else self.y.index_select(0, index), index)

    def get_state(self):
        """State of its generator."""
        return self._generator.get_state()

    def set_state(self, state):
        """Go on from where the generator was."""
        self._generator.set_state(state)

    def subset(self, index):
        """The rows at `index` (int64 tensor) as data of their own."""
        here = index.to(self.device)
        y = None if self.y is None else self.y[here]
        items = Subset(self.source, index.tolist())
        seed = self._generator.initial_seed()
        loader = self.n_workers, seed, self._table_scale
        part = StreamData(items, y, self.device, self.shape, *loader)
        part.rows = {name: values[here] for name, values in self.rows.items()}
        return part

    def dataset(self):
        """Map-style view with items (x, y), for callbacks that want a data set."""
        return self.source


class _Rows(Dataset):
    """Items as (x, position)."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, i):
        return item_tensor(self.source[i]), i
