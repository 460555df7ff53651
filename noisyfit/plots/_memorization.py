"""How fast the wrong labels are learnt."""

import numpy as np

from noisyfit._inputs import validate_y
from noisyfit.metrics._checks import check_labels, predicted_labels
from noisyfit.metrics.correction import correction_scores
from noisyfit.plots._axes import COLOURS, STYLES, open_axes
from noisyfit.plots._recording import EpochRecorder, rows_of

_LINES = {
    "memorization_rate": ("Wrong labels, memorised", COLOURS[1]),
    "repair_rate": ("Wrong labels, true class predicted", COLOURS[0]),
    "right_accuracy": ("Right labels, predicted", COLOURS[2]),
}


class MemorizationRecorder(EpochRecorder):
    """Callback of scikit-learn 1.9 that predicts the training rows after every epoch.

    It is set on a method and leaves the fit as it is, bit for bit::

        recorder = MemorizationRecorder(y_true)
        clf.set_callbacks(recorder).fit(X, y_noisy)
        MemorizationDisplay.from_recorder(recorder)

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        True labels of the rows that `fit` will get, in the same order and of the same kind as the
        given ones. They are compared with predictions, never trained on.

    Attributes
    ----------
    history_ : list of dict
        One row per epoch of the last fit: ``epoch``; ``memorization_rate`` and ``repair_rate``,
        the shares of the wrongly labelled rows that are predicted as their given and as their true
        class; ``right_accuracy``, the share of the rightly labelled rows that are predicted as
        such. A share of nothing is NaN.

    See Also
    --------
    MemorizationDisplay : Draws the record.

    Notes
    -----
    Each epoch costs one more ``predict`` of the rows, un-augmented. Those that a `train_split`
    holds out count as well. Cloned estimators share the recorder, so that it keeps the last fit;
    in another process it fills a copy that is lost.

    Examples
    --------
    With a loop of your own, tell it what was given and what is predicted:

    >>> from noisyfit.plots import MemorizationRecorder
    >>> recorder = MemorizationRecorder(["cat", "dog", "dog", "cat"])
    >>> recorder.start(["cat", "dog", "cat", "dog"])
    >>> recorder.record(["cat", "dog", "dog", "dog"])
    >>> recorder.history_
    [{'epoch': 1, 'memorization_rate': 0.5, 'repair_rate': 0.5, 'right_accuracy': 1.0}]
    """

    def __init__(self, y_true):
        self.y_true = y_true
        super().__init__()

    def start(self, y_noisy):
        """Forget the last fit; the next one has these given labels.

        Parameters
        ----------
        y_noisy : array-like of shape (n_samples,)

        Raises
        ------
        ValueError
            If they are not as many as the true labels, or of another kind.
        """
        if len(y_noisy) != len(self.y_true):
            raise ValueError(
                f"y_true has {len(self.y_true)} labels for {len(y_noisy)} training rows."
            )
        self._y_true, self._y_noisy = check_labels(y_true=self.y_true, y_noisy=y_noisy)
        self.history_ = []

    def record(self, predicted):
        """Add an epoch.

        Parameters
        ----------
        predicted : array-like of shape (n_samples,)
            Predicted labels of the training rows.
        """
        self._add(**_rates(self._y_true, self._y_noisy, predicted))

    def _begin(self, estimator, X, y):
        codes, classes = validate_y(estimator, X, y)
        self.start(classes[codes])

    def _look(self, fitted_estimator, X):
        self.record(fitted_estimator.predict(X))


class MemorizationDisplay:
    """Lines over the epochs: are the wrong labels memorised, or predicted as what they truly are?

    Deep networks fit the right labels first and the wrong ones later; robust training keeps the
    first line low and the second high. Build it by `from_recorder` or `from_predictions`.

    Parameters
    ----------
    curves : dict of str to (epochs, values)
        By the names of the columns of `MemorizationRecorder`: ``memorization_rate``,
        ``repair_rate``, ``right_accuracy``. Values that are all NaN are not drawn.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        In the order of `curves`.
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn.

    See Also
    --------
    noisyfit.metrics.memorization_rate : The first line at one time.

    References
    ----------
    Sheng Liu, Jonathan Niles-Weed, Narges Razavian, Carlos Fernandez-Granda. Early-Learning
    Regularization Prevents Memorization of Noisy Labels. NeurIPS 2020.

    Examples
    --------
    >>> from noisyfit.plots import MemorizationDisplay
    >>> y_true, y_noisy = [0, 1, 1, 0], [0, 1, 0, 1]
    >>> of_epochs = [[0, 1, 1, 0], [0, 1, 1, 1], [0, 1, 0, 1]]
    >>> display = MemorizationDisplay.from_predictions(y_true, y_noisy, of_epochs)
    >>> display.curves["memorization_rate"]
    ([1, 2, 3], [0.0, 0.5, 1.0])
    """

    def __init__(self, curves):
        self.curves = curves

    @classmethod
    def from_recorder(cls, recorder, *, ax=None):
        """Draw what a recorder noted of a fit.

        Parameters
        ----------
        recorder : MemorizationRecorder
            After the fit.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        MemorizationDisplay

        Raises
        ------
        ValueError, TypeError
            If it is no recorder, or has recorded nothing.
        """
        rows = rows_of(recorder, MemorizationRecorder)
        epochs = [row["epoch"] for row in rows]
        return cls({key: (epochs, [row[key] for row in rows]) for key in _LINES}).plot(ax=ax)

    @classmethod
    def from_predictions(cls, y_true, y_noisy, predictions, *, classes=None, ax=None):
        """Draw predictions on the training rows that were kept by other means.

        Parameters
        ----------
        y_true, y_noisy : array-like of shape (n_samples,)
            True and given labels.
        predictions : sequence of arrays of shape (n_samples,) or (n_samples, n_classes)
            Predicted labels or their probabilities, one array per epoch.
        classes : array of shape (n_classes,), optional
            Label of every column of probabilities; needed where the labels do not show it.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        MemorizationDisplay

        Raises
        ------
        ValueError
            For no epoch, unequal lengths, labels of mixed kinds, or columns without a known label.
        """
        recorder = MemorizationRecorder(y_true)
        recorder.start(y_noisy)
        labels = recorder._y_true, recorder._y_noisy
        for predicted in predictions:
            recorder.record(predicted_labels(predicted, classes, *labels))
        if not recorder.history_:
            raise ValueError("predictions must hold at least one epoch.")
        return cls.from_recorder(recorder, ax=ax)

    def plot(self, *, ax=None):
        """Draw the lines in `ax`, or in a new figure; return the display."""
        self.ax_ = open_axes(ax, "MemorizationDisplay.plot")
        self.figure_, self.lines_ = self.ax_.figure, []
        for i, (key, (epochs, values)) in enumerate(self.curves.items()):
            if np.isnan(values).all():
                continue
            label, colour = _LINES[key]
            style = {"color": colour, "linestyle": STYLES[i], "label": label}
            marker = "o" if len(epochs) == 1 else None
            self.lines_ += self.ax_.plot(epochs, values, marker=marker, linewidth=2, **style)
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        ticks = np.linspace(0, 1, 6)
        self.ax_.set(xlabel="Epoch", ylabel="Share of the training rows", yticks=ticks)
        self.ax_.set_ylim(-0.02, 1.34)  # the lines fill the axes, the legend gets its own part
        self.ax_.spines["left"].set_bounds(0, 1)
        self.ax_.legend(frameon=False, loc="upper left")
        return self


def _rates(y_true, y_noisy, predicted):
    """The columns of one epoch from label arrays (n,)."""
    predicted = check_labels(y_true=y_true, predicted=predicted)[1]
    scores = correction_scores(y_true, y_noisy, predicted)
    rates = {key: scores[key] for key in ("memorization_rate", "repair_rate")}
    return rates | {"right_accuracy": 1 - scores["damage_rate"]}
