"""Displays of what a fit leaves behind: losses with their mixture, and the training history.

They read fitted attributes only. ``from_...`` computes and draws, ``plot`` draws once more.
"""

from numbers import Integral

import numpy as np
from scipy.stats import beta, norm
from sklearn.utils import check_scalar
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from noisyfit.metrics.detection import check_wrong

__all__ = ["LossHistogramDisplay", "TrainingHistoryDisplay"]

# Colours of Okabe and Ito, told apart with every common kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LINE_STYLES = ("-", "--", ":", "-.")
_BARS = {1: ("#BFBFBF",), 2: ("#A6CEE9", "#F0A878")}
_BAR_LABELS = {1: ("All labels",), 2: ("Right labels", "Wrong labels")}
_N_GRID = 1001
_EDGE = 2e-5  # a percentile scale begins and ends this close to the outermost fitted losses
_STATISTICS = {"wrong_events": "Wrong events", "margin": "Margin", "proba": "Probability"}
_TURNED = ("margin", "proba")  # statistics that are larger for right labels
_QUANTITIES = {"acc": "Accuracy", "loss": "Loss"}
_MEANINGS = {
    "train_acc": "Training accuracy, given labels",
    "valid_acc": "Validation accuracy",
    "train_loss": "Training loss",
    "valid_loss": "Validation loss",
    "lr": "Learning rate",
    "seconds": "Time of an epoch (s)",
}


def component_mass(x, width, mixture):
    """Share of all samples that each component expects between x - width / 2 and x + width / 2.

    Parameters
    ----------
    x : ndarray of shape (n,)
        Centres of the windows.
    width : float
        Their width, in the units of `x`.
    mixture : dict
        ``weights`` with ``means`` and ``variances``, or with ``alphas`` and ``betas``, each of
        shape (2,), on the axis ``(x - offset) / span``; by default that is `x` itself. A negative
        ``span`` turns the axis round.

    Returns
    -------
    ndarray of shape (2, n)
        Divided by `width`: the weighted densities, averaged over a window. Unlike the densities
        themselves it stays finite where a beta has a pole.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.plots import component_mass
    >>> mixture = {"means": [0.2, 0.8], "variances": [0.01, 0.01], "weights": [0.7, 0.3]}
    >>> component_mass(np.array([0.2]), 4.0, mixture).ravel().round(3).tolist()
    [0.7, 0.3]
    """
    offset, span = mixture.get("offset", 0.0), mixture.get("span", 1.0)
    ends = (np.stack([x - width / 2, x + width / 2])[:, None] - offset) / span  # (2, 1, n)
    if "variances" in mixture:
        means, deviations = _columns(mixture["means"], np.sqrt(mixture["variances"]))
        below = norm.cdf(ends, means, deviations)
    else:
        below = beta.cdf(ends, *_columns(mixture["alphas"], mixture["betas"]))
    (weights,) = _columns(mixture["weights"])
    return weights * np.abs(below[1] - below[0])


def _columns(*parameters):
    """Parameters (2,) of the components as columns (2, 1)."""
    return [np.asarray(values, dtype=np.float64)[:, None] for values in parameters]


class LossHistogramDisplay:
    """Histogram of a number per sample, with the two fitted components drawn over it.

    It shows whether right and wrong labels form two groups at all, and whether the mixture found
    them. Build it by `from_estimator` or `from_splitter`.

    Parameters
    ----------
    counts : ndarray of shape (1, n_bins) or (2, n_bins)
        Samples in each bar: all of them, or those with right and with wrong labels.
    edges : ndarray of shape (n_bins + 1,)
        Ends of the bars, equally far apart.
    grid : ndarray of shape (n_grid,), optional
        Where the curves are drawn.
    expected : ndarray of shape (2, n_grid), optional
        Samples that the clean and the wrong component expect in a bar centred at each point of
        `grid`. Divided by the width of a bar and the number of samples described by the mixture:
        the weighted densities.
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
    ax_ : matplotlib Axes
        Where it was drawn.
    figure_ : matplotlib Figure
        The figure of ``ax_``.

    See Also
    --------
    TrainingHistoryDisplay : Accuracy or loss over the epochs.

    Examples
    --------
    >>> from noisyfit.mixtures import GaussianMixtureSplitter
    >>> from noisyfit.plots import LossHistogramDisplay
    >>> losses = [[0.1], [0.2], [0.1], [0.3], [2.8], [3.1]]
    >>> splitter = GaussianMixtureSplitter().fit(losses)
    >>> display = LossHistogramDisplay.from_splitter(splitter, losses, bins=3)
    >>> display.counts.tolist()
    [[4, 0, 2]]
    >>> display.weights.round(2).tolist()
    [0.67, 0.33]
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
            With ``losses_`` of shape (n_networks, n_trained) or (n_trained,), and the components
            in ``mixture_history_``, of which the last entry of the network counts. Without
            ``losses_``, one minus ``clean_proba_`` is drawn, without components.
        wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy), optional
            Which labels are wrong, where that is known.
        net : int, default=0
            Whose losses are drawn, where there are two networks.
        bins : int, default=50
            Number of bars.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        LossHistogramDisplay

        Raises
        ------
        NotFittedError
            If the estimator was not fitted.
        ValueError
            If there is nothing to draw, no such network, or `wrong` has another length.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "losses_"):
            if not hasattr(estimator, "clean_proba_"):
                raise ValueError(
                    f"{type(estimator).__name__} has neither losses_ nor clean_proba_ to draw."
                )
            doubt = 1 - np.asarray(estimator.clean_proba_)
            return cls._from_values(doubt, wrong, bins, "1 − clean probability", limits=(0, 1)).plot(
                ax=ax
            )
        losses = np.atleast_2d(estimator.losses_)  # (n_networks, n_trained)
        check_scalar(net, "net", Integral, min_val=0, max_val=len(losses) - 1)
        mixture = _last_mixture(getattr(estimator, "mixture_history_", ()), net + 1)
        display = cls._from_values(losses[net], wrong, bins, "Loss, scaled to 0–1", mixture)
        return display.plot(ax=ax)

    @classmethod
    def from_splitter(
        cls, splitter, losses, *, wrong=None, bins=50, value_label=None, ax=None
    ):
        """Draw losses in their own units, with the components of a fitted splitter.

        Parameters
        ----------
        splitter : GaussianMixtureSplitter, BetaMixtureSplitter or HistorySplitter
            A fitted one.
        losses : array-like of shape (n_samples, n_columns)
            What it was fitted to, or other values of that kind; the columns are averaged.
        wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy), optional
            Which labels are wrong, where that is known.
        bins : int, default=50
            Number of bars.
        value_label : str, optional
            What the losses are; by default "Loss", or the statistic of a `HistorySplitter`.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        LossHistogramDisplay

        Raises
        ------
        NotFittedError
            If the splitter was not fitted.
        ValueError
            If `losses` has other columns than those of the fit, or `wrong` another length.

        Notes
        -----
        A scale of percentiles keeps the smallest and the largest losses out of the fit. The
        curves then describe the other samples only, and sum to their number.
        """
        check_is_fitted(splitter)
        values = validate_data(splitter, losses, reset=False, dtype=np.float64).mean(axis=1)
        if value_label is None:
            value_label = _STATISTICS.get(getattr(splitter, "statistic", None), "Loss")
        mixture = _splitter_mixture(splitter)
        return cls._from_values(values, wrong, bins, value_label, mixture).plot(ax=ax)

    @classmethod
    def _from_values(cls, values, wrong, bins, value_label, mixture=None, limits=None):
        values = check_array(values, ensure_2d=False, dtype=np.float64, input_name="losses")
        check_scalar(bins, "bins", Integral, min_val=1)
        edges = np.histogram_bin_edges(values, bins, limits)
        groups = [values]
        if wrong is not None:
            wrong = check_wrong(wrong)
            if len(wrong) != len(values):
                raise ValueError(
                    f"wrong has {len(wrong)} entries for {len(values)} values; give the entries of "
                    "the rows that were trained on."
                )
            groups = [values[~wrong], values[wrong]]
        counts = np.stack([np.histogram(group, edges)[0] for group in groups])
        if mixture is None:
            return cls(counts, edges, value_label=value_label)
        width = edges[1] - edges[0]
        grid = np.linspace(edges[0] + width / 2, edges[-1] - width / 2, _N_GRID)
        expected = _n_described(values, mixture) * component_mass(grid, width, mixture)
        weights = np.asarray(mixture["weights"])
        return cls(
            counts, edges, grid=grid, expected=expected, weights=weights, value_label=value_label
        )

    def plot(self, *, ax=None):
        """Draw the bars and the curves.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        LossHistogramDisplay
            Itself, with the artists as attributes.
        """
        check_matplotlib_support(f"{type(self).__name__}.plot")
        self.ax_, self.figure_ = _open_axes(ax)
        self.bars_, self.lines_ = [], []
        below = np.zeros_like(self.counts[0])
        kind = len(self.counts)
        for row, colour, label in zip(self.counts, _BARS[kind], _BAR_LABELS[kind], strict=True):
            self.bars_.append(self._bars(row, below, colour, f"{label} ({row.sum()})"))
            below = below + row
        if self.expected is not None:
            for k, name in enumerate(("Clean", "Wrong")):
                label = f"{name} component ({self.weights[k]:.0%})"
                style = {"color": _COLOURS[k], "linestyle": _LINE_STYLES[k], "linewidth": 2}
                self.lines_ += self.ax_.plot(self.grid, self.expected[k], label=label, **style)
        self.ax_.set(xlabel=self.value_label, ylabel="Samples per bar")
        self.ax_.legend(frameon=False)
        return self

    def _bars(self, heights, bottom, colour, label):
        lefts, width = self.edges[:-1], np.diff(self.edges)
        return self.ax_.bar(
            lefts, heights, width, bottom, align="edge", color=colour, label=label
        )
