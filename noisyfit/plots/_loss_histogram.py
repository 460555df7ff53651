"""Histogram of the losses with their mixture."""

from numbers import Integral

import numpy as np
from scipy.stats import beta, norm
from sklearn.utils import check_array, check_consistent_length, check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from noisyfit.plots._axes import COLOURS, STYLES, open_axes
from noisyfit.plots._kinds import check_kinds, groups_of

_BARS = {1: {"All labels": "#C4C4C4"}, 2: {"Right labels": "#B5D5EE", "Wrong labels": "#EFA06B"}}
_BARS[3] = _BARS[2] | {"Out of distribution": "#3F8F76"}
_STATISTICS = {
    "wrong_events": "Wrong events",
    "margin": "Margin of the given label (logits)",
    "proba": "Probability of the given label",
}
_PARAMETERS = ("means", "variances", "alphas", "betas", "weights")
_N_GRID = 1001
_TOLERANCE = 2e-5  # the smallest fitted losses lie up to 1e-5 below a scale of percentiles


class LossHistogramDisplay:
    """Histogram of one number per sample, with the two fitted components drawn over it.

    It shows whether right and wrong labels form two groups, and whether the mixture found them.
    Build it by `from_estimator` or `from_splitter`.

    Parameters
    ----------
    counts : ndarray of shape (1, n_bins), (2, n_bins) or (3, n_bins)
        Samples in each bar: all of them, or those with right and those with wrong labels, or these
        and those out of distribution.
    edges : ndarray of shape (n_bins + 1,)
        Ends of the bars.
    grid : ndarray of shape (n_grid,), optional
        From the middle of the first bar to that of the last.
    expected : ndarray of shape (2, n_grid), optional
        Samples that the clean and the wrong component expect in a bar around each point of the
        grid: the weighted densities, integrated over the bar, times the number of samples.
    weights : ndarray of shape (2,), optional
        Weights of the components.
    value_label : str, default="Loss"
        What the horizontal axis shows.

    Attributes
    ----------
    bars_ : list of matplotlib BarContainer
        One for each row of `counts`, stacked.
    lines_ : list of matplotlib Line2D
        Clean and wrong component; empty without a mixture.
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn.

    References
    ----------
    Eric Arazo, Diego Ortego, Paul Albert, Noel E. O'Connor, Kevin McGuinness. Unsupervised Label
    Noise Modeling and Loss Correction. ICML 2019.

    Examples
    --------
    >>> from noisyfit.mixtures import GaussianMixtureSplitter
    >>> from noisyfit.plots import LossHistogramDisplay
    >>> losses = [[0.1], [0.2], [0.1], [0.3], [2.8], [3.1]]
    >>> splitter = GaussianMixtureSplitter().fit(losses)
    >>> display = LossHistogramDisplay.from_splitter(splitter, losses, bins=3)
    >>> display.counts.tolist(), display.weights.round(2).tolist()
    ([[4, 0, 2]], [0.67, 0.33])
    """

    def __init__(
        self, counts, edges, *, grid=None, expected=None, weights=None, value_label="Loss"
    ):
        self.counts = counts
        self.edges = edges
        self.grid = grid
        self.expected = expected
        self.weights = weights
        self.value_label = value_label

    @classmethod
    def from_estimator(cls, estimator, *, wrong=None, net=0, bins=50, ax=None):
        """Draw the losses of the final division of a fitted method, or else its doubts.

        Parameters
        ----------
        estimator : estimator
            With ``losses_`` of shape (n_networks, n_trained) or (n_trained,), and components in
            ``mixture_history_``, of which the network's last entry counts. Without ``losses_``,
            one minus ``clean_proba_`` is drawn.
        wrong : bool array of shape (n_trained,), tuple (y_true, y_noisy) or array of str, optional
            Which labels are wrong, if that is known; or the kind of each sample, ``"clean"``,
            ``"wrong label"`` or ``"out of distribution"``.
        net : int, default=0
            Whose losses are drawn, counted from 0.
        bins : int, default=50
            Number of bars.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        LossHistogramDisplay

        Raises
        ------
        ValueError, TypeError
            If the estimator was not fitted or left nothing to draw, if there is no such network,
            or if `wrong` has another length or names other kinds.
        """
        check_is_fitted(estimator)
        if hasattr(estimator, "losses_"):
            losses = np.atleast_2d(estimator.losses_)
            check_scalar(net, "net", Integral, min_val=0, max_val=len(losses) - 1)
            mixture, label = _final_mixture(estimator, net), "Scaled loss (0 to 1)"
            wrong = _of_trained(estimator, wrong, losses.shape[1])
            return cls._of_values(losses[net], wrong, bins, label, mixture).plot(ax=ax)
        if not hasattr(estimator, "clean_proba_"):
            raise ValueError(f"{type(estimator).__name__} has no losses_ and no clean_proba_.")
        doubt, label = 1 - np.asarray(estimator.clean_proba_), "1 − clean probability"
        return cls._of_values(doubt, wrong, bins, label, limits=(0, 1)).plot(ax=ax)

    @classmethod
    def from_splitter(cls, splitter, losses, *, wrong=None, bins=50, ax=None):
        """Draw losses in their own units, with the components of a splitter.

        Parameters
        ----------
        splitter : GaussianMixtureSplitter, BetaMixtureSplitter or HistorySplitter
            A fitted one. If it was fitted between two percentiles, its curves describe the
            losses in between and sum to their number.
        losses : array-like of shape (n_samples, n_columns)
            What it was fitted to, or other values of that kind; the columns are averaged.
        wrong, bins, ax
            As in `from_estimator`.

        Returns
        -------
        LossHistogramDisplay

        Raises
        ------
        ValueError, TypeError
            If the splitter was not fitted or is of another kind, or if `losses` or `wrong` do not
            have the shapes above.
        """
        check_is_fitted(splitter)
        values = validate_data(splitter, losses, reset=False, dtype=np.float64).mean(axis=1)
        label = _STATISTICS.get(getattr(splitter, "statistic", None), "Loss")
        return cls._of_values(values, wrong, bins, label, _mixture_of(splitter)).plot(ax=ax)

    @classmethod
    def _of_values(cls, values, wrong, bins, label, mixture=None, limits=None):
        values = check_array(values, dtype=np.float64, ensure_2d=False, input_name="losses")
        check_scalar(bins, "bins", Integral, min_val=1)
        groups = [values]
        if wrong is not None:
            kinds = check_kinds(wrong)
            check_consistent_length(values, kinds)
            groups = [values[mask] for mask in groups_of(kinds)]
        edges = np.histogram_bin_edges(values, bins, limits)
        counts = np.stack([np.histogram(group, edges)[0] for group in groups])
        if mixture is None:
            return cls(counts, edges, value_label=label)
        width, weights = edges[1] - edges[0], np.asarray(mixture["weights"])
        grid = np.linspace(edges[0] + width / 2, edges[-1] - width / 2, _N_GRID)
        expected = n_described(values, mixture) * expected_share(grid, width, mixture)
        return cls(counts, edges, grid=grid, expected=expected, weights=weights, value_label=label)

    def plot(self, *, ax=None):
        """Draw bars and curves in `ax`, or in a new figure; return the display."""
        self.ax_ = open_axes(ax, "LossHistogramDisplay.plot")
        self.figure_, self.bars_, self.lines_ = self.ax_.figure, [], []
        below = np.zeros_like(self.counts[0])
        for row, (name, colour) in zip(self.counts, _BARS[len(self.counts)].items(), strict=True):
            style = {"align": "edge", "color": colour, "label": f"{name} ({row.sum()})"}
            bars = self.ax_.bar(self.edges[:-1], row, np.diff(self.edges), below, **style)
            self.bars_.append(bars)
            below = below + row
        for k, curve in enumerate([] if self.expected is None else self.expected):
            label = f"{('Clean', 'Wrong')[k]} component ({self.weights[k]:.0%})"
            style = {"color": COLOURS[k], "linewidth": 2, "label": label}
            self.lines_ += self.ax_.plot(self.grid, curve, STYLES[k], **style)
        highest = max([below.max(), *(line.get_ydata().max() for line in self.lines_)])
        self.ax_.set(xlabel=self.value_label, ylabel="Samples per bar", ylim=(0, 1.05 * highest))
        self.ax_.legend(frameon=False)
        return self


def expected_share(x, width, mixture):
    """Share of all samples that each component expects in windows around `x` (n,), (2, n).

    That is its weighted density integrated over the window, finite where a beta density is not.
    The components live on the axis ``(x - offset) / span``; a negative span turns it round.
    """
    ends = np.stack([x - width / 2, x + width / 2])[:, None]  # (2, 1, n)
    u = (ends - mixture["offset"]) / mixture["span"]
    column = {name: np.reshape(mixture[name], (2, 1)) for name in _PARAMETERS if name in mixture}
    if "variances" in column:
        below = norm.cdf(u, column["means"], np.sqrt(column["variances"]))
    else:
        below = beta.cdf(u, column["alphas"], column["betas"])
    return column["weights"] * np.abs(below[1] - below[0])


def n_described(values, mixture):
    """Number of samples that the components describe: all, or those that they were fitted to."""
    if "n_fitted" in mixture:
        return mixture["n_fitted"]
    if not mixture["bounded"]:
        return len(values)
    low, high = sorted([mixture["offset"], mixture["offset"] + mixture["span"]])
    return np.sum((values >= low - _TOLERANCE) & (values <= high + _TOLERANCE))


def _of_trained(estimator, wrong, n_trained):
    """Mask or kinds of the rows that were trained on; others were held out and have no loss."""
    if wrong is None:
        return None
    wrong = check_kinds(wrong)
    trained = getattr(estimator, "dynamics_", {"n_seen": np.ones(len(wrong))})["n_seen"] > 0
    is_whole = len(wrong) == len(trained) and trained.sum() == n_trained
    return wrong[trained] if is_whole else wrong


def _final_mixture(estimator, net):
    """The last components of a network, or None."""
    history = getattr(estimator, "mixture_history_", [])
    mine = [record for record in history if record.get("net", 1) == net + 1]
    if not mine or "kind" not in mine[-1]:
        return None
    mixture = {"offset": 0.0, "span": 1.0, "bounded": mine[-1]["kind"] == "beta"} | mine[-1]
    if getattr(estimator, "gmm_exclude_ood", False):
        n_trained = np.shape(estimator.losses_)[-1]
        mixture["n_fitted"] = _of_trained(estimator, estimator.in_distribution_, n_trained).sum()
    return mixture


def _mixture_of(splitter):
    """The components of a splitter on the axis of its input."""
    if not hasattr(splitter, "span_"):
        raise TypeError(
            f"splitter must be one of noisyfit.mixtures, got {type(splitter).__name__}."
        )
    fitted = {name: getattr(splitter, f"{name}_", None) for name in _PARAMETERS}
    mixture = {name: values for name, values in fitted.items() if values is not None}
    sign = -1 if getattr(splitter, "statistic", None) in ("margin", "proba") else 1
    bounded = "alphas" in mixture or getattr(splitter, "normalize", None) == "percentile"
    axis = {"offset": sign * splitter.offset_, "span": sign * splitter.span_, "bounded": bounded}
    return mixture | axis
