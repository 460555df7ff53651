"""How well clean probabilities rank right above wrong labels."""

from collections.abc import Mapping

from sklearn.metrics import auc, roc_curve
from sklearn.utils.validation import check_is_fitted

from noisyfit.metrics._checks import check_clean_proba
from noisyfit.metrics.detection import check_wrong
from noisyfit.plots._axes import COLOURS, STYLES, open_axes

_DIAGONAL = "_chance"  # the underscore keeps it out of the legend


class DetectionRocDisplay:
    """ROC curves of label errors: the share that is found against the right labels doubted.

    Labels are doubted where ``clean_proba_`` is lowest; each point of a curve is one threshold.
    Build it by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    curves : dict of str to (false_rates, found_rates)
        Share of the right labels that are doubted and of the wrong labels that are found, each of
        shape (n_thresholds,), by the name in the legend.

    Attributes
    ----------
    auroc : dict of str to float
        Areas under the curves.
    lines_ : list of matplotlib Line2D
        In the order of `curves`.
    ax_, figure_ : matplotlib Axes and Figure
        Where it was drawn.

    See Also
    --------
    noisyfit.metrics.clean_auroc : The area alone.

    Examples
    --------
    >>> from noisyfit.plots import DetectionRocDisplay
    >>> wrong = [False, False, True, True]
    >>> clean_proba = {"first": [0.9, 0.8, 0.3, 0.1], "second": [0.9, 0.2, 0.3, 0.1]}
    >>> DetectionRocDisplay.from_predictions(wrong, clean_proba).auroc
    {'first': 1.0, 'second': 0.75}
    """

    def __init__(self, curves):
        self.curves = curves
        self.auroc = {name: float(auc(*rates)) for name, rates in curves.items()}

    @classmethod
    def from_estimator(cls, estimator, wrong, *, ax=None):
        """Draw the clean probabilities of one or more fitted methods.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            With ``clean_proba_``; several by their names in the legend.
        wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy)
            Which of the labels given to `fit` are wrong.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure. Curves that are there already keep their
            colours.

        Returns
        -------
        DetectionRocDisplay

        Raises
        ------
        ValueError
            If an estimator was not fitted or has no ``clean_proba_``, if lengths differ, or if
            all labels are right or all are wrong.
        """
        named = estimator if isinstance(estimator, Mapping) else {_name(estimator): estimator}
        return cls.from_predictions(wrong, {k: _clean_proba(v) for k, v in named.items()}, ax=ax)

    @classmethod
    def from_predictions(cls, wrong, clean_proba, *, name="Clean probability", ax=None):
        """Draw given clean probabilities.

        Parameters
        ----------
        wrong : bool array of shape (n_samples,) or tuple (y_true, y_noisy)
            Which labels are wrong.
        clean_proba : array-like of shape (n_samples,) or dict of str to array-like
            How likely each label is right, in [0, 1]; several by their names in the legend.
        name : str, default="Clean probability"
            Name of a single one in the legend.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        DetectionRocDisplay

        Raises
        ------
        ValueError
            For unequal lengths, probabilities outside [0, 1], or if all labels are right or all
            are wrong.
        """
        wrong = check_wrong(wrong)
        if wrong.all() or not wrong.any():
            raise ValueError("A ROC curve needs both right and wrong labels.")
        named = clean_proba if isinstance(clean_proba, Mapping) else {name: clean_proba}
        if not named:
            raise ValueError("There is no curve to draw: the dict is empty.")
        doubts = {k: 1 - check_clean_proba(v, len(wrong)) for k, v in named.items()}
        curves = {k: tuple(roc_curve(wrong, doubt)[:2]) for k, doubt in doubts.items()}
        return cls(curves).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw the curves in `ax`, or in a new figure; return the display."""
        self.ax_ = open_axes(ax, "DetectionRocDisplay.plot")
        self.figure_, self.lines_ = self.ax_.figure, []
        before = [line.get_label() for line in self.ax_.lines]
        if _DIAGONAL not in before:
            self.ax_.plot([0, 1], [0, 1], color="#9A9A9A", linewidth=1, label=_DIAGONAL)
        first = sum(not label.startswith("_") for label in before)
        for i, (name, rates) in enumerate(self.curves.items(), first):
            n = len(COLOURS)
            style = {"color": COLOURS[i % n], "linestyle": STYLES[i // n % len(STYLES)]}
            label = f"{name} (AUROC {self.auroc[name]:.3f})"
            self.lines_ += self.ax_.plot(*rates, linewidth=2, label=label, **style)
        ends = (-0.01, 1.01)
        self.ax_.set(xlim=ends, ylim=ends, aspect="equal")
        self.ax_.set(xlabel="Right labels doubted (share)", ylabel="Wrong labels found (share)")
        self.ax_.legend(frameon=False, loc="lower right")
        return self


def _name(estimator):
    return type(estimator).__name__


def _clean_proba(estimator):
    check_is_fitted(estimator)
    if not hasattr(estimator, "clean_proba_"):
        raise ValueError(f"{_name(estimator)} has no clean_proba_.")
    return estimator.clean_proba_
