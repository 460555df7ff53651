"""Robust losses that look at the probability of the given label only.

Each gradient is ``w(p_y)`` times that of cross-entropy, ``p - onehot(y)``; the docstrings name the
factor ``w``.
"""

import math

from noisyfit.losses._plain import cross_entropy

_LOG_ZERO = math.log(1e-4)
SMALLEST_REST = 1e-7  # of 1 - p, whose powers below 1 have no slope at 0


def focal(logits, y, gamma=2.0, detach_modulation=False):
    """Focal loss, ``-(1 - p)**gamma log p``: cross-entropy that dwells on hard samples.

    Under label noise hard samples are often wrong ones; it serves as a baseline.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    gamma : float, default=2.0
        0 is cross-entropy.
    detach_modulation : bool, default=False
        Treat ``(1 - p)**gamma`` as a constant in the gradient, as code for noisy labels does.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import focal
    >>> focal(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.1733])
    """
    log_p = -cross_entropy(logits, y)
    rest = (-log_p.expm1()).clamp_min(SMALLEST_REST)
    return -((rest.detach() if detach_modulation else rest) ** gamma) * log_p


def gce(logits, y, q=0.7):
    """Generalised cross-entropy, ``(1 - p**q) / q``: between cross-entropy and absolute error.

    The gradient is that of cross-entropy times ``p**q``, so that labels which the network finds
    improbable pull less.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    q : float in [0, 1], default=0.7
        0 is cross-entropy, 1 is half of `mae`.

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and ``1 / q``.

    References
    ----------
    Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", NeurIPS 2018.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import gce
    >>> gce(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.5492])
    """
    ce = cross_entropy(logits, y)
    return ce if q == 0 else -(-q * ce).expm1() / q


def truncated_gce(logits, y, q=0.7, k=0.5):
    """`gce`, constant where the given label has a probability of at most `k`.

    Alone it teaches a fresh network nothing, for which no label is that probable:
    `RobustLossClassifier` trains in the two phases of the paper instead.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    q : float in [0, 1], default=0.7
        As in `gce`.
    k : float in [0, 1), default=0.5
        0 is `gce`.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Zhang, Sabuncu, NeurIPS 2018, eq. 9.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import truncated_gce
    >>> truncated_gce(torch.tensor([[1.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 0]))
    tensor([0.2813, 0.5492])
    """
    loss = gce(logits, y, q)
    if k == 0:
        return loss
    return loss.clamp_max(-math.log(k) if q == 0 else (1 - k**q) / q)


def mae(logits, y):
    """Absolute error, ``2 (1 - p)``: the distance of the softmax to the one-hot label.

    Robust to symmetric noise, but its gradient, ``2 p`` times that of cross-entropy, is small at
    the start of a training with many classes: it under-fits beyond about ten.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)

    Returns
    -------
    tensor of shape (batch,)
        Between 0 and 2. Some code leaves out the factor 2.

    References
    ----------
    Ghosh, Kumar, Sastry, "Robust Loss Functions under Label Noise for Deep Neural Networks",
    AAAI 2017.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import mae
    >>> mae(torch.zeros(1, 4), torch.tensor([0]))
    tensor([1.5000])
    """
    return -2 * (-cross_entropy(logits, y)).expm1()


def rce(logits, y, log_zero=_LOG_ZERO):
    """Reverse cross-entropy, ``-A (1 - p)``: label and prediction change places.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    log_zero : float below 0, default=log(1e-4)
        What stands for ``log 0`` of the classes that are not the label (A).

    Returns
    -------
    tensor of shape (batch,)
        ``-log_zero / 2`` times `mae`.

    References
    ----------
    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import rce
    >>> rce(torch.zeros(1, 2), torch.tensor([0]), log_zero=-6)
    tensor([3.])
    """
    return log_zero * (-cross_entropy(logits, y)).expm1()


def sce(logits, y, alpha=0.1, beta=1.0, log_zero=_LOG_ZERO):
    """Symmetric cross-entropy, ``alpha CE + beta RCE``.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    alpha, beta : float, default=0.1 and 1.0
        Weights of cross-entropy and of `rce`. Published: 0.1 and 1 for CIFAR-10, 6 and 0.1 for
        CIFAR-100, 0.01 and 1 for MNIST.
    log_zero : float below 0, default=log(1e-4)
        As in `rce`. The value of the published code, which the weights belong to; the paper
        states -6.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import sce
    >>> sce(torch.zeros(1, 2), torch.tensor([0]), alpha=1, log_zero=-6)
    tensor([3.6931])
    """
    ce = cross_entropy(logits, y)
    return alpha * ce + beta * log_zero * (-ce).expm1()


def taylor_ce(logits, y, order=2):
    """Cross-entropy as a series in ``1 - p`` that ends after some terms.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    order : int, default=2
        Number of terms (t): 1 is half of `mae`, many are cross-entropy.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Feng et al., "Can Cross Entropy Loss Be Robust to Label Noise?", IJCAI 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import taylor_ce
    >>> taylor_ce(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6250])
    """
    rest = -(-cross_entropy(logits, y)).expm1()
    total = rest / order
    for i in range(order - 1, 0, -1):  # Horner: sum of rest**i / i
        total = rest * (total + 1 / i)
    return total
