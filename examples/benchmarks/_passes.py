"""What an epoch of the library does: seen and timed from outside, done again on bare modules."""

import copy
import functools
import gc
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from _timing import cpu_seconds
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from noisyfit._data import TensorData
from noisyfit._learner import Learner
from noisyfit._run import Run
from noisyfit.mixtures._splitter import MixtureSplitter

PARTS = ("data", "passes", "evaluation", "mixture")


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(work, device):
    """Seconds that ``work()`` takes, all it asked of the device included."""
    if device.type == "cpu":
        return cpu_seconds(work)
    gc.collect()
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


class Clock:
    """Seconds of each part; inside a part the time of others belongs to it."""

    def __init__(self, device):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._now = time.process_time if device.type == "cpu" else time.perf_counter
        self._is_open = False

    @contextmanager
    def __call__(self, part):
        if self._is_open:
            yield
            return
        synchronize(self._device)
        self._is_open, start = True, self._now()
        try:
            yield
        finally:
            synchronize(self._device)
            self._is_open = False
            self.seconds[part] += self._now() - start


@contextmanager
def no_clock(part):
    yield


class Seams:
    """Inside, `events` lists what the library does at its seams, and `clock` times it.

    The library stays as it is; its functions are replaced for the time of the block. Without a
    clock nothing but the list is kept.
    """

    def __init__(self, run, clock=None):
        self.run, self.clock = run, clock
        self.events = []
        self.modes = {}  # (module, whether it trains): the mode of each of its layers

    def __enter__(self):
        self._patches = ExitStack()
        for owner, name, wrap in (
            (TensorData, "batches", self._batches),
            (Run, "shuffled", self._timed("data")),
            (Run, "view", self._view),
            (Learner, "forward", self._forward),
            (Run, "step", self._step),
            (MixtureSplitter, "fit_tensor", self._timed("mixture")),
            (MixtureSplitter, "transform_tensor", self._timed("mixture")),
        ):
            self._replace(owner, name, wrap)
        for name, wrap in (
            ("forward_all", self._forward_all),
            ("mixup", self._timed("data")),
            ("knn_distances", self._timed("mixture")),
        ):
            for module in [m for k, m in sys.modules.items() if k.startswith("noisyfit.")]:
                if callable(vars(module).get(name)):  # it was imported by name
                    self._replace(module, name, wrap)
        return self

    def __exit__(self, *error):
        self._patches.close()

    def _replace(self, owner, name, wrap):
        wrapped = wrap(getattr(owner, name))
        self._patches.enter_context(mock.patch.object(owner, name, wrapped))

    def _timed(self, part):
        """What wraps a function that is timed as `part`, and its calls noted by ``note``."""

        def wrap(function, note=None):
            clock = self.clock or no_clock

            @functools.wraps(function)
            def wrapped(*args, **kwargs):
                if note is not None:
                    note(*args, **kwargs)
                with clock(part):
                    return function(*args, **kwargs)

            return wrapped

        return wrap

    def _batches(self, function):
        clock = self.clock or no_clock

        def batches(data, size, order=None, drop_last=False):
            fetched = function(data, size, order, drop_last)
            while True:
                with clock("data"):
                    batch = next(fetched, None)
                if batch is None:
                    return
                if order is not None:  # the others are of an evaluation
                    self.events.append(("gather", len(batch.x)))
                yield batch

        return batches

    def _view(self, function):
        def note(run, x, augment=None):
            self.events.append(("view", len(x), run._augment if augment is None else augment))

        return self._timed("data")(function, note)

    def _forward(self, function):
        def note(learner, module, x):
            whole = learner.module
            key = whole, whole.training
            if key not in self.modes:
                self.modes[key] = [layer.training for layer in whole.modules()]
            with_gradient = torch.is_grad_enabled()
            needed = with_gradient and x.requires_grad
            of_pass = module, tuple(x.shape), with_gradient, needed, learner.dtype
            self.events.append(("forward", key, *of_pass))

        return self._timed("passes")(function, note)

    def _step(self, function):
        def note(run, loss, learners=None, skip=None, further=()):
            chosen = run.learners if learners is None else learners
            self.events.append(("step", tuple(learner.module for learner in chosen)))

        return self._timed("passes")(function, note)

    def _forward_all(self, function):
        def note(module, data, constants, n_classes, dtype=None, out=None):
            self.events.append(("evaluate", module, len(data), data.evaluation_size, dtype))

        return self._timed("evaluation")(function, note)


def counted(events):
    """Rows that passed a network without and with gradient."""
    rows = Counter(forward=0, gradient=0)
    for kind, *what in events:
        if kind == "evaluate":
            rows["forward"] += what[1]
        elif kind == "forward":
            _, _, shape, with_gradient, *_ = what
            if len(shape) == 4:  # not a last layer on its own
                rows["gradient" if with_gradient else "forward"] += shape[0]
    return dict(rows)


class Bare:
    """The passes of an epoch on bare modules and random tensors.

    The modules are copies of those in training, so that the numbers that they meet are of the same
    size.
    """

    def __init__(self, run, seams):
        self.device, self.constants = run.device, run.constants
        self.generator = torch.Generator(run.device).manual_seed(0)
        owners = [learner.module for learner in run.learners]
        of_events = [e[2] for e in seams.events if e[0] == "forward"]
        of_events += [e[1] for e in seams.events if e[0] == "evaluate"]
        modules = list(dict.fromkeys([*owners, *of_events]))
        layers = [layer for module in modules for layer in module.modules()]
        of_masks = [layer.generator for layer in layers if hasattr(layer, "generator")]
        # together, as one may hold another
        copies = copy.deepcopy(modules, dict.fromkeys(map(id, of_masks), self.generator))
        self.modules = dict(zip(modules, copies, strict=True))
        settings = {"lr": 1e-5, "momentum": 0.9, "weight_decay": 5e-4, "fused": True}
        self.optimizers = {
            module: torch.optim.SGD(self.modules[module].parameters(), **settings)
            for module in owners
        }
        self.x = run.data.x.clone()
        self._inputs, self._flops = {}, {}

    def prepare(self, seams):
        """Make all that a replay only reads."""
        self.modes = seams.modes
        self.order = torch.randperm(len(self.x), generator=self.generator, device=self.device)
        for kind, *what in seams.events:
            if kind == "forward":
                _, _, shape, _, needed, _ = what
                self._input(shape, needed)

    def replay(self, events):
        """Do what the `events` say."""
        self._pending, self._rows = [], None
        for kind, *what in events:
            getattr(self, kind)(*what)

    def gather(self, n):
        self._rows = self.x.index_select(0, self.order[:n])

    def view(self, n, augment):
        x = self._rows if self._rows is not None and len(self._rows) == n else self.x[:n]
        if augment is not None:
            x = augment(x, self.generator)
        return self._scaled(x)

    def forward(self, key, module, shape, with_gradient, needed, dtype):
        self._to_mode(*key)
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with torch.set_grad_enabled(with_gradient), autocast:
            out = self.modules[module](self._input(shape, needed)).float()
        if with_gradient:
            self._pending.append(out)

    def step(self, owners):
        loss = sum(functional.cross_entropy(out, self._target(out.shape)) for out in self._pending)
        for owner in owners:
            self.optimizers[owner].zero_grad()
        loss.backward()
        for owner in owners:
            self.optimizers[owner].step()
        self._pending = []

    def evaluate(self, module, n, size, dtype):
        net = self.modules[module].eval()  # what it holds may train while it itself does not
        autocast = torch.autocast(self.device.type, dtype, enabled=dtype is not None)
        with torch.no_grad(), autocast:
            for start in range(0, n, size):
                x = self._scaled(self.x[start : min(start + size, n)])
                net(x.contiguous(memory_format=torch.channels_last))

    def flops(self, events):
        """Operations of all passes; one of each kind is made on few rows and counted."""
        total = 0
        for event in events:
            kind, *what = event
            if kind == "evaluate":
                n, few = what[1], ("evaluate", what[0], 2, 2, what[3])
            elif kind == "forward":
                key, module, shape, *rest = what
                n, few = shape[0], ("forward", key, module, (2, *shape[1:]), *rest)
            else:
                continue
            if few not in self._flops:
                self._flops[few] = self._count(few) / 2
            total += n * self._flops[few]
        return total

    def _count(self, event):
        self._pending = []
        with FlopCounterMode(display=False) as counter:
            getattr(self, event[0])(*event[1:])
            if self._pending:
                self.step(())
        return counter.get_total_flops()

    def _to_mode(self, owner, training):
        net = self.modules[owner]
        if net.training != training:
            for layer, mode in zip(net.modules(), self.modes[owner, training], strict=True):
                layer.training = mode

    def _scaled(self, x):
        scale, shift = self.constants
        return torch.addcmul(shift, x.float(), scale)

    def _input(self, shape, needed):
        if (shape, needed) not in self._inputs:
            x = torch.randn(shape, generator=self.generator, device=self.device)
            if x.ndim == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            self._inputs[shape, needed] = x.requires_grad_(needed)
        return self._inputs[shape, needed]

    def _target(self, shape):
        if shape not in self._inputs:
            draw = functools.partial(torch.randint, generator=self.generator, device=self.device)
            self._inputs[shape] = draw(shape[1], shape[:1])
        return self._inputs[shape]
