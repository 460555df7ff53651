"""Schedules: epochs to numbers. They know no estimator."""

import bisect
import math
from dataclasses import dataclass

from noisyfit._checks import check_integer, check_real

__all__ = ["Cosine", "CosineRestarts", "LinearDecay", "Step", "exponential_ramp", "ramp"]


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


def exponential_ramp(t, length):
    """Rise from ``exp(-5)`` at 0 to 1 at `length`, slowly at first: ``exp(-5 (1 - t / length)^2)``.

    Parameters
    ----------
    t : float
        Epochs or steps passed.
    length : float
        Epochs or steps that the rise takes; 0 gives 1 at once.

    Returns
    -------
    float in (0, 1]

    References
    ----------
    Laine, Aila, "Temporal Ensembling for Semi-Supervised Learning", ICLR 2017.

    Examples
    --------
    >>> from noisyfit.schedules import exponential_ramp
    >>> [round(exponential_ramp(t, length=40), 4) for t in (0, 20, 40, 100)]
    [0.0067, 0.2865, 1.0, 1.0]
    """
    return math.exp(-5 * (1 - ramp(t, 0, length)) ** 2)


@dataclass(frozen=True)
class Cosine:
    """Learning-rate factor that falls from 1 to `final` along half a cosine.

    Parameters
    ----------
    final : float, default=0.0
        Factor that the epoch after the last one would have.
    warmup : int, default=0
        Epochs in which the factor first rises to the curve in equal steps, for large batches; at
        most half of all.

    Examples
    --------
    >>> from noisyfit.schedules import Cosine
    >>> round(Cosine()(epoch=25, max_epochs=50), 3)
    0.5
    >>> [round(Cosine(warmup=4)(epoch, 1000), 2) for epoch in range(5)]
    [0.2, 0.4, 0.6, 0.8, 1.0]
    """

    final: float = 0.0
    warmup: int = 0

    def __post_init__(self):
        check_real(self.final, "final", 0)
        check_integer(self.warmup, "warmup", 0)

    def __call__(self, epoch, max_epochs):
        warmup = min(self.warmup, max_epochs // 2)
        rise = min(1, (epoch + 1) / (warmup + 1))
        angle = math.pi * max(epoch, warmup) / max_epochs
        return rise * (self.final + (1 - self.final) * (1 + math.cos(angle)) / 2)


@dataclass(frozen=True)
class CosineRestarts:
    """Learning-rate factor that falls along half a cosine again and again.

    Train for a multiple of `period` epochs, so that the network is taken at the end of a cycle,
    where the rate is small.

    Parameters
    ----------
    period : int, default=10
        Epochs from one restart at 1 to the next.
    final : float, default=0.05
        Factor towards which each cycle falls; the epoch that restarts would have had it.

    References
    ----------
    Loshchilov, Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", ICLR 2017.

    Examples
    --------
    >>> from noisyfit.schedules import CosineRestarts
    >>> restarts = CosineRestarts(period=10, final=0.05)
    >>> [round(restarts(epoch, max_epochs=150), 3) for epoch in (0, 5, 9, 10)]
    [1.0, 0.525, 0.073, 1.0]
    """

    period: int = 10
    final: float = 0.05

    def __post_init__(self):
        check_integer(self.period, "period", 1)
        check_real(self.final, "final", 0)

    def __call__(self, epoch, max_epochs):
        return Cosine(self.final)(epoch % self.period, self.period)


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
