"""Are predicted probabilities what they claim? Measured on clean test labels."""

import numpy as np

from noisyfit.metrics._checks import check_labels, check_proba, column_labels, columns_of


def expected_calibration_error(proba, y, n_bins=15, classes=None):
    """Gap between confidence and accuracy, averaged over equal-width bins of confidence.

    The sum over bins of `n_m / n * |accuracy_m - confidence_m|`; bin m of M is
    ((m - 1) / M, m / M] and the confidence of a row is its largest probability.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
        Predicted probabilities.
    y : array of shape (n_samples,)
        True labels. Noisy labels measure the noise as well.
    n_bins : int, default=15
        Number of bins, M.
    classes : array of shape (n_classes,), optional
        Label of every column. Without it, integers 0..K-1 are taken as columns; other labels must
        show every class.

    Returns
    -------
    error : float
        In [0, 1].

    Raises
    ------
    ValueError
        For rows that do not sum to 1, `n_bins` below 1 or columns without a known label.

    References
    ----------
    .. [1] Guo, Pleiss, Sun, Weinberger. On calibration of modern neural networks. ICML 2017.

    Examples
    --------
    >>> from noisyfit.metrics import expected_calibration_error
    >>> expected_calibration_error([[0.75, 0.25], [0.25, 0.75]], [0, 0])
    0.25
    """
    confidence, correct = _confidence(proba, y, classes)
    # searchsorted places a confidence that equals the edge m / M in bin m, as ] says
    edges = np.arange(1, _check_bins(n_bins) + 1) / n_bins
    bins = np.minimum(np.searchsorted(edges, confidence), n_bins - 1)
    # n_m / n * |accuracy - confidence| is the absolute sum of differences over n
    return _mean_gap(np.bincount(bins, correct - confidence, n_bins), len(bins))


def adaptive_calibration_error(proba, y, n_bins=15, classes=None):
    """Expected calibration error over bins that hold equal numbers of rows.

    Rows are sorted by confidence and cut into `n_bins` groups whose sizes differ by one at most.
    Rows of equal confidence share their mean accuracy, so that the order of rows does not matter.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
        Predicted probabilities.
    y : array of shape (n_samples,)
        True labels.
    n_bins : int, default=15
        Number of bins; those beyond the number of rows stay empty.
    classes : array of shape (n_classes,), optional
        Label of every column, as in :func:`expected_calibration_error`.

    Returns
    -------
    error : float
        In [0, 1].

    Raises
    ------
    ValueError
        For rows that do not sum to 1, `n_bins` below 1 or columns without a known label.

    References
    ----------
    .. [1] Nixon, Dusenberry, Zhang, Jerfel, Tran. Measuring calibration in deep learning.
       CVPR Workshops 2019.

    Examples
    --------
    >>> from noisyfit.metrics import adaptive_calibration_error
    >>> adaptive_calibration_error([[0.75, 0.25], [0.5, 0.5]], [0, 0], n_bins=2)
    0.375
    """
    confidence, correct = _confidence(proba, y, classes)
    level, group, size = np.unique(confidence, return_inverse=True, return_counts=True)
    accuracy = np.bincount(group, correct) / size
    gap = np.repeat(accuracy - level, size)  # (n,), in order of confidence
    bins = np.array_split(gap, _check_bins(n_bins))
    return _mean_gap(np.array([part.sum() for part in bins]), len(gap))


def nll(proba, y, classes=None):
    """Mean negative log-likelihood of the true labels, probabilities floored at 1e-12.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
        Predicted probabilities.
    y : array of shape (n_samples,)
        True labels.
    classes : array of shape (n_classes,), optional
        Label of every column, as in :func:`expected_calibration_error`.

    Returns
    -------
    nll : float
        In nats, from 0 to 27.7.

    Raises
    ------
    ValueError
        For rows that do not sum to 1 or columns without a known label.

    Notes
    -----
    :func:`sklearn.metrics.log_loss` floors at the resolution of the input's type, 1.2e-7 for
    float32, and needs its labels in sorted order.

    Examples
    --------
    >>> from noisyfit.metrics import nll
    >>> round(nll([[0.5, 0.5], [0.25, 0.75]], [0, 0]), 4)
    1.0397
    """
    p, column = _table(proba, y, classes)
    return float(-np.log(np.maximum(p[np.arange(len(p)), column], 1e-12)).mean())


def brier(proba, y, classes=None):
    """Mean squared distance between the probabilities and the true label's indicator.

    Parameters
    ----------
    proba : array of shape (n_samples, n_classes)
        Predicted probabilities.
    y : array of shape (n_samples,)
        True labels.
    classes : array of shape (n_classes,), optional
        Label of every column, as in :func:`expected_calibration_error`.

    Returns
    -------
    brier : float
        Summed over the classes and not halved: 0 is perfect, 2 is certain and wrong.

    Raises
    ------
    ValueError
        For rows that do not sum to 1 or columns without a known label.

    References
    ----------
    .. [1] Brier. Verification of forecasts expressed in terms of probability. Monthly Weather
       Review 78, 1950.

    Examples
    --------
    >>> from noisyfit.metrics import brier
    >>> brier([[0.5, 0.5], [0.0, 1.0]], ["no", "yes"])
    0.25
    """
    p, column = _table(proba, y, classes)
    indicator = np.arange(p.shape[1]) == column[:, None]  # (n, K)
    return float(((p - indicator) ** 2).sum(1).mean())


def _table(proba, y, classes):
    """Return probabilities (n, K) and the column of every true label (n,)."""
    (y,) = check_labels(y=y)
    p = check_proba(proba, len(y))
    return p, columns_of(y, column_labels(classes, p.shape[1], y))


def _confidence(proba, y, classes):
    """Return the confidence (n,) of the predictions and whether they are right (n,)."""
    p, column = _table(proba, y, classes)
    return p.max(1), (p.argmax(1) == column).astype(float)


def _check_bins(n_bins):
    if n_bins < 1 or n_bins != int(n_bins):
        raise ValueError(f"n_bins must be an integer of at least 1, got {n_bins!r}.")
    return n_bins


def _mean_gap(sums, n_samples):
    return float(np.abs(sums).sum() / n_samples)
