"""What the agreement of a network with labels that it has not seen says of the noise.

A network trained on one part of the data repeats the noise of its labels on the other part. Where
a share ``rate`` (eps) of the labels is wrong, the same for all ``n_classes`` (K), and the wrong
ones spread over all other classes ("symmetric") or all go to one ("pair"), two independent draws
of the noise agree as below.
"""

import math


def _targets(n_classes, noise_type):
    """Classes over which the wrong labels of one class spread."""
    return max(n_classes - 1, 1) if noise_type == "symmetric" else 1


def expected_agreement(rate, n_classes, noise_type):
    """``(1 - eps)^2 + eps^2 / (K - 1)``: share of unseen labels that are predicted (A)."""
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

    One minus it is the share of wrong labels that remains, ``eps^2 / (eps^2 + c (1 - eps)^2)``
    with c = K - 1 for symmetric noise and 1 for pairs (eps_S).
    """
    return (1 - rate) ** 2 / expected_agreement(rate, n_classes, noise_type)
