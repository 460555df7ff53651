"""Residual networks that normalise and activate before they convolve."""

from itertools import pairwise

from torch import nn

from noisyfit.modules._parts import Classifier, check_counts, convolution, he_normal


class PreActResNet18(Classifier):
    """Pre-activation ResNet-18 as the DivideMix family trains it.

    Parameters
    ----------
    in_channels : int, default=3
    n_classes : int, default=10
    width : int, default=64
        Channels of the first stage; the next three have 2, 4 and 8 times as many.
    dropout : float in [0, 1], default=0.0
        Probability of zeroing an activation after the first ReLU of each block of the last two
        stages, on the way into its convolution; the shortcut stays whole.

    Notes
    -----
    As in the code of DivideMix and M-correction, and unlike He et al., the stem has a batch norm
    and a ReLU, every shortcut carries the *activated* tensor instead of the block's input, and
    nothing is normalised before the pooling. That is global, so images of any size fit.

    References
    ----------
    He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.
    Li et al., "DivideMix", ICLR 2020. Arazo et al., "Unsupervised Label Noise Modeling", ICML 2019.

    Examples
    --------
    >>> from noisyfit.modules import PreActResNet18
    >>> sum(p.numel() for p in PreActResNet18(in_channels=3, n_classes=10).parameters())
    11171274
    """

    def __init__(self, in_channels=3, n_classes=10, width=64, dropout=0.0):
        super().__init__()
        check_counts(in_channels=in_channels, n_classes=n_classes, width=width)
        layers = convolution(in_channels, width, nn.ReLU(inplace=True), padding=1, bias=False)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        stages = zip(pairwise(widths), (1, 2, 2, 2), (None, None, dropout, dropout), strict=True)
        for (n_in, n_out), stride, p in stages:
            layers += [_PreActBlock(n_in, n_out, stride, p), _PreActBlock(n_out, n_out, 1, p)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8 * width, n_classes)


class _PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a shortcut."""

    def __init__(self, n_in, n_out, stride, dropout):
        super().__init__()
        self.dropout = nn.Identity() if dropout is None else nn.Dropout(dropout)
        self.norm1, self.norm2 = nn.BatchNorm2d(n_in), nn.BatchNorm2d(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        same = stride == 1 and n_in == n_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x):
        activated = self.norm1(x).relu_()
        hidden = self.norm2(self.conv1(self.dropout(activated))).relu_()
        return self.conv2(hidden) + self.shortcut(activated)


class PreActResNetThin(Classifier):
    """Thin pre-activation ResNet of 6 n + 2 layers, as loss correction was trained.

    Parameters
    ----------
    in_channels : int, default=3
    n_classes : int, default=10
    depth : int, default=32
        14, 20, 26, 32, 38, 44, ...: three stages of (depth - 2) / 6 blocks.
    width : int, default=16
        Channels of the first stage; the next two have 2 and 4 times as many.

    Raises
    ------
    ValueError
        For a depth that is not 6 n + 2.

    Notes
    -----
    As in the published code the stem is normalised and activated, the first block convolves it
    as it is, convolutions have biases, and a shortcut is a 1x1 convolution of the *raw* input
    where the width changes.

    References
    ----------
    Patrini et al., "Making Deep Neural Networks Robust to Label Noise: a Loss Correction
    Approach", CVPR 2017.
    He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016.

    Examples
    --------
    >>> from noisyfit.modules import PreActResNetThin
    >>> sum(p.numel() for p in PreActResNetThin(depth=32).parameters())
    467946
    """

    def __init__(self, in_channels=3, n_classes=10, depth=32, width=16):
        super().__init__()
        check_counts(in_channels=in_channels, n_classes=n_classes, width=width)
        check_counts(depth=depth, least=8)
        if depth % 6 != 2:
            raise ValueError(f"depth must be 6 n + 2 (8, 14, 20, ...), got {depth}.")
        layers = convolution(in_channels, width, nn.ReLU(inplace=True), padding=1)
        for stage, (n_in, n_out) in enumerate(_three_stages(width)):
            blocks = [_Block(n_in, n_out, 1 if stage == 0 else 2, "raw", activate=stage > 0)]
            blocks += [_Block(n_out, n_out, 1, "raw") for _ in range((depth - 2) // 6 - 1)]
            layers += blocks
        self.body = nn.Sequential(*layers, *_normalised_mean(4 * width))
        self.classifier = nn.Linear(4 * width, n_classes)
        he_normal(self)


class PreActResNet32(Classifier):
    """The pre-activation ResNet of joint optimisation and PENCIL: three stages of five blocks.

    Parameters
    ----------
    in_channels : int, default=3
    n_classes : int, default=10
    width : int, default=32
        Channels of the first stage; the next two have 2 and 4 times as many.

    Notes
    -----
    Twice as wide as `PreActResNetThin`, without biases, and the first block of every stage has a
    1x1 convolution of its *activated* input as the shortcut.

    References
    ----------
    Tanaka et al., "Joint Optimization Framework for Learning with Noisy Labels", CVPR 2018.
    Yi, Wu, "Probabilistic End-to-end Noise Correction for Learning with Noisy Labels", CVPR 2019.

    Examples
    --------
    >>> from noisyfit.modules import PreActResNet32
    >>> sum(p.numel() for p in PreActResNet32().parameters())
    1861162
    """

    def __init__(self, in_channels=3, n_classes=10, width=32):
        super().__init__()
        check_counts(in_channels=in_channels, n_classes=n_classes, width=width)
        layers = [nn.Conv2d(in_channels, width, 3, padding=1, bias=False)]
        for stage, (n_in, n_out) in enumerate(_three_stages(width)):
            layers += [_Block(n_in, n_out, 1 if stage == 0 else 2, "activated", bias=False)]
            layers += [_Block(n_out, n_out, 1, "raw", bias=False) for _ in range(4)]
        self.body = nn.Sequential(*layers, *_normalised_mean(4 * width))
        self.classifier = nn.Linear(4 * width, n_classes)
        he_normal(self)


def _three_stages(width):
    return pairwise((width, width, 2 * width, 4 * width))


def _normalised_mean(width):
    return [
        *(nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]


class _Block(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a shortcut.

    The shortcut is a 1x1 convolution of the activated input, or the raw input, projected where
    the shape changes. The first activation can be left out.
    """

    def __init__(self, n_in, n_out, stride, shortcut, bias=True, activate=True):
        super().__init__()
        self.shortcut_of_activated = shortcut == "activated"
        same = n_in == n_out and stride == 1 and not self.shortcut_of_activated
        self.norm1 = nn.BatchNorm2d(n_in) if activate else None
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride, padding=1, bias=bias)
        self.norm2 = nn.BatchNorm2d(n_out)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=bias)
        self.shortcut = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=bias)

    def forward(self, x):
        activated = x if self.norm1 is None else self.norm1(x).relu_()
        hidden = self.norm2(self.conv1(activated)).relu_()
        return self.conv2(hidden) + self.shortcut(activated if self.shortcut_of_activated else x)
