"""Robust losses by name, with their parameters checked."""

import math
from functools import partial
from numbers import Integral, Real

from noisyfit.losses._asymmetric import ael, agce, aul
from noisyfit.losses._normalized import nce, nfl, ngce, nnce, nnfl
from noisyfit.losses._plain import cross_entropy
from noisyfit.losses._robust import focal, gce, mae, rce, sce, taylor_ce, truncated_gce
from noisyfit.losses._targets import label_smoothing

_ANY, _FLAG, _COUNT = "a number of at least 0", "True or False", "an integer of at least 1"
_POSITIVE, _NEGATIVE, _ABOVE_1 = "a number above 0", "a number below 0", "a number above 1"
_SHARE, _NOT_ONE, _INSIDE = "a number in [0, 1]", "a number in [0, 1)", "a number in (0, 1)"
_RANGES = {
    _ANY: lambda v: v >= 0,
    _POSITIVE: lambda v: v > 0,
    _NEGATIVE: lambda v: v < 0,
    _ABOVE_1: lambda v: v > 1,
    _SHARE: lambda v: 0 <= v <= 1,
    _NOT_ONE: lambda v: 0 <= v < 1,
    _INSIDE: lambda v: 0 < v < 1,
}
_WEIGHTS = {"alpha": _ANY, "beta": _ANY}
_FOCUS = {"gamma": _ANY, "detach_modulation": _FLAG}
_PARAMETERS = {
    cross_entropy: {},
    focal: _FOCUS,
    gce: {"q": _SHARE},
    truncated_gce: {"q": _SHARE, "k": _NOT_ONE},
    mae: {},
    rce: {"log_zero": _NEGATIVE},
    sce: _WEIGHTS | {"log_zero": _NEGATIVE},
    taylor_ce: {"order": _COUNT},
    label_smoothing: {"smoothing": _SHARE},
    agce: {"a": _POSITIVE, "q": _POSITIVE},
    aul: {"a": _ABOVE_1, "q": _POSITIVE},
    ael: {"a": _POSITIVE},
    nce: {},
    nfl: _FOCUS,
    ngce: {"q": _SHARE},
    nnce: {"p_min": _INSIDE},
    nnfl: _FOCUS | {"p_min": _INSIDE},
}
_SINGLE = {loss.__name__: loss for loss in _PARAMETERS}
_PAIRS = {
    f"{a.__name__}+{p.__name__}": (a, p) for a in (nce, nfl) for p in (mae, rce, agce, aul, ael)
}
_PAIRS |= {"ngce+mae": (ngce, mae), "ngce+rce": (ngce, rce)}
_PAIRS |= {"anl_ce": (nce, nnce), "anl_fl": (nfl, nnfl)}
_IN_SUM = {  # defaults of a part that is not alone
    agce: {"beta": 4.0, "a": 6.0, "q": 1.5},
    aul: {"beta": 4.0, "a": 6.3, "q": 1.5},
    ael: {"beta": 4.0, "a": 5.0},
    ngce: {"q": 0.1},
    nnce: {"alpha": 5.0, "beta": 5.0},
    nnfl: {"alpha": 5.0, "beta": 5.0},
}


def get_loss(name, **params):
    """A loss by its name, as a function of logits and class codes.

    Parameters
    ----------
    name : str
        A loss of this module: ``"cross_entropy"``, ``"focal"``, ``"gce"``, ``"truncated_gce"``,
        ``"mae"``, ``"rce"``, ``"sce"``, ``"taylor_ce"``, ``"label_smoothing"``, ``"agce"``,
        ``"aul"``, ``"ael"``, ``"nce"``, ``"nfl"``, ``"ngce"``, ``"nnce"``, ``"nnfl"``. Or a sum
        ``alpha * active + beta * passive``: ``"nce"`` or ``"nfl"`` with ``"mae"``, ``"rce"``,
        ``"agce"``, ``"aul"`` or ``"ael"``, such as ``"nce+rce"``; ``"ngce+mae"`` and
        ``"ngce+rce"``; ``"anl_ce"`` and ``"anl_fl"``, which are `nce` with `nnce` and `nfl` with
        `nnfl`.
    **params : float, int or bool
        Parameters of the loss, for a sum those of both parts and ``alpha`` and ``beta``. Those
        left out have the defaults of the functions, in sums the values published for CIFAR-10.

    Returns
    -------
    callable
        ``loss(logits, y)`` of shape (batch,).

    References
    ----------
    Sums: Ma et al., ICML 2020; with asymmetric losses, Zhou et al., ICML 2021; with negative
    ones, Ye et al., NeurIPS 2023.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import get_loss
    >>> get_loss("nce+mae", beta=2)(torch.zeros(1, 4), torch.tensor([0]))
    tensor([3.2500])
    >>> get_loss("gce", q=2)
    Traceback (most recent call last):
    ...
    ValueError: The loss 'gce' has the parameters q (a number in [0, 1]); got q=2.
    """
    if not isinstance(name, str) or name not in _SINGLE | _PAIRS:
        known = ", ".join(map(repr, _SINGLE | _PAIRS))
        raise ValueError(f"There is no loss {name!r}; there are {known}.")
    if name in _SINGLE:
        _check(name, params, _PARAMETERS[_SINGLE[name]])
        return partial(_SINGLE[name], **params)
    active, passive = _PAIRS[name]
    _check(name, params, _WEIGHTS | _PARAMETERS[active] | _PARAMETERS[passive])
    defaults = {"alpha": 1.0, "beta": 1.0} | _IN_SUM.get(active, {}) | _IN_SUM.get(passive, {})
    return _sum(active, passive, **defaults | params)


def _sum(active, passive, *, alpha, beta, **params):
    """``alpha * active + beta * passive``, each with those of `params` that it has."""
    f, g = (
        partial(part, **{k: v for k, v in params.items() if k in _PARAMETERS[part]})
        for part in (active, passive)
    )
    return partial(_weighted, f, g, alpha, beta)


def _weighted(active, passive, alpha, beta, logits, y):
    return alpha * active(logits, y) + beta * passive(logits, y)


def _check(name, params, allowed):
    has = ", ".join(f"{k} ({what})" for k, what in allowed.items())
    has = f"has the parameters {has}" if allowed else "has no parameters"
    for key, value in params.items():
        if key not in allowed or not _fits(value, allowed[key]):
            raise ValueError(f"The loss {name!r} {has}; got {key}={value!r}.")


def _fits(value, what):
    if what is _FLAG:
        return isinstance(value, bool)
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value):
        return False
    if what is _COUNT:
        return isinstance(value, Integral) and value >= 1
    return _RANGES[what](value)
