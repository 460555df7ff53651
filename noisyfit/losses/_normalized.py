"""Losses divided by their sum over all labels: robust to symmetric noise by construction.

Alone they under-fit; they are meant as the active part of a sum, see `get_loss`.
"""

import math

from torch.nn import functional as F

from noisyfit.losses._robust import SMALLEST_REST

_SMALLEST = 1e-12


def share_of_label(losses, y):
    """``losses[y] / sum_k losses[k]`` row by row, (batch,); 0 where all are 0 (a single class)."""
    return losses.gather(1, y[:, None]).squeeze(1) / losses.sum(1).clamp_min(_SMALLEST)


def focal_of_labels(log_p, gamma, detach_modulation):
    """Focal loss of every possible label, (batch, n_classes)."""
    rest = (-log_p.expm1()).clamp_min(SMALLEST_REST)
    return -((rest.detach() if detach_modulation else rest) ** gamma) * log_p


def nce(logits, y):
    """Normalised cross-entropy, ``log p_y / sum_k log p_k``.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and 1.

    References
    ----------
    Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import nce
    >>> nce(torch.zeros(1, 4), torch.tensor([0]))
    tensor([0.2500])
    """
    return share_of_label(-F.log_softmax(logits.float(), dim=1), y)


def nfl(logits, y, gamma=0.5, detach_modulation=False):
    """Normalised focal loss: `focal`, divided by its sum over all labels.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    gamma : float, default=0.5
        As in `focal`, with the published value; 0 is `nce`.
    detach_modulation : bool, default=False
        As in `focal`; True is what the published code does.

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and 1.

    References
    ----------
    Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import nfl
    >>> nfl(torch.zeros(1, 4), torch.tensor([0]))
    tensor([0.2500])
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    return share_of_label(focal_of_labels(log_p, gamma, detach_modulation), y)


def ngce(logits, y, q=0.7):
    """Normalised generalised cross-entropy: `gce`, divided by its sum over all labels.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    q : float in [0, 1], default=0.7
        As in `gce`; 0 is `nce`. Published: 0.1 for CIFAR-10 and MNIST, 0.7 for CIFAR-100.

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and 1.

    References
    ----------
    Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import ngce
    >>> ngce(torch.zeros(1, 4), torch.tensor([0]))
    tensor([0.2500])
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    return share_of_label(-log_p if q == 0 else -(q * log_p).expm1(), y)


def nnce(logits, y, p_min=1e-7):
    """Normalised negative cross-entropy: what a label gains over the worst one, normalised.

    ``1 - (A + log p_y) / sum_k (A + log p_k)`` with ``A = -log p_min``. It pushes the other
    classes down instead of the given one up.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    p_min : float in (0, 1), default=1e-7
        Probabilities below count as this one and have no gradient.

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and 1.

    References
    ----------
    Ye et al., "Active Negative Loss Functions for Learning with Noisy Labels", NeurIPS 2023.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import nnce
    >>> nnce(torch.zeros(1, 4), torch.tensor([0]))
    tensor([0.7500])
    """
    return nnfl(logits, y, gamma=0.0, p_min=p_min)


def nnfl(logits, y, gamma=0.5, p_min=1e-7, detach_modulation=False):
    """Normalised negative focal loss: `nnce` with `focal` in the place of cross-entropy.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    gamma : float, default=0.5
        As in `focal`, with the published value; 0 is `nnce`.
    p_min : float in (0, 1), default=1e-7
        Probabilities below count as this one and have no gradient.
    detach_modulation : bool, default=False
        As in `focal`; True is what the published code does.

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and 1.

    References
    ----------
    Ye et al., "Active Negative Loss Functions for Learning with Noisy Labels", NeurIPS 2023.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import nnfl
    >>> nnfl(torch.zeros(1, 4), torch.tensor([0]))
    tensor([0.7500])
    """
    log_p = F.log_softmax(logits.float(), dim=1).clamp_min(math.log(p_min))
    worst = -((1 - p_min) ** gamma) * math.log(p_min)
    gains = worst - focal_of_labels(log_p, gamma, detach_modulation)  # (batch, n_classes)
    return 1 - share_of_label(gains, y)
