"""Noise that depends on the true class alone: symmetric, pair flips, any transition matrix."""

import numpy as np
from sklearn.utils import check_random_state

from noisyfit.noise._labels import check_share, read_labels, record
from noisyfit.noise._rules import corrupt_by_rule


def sym_incl(y, level, *, random_state=None):
    """Redraw an exact number of labels uniformly from all classes, the true one included.

    Exactly ``floor(level * n_samples)`` rows are redrawn, so only ``level * (K - 1) / K`` of the
    labels are wrong on average: "50 %" with ten classes is 45 % wrong.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels of K classes.
    level : float in [0, 1]
        Share r of the rows that are redrawn.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1] or ``y`` holds a single class.

    References
    ----------
    Li, Socher, Hoi, "DivideMix: Learning with Noisy Labels as Semi-supervised Learning", ICLR 2020.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import sym_incl
    >>> noisy = sym_incl(np.arange(1000) % 10, 0.5, random_state=0)
    >>> print(round(noisy.info["wrong_fraction"], 2))
    0.45
    """
    return corrupt_by_rule("sym_incl", y, level, "global", random_state)


def sym_incl_bernoulli(y, level, *, random_state=None):
    """Redraw each label with a fixed probability, uniformly from all classes.

    The matrix is ``(1 - r) I + (r / K) 11'`` as for :func:`sym_incl`, but the rows are chosen one
    by one, so the number of redrawn labels varies from seed to seed.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels of K classes.
    level : float in [0, 1]
        Probability r that a label is redrawn.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1] or ``y`` holds a single class.

    References
    ----------
    Arazo et al., "Unsupervised Label Noise Modeling and Loss Correction", ICML 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import sym_incl_bernoulli
    >>> noisy = sym_incl_bernoulli(np.arange(1000) % 10, 0.0, random_state=0)
    >>> print(noisy.changed.sum())
    0
    """
    return corrupt_by_rule("sym_incl_bernoulli", y, level, False, random_state)


def sym_excl(y, level, *, exact=False, random_state=None):
    """Move labels uniformly to one of the other classes; the level is the wrong fraction.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels of K classes.
    level : float in [0, 1]
        Wrong fraction r; the matrix is ``(1 - r) I + r / (K - 1) (11' - I)``.
    exact : {False, "global", "class"}, default=False
        ``False`` moves each label with probability r; ``"global"`` exactly ``floor(r * n_samples)``
        labels; ``"class"`` exactly ``floor(r * n_c)`` labels of every class.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1], ``exact`` is unknown or ``y`` holds a single class.

    References
    ----------
    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
    NeurIPS 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import sym_excl
    >>> noisy = sym_excl(np.arange(1000) % 10, 0.4, exact="class", random_state=0)
    >>> print(noisy.changed.sum(), np.diag(noisy.info["transition"]))
    400 [0.6 0.6 0.6 0.6 0.6 0.6 0.6 0.6 0.6 0.6]
    """
    return corrupt_by_rule("sym_excl", y, level, exact, random_state)


def pair(y, level, *, exact=False, random_state=None):
    """Move labels to the next class in sorted order, the last class to the first.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels.
    level : float in [0, 1]
        Wrong fraction: 1 - level on the diagonal of the matrix, level to the right of it.
    exact : {False, "global", "class"}, default=False
        How rows are counted, see :func:`sym_excl`.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise.

    Raises
    ------
    ValueError
        If ``level`` is outside [0, 1], ``exact`` is unknown or ``y`` holds a single class.

    References
    ----------
    Han et al., "Co-teaching: Robust Training of Deep Neural Networks with Extremely Noisy Labels",
    NeurIPS 2018.

    Examples
    --------
    >>> from noisyfit.noise import pair
    >>> print(pair([3, 5, 9, 9], 1.0).y)
    [5 9 3 3]
    """
    return corrupt_by_rule("pair", y, level, exact, random_state)


def transition(y, matrix, *, level=None, random_state=None):
    """Draw each label from the row of a transition matrix that belongs to its true class.

    With ``level``, the off-diagonal part of every row is rescaled to sum to ``level``:
    class-dependent noise from a teacher is the teacher's test confusion matrix,
    ``confusion_matrix(y_test, y_teacher, normalize="true")``, scaled in this way.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels of K classes.
    matrix : array-like of shape (K, K)
        P(given = column | true = row), classes in sorted order; rows sum to 1.
    level : float in [0, 1] or None, default=None
        Wrong fraction of every class; ``None`` takes the matrix as it is. A row without
        off-diagonal part stays as it is: that class has nowhere to go.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise. Without ``level``
        the record holds the expected wrong fraction as level.

    Raises
    ------
    ValueError
        If ``matrix`` has the wrong shape, a negative entry or a row that does not sum to 1 within
        1e-6, or if ``level`` is outside [0, 1].

    References
    ----------
    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
    Approach", CVPR 2017. Algan, Ulusoy, "Label Noise Types and Their Effects on Deep Learning",
    arXiv:2003.10471.

    Examples
    --------
    >>> from noisyfit.noise import transition
    >>> print(transition(["no", "yes", "yes"], [[0, 1], [0, 1]]).y)
    ['yes' 'yes' 'yes']
    """
    labels = read_labels(y)
    matrix = check_transition(matrix, len(labels.classes))
    if level is not None:
        level = check_share(level)
        matrix = scale_rows(matrix, level)
    rng = check_random_state(random_state)
    noisy_codes = labels.codes.copy()
    for c, row in enumerate(matrix):
        members = labels.codes == c
        noisy_codes[members] = rng.choice(len(matrix), size=members.sum(), p=row)
    expected = 1 - np.diag(matrix)[labels.codes].mean()
    return record(
        "transition", float(expected) if level is None else level, labels, noisy_codes, random_state
    )


def check_transition(matrix, n_classes):
    """Return a row-stochastic float matrix (n_classes, n_classes)."""
    matrix = np.asarray(matrix, dtype=float)
    if matrix.shape != (n_classes, n_classes):
        raise ValueError(
            f"matrix must have shape ({n_classes}, {n_classes}), one row per class in y; "
            f"got {matrix.shape}."
        )
    if not (matrix >= 0).all():  # also catches NaN
        raise ValueError("matrix must hold probabilities; got negative or NaN entries.")
    sums = matrix.sum(axis=1)
    if np.abs(sums - 1).max() > 1e-6:
        raise ValueError(
            f"The rows of matrix must sum to 1 within 1e-6; got sums from {sums.min()} to "
            f"{sums.max()}. Divide each row by its sum."
        )
    return matrix / sums[:, None]


def scale_rows(matrix, level):
    """Rescale the off-diagonal part of every row to ``level``; rows without one stay."""
    wrong = matrix * (1 - np.eye(len(matrix)))
    total = wrong.sum(axis=1)
    reached = np.where(total > 0, level, 0.0)
    factor = np.divide(level, total, out=np.zeros_like(total), where=total > 0)
    return wrong * factor[:, None] + np.diag(1 - reached)
