"""The network for tables."""

from itertools import pairwise

from torch import nn

from noisyfit.modules._parts import Classifier, check_counts


class MLP(Classifier):
    """Fully connected network for tables: linear, ReLU, dropout per hidden layer.

    Images are flattened.

    Parameters
    ----------
    n_features : int
        Columns of the table, or values of one image.
    n_classes : int
    hidden : sequence of int, default=(128, 128)
        Widths of the hidden layers; ``()`` is a linear model.
    dropout : float in [0, 1], default=0.0
        Probability of zeroing an activation, after every hidden layer.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.modules import MLP
    >>> MLP(n_features=4, n_classes=3, hidden=(16,))(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, n_features, n_classes, hidden=(128, 128), dropout=0.0):
        super().__init__()
        check_counts(n_features=n_features, n_classes=n_classes)
        check_counts(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        widths = [n_features, *hidden]
        layers = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], n_classes)

    def features(self, x):
        """Embed a batch, (batch, ...) -> (batch, ``classifier.in_features``)."""
        return self.body(x.flatten(1))
