"""What the metrics share: labels of the caller, probabilities, undefined values."""

import warnings

import numpy as np
from sklearn.exceptions import UndefinedMetricWarning
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import unique_labels


def check_labels(**labels):
    """Return the label columns as arrays (n,), refusing unequal lengths and mixed kinds."""
    columns = [column_or_1d(y, input_name=name, warn=True) for name, y in labels.items()]
    check_consistent_length(*columns)
    if len(columns[0]) == 0:
        raise ValueError(f"Found array with 0 sample(s) in {next(iter(labels))}, need at least 1.")
    unique_labels(*columns)
    return columns


def check_clean_proba(clean_proba, n_samples):
    """Return clean probabilities as float64 (n,), all in [0, 1]."""
    p = column_or_1d(clean_proba, dtype=np.float64, input_name="clean_proba")
    if len(p) != n_samples:
        raise ValueError(f"clean_proba has {len(p)} entries for {n_samples} labels.")
    if not ((p >= 0) & (p <= 1)).all():  # also refuses NaN
        raise ValueError(f"clean_proba must lie in [0, 1] without NaN, got {p.min()} to {p.max()}.")
    return p


def check_proba(proba, n_samples):
    """Return class probabilities as float64 (n, K), rows summing to 1."""
    p = check_array(proba, dtype=np.float64, ensure_min_features=2, input_name="proba")
    if len(p) != n_samples:
        raise ValueError(f"proba has {len(p)} rows for {n_samples} labels.")
    # float32 and bfloat16 soft-max rows miss 1 by rounding, logits by much more
    if (p < 0).any() or np.abs(p.sum(1) - 1).max() > 0.01:
        raise ValueError("The rows of proba must be probabilities that sum to 1; apply a soft-max.")
    return p


def column_labels(classes, n_columns, *labels):
    """Return the label of every column of a probability table, (K,).

    `classes` if given; otherwise 0..K-1 where all `labels` are such integers, otherwise the
    sorted distinct labels when there are K of them.
    """
    if classes is not None:
        classes = column_or_1d(classes, input_name="classes")
        if len(classes) != n_columns or len(np.unique(classes)) != n_columns:
            raise ValueError(
                f"classes must hold {n_columns} different labels, one for every column."
            )
        return classes
    found = unique_labels(*labels)
    if found.dtype.kind in "iu" and found[0] >= 0 and found[-1] < n_columns:
        return np.arange(n_columns)
    if len(found) == n_columns:
        return found
    raise ValueError(
        f"There are {n_columns} columns, but the labels hold {len(found)} classes; pass classes= "
        "with the label of every column (the classes_ of the classifier)."
    )


def columns_of(y, classes):
    """Return the column (n,) of every label, refusing labels that no column stands for."""
    unique_labels(y, classes)
    order = np.argsort(classes)
    place = np.searchsorted(classes, y, sorter=order)
    column = order[np.minimum(place, len(classes) - 1)]
    unknown = classes[column] != y
    if unknown.any():
        raise ValueError(f"Labels that no column stands for: {np.unique(y[unknown]).tolist()}.")
    return column


def predicted_labels(predicted, classes, *labels):
    """Return labels (n,) as they are, or the most probable ones of probabilities (n, K)."""
    if np.ndim(predicted) != 2 or np.shape(predicted)[1] == 1:
        return check_labels(y=labels[0], predicted=predicted)[1]
    proba = check_proba(predicted, len(labels[0]))
    return column_labels(classes, proba.shape[1], *labels)[proba.argmax(1)]


def warn_undefined(value, name, reason):
    """Return the value; warn when it is NaN, that is, undefined for these rows."""
    if np.isnan(value):
        warnings.warn(f"{name} is undefined: {reason}.", UndefinedMetricWarning, stacklevel=3)
    return value
