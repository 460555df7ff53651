"""Two beta densities on the unit interval, as M-correction and IDO fit them."""

from math import log
from typing import NamedTuple

import torch

from noisyfit._em_loop import (
    histogram,
    hold_beyond,
    iterate,
    posterior_and_likelihood,
    two_means,
)

_EDGE = 1e-6  # keeps log x and log(1 - x) finite
_LEAST_VARIANCE = 1e-6
_LEAST_PRECISION = 1e-2
_NEWTON_STEPS = 10

BETA_PRESETS = {
    "official": {"init": "official", "m_step": "moments", "max_iter": 10, "tol": 0.0},
    "robust": {"init": "kmeans", "m_step": "mle", "max_iter": 100, "tol": 1e-6},
    "history": {"init": "official", "m_step": "bounded", "max_iter": 20, "tol": 0.0},
}


class BetaFit(NamedTuple):
    """Two beta densities; component 0 has the smaller mean and holds the clean samples."""

    alphas: torch.Tensor
    betas: torch.Tensor
    weights: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor

    @property
    def means(self):
        """Means of the two components, shape (2,)."""
        return self.alphas / (self.alphas + self.betas)


class _Sample(NamedTuple):
    x: torch.Tensor  # (n,)
    logs: torch.Tensor  # (2, n): log x, log(1 - x)
    weight: torch.Tensor  # (n,)


def beta_em(x, init="kmeans", m_step="mle", max_iter=100, tol=1e-6, weight=None, bins=None):
    """Fit two beta densities to a sample by EM.

    Parameters
    ----------
    x : tensor of shape (n,)
        Scaled losses in (0, 1).
    init : {"official", "kmeans"}, default="kmeans"
        Start from Beta(1, 2) and Beta(2, 1) with equal weights, or from the 2-means partition.
    m_step : {"moments", "mle", "bounded"}, default="mle"
        Match mean and variance (Arazo et al.), maximise the likelihood, or match mean and variance
        and keep both components from bending back at their own end (IDO). With "mle" the
        likelihood never falls, as long as no component shrinks to a heap of equal values.
    max_iter : int, default=100
        Most iterations.
    tol : float, default=1e-6
        Stop when the mean log-likelihood changes by less; 0 makes all iterations.
    weight : tensor of shape (n,) or None, default=None
        Weights of the samples; ``None`` counts each once.
    bins : int or None, default=None
        Fit to a histogram of that many bins: one pass over the sample, then a cost that does not
        depend on its size. ``None`` fits to the sample itself.

    Returns
    -------
    BetaFit
        Named tuple of tensors on the device of `x`.

    Notes
    -----
    `BETA_PRESETS` holds the settings of Arazo et al. ("official"), of IDO ("history") and ours
    ("robust"). Matching moments does not maximise the likelihood: run to convergence, both
    components can become the same U-shaped density, so that ten iterations are part of "official".

    References
    ----------
    Eric Arazo, Diego Ortego, Paul Albert, Noel E. O'Connor, Kevin McGuinness. Unsupervised Label
    Noise Modeling and Loss Correction. ICML 2019.

    Kuan Zhang et al. Handling Label Noise via Instance-Level Difficulty Modeling and Dynamic
    Optimization. NeurIPS 2025.

    Examples
    --------
    >>> import torch
    >>> from noisyfit._beta_em import beta_em, beta_posterior
    >>> x = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.85, 0.95], dtype=torch.float64)
    >>> fit = beta_em(x)
    >>> fit.means
    tensor([0.1247, 0.9001], dtype=torch.float64)
    >>> beta_posterior(x, fit).round().int()
    tensor([1, 1, 1, 1, 0, 0], dtype=torch.int32)
    """
    x = x.double().clamp(_EDGE, 1 - _EDGE)
    weight = torch.ones_like(x) if weight is None else weight.double()
    if bins is not None:
        x, weight = histogram(x, weight, bins)
    sample = _Sample(x, _logs(x), weight)
    shapes, least_density = _M_STEPS[m_step]

    def step(state):
        log_joint = _log_joint(sample.logs, state).clamp(min=least_density)
        memberships, likelihood = posterior_and_likelihood(log_joint, weight)
        return _m_step(sample, memberships, shapes), likelihood

    if init == "official":
        start = x.new_tensor([[1.0, 2.0], [2.0, 1.0], [0.5, 0.5]])
    else:
        start = _m_step(sample, two_means(x, weight), shapes)
    state, n_iter, converged = iterate(step, start, max_iter, tol)
    means = state[0] / (state[0] + state[1])
    alphas, betas, weights = state[:, means.argsort()]
    return BetaFit(alphas, betas, weights, n_iter, converged)


def beta_posterior(x, fit, monotone=False, lookup=None):
    """Probability that a sample belongs to the clean component.

    Beyond the largest posterior of the wrong component every loss gets that posterior, so that a
    very large loss is never called clean.

    Parameters
    ----------
    x : tensor of shape (n,)
        Losses on the scale of the fit.
    fit : BetaFit
        Result of `beta_em`.
    monotone : bool, default=False
        Also keep the posterior from falling again towards loss 0, which happens when the wrong
        component has the smaller alpha.
    lookup : int or None, default=None
        Read the posterior from a table of that many points, as the code of Arazo et al. does with
        100; ``None`` computes it exactly.

    Returns
    -------
    tensor of shape (n,)
        In [0, 1].
    """
    x = x.double().clamp(_EDGE, 1 - _EDGE)
    if lookup is not None:
        table = _wrong_table(fit, lookup, monotone)
        return 1 - table[(lookup * x).long()]
    bend_alpha, bend_beta = fit.alphas[0] - fit.alphas[1], fit.betas[0] - fit.betas[1]
    turning = bend_alpha / (bend_alpha + bend_beta)
    peak, valley = (bend_alpha > 0) & (bend_beta > 0), (bend_alpha < 0) & (bend_beta < 0)
    x = hold_beyond(x, turning, peak & monotone, valley)
    log_clean, log_wrong = _log_joint(_logs(x), torch.stack(fit[:3]))
    return torch.sigmoid(log_clean - log_wrong)


def _wrong_table(fit, size, monotone):
    """Posterior of the wrong component on a grid, flat after its maximum, shape (size,)."""
    tiny = 1e-12  # as published; the ends of the grid are all but 0 and 1
    grid = torch.linspace(tiny, 1 - tiny, size, dtype=torch.float64, device=fit.alphas.device)
    clean, wrong = _log_joint(_logs(grid), torch.stack(fit[:3])).exp()
    table = wrong / (clean + wrong + tiny)
    after = torch.arange(size, device=grid.device) >= table.argmax()
    table = torch.where(after, table.max(), table)
    return table.cummax(0).values if monotone else table


def _logs(x):
    """(n,) values in (0, 1) -> (2, n) log x and log(1 - x)."""
    return torch.stack([x.log(), (-x).log1p()])


def _log_joint(logs, state):
    """log(weight_k Beta(x; alpha_k, beta_k)) from the logarithms of x, shape (2, n)."""
    shape, weights = state[:2], state[2]  # (2 parameters, 2 components), (2,)
    log_constant = shape.sum(0).lgamma() - shape.lgamma().sum(0)
    return (weights.log() + log_constant)[:, None] + (shape - 1).T @ logs


def _m_step(sample, memberships, shapes):
    """(2, n) memberships -> (3, 2) alphas, betas, weights."""
    memberships = sample.weight * memberships
    count = memberships.sum(1) + 10 * torch.finfo(sample.x.dtype).eps  # empty: divides by it
    share = memberships / count[:, None]
    mean = (share @ sample.x).clamp(_EDGE, 1 - _EDGE)
    variance = (share * (sample.x - mean[:, None]) ** 2).sum(1)
    shape = shapes(mean, variance, sample.logs @ share.T)
    return torch.cat([shape, (count / count.sum())[None]])


def moment_shapes(mean, variance, mean_logs=None):
    """Alphas and betas with the given means and variances, shape (2 parameters, 2 components)."""
    precision = mean * (1 - mean) / variance.clamp(min=_LEAST_VARIANCE) - 1
    precision = precision.clamp(min=_LEAST_PRECISION)
    return torch.stack([mean * precision, (1 - mean) * precision])


def bounded_shapes(mean, variance, mean_logs=None):
    """Moment estimate whose components fall towards 1 (clean) and rise from 0 (wrong).

    A beta below 1.02 of the clean component, or such an alpha of the wrong one, becomes 1.1.
    """
    (a0, a1), (b0, b1) = moment_shapes(mean, variance)
    b0, a1 = torch.where(b0 < 1.02, 1.1, b0), torch.where(a1 < 1.02, 1.1, a1)
    return torch.stack([torch.stack([a0, a1]), torch.stack([b0, b1])])


def likely_shapes(mean, variance, mean_logs):
    """Maximum-likelihood alphas and betas, by Newton's method from the moment estimate.

    Solves ``digamma(shape) - digamma(alpha + beta) = mean_logs``. A component without spread has no
    maximum; it keeps the moment estimate with the least variance.
    """
    start = shape = moment_shapes(mean, variance)
    for _ in range(_NEWTON_STEPS):
        shape = _newton_step(shape, mean_logs)
    return torch.where(variance > _LEAST_VARIANCE, shape, start)


def _newton_step(shape, mean_logs):
    """One damped Newton step; all arguments and the result are (2 parameters, 2 components)."""
    total = shape.sum(0)
    gradient = mean_logs - torch.digamma(shape) + torch.digamma(total)
    # The Hessian is a constant minus a diagonal, inverted by the formula of Sherman and Morrison.
    diagonal, constant = torch.polygamma(1, shape), torch.polygamma(1, total)
    common = (gradient / diagonal).sum(0) / (1 / constant - (1 / diagonal).sum(0))
    step = (gradient + common) / diagonal
    # A step is shortened until it leaves at least half of each parameter.
    return shape + step / (-2 * step / shape).amax(0).clamp(min=1)


# M-step, and the least weighted log density in its E-step
_M_STEPS = {
    "moments": (moment_shapes, log(1e-12)),
    "mle": (likely_shapes, -torch.inf),
    "bounded": (bounded_shapes, log(1e-6)),
}
