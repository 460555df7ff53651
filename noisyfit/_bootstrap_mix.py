"""What M-correction computes: variants, their phases, targets, corrected losses, mixing."""

from typing import NamedTuple

import torch
from torch.nn import functional

from noisyfit._checks import as_shares, is_auto
from noisyfit.augment import mixup
from noisyfit.losses import cross_entropy, soft_cross_entropy
from noisyfit.schedules import ramp

_COLDEST = 0.001
_PLAIN_SHARE, _PLAIN_SHARE_UNMIXED = 0.35, 0.25  # of all epochs: 105 of 300, 30 of 120
_GUIDED_SHARE = 5 / 300
_COOLING_SHARE = 89 / 190  # of the epochs of bootstrapping


class Variant(NamedTuple):
    """One row of the paper's tables."""

    mixing: str | None  # "mixup", "guided" (by the mixture) or None
    weighting: str | None  # "static", "dynamic" (from the mixture) or None: given labels only
    target: str | None  # "soft", "hard" or "soft-to-hard" prediction of the network
    static_weight: float = 0.0


VARIANTS = {
    "CE": Variant(None, None, None),
    "ST-S": Variant(None, "static", "soft", 0.05),
    "ST-H": Variant(None, "static", "hard", 0.2),
    "DY-S": Variant(None, "dynamic", "soft"),
    "DY-H": Variant(None, "dynamic", "hard"),
    "M": Variant("mixup", None, None),
    "M-DYR-S": Variant("mixup", "dynamic", "soft"),
    "M-DYR-H": Variant("mixup", "dynamic", "hard"),
    "MD-DYR-H": Variant("guided", "dynamic", "hard"),
    "MD-DYR-SH": Variant("guided", "dynamic", "soft-to-hard"),
}


def plain_epochs(max_epochs, mixes, before_doubt):
    """Epochs without correction by default; `before_doubt` maps them to what small tables need.

    What is corrected is hardly ever asked again, so that small tables get a third more than that.
    """
    share = _PLAIN_SHARE if mixes else _PLAIN_SHARE_UNMIXED
    plain = max(1, round(share * max_epochs))
    long = before_doubt(plain)
    return max(plain, min((4 * long) // 3, (4 * max_epochs) // 5)) if long > plain else plain


def phase_starts(max_epochs, plain, guided=None, boot=None):
    """Zero-based first epochs (guided mixing, bootstrapping); None asks for the default."""
    gap = max(1, round(_GUIDED_SHARE * max_epochs))
    if guided is None:
        guided = plain if boot is None else min(plain, max(0, boot - gap))
    return guided, guided + gap if boot is None else boot


def cooling_epochs(max_epochs, boot_start):
    """Epochs in which the temperature falls, by default."""
    return max(1, round(_COOLING_SHARE * (max_epochs - boot_start)))


def class_shares(prior, y, n_classes):
    """Expected shares of the classes (n_classes,): those of the labels `y` for "auto"."""
    if is_auto(prior):
        return torch.bincount(y, minlength=n_classes) / len(y)
    return as_shares(prior, n_classes, y.device)


def bootstrap_target(logits, kind, temperature=1.0):
    """The network's own label (batch, n_classes), without gradient: one-hot or softmax.

    `temperature` acts on the kind "soft-to-hard" only.
    """
    logits = logits.detach().float()
    if kind == "hard":
        return functional.one_hot(logits.argmax(1), logits.shape[1]).to(logits.dtype)
    return functional.softmax(logits / (temperature if kind == "soft-to-hard" else 1.0), dim=1)


def soft_to_hard_temperature(epoch, length):
    """Temperature in the epoch of bootstrapping counted from 0: 1, linear to 0.001, then 0.001."""
    return 1 - (1 - _COLDEST) * ramp(epoch, 0, length - 1)


def corrected_loss(logits, y, target, w):
    """``(1 - w) CE(logits, y) + w CE(logits, target)``, (batch,); `w` a number or (batch,)."""
    return (1 - w) * cross_entropy(logits, y) + w * soft_cross_entropy(logits, target)


def mixed_corrected_loss(logits, labels, partner, delta):
    """``delta`` times the corrected loss of the rows, the rest that of their partners (eq. 13).

    `labels` are (y, target, w) of the unmixed rows; `logits` those of the mixed ones.
    """
    theirs = (values[partner] for values in labels)
    return delta * corrected_loss(logits, *labels) + (1 - delta) * corrected_loss(logits, *theirs)


def guided_weights(w, partner):
    """Share (batch,) of each row in its mixture: ``(1 - w) / ((1 - w) + (1 - w_partner))``."""
    clean = 1 - w
    return clean / (clean + clean[partner])


def guided_mix(x, w, partner):
    """Batch mixed so that the row whose label is more likely right has the larger share."""
    return mixup(x, guided_weights(w, partner), partner)


def predictions(learner, x, in_eval):
    """Logits (batch, n_classes) without gradient, in evaluation or in training mode."""
    if in_eval:
        learner.eval()
    with torch.no_grad():
        logits = learner(x)
    learner.train()
    return logits
