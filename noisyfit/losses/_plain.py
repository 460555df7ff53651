"""Losses and targets: pure functions of logits, unreduced, computed in float32."""

import math

import torch
from torch.nn import functional as F

__all__ = [
    "class_balance_penalty",
    "confidence_penalty",
    "cross_entropy",
    "sharpen",
    "soft_cross_entropy",
    "squared_error",
]

_SMALLEST = 1e-12


def cross_entropy(logits, y):
    """Cross-entropy with class codes.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)

    Returns
    -------
    tensor of shape (batch,)

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import cross_entropy
    >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))
    tensor([1.3863, 1.3863])
    """
    return F.cross_entropy(logits.float(), y, reduction="none")


def soft_cross_entropy(logits, target):
    """Cross-entropy with a distribution as target.

    Parameters
    ----------
    logits, target : tensors of shape (batch, n_classes)

    Returns
    -------
    tensor of shape (batch,)

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import soft_cross_entropy
    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.5, 0.5]]))
    tensor([0.6931])
    """
    return -(target * F.log_softmax(logits.float(), dim=1)).sum(1)


def squared_error(logits, target):
    """Squared distance of the softmax to the target, averaged over the classes.

    The mean over classes (not their sum) is what MixMatch and DivideMix compute, and what their
    published weights belong to.

    Parameters
    ----------
    logits, target : tensors of shape (batch, n_classes)

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Berthelot et al., "MixMatch", NeurIPS 2019. Li et al., "DivideMix", ICLR 2020, eq. 10.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import squared_error
    >>> squared_error(torch.zeros(1, 10), torch.eye(10)[:1])
    tensor([0.0900])
    """
    return (logits.float().softmax(1) - target).square().mean(1)


def sharpen(p, temperature):
    """Raise probabilities to ``1 / temperature`` and normalise the rows.

    Parameters
    ----------
    p : tensor of shape (..., n_classes)
        Distributions; exact zeros are allowed.
    temperature : float
        1 leaves `p` as it is, towards 0 the result tends to the one-hot of the arg max.

    Returns
    -------
    tensor of the shape of `p`

    References
    ----------
    Berthelot et al., "MixMatch", NeurIPS 2019, eq. 7.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import sharpen
    >>> sharpen(torch.tensor([0.5, 0.3, 0.2]), 0.5)
    tensor([0.6579, 0.2368, 0.1053])
    """
    return F.softmax(p.clamp_min(_SMALLEST).log() / temperature, dim=-1)


def class_balance_penalty(logits, prior=None):
    """Kullback-Leibler divergence of a class prior from the batch's mean prediction.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    prior : tensor of shape (n_classes,), optional
        Expected class shares; uniform by default, which suits balanced data only.

    Returns
    -------
    tensor of shape ()
        ``sum_c prior_c log(prior_c / mean_softmax_c)``.

    References
    ----------
    Tanaka et al., CVPR 2018; Li et al., "DivideMix", ICLR 2020, eq. 11.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import class_balance_penalty
    >>> class_balance_penalty(torch.zeros(5, 3)).abs() < 1e-6
    tensor(True)
    """
    mean = logits.float().softmax(1).mean(0).clamp_min(_SMALLEST)  # (n_classes,)
    if prior is None:
        return -mean.log().mean() - math.log(len(mean))
    return torch.xlogy(prior, prior).sum() - (prior * mean.log()).sum()


def confidence_penalty(logits):
    """Negative entropy of each prediction: largest (0) for a certain one.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)

    Returns
    -------
    tensor of shape (batch,)
        Between ``-log(n_classes)`` and 0.

    References
    ----------
    Pereyra et al., 2017; used by DivideMix in its warm-up under asymmetric noise.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import confidence_penalty
    >>> confidence_penalty(torch.zeros(1, 10))
    tensor([-2.3026])
    """
    log_p = F.log_softmax(logits.float(), dim=1)
    return (log_p.exp() * log_p).sum(1)
