"""MixEMatch: MixMatch on inputs, targets and embeddings, and rows set aside as of no class."""

import math

import torch
from torch import nn

from noisyfit._head import inputs_of
from noisyfit._random import seeded_start
from noisyfit.losses import soft_cross_entropy, squared_error
from noisyfit.outliers import count_of

_SMALLEST_TARGET = 1e-4  # of the reverse cross-entropy, whose logarithm is that of the target
_SMALLEST_SPREAD = 1e-12
_LEVEL, _DEVIATIONS = 1 / 3, 2.0  # of agreement with labels that say nothing


def soft_rce(logits, target, kind="code"):
    """Reverse cross-entropy with a distribution as target, (batch,).

    ``"standard"`` is ``-sum_c p_c log q_c`` with the target `q` kept from 0. ``"code"`` has the
    logarithm of its softmax instead: up to a constant of the target, ``-sum_c p_c q_c``.
    """
    p = logits.float().softmax(1)
    if kind == "standard":
        return -(p * target.clamp_min(_SMALLEST_TARGET).log()).sum(1)
    return target.logsumexp(1) - (p * target).sum(1)


def soft_sce(logits, target, kind="code"):
    """Symmetric cross-entropy with a distribution as target, (batch,)."""
    return soft_cross_entropy(logits, target) + soft_rce(logits, target, kind)


def masked_mean(losses, mask):
    """Mean of the `losses` (batch,) where the bool `mask` is True; 0 where nothing is."""
    return torch.where(mask, losses, 0.0).sum() / mask.sum().clamp_min(1)


def confident(guess, least):
    """1 for sharpened guesses (batch, n_classes) whose largest share is `least` or more, else 0."""
    return (guess.amax(1) >= least).float()


def mixed_loss(logits, target, weight, n_labelled, labelled_loss, lambda_u):
    """``L_X + lambda_u L_U`` of mixed rows, of which the first are the labelled.

    Means over rows of the weighted losses: a row of weight 0 counts as one without loss.
    """
    x, u = slice(None, n_labelled), slice(n_labelled, None)
    loss = (weight[x] * labelled_loss(logits[x], target[x])).mean()
    if len(logits) > n_labelled:
        loss = loss + lambda_u * (weight[u] * squared_error(logits[u], target[u])).mean()
    return loss


def scaled_by(losses, fitted):
    """Losses (n,) scaled by the range of the `fitted` ones, kept in [0, 1]; zeros if constant."""
    low, high = fitted.aminmax()
    return ((losses - low) / (high - low).clamp_min(_SMALLEST_SPREAD)).clamp(0, 1)


class Encoder(nn.Module):
    """What the last linear `layer` of `module` is fed: embeddings (batch, n_embedded).

    It runs past what may be compiled of the module, which would not tell.
    """

    def __init__(self, module, layer):
        super().__init__()
        self.module, self.layer = module, layer

    def forward(self, x):
        if self.module is self.layer:  # there is nothing below it
            return x
        with inputs_of(self.layer) as received:
            self.module.forward(x)
        return received[-1]


def projection_head(n_embedded, n_projected, seed, device):
    """A linear layer and batch norm, for the contrastive loss."""
    with seeded_start(seed):
        head = nn.Sequential(nn.Linear(n_embedded, n_projected), nn.BatchNorm1d(n_projected))
    return head.to(device)


def batch_norms(*modules):
    """All batch-norm layers of the modules."""
    kinds = nn.modules.batchnorm._BatchNorm
    return [layer for module in modules for layer in module.modules() if isinstance(layer, kinds)]


def rows_set_aside(n, n_divisions, initial, step):
    """How many of `n` rows are set aside after some divisions, if nothing bounds it."""
    return count_of(initial, n) + n_divisions * count_of(step, n)


def without_meaning(distance, agrees, n_classes):
    """How many of the rows farthest from their neighbours have labels that say nothing, shape ().

    A network finds the given label (bool `agrees`) of a row of no class by chance, 1 / n_classes,
    and that of a typical row, one of the nearer half, more often. The farthest rows are counted up
    to where their agreement rises above a third of the way between the two; none of them if all
    together fall short of that, or typical rows exceed chance, by less than two standard
    deviations.
    """
    n, chance = len(distance), 1 / n_classes
    agrees = agrees[distance.argsort(descending=True, stable=True)].float()
    far, typical = agrees[: n // 2], agrees[n // 2 :]
    learnt = typical.mean() - chance
    level = chance + _LEVEL * learnt.clamp_min(0)
    count = torch.arange(1, len(far) + 1, device=distance.device)
    missing = level * count - far.cumsum(0)
    enough = missing > _DEVIATIONS * (count * level * (1 - level)).sqrt()
    enough &= learnt > _DEVIATIONS * math.sqrt(chance * (1 - chance) / len(typical))
    best = torch.where(enough, missing, 0.0)
    return torch.where(enough.any(), best.argmax() + 1, 0)


def farthest(distance, n_rows):
    """Mask (n,) of the `n_rows` largest distances, among equals the earlier ones."""
    mask = torch.zeros_like(distance, dtype=torch.bool)
    mask[distance.argsort(descending=True, stable=True)[:n_rows]] = True
    return mask
