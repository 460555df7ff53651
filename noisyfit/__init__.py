"""Learning with noisy labels as scikit-learn estimators over torch."""

__version__ = "0.1.0.dev0"
