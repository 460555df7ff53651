"""How well label errors were found and repaired, and how good the model is.

Every function takes the caller's own labels: strings, booleans, integers with gaps. In all of
them the "given" labels are the noisy ones, and a label error is a row whose given label differs
from the true one.
"""

from noisyfit.metrics.calibration import (
    adaptive_calibration_error,
    brier,
    expected_calibration_error,
    nll,
)
from noisyfit.metrics.correction import (
    damage_rate,
    memorization_rate,
    net_gain,
    refined_accuracy,
    repair_rate,
    transition_error,
)
from noisyfit.metrics.detection import clean_auroc, found_error_scores
from noisyfit.metrics.report import label_issue_report
from noisyfit.metrics.selection import last_k_mean, noisy_validation_score

__all__ = [
    "adaptive_calibration_error",
    "brier",
    "clean_auroc",
    "damage_rate",
    "expected_calibration_error",
    "found_error_scores",
    "label_issue_report",
    "last_k_mean",
    "memorization_rate",
    "net_gain",
    "nll",
    "noisy_validation_score",
    "refined_accuracy",
    "repair_rate",
    "transition_error",
]
