"""All generators by name, for benchmarks that loop over kinds of noise."""

from noisyfit.noise._asymmetric import (
    asym_cifar10,
    asym_cifar100_block5,
    asym_cifar100_next,
    asym_cifar100_superclass,
    asym_mnist,
)
from noisyfit.noise._clusters import locally_concentrated
from noisyfit.noise._instance import idn
from noisyfit.noise._margin import boundary, pmd
from noisyfit.noise._open_set import open_set
from noisyfit.noise._symmetric import pair, sym_excl, sym_incl, sym_incl_bernoulli, transition

FROM_LABELS = {
    f.__name__: f
    for f in (
        sym_incl,
        sym_incl_bernoulli,
        sym_excl,
        pair,
        asym_cifar10,
        asym_mnist,
        asym_cifar100_superclass,
        asym_cifar100_next,
        asym_cifar100_block5,
        transition,
    )
}
FROM_FEATURES = {f.__name__: f for f in (locally_concentrated, boundary, pmd, idn, open_set)}


def corrupt(y, kind, level, *, X=None, random_state=None, **params):
    """Make noisy labels by the name of the generator.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
        True labels.
    kind : str
        Name of a generator of :mod:`noisyfit.noise`, such as ``"sym_excl"`` or ``"boundary"``.
    level : float in [0, 1]
        How much noise, as the generator defines it.
    X : array-like of shape (n_samples, ...) or None, default=None
        Features; ignored by generators that look at the labels alone.
    random_state : int, RandomState instance or None, default=None
        Seed of the noise.
    **params : dict
        Other parameters of the generator, such as ``matrix`` of :func:`transition`.

    Returns
    -------
    NoisyLabels or OpenSetNoise
        What the generator returns.

    Raises
    ------
    ValueError
        If ``kind`` is unknown, or needs features and there are none.

    Examples
    --------
    >>> from noisyfit.noise import corrupt
    >>> print(corrupt([0, 1, 2], "pair", 1.0, random_state=0).y)
    [1 2 0]
    """
    if kind in FROM_LABELS:
        return FROM_LABELS[kind](y=y, level=level, random_state=random_state, **params)
    if kind not in FROM_FEATURES:
        known = ", ".join([*FROM_LABELS, *FROM_FEATURES])
        raise ValueError(f"Unknown kind of noise {kind!r}; the known ones are: {known}.")
    if X is None and "proba" not in params:
        raise ValueError(f"Noise of kind {kind!r} depends on the features; give X.")
    return FROM_FEATURES[kind](X=X, y=y, level=level, random_state=random_state, **params)
