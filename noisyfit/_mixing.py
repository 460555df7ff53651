"""Training on mixed pairs of rows: draws, loss, and what a mixed prediction says of either row."""

import torch

from noisyfit.augment import beta, mixup, random_permutation


def mixed(ours, partners, lam):
    """``lam * ours + (1 - lam) * partners``: of the losses with either label, shape (batch,)."""
    return lam * ours + (1 - lam) * partners


def without_partner(logits, y, y_partner):
    """Logits of mixed rows with the partner's class set aside, unless it is the row's own."""
    logits = logits.detach()
    masked = logits.scatter(1, y_partner[:, None], -torch.inf)
    return torch.where((y == y_partner)[:, None], logits, masked)


class MixingMixin:
    """One network that may train on mixed pairs of rows.

    A method sets ``run.memory.alpha``, the parameter of the Beta distribution of the weights, in
    `_begin` (None for plain passes; 0 pairs each row with itself), and gives the losses of rows:

    ``_row_losses(run, logits, y, index, t)``
        Losses (batch,) of `logits` (batch, n_classes) under the labels `y` of the rows `index`.
    """

    per_sample = False

    def _train_epoch(self, run, epoch):
        if run.memory.alpha is not None:
            self._draw_weights(run)
        super()._train_epoch(run, epoch)

    def _draw_weights(self, run):
        weights = beta(run.memory.alpha, len(run.data), run.rng)  # more than there are batches
        if self.per_sample:
            run.memory.weights = torch.as_tensor(weights, dtype=torch.float32, device=run.device)
        else:
            run.memory.weights = iter(weights[: run.steps_per_epoch].tolist())

    def _pass(self, run, batch, t):
        """One training pass, observed: logits (batch, n_classes) and losses (batch,)."""
        (net,) = run.learners
        index, y = batch.index, batch.y
        if run.memory.alpha is None:
            logits = net(run.view(batch.x))
            run.observe(index, logits)
            return logits, self._row_losses(run, logits, y, index, t)
        weights = run.memory.weights
        lam = weights[index] if self.per_sample else next(weights)
        partner = self._partners(run, len(y))
        y_partner = y[partner]
        logits = net(mixup(run.view(batch.x), lam, partner))
        # without the partner's class two classes leave nothing to choose from
        counts = y == y_partner if run.n_classes == 2 else None
        run.observe(index, without_partner(logits, y, y_partner), counts)
        run.observe(index[partner], without_partner(logits, y_partner, y), counts)
        ours = self._row_losses(run, logits, y, index, t)
        theirs = self._row_losses(run, logits, y_partner, index[partner], t)
        return logits, mixed(ours, theirs, lam)

    def _partners(self, run, n):
        if run.memory.alpha == 0:  # leaves the order of the batches as plain training has it
            return torch.arange(n, device=run.device)
        return random_permutation(n, run.generator)
