"""Dividing the training set into labelled and unlabelled rows, and the guards around it."""

import torch

from noisyfit.losses import cross_entropy
from noisyfit.mixtures import effective_threshold

_SMALLEST_SPREAD = 1e-12
_FLOOR = 0.5


def scaled_losses(logits, y):
    """Cross-entropy scaled to [0, 1] over the rows, (n,); zeros where it is constant."""
    losses = cross_entropy(logits, y)
    low, high = losses.aminmax()
    return (losses - low) / (high - low).clamp_min(_SMALLEST_SPREAD)


def labelled_rows(clean, threshold, n_min):
    """Mask (n,) of the rows whose label is used.

    Rows above the threshold, which is moved inside the range of `clean` so that neither part is
    empty; where they are fewer than `n_min`, the `n_min` rows with the largest values.
    """
    labelled = clean > effective_threshold(clean, threshold)
    n_min = min(n_min, len(clean))
    largest = torch.zeros_like(labelled)
    largest[clean.argsort(descending=True, stable=True)[:n_min]] = True
    return torch.where(labelled.sum() < n_min, largest, labelled)


def agreement_with_doubted(clean, logits, y, threshold):
    """Share of the doubted labels that the network predicts itself, a tensor of shape ().

    A mixture finds two groups in the losses of clean labels too: easy and hard ones. A network
    contradicts wrong labels, so it agrees with them less often than a guess would, 1 / n_classes;
    with hard right labels it agrees more often.
    """
    doubted = clean <= threshold
    agrees = logits.argmax(1) == y
    return (agrees & doubted).sum() / doubted.sum().clamp_min(1)


def agreement_with_believed(clean, logits, y, threshold):
    """Share of the believed labels that the network predicts itself, a tensor of shape ().

    Where it is low the mixture has drawn its line among wrong labels, as it may where they are the
    many or much alike.
    """
    believed = clean > threshold
    agrees = logits.argmax(1) == y
    return (agrees & believed).sum() / believed.sum().clamp_min(1)


def ranked_in_class(order, y, n_classes):
    """`order` grouped by class, the rank (n,) of each position in its class, the class sizes."""
    by_class = order[y[order].argsort(stable=True)]
    size = y.new_zeros(n_classes).scatter_add_(0, y, torch.ones_like(y))  # bincount would sync
    start = size.cumsum(0) - size
    rank = torch.arange(len(y), device=y.device) - start[y[by_class]]
    return by_class, rank, size


def with_class_floor(clean, y, n_classes, threshold, floor=_FLOOR):
    """`clean` with the best rows of a class raised where too few of that class are believed, (n,).

    Every given class keeps at least `floor` times the believed share of all rows, so that a rare
    or hard class, whose losses are all large, does not vanish from the labelled part.
    """
    believed = clean > threshold
    best_first = clean.argsort(descending=True, stable=True)
    by_class, rank, size = ranked_in_class(best_first, y, n_classes)
    needed = (floor * believed.float().mean() * size).ceil()  # (n_classes,)
    kept = torch.zeros_like(believed)
    kept[by_class] = rank < needed[y[by_class]]
    return torch.where(kept & ~believed, (1 + threshold) / 2, clean)


def rare_class_factor(y, n_classes):
    """Below 1, in proportion, where the rarest given class holds less than half of an equal share.

    Noise makes frequencies equal rather than unequal, so that the classes themselves are unequal
    then. A strong pull towards the first predictions, which are those of the frequent classes,
    would keep a rare one from ever being learnt.
    """
    rarest = y.bincount(minlength=n_classes).min().item() / len(y)
    return min(1.0, 2 * n_classes * rarest)


def unequal_shares(y, n_classes):
    """Shares (n_classes,) of the given classes, or None where none is rare."""
    if rare_class_factor(y, n_classes) == 1:
        return None
    return y.bincount(minlength=n_classes) / len(y)


def balanced_rows(y, n_classes, n_rows, generator):
    """Random positions with at most ``n_rows / n_classes`` rows of each given class."""
    order = torch.randperm(len(y), generator=generator, device=y.device)
    by_class, rank, _ = ranked_in_class(order, y, n_classes)
    return by_class[rank < max(1, n_rows // n_classes)]
