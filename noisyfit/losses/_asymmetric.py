"""Asymmetric losses: bounded in the probability of the given label, with a steepness to choose.

Their minimiser stays right as long as the right class is the most frequent label of each input.
Published settings for one loss alone; in a sum with `nce`, see `get_loss`.
"""

from noisyfit.losses._plain import cross_entropy


def agce(logits, y, a=0.6, q=0.6):
    """Asymmetric generalised cross-entropy, ``((a + 1)**q - (a + p)**q) / q``.

    Its gradient is that of cross-entropy times ``p (a + p)**(q - 1)``.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    a, q : float above 0, default=0.6
        Published: 0.6 and 0.6 for CIFAR, 4 and 0.2 for MNIST.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import agce
    >>> agce(torch.zeros(1, 2), torch.tensor([0]), a=1, q=1)
    tensor([0.5000])
    """
    p = (-cross_entropy(logits, y)).exp()
    return ((a + 1) ** q - (a + p) ** q) / q


def aul(logits, y, a=5.5, q=3.0):
    """Asymmetric unhinged loss, ``((a - p)**q - (a - 1)**q) / q``.

    Its gradient is that of cross-entropy times ``p (a - p)**(q - 1)``.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    a : float above 1, default=5.5
    q : float above 0, default=3.0
        Published: `a` 5.5 and `q` 3 for CIFAR, 3 and 0.1 for MNIST.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import aul
    >>> aul(torch.zeros(1, 2), torch.tensor([0]), a=2, q=1)
    tensor([0.5000])
    """
    p = (-cross_entropy(logits, y)).exp()
    return ((a - p) ** q - (a - 1) ** q) / q


def ael(logits, y, a=2.5):
    """Asymmetric exponential loss, ``exp(-p / a)``.

    Its gradient is that of cross-entropy times ``p / a`` times the loss.

    Parameters
    ----------
    logits : tensor of shape (batch, n_classes)
    y : int64 tensor of shape (batch,)
    a : float above 0, default=2.5
        Published: 2.5 for CIFAR, 3.5 for MNIST.

    Returns
    -------
    tensor of shape (batch,)

    References
    ----------
    Zhou et al., "Asymmetric Loss Functions for Learning with Noisy Labels", ICML 2021.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import ael
    >>> ael(torch.zeros(1, 2), torch.tensor([0]), a=1)
    tensor([0.6065])
    """
    return (-(-cross_entropy(logits, y)).exp() / a).exp()
