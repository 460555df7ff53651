"""Lines over the epochs."""

from collections.abc import Mapping

from sklearn.utils.validation import check_is_fitted

from noisyfit.plots._axes import COLOURS, STYLES, open_axes

_COLUMNS = {
    "train_acc": "Training accuracy, given labels",
    "valid_acc": "Validation accuracy",
    "train_loss": "Training loss",
    "valid_loss": "Validation loss",
    "lr": "Learning rate",
    "seconds": "Seconds per epoch",
}
_QUANTITIES = {"acc": "Accuracy", "loss": "Loss"}


class TrainingHistoryDisplay:
    """Lines of accuracy, loss or another column of ``history_`` over the epochs.

    Build it by `from_estimator` or `from_histories`.

    Parameters
    ----------
    curves : dict of str to (epochs, values)
        What is drawn, by its name in the legend.
    value_label : str, default="Value"
        What the vertical axis shows.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        In the order of `curves`.
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn.

    Examples
    --------
    >>> from noisyfit.plots import TrainingHistoryDisplay
    >>> history = [{"epoch": 1, "valid_acc": 0.6}, {"epoch": 2, "valid_acc": 0.9}]
    >>> display = TrainingHistoryDisplay.from_histories({"plain": history})
    >>> display.curves["plain"]
    ([1, 2], [0.6, 0.9])
    """

    def __init__(self, curves, *, value_label="Value"):
        self.curves = curves
        self.value_label = value_label

    @classmethod
    def from_estimator(cls, estimator, *, keys=("train_acc", "valid_acc"), ax=None):
        """Draw columns of the history of one fit.

        Parameters
        ----------
        estimator : estimator
            A fitted one, with ``history_``.
        keys : str or tuple of str, default=("train_acc", "valid_acc")
            Columns. ``valid_acc`` and ``valid_loss`` are left out if nothing was validated.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        TrainingHistoryDisplay

        Raises
        ------
        ValueError, TypeError
            If there is no history, or a column is not in it.
        """
        check_is_fitted(estimator)
        rows, keys = _rows(estimator), (keys,) if isinstance(keys, str) else keys
        absent = {"valid_acc", "valid_loss"}.difference(*rows)
        keys = [key for key in keys if key not in absent] or keys
        curves = {_COLUMNS.get(key, key): _curve(rows, key) for key in keys}
        return cls(curves, value_label=_quantity(keys)).plot(ax=ax)

    @classmethod
    def from_histories(cls, histories, key="valid_acc", *, ax=None):
        """Draw one column of several histories.

        Parameters
        ----------
        histories : dict of str to estimator or list of dict
            Fitted estimators, or their ``history_``, by their names in the legend.
        key : str, default="valid_acc"
            The column.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        TrainingHistoryDisplay

        Raises
        ------
        ValueError, TypeError
            If there is no history, or one without that column.
        """
        if not isinstance(histories, Mapping):
            raise TypeError(f"histories must be a dict with names, got {type(histories).__name__}.")
        curves = {name: _curve(_rows(source), key) for name, source in histories.items()}
        return cls(curves, value_label=_COLUMNS.get(key, key)).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the lines in `ax`, or in a new figure; return the display."""
        self.ax_ = open_axes(ax, "TrainingHistoryDisplay.plot")
        self.figure_, self.lines_ = self.ax_.figure, []
        for i, (name, (epochs, values)) in enumerate(self.curves.items()):
            n = len(COLOURS)
            style = {"color": COLOURS[i % n], "linestyle": STYLES[i // n % len(STYLES)]}
            marker = "o" if len(epochs) == 1 else None
            self.lines_ += self.ax_.plot(epochs, values, marker=marker, label=name, **style)
        self.ax_.xaxis.get_major_locator().set_params(integer=True)
        self.ax_.set(xlabel="Epoch", ylabel=self.value_label)
        self.ax_.legend(frameon=False)
        return self


def _rows(source):
    """The history (list of dicts) of an estimator, or that history itself."""
    rows = getattr(source, "history_", source)
    if not isinstance(rows, list) or not rows or not isinstance(rows[0], dict):
        raise TypeError(
            "A history is a list of dicts, one per epoch: give a fitted estimator or its "
            f"history_, got {type(source).__name__}."
        )
    return rows


def _curve(rows, key):
    """Epochs and values of the rows that have the column."""
    found = [(row.get("epoch", i), row[key]) for i, row in enumerate(rows, 1) if key in row]
    if not found:
        raise ValueError(f"The history has no {key!r}, only {sorted(set().union(*rows))}.")
    return tuple(map(list, zip(*found, strict=True)))


def _quantity(keys):
    """What the columns have in common: "Accuracy" for names that end in "_acc"."""
    quantities = {_QUANTITIES.get(key.rsplit("_", 1)[-1], _COLUMNS.get(key, key)) for key in keys}
    return quantities.pop() if len(quantities) == 1 else "Value"
