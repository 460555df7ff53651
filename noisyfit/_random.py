"""Randomness that belongs to one fit and leaves the caller's generators alone."""

import random
import threading
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.utils import check_random_state
from torch.backends import cudnn

_lock = threading.RLock()
_depth = 0
_saved = None


def draw_seed(random_state):
    """One integer seed; ``None`` takes fresh entropy, never numpy's global generator."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    return int(check_random_state(random_state).randint(2**31 - 1))


def spawn_seeds(seed, n):
    """`n` independent integer seeds."""
    return [int(s) for s in np.random.SeedSequence(seed).generate_state(n)]


@contextmanager
def own_generators(seed, device, deterministic=True):
    """Give the block seeded global generators and restore the caller's afterwards.

    Only user code draws from them (a data set's transforms, a functional dropout). Where the
    block is `deterministic`, cuDNN takes kernels whose results repeat. Fits that overlap in threads
    share one scope: the first saves and sets, the last restores.
    """
    global _depth, _saved
    with _lock:
        if _depth == 0:
            on_cuda = device.type == "cuda"
            _saved = global_states(device), cudnn.deterministic if on_cuda else None
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002
            torch.default_generator.manual_seed(seed)
            if on_cuda:
                torch.cuda.manual_seed_all(seed)
                cudnn.deterministic |= deterministic
        _depth += 1
    try:
        yield
    finally:
        with _lock:
            _depth -= 1
            if _depth == 0:
                states, of_cudnn = _saved
                restore_states(states)
                if of_cudnn is not None:
                    cudnn.deterministic = of_cudnn
                _saved = None


def global_states(device):
    with _lock:
        cuda = torch.cuda.get_rng_state_all() if device.type == "cuda" else None
        return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda  # noqa: NPY002


def restore_states(states):
    python, numpy, cpu, cuda = states
    with _lock:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        # a fit may go on where there are fewer devices
        n_devices = 0 if cuda is None else torch.cuda.device_count()
        for i, state in zip(range(n_devices), cuda or (), strict=False):
            torch.cuda.set_rng_state(state, i)


@contextmanager
def seeded_start(seed):
    """Initialise modules from `seed`, one thread at a time: torch.nn.init takes no generator."""
    with _lock:
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)


class Seeded:
    """Dropout whose mask comes from ``self.generator``; mixed into torch's own layers."""

    def forward(self, x):
        if not self.training or self.p == 0:
            return x
        keep = x.new_empty(self._mask_shape(x)).bernoulli_(1 - self.p, generator=self.generator)
        return x * keep.div_(1 - self.p) if self.p < 1 else x * keep


class _PerElement(Seeded):
    def _mask_shape(self, x):
        return x.shape


class _PerChannel(Seeded):
    def _mask_shape(self, x):
        return (*x.shape[:2], *(1,) * (x.ndim - 2))


class _PerRow(Seeded):
    def _mask_shape(self, x):
        return (x.shape[0] if self.mode == "row" else 1, *(1,) * (x.ndim - 1))


_BY_NAME = {  # by name, as torchvision's layer should not be imported for tables
    "Dropout": _PerElement,
    "Dropout1d": _PerChannel,
    "Dropout2d": _PerChannel,
    "Dropout3d": _PerChannel,
    "StochasticDepth": _PerRow,
}


def seeded_class(plain):
    """The dropout layer `plain` of torch or torchvision as one that has a generator."""
    return type(plain.__name__, (_BY_NAME[plain.__name__], plain), {"_plain": plain})


def seed_dropout(module, generator):
    """Let every dropout layer of `module` draw from `generator`; parameters and keys stay."""
    for layer in module.modules():
        plain = type(layer)
        if plain.__module__.startswith(("torch.", "torchvision.")) and plain.__name__ in _BY_NAME:
            layer.__class__ = seeded_class(plain)
            layer.generator = generator


def unseed_dropout(module):
    """Turn the layers back into what they were, so that the module pickles."""
    for layer in module.modules():
        if isinstance(layer, Seeded):
            layer.__class__ = layer._plain
            del layer.generator
