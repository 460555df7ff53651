"""Early-learning regularisation: targets that remember predictions, and the term they enter."""

from functools import partial

import torch
from torch.nn.functional import softmax

from noisyfit._checks import check_integer, check_real, is_auto, is_one_of
from noisyfit._divide import rare_class_factor
from noisyfit._evidence import combine, of_given
from noisyfit._small_tables import steps_to_learn

_SMALLEST_PROBA = 1e-4
_SMALLEST = 1e-12
_FEW_CLASSES = 20
# A full term holds on to the first, straight border between classes that lie close in few columns;
# measured on tables of 30 to 400 rows.
_COLUMNS_FOR_FULL_STRENGTH = 12
_DTYPES = {"float32": torch.float32, "float16": torch.float16}


def has_few_classes(n_classes):
    """Whether the settings published for CIFAR-10 suit better than those for CIFAR-100."""
    return n_classes <= _FEW_CLASSES


def clamped_softmax(logits):
    """Softmax kept inside [1e-4, 1 - 1e-4], (batch, n_classes); rows sum to about 1."""
    return softmax(logits.float(), dim=1).clamp(_SMALLEST_PROBA, 1 - _SMALLEST_PROBA)


def normalised(rows):
    """Non-negative rows divided by their sums; rows of zeros stay."""
    return rows / rows.sum(1, keepdim=True).clamp_min(_SMALLEST)


def moving_average(memory, index, values, decay):
    """Update rows of `memory`, ``decay * old + (1 - decay) * values``; returns them in float32.

    `memory` (n, n_classes) may be of half precision; `values` (batch, n_classes) is float32.
    """
    rows = torch.lerp(values, memory[index].float(), decay)
    memory.index_copy_(0, index, rows.to(memory.dtype))
    return rows


def early_learning_penalty(p, target):
    """``log(1 - <target, p>)``, shape (batch,); `target` has mass 1 at most, `p` is clamped.

    The bound under the logarithm follows from both; it acts only on what half precision rounds.
    """
    return (1 - (target * p).sum(1)).clamp_min(_SMALLEST_PROBA).log()


def target_or_prediction(target, proba):
    """Normalised targets; rows that were never visited, zeros, take `proba` instead."""
    return torch.where(target.sum(1, keepdim=True) > 0, normalised(target), proba)


class EarlyLearningMixin:
    """Parameters and evidence of the methods whose targets remember predictions.

    At the end of training ``run.memory.target`` holds the targets of each network,
    ([n_networks,] n, n_classes).
    """

    def _check_parameters(self):
        super()._check_parameters()
        if not is_auto(self.momentum):
            check_real(self.momentum, "momentum", 0, 1, closed="left")
        if not is_auto(self.strength):
            check_real(self.strength, "strength", 0)
        if not is_auto(self.warmup):
            check_integer(self.warmup, "warmup", 0)
        if not is_one_of(self.memory_dtype, _DTYPES):
            raise ValueError(
                f"memory_dtype must be 'float32' or 'float16', got {self.memory_dtype!r}."
            )

    def _begin(self, run):
        momentum, strength = (0.7, 3.0) if has_few_classes(run.n_classes) else (0.9, 7.0)
        if self._on_table:
            strength *= min(1.0, self._shape[0] / _COLUMNS_FOR_FULL_STRENGTH)
        strength *= rare_class_factor(run.data.y, run.n_classes)
        run.memory.momentum = momentum if is_auto(self.momentum) else self.momentum
        run.memory.strength = strength if is_auto(self.strength) else self.strength
        run.memory.warmup = self._warmup_epochs(run)

    def _warmup_epochs(self, run):
        """Epochs without the term."""
        if is_auto(self.warmup):
            plain = int(steps_to_learn(run.n_classes, self._shape) // run.steps_per_epoch)
            return min(plain, run.max_epochs if self._on_table else run.max_epochs // 3)
        if self.warmup > run.max_epochs:
            raise ValueError(
                f"warmup={self.warmup} is longer than the training of max_epochs={run.max_epochs}."
            )
        return self.warmup

    def _strength(self, run, t):
        """Weight of the term at time `t` in epochs."""
        return run.memory.strength if t >= run.memory.warmup else 0.0

    def _zeros(self, run, *shape):
        """A table per sample, (*shape, n, n_classes)."""
        size = (*shape, len(run.data), run.n_classes)
        return torch.zeros(size, dtype=_DTYPES[self.memory_dtype], device=run.device)

    def _finish(self, run):
        self.target_ = run.memory.target.cpu().numpy()

    def _posterior(self, run, logits):
        return of_given(partial(self._target, run), logits, run.data.y)

    def _refined_proba(self, run, rows, logits, clean_proba):
        return self._target(run, rows, logits)

    def _target(self, run, rows, logits):
        """Mean target of the networks as distributions (n_rows, n_classes)."""
        target = run.memory.target[..., rows, :].float()
        target = target.reshape(-1, *target.shape[-2:]).mean(0)
        return target_or_prediction(target, combine(logits, self.ensemble))
