"""Schedules: epochs to numbers. They know no estimator."""

import bisect
import math
from dataclasses import dataclass

__all__ = ["Cosine", "LinearDecay", "Step", "ramp"]


def ramp(t, start, length):
    """Rise linearly from 0 at `start` to 1 at ``start + length``.

    Parameters
    ----------
    t : float
        Epochs passed; fractional inside an epoch.
    start : float
        Epoch at which the rise begins.
    length : float
        Epochs that the rise takes; 0 jumps from 0 (before `start`) to 1.

    Returns
    -------
    float in [0, 1]

    Examples
    --------
    >>> from noisyfit.schedules import ramp
    >>> [ramp(t, start=10, length=16) for t in (5, 10, 18, 40)]
    [0.0, 0.0, 0.5, 1.0]
    """
    if length == 0:
        return float(t >= start)
    return min(max((t - start) / length, 0.0), 1.0)


@dataclass(frozen=True)
class Cosine:
    """Learning-rate factor that falls from 1 to `final` along half a cosine.

    Parameters
    ----------
    final : float, default=0.0
        Factor that the epoch after the last one would have.

    Examples
    --------
    >>> from noisyfit.schedules import Cosine
    >>> round(Cosine()(epoch=25, max_epochs=50), 3)
    0.5
    """

    final: float = 0.0

    def __call__(self, epoch, max_epochs):
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * epoch / max_epochs)) / 2


@dataclass(frozen=True)
class Step:
    """Learning-rate factor multiplied by `gamma` at each milestone.

    Parameters
    ----------
    milestones : sequence of int
        Zero-based epochs from which the next factor holds.
    gamma : float, default=0.1

    Examples
    --------
    >>> from noisyfit.schedules import Step
    >>> [Step([150])(epoch, max_epochs=300) for epoch in (149, 150)]
    [1.0, 0.1]
    """

    milestones: tuple | list
    gamma: float = 0.1

    def __call__(self, epoch, max_epochs):
        return float(self.gamma ** bisect.bisect_right(sorted(self.milestones), epoch))


@dataclass(frozen=True)
class LinearDecay:
    """Learning-rate factor 1 up to `start`, then linear to 0 at the end of training.

    Parameters
    ----------
    start : int
        Last zero-based epoch with the full rate.

    References
    ----------
    Han et al., "Co-teaching", NeurIPS 2018 (start 80 of 200 epochs).

    Examples
    --------
    >>> from noisyfit.schedules import LinearDecay
    >>> [LinearDecay(80)(epoch, max_epochs=200) for epoch in (80, 140)]
    [1.0, 0.5]
    """

    start: int

    def __call__(self, epoch, max_epochs):
        if epoch <= self.start:
            return 1.0
        return (max_epochs - epoch) / (max_epochs - self.start)
