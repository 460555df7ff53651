"""MLNT: meta-learning based noise-tolerant training."""

import copy

import torch
from torch import nn
from torch.nn import functional

from noisyfit._averaging import WeightAverage
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._lookahead import LookAhead
from noisyfit.losses import soft_cross_entropy
from noisyfit.schedules import exponential_ramp


def nearest(features, k):
    """Positions of the `k` nearest other rows in the batch, (batch, k)."""
    distance = torch.cdist(features, features).fill_diagonal_(torch.inf)
    return distance.topk(k, largest=False).indices


def synthetic_labels(y, neighbours, n_changed, n_sets, generator):
    """`n_sets` copies of `y` in which random rows take the label of a neighbour, (n_sets, batch).

    `neighbours` (batch, k) are positions of which one is drawn for each of `n_changed` rows.
    """
    places = torch.rand(n_sets, len(y), generator=generator, device=y.device)
    rows = places.argsort(1)[:, :n_changed]
    size, k = rows.shape, neighbours.shape[1]
    drawn = torch.randint(k, size, generator=generator, device=y.device)
    return y.expand(n_sets, -1).scatter(1, rows, y[neighbours[rows, drawn]])


def consistency(target, logits, reduction="mean"):
    """``KL(target || softmax(logits))``, shape (); "mean" is over rows and classes."""
    kl = torch.xlogy(target, target) - target * logits.log_softmax(1)  # (batch, n_classes)
    return kl.mean() if reduction == "mean" else kl.sum() / len(kl)


class LastLinearInput:
    def __init__(self, module):
        self._seen = None
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(self._see)

    def _see(self, layer, inputs):
        self._seen = inputs[0]

    def take(self, logits):
        seen, self._seen = self._seen, None
        if seen is None or len(seen) != len(logits):
            return logits
        return seen.detach().flatten(1).float()


class Proto(BaseNoisyClassifier):
    def __init__(self, net=None, *, n_sets=10, flip=0.5, k=10, inner_lr=0.2, meta_rate=0.4,
                 second_order=True, reduction="mean", warmup=0.025, ramp=1/6, feature_net="self",
                 pretrain=0.1, decay=(.1,.1), mean=False, cap=0.999, predict_with="teacher", augment="auto", clean_score="auto",
                 random_state=None, verbose=0):
        for k_, v in list(locals().items()):
            if k_ not in ("self", "__class__"): setattr(self, k_, v)

    def _begin(self, run):
        m = run.memory
        m.look = LookAhead(run.learners[0]); m.teacher = None
        n = run.max_epochs
        m.begin = round(self.pretrain * n) if self.feature_net == "pretrain" else 0
        if m.begin: run.learners[0].keep_start()
        left = n - m.begin
        m.warmup, m.ramp = self.warmup*left, self.ramp*left
        T = left*run.steps_per_epoch
        m.decay = [d if d >= .5 else min(self.cap, max(0., 1-1/(d*T))) for d in self.decay]
        m.mentor = None

    def _train_epoch(self, run, epoch):
        m = run.memory; (net,) = run.learners
        if epoch == m.begin and m.begin:
            m.mentor = WeightAverage(net, run.generator); m.mentor.eval(); m.mentor_tap = LastLinearInput(m.mentor.module)
            net.restart()
        for batch, t in run.train_batches(epoch):
            since = t - m.begin - m.warmup
            x = run.view(batch.x)
            logits = net(x)
            run.observe(batch.index, logits)
            loss = functional.cross_entropy(logits, batch.y)
            on = since >= 0 and self.meta_rate > 0
            further = ()
            if on:
                if m.teacher is None:
                    m.teacher = WeightAverage(net, run.generator); m.teacher.train(); m.tap = LastLinearInput(m.teacher.module)
                else:
                    m.k = getattr(m,"k",0)+1; m.teacher.update(min(m.decay[since >= m.ramp], 1-1/(m.k+1) if self.mean else 1))
                rate = self.meta_rate*exponential_ramp(since, m.ramp)
                further = self._meta(run, batch, x, logits, rate)
            run.step(loss, further=further)

    def _meta(self, run, batch, x, logits, rate):
        m = run.memory
        seen = m.teacher(x); target = seen.softmax(1)
        if m.mentor is not None:
            f = m.mentor_tap.take(m.mentor(x))
        else:
            f = m.tap.take(seen)
        if len(batch.y) < 2: return
        near = nearest(f, min(self.k, len(batch.y)-1))
        for y in synthetic_labels(batch.y, near, int(self.flip*len(batch.y)), self.n_sets, run.generator):
            yield rate/self.n_sets*self._one(m, x, logits, y, target)

    def _one(self, m, x, logits, y, target):
        g = m.look.gradient(functional.cross_entropy(logits, y), self.second_order)
        return consistency(target, m.look(x, m.look.step(g, self.inner_lr)), self.reduction)

    def _finish(self, run):
        if run.memory.teacher is not None and self.predict_with == "teacher":
            self.student_ = copy.deepcopy(run.learners[0].module)
            run.memory.teacher.replace()
