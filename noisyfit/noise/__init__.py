"""Label noise of known kind and amount, for tests and benchmarks.

Every generator takes true labels and a ``level`` in [0, 1], and returns the noisy labels in the
caller's own classes, a mask of the changed ones, and a record of what was realised. The level is
what the generator is told, the wrong fraction what comes out; they differ, for example, where a
redrawn label may be the true one.

=============================  ==========================================  =====================
generator                      what a chosen label becomes                 expected wrong share
=============================  ==========================================  =====================
``sym_incl``                   any class; exact number redrawn             r (K - 1) / K
``sym_incl_bernoulli``         any class                                   r (K - 1) / K
``sym_excl``                   any other class                             r
``pair``                       the next class                              r
``asym_cifar10``               look-alike, five source classes             r / 2
``asym_mnist``                 look-alike, five source classes             about r / 2
``asym_cifar100_superclass``   another class of the super-class            r
``asym_cifar100_next``         the next class of the super-class           r
``asym_cifar100_block5``       the next code in blocks of five             r
``transition``                 a draw from the row of a matrix             by the matrix
``locally_concentrated``       one other class per cluster                 r, exact
``boundary``                   the nearest class, smallest margins first   r, exact
``pmd``                        the nearest class, by a polynomial          r
``idn``                        by random projections of the features       about r
``open_set``                   features of another data set, and closed    by the closed rule
=============================  ==========================================  =====================

``corrupt`` calls any of them by name.
"""

from noisyfit.noise._asymmetric import (
    asym_cifar10,
    asym_cifar100_block5,
    asym_cifar100_next,
    asym_cifar100_superclass,
    asym_mnist,
)
from noisyfit.noise._clusters import locally_concentrated
from noisyfit.noise._corrupt import corrupt
from noisyfit.noise._instance import idn
from noisyfit.noise._labels import NoisyLabels
from noisyfit.noise._margin import boundary, pmd
from noisyfit.noise._open_set import OpenSetNoise, open_set
from noisyfit.noise._rules import CIFAR100_COARSE
from noisyfit.noise._symmetric import pair, sym_excl, sym_incl, sym_incl_bernoulli, transition

__all__ = [
    "CIFAR100_COARSE",
    "NoisyLabels",
    "OpenSetNoise",
    "asym_cifar10",
    "asym_cifar100_block5",
    "asym_cifar100_next",
    "asym_cifar100_superclass",
    "asym_mnist",
    "boundary",
    "corrupt",
    "idn",
    "locally_concentrated",
    "open_set",
    "pair",
    "pmd",
    "sym_excl",
    "sym_incl",
    "sym_incl_bernoulli",
    "transition",
]
