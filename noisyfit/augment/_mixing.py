"""Mixup on whole batches."""

import numpy as np
import torch

from noisyfit._checks import check_real
from noisyfit.augment._draws import where


def mix(a, b, lam):
    """Mix two batches, ``lam * a + (1 - lam) * b``.

    Parameters
    ----------
    a, b : floating tensors of shape (batch, ...)
        Inputs, or targets as distributions.
    lam : float or tensor of shape (batch,)
        Weight of `a` in [0, 1], the δ of the paper: one for the batch or one per sample.

    Returns
    -------
    tensor like `a`

    Raises
    ------
    TypeError
        If `a` or `b` is not floating.
    ValueError
        If the shapes do not fit, or a number `lam` is outside [0, 1].

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import mix
    >>> mix(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]), 0.25)
    tensor([0.7500, 1.0000])
    >>> mix(torch.tensor([0.0, 4.0]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    tensor([1., 4.])
    """
    if not (a.is_floating_point() and b.is_floating_point()):
        raise TypeError(f"mix needs floating tensors, got {a.dtype} and {b.dtype}; convert them.")
    if a.shape != b.shape:
        raise ValueError(f"a and b have different shapes, {tuple(a.shape)} and {tuple(b.shape)}.")
    if isinstance(lam, torch.Tensor):
        if lam.shape != a.shape[:1]:
            raise ValueError(f"lam must have shape ({len(a)},), got {tuple(lam.shape)}.")
        lam = lam.to(a).view(-1, *[1] * (a.ndim - 1))  # (batch, 1, ...)
    else:
        check_real(lam, "lam", 0, 1)
    return torch.lerp(b, a, lam)


def mixup(x, lam, permutation):
    """Mix a batch with a shuffled copy of itself, ``lam * x + (1 - lam) * x[permutation]``.

    Targets are mixed with the same `lam` and `permutation`; with class codes, weight the two
    losses instead: ``lam * loss(y) + (1 - lam) * loss(y[permutation])``.

    Parameters
    ----------
    x : floating tensor of shape (batch, ...)
    lam : float or tensor of shape (batch,)
        Weight of the sample itself, see `beta`.
    permutation : int64 tensor of shape (batch,)
        See `random_permutation`.

    Returns
    -------
    tensor like `x`

    References
    ----------
    Zhang, Cissé, Dauphin, Lopez-Paz, "mixup: Beyond Empirical Risk Minimization", ICLR 2018.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import mixup
    >>> mixup(torch.tensor([0.0, 4.0]), 0.75, torch.tensor([1, 0]))
    tensor([1., 3.])
    """
    return mix(x, x[permutation], lam)


def beta(alpha, size, rng):
    """Draw mixup weights, δ ~ Beta(alpha, alpha).

    Parameters
    ----------
    alpha : float
        Large values mix half and half, 1 is uniform, 0 returns 1 (no mixing).
    size : int, tuple of int or None
        Number of weights; None draws a single float.
    rng : numpy.random.Generator or numpy.random.RandomState

    Returns
    -------
    float64 array of shape (size,), or float

    Raises
    ------
    TypeError, ValueError
        If `alpha` is not a number, negative or not finite, or `rng` cannot draw.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.augment import beta
    >>> beta(0, 3, np.random.default_rng(0))
    array([1., 1., 1.])
    >>> float(beta(4, 10_000, np.random.default_rng(0)).mean().round(2))
    0.5
    """
    check_real(alpha, "alpha", 0)
    if not isinstance(rng, np.random.Generator | np.random.RandomState):
        raise TypeError(f"rng must be a numpy random generator, got {rng!r}.")
    if alpha == 0:
        return 1.0 if size is None else np.ones(size)
    return rng.beta(alpha, alpha, size)


def random_permutation(n, generator):
    """Random order of `n` samples, on the device of the generator.

    Parameters
    ----------
    n : int
    generator : torch.Generator

    Returns
    -------
    int64 tensor of shape (n,)

    Examples
    --------
    >>> import torch
    >>> from noisyfit.augment import random_permutation
    >>> random_permutation(5, torch.Generator().manual_seed(0)).sort().values
    tensor([0, 1, 2, 3, 4])
    """
    return torch.randperm(n, **where(generator))
