"""Three kinds of samples, where some belong to no class at all."""

import numpy as np
from sklearn.utils import check_consistent_length

from noisyfit._checks import check_real

KINDS = ("clean", "wrong label", "out of distribution")


def sample_kinds(clean_proba, in_distribution=None, threshold=0.5):
    """Name the kind of each sample: rightly labelled, wrongly labelled, or of no class.

    Parameters
    ----------
    clean_proba : array-like of shape (n_samples,)
        Probabilities that the given labels are right.
    in_distribution : bool array-like of shape (n_samples,), optional
        False for samples of no class; by default there are none.
    threshold : float in [0, 1], default=0.5
        Samples with a larger clean probability are called clean.

    Returns
    -------
    ndarray of str, shape (n_samples,)
        ``"clean"``, ``"wrong label"`` or ``"out of distribution"``.

    Examples
    --------
    >>> from noisyfit.mixtures import sample_kinds
    >>> sample_kinds([0.9, 0.2, 0.8], [True, True, False]).tolist()
    ['clean', 'wrong label', 'out of distribution']
    """
    check_real(threshold, "threshold", 0, 1)
    clean = np.asarray(clean_proba, dtype=np.float64)
    inside = np.ones(len(clean), bool) if in_distribution is None else np.asarray(in_distribution)
    check_consistent_length(clean, inside)
    if inside.dtype != bool:
        raise TypeError(f"in_distribution must hold True and False, got dtype {inside.dtype}.")
    kinds = np.array(KINDS)
    return np.where(inside, np.where(clean > threshold, kinds[0], kinds[1]), kinds[2])
