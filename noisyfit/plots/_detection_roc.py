"""How well wrong labels, or rows of no class, are told from the others."""

from collections.abc import Mapping

import numpy as np
from sklearn.metrics import auc, roc_curve
from sklearn.utils import column_or_1d
from sklearn.utils.validation import assert_all_finite, check_is_fitted

from noisyfit._checks import is_one_of
from noisyfit.metrics._checks import check_clean_proba
from noisyfit.plots._axes import COLOURS, STYLES, open_axes
from noisyfit.plots._kinds import CLEAN, OPEN, WRONG, check_kinds

_DIAGONAL = "_chance"  # the underscore keeps it out of the legend
_NEEDED = {
    WRONG: "A ROC curve needs both right and wrong labels.",
    OPEN: "A ROC curve needs rows in and rows out of distribution.",
}
_AXES = {
    WRONG: ("Right labels doubted (share)", "Wrong labels found (share)"),
    OPEN: ("Rows in distribution doubted (share)", "Rows out of distribution found (share)"),
}
_NAMES = {WRONG: "Clean probability", OPEN: "Score"}
_AXES_OF_BOTH = ("Doubted without reason (share)", "Found (share)")


class DetectionRocDisplay:
    """ROC curves of label errors: the share that is found against the right labels doubted.

    Labels are doubted where ``clean_proba_`` is lowest; each point of a curve is one threshold.
    With ``find="out of distribution"`` they are curves of rows of no class, found where
    ``ood_score_`` is lowest. Build it by `from_estimator` or `from_predictions`.

    Parameters
    ----------
    curves : dict of str to (false_rates, found_rates)
        Share of the right labels that are doubted and of the wrong labels that are found, each of
        shape (n_thresholds,), by the name in the legend; or of rows in and out of distribution.
    find : {"wrong label", "out of distribution"}, default="wrong label"
        Which of the two, for the axes. Axes that show both say what they have in common.

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

    Rows that belong to no class, by how typical the others are:

    >>> is_open, typical = [False, False, True], [0.9, 0.7, 0.8]
    >>> find = "out of distribution"
    >>> DetectionRocDisplay.from_predictions(is_open, typical, find=find).auroc
    {'Score': 0.5}
    """

    def __init__(self, curves, *, find=WRONG):
        self.curves = curves
        self.find = find
        self.auroc = {name: float(auc(*rates)) for name, rates in curves.items()}

    @classmethod
    def from_estimator(cls, estimator, wrong, *, find=WRONG, ax=None):
        """Draw the doubts of one or more fitted methods.

        Parameters
        ----------
        estimator : estimator or dict of str to estimator
            With ``clean_proba_``; several by their names in the legend. To find what is out of
            distribution, with ``ood_score_`` or else ``uncertainty_``.
        wrong : bool array of shape (n_samples,), tuple (y_true, y_noisy) or array of str
            Which of the labels given to `fit` are wrong, or which of its rows are out of
            distribution. Or the kind of each row, ``"clean"``, ``"wrong label"`` or ``"out of
            distribution"``; the label of a row of no class is wrong, too.
        find : {"wrong label", "out of distribution"}, default="wrong label"
            What is to be found.
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure. Curves that are there already keep their
            colours.

        Returns
        -------
        DetectionRocDisplay

        Raises
        ------
        ValueError
            If an estimator was not fitted or has none of these attributes, if lengths differ, or
            if all rows are to be found or none.
        """
        _check_find(find)
        named = estimator if isinstance(estimator, Mapping) else {_name(estimator): estimator}
        trust = {name: _trust(clf, find) for name, clf in named.items()}
        return cls.from_predictions(wrong, trust, find=find, ax=ax)

    @classmethod
    def from_predictions(cls, wrong, clean_proba, *, find=WRONG, name=None, ax=None):
        """Draw given clean probabilities, or how typical rows are.

        Parameters
        ----------
        wrong : bool array of shape (n_samples,), tuple (y_true, y_noisy) or array of str
            Which labels are wrong, or which rows are out of distribution, as in `from_estimator`.
        clean_proba : array-like of shape (n_samples,) or dict of str to array-like
            How likely each label is right, in [0, 1]; several by their names in the legend. To
            find what is out of distribution, any number that is small there, such as
            ``ood_score_`` or ``1 - uncertainty_``.
        find : {"wrong label", "out of distribution"}, default="wrong label"
            What is to be found.
        name : str, optional
            Name of a single one in the legend; by default "Clean probability" or "Score".
        ax : matplotlib Axes, optional
            Where to draw; by default in a new figure.

        Returns
        -------
        DetectionRocDisplay

        Raises
        ------
        ValueError
            For unequal lengths, probabilities outside [0, 1], numbers that are not finite, or if
            all rows are to be found or none.
        """
        _check_find(find)
        positive = _positive(wrong, find)
        if positive.all() or not positive.any():
            raise ValueError(_NEEDED[find])
        name = _NAMES[find] if name is None else name
        named = clean_proba if isinstance(clean_proba, Mapping) else {name: clean_proba}
        if not named:
            raise ValueError("There is no curve to draw: the dict is empty.")
        doubts = {k: _doubt(v, len(positive), find) for k, v in named.items()}
        curves = {k: tuple(roc_curve(positive, doubt)[:2]) for k, doubt in doubts.items()}
        return cls(curves, find=find).plot(ax=ax)

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
        x, y = _AXES[self.find]
        of_others = {_AXES_OF_BOTH[1], *(found for _, found in _AXES.values())} - {y}
        if self.ax_.get_ylabel() in of_others:
            x, y = _AXES_OF_BOTH
        self.ax_.set(xlabel=x, ylabel=y)
        self.ax_.legend(frameon=False, loc="lower right")
        return self


def _name(estimator):
    return type(estimator).__name__


def _check_find(find):
    if not is_one_of(find, _AXES):
        raise ValueError(f"find must be one of {tuple(_AXES)}, got {find!r}.")


def _positive(wrong, find):
    """Mask (n,) of what is to be found."""
    kinds = check_kinds(wrong)
    if kinds.dtype == bool:
        if find == OPEN and isinstance(wrong, tuple):
            raise ValueError("Labels do not say which rows are out of distribution; give a mask.")
        return kinds
    return kinds == OPEN if find == OPEN else kinds != CLEAN


def _trust(estimator, find):
    """Numbers (n,) of a fitted method that are small where something is to be found."""
    check_is_fitted(estimator)
    if find == OPEN and hasattr(estimator, "ood_score_"):
        return estimator.ood_score_
    if find == OPEN and hasattr(estimator, "uncertainty_"):
        return -np.asarray(estimator.uncertainty_)
    if find == WRONG and hasattr(estimator, "clean_proba_"):
        return estimator.clean_proba_
    missing = "clean_proba_" if find == WRONG else "ood_score_ and no uncertainty_"
    raise ValueError(f"{_name(estimator)} has no {missing}.")


def _doubt(trust, n, find):
    """The negative of `trust` (n,), which is checked."""
    if find == WRONG:
        return 1 - check_clean_proba(trust, n)
    trust = column_or_1d(trust, dtype=np.float64, input_name="clean_proba")
    if len(trust) != n:
        raise ValueError(f"clean_proba has {len(trust)} entries for {n} rows.")
    assert_all_finite(trust, input_name="clean_proba")
    return -trust
