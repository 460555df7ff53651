"""Displays of what a fit leaves behind: losses, history, memorisation, doubts, noise, features."""

from noisyfit.plots._detection_roc import DetectionRocDisplay
from noisyfit.plots._embedding import EmbeddingDisplay
from noisyfit.plots._loss_histogram import LossHistogramDisplay
from noisyfit.plots._memorization import MemorizationDisplay, MemorizationRecorder
from noisyfit.plots._training_history import TrainingHistoryDisplay
from noisyfit.plots._transition_matrix import TransitionMatrixDisplay
from noisyfit.plots._uncertainty import UncertaintyDisplay, UncertaintyRecorder

__all__ = [
    "DetectionRocDisplay",
    "EmbeddingDisplay",
    "LossHistogramDisplay",
    "MemorizationDisplay",
    "MemorizationRecorder",
    "TrainingHistoryDisplay",
    "TransitionMatrixDisplay",
    "UncertaintyDisplay",
    "UncertaintyRecorder",
]
