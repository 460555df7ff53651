"""P(given label | true label): checked, estimated, and put between a network and its loss.

Matrices are float64 arrays (n_classes, n_classes) with a row per true class; rows sum to 1.
"""

import math

import numpy as np
import torch
from torch.nn import functional

from noisyfit._evidence import row_blocks
from noisyfit.noise._symmetric import check_transition

_TINY = 1e-30  # keeps every class possible in an estimate


def given_transition(matrix, n_classes):
    """The caller's matrix as float64 with rows that sum to 1 exactly."""
    try:
        return check_transition(matrix, n_classes)
    except (ValueError, TypeError) as error:
        raise ValueError(f"transition: {error}") from None


def check_columns(matrix, n_given):
    """Refuse a class that occurs (counts `n_given`) although the matrix calls it impossible."""
    impossible = np.flatnonzero((matrix.sum(0) == 0) & (n_given > 0))
    if len(impossible):
        raise ValueError(
            f"transition: column {impossible[0]} is entirely zero, so its label should not occur, "
            f"but it occurs {n_given[impossible[0]]} times."
        )


def proba_of(logits):
    """Softmax (n, n_classes) in which nothing is impossible."""
    return logits.softmax(1).clamp_min(_TINY)


def log_odds(logits):
    """``log(p / (1 - p))`` of every class, (n, n_classes): ranks rows whose `p` rounds to 1."""
    odds = torch.empty_like(logits)
    for rows in row_blocks(*logits.shape):
        top, at = logits[rows].max(1, keepdim=True)
        z = logits[rows] - top
        others = z.exp()
        others = others.sum(1, keepdim=True) - others  # at least 1, but for the largest
        of_rest = z.scatter(1, at, -torch.inf).logsumexp(1, keepdim=True)
        odds[rows] = (z - others.log()).scatter(1, at, -of_rest)
    return odds


def auto_percentile(n_given, percentile=97):
    """`percentile` if the rarest class has twice the share that it skips, else None."""
    is_enough = 100 * n_given.min() >= 2 * (100 - percentile) * n_given.sum()
    return percentile if is_enough else None


def anchor_rows(scores, percentile=None):
    """Per class the row of the largest score (n, n_classes), below the percentile if given."""
    if percentile is None:
        return scores.argmax(0)
    rank = math.ceil(percentile * (len(scores) - 1) / 100)
    rows = []
    for columns in row_blocks(scores.shape[1], len(scores)):
        part = scores[:, columns]
        threshold = part.kthvalue(rank + 1, 0).values  # the "higher" of the two neighbours
        rows.append(part.masked_fill(part >= threshold, -torch.inf).argmax(0))
    return torch.cat(rows)


def soft_confusion(p, y):
    """Sum of ``p_i`` over the rows with label j by the sum of ``p_i`` over all rows."""
    of_given = sum(
        p[rows].t() @ functional.one_hot(y[rows], p.shape[1]).to(p.dtype)
        for rows in row_blocks(*p.shape)
    )
    return of_given / p.sum(0).clamp_min(_TINY)[:, None]


def as_matrix(rows):
    """Rows of a tensor as float64 array, divided by their sums."""
    rows = rows.cpu().numpy().astype(np.float64)
    return rows / rows.sum(1, keepdims=True)


def with_identity(matrix, weight):
    """``(1 - weight) * matrix + weight * I``."""
    return (1 - weight) * matrix + weight * np.eye(len(matrix))


def led_by_diagonal(matrix):
    """Rows whose largest entry lies off the diagonal are mixed half and half with the identity.

    Such an estimate says that a class is mostly called by another name; then nothing tells the two
    apart, and the network may learn them interchanged.
    """
    misled = matrix.max(1) > np.diag(matrix)
    return np.where(misled[:, None], with_identity(matrix, 0.5), matrix)


def is_led_by_diagonal(matrix):
    """Whether every row is largest on the diagonal and the trace is above chance."""
    diagonal = np.diag(matrix)
    return (diagonal >= matrix.max(1)).all() and (len(matrix) == 1 or diagonal.sum() > 1)


def well_conditioned(matrix, largest):
    """The matrix mixed with as little of the identity as lets its condition number be `largest`."""
    for share in np.linspace(0, 1, 21):
        mixed = with_identity(matrix, share)
        if np.linalg.cond(mixed) <= largest:
            break
    return mixed


def log_transition(matrix, device):
    """Logarithm as float32 tensor; an exact zero becomes -inf."""
    return torch.as_tensor(matrix, dtype=torch.float64).log().float().to(device)


def forward_corrected(logits, log_given):
    """``-log sum_i p_i P(given | i)``, shape (batch,); `log_given` (batch, n_classes).

    In the log domain a true class that cannot have led to the given label drops out exactly.
    """
    return -torch.logsumexp(functional.log_softmax(logits, dim=1) + log_given, dim=1)


def posterior(logits, log_given):
    """``p_i P(given | i)`` divided by its sum over the true classes i, (batch, n_classes)."""
    return (functional.log_softmax(logits, dim=1) + log_given).softmax(1)


def backward_corrected(logits, y, factors, floor):
    """Entry y of ``T^-1 (-log p)``, shape (batch,); `factors` are those of ``lu_factor(T)``."""
    losses = -functional.log_softmax(logits, dim=1).clamp_min(floor).t()  # (n_classes, batch)
    corrected = torch.linalg.lu_solve(*factors, losses.to(factors[0].dtype))
    return corrected.gather(0, y[None]).squeeze(0).float()
