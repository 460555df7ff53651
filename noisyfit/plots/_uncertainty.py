"""How unsure a network is of right and of wrong labels while it learns."""

import numpy as np
from sklearn.utils import check_consistent_length, column_or_1d
from sklearn.utils.validation import _num_samples, assert_all_finite

from noisyfit.mixtures._kinds import KINDS
from noisyfit.plots._axes import STYLES, open_axes
from noisyfit.plots._kinds import COLOUR_OF, name_kinds
from noisyfit.plots._recording import EpochRecorder, rows_of


class UncertaintyRecorder(EpochRecorder):
    """Callback of scikit-learn 1.9 that asks after every epoch how unsure the method is of rows.

    It is set on a method with ``predict_uncertainty``, such as `BayesianDivideMixPP`, and leaves
    the fit as it is, bit for bit::

        recorder = UncertaintyRecorder((y_true, y_noisy))
        clf.set_callbacks(recorder).fit(X, y_noisy)
        UncertaintyDisplay.from_recorder(recorder)

    Parameters
    ----------
    kinds : bool array of shape (n_samples,), tuple (y_true, y_noisy) or array of str
        Which of the rows that `fit` will get have wrong labels; or the kind of each of them,
        ``"clean"``, ``"wrong label"`` or ``"out of distribution"``. Never trained on.

    Attributes
    ----------
    history_ : list of dict
        One row per epoch of the last fit: ``epoch``, and for each kind that there is mean and
        quartiles over its rows: ``clean_mean``, ``clean_lower``, ``clean_upper``,
        ``wrong_label_mean``, ..., ``out_of_distribution_upper``.

    See Also
    --------
    UncertaintyDisplay : Draws the record.
    noisyfit.mixtures.sample_kinds : Kinds as a fit finds them.

    Notes
    -----
    Each epoch costs one more ``predict_uncertainty`` of the rows, un-augmented. Those that a
    `train_split` holds out count as well. Cloned estimators share the recorder, so that it keeps
    the last fit; in another process it fills a copy that is lost.

    Examples
    --------
    With a loop of your own, tell it how unsure your network is:

    >>> from noisyfit.plots import UncertaintyRecorder
    >>> recorder = UncertaintyRecorder([False, False, False, True])
    >>> recorder.record([0.0, 0.25, 0.5, 1.0])
    >>> recorder.history_[0]["clean_mean"], recorder.history_[0]["wrong_label_mean"]
    (0.25, 1.0)
    """

    def __init__(self, kinds):
        self.kinds = kinds
        self._kinds = name_kinds(kinds)
        super().__init__()

    def start(self):
        """Forget the last fit."""
        self.history_ = []

    def record(self, uncertainty):
        """Add an epoch.

        Parameters
        ----------
        uncertainty : array-like of shape (n_samples,)
            How unsure the network is of each of the training rows.
        """
        u = column_or_1d(uncertainty, dtype=np.float64, input_name="uncertainty")
        check_consistent_length(u, self._kinds)
        assert_all_finite(u, input_name="uncertainty")
        columns = {}
        for kind in sorted(set(self._kinds), key=KINDS.index):
            of_kind = u[self._kinds == kind]
            figures = [of_kind.mean(), *np.quantile(of_kind, [0.25, 0.75])]
            columns |= zip(_columns(kind), map(float, figures), strict=True)
        self._add(**columns)

    def _begin(self, estimator, X, y):
        if not hasattr(estimator, "predict_uncertainty"):
            raise TypeError(
                f"{type(estimator).__name__} has no predict_uncertainty; BayesianDivideMixPP does."
            )
        if _num_samples(X) != len(self._kinds):
            raise ValueError(f"kinds has {len(self._kinds)} rows for {_num_samples(X)} to fit.")
        self.start()

    def _look(self, fitted_estimator, X):
        self.record(fitted_estimator.predict_uncertainty(X))


class UncertaintyDisplay:
    """Lines over the epochs: how unsure is the network of rows with right and with wrong labels?

    A line is the mean over the rows of a kind, its band lies between their quartiles. Where the
    bands are apart, uncertainty tells the kinds apart. Build it by `from_recorder` or
    `from_values`.

    Parameters
    ----------
    curves : dict of str to (epochs, means, lower, upper)
        Mean and quartiles by epoch, each a list, for some of the kinds ``"clean"``,
        ``"wrong label"`` and ``"out of distribution"``.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        Means, in the order of `curves`.
    bands_ : list of matplotlib PolyCollection
        Between the quartiles, in the same order.
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn.

    Examples
    --------
    >>> from noisyfit.plots import UncertaintyDisplay
    >>> wrong = [False, False, True, True]
    >>> of_epochs = [[0.75, 0.75, 1.0, 1.0], [0.0, 0.5, 0.75, 1.0]]
    >>> display = UncertaintyDisplay.from_values(wrong, of_epochs)
    >>> display.curves["clean"]
    ([1, 2], [0.75, 0.25], [0.75, 0.125], [0.75, 0.375])
    """

    def __init__(self, curves):
        self.curves = curves

    @classmethod
    def from_recorder(cls, recorder, *, ax=None):
        """Draw what a recorder noted of a fit.

        Parameters
        ----------
        recorder : UncertaintyRecorder
            After the fit.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        UncertaintyDisplay

        Raises
        ------
        ValueError, TypeError
            If it is no recorder, or has recorded nothing.
        """
        rows = rows_of(recorder, UncertaintyRecorder)
        kinds = [kind for kind in KINDS if _columns(kind)[0] in rows[0]]
        of_kind = {kind: ["epoch", *_columns(kind)] for kind in kinds}
        curves = {k: tuple([r[c] for r in rows] for c in columns) for k, columns in of_kind.items()}
        return cls(curves).plot(ax=ax)

    @classmethod
    def from_values(cls, kinds, values, *, ax=None):
        """Draw what was kept by other means.

        Parameters
        ----------
        kinds : bool array of shape (n_samples,), tuple (y_true, y_noisy) or array of str
            As for `UncertaintyRecorder`.
        values : sequence of arrays of shape (n_samples,)
            How unsure a network is of each row, in any unit, one array per epoch.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        UncertaintyDisplay

        Raises
        ------
        ValueError
            For no epoch, unequal lengths, unknown kinds, or values that are not finite.
        """
        recorder = UncertaintyRecorder(kinds)
        for uncertainty in values:
            recorder.record(uncertainty)
        if not recorder.history_:
            raise ValueError("values must hold at least one epoch.")
        return cls.from_recorder(recorder, ax=ax)

    def plot(self, *, ax=None):
        """Draw lines and bands in `ax`, or in a new figure; return the display."""
        self.ax_ = open_axes(ax, "UncertaintyDisplay.plot")
        self.figure_, self.lines_, self.bands_ = self.ax_.figure, [], []
        for kind, (epochs, means, lower, upper) in self.curves.items():
            colour, style = COLOUR_OF[kind], STYLES[KINDS.index(kind)]
            fill = {"color": colour, "alpha": 0.2, "linewidth": 0}
            self.bands_.append(self.ax_.fill_between(epochs, lower, upper, **fill))
            line = {"color": colour, "linestyle": style, "linewidth": 2}
            marker = "o" if len(epochs) == 1 else None
            label = kind.capitalize()
            self.lines_ += self.ax_.plot(epochs, means, marker=marker, label=label, **line)
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        self.ax_.set(xlabel="Epoch", ylabel="Uncertainty (mean, quartiles)")
        self._leave_room()
        self.ax_.legend(frameon=False, loc="upper left")
        return self

    def _leave_room(self):
        """Let lines and bands end below the legend, the scale with them."""
        from matplotlib.ticker import MaxNLocator

        self.ax_.autoscale(axis="y")
        low, high = self.ax_.get_ylim()
        ticks = MaxNLocator(6).tick_values(low, high)
        self.ax_.set_yticks(ticks[(low <= ticks) & (ticks <= high)])
        self.ax_.set_ylim(low, high + 0.34 * (high - low))
        self.ax_.spines["left"].set_bounds(low, high)


def _columns(kind):
    """Names of mean, lower and upper quartile in the record."""
    return [f"{kind.replace(' ', '_')}_{which}" for which in ("mean", "lower", "upper")]
