"""Residual networks that activate after they convolve."""

from itertools import pairwise

from torch import nn

from noisyfit.modules._parts import Classifier, check_counts, convolution


class ResNet34(Classifier):
    """ResNet-34 for small images, as truncated Lq and early-learning regularisation were trained.

    A 3x3 stem without pooling, then 3, 4, 6 and 3 blocks of 64, 128, 256 and 512 channels.

    Parameters
    ----------
    in_channels : int, default=3
    n_classes : int, default=10
    width : int, default=64
        Channels of the first stage; the next three have 2, 4 and 8 times as many.

    References
    ----------
    He et al., "Deep Residual Learning for Image Recognition", CVPR 2016.
    Zhang, Sabuncu, "Generalized Cross Entropy Loss for Training Deep Neural Networks with Noisy
    Labels", NeurIPS 2018. Liu et al., "Early-Learning Regularization Prevents Memorization of
    Noisy Labels", NeurIPS 2020.

    Examples
    --------
    >>> from noisyfit.modules import ResNet34
    >>> ResNet34(in_channels=3, n_classes=10, width=16).classifier
    Linear(in_features=128, out_features=10, bias=True)
    """

    def __init__(self, in_channels=3, n_classes=10, width=64):
        super().__init__()
        check_counts(in_channels=in_channels, n_classes=n_classes, width=width)
        layers = convolution(in_channels, width, nn.ReLU(inplace=True), padding=1, bias=False)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        stages = zip(pairwise(widths), (1, 2, 2, 2), (3, 4, 6, 3), strict=True)
        for (n_in, n_out), stride, n_blocks in stages:
            layers += [_BasicBlock(n_in, n_out, stride)]
            layers += [_BasicBlock(n_out, n_out, 1) for _ in range(n_blocks - 1)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8 * width, n_classes)


class _BasicBlock(nn.Module):
    """Two normalised 3x3 convolutions and a shortcut; ReLU between and after their sum."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        settings = {"padding": 1, "bias": False}
        self.body = nn.Sequential(
            *convolution(n_in, n_out, nn.ReLU(inplace=True), stride=stride, **settings),
            nn.Conv2d(n_out, n_out, 3, **settings),
            nn.BatchNorm2d(n_out),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or n_in != n_out:
            projection = nn.Conv2d(n_in, n_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(n_out))

    def forward(self, x):
        return (self.body(x) + self.shortcut(x)).relu_()
