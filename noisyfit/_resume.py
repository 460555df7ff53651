"""Fits that can be stopped and go on: all that is in progress, in one file between epochs."""

import hashlib
import os
import pickle
import re
from pathlib import Path

import torch
from skorch import NeuralNet

from noisyfit._checks import check_integer
from noisyfit._random import Seeded, global_states, restore_states, seeded_class

_FORMAT = 1
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")


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
    ValueError
        If the file is of another fit (class, parameters, labels, version of torch), which is left
        as it is, or if something cannot be written to a file, such as a lambda.

    Notes
    -----
    The file is replaced at once, so that a crash leaves the one before. `SimCLR` as ``pretrain`` is
    trained in one go; so is the cleaning of `INCVClassifier`.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from noisyfit import CrossEntropyClassifier, Network, fit_resumable
    >>> X, y = make_blobs(60, random_state=0)
    >>> clf = CrossEntropyClassifier(Network(max_epochs=5), random_state=0)
    >>> len(fit_resumable(clf, X, y, path="fit.pt").history_)
    5
    """
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

    def load(self, estimator, run):
        """The run to go on with, whose fit `estimator` takes up; None without a file.

        `run` is the one that would start, with the same data.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, weights_only=False)
            about = saved["about"]
        except Exception as error:
            raise ValueError(f"{str(self.path)!r} holds no fit in progress ({error}).") from error
        here = _about(estimator, run)
        other = [name for name in here if about.get(name) != here[name]]
        if other:
            raise ValueError(
                f"{str(self.path)!r} holds a fit in progress with another "
                f"{' and another '.join(other)}; go on with that one, or remove the file."
            )
        going = saved["run"]
        going.go_on_with(run)
        going.data.set_state(saved["data"])
        vars(estimator).update(saved["fitted"])
        for net in estimator.nets_:
            if getattr(net, "compile", False):
                net.torch_compile(net.module_, "module")
        restore_states(saved["generators"])
        return going

    def save(self, estimator, run):
        """Write all that is in progress."""
        fitted = {name: value for name, value in vars(estimator).items() if name.endswith("_")}
        state = {
            "about": _about(estimator, run),
            "run": run,
            "fitted": fitted,
            "generators": global_states(run.device),
            "data": run.data.get_state(),
        }
        beside = self.path.with_name(self.path.name + ".new")
        try:
            torch.save(state, beside, pickle_module=_PickleModule)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            beside.unlink(missing_ok=True)
            raise ValueError(
                f"This fit cannot be written to a file: {error}. Functions must be those of a "
                "module, not lambdas."
            ) from error
        os.replace(beside, self.path)


def _about(estimator, run):
    """What must be equal for a fit to go on, by name."""
    parameters = sorted(estimator.get_params().items())
    return {
        "class": type(estimator).__qualname__,
        "set of parameters": _ADDRESS.sub("", repr(parameters)),
        "shape of X": (len(run.data), *estimator._shape),
        "y": hashlib.sha256(run.data.y.cpu().numpy().tobytes()).hexdigest(),
        "device": run.device.type,
        "format": _FORMAT,
        "version of torch": torch.__version__,
    }


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
