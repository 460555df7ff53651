"""One network in training: forward in its precision, one optimiser step, its callbacks."""

from contextlib import nullcontext

import torch
from skorch.callbacks import BatchScoring, Callback, EarlyStopping, EpochScoring, LRScheduler
from torch import nn

from noisyfit._network import lr_schedule, training_dtype
from noisyfit._random import seed_dropout, unseed_dropout

_BATCH_EVENTS = ("on_batch_begin", "on_batch_end")


def constant(epoch, max_epochs):
    """Schedule of a constant learning rate."""
    return 1.0


class Learner:
    """A skorch net as the hooks of a method see it: call it to get logits.

    Parameters
    ----------
    net : skorch.NeuralNet
        Initialised.
    device : torch.device
    generator : torch.Generator
        Source of its dropout masks.

    Attributes
    ----------
    dtype : torch.dtype or None
        Of the passes in training; None is float32.
    """

    def __init__(self, net, device, generator):
        self.net = net
        self.module = net.module_
        self._parameters = list(self.module.parameters())
        self.optimizers = [getattr(net, name + "_") for name in net._optimizers]
        self.clip = getattr(net, "gradient_clip", None)
        self.dtype = training_dtype(net, device)
        self._device_type = device.type
        self._base_lrs = [[g["lr"] for g in o.param_groups] for o in self.optimizers]
        self._factor = 1.0
        self._asks = device.type == "cpu"
        self._in_memory = set()  # parameters that an optimiser took a step with
        defaults = {name for name, _ in net.get_default_callbacks()}
        named = getattr(net, "callbacks_", [])
        self._callbacks = [callback for name, callback in named if name not in defaults]
        self.is_scheduled = any(isinstance(c, LRScheduler) for c in self._callbacks)
        self._schedule = None if self.is_scheduled else lr_schedule(net) or constant
        self.has_batch_callbacks = any(
            getattr(type(c), event) is not getattr(Callback, event)
            for c in self._callbacks
            for event in _BATCH_EVENTS
        )
        self._has_grad_callbacks = any(
            type(c).on_grad_computed is not Callback.on_grad_computed for c in self._callbacks
        )
        self._channels_last = any(isinstance(m, nn.Conv2d) for m in self.module.modules())
        self._spoils_input = works_in_place(self.module)
        if self._channels_last:
            self.module.to(memory_format=torch.channels_last)
        if not getattr(net, "compile", False):
            seed_dropout(self.module, generator)

    def __call__(self, x):
        """Float32 logits (batch, n_classes) of a prepared batch."""
        return self.forward(self.module, x)

    def forward(self, module, x):
        """Pass a prepared batch through `module` in this learner's layout and precision.

        `module` is this network or has its architecture; what it returns becomes float32.
        """
        given = x
        if self._channels_last and x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        if self._spoils_input and x is given:
            x = x.clone()
        if self.dtype is None:
            return module(x).float()
        with torch.autocast(self._device_type, self.dtype):
            return module(x).float()

    def replace_module(self, module, generator):
        """Go on with a `module` that holds the same parameters; dropout draws from `generator`."""
        self.module = self.net.module_ = module
        if not getattr(self.net, "compile", False):
            seed_dropout(module, generator)

    def add_parameters(self, parameters, **options):
        """Train tensors of the method with the optimiser of this network, as a group of its own.

        `options` such as ``weight_decay=0`` hold for the group; its learning rate follows the
        schedule.
        """
        parameters = list(parameters)
        self._parameters += parameters
        self.optimizers[0].add_param_group({"params": parameters} | options)
        self._base_lrs[0].append(self.optimizers[0].param_groups[-1]["lr"])

    def scale_lr(self, parameters, factor):
        """Train some `parameters` of the network with `factor` times its learning rate.

        Call it before the first epoch. They form groups of their own, which follow the schedule.
        """
        chosen = set(parameters)
        for optimizer, lrs in zip(self.optimizers, self._base_lrs, strict=True):
            for group, lr in list(zip(optimizer.param_groups, lrs, strict=True)):
                moved = [p for p in group["params"] if p in chosen]
                if not moved:
                    continue
                group["params"] = [p for p in group["params"] if p not in chosen]
                of_moved = {"params": moved, "lr": factor * group["lr"]}
                optimizer.add_param_group(group | of_moved)
                lrs.append(factor * lr)

    def keep_start(self):
        """Remember the weights, so that `restart` can return to them."""
        state = self.module.state_dict()
        self._start = {name: value.clone() for name, value in state.items()}

    def restart(self):
        """A network from scratch: the remembered weights and an optimiser without memory."""
        self.module.load_state_dict(self._start)
        for optimizer in self.optimizers:
            optimizer.state.clear()
        self._in_memory.clear()

    def train(self):
        """Training mode: batch statistics, dropout."""
        self.module.train()

    def eval(self):
        """Evaluation mode."""
        self.module.eval()

    def begin_epoch(self, epoch, max_epochs, lr_factor):
        """Set the learning rate of a zero-based epoch and open a row of the net's history.

        `lr_factor` is the method's function of schedule, epoch and their number.
        """
        self.net.history.new_epoch()
        self.net.history.record("epoch", epoch + 1)
        if self._schedule is not None:
            factor = lr_factor(self._schedule, epoch, max_epochs)
            if factor == self._factor:  # leave what a callback may have set
                return
            self._factor = factor
            for optimizer, lrs in zip(self.optimizers, self._base_lrs, strict=True):
                for group, lr in zip(optimizer.param_groups, lrs, strict=True):
                    group["lr"] = lr * factor

    def check_callbacks(self, has_validation):
        """Refuse callbacks that could not work, before the first epoch."""
        for callback in self._callbacks:
            name = type(callback).__name__
            if isinstance(callback, EpochScoring | BatchScoring):
                raise ValueError(
                    f"The callback {name} scores single networks on data that are not scaled; pass "
                    "X_val and y_val to fit, or use scikit-learn's ScoringMonitor."
                )
            monitor = getattr(callback, "monitor", None)
            if not has_validation and isinstance(monitor, str) and monitor.startswith("valid"):
                raise ValueError(
                    f"The callback {name} watches {monitor}, but nothing is validated; pass X_val "
                    "and y_val to fit, give the net a train_split, or set monitor='train_loss'."
                )

    def record(self, row, history):
        """Write an epoch's row into the net's history, as skorch's own loop would."""
        record = self.net.history.record
        for key, lowest in (("train_loss", True), ("valid_loss", True), ("valid_acc", False)):
            if key in row:
                record(key, row[key])
                best = (min if lowest else max)(past[key] for past in history)
                record(f"{key}_best", row[key] == best)
        record("dur", row["seconds"])
        if not self.net.history[-1]["batches"]:
            self.net.history.new_batch()  # Checkpoint looks at the last one

    @property
    def lr(self):
        """Learning rate of the first parameter group."""
        return self.optimizers[0].param_groups[0]["lr"]

    def zero_grad(self):
        """Drop the gradients of the last step."""
        for parameter in self._parameters:  # without the profiling of `Optimizer.zero_grad`
            parameter.grad = None

    def apply_gradient(self, batch=None, skip=None):
        """Clip this network's gradient and take one optimiser step; none where `skip` is True."""
        if self._has_grad_callbacks:
            parameters = list(self.module.named_parameters())
            self.notify("on_grad_computed", named_parameters=parameters, batch=batch)
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self._parameters, self.clip)
        if skip is None and not self._asks:
            self._in_memory.update(p for p in self._parameters if p.grad is not None)
        for optimizer in self.optimizers:
            if skip is None:
                optimizer.step()
            else:
                self._step_unless(skip, optimizer)

    def _step_unless(self, skip, optimizer):
        """A step that leaves weights and optimiser alone where `skip`, without asking the device.

        Asking is free on the host. A first step asks as well: it makes the optimiser's memory,
        which could not be taken back.
        """
        groups = optimizer.param_groups
        moved = {p for group in groups for p in group["params"] if p.grad is not None}
        if self._asks or not moved <= self._in_memory:
            if not skip.item():
                self._in_memory |= moved
                optimizer.step()
        elif getattr(optimizer, "_step_supports_amp_scaling", False):
            optimizer.found_inf = skip.float()  # how fused kernels are told to do nothing
            optimizer.step()
            del optimizer.found_inf
        else:
            step_and_take_back(optimizer, moved, skip)

    def notify(self, event, may_stop=True, **kwargs):
        """Tell the user's callbacks; True if one of them asks to stop.

        Where nothing `may_stop` yet, `EarlyStopping` is not told.

        skorch's `EarlyStopping` asks by raising `KeyboardInterrupt`. Everywhere else that
        exception is a user's Ctrl-C and passes through.
        """
        stop = False
        for callback in self._callbacks:
            asks = isinstance(callback, EarlyStopping) and event == "on_epoch_end"
            if asks and not may_stop:
                continue
            try:
                getattr(callback, event)(self.net, **kwargs)
            except KeyboardInterrupt:
                if not (asks and callback.misses_ == callback.patience):
                    raise
                stop = True
        return stop

    def finish(self):
        """Leave the module ready to pickle and to predict."""
        self.zero_grad()
        self.module.eval()
        unseed_dropout(self.module)


def works_in_place(module):
    """Whether a layer of `module` may overwrite its input, and so the rows that are stored."""
    return any(getattr(layer, "inplace", False) for layer in module.modules())


def step_and_take_back(optimizer, moved, skip):
    """Step on the parameters `moved`, then put back what was there where `skip`.

    Steps that an optimiser counts on the host, as Adam does unless fused, stay counted.
    """
    of_state = (v for state in optimizer.state.values() for v in state.values())
    kept = [t for t in (*moved, *of_state) if torch.is_tensor(t) and t.device == skip.device]
    before = [t.detach().clone() for t in kept]
    optimizer.step()
    with torch.no_grad():
        for now, old in zip(kept, before, strict=True):
            torch.where(skip, old, now, out=now)


def precision_of(device, dtype=None):
    """Context of passes with autocast in `dtype`, or in float32 whatever the caller's autocast."""
    if dtype is not None:
        return torch.autocast(device.type, dtype)
    if device.type in ("cpu", "cuda"):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
