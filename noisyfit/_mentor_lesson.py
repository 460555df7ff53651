"""What a data-driven mentor learns from: trusted rows with right and with wrong labels."""

import torch

from noisyfit.losses import cross_entropy


def with_wrong_labels(y, rate, n_classes, rng):
    """Copy of the codes `y` (n,) with a share `rate` of them replaced by uniform other classes.

    At least one is replaced and at least one stays, if that is possible.
    """
    if n_classes == 1 or len(y) < 2:
        return y.clone()
    n_wrong = min(max(1, round(rate * len(y))), len(y) - 1)
    rows = torch.from_numpy(rng.permutation(len(y))[:n_wrong]).to(y.device)
    shift = torch.from_numpy(rng.integers(1, n_classes, n_wrong)).to(y.device)
    return y.index_copy(0, rows, (y[rows] + shift) % n_classes)


class Lesson:
    """Rows with a label that is known to be right or wrong.

    Parameters
    ----------
    rows, y, true : int64 tensors of shape (n,)
        Positions in the training set, labels as codes, and the true ones.

    Raises
    ------
    ValueError
        If all labels are right, all are wrong, or there are none.
    """

    def __init__(self, rows, y, true):
        if len(rows) == 0:
            raise ValueError("All trusted rows are held out for validation; the mentor needs some.")
        self._rows, self._y, self._is_right = rows, y, y == true
        n_right = int(self._is_right.sum())
        if n_right in (0, len(rows)):
            raise ValueError(
                "A data-driven mentor learns from right and from wrong labels, but the labels of "
                f"all {len(rows)} trusted rows are {'right' if n_right else 'wrong'}; trust other "
                "rows too, or set trusted_noise='synthetic'."
            )

    def teach(self, mentor, run, share, progress):
        """Train `mentor` on the losses that the network has now, in one evaluation pass.

        The difference is the loss minus the percentile `share` of all of them.
        """
        (net,) = run.learners
        losses = cross_entropy(run.evaluate(net, run.data.subset(self._rows)), self._y)
        net.train()
        mentor.fit(losses, losses - losses.quantile(share), progress, self._is_right)
