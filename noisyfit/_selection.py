"""How often every sample was selected for training: the evidence of the methods that select."""

import torch

WINDOW = 10  # epochs over which the frequency is taken


class SelectionRecord:
    """Weights of every sample, averaged over the training passes of the last epochs.

    Parameters
    ----------
    n : int
        Rows that are trained on.
    device : torch.device
    """

    def __init__(self, n, device):
        self._weight, self._seen = torch.zeros(2, n, device=device)
        self.is_open = False

    def open_in_last_epochs(self, epoch, max_epochs):
        """Count from here on if the zero-based epoch is one of the last ten; True if it is."""
        self.is_open = epoch >= max_epochs - WINDOW
        return self.is_open

    def add(self, index, weights):
        """Count a pass over the rows `index`, which have the weights (batch,) in [0, 1]."""
        if self.is_open:
            self._weight.index_add_(0, index, weights.to(self._weight.dtype))
            self._seen.index_add_(0, index, torch.ones_like(self._weight[:1]).expand(len(index)))

    def clean_proba(self, history):
        """How likely every label is right, (n,): the mean weight, its ties broken by `history`.

        Most samples are selected always or never, and a network that has memorised ranks these
        better than the count; so the history (n,) in [0, 1] of all training passes enters as one
        more epoch.
        """
        return (WINDOW * self.frequency(history) + history) / (WINDOW + 1)

    def frequency(self, otherwise):
        """Mean weight of every row, (n,); `otherwise` (n,) where a row was never counted."""
        return torch.where(self._seen > 0, self._weight / self._seen.clamp_min(1), otherwise)
