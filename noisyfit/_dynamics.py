"""Training history of every sample: what the network said of its given label, epoch by epoch."""

import torch

_BUFFER = 2**24  # logits held before they are summed up: 64 MiB


class Dynamics:
    """Sums over epochs of wrong events, margins and probabilities of the given labels.

    Inside a batch nothing is computed: the logits of the training pass are kept and summed up
    together at the end of the epoch, or earlier when they fill a buffer.

    Parameters
    ----------
    y : int64 tensor of shape (n,)
        Given labels as codes.
    """

    def __init__(self, y):
        self._y = y
        self._sums = torch.zeros(len(y), 4, device=y.device)  # seen, wrong, margin, probability
        self._held, self._n_held = [], 0
        self._of_epoch = torch.zeros(2, dtype=torch.int64, device=y.device)  # seen, wrong

    def observe(self, index, logits, counts=None):
        """Keep the logits (batch, n_classes) that a network gave to the samples `index`.

        Rows where the mask `counts` is False say nothing and are left out.
        """
        if logits.numel() > _BUFFER and len(logits) > 1:  # do not copy so many at once
            masks = (None, None) if counts is None else counts.chunk(2)
            for half in zip(index.chunk(2), logits.chunk(2), masks, strict=True):
                self.observe(*half)
            self._sum_up()  # a part that is held would keep the whole
            return
        self._held.append((index, logits.detach(), counts))
        self._n_held += logits.numel()
        if self._n_held > _BUFFER:
            self._sum_up()

    def _sum_up(self):
        if not self._held:
            return
        held, self._held, self._n_held = self._held, [], 0
        index, logits, counts = zip(*held, strict=True)
        index = torch.cat(index)
        events = label_events(torch.cat(logits), self._y[index])
        if any(mask is not None for mask in counts):
            pairs = zip(logits, counts, strict=True)
            masks = [z.new_ones(len(z), dtype=torch.bool) if m is None else m for z, m in pairs]
            events = events.where(torch.cat(masks)[:, None], 0)
        if index.device.type == "cpu":
            self._sums.index_add_(0, index, events)
        else:  # a row may be there twice, and sorted indices are added in one order
            self._sums.index_put_((index,), events, accumulate=True)
        self._of_epoch += events[:, :2].long().sum(0)

    def end_epoch(self):
        """Accuracy on the given labels in this epoch's training passes, or None without any."""
        self._sum_up()
        seen, wrong = self._of_epoch.tolist()
        self._of_epoch.zero_()
        return (seen - wrong) / seen if seen else None

    @property
    def n_seen(self):
        """How often each sample was observed, (n,)."""
        return self._sums[:, 0]

    def agreement(self):
        """Share of the passes in which the network predicted the given label, (n,) in [0, 1].

        Counts rank wrong labels better than mean probabilities, above all after memorisation,
        but tie; the mean probability enters as one more pass and breaks the ties.
        """
        seen, wrong, _, proba = self._sums.unbind(1)
        return (seen - wrong + proba / seen.clamp_min(1)) / (seen + 1)

    def means(self):
        """Per sample: n_seen, wrong_events, margin, proba; the last three averaged, 0 if unseen."""
        seen = self._sums[:, :1]
        wrong, margin, proba = (self._sums[:, 1:] / seen.clamp_min(1)).unbind(1)
        return {"n_seen": seen[:, 0], "wrong_events": wrong, "margin": margin, "proba": proba}


def label_events(logits, y):
    """Per row: 1, wrong event, margin and probability of label `y`; (batch, 4).

    A wrong event is an arg max that differs from the label; the margin is the label's logit
    minus the largest other logit (area under the margin, Pleiss et al., NeurIPS 2020).
    """
    of_label = logits.gather(1, y[:, None])  # (batch, 1)
    largest_other = logits.scatter(1, y[:, None], -torch.inf).amax(1, keepdim=True)
    margin = of_label - largest_other if logits.shape[1] > 1 else of_label
    proba = (of_label - logits.logsumexp(1, keepdim=True)).exp()
    return torch.cat([torch.ones_like(margin), (margin <= 0).float(), margin, proba], dim=1)
