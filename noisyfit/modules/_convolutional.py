"""Plain convolutional networks: convolutions, pooling, a few linear layers."""

from itertools import pairwise

from torch import nn

from noisyfit.modules._parts import (
    Classifier,
    check_counts,
    check_input_shape,
    convolution,
    he_normal,
)


class SmallCNN(Classifier):
    """Three convolutions and one hidden layer, for small grey or colour images.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), at least 3 pixels high and wide.
    n_classes : int
    dropout : float in [0, 1], default=0.0
        Probability of zeroing one of the 128 features.

    Raises
    ------
    ValueError
        If `input_shape` has not three entries or the images are too small.

    Examples
    --------
    >>> from noisyfit.modules import SmallCNN
    >>> sum(p.numel() for p in SmallCNN(input_shape=(1, 8, 8), n_classes=10).parameters())
    57594
    """

    def __init__(self, input_shape, n_classes, dropout=0.0):
        super().__init__()
        channels, height, width = check_input_shape(input_shape, least=3)
        check_counts(n_classes=n_classes)
        n_flat = 64 * ((height + 1) // 4) * ((width + 1) // 4)  # stride 2 rounds up, pooling down
        self.body = nn.Sequential(
            *convolution(channels, 16, nn.ReLU(inplace=True), stride=2, padding=1, bias=False),
            *convolution(16, 32, nn.ReLU(inplace=True), padding=1, bias=False),
            nn.MaxPool2d(2),
            *convolution(32, 64, nn.ReLU(inplace=True), padding=1, bias=False),
            nn.Flatten(),
            *(nn.Linear(n_flat, 128), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        )
        self.classifier = nn.Linear(128, n_classes)


class CNN9(Classifier):
    """The nine-layer network of the co-teaching paper.

    Parameters
    ----------
    in_channels : int
    n_classes : int
    dropout : float in [0, 1], default=0.25
        Probability of zeroing a whole channel, after each of the two poolings.

    Raises
    ------
    ValueError
        When called, if an image is less than 28 pixels high or wide.

    Notes
    -----
    In the published code and the torch of its time dropout never acted, so ``dropout=0`` is
    closest to the published runs. Here it acts in training. As there, logits have no batch norm.

    References
    ----------
    Han et al., "Co-teaching", NeurIPS 2018.

    Examples
    --------
    >>> from noisyfit.modules import CNN9
    >>> CNN9(in_channels=3, n_classes=10).classifier
    Linear(in_features=128, out_features=10, bias=True)
    """

    def __init__(self, in_channels, n_classes, dropout=0.25):
        super().__init__()
        check_counts(in_channels=in_channels, n_classes=n_classes)
        layers = []
        for widths in [(in_channels, 128, 128, 128), (128, 256, 256, 256)]:
            for n_in, n_out in pairwise(widths):
                layers += convolution(n_in, n_out, nn.LeakyReLU(0.01, inplace=True), padding=1)
            layers += [nn.MaxPool2d(2), nn.Dropout2d(dropout)]
        for n_in, n_out in pairwise((256, 512, 256, 128)):
            layers += convolution(n_in, n_out, nn.LeakyReLU(0.01, inplace=True))
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(128, n_classes)

    def features(self, x):
        """Embed a batch, (batch, in_channels, height, width) -> (batch, 128)."""
        if min(x.shape[-2:]) < 28:
            raise ValueError(f"CNN9 needs images of at least 28x28 pixels, got {x.shape[-2:]}.")
        return self.body(x)


class CNN4(Classifier):
    """The four-layer network for MNIST of the symmetric and the active-passive losses.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), at least 4 pixels high and wide.
    n_classes : int

    References
    ----------
    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019.
    Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020.

    Examples
    --------
    >>> from noisyfit.modules import CNN4
    >>> sum(p.numel() for p in CNN4(input_shape=(1, 28, 28), n_classes=10).parameters())
    422090
    """

    def __init__(self, input_shape, n_classes):
        super().__init__()
        channels, height, width = check_input_shape(input_shape, least=4)
        check_counts(n_classes=n_classes)
        layers = []
        for n_in, n_out in pairwise((channels, 32, 64)):
            layers += [*convolution(n_in, n_out, nn.ReLU(inplace=True), padding=1), nn.MaxPool2d(2)]
        hidden = _normalised_layer(64 * (height // 4) * (width // 4), 128)
        self.body = nn.Sequential(*layers, nn.Flatten(), *hidden)
        self.classifier = nn.Linear(128, n_classes)
        he_normal(self)


class CNN6(Classifier):
    """The six-layer network for CIFAR-100 of the noise adaptation paper.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), at least 12 pixels high and wide.
    n_classes : int
    dropout : float in [0, 1], default=0.5
        Probability of zeroing one of the 512 features; half of it after each pooling.

    Notes
    -----
    Without batch norm. The second convolution of each pair and the very first one lose the border.

    References
    ----------
    Goldberger, Ben-Reuven, "Training deep neural-networks using a noise adaptation layer",
    ICLR 2017.

    Examples
    --------
    >>> from noisyfit.modules import CNN6
    >>> CNN6(input_shape=(3, 32, 32), n_classes=100).classifier
    Linear(in_features=512, out_features=100, bias=True)
    """

    def __init__(self, input_shape, n_classes, dropout=0.5):
        super().__init__()
        channels, height, width = check_input_shape(input_shape, least=12)
        check_counts(n_classes=n_classes)
        layers = []
        for n_in, n_out, padding in ((channels, 32, 0), (32, 64, 1)):
            layers += [nn.Conv2d(n_in, n_out, 3, padding=padding), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(n_out, n_out, 3), nn.ReLU(inplace=True)]
            layers += [nn.MaxPool2d(2), nn.Dropout(dropout / 2)]
        height, width = (((side - 4) // 2 - 2) // 2 for side in (height, width))
        hidden = [nn.Linear(64 * height * width, 512), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers, nn.Flatten(), *hidden)
        self.classifier = nn.Linear(512, n_classes)


class CNN7(Classifier):
    """The seven-layer network for CIFAR-100 of the co-teaching+ paper.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), at least 8 pixels high and wide.
    n_classes : int

    References
    ----------
    Yu et al., "How does Disagreement Help Generalization against Label Corruption?", ICML 2019.

    Examples
    --------
    >>> from noisyfit.modules import CNN7
    >>> CNN7(input_shape=(3, 32, 32), n_classes=100).classifier
    Linear(in_features=256, out_features=100, bias=True)
    """

    def __init__(self, input_shape, n_classes):
        super().__init__()
        channels, height, width = check_input_shape(input_shape, least=8)
        check_counts(n_classes=n_classes)
        layers = []
        for widths in ((channels, 64, 64), (64, 128, 128), (128, 196, 16)):
            for n_in, n_out in pairwise(widths):
                layers += convolution(n_in, n_out, nn.ReLU(inplace=True), padding=1)
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.classifier = nn.Linear(16 * (height // 8) * (width // 8), n_classes)


class CNN8(Classifier):
    """The eight-layer network for CIFAR-10 of the symmetric and the active-passive losses.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), at least 8 pixels high and wide.
    n_classes : int

    References
    ----------
    Wang et al., "Symmetric Cross Entropy for Robust Learning with Noisy Labels", ICCV 2019.
    Ma et al., "Normalized Loss Functions for Deep Learning with Noisy Labels", ICML 2020.

    Examples
    --------
    >>> from noisyfit.modules import CNN8
    >>> sum(p.numel() for p in CNN8(input_shape=(3, 32, 32), n_classes=10).parameters())
    1639794
    """

    def __init__(self, input_shape, n_classes):
        super().__init__()
        channels, height, width = check_input_shape(input_shape, least=8)
        check_counts(n_classes=n_classes)
        layers = []
        for n_in, n_out in pairwise((channels, 64, 128, 196)):
            layers += convolution(n_in, n_out, nn.ReLU(inplace=True), padding=1)
            layers += convolution(n_out, n_out, nn.ReLU(inplace=True), padding=1)
            layers += [nn.MaxPool2d(2)]
        hidden = _normalised_layer(196 * (height // 8) * (width // 8), 256)
        self.body = nn.Sequential(*layers, nn.Flatten(), *hidden)
        self.classifier = nn.Linear(256, n_classes)
        he_normal(self)


class LeNet(Classifier):
    """LeNet-5 with ReLU and max-pooling, the network for CIFAR-10 of the co-teaching+ paper.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), at least 16 pixels high and wide.
    n_classes : int

    References
    ----------
    LeCun et al., "Gradient-Based Learning Applied to Document Recognition", 1998.
    Yu et al., "How does Disagreement Help Generalization against Label Corruption?", ICML 2019.

    Examples
    --------
    >>> from noisyfit.modules import LeNet
    >>> sum(p.numel() for p in LeNet(input_shape=(3, 32, 32), n_classes=10).parameters())
    62006
    """

    def __init__(self, input_shape, n_classes):
        super().__init__()
        channels, height, width = check_input_shape(input_shape, least=16)
        check_counts(n_classes=n_classes)
        layers = []
        for n_in, n_out in pairwise((channels, 6, 16)):
            layers += [nn.Conv2d(n_in, n_out, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        height, width = (((side - 4) // 2 - 4) // 2 for side in (height, width))
        layers += [nn.Flatten()]
        for n_in, n_out in pairwise((16 * height * width, 120, 84)):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True)]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(84, n_classes)


def _normalised_layer(n_in, n_out):
    return [nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.ReLU(inplace=True)]
