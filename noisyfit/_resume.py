"""Fits that can be stopped and go on: all that is in progress, in one file between epochs."""

import hashlib
import io
import os
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import torch
from skorch import NeuralNet

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_integer
from noisyfit._random import Seeded, global_states, restore_states, seeded_class

_FORMAT = 1
_N_LOOKED_AT = 100  # rows of X that must be equal
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_NOT_WRITABLE = (pickle.PicklingError, AttributeError, TypeError, RuntimeError)


def fit_resumable(estimator, X, y=None, *, path, every=1, **fit_params):
    """Fit a method so that, if it is interrupted, the same call goes on where it was.

    After the start (a pre-training included) and every few epochs all that is in progress is
    written to a file: networks, optimisers, what the method remembers of each row, random
    generators. A call that finds the file takes it up. The result is equal to the bit to that of a
    fit without interruption. When the fit ends, the file is removed.

    Parameters
    ----------
    estimator : method of `noisyfit`
    X, y : array-like
        As in its ``fit``; the same in all calls.
    path : str or path
        The file, in a folder that exists. It is a pickle: take up only files that you trust.
    every : int, default=1
        Epochs between writes.
    **fit_params
        Further arguments of ``fit``.

    Returns
    -------
    estimator
        Fitted.

    Raises
    ------
    TypeError
        If `estimator` is no method of the library, such as a pipeline or a search.
    ValueError
        If the file is of another fit (class, parameters, data, version of torch), which is left as
        it is, or if something cannot be written to a file, such as a lambda.

    Notes
    -----
    The file is replaced at once, so that a crash leaves the one before. `SimCLR` as ``pretrain`` is
    trained in one go; so is the cleaning of `INCVClassifier`. Callbacks of skorch go on with what
    they counted; those of scikit-learn are not in the file and begin anew. Of a data set that is
    streamed the rows are not compared.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import CrossEntropyClassifier, Network, fit_resumable
    >>> X, y = make_blobs(60, random_state=0)
    >>> clf = CrossEntropyClassifier(Network(max_epochs=5), random_state=0)
    >>> len(fit_resumable(clf, X, y, path="fit.pt").history_)
    5
    """
    if not isinstance(estimator, BaseNoisyClassifier):
        raise TypeError(
            f"Only methods of noisyfit can be resumed, not a {type(estimator).__name__}."
        )
    estimator._checkpoint = Checkpoint(path, every)
    try:
        estimator.fit(X, y, **fit_params)
    finally:
        del estimator._checkpoint
    Path(path).unlink(missing_ok=True)
    return estimator


class Checkpoint:
    """The file of one fit in progress."""

    def __init__(self, path, every):
        check_integer(every, "every", 1)
        self.path, self.every = Path(path), every
        if not self.path.parent.is_dir():
            raise ValueError(f"There is no folder {str(self.path.parent)!r} for the file of a fit.")
        self._saved, self._seed = None, None
        if self.path.exists():
            self._saved = self._read()

    def _read(self):
        try:
            saved = torch.load(self.path, weights_only=False)
            known = saved["about"]["format"] == _FORMAT
        except Exception as error:  # whatever a file of other origin raises
            raise ValueError(f"{str(self.path)!r} holds no fit in progress ({error}).") from error
        if not known:
            raise ValueError(f"{str(self.path)!r} holds a fit in progress of another version.")
        return saved

    def seed(self, drawn):
        """Seed of the fit: that of the file, or else the one that was `drawn`."""
        self._seed = drawn if self._saved is None else self._saved["seed"]
        return self._seed

    def load(self, estimator, run, valid):
        """The run to go on with, whose fit `estimator` takes up; None without a file.

        `run` is the one that would start, with the same data; `valid` are the rows to validate on.
        """
        saved, self._saved = self._saved, None
        if saved is None:
            return None
        here = _about(estimator, run)
        other = [name for name in here if saved["about"].get(name) != here[name]]
        if other:
            raise ValueError(
                f"{str(self.path)!r} holds a fit in progress with another "
                f"{' and another '.join(other)}; go on with that one, or remove the file."
            )
        going = saved["run"]
        going.go_on_with(run)
        for data, state in zip((going.data, valid), saved["data"], strict=True):
            if data is not None:
                data.set_state(state)
        vars(estimator).update(saved["fitted"])
        for net in estimator.nets_:
            if getattr(net, "compile", False):
                net.torch_compile(net.module_, "module")
        restore_states(saved["generators"])
        return going

    def check(self, estimator, run, valid):
        """Refuse what cannot be written, before long work is done."""
        self._write(self._state(estimator, run, valid), io.BytesIO())

    def save(self, estimator, run, valid):
        """Write all that is in progress."""
        beside = self.path.with_name(self.path.name + ".new")
        try:
            with beside.open("wb") as file:
                self._write(self._state(estimator, run, valid), file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, self.path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise

    def _state(self, estimator, run, valid):
        fitted = {name: value for name, value in vars(estimator).items() if name.endswith("_")}
        return {
            "about": _about(estimator, run),
            "seed": self._seed,
            "run": run,
            "fitted": fitted,
            "generators": global_states(run.device),
            "data": [None if data is None else data.get_state() for data in (run.data, valid)],
        }

    def _write(self, state, file):
        try:
            torch.save(state, file, pickle_module=_PickleModule)
        except _NOT_WRITABLE as error:
            raise ValueError(
                f"This fit cannot be written to a file: {error}. Functions must be those of a "
                "module, not lambdas."
            ) from error


def _about(estimator, run):
    """What must be equal for a fit to go on, by name."""
    return {
        "class": type(estimator).__qualname__,
        "set of parameters": _described(estimator),
        "shape of X": (len(run.data), *estimator._shape),
        "X": _looked_at(run.data),
        "y": (repr(estimator.classes_.tolist()), _hashed(run.data.y)),
        "argument of fit": {name: _hashed(rows) for name, rows in run.data.rows.items()},
        "device": run.device.type,
        "format": _FORMAT,
        "version of torch": torch.__version__,
    }


def _described(estimator):
    """All parameters as text, those of the networks' callbacks with them."""
    parameters = estimator.get_params()
    for name, value in parameters.items():
        if name.endswith("callbacks") and isinstance(value, list):
            parameters[name] = [(type(c), getattr(c, "__dict__", c)) for c in value]
    with np.printoptions(threshold=sys.maxsize):
        return _ADDRESS.sub("", repr(sorted(parameters.items())))


def _looked_at(data):
    """Of rows in memory, some that are spread over all."""
    x = getattr(data, "x", None)
    return None if x is None else _hashed(x[:: max(1, len(x) // _N_LOOKED_AT)])


def _hashed(values):
    return hashlib.sha256(values.contiguous().cpu().numpy().tobytes()).hexdigest()


def _bare(cls):
    return cls.__new__(cls)


def _bare_seeded(plain):
    return _bare(seeded_class(plain))


def _set_all(thing, state):
    vars(thing).update(state)


class _Pickler(pickle.Pickler):
    """Keeps networks one with what refers to their parts, and dropout on its generator."""

    def reducer_override(self, thing):
        if isinstance(thing, NeuralNet):  # whose own way takes the parts apart
            return _bare, (type(thing),), vars(thing), None, None, _set_all
        if isinstance(thing, Seeded):
            return _bare_seeded, (thing._plain,), vars(thing), None, None, _set_all
        return NotImplemented


class _PickleModule:
    """What `torch.save` wants of a module."""

    Pickler = _Pickler
