"""Two Gaussians on a line, as DivideMix fits them to the losses."""

from math import log, pi
from typing import NamedTuple

import torch

from noisyfit._em_loop import histogram, hold_beyond, iterate, posterior_and_likelihood, two_means

_BINS, _FROM, _WIDTHS = 2048, 20_000, 10


class GaussianFit(NamedTuple):
    """Two Gaussians; component 0 has the smaller mean and holds the clean samples."""

    means: torch.Tensor
    variances: torch.Tensor
    weights: torch.Tensor
    n_iter: torch.Tensor
    converged: torch.Tensor


def usual_bins(n, reg_covar=5e-4):
    """Bins of a histogram of `n` samples in [0, 1]; None for few samples, or where a component may
    be as narrow as a bin."""
    return _BINS if n >= _FROM and reg_covar**0.5 >= _WIDTHS / _BINS else None


def gaussian_em(x, max_iter=10, tol=1e-2, reg_covar=5e-4, weight=None, bins=None):
    """Fit two Gaussians to a sample by EM.

    The start is the exact 2-means partition; the stopping rule is that of scikit-learn's
    ``GaussianMixture``, which gives the same parameters.

    Parameters
    ----------
    x : tensor of shape (n,)
        Scaled losses.
    max_iter : int, default=10
        Most iterations.
    tol : float, default=1e-2
        Stop when the mean log-likelihood changes by less.
    reg_covar : float, default=5e-4
        Added to every variance.
    weight : tensor of shape (n,) or None, default=None
        Weights of the samples; ``None`` counts each once.
    bins : int or None, default=None
        Fit to a histogram of that many bins: one pass over the sample, then a cost that does not
        depend on its size. ``None`` fits to the sample itself.

    Returns
    -------
    GaussianFit
        Named tuple of tensors on the device of `x`.

    References
    ----------
    Junnan Li, Richard Socher, Steven C. H. Hoi. DivideMix: Learning with Noisy Labels as
    Semi-supervised Learning. ICLR 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit._gaussian_em import gaussian_em, gaussian_posterior
    >>> x = torch.tensor([0.0, 0.1, 0.1, 0.2, 0.9, 1.0], dtype=torch.float64)
    >>> fit = gaussian_em(x)
    >>> fit.means
    tensor([0.1000, 0.9500], dtype=torch.float64)
    >>> gaussian_posterior(x, fit).round().int()
    tensor([1, 1, 1, 1, 0, 0], dtype=torch.int32)
    """
    x = x.double()
    weight = torch.ones_like(x) if weight is None else weight.double()
    if bins is not None:
        x, weight = histogram(x, weight, bins)

    def step(state):
        posterior, likelihood = posterior_and_likelihood(_log_joint(x, state), weight)
        return _m_step(x, weight * posterior, reg_covar), likelihood

    start = _m_step(x, weight * two_means(x, weight), reg_covar)
    state, n_iter, converged = iterate(step, start, max_iter, tol)
    means, variances, weights = state[:, state[0].argsort()]
    return GaussianFit(means, variances, weights, n_iter, converged)


def gaussian_posterior(x, fit, monotone=False):
    """Probability that a sample belongs to the clean component.

    Parameters
    ----------
    x : tensor of shape (n,)
        Losses on the scale of the fit.
    fit : GaussianFit
        Result of `gaussian_em`.
    monotone : bool, default=False
        Never let the posterior rise with the loss. With unequal variances it does: left of the
        narrower clean component, or right of the narrower wrong one.

    Returns
    -------
    tensor of shape (n,)
        In [0, 1].

    Notes
    -----
    ``monotone`` uses the turning point of the log-odds in closed form. It equals the running
    maximum from high to low loss over all possible losses, and so does not depend on which
    samples are scored together. Where the clean component is the broader one, that maximum is 1
    everywhere; there the posterior is kept from rising beyond its minimum instead.
    """
    x = x.double()
    if monotone:
        (m0, m1), (v0, v1) = fit.means, fit.variances
        turning = (m0 * v1 - m1 * v0) / (v1 - v0)
        x = hold_beyond(x, turning, v0 < v1, v0 > v1)
    constants = fit.weights.log() - 0.5 * fit.variances.log()
    factors = -0.5 / fit.variances
    log_clean, log_wrong = (
        (x - m).square_().mul_(k) for m, k in zip(fit.means, factors, strict=True)
    )
    return log_clean.sub_(log_wrong).add_(constants[0] - constants[1]).sigmoid_()


def _log_joint(x, state):
    """log(weight_k N(x; mean_k, variance_k)), shape (2, n)."""
    means, variances, weights = state[:, :, None]  # each (2, 1)
    log_normal = -0.5 * (log(2 * pi) + variances.log() + (x - means) ** 2 / variances)
    return weights.log() + log_normal


def _m_step(x, memberships, reg_covar):
    """(n,) sample and (2, n) weighted memberships -> (3, 2) means, variances, weights."""
    count = memberships.sum(1) + 10 * torch.finfo(x.dtype).eps  # an empty component divides by it
    means = (memberships * x).sum(1) / count
    scatter = (memberships * (x - means[:, None]) ** 2).sum(1)
    return torch.stack([means, scatter / count + reg_covar, count / count.sum()])
