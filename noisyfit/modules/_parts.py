"""What the networks share: features below a linear classifier, and checked sizes."""

import copy
from numbers import Integral

from sklearn.utils import check_scalar
from torch import nn


class Classifier(nn.Module):
    """A `body` that makes the features and a linear `classifier` on top of them."""

    def features(self, x):
        """Embed a batch, (batch, ...) -> (batch, ``classifier.in_features``)."""
        return self.body(x)

    def forward(self, x):
        """Logits of a batch, (batch, ...) -> (batch, n_classes)."""
        return self.classifier(self.features(x))


class EncoderClassifier(Classifier):
    """A linear classifier on top of any encoder.

    Parameters
    ----------
    encoder : torch.nn.Module
        Embeds a batch, (batch, ...) -> (batch, n_embedded) or more axes, which are flattened.
        Copied, so that two networks do not share it.
    n_embedded : int
    n_classes : int

    Examples
    --------
    >>> import torch
    >>> from noisyfit.modules import EncoderClassifier
    >>> encoder = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU())
    >>> EncoderClassifier(encoder, n_embedded=8, n_classes=3)(torch.zeros(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(self, encoder, n_embedded, n_classes):
        super().__init__()
        check_counts(n_embedded=n_embedded, n_classes=n_classes)
        self.body = nn.Sequential(copy.deepcopy(encoder), nn.Flatten())
        self.classifier = nn.Linear(n_embedded, n_classes)


def check_counts(least=1, **counts):
    """Refuse sizes that are no integers from `least` on."""
    for name, value in counts.items():
        check_scalar(value, name, Integral, min_val=least)


def check_input_shape(input_shape, least):
    """(channels, height, width) of images at least `least` pixels high and wide."""
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (channels, height, width), got {input_shape}.")
    channels, height, width = input_shape
    check_counts(channels=channels)
    check_counts(height=height, width=width, least=least)
    return channels, height, width


def convolution(n_in, n_out, activation, **settings):
    """Layers of a 3x3 convolution, its batch norm and an activation."""
    return [nn.Conv2d(n_in, n_out, 3, **settings), nn.BatchNorm2d(n_out), activation]


def he_normal(module):
    """Start all convolutions and linear layers as He et al. (ICCV 2015) do; biases at zero."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
