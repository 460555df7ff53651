"""Losses and targets: pure functions of logits, unreduced, computed in float32."""

from noisyfit.losses._asymmetric import ael, agce, aul
from noisyfit.losses._contrastive import nt_xent
from noisyfit.losses._named import get_loss
from noisyfit.losses._normalized import nce, nfl, ngce, nnce, nnfl
from noisyfit.losses._plain import (
    class_balance_penalty,
    confidence_penalty,
    cross_entropy,
    sharpen,
    soft_cross_entropy,
    squared_error,
)
from noisyfit.losses._robust import focal, gce, mae, rce, sce, taylor_ce, truncated_gce
from noisyfit.losses._targets import bootstrap_hard, bootstrap_soft, label_smoothing

__all__ = [
    "ael",
    "agce",
    "aul",
    "bootstrap_hard",
    "bootstrap_soft",
    "class_balance_penalty",
    "confidence_penalty",
    "cross_entropy",
    "focal",
    "gce",
    "get_loss",
    "label_smoothing",
    "mae",
    "nce",
    "nfl",
    "ngce",
    "nnce",
    "nnfl",
    "nt_xent",
    "rce",
    "sce",
    "sharpen",
    "soft_cross_entropy",
    "squared_error",
    "taylor_ce",
    "truncated_gce",
]
