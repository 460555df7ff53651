"""What all generators share: labels as codes, checked levels, and the record they return."""

from numbers import Real
from typing import NamedTuple

import numpy as np
from sklearn.utils import assert_all_finite, check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets


class NoisyLabels(NamedTuple):
    """Labels after noise, which of them changed, and how much noise that was.

    Attributes
    ----------
    y : ndarray of shape (n_samples,)
        The given labels: the caller's own classes, in the caller's dtype.
    changed : ndarray of bool, shape (n_samples,)
        True where the given label differs from the true one.
    info : dict
        ``name`` of the generator; ``level``, the number it was told; ``wrong_fraction``, the
        share of labels that really changed; ``classes`` (n_classes,) in sorted order;
        ``transition`` (n_classes, n_classes), the realised P(given = column | true = row), where
        a class without rows keeps a row of the identity; ``seed``, the ``random_state`` as it was
        passed.

    Examples
    --------
    >>> from noisyfit.noise import pair
    >>> noisy = pair(["ant", "bee", "cow"], 1.0, random_state=0)
    >>> print(noisy.y, noisy.changed, noisy.info["wrong_fraction"])
    ['bee' 'cow' 'ant'] [ True  True  True] 1.0
    """

    y: np.ndarray
    changed: np.ndarray
    info: dict


class CodedLabels(NamedTuple):
    """Labels as positions in the sorted classes: ``y = classes[codes]``."""

    classes: np.ndarray  # (n_classes,)
    codes: np.ndarray  # (n_samples,) in 0..n_classes-1


def read_labels(y, n_classes=None):
    """Encode ``y``; with ``n_classes``, require the codes 0..n_classes-1 of a known data set."""
    y = column_or_1d(y, warn=True)
    if len(y) == 0:
        raise ValueError("Found array with 0 sample(s) in y while a minimum of 1 is required.")
    assert_all_finite(y, input_name="y")
    if n_classes is not None:
        return _read_codes(y, n_classes)
    check_classification_targets(y)
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"The number of classes has to be greater than one; got {len(classes)} class in y. "
            "A label can only become wrong if there is another class."
        )
    return CodedLabels(classes, codes)


def _read_codes(y, n_classes):
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"y must hold the data set's integer codes 0..{n_classes - 1}; got dtype {y.dtype}. "
            "Encode the labels in the order of the data set first."
        )
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(
            f"y must hold the data set's integer codes 0..{n_classes - 1}; "
            f"got values from {y.min()} to {y.max()}."
        )
    return CodedLabels(np.arange(n_classes).astype(y.dtype), y.astype(np.intp))


def check_share(value, name="level"):
    """Return ``value`` as a float in [0, 1]."""
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number in [0, 1]; got {value!r}.")
    if not 0 <= value <= 1:  # also catches NaN
        raise ValueError(f"{name} must be in [0, 1]; got {value!r}.")
    return float(value)


def floor_share(share, n):
    """Whole rows in a share of ``n``; rounded first, since 0.29 * 100 is 28.999999999999996."""
    return np.floor(np.round(share * n, 6)).astype(int)


def ceil_share(share, n):
    """Rows that hold a share of ``n``; rounded first, since 0.07 * 100 is 7.000000000000001."""
    return np.ceil(np.round(share * n, 6)).astype(int)


def flat_features(X, n_samples):
    """Rows of numbers (n_samples, n_features) from a table or from images."""
    X = check_array(X, ensure_2d=False, allow_nd=True, input_name="X")
    if X.ndim < 2:
        raise ValueError(
            f"Expected X with one row per sample, got an array of shape {X.shape} instead. "
            "Reshape a single feature with X.reshape(-1, 1)."
        )
    check_consistent_length(X, range(n_samples))
    return X.reshape(n_samples, -1)


def realised_transition(codes, noisy_codes, n_classes):
    """Share of given labels (columns) per true label (rows); identity where a class has no rows."""
    pairs = np.bincount(codes * n_classes + noisy_codes, minlength=n_classes**2)
    counts = pairs.reshape(n_classes, n_classes)
    sizes = counts.sum(axis=1, keepdims=True)
    return np.where(sizes > 0, counts / np.maximum(sizes, 1), np.eye(n_classes))


def record(name, level, labels, noisy_codes, seed):
    """Decode and describe: the value of every generator."""
    changed = noisy_codes != labels.codes
    info = {
        "name": name,
        "level": level,
        "wrong_fraction": float(changed.mean()),
        "transition": realised_transition(labels.codes, noisy_codes, len(labels.classes)),
        "classes": labels.classes,
        "seed": seed,
    }
    return NoisyLabels(labels.classes[noisy_codes], changed, info)
