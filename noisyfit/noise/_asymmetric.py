"""Mistakes between look-alike classes of CIFAR-10, CIFAR-100 and MNIST."""

from noisyfit.noise._labels import ceil_share
from noisyfit.noise._rules import corrupt_by_rule


def asym_cifar10(y, level, *, exact="class", random_state=None):
    """CIFAR-10 look-alikes: truck to automobile, bird to airplane, deer to horse, cat and dog swap.

    Five of the ten classes are sources, so a level of 0.4 makes 20 % of all labels wrong: 40 %
    inside the source classes, none elsewhere.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        True labels as CIFAR-10 codes 0..9.
    level : float in [0, 1]
        Wrong fraction r inside the source classes.
    exact : {"class", "global", False}, default="class"
        ``"class"`` takes exactly ``ceil(r * n_c)`` rows of every class; ``"global"`` takes
        ``floor(r * n_samples)`` rows of all classes, and those of a source class change;
        ``False`` takes each row with probability r.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise over all ten classes.

    Raises
    ------
    ValueError
        If ``y`` does not hold integer codes 0..9, ``level`` is outside [0, 1] or ``exact`` is
        unknown.

    References
    ----------
    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
    Approach", CVPR 2017.

    Examples
    --------
    >>> from noisyfit.noise import asym_cifar10
    >>> print(asym_cifar10([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 1.0).y)
    [0 1 0 5 7 3 6 7 8 1]
    """
    return corrupt_by_rule("asym_cifar10", y, level, exact, random_state, ceil_share)


def asym_mnist(y, level, *, exact="class", random_state=None):
    """MNIST look-alikes: 7 to 1, 2 to 7, 3 to 8, 5 and 6 swap.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        True labels as digits 0..9.
    level : float in [0, 1]
        Wrong fraction inside the source classes 2, 3, 5, 6 and 7.
    exact : {"class", "global", False}, default="class"
        How rows are counted, see :func:`asym_cifar10`.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise over all ten digits.

    Raises
    ------
    ValueError
        If ``y`` does not hold integer codes 0..9, ``level`` is outside [0, 1] or ``exact`` is
        unknown.

    References
    ----------
    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
    Approach", CVPR 2017.

    Examples
    --------
    >>> from noisyfit.noise import asym_mnist
    >>> print(asym_mnist([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 1.0).y)
    [0 1 7 8 4 6 5 1 8 9]
    """
    return corrupt_by_rule("asym_mnist", y, level, exact, random_state, ceil_share)


def asym_cifar100_superclass(y, level, *, exact="class", random_state=None):
    """CIFAR-100 fine labels move uniformly to another class of the same super-class.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        True labels as CIFAR-100 fine codes 0..99 (alphabetical order of the names).
    level : float in [0, 1]
        Wrong fraction; a quarter of it on each of the four siblings.
    exact : {"class", "global", False}, default="class"
        How rows are counted, see :func:`asym_cifar10`.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise over all 100 classes.

    Raises
    ------
    ValueError
        If ``y`` does not hold integer codes 0..99, ``level`` is outside [0, 1] or ``exact`` is
        unknown.

    References
    ----------
    Zheltonozhskii et al., "Contrast to Divide: Self-Supervised Pre-Training for Learning with Noisy
    Labels", WACV 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit.noise import CIFAR100_COARSE, asym_cifar100_superclass
    >>> y = np.arange(100)
    >>> noisy = asym_cifar100_superclass(y, 1.0, random_state=0)
    >>> print(noisy.changed.all(), (CIFAR100_COARSE[noisy.y] == CIFAR100_COARSE[y]).all())
    True True
    """
    return corrupt_by_rule("asym_cifar100_superclass", y, level, exact, random_state, ceil_share)


def asym_cifar100_next(y, level, *, exact="class", random_state=None):
    """CIFAR-100 fine labels move to the next class of the same super-class, in a circle.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        True labels as CIFAR-100 fine codes 0..99 (alphabetical order of the names).
    level : float in [0, 1]
        Wrong fraction, all of it on one other class.
    exact : {"class", "global", False}, default="class"
        How rows are counted, see :func:`asym_cifar10`.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise over all 100 classes.

    Raises
    ------
    ValueError
        If ``y`` does not hold integer codes 0..99, ``level`` is outside [0, 1] or ``exact`` is
        unknown.

    Notes
    -----
    Papers describe this rule; most published code moves along blocks of five fine codes instead,
    see :func:`asym_cifar100_block5`.

    References
    ----------
    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
    Approach", CVPR 2017.

    Examples
    --------
    >>> from noisyfit.noise import asym_cifar100_next
    >>> print(asym_cifar100_next([4, 30, 55, 72, 95], 1.0).y)
    [30 55 72 95  4]
    """
    return corrupt_by_rule("asym_cifar100_next", y, level, exact, random_state, ceil_share)


def asym_cifar100_block5(y, level, *, exact="class", random_state=None):
    """CIFAR-100 fine labels move to the next code inside blocks of five consecutive codes.

    Parameters
    ----------
    y : array-like of int, shape (n_samples,)
        True labels as CIFAR-100 fine codes 0..99 (alphabetical order of the names).
    level : float in [0, 1]
        Wrong fraction, all of it on one other class.
    exact : {"class", "global", False}, default="class"
        How rows are counted, see :func:`asym_cifar10`.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.

    Returns
    -------
    NoisyLabels
        Labels, mask of changed labels, and the record of the realised noise over all 100 classes.

    Raises
    ------
    ValueError
        If ``y`` does not hold integer codes 0..99, ``level`` is outside [0, 1] or ``exact`` is
        unknown.

    Notes
    -----
    Fine codes are alphabetical, so a block is not a super-class: only 6 of the 100 classes keep to
    theirs. Use it to compare with results of code that made its noise in this way.

    References
    ----------
    Liu et al., "Early-Learning Regularization Prevents Memorization of Noisy Labels", NeurIPS 2020.

    Examples
    --------
    >>> from noisyfit.noise import asym_cifar100_block5
    >>> print(asym_cifar100_block5([0, 1, 2, 3, 4, 99], 1.0).y)
    [ 1  2  3  4  0 95]
    """
    return corrupt_by_rule("asym_cifar100_block5", y, level, exact, random_state, ceil_share)
