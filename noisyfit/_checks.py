"""Checks of numbers that a caller passes, with one wording for all of them."""

import math
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.utils import check_scalar


def check_real(value, name, low=None, high=None, *, closed="both"):
    """Refuse what is no finite real number between `low` and `high`.

    `closed` says which of the two bounds belong to the range: "both", "left", "right" or
    "neither".
    """
    _refuse_bool(value, name, "a number")
    if isinstance(value, Real) and not math.isfinite(value):
        raise ValueError(f"{name} must be finite, got {value}.")
    check_scalar(value, name, Real, min_val=low, max_val=high, include_boundaries=closed)


def check_integer(value, name, low=None, high=None):
    """Refuse what is no integer from `low` to `high`."""
    _refuse_bool(value, name, "an integer")
    check_scalar(value, name, Integral, min_val=low, max_val=high)


def check_bool(value, name):
    """Refuse what is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {value!r}.")


def check_view(value, name):
    """Refuse what is neither ``"auto"``, None nor a callable that makes a random view."""
    if isinstance(value, type) or not (value is None or is_auto(value) or callable(value)):
        raise TypeError(f"{name} must be 'auto', None or a callable (x, generator), got {value!r}.")


def check_splitter(value, name):
    """Refuse what is no splitter of the library, as an instance."""
    if isinstance(value, type) or not hasattr(value, "fit_tensor"):
        raise TypeError(f"{name} must be a splitter of noisyfit.mixtures, got {value!r}.")


def as_shares(value, n_classes, device):
    """`class_prior` of the caller as float32 tensor (n_classes,)."""
    try:
        shares = torch.as_tensor(np.asarray(value, dtype=np.float32), device=device)
    except (TypeError, ValueError):
        shares = None
    valid = shares is not None and shares.shape == (n_classes,) and (shares >= 0).all()
    if not valid or not abs(shares.sum() - 1) <= 1e-4:
        raise ValueError(f"class_prior must hold {n_classes} shares that sum to 1, got {value!r}.")
    return shares


def is_auto(value):
    """Whether `value` is the string "auto"; arrays and other types are not."""
    return isinstance(value, str) and value == "auto"


def is_one_of(value, names):
    """Whether `value` is one of the strings `names`; arrays and other types are not."""
    return isinstance(value, str) and value in names


def _refuse_bool(value, name, what):
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be {what}, got {value!r}.")
