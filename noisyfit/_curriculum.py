"""Weights of samples from their losses, against a percentile that moves with the training."""

import torch


class MovingPercentile:
    """Moving average of a percentile of the batches' losses, kept on their device.

    Parameters
    ----------
    share : float in [0, 1]
        Of a batch's losses, the part that lies below.
    decay : float in [0, 1)
        Weight of the past.
    start : float, optional
        Value before the first batch; None takes the first batch's percentile.
    """

    def __init__(self, share, decay=0.5, start=None):
        self.share, self.decay = share, decay
        self.value = start

    def update(self, losses):
        """Take a batch's losses (batch,) in; returns the new value, a tensor of shape ()."""
        percentile = losses.detach().quantile(self.share)
        if self.value is None:
            self.value = percentile
        else:
            self.value = self.decay * self.value + (1 - self.decay) * percentile
        return self.value


def hard_weights(difference):
    """1 where the loss is at most the threshold, ``difference <= 0``, else 0."""
    return (difference <= 0).to(difference.dtype)


def linear_weights(difference, width):
    """``clip(1 - difference / width, 0, 1)``: falls from 1 at the threshold to 0 at `width`."""
    return (1 - difference / width).clamp(0, 1)


CURRICULA = ("hard", "linear", "hard_mining", "uniform")


def curriculum_weights(name, difference, width=1.0):
    """Weights (batch,) of one of `CURRICULA` from losses minus the threshold, (batch,)."""
    if name == "hard":
        return hard_weights(difference)
    if name == "linear":
        return linear_weights(difference, width)
    if name == "hard_mining":
        return (difference >= 0).to(difference.dtype)
    return torch.ones_like(difference)


class DecayInLoss:
    """The weight decay of a learner's optimisers as a term of the loss, which can be scaled.

    It takes the decay from the optimisers; ``give_back()`` returns it. For SGD and Adam the steps
    stay what they were; optimisers that decay beside the gradient become like Adam.

    Parameters
    ----------
    learner : Learner
    """

    def __init__(self, learner):
        groups = [group for o in learner.optimizers for group in o.param_groups]
        self._decays = [(g, g["weight_decay"]) for g in groups if g.get("weight_decay")]
        for group, _ in self._decays:
            group["weight_decay"] = 0.0

    def __call__(self):
        """Scalar ``sum(decay * |parameters|**2) / 2``, with its graph."""
        return sum(
            decay / 2 * sum(p.square().sum() for p in group["params"])
            for group, decay in self._decays
        )

    def give_back(self):
        """Let the optimisers decay again."""
        for group, decay in self._decays:
            group["weight_decay"] = decay
