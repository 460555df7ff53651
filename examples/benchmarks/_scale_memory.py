"""What fits hold in memory: per sample, per class, at their peak."""

import sys
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import torch
from _scale_time import made_table
from _timing import STATUS, number_of
from epoch_cost import EPOCHS, STAGES
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import noisyfit
from noisyfit import Network, _data, _dynamics, _evidence, methods
from noisyfit.modules import MLP
from noisyfit.outliers import KNNOutlierFilter

_FLAT = type(iter([]))
_NUMBER = 32  # bytes of a float in a list: the object and the reference to it
_LIBRARY = str(Path(noisyfit.__file__).parent)


# ---- what a method holds for every sample ------------------------------------------------------


def held(value, seen):
    """Bytes of all tensors, arrays and lists of numbers that `value` leads to, each once.

    `seen` are the addresses of what is not to be counted. Networks are not entered.
    """
    if isinstance(value, np.ndarray):
        while isinstance(value.base, np.ndarray):
            value = value.base
        if isinstance(value.base, torch.Tensor):
            return held(value.base, seen)
        return _once(value.ctypes.data, value.nbytes, seen)
    if isinstance(value, torch.Tensor):
        storage = value.untyped_storage()
        return _once(storage.data_ptr(), storage.nbytes(), seen)
    if isinstance(value, torch.nn.Module) or not _is_open(value):
        return 0
    if _once(id(value), 1, seen) == 0:
        return 0
    # `value` stays bound, for a new object could take the address of one that is gone
    if isinstance(value, _FLAT):
        parts = value.__reduce__()[1][0]  # the whole list, which it keeps to its end
    elif isinstance(value, list | tuple | set):
        parts = value
    else:
        parts = (value if isinstance(value, dict) else vars(value)).values()
    return sum(_NUMBER if type(part) in (int, float) else held(part, seen) for part in parts)


def _is_open(value):
    if isinstance(value, dict | list | tuple | set | SimpleNamespace | _FLAT):
        return True
    own = type(value).__module__.startswith("noisyfit") and not isinstance(value, type)
    return own and hasattr(value, "__dict__") and not isinstance(value, Network)


def _once(address, n_bytes, seen):
    if address in seen:
        return 0
    seen.add(address)
    return n_bytes


class Weighed:
    """Mixed into a method: the most that it holds at the end of an epoch, the data left out."""

    most = 0

    def _run_epoch(self, run, epoch, valid):
        row = super()._run_epoch(run, epoch, valid)
        data = run.data.x, run.data.y, *run.data.rows.values()
        seen = {tensor.untyped_storage().data_ptr() for tensor in data}
        self.most = max(self.most, held([run.memory, run.dynamics, fitted(self)], seen))
        return row


def fitted(estimator):
    """Attributes that are no parameters."""
    params = estimator.get_params(deep=False)
    return {name: value for name, value in vars(estimator).items() if name not in params}


def weighed(name, n, n_classes):
    """Bytes that the method holds in training, and those that stay on the fitted estimator."""
    method = getattr(methods, name)
    params = dict(STAGES.get(name, {}))
    if "transition" in params:
        params["transition"] = 0.6 * np.eye(n_classes) + 0.4 / n_classes
    net = Network(max_epochs=EPOCHS, batch_size=128, device="cpu")
    clf = type(method.__name__, (Weighed, method), {})(net, random_state=0, **params)
    clf.fit(*made_table(n, n_classes))
    return clf.most, held(fitted(clf), set())


def per_sample(name, n, classes):
    """Bytes per sample as ``a + b * n_classes``: {"training": [a, b], "fitted": [a, b]}.

    What does not grow with the rows, such as networks, falls out of the difference between `n` and
    ``2 * n`` rows; the two numbers of `classes` tell `a` from `b`.
    """
    few, many = (
        [(b - a) / n for a, b in zip(weighed(name, n, c), weighed(name, 2 * n, c), strict=True)]
        for c in classes
    )
    result = {}
    for kind, of_few, of_many in zip(("training", "fitted"), few, many, strict=True):
        slope = (of_many - of_few) / (classes[1] - classes[0])
        result[kind] = [round(of_few - slope * classes[0], 2) + 0.0, round(slope, 2) + 0.0]
    return result


def memory_rows(names, n, classes):
    """One row of figures per method."""
    rows = []
    for name in names:
        rows.append({"method": name} | per_sample(name, n, classes))
        print(f"  {name}", flush=True)
    return rows


# ---- large tensors, and growth of a process ----------------------------------------------------


class LargeTensors(TorchDispatchMode):
    """Counts the large storages that are alive while it is entered.

    Parameters
    ----------
    least : int
        Bytes from which a storage is large.

    Attributes
    ----------
    peak : int
        The most bytes that were alive at the end of any operation.
    at_peak : list of (place, bytes)
        What was alive then, and the function of the library that made it.
    """

    def __init__(self, least):
        super().__init__()
        self.least = least
        self.peak, self.at_peak = 0, []
        self._alive = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._see(tensor.untyped_storage())
        return result

    def _see(self, storage):
        n_bytes = storage.nbytes()
        if n_bytes < self.least:
            return
        self._alive = {k: v for k, v in self._alive.items() if not v[0].expired()}
        reference = StorageWeakRef(storage)
        if reference.cdata not in self._alive:
            self._alive[reference.cdata] = reference, place(), n_bytes
        total = sum(n_bytes for _, _, n_bytes in self._alive.values())
        if total > self.peak:
            self.peak = total
            self.at_peak = [(where, n_bytes) for _, where, n_bytes in self._alive.values()]


def place():
    """The innermost function of the library that is running."""
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(_LIBRARY):
        frame = frame.f_back
    if frame is None:
        return "outside"
    return f"{frame.f_code.co_name} in {Path(frame.f_code.co_filename).name}"


def growth(prepare, *args):
    """Bytes by which this process grows at most while ``prepare(*args)()`` runs.

    Meant for a process of its own: the peak is that of its whole life. (What `getrusage` calls the
    peak begins with the memory of the process that started it.)
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    work = prepare(*args)
    before = number_of(STATUS, "VmRSS")
    work()
    return number_of(STATUS, "VmHWM") - before


def in_own_process(function, *args):
    """``function(*args)`` in a fresh process."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def available_bytes():
    """Memory that could be used now."""
    return number_of(Path("/proc/meminfo"), "MemAvailable")


# ---- many classes ------------------------------------------------------------------------------


MANY_CLASSES = {  # by default, but for a division within two epochs
    "CrossEntropyClassifier": {},
    "ELRClassifier": {},
    "CoTeachingClassifier": {},
    "DivideMixClassifier": {"warmup": 1},
}


def with_many_classes(name, n, n_classes, batch_size):
    """A fit of two epochs, ready to run, of a network with one narrow layer."""
    X, y = made_table(n, n_classes)
    net = Network(
        MLP,
        module__hidden=(16,),
        lr_schedule="constant",
        max_epochs=2,
        batch_size=batch_size,
        device="cpu",
    )
    made = partial(getattr(methods, name), net, random_state=0, **MANY_CLASSES[name])
    small = made_table(200, 5)
    made().fit(*small)  # what is made only once is not of this fit
    return lambda: made().fit(X, y)


def probe(name, n, n_classes, batch_size, meant):
    """Large tensors at the peak of a fit: their sum and each of them, in buffers of all logits.

    It stands for a fit with the numbers of rows and classes that are `meant`, for which
    `batch_size` is; batches, those of evaluations, blocks of rows and the buffer in which logits
    wait to be summed up shrink in proportion.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    share, of_logits = n / meant[0], n * n_classes / (meant[0] * meant[1])
    fit = with_many_classes(name, n, n_classes, max(2, int(share * batch_size)))
    evaluated = max(1, int(share * _data._EVALUATION_ROWS))
    waiting = max(1, int(of_logits * _dynamics._BUFFER))
    block = max(1, int(of_logits * _evidence._BLOCK))
    buffer = 4 * n * n_classes
    with (
        mock.patch.object(_data, "_EVALUATION_ROWS", evaluated),
        mock.patch.object(_dynamics, "_BUFFER", waiting),
        mock.patch.object(_evidence, "_BLOCK", block),
        LargeTensors(buffer // 8) as large,
    ):
        fit()
    arrays = Counter()
    for where, n_bytes in large.at_peak:
        arrays[where] += n_bytes / buffer
    arrays = {where: round(size, 3) for where, size in arrays.items()}
    return {"tensors": large.peak / buffer, "arrays": arrays}


def class_rows(names, n, n_classes, batch_size, share, own=in_own_process):
    """One row of figures per method, its fits in processes of their own.

    First a `share` of the rows, in which the large tensors are counted; then all rows, whose
    process is weighed, if that count leaves a fifth of the free memory free.
    """
    rows = []
    for name in names:
        few = max(int(share * n), n_classes)
        found = own(probe, name, few, n_classes, batch_size, (n, n_classes))
        needed = found["tensors"] * 4 * n * n_classes
        row = {"method": name, "probe_rows": few} | found
        if needed < 0.8 * available_bytes():
            try:
                grown = own(growth, with_many_classes, name, n, n_classes, batch_size)
                row |= {"process": grown / (4 * n * n_classes), "reason": None}
            except BrokenProcessPool:
                row |= {"process": None, "reason": "its process was ended, for memory perhaps"}
        else:
            row |= {"process": None, "reason": f"needs about {needed / 1e9:.0f} GB"}
        rows.append(row)
        process = row["reason"] or f"{row['process']:.2f}"
        print(f"  {name}: {row['tensors']:.2f} buffers, process {process}", flush=True)
    return rows


# ---- neighbours --------------------------------------------------------------------------------


def with_neighbours(n, n_features, block_bytes):
    """A filter on `n` made embeddings, ready to run."""
    X = np.random.default_rng(0).standard_normal((n, n_features), dtype=np.float32)
    knn = KNNOutlierFilter(block_bytes=block_bytes, device="cpu")
    knn.fit(X[:50])  # what is made only once is not of this fit
    return lambda: knn.fit(X)


def neighbour_bound(n, n_features, block_bytes):
    """Bytes that the filter stores: a block and the scaled rows."""
    return block_bytes + 4 * n * n_features
