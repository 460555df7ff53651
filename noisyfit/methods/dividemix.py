"""DivideMix: two networks split the data for each other and train semi-supervised."""

import math
import warnings

import torch
from torch import nn
from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit.augment import mix
from noisyfit.losses import (
    class_balance_penalty,
    confidence_penalty,
    cross_entropy,
    sharpen,
    soft_cross_entropy,
    squared_error,
)
from noisyfit.mixtures import GaussianMixtureSplitter, effective_threshold
from noisyfit.schedules import ramp

_LAMBDA_U_WHEN_MOST_ARE_WRONG = 25.0


class DivideMixClassifier(BaseNoisyClassifier):
    n_networks = 2

    def __init__(
        self,
        net=None,
        *,
        warmup="auto",
        threshold=0.5,
        temperature=0.5,
        alpha=4.0,
        lambda_u="auto",
        ramp_up=16,
        lambda_r=1.0,
        confidence_penalty=0.0,
        n_views=2,
        loss_history=1,
        splitter=None,
        guards=True,
        guess_mode="auto",
        skip_unlabelled_forward=False,
        class_prior=None,
        epoch_rows=None,
        ensemble="logits",
        augment="auto",
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.warmup = warmup
        self.threshold = threshold
        self.temperature = temperature
        self.alpha = alpha
        self.lambda_u = lambda_u
        self.ramp_up = ramp_up
        self.lambda_r = lambda_r
        self.confidence_penalty = confidence_penalty
        self.n_views = n_views
        self.loss_history = loss_history
        self.splitter = splitter
        self.guards = guards
        self.guess_mode = guess_mode
        self.skip_unlabelled_forward = skip_unlabelled_forward
        self.class_prior = class_prior
        self.epoch_rows = epoch_rows
        self.ensemble = ensemble
        self.augment = augment
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _begin(self, run):
        memory = run.memory
        memory.losses = [[], []]  # min-max scaled losses of the last epochs, per network
        memory.warmup = self._warmup_epochs(run.max_epochs)
        memory.lambda_u = None if self.lambda_u == "auto" else float(self.lambda_u)
        memory.prior = None
        self.mixture_history_ = []

    def _warmup_epochs(self, max_epochs):
        if self.warmup == "auto":
            return min(10, math.ceil(max_epochs / 5))
        return self.warmup

    def _train_epoch(self, run, epoch):
        if epoch < run.memory.warmup:
            for learner in run.learners:
                self._warm_up(run, learner, epoch)
            return
        splits = [self._divide(run, k) for k in range(2)]  # before either network changes
        if run.memory.lambda_u is None:
            wrong = torch.cat([clean <= 0.5 for clean in splits]).float().mean().item()
            run.memory.lambda_u = _LAMBDA_U_WHEN_MOST_ARE_WRONG if wrong > 0.5 else 0.0
        for k, clean in enumerate(reversed(splits)):  # each on the split of its peer
            self._semi_supervised_epoch(run, k, clean, epoch)

    def _warm_up(self, run, learner, epoch):
        for batch, _ in run.train_batches(epoch):
            logits = learner(run.view(batch.x))
            run.observe(batch.index, logits)
            loss = cross_entropy(logits, batch.y).mean()
            if self.confidence_penalty:
                loss = loss + self.confidence_penalty * confidence_penalty(logits).mean()
            run.step(loss, [learner])

    def _divide(self, run, k):
        """Clean posterior (n,) from the losses of network `k`."""
        logits = run.evaluate(run.learners[k])
        run.observe(torch.arange(len(logits), device=run.device), logits)
        losses = cross_entropy(logits, run.data.y)
        if not torch.isfinite(losses).all():
            raise ValueError("loss")
        span = losses.max() - losses.min()
        if span < 1e-12:
            return torch.ones_like(losses)
        memory = run.memory.losses[k]
        memory.append((losses - losses.min()) / span)
        del memory[: -self.loss_history]
        clean = self._mixture(torch.stack(memory).mean(0))
        if self.guards:
            clean = guarded(clean, logits, run.data.y, self.threshold)
        return clean

    def _mixture(self, scaled):
        from noisyfit._gaussian_em import gaussian_em, gaussian_posterior
        return gaussian_posterior(scaled, gaussian_em(scaled)).float()

    def _semi_supervised_epoch(self, run, k, clean, epoch):
        net, peer = run.learners[k], run.learners[1 - k]
        net.train()
        peer.eval()
        labelled, unlabelled = split(clean, self.threshold, max(run.n_classes, run.batch_size // 2))
        size = max(1, run.batch_size // 2)
        run.log(**{f"n_labelled_{k + 1}": len(labelled)})
        n_batches = math.ceil(len(labelled) / size)
        n_ramp = len(labelled) // size + 1
        stream = self._unlabelled(run, unlabelled, size, n_batches)
        for b, (batch, _) in enumerate(run.train_batches(epoch, run.shuffled(labelled), size)):
            weight = run.memory.lambda_u * ramp(epoch + b / n_ramp, run.memory.warmup, self.ramp_up)
            loss = self._mixmatch(run, net, peer, batch, clean[batch.index], next(stream), weight)
            run.step(loss, [net])

    def _unlabelled(self, run, index, size, n_batches):
        if len(index) < 2:
            while True:
                yield None
        size = min(size, len(index))
        n_passes = math.ceil(n_batches * size / len(index))
        order = torch.cat([run.shuffled(index) for _ in range(n_passes)])[: n_batches * size]
        yield from run.data.batches(size, order)

    def _mixmatch(self, run, net, peer, batch, clean, batch_u, lambda_u):
        with torch.no_grad():
            x = [run.view(batch.x) for _ in range(self.n_views)]
            guess = self._guess([net], x)
            given = functional.one_hot(batch.y, run.n_classes)
            w = clean[:, None]
            target = sharpen(w * given + (1 - w) * guess, self.temperature)
            inputs, targets = x, [target] * self.n_views
            if batch_u is not None:
                u = [run.view(batch_u.x) for _ in range(self.n_views)]
                target_u = sharpen(self._guess([net, peer], u), self.temperature)
                inputs, targets = inputs + u, targets + [target_u] * self.n_views
            inputs, targets = torch.cat(inputs), torch.cat(targets)
            lam = float(run.rng.beta(self.alpha, self.alpha))
            lam = max(lam, 1 - lam)
            partner = torch.randperm(len(inputs), generator=run.generator, device=run.device)
            inputs = lam * inputs + (1 - lam) * inputs[partner]
            targets = lam * targets + (1 - lam) * targets[partner]
        n_x = self.n_views * len(batch.y)
        logits = net(inputs)
        loss = soft_cross_entropy(logits[:n_x], targets[:n_x]).mean()
        if len(logits) > n_x:
            loss = loss + lambda_u * squared_error(logits[n_x:], targets[n_x:]).mean()
        return loss + self.lambda_r * class_balance_penalty(logits)

    def _guess(self, learners, views):
        p = [learner(view).softmax(1) for learner in learners for view in views]
        return torch.stack(p).mean(0)

    def _posterior(self, run, logits):
        out = []
        for k in range(2):
            losses = cross_entropy(logits[k], run.data.y)
            s = (losses - losses.min()) / (losses.max() - losses.min()).clamp_min(1e-12)
            c = self._mixture(s)
            if self.guards:
                c = guarded(c, logits[k], run.data.y, self.threshold)
            out.append(c)
        return torch.stack(out).mean(0)


def split(clean, threshold, n_min):
    lo, hi = clean.min(), clean.max()
    tau = min(max(threshold, float(lo) + 1e-5), float(hi) - 1e-5)
    labelled = clean > tau
    n_min = min(n_min, len(clean))
    if labelled.sum() < n_min:
        labelled = torch.zeros_like(labelled)
        labelled[clean.argsort(descending=True, stable=True)[:n_min]] = True
    return labelled.nonzero().squeeze(1), (~labelled).nonzero().squeeze(1)


def guarded(clean, logits, y, threshold):
    """"""
    noisy = clean <= threshold
    agree = (logits.argmax(1) == y) & noisy
    rate = agree.sum() / noisy.sum().clamp_min(1)
    if rate > 1 / logits.shape[1]:
        return torch.ones_like(clean)
    return clean
