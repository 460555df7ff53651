"""Weights of samples from their losses, against a percentile that moves with the training."""


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
