"""Two networks that divide the training set, and what is believed in the end."""

import math
import warnings

import torch
from sklearn.base import clone

from noisyfit._checks import as_shares, is_auto
from noisyfit._divide import (
    agreement_with_believed,
    agreement_with_doubted,
    balanced_rows,
    scaled_losses,
    unequal_shares,
    with_class_floor,
)
from noisyfit._evidence import combine
from noisyfit._gaussian_em import usual_bins
from noisyfit._mixmatch import co_refine
from noisyfit._small_tables import epochs_before_doubt
from noisyfit.mixtures import GaussianMixtureSplitter

_LEAST_AGREEMENT = 0.5  # of the networks with the labels that their mixture believes


class CoDivideMixin:
    """Division by a mixture on each network's losses, its guards, and the evidence it leaves.

    The method has the parameters `warmup`, `threshold`, `temperature`, `splitter`, `guards`,
    `class_prior`, `epoch_rows` and `loss_history`, and in ``run.memory`` a list of past losses for
    each network (``losses``) and the flag ``warned``.
    """

    def _warmup_epochs(self, run):
        n = run.max_epochs
        if is_auto(self.warmup):
            short = min(10, math.ceil(2 + n / 10), math.ceil(n / 3))
            long = epochs_before_doubt(short, self._shape, run.steps_per_epoch)
            return max(short, min(long, (3 * n) // 5))
        if self.warmup > n:
            raise ValueError(f"warmup={self.warmup} is longer than the training of max_epochs={n}.")
        return self.warmup

    def _prior(self, run):
        if self.class_prior is None:
            return None
        if is_auto(self.class_prior):
            return unequal_shares(run.data.y, run.n_classes)
        return as_shares(self.class_prior, run.n_classes, run.device)

    def _rows(self, run, n_rows):
        """Positions of this epoch's subset, or None for all rows."""
        if self.epoch_rows is None:
            return None
        return balanced_rows(run.data.y, run.n_classes, n_rows, run.generator)

    def _divide(self, run, k, epoch):
        """Positions of the epoch's rows (None for all), their clean posterior by network `k`, and
        how often the network agrees with the labels that it doubts."""
        rows = self._rows(run, self.epoch_rows)
        data = run.data if rows is None else run.data.subset(rows)
        logits = run.evaluate(run.learners[k], data)
        if not torch.stack(logits.aminmax()).isfinite().all():
            raise ValueError(
                f"The losses of network {k + 1} are not finite in epoch {epoch + 1}; lower net__lr "
                "or set net__gradient_clip."
            )
        index = torch.arange(len(data), device=run.device) if rows is None else rows
        run.observe(index, logits)
        clean, mixture, _ = self._clean_posterior(run, k, logits, data.y)
        self.mixture_history_.append({"epoch": epoch + 1, "net": k + 1} | mixture)
        return rows, clean, agreement_with_doubted(clean, logits, data.y, self.threshold)

    def _clean_posterior(self, run, k, logits, y):
        """Posterior (n,) that each label is right, the mixture's record, the losses it saw (n,)."""
        history = run.memory.losses[k]
        history.append(scaled_losses(logits, y))
        del history[: -self.loss_history]
        losses = torch.stack(history).mean(0)
        if not losses.any():
            self._warn(run, "the losses are constant, so that every label is believed")
            return torch.ones_like(losses), {}, losses
        by_default = GaussianMixtureSplitter(normalize=None, bins=usual_bins(len(losses)))
        splitter = clone(self.splitter or by_default)
        clean = splitter.fit_tensor(losses)
        return clean, splitter.components(), losses

    def _guarded(self, run, divisions):
        """The two divisions (rows, clean) after both guards."""
        if not self.guards:
            return [(rows, clean) for rows, clean, _ in divisions]
        parts = []
        contradicted = self._contradicted(run, [agreement for _, _, agreement in divisions])
        for rows, clean, _ in divisions:
            y = run.data.y if rows is None else run.data.y[rows]
            clean = torch.where(contradicted, clean, 1.0)
            parts.append((rows, with_class_floor(clean, y, run.n_classes, self.threshold)))
        return parts

    def _contradicted(self, run, agreements):
        """Whether the networks agree with doubted labels less often than by chance, a bool ()."""
        return torch.stack(agreements).mean() <= 1 / run.n_classes

    def _check_collapse(self, run, posteriors):
        first, second = (int((clean > self.threshold).sum()) for clean in posteriors)
        if max(first, second) > 10 * max(min(first, second), 1):
            self._warn(run, f"one network believes {first} labels and the other {second}")

    def _warn(self, run, what):
        if run.memory.warned or run.n_classes == 1:
            return
        run.memory.warned = True
        warnings.warn(
            f"{type(self).__name__.removesuffix('Classifier')}: a division is degenerate: {what}. "
            "A shorter warmup or a lower learning rate may help.",
            UserWarning,
            stacklevel=2,
        )

    def _posterior(self, run, logits):
        posteriors, mixtures, losses = zip(
            *(self._clean_posterior(run, k, logits[k], run.data.y) for k in range(2)), strict=True
        )
        for k, mixture in enumerate(mixtures):
            record = {"epoch": len(run.history) + 1, "net": k + 1} | mixture
            self.mixture_history_.append(record)
        if self.guards:
            posteriors = self._guarded_evidence(run, logits, posteriors)
        self.losses_ = torch.stack(losses).cpu().numpy()
        self.clean_proba_per_net_ = torch.stack(posteriors).cpu().numpy()
        return torch.stack(posteriors).mean(0)

    def _guarded_evidence(self, run, logits, posteriors, rows=slice(None)):
        """The posteriors, or where they doubt right labels the history of agreement instead; and
        where they believe labels that the networks contradict, those below the threshold.

        Logits and posteriors are those of the `rows`.
        """
        y, agreement = run.data.y[rows], run.dynamics.agreement()[rows]
        pairs = list(zip(posteriors, logits, strict=True))
        agreements = [agreement_with_doubted(p, z, y, self.threshold) for p, z in pairs]
        contradicted = self._contradicted(run, agreements)
        shares = [agreement_with_believed(p, z, y, self.threshold) for p, z in pairs]
        divided = torch.stack(list(posteriors)).amin() < 1  # not so where losses are constant
        mostly_denied = divided & (torch.stack(shares).mean() < _LEAST_AGREEMENT)
        guarded = []
        for p, z in pairs:
            denied = mostly_denied & (z.argmax(1) != y)
            p = torch.where(denied, p * self.threshold, p)  # in their order, but not believed
            guarded.append(torch.where(contradicted, p, agreement))
        return guarded

    def _refined_proba(self, run, rows, logits, clean_proba):
        believed = torch.where(clean_proba > self.threshold, clean_proba, 0.0)
        return co_refine(run.data.y[rows], combine(logits, "proba"), believed, self.temperature)
