"""What the one-dimensional mixtures share: scaling, a two-means start, the loop of EM.

Everything works on 1-D float64 tensors of any device. Nothing is read back from an accelerator:
conditions are tensors, and a finished loop is frozen rather than left.
"""

from typing import NamedTuple

import torch

_NEARLY_CONSTANT = 1e-12
_TRIM_LOW, _TRIM_HIGH = 0.05, 0.95
_TRIM_OFFSET, _TRIM_SPAN = 1e-5, 1e-6
_TRIM_MARGIN = 1e-3
_TRIM_LEAST = 50
_STEPS = 2**30  # in which a value is placed inside its bin


class Scaling(NamedTuple):
    """The map from losses to the unit interval: ``(x - offset) / span``, then clamped.

    All fields are scalar tensors. Losses outside the fitted range count as its nearest end.
    """

    offset: torch.Tensor
    span: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    constant: torch.Tensor

    def apply(self, x):
        """(n,) losses -> (n,) scaled losses in [low, high]."""
        return ((x - self.offset) / self.span).clamp(self.low, self.high)


def no_scaling(x):
    """Leave the losses as they are; only tell whether they are constant."""
    low, high = x.aminmax()
    constant = high - low < _NEARLY_CONSTANT
    infinity = torch.full_like(low, torch.inf)
    return Scaling(torch.zeros_like(low), torch.ones_like(low), -infinity, infinity, constant)


def minmax_scaling(x, margin=0.0):
    """Smallest loss to 0, largest to 1, then kept `margin` away from both ends."""
    low, high = x.aminmax()
    constant = high - low < _NEARLY_CONSTANT
    span = torch.where(constant, 1.0, high - low)
    margin = torch.full_like(low, margin)
    return Scaling(low, span, margin, 1 - margin, constant)


def percentile_scaling(x):
    """5th percentile to 0, 95th to 1; the losses beyond them are kept out of the fit.

    With fewer than 50 losses between them, or only equal ones, the extremes are used instead.

    Returns
    -------
    scaling : Scaling
        With the constants of the code of Arazo et al. (ICML 2019).
    weight : tensor of shape (n,)
        1 where a loss takes part in the fit, 0 where it is trimmed.
    """
    low, high = torch.quantile(x, x.new_tensor([_TRIM_LOW, _TRIM_HIGH]))
    kept = (x >= low) & (x <= high)
    spread = x.where(kept, low).max() - x.where(kept, high).min()
    no_trim = (kept.sum() < _TRIM_LEAST) | (spread < _TRIM_OFFSET + _TRIM_SPAN)
    low, high = torch.where(no_trim, x.min(), low), torch.where(no_trim, x.max(), high)
    offset = low + _TRIM_OFFSET
    constant = high - offset < _TRIM_SPAN
    span = torch.where(constant, 1.0, high - offset + _TRIM_SPAN)
    margin = torch.full_like(low, _TRIM_MARGIN)
    scaling = Scaling(offset, span, margin, 1 - margin, constant)
    return scaling, (kept | no_trim).to(x.dtype)


def two_means(x, weight):
    """Exact one-dimensional 2-means: the cut of the sorted values with the least scatter.

    Returns
    -------
    memberships : tensor of shape (2, n)
        One-hot columns; row 0 is the group of the smaller values.
    """
    values, order = (x - (weight * x).sum() / weight.sum()).sort()
    weight = weight[order]
    n_low, sum_low = weight.cumsum(0), (weight * values).cumsum(0)
    # The values are centred, so both groups have the same sum up to its sign.
    product = n_low * (n_low[-1] - n_low)  # 0 while only samples of weight 0 are on one side
    between = torch.where(product > 0, sum_low**2 / product, 0.0)
    is_low = torch.empty_like(x, dtype=torch.bool)
    is_low[order] = values <= values.take(between[:-1].argmax())
    return torch.stack([is_low, ~is_low]).to(x.dtype)


def histogram(x, weight, bins):
    """(n,) values and weights -> (bins,) means and weights of equally wide bins."""
    low, high = x.aminmax()
    width = ((high - low) / bins).clamp(min=torch.finfo(x.dtype).tiny)
    place = (x - low) / width
    index = place.long().clamp(0, bins - 1)
    total = torch.zeros(bins, dtype=x.dtype, device=x.device).scatter_add_(0, index, weight)
    # Whole numbers have one sum, in whatever order an accelerator adds them.
    within = (weight * (place - index) * _STEPS).round().long()
    within = torch.zeros_like(total, dtype=torch.int64).scatter_add_(0, index, within)
    mean = torch.where(total > 0, within / total / _STEPS, 0.5)
    return low + width * (torch.arange(bins, dtype=x.dtype, device=x.device) + mean), total


def iterate(step, state, max_iter, tol, stop_early=None):
    """Run EM until the mean log-likelihood changes by less than `tol`.

    Parameters
    ----------
    step : callable
        ``state -> (new state, mean log-likelihood of the old state)``: an E- and an M-step.
    state : tensor
        Parameters of the mixture.
    max_iter : int
        Most iterations.
    tol : float
        Least change of the mean log-likelihood that asks for another iteration; 0 = never stop.
    stop_early : bool or None, default=None
        Whether to leave the loop once converged. ``None`` leaves it on the host, where looking
        costs nothing; on an accelerator the state is frozen instead. The results are the same.

    Returns
    -------
    state : tensor
        Final parameters.
    n_iter, converged : scalar tensors
        Iterations made before the state stopped changing, and whether it did.
    """
    if stop_early is None:
        stop_early = state.device.type == "cpu"
    likelihood = state.new_full((), -torch.inf)
    converged = torch.zeros((), dtype=torch.bool, device=state.device)
    n_iter = torch.zeros((), dtype=torch.long, device=state.device)
    for _ in range(max_iter):
        new_state, new_likelihood = step(state)
        state = torch.where(converged, state, new_state)
        n_iter = n_iter + ~converged
        converged = converged | ((new_likelihood - likelihood).abs() < tol)
        likelihood = new_likelihood
        if stop_early and converged:
            break
    return state, n_iter, converged


def posterior_and_likelihood(log_joint, weight):
    """(2, n) log joint densities -> (2, n) responsibilities and the mean log-likelihood."""
    log_likelihood = torch.logaddexp(log_joint[0], log_joint[1])
    return log_joint.softmax(0), (weight * log_likelihood).sum() / weight.sum()


def hold_beyond(x, turning, holds_left, holds_right):
    """Move x back to the turning point of the log-odds where they would rise with the loss.

    The log-odds of two Gaussians, or of two betas, turn at most once. Left of a peak or right of a
    valley a larger loss would look cleaner; there the value at the turning point is used.
    """
    lowest = torch.where(holds_left, turning, -torch.inf)
    highest = torch.where(holds_right, turning, torch.inf)
    return x.clamp(lowest, highest)
