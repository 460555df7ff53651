"""One fit in progress: what the hooks of a method work with."""

import math
import time
from types import SimpleNamespace

import numpy as np
import torch

from noisyfit._dynamics import Dynamics
from noisyfit._learner import precision_of, works_in_place


def scaled(x, scale, shift):
    """Network input from stored rows; tables are stored scaled."""
    return x if x.ndim == 2 else torch.addcmul(shift, x.float(), scale)


def forward_all(module, data, constants, n_classes, dtype=None, out=None):
    """Float32 logits (n, n_classes) of all rows in stored order; `module` is in evaluation mode.

    They are computed in float32, or with autocast in `dtype`, and written to `out` if given.
    """
    if out is None:
        out = torch.empty(len(data), n_classes, device=data.device)
    spoils_input = works_in_place(module)
    start = 0
    with torch.no_grad(), precision_of(data.device, dtype):
        for batch in data.batches(data.evaluation_size):
            end = start + len(batch.x)
            x = scaled(batch.x, *constants)
            out[start:end] = module(x.clone() if spoils_input else x).float()
            start = end
    return out


_OF_THE_CALL = ("data", "constants", "_augment", "_batch")  # not kept in a file


class Run:
    """Networks, data, randomness and records of one fit; never stored on the estimator.

    Attributes
    ----------
    learners : tuple of Learner
        Call one with a prepared batch to get float32 logits.
    data : TensorData or StreamData
        Training rows; ``data.y`` are the given labels as codes, ``data.rows`` what the method's
        ``fit`` took beside them, tensors (n,) by name.
    n_classes, max_epochs, batch_size, steps_per_epoch : int
    device : torch.device
    generator : torch.Generator on the device
    rng : numpy.random.Generator
        For draws on the host, such as one mixing weight per batch.
    constants : pair of tensors
        Scale and shift of stored images.
    dynamics : Dynamics
    history : list of dict
    last_stage : int
        Zero-based epoch from which early stopping looks on; a method with stages sets it.
    memory : SimpleNamespace
        Whatever the method keeps between batches, such as a tensor per sample.
    """

    def __init__(self, learners, data, constants, augment, n_classes, seed, drop_last=False):
        self.learners = tuple(learners)
        self.data = data
        self.n_classes = n_classes
        self.device = data.device
        net = self.learners[0].net
        self.max_epochs, self.batch_size = int(net.max_epochs), int(net.batch_size)
        self.steps_per_epoch = math.ceil(len(data) / self.batch_size)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.rng = np.random.default_rng(seed)
        self.dynamics = Dynamics(data.y)
        self.history = []
        self.last_stage = 0
        self.memory = SimpleNamespace()
        self.constants = constants
        self._augment = augment
        self._drop_last = drop_last
        self._losses = []
        self._record = {}
        self._batch = None
        self._batch_callbacks = any(learner.has_batch_callbacks for learner in self.learners)

    def __getstate__(self):
        return {k: v for k, v in vars(self).items() if k not in (*_OF_THE_CALL, "_datasets")}

    def go_on_with(self, run):
        """Take data and views of a `run` that was to start; this one comes from a file."""
        for name in _OF_THE_CALL:
            setattr(self, name, getattr(run, name))

    def view(self, x, augment=None):
        """Scaled random view of a stored batch, by `augment` or else the method's own.

        Each call draws anew.
        """
        augment = self._augment if augment is None else augment
        if augment is not None:
            x = augment(x.clone(), self.generator)  # it may work in place
        return self.plain(x)

    def plain(self, x):
        """Scaled copy of a stored batch, not augmented."""
        return scaled(x, *self.constants)

    @property
    def has_views(self):
        """Whether two views of one sample differ."""
        return self._augment is not None

    def shuffled(self, index=None):
        """A random order of all training positions, or of those in `index` (int64 tensor)."""
        n = len(self.data) if index is None else len(index)
        order = torch.randperm(n, generator=self.generator, device=self.device)
        return order if index is None else index[order]

    def train_batches(self, epoch, order=None, batch_size=None, learners=None):
        """Yield (batch, t) over a shuffled pass; `t` counts epochs, fractional inside one.

        The callbacks of `learners` (all by default), which take a step on it, hear of each batch.
        """
        order = self.shuffled() if order is None else order
        size = batch_size or self.batch_size
        drop_last = self._drop_last and len(order) >= 2 * size
        n_batches = math.ceil(len(order) / size)
        for b, batch in enumerate(self.data.batches(size, order, drop_last)):
            if self._batch_callbacks:
                self._notify_batch_begin(batch, learners or self.learners)
            yield batch, epoch + b / n_batches

    def step(self, loss, learners=None, skip=None, further=()):
        """One optimiser step of each network on the scalar `loss`.

        Where the bool tensor `skip` of shape () is True, weights and optimisers stay as they are:
        neither weight decay nor momentum acts. For batches in which nothing is selected; `loss`
        must be finite all the same.

        The gradients of the scalars in `further` are added one after the other: a generator that
        makes them keeps one graph alive at a time. They may share a part of theirs with `loss`.
        """
        learners = self.learners if learners is None else learners
        for learner in learners:
            learner.zero_grad()
        at_once = [loss]  # with the first of the others: one pass over what they share
        for extra in further:
            torch.autograd.backward([*at_once, extra], retain_graph=True)
            at_once, extra = [], None  # its graph goes before the next is made
        if at_once:
            loss.backward()
        for learner in learners:
            learner.apply_gradient(self._batch, skip)
        self._losses.append(loss.detach())
        if self._batch_callbacks:
            self._notify_batch_end(loss, learners)

    def observe(self, index, logits, counts=None):
        """Record what a training pass said of the samples `index`: logits (batch, n_classes).

        Rows where the mask `counts` is False are left out.
        """
        self.dynamics.observe(index, logits, counts)

    def log(self, **values):
        """Add numbers or one-element tensors to this epoch's row of ``history_``."""
        self._record.update(values)

    def evaluate(self, learner, data=None, exact=False, out=None):
        """Logits (n, n_classes) of un-augmented rows in evaluation mode, in stored order.

        They are computed in the precision of training, or if `exact` in float32 like predictions,
        and written to `out` if given.
        """
        learner.eval()
        data = self.data if data is None else data
        dtype = None if exact else learner.dtype
        return forward_all(learner.module, data, self.constants, self.n_classes, dtype, out)

    def evaluate_all(self, data=None, exact=False):
        """Logits (n_networks, n, n_classes), see `evaluate`."""
        n = len(self.data if data is None else data)
        logits = torch.empty(len(self.learners), n, self.n_classes, device=self.device)
        for learner, out in zip(self.learners, logits, strict=True):
            self.evaluate(learner, data, exact, out)
        return logits

    def begin_epoch(self, epoch, lr_factor):
        """Open the epoch: modes, learning rates by the method's function, callbacks."""
        self._started = time.perf_counter()
        self._losses, self._record = [], {}
        for learner in self.learners:
            learner.train()
            learner.begin_epoch(epoch, self.max_epochs, lr_factor)
            learner.notify("on_epoch_begin", **self._datasets)

    def end_epoch(self, epoch):
        """Write the epoch's row of ``history_``; raise if the loss is not finite."""
        accuracy = self.dynamics.end_epoch()
        loss = torch.stack(self._losses).mean().item() if self._losses else math.nan
        if self._losses and not math.isfinite(loss):
            raise ValueError(
                f"The training loss became {loss} in epoch {epoch + 1} of {self.max_epochs}. The "
                f"likely cause is too large a learning rate (lr={self.learners[0].lr:.3g}); "
                "lower net__lr or set net__gradient_clip."
            )
        row = {"epoch": epoch + 1, "train_loss": loss}
        if accuracy is not None:
            row["train_acc"] = accuracy
        row["lr"] = self.learners[0].lr
        row |= {k: v.item() if torch.is_tensor(v) else v for k, v in self._record.items()}
        self.history.append(row)
        return row

    def close_epoch(self, row):
        """Add the time, tell the callbacks; True if one of them asks to stop.

        Before the method's last stage those that may ask are not told.
        """
        may_stop = row["epoch"] > self.last_stage
        row["seconds"] = time.perf_counter() - self._started
        stop = False
        for learner in self.learners:
            learner.record(row, self.history)
            stop |= learner.notify("on_epoch_end", may_stop, **self._datasets)
        return stop

    def begin(self, data_valid=None):
        """Tell the callbacks that training begins, unless it goes on."""
        valid = None if data_valid is None else data_valid.dataset()
        self._datasets = {"dataset_train": self.data.dataset(), "dataset_valid": valid}
        if self.history:
            return
        for learner in self.learners:
            learner.notify("on_train_begin", X=None, y=None)

    def end(self):
        """Tell the callbacks that training ended; one may load earlier weights."""
        for learner in self.learners:
            learner.notify("on_train_end", X=None, y=None)

    def rest(self):
        """Leave the networks ready to pickle and to predict."""
        for learner in self.learners:
            learner.finish()

    def _notify_batch_begin(self, batch, learners):
        self._batch = (batch.x, batch.y)
        for learner in learners:
            learner.net.history.new_batch()
            learner.notify("on_batch_begin", batch=self._batch, training=True)

    def _notify_batch_end(self, loss, learners):
        for learner in learners:
            learner.net.history.record_batch("train_loss", loss.item())
            learner.notify("on_batch_end", batch=self._batch, training=True, loss=loss)
