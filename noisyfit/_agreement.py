"""What the agreement of a network with labels that it has not seen says of the noise.

A network trained on one part of the data repeats the noise of its labels on the other part. Where
a share ``rate`` (eps) of the labels is wrong, the same for all ``n_classes`` (K), and the wrong
ones spread over all other classes ("symmetric") or all go to one ("pair"), two independent draws
of the noise agree as below.
"""

import math

import numpy as np


def _targets(n_classes, noise_type):
    """Classes over which the wrong labels of one class spread (c)."""
    return max(n_classes - 1, 1) if noise_type == "symmetric" else 1


def expected_agreement(rate, n_classes, noise_type):
    """``(1 - eps)^2 + eps^2 / c``: share of unseen labels that are predicted (A)."""
    return (1 - rate) ** 2 + rate**2 / _targets(n_classes, noise_type)


def least_agreement(n_classes, noise_type):
    """The smallest value of `expected_agreement`: 1 / K, or 1/2 for pairs of classes."""
    return 1.0 if n_classes == 1 else 1 / (1 + _targets(n_classes, noise_type))


def rate_from_agreement(agreement, n_classes, noise_type):
    """The smaller rate at which `agreement` is expected; the largest that can be told below."""
    largest = 1 - least_agreement(n_classes, noise_type)  # (K - 1) / K
    if largest == 0:
        return 0.0
    return largest * (1 - math.sqrt(max(0.0, 1 - (1 - agreement) / largest)))


def accepted_precision(rate, n_classes, noise_type):
    """``(1 - eps)^2 / A``: share of right labels among those that are predicted (LP).

    One minus it is the share of wrong labels that remains: ``eps^2 / (eps^2 + c (1 - eps)^2)``.
    """
    return (1 - rate) ** 2 / expected_agreement(rate, n_classes, noise_type)


def right_given(predicted, rate, n_classes, noise_type):
    """Probability that labels are right, from the probabilities `predicted` (n,) of meeting them.

    A class of probability p is met as a label with ``q = (1 - eps) p + eps / c (1 - p)``. Solved
    for p, Bayes' rule gives ``(1 - eps) p / q``, which rises with q. Where labels agree by chance
    alone nothing can be solved, and q is returned.
    """
    false = rate / _targets(n_classes, noise_type)
    gap = 1 - rate - false
    if gap <= 0 or n_classes == 1:
        return predicted
    q = np.maximum(predicted, np.finfo(float).tiny)
    return np.clip((1 - rate) * (q - false) / (gap * q), 0, 1)


def is_chance(agreement, n, n_classes, noise_type, deviations=0):
    """Whether `agreement` with `n` labels exceeds the least one by no more standard deviations."""
    deviation = math.sqrt(agreement * (1 - agreement) / n)
    least = least_agreement(n_classes, noise_type)
    return n_classes > 1 and agreement - deviations * deviation <= least
