"""MentorNet: a curriculum, predefined or learnt, that weighs the samples of a student network."""

import copy
import math
import os
from pathlib import Path

import numpy as np
import torch

from noisyfit._base import BaseNoisyClassifier
from noisyfit._callbacks import with_callbacks
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._curriculum import MovingPercentile
from noisyfit._mentor import CURRICULA, Mentor, check_rule
from noisyfit._selection import SelectionRecord
from noisyfit._small_loss import SmallLossMixin
from noisyfit._small_tables import epochs_before_doubt
from noisyfit._trusted import TrustedMixin
from noisyfit.losses import cross_entropy

EXAMPLE_DROPOUT = {
    "predefined": [(0.17, 0.5), (0.83, 0.05)],
    "data_driven": [(0.17, 0.5), (0.78, 0.05), (0.05, 0.9)],
}
_BURN_IN = 0.18


def percentile_for(noise_rate, highest=0.9):
    return min(max(1 - noise_rate, 0.5), highest)


def dropout_rate(schedule, share):
    end = 0.0
    for length, rate in schedule:
        end += length
        if share < end - 1e-9:
            return rate
    return rate


def example_dropout(weights, rate, generator):
    n_keep = int(len(weights) * (1 - rate) + 1e-9)
    if n_keep == len(weights):
        return weights
    draws = torch.rand(len(weights), generator=generator, device=weights.device)
    kept = draws.argsort()[:n_keep]
    return torch.zeros_like(weights).index_copy_(0, kept, weights[kept])


class MentorNetClassifier(TrustedMixin, BaseNoisyClassifier):
    """P"""
    needs_every_class = False
    train_when = "after"     # pilot: "always", "after"
    tau_auto = "fixed"

    def __init__(self, net=None, *, mentor="predefined", percentile="auto", noise_rate="auto", decay=0.5,
        burn_in="auto", example_dropout="predefined", trusted_noise="auto", n_mentor_updates=0, mentor_percentile=None,
        use_trusted_in_training=True, scale_decay=False,
        augment="auto", clean_score="auto", random_state=None, verbose=0):
        for k, v in list(locals().items()):
            if k != "self" and not k.startswith("__"): setattr(self, k, v)

    @with_callbacks
    def fit(self, X, y=None, *, trusted=None, clean_labels=None, X_val=None, y_val=None):
        return self._fit_or_forget(X, y, X_val, y_val, trusted=trusted, clean_labels=clean_labels)

    @property
    def _learns(self):
        return is_one_of(self.mentor, ("data_driven",)) or (isinstance(self.mentor, Mentor) and not self.mentor.is_trained)

    def _begin(self, run):
        memory = run.memory
        self.mentor_ = None
        E = run.max_epochs
        auto = is_auto(self.burn_in)
        plain = math.ceil((_BURN_IN if auto else self.burn_in) * E)
        if auto:
            plain = min(epochs_before_doubt(plain, self._shape, run.steps_per_epoch), max(E // 2, plain))
        memory.burn_in = min(plain, E - 1)
        run.last_stage = memory.burn_in
        memory.selection = SelectionRecord(len(run.data), run.device)
        p = self.percentile
        if is_auto(p):
            p = None if is_auto(self.noise_rate) else percentile_for(self.noise_rate)
        memory.threshold = None if p is None else MovingPercentile(p, self.decay)
        memory.schedule = self.example_dropout
        if isinstance(memory.schedule, str): memory.schedule = EXAMPLE_DROPOUT[memory.schedule]
        memory.rule = CURRICULA.get(self.mentor) if isinstance(self.mentor, str) else self.mentor
        memory.trusted = run.data.rows.get("trusted")
        memory.true = run.data.rows.get("true", run.data.y)
        memory.updates = []
        if self._learns:
            ups = np.linspace(.21, .75, self.n_mentor_updates)
            memory.updates = [memory.burn_in] + [max(memory.burn_in + 1, round(s * E)) for s in ups]

    def _train_epoch(self, run, epoch):
        memory = run.memory
        if epoch == memory.burn_in and memory.threshold is None:
            rate = SmallLossMixin._estimate_rate(self, run)
            memory.rate = rate
            memory.threshold = MovingPercentile(percentile_for(rate, 1.0), self.decay)
        if epoch in memory.updates:
            self._train_mentor(run, epoch)
        window = memory.selection.open_in_last_epochs(epoch, run.max_epochs)
        memory.selection.is_open = window and epoch >= memory.burn_in
        order = None
        if memory.trusted is not None and memory.updates and self.train_when == "after" and epoch < max(memory.updates):
            order = run.shuffled((~memory.trusted).nonzero().squeeze(1))
        for batch, t in run.train_batches(epoch, order):
            loss, nothing = self._weighted(run, batch, t)
            run.step(loss, skip=nothing)
        self.percentile_ = getattr(memory.threshold, "share", None)

    def _train_mentor(self, run, epoch):
        (net,) = run.learners
        memory = run.memory
        rows = memory.trusted.nonzero().squeeze(1)
        data = run.data.subset(rows)
        logits = run.evaluate(net, data)
        net.train()
        true = memory.true[rows]
        given = data.y.clone()
        if "true" not in run.data.rows:
            tau = .4 if self.tau_auto == "fixed" or is_auto(self.noise_rate) is False else max(memory.rate, .05)
            n = len(given)
            k = min(max(1, round(tau * n)), n - 1)
            which = torch.from_numpy(run.rng.permutation(n)[:k])
            shift = torch.from_numpy(run.rng.integers(1, run.n_classes, k))
            given[which] = (given[which] + shift) % run.n_classes
        losses = cross_entropy(logits, given)
        q = losses.quantile(self.mentor_percentile or memory.threshold.share)
        m = Mentor() if isinstance(self.mentor, str) else copy.deepcopy(self.mentor)
        if m.random_state is None: m.random_state = int(run.rng.integers(2**31))
        m.fit(losses, losses - q, int(100 * epoch / run.max_epochs), given == true)
        self.mentor_ = memory.rule = m

    def _weighted(self, run, batch, t):
        (net,), memory = run.learners, run.memory
        logits = net(run.view(batch.x))
        run.observe(batch.index, logits)
        given = losses = cross_entropy(logits, batch.y)
        seen = given.detach()
        weights = torch.ones_like(seen)
        if memory.threshold is not None:
            difference = seen - memory.threshold.update(seen)
            if t >= memory.burn_in:
                weights = memory.rule(seen, difference, min(int(100 * t / run.max_epochs + 1e-9), 99))
        if memory.trusted is not None:
            trusted = memory.trusted[batch.index]
            weights = torch.where(trusted, 1.0, weights)
            y = torch.where(trusted, memory.true[batch.index], batch.y)
            losses = cross_entropy(logits, y)
        memory.selection.add(batch.index, weights)
        rate = dropout_rate(memory.schedule, t / run.max_epochs)
        weights = example_dropout(weights, rate, run.generator)
        return (weights * losses).sum() / len(weights), ~(weights > 0).any()

    def _posterior(self, run, logits):
        return run.memory.selection.frequency(run.dynamics.agreement())
