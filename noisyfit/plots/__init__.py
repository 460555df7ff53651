"""Displays of what a fit leaves behind: losses with their mixture, and the training history."""

from noisyfit.plots._loss_histogram import LossHistogramDisplay
from noisyfit.plots._training_history import TrainingHistoryDisplay

__all__ = ["LossHistogramDisplay", "TrainingHistoryDisplay"]
