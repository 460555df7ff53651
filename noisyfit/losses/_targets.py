"""Cross-entropy with targets that are softer than the given label."""

from torch.nn import functional as F


def bootstrap_soft(logits, y, weight=0.05, detach_target=True):
    """Cross-entropy with a target that is in part the prediction itself.

    ``-sum_k [(1 - weight) onehot(y) + weight p]_k log p_k``.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    weight : float in [0, 1], default=0.05
        Share of the prediction in the target, 1 - beta in the paper; 0 is cross-entropy.
    detach_target : bool, default=True
        No gradient through the target. False adds a pull towards certain predictions.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", ICLR
    workshop 2015, eq. 6.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import bootstrap_soft
    >>> bootstrap_soft(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), weight=0.5)
    tensor([0.9477])
    """
    log_p = F.log_softmax(logits.float(), dim=1)  # (batch, n_classes)
    p = log_p.exp()
    entropy = -((p.detach() if detach_target else p) * log_p).sum(1)
    return (1 - weight) * F.nll_loss(log_p, y, reduction="none") + weight * entropy


def bootstrap_hard(logits, y, weight=0.2):
    """Cross-entropy with a target that is in part the most probable class.

    ``-sum_k [(1 - weight) onehot(y) + weight onehot(argmax p)]_k log p_k``.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    weight : float in [0, 1], default=0.2
        Share of the predicted class in the target, 1 - beta in the paper; 0 is cross-entropy.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Reed et al., "Training Deep Neural Networks on Noisy Labels with Bootstrapping", ICLR
    workshop 2015, eq. 7.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import bootstrap_hard
    >>> bootstrap_hard(torch.tensor([[0.0, 1.0]]), torch.tensor([0]), weight=0.5)
    tensor([0.8133])
    """
    log_p = F.log_softmax(logits.float(), dim=1)  # (batch, n_classes)
    predicted = -log_p.amax(1)
    return (1 - weight) * F.nll_loss(log_p, y, reduction="none") + weight * predicted


def label_smoothing(logits, y, smoothing=0.1):
    """Cross-entropy with the label mixed with the uniform distribution.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    smoothing : float in [0, 1], default=0.1
        Share of the uniform distribution (epsilon); 0 is cross-entropy.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", CVPR 2016.
    Lukasik et al., "Does Label Smoothing Mitigate Label Noise?", ICML 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import label_smoothing
    >>> label_smoothing(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    tensor([0.3633])
    """
    return F.cross_entropy(logits.float(), y, reduction="none", label_smoothing=smoothing)
