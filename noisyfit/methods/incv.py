"""INCV: cross-validation finds labels to believe, and two networks start from those."""

import numpy as np
import torch
from sklearn.base import clone
from torch.nn import functional

from noisyfit._agreement import is_chance
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, is_auto
from noisyfit._data import Batch, StreamData
from noisyfit._evidence import combine
from noisyfit._incv import INCVCleaner
from noisyfit._network import check_net
from noisyfit._out_of_fold import bare, short_training
from noisyfit._small_loss import forget_rate, refuse_equal_starts
from noisyfit._small_tables import epochs_before_doubt
from noisyfit.losses import cross_entropy
from noisyfit.methods.cross_entropy import CrossEntropyClassifier

_T, _FULL = 0.5, False
_DEVIATIONS = 1  # by which an agreement above chance is not taken for one


def rows_to_keep(n, forget):
    """``round((1 - forget) n)`` of a batch of `n`, two at least, as batch normalisation needs."""
    return max(round((1 - forget) * n), min(2, n))


def candidates_per_batch(n_candidates, n_selected, batch_size):
    """So many that a pass over the selected rows shows all candidates, up to half a batch."""
    return min(n_candidates * batch_size // n_selected, batch_size // 2)


def joined(first, second):
    """One batch of two."""
    return Batch(*(torch.cat(parts) for parts in zip(first, second, strict=True)))


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
        guards=True,
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
        self.guards = guards
        self.ensemble = ensemble
        self.augment = augment
        self.clean_score = clean_score
        self.random_state = random_state
        self.verbose = verbose

    def _begin(self, run):
        refuse_equal_starts(run)
        memory = run.memory
        cleaner = self.cleaner_ = self._fit_cleaner(run)
        rate, is_pair = cleaner.noise_rate_, cleaner.noise_type == "pair"
        selected, candidate, wrong = self._guarded(cleaner)
        memory.is_selected, memory.is_candidate, memory.wrong = selected, candidate, wrong
        memory.selected, memory.candidates = (
            torch.from_numpy(np.flatnonzero(mask)).to(run.device) for mask in (selected, candidate)
        )
        memory.n_more = candidates_per_batch(candidate.sum(), selected.sum(), run.batch_size)
        steps = -(-int(selected.sum()) // run.batch_size)
        memory.plain = min(epochs_before_doubt(0, self._shape, steps), run.max_epochs // 2)
        memory.warmup = self.warmup
        if is_auto(self.warmup):
            memory.warmup = max(
                memory.plain, round((0.4 if is_pair or rate > 0.6 else 0.2) * run.max_epochs)
            )
        run.last_stage = max(memory.warmup + 1 if memory.n_more else 0, self.n_gradual)

    def _fit_cleaner(self, run):
        cleaner = INCVCleaner(verbose=self.verbose) if self.cleaner is None else clone(self.cleaner)
        if cleaner.base_estimator is None:
            cleaner.set_params(base_estimator=self._base_estimator(run))
        cleaner.set_params(random_state=int(run.rng.integers(2**31)))
        X = run.data.source if isinstance(run.data, StreamData) else run.data.x
        fit = cleaner._divide if self.guards else cleaner.fit
        fit(X, run.data.y.cpu().numpy())
        return cleaner

    def _base_estimator(self, run):
        """Plain training of the net, for a shorter time."""
        epochs = self.cleaning_epochs
        if is_auto(epochs):
            epochs = short_training(run.max_epochs, len(run.data), run.batch_size, self._shape)
        net, params = check_net(self.net), {"max_epochs": epochs}
        if self._on_table and not isinstance(run.data, StreamData) and hasattr(net, "normalize"):
            params["normalize"] = None  # the rows are scaled
        return CrossEntropyClassifier(bare(net, **params), augment=self._resolve_augment())

    def _guarded(self, cleaner):
        """Masks of the selected rows and the candidates, and the share of wrong labels among the
        former."""
        selected, candidate = cleaner.selected_, cleaner.candidate_
        wrong = 1 - cleaner.expected_precision_
        if not self.guards:
            return selected, candidate, wrong
        agreement, n, n_classes = (
            cleaner.history_[0]["agreement"],
            len(selected),
            len(self.classes_),
        )
        if is_chance(agreement, n, n_classes, cleaner.noise_type, _DEVIATIONS):
            return np.ones_like(selected), np.zeros_like(candidate), 0.0
        likely = ~selected & (cleaner.clean_proba_ > _T)
        n_wrong = wrong * selected.sum() + (
            likely.sum() if _FULL else (1 - cleaner.clean_proba_[likely]).sum()
        )
        selected = selected | likely
        return selected, candidate & ~likely, n_wrong / selected.sum()

    def _train_epoch(self, run, epoch):
        memory = run.memory
        forget = forget_rate(max(0, epoch - memory.plain), memory.wrong, self.n_gradual)
        more = self._candidates(run) if memory.n_more and epoch > memory.warmup else None
        n_pool = n_kept = 0
        for batch, _ in run.train_batches(epoch, run.shuffled(memory.selected)):
            n_keep = rows_to_keep(len(batch.y), forget)
            pool = batch if more is None else joined(batch, next(more))
            run.step(self._loss(run, pool, n_keep))
            n_pool, n_kept = n_pool + len(pool.y), n_kept + n_keep
        run.log(n_pool=n_pool, n_kept=n_kept)

    def _candidates(self, run):
        """Batches of candidates without end."""
        while True:
            yield from run.data.batches(run.memory.n_more, run.shuffled(run.memory.candidates))

    def _loss(self, run, pool, n_keep):
        f, g = run.learners
        x = run.view(pool.x)
        easy_f = self._easiest(run, f, x, pool, n_keep)
        easy_g = self._easiest(run, g, x, pool, n_keep)
        return peer_loss(f, x, pool.y, easy_g) + peer_loss(g, x, pool.y, easy_f)

    def _easiest(self, run, learner, x, pool, n_keep):
        """Positions (n_keep,) of the smallest losses in evaluation mode."""
        learner.eval()
        with torch.no_grad():
            logits = learner(x)  # (pool, n_classes)
        learner.train()
        run.observe(pool.index, logits)
        return cross_entropy(logits, pool.y).argsort(stable=True)[:n_keep]

    def _posterior(self, run, logits):
        return torch.from_numpy(self.cleaner_.clean_proba_).to(logits)

    def _refined_proba(self, run, logits, clean_proba):
        given = functional.one_hot(run.data.y, run.n_classes).to(logits.dtype)
        selected = torch.from_numpy(run.memory.is_selected).to(run.device)
        return torch.where(selected[:, None], given, combine(logits, self.ensemble))

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        rows = slice(None) if train_rows is None else train_rows.numpy()
        selected, candidate = np.zeros(len(data), dtype=bool), np.ones(len(data), dtype=bool)
        selected[rows], candidate[rows] = run.memory.is_selected, run.memory.is_candidate
        self.selected_, self.candidate_ = selected, candidate
        self.discarded_ = ~selected & ~candidate
        self.noise_rate_ = self.cleaner_.noise_rate_

    def _check_parameters(self):
        super()._check_parameters()
        if not is_auto(self.cleaning_epochs):
            check_integer(self.cleaning_epochs, "cleaning_epochs", 1)
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 0)
        check_integer(self.n_gradual, "n_gradual", 0)
        check_bool(self.guards, "guards")
        if not (self.cleaner is None or isinstance(self.cleaner, INCVCleaner)):
            raise TypeError(f"cleaner must be an INCVCleaner, got {self.cleaner!r}.")
        if self.cleaner is not None:
            self.cleaner._check_parameters()


def peer_loss(net, x, y, rows):
    """Cross-entropy of a network on the `rows` that its peer finds easy."""
    return functional.cross_entropy(net(x[rows]), y[rows])
