"""INCV."""

import math

import numpy as np
import torch
from sklearn.base import clone
from torch.nn import functional

from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_integer, is_auto
from noisyfit._data import Batch, StreamData
from noisyfit._evidence import combine
from noisyfit._incv import INCVCleaner
from noisyfit._network import check_net
from noisyfit._small_loss import forget_rate, refuse_equal_starts
from noisyfit.losses import cross_entropy
from noisyfit.methods.cross_entropy import CrossEntropyClassifier

_LEAST_STEPS = 100


def joined(first, second):
    return Batch(*(torch.cat(parts) for parts in zip(first, second, strict=True)))


def without_callbacks(net, **params):
    given = clone(net).get_params(deep=False)
    kept = {k: v for k, v in given.items() if not k.startswith("callbacks")}
    return type(net)(**kept | params)


class INCVClassifier(BaseNoisyClassifier):
    n_networks = 2

    def __init__(
        self,
        net=None,
        *,
        cleaner=None,
        cleaning_epochs="auto",
        warmup="auto",
        n_gradual=10,
        ensemble="proba",
        augment="auto",
        clean_score="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.cleaner = cleaner
        self.cleaning_epochs = cleaning_epochs
        self.warmup = warmup
        self.n_gradual = n_gradual
        self.ensemble = ensemble
        self.augment = augment
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _begin(self, run):
        refuse_equal_starts(run)
        memory = run.memory
        self.cleaner_ = cleaner = self._clean(run)
        sel, cand = cleaner.selected_, cleaner.candidate_
        if cleaner.at_chance_:
            sel, cand = np.ones_like(sel), np.zeros_like(cand)
        memory.selected = torch.from_numpy(np.flatnonzero(sel)).to(run.device)
        memory.candidates = torch.from_numpy(np.flatnonzero(cand)).to(run.device)
        memory.left = 0.0 if cleaner.at_chance_ else 1 - cleaner.expected_precision_
        n_s, n_c = len(memory.selected), len(memory.candidates)
        memory.n_more = min(n_c * run.batch_size // n_s, run.batch_size // 2)
        long = cleaner.noise_type == "pair" or cleaner.noise_rate_ > 0.6
        memory.warmup = round((0.4 if long else 0.2) * run.max_epochs) if is_auto(self.warmup) else self.warmup
        run.last_stage = memory.warmup + 1

    def _clean(self, run):
        net = check_net(self.net)
        data = run.data
        is_stream = isinstance(data, StreamData)
        params = {"max_epochs": self._cleaning_epochs(run), "train_split": None}
        if self._on_table and not is_stream and hasattr(net, "normalize"):
            params["normalize"] = None
        base = CrossEntropyClassifier(without_callbacks(net, **params), augment=self._resolve_augment())
        cleaner = INCVCleaner() if self.cleaner is None else clone(self.cleaner)
        if cleaner.base_estimator is None:
            cleaner.set_params(base_estimator=base)
        cleaner.set_params(random_state=int(run.rng.integers(2**31)))
        return cleaner.fit(data.source if is_stream else data.x, data.y.cpu().numpy())

    def _cleaning_epochs(self, run):
        if not is_auto(self.cleaning_epochs):
            return self.cleaning_epochs
        steps = math.ceil(len(run.data) / 2 / run.batch_size)
        return min(run.max_epochs, max(math.ceil(run.max_epochs / 4), math.ceil(_LEAST_STEPS / steps)))

    def _train_epoch(self, run, epoch):
        memory = run.memory
        forget = forget_rate(epoch, memory.left, self.n_gradual)
        more = self._candidates(run) if epoch > memory.warmup and memory.n_more else None
        n_pool = n_kept = 0
        for batch, _ in run.train_batches(epoch, run.shuffled(memory.selected)):
            n_keep = max(round((1 - forget) * len(batch.y)), min(2, len(batch.y)))
            pool = joined(batch, next(more)) if more else batch
            run.step(self._loss(run, pool, n_keep))
            n_pool += len(pool.y); n_kept += n_keep
        run.log(n_pool=n_pool, n_kept=n_kept)

    def _candidates(self, run):
        while True:
            yield from run.data.batches(run.memory.n_more, run.shuffled(run.memory.candidates))

    def _loss(self, run, pool, n_keep):
        f, g = run.learners
        x = run.view(pool.x)
        easy_f, easy_g = (self._easiest(run, l, x, pool, n_keep) for l in (f, g))
        return (cross_entropy(f(x[easy_g]), pool.y[easy_g]).mean() + cross_entropy(g(x[easy_f]), pool.y[easy_f]).mean())

    def _easiest(self, run, learner, x, pool, n_keep):
        learner.eval()
        with torch.no_grad():
            logits = learner(x)
        learner.train()
        run.observe(pool.index, logits)
        return cross_entropy(logits, pool.y).argsort(stable=True)[:n_keep]

    def _posterior(self, run, logits):
        return torch.from_numpy(self.cleaner_.clean_proba_).to(logits)

    def _refined_proba(self, run, logits, clean_proba):
        given = functional.one_hot(run.data.y, run.n_classes).to(logits)
        selected = torch.from_numpy(self.cleaner_.selected_).to(run.device)
        return torch.where(selected[:, None], given, combine(logits, self.ensemble))
