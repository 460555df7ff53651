"""Heat map of a noise transition matrix."""

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.utils import check_array, column_or_1d
from sklearn.utils._optional_dependencies import check_matplotlib_support
from sklearn.utils.multiclass import unique_labels
from sklearn.utils.validation import check_is_fitted

from noisyfit.metrics import transition_error
from noisyfit.metrics._checks import check_labels, columns_of

_N_NUMBERED = 20  # classes up to which the numbers can be read
_CELL = 0.42  # inches
_UNKNOWN = "#E3E3E3"


class TransitionMatrixDisplay:
    """Heat map of P(given label = column | true label = row), with numbers up to 20 classes.

    With the truth beside it, the title of the estimate has its error. Build it by
    `from_estimator`, `from_labels` or `from_matrix`.

    Parameters
    ----------
    matrix : ndarray of shape (n_classes, n_classes)
        Rows sum to 1, or are NaN where a class was not seen: they are grey.
    classes : ndarray of shape (n_classes,)
        Labels of rows and columns.
    truth : ndarray of shape (n_classes, n_classes), optional
        The realised matrix.

    Attributes
    ----------
    error : float or None
        Sum of the absolute differences to `truth`, divided by the sum of `truth`. Rows that are
        NaN in one of them are left out.
    images_ : list of matplotlib AxesImage
        Of `matrix`, and of `truth` if there is one.
    texts_ : list of ndarrays of matplotlib Text
        The numbers, each of shape (n_classes, n_classes), None in cells without; empty for more
        than 20 classes.
    colorbar_ : matplotlib Colorbar
        The scale of all images, 0 to 1.
    axes_ : ndarray of matplotlib Axes
        One for each image.
    figure_ : matplotlib Figure
        Where it was drawn.

    See Also
    --------
    noisyfit.metrics.transition_error : This error and others.

    References
    ----------
    Giorgio Patrini, Alessandro Rozza, Aditya Menon, Richard Nock, Lizhen Qu. Making Deep Neural
    Networks Robust to Label Noise: a Loss Correction Approach. CVPR 2017.

    Examples
    --------
    >>> from noisyfit.plots import TransitionMatrixDisplay
    >>> truth = [[0.75, 0.25], [0.0, 1.0]]
    >>> y_true, y_noisy = ["cat", "cat", "dog", "dog"], ["cat", "dog", "dog", "dog"]
    >>> display = TransitionMatrixDisplay.from_labels(y_true, y_noisy, truth=truth)
    >>> display.matrix.tolist(), display.error
    ([[0.5, 0.5], [0.0, 1.0]], 0.25)
    """

    def __init__(self, matrix, classes, *, truth=None):
        self.matrix = matrix
        self.classes = classes
        self.truth = truth
        self.error = None if truth is None else _error(matrix, truth)

    @classmethod
    def from_estimator(cls, estimator, *, truth=None, ax=None):
        """Draw the ``transition_`` of a fitted method.

        Parameters
        ----------
        estimator : estimator
            With ``transition_`` and ``classes_``.
        truth : array-like of shape (n_classes, n_classes) or tuple (y_true, y_noisy), optional
            The realised matrix, or the labels to count it from.
        ax : matplotlib Axes or pair of them, optional
            Where to draw, a pair with `truth`; by default in a new figure.

        Returns
        -------
        TransitionMatrixDisplay

        Raises
        ------
        ValueError
            If the estimator was not fitted or estimates no matrix, or if `truth` does not fit.
        """
        check_is_fitted(estimator)
        if not hasattr(estimator, "transition_"):
            raise ValueError(
                f"{type(estimator).__name__} has no transition_; from_labels with its "
                "refined_labels_ counts one."
            )
        matrix, classes = estimator.transition_, estimator.classes_
        return cls.from_matrix(matrix, classes=classes, truth=truth, ax=ax)

    @classmethod
    def from_labels(cls, y_true, y_noisy, *, classes=None, truth=None, ax=None):
        """Draw the matrix that labels realise.

        Parameters
        ----------
        y_true : array-like of shape (n_samples,)
            True labels, or those that are taken for true, such as ``refined_labels_``.
        y_noisy : array-like of shape (n_samples,)
            Given labels.
        classes : array-like of shape (n_classes,), optional
            Order of the classes; sorted by default.
        truth, ax
            As in `from_estimator`.

        Returns
        -------
        TransitionMatrixDisplay

        Raises
        ------
        ValueError
            For unequal lengths, labels of mixed kinds or outside `classes`, or if `truth` does
            not fit.
        """
        y_true, y_noisy = check_labels(y_true=y_true, y_noisy=y_noisy)
        if classes is None:
            pair = truth if isinstance(truth, tuple) else ()
            classes = unique_labels(y_true, y_noisy, *pair)
        matrix = _realised(y_true, y_noisy, column_or_1d(classes))
        return cls.from_matrix(matrix, classes=classes, truth=truth, ax=ax)

    @classmethod
    def from_matrix(cls, matrix, *, classes=None, truth=None, ax=None):
        """Draw a matrix.

        Parameters
        ----------
        matrix : array-like of shape (n_classes, n_classes)
            Rows sum to 1, or are NaN where nothing is known.
        classes : array-like of shape (n_classes,), optional
            Labels of rows and columns; by default their numbers from 0.
        truth, ax
            As in `from_estimator`.

        Returns
        -------
        TransitionMatrixDisplay

        Raises
        ------
        ValueError
            If the rows are no probabilities, or if `classes` or `truth` do not fit.
        """
        matrix = _check_matrix(matrix, "matrix")
        classes = column_or_1d(np.arange(len(matrix)) if classes is None else classes)
        if len(classes) != len(matrix):
            raise ValueError(f"There are {len(classes)} classes for a matrix {matrix.shape}.")
        if isinstance(truth, tuple) and len(truth) == 2 and np.ndim(truth[0]) == 1:
            truth = _realised(*check_labels(y_true=truth[0], y_noisy=truth[1]), classes)
        elif truth is not None:
            truth = _check_matrix(truth, "truth")
        if truth is not None and truth.shape != matrix.shape:
            raise ValueError(f"truth has shape {truth.shape}, the matrix {matrix.shape}.")
        return cls(matrix, classes, truth=truth).plot(ax=ax)

    def plot(self, *, ax=None):
        """Draw in `ax` (a pair of axes with a truth), or in a new figure; return the display."""
        shown = {"": self.matrix}
        if self.truth is not None:
            shown = {f"Estimated (L1 error {self.error:.3f})": self.matrix, "Realised": self.truth}
        self.axes_ = _open_panels(ax, len(shown), len(self.classes))
        self.figure_, self.images_, self.texts_ = self.axes_[0].figure, [], []
        for panel, (title, values) in zip(self.axes_, shown.items(), strict=True):
            self.images_.append(_heat_map(panel, values))
            panel.set(title=title, xlabel="Given label", ylabel="True label")
            _name_ticks(panel, self.classes)
        bar = {"ax": list(self.axes_), "shrink": 0.8, "label": "P(given | true)"}
        self.colorbar_ = self.figure_.colorbar(self.images_[0], **bar)
        if len(self.classes) <= _N_NUMBERED:
            self.figure_.draw_without_rendering()  # the layout decides the size of a cell
            self.texts_ = [_numbers(*pair) for pair in zip(self.axes_, shown.values(), strict=True)]
        return self


def _realised(y_true, y_noisy, classes):
    """Shares (n_classes, n_classes) of the given labels for each true one, NaN rows for none."""
    codes = [columns_of(y, classes) for y in (y_true, y_noisy)]
    counts = confusion_matrix(*codes, labels=np.arange(len(classes)))
    seen = counts.sum(1, keepdims=True)
    return np.where(seen > 0, counts / np.maximum(seen, 1), np.nan)


def _error(matrix, truth):
    known = ~np.isnan(matrix + truth).any(1)
    if not known.any():
        return np.nan
    matrix, truth = (np.where(known[:, None], m, 0) for m in (matrix, truth))
    return transition_error(matrix, truth)


def _check_matrix(matrix, name):
    """The matrix as float64, rows summing to 1 or NaN."""
    m = check_array(matrix, dtype=np.float64, ensure_all_finite="allow-nan", input_name=name)
    known = m[~np.isnan(m).all(1)]
    is_proba = (known >= 0).all() and (np.abs(known.sum(1) - 1) < 0.01).all()  # False with NaN
    if m.shape[0] != m.shape[1] or not is_proba:
        raise ValueError(
            f"{name} must be square, its rows probabilities that sum to 1 (or NaN where nothing is "
            f"known); got shape {m.shape}."
        )
    return m


def _open_panels(ax, n_panels, n_classes):
    check_matplotlib_support("TransitionMatrixDisplay.plot")
    from matplotlib import pyplot

    if ax is None:
        side = max(3.4, _CELL * (n_classes if n_classes <= _N_NUMBERED else 12))
        size = (n_panels * (side + 0.8) + 1.0, side + 1.0)
        _, ax = pyplot.subplots(1, n_panels, figsize=size, layout="compressed")
    axes = np.ravel(ax)
    if len(axes) != n_panels:
        raise ValueError(f"ax must be {n_panels} Axes here, one for each matrix; got {len(axes)}.")
    return axes


def _heat_map(ax, values):
    from matplotlib import colormaps

    colours = colormaps["Blues"].with_extremes(bad=_UNKNOWN)
    ax.spines[:].set_visible(False)
    return ax.imshow(values, cmap=colours, vmin=0, vmax=1)


def _name_ticks(ax, classes):
    """Names of the classes, of some only where there are too many."""
    step = -(-len(classes) // _N_NUMBERED)
    places, names = np.arange(0, len(classes), step), [str(c) for c in classes[::step]]
    ax.set_xticks(places, names, rotation=90 if max(map(len, names)) > 2 else 0)
    ax.set_yticks(places, names)
    ax.tick_params(length=0)


def _numbers(ax, values):
    """Numbers that fit into their cells."""
    box = ax.get_window_extent()
    points = min(box.width, box.height) / len(values) / ax.figure.dpi * 72
    texts = np.full(values.shape, None)
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            style = {"ha": "center", "va": "center", "fontsize": min(10, points / 2.7)}
            style["color"] = "white" if value > 0.6 else "black"
            texts[row, column] = ax.text(column, row, f"{value:.2f}", **style)
    return texts
