"""Networks for tables and images: torch modules that return logits.

Each is ``classifier(features(x))`` with a linear `classifier`, so that methods which look at
embeddings, or exchange the last layer, can use any of them. Sizes below 1 and probabilities
outside [0, 1] raise ``ValueError``, other types ``TypeError``.
"""

import os
from itertools import pairwise
from numbers import Integral

import torch
from sklearn.utils import check_scalar
from torch import nn

__all__ = ["CNN9", "MLP", "PreActResNet18", "SmallCNN", "TorchvisionBackbone"]


class _Net(nn.Module):
    """A `body` that makes the features and a linear `classifier` on top of them."""

    def features(self, x):
        """Embed a batch, (batch, ...) -> (batch, ``classifier.in_features``)."""
        return self.body(x)

    def forward(self, x):
        """Logits of a batch, (batch, ...) -> (batch, n_classes)."""
        return self.classifier(self.features(x))


class MLP(_Net):
    """Fully connected network for tables: linear, ReLU, dropout per hidden layer.

    Parameters
    ----------
    n_features : int
        Columns of the table.
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
        _check_counts(n_features=n_features, n_classes=n_classes)
        _check_counts(**{f"hidden[{i}]": width for i, width in enumerate(hidden)})
        widths = [n_features, *hidden]
        layers = []
        for n_in, n_out in pairwise(widths):
            layers += [nn.Linear(n_in, n_out), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.body = nn.Sequential(*layers)
        self.classifier = nn.Linear(widths[-1], n_classes)


class SmallCNN(_Net):
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
        if len(input_shape) != 3:
            raise ValueError(f"input_shape must be (channels, height, width), got {input_shape}.")
        channels, height, width = input_shape
        _check_counts(channels=channels, n_classes=n_classes)
        _check_counts(height=height, width=width, least=3)
        n_flat = 64 * ((height + 1) // 4) * ((width + 1) // 4)  # stride 2 rounds up, pooling down
        self.body = nn.Sequential(
            *_conv(channels, 16, nn.ReLU(inplace=True), stride=2, padding=1, bias=False),
            *_conv(16, 32, nn.ReLU(inplace=True), padding=1, bias=False),
            nn.MaxPool2d(2),
            *_conv(32, 64, nn.ReLU(inplace=True), padding=1, bias=False),
            nn.Flatten(),
            *(nn.Linear(n_flat, 128), nn.ReLU(inplace=True), nn.Dropout(dropout)),
        )
        self.classifier = nn.Linear(128, n_classes)


class CNN9(_Net):
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
        _check_counts(in_channels=in_channels, n_classes=n_classes)
        layers = []
        for widths in [(in_channels, 128, 128, 128), (128, 256, 256, 256)]:
            for n_in, n_out in pairwise(widths):
                layers += _conv(n_in, n_out, nn.LeakyReLU(0.01, inplace=True), padding=1)
            layers += [nn.MaxPool2d(2), nn.Dropout2d(dropout)]
        for n_in, n_out in pairwise((256, 512, 256, 128)):
            layers += _conv(n_in, n_out, nn.LeakyReLU(0.01, inplace=True))
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(128, n_classes)

    def features(self, x):
        """Embed a batch, (batch, in_channels, height, width) -> (batch, 128)."""
        if min(x.shape[-2:]) < 28:
            raise ValueError(f"CNN9 needs images of at least 28x28 pixels, got {x.shape[-2:]}.")
        return self.body(x)


class PreActResNet18(_Net):
    """Pre-activation ResNet-18 as the DivideMix family trains it.

    Parameters
    ----------
    in_channels : int, default=3
    n_classes : int, default=10
    width : int, default=64
        Channels of the first stage; the next three have 2, 4 and 8 times as many.

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

    def __init__(self, in_channels=3, n_classes=10, width=64):
        super().__init__()
        _check_counts(in_channels=in_channels, n_classes=n_classes, width=width)
        layers = _conv(in_channels, width, nn.ReLU(inplace=True), padding=1, bias=False)
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        for (n_in, n_out), stride in zip(pairwise(widths), (1, 2, 2, 2), strict=True):
            layers += [_PreActBlock(n_in, n_out, stride), _PreActBlock(n_out, n_out, 1)]
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(8 * width, n_classes)


class _PreActBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, and a shortcut."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(n_in), nn.BatchNorm2d(n_out)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1, bias=False)
        same = stride == 1 and n_in == n_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x):
        activated = self.norm1(x).relu_()
        hidden = self.norm2(self.conv1(activated)).relu_()
        return self.conv2(hidden) + self.shortcut(activated)


class TorchvisionBackbone(_Net):
    """Any classification network of torchvision, its last linear layer made anew.

    Parameters
    ----------
    name : str, default="resnet50"
        A name of ``torchvision.models.list_models(module=torchvision.models)``, except googlenet,
        inception_v3 (they have auxiliary outputs) and squeezenet (it has no linear layer).
    n_classes : int, default=10
    weights : str, path or torchvision weights enum, default=None
        A file with a state dict of the torchvision model (its last layer is left out), or weights
        that torchvision knows, such as ``"DEFAULT"``: it **downloads** what its cache lacks.
    in_channels : int, default=3
        Other than 3 makes the first convolution anew; `weights` are summed over its channels.

    Raises
    ------
    ValueError
        For a name that is unknown or excepted, and for weights that do not fit.

    Notes
    -----
    Some families (swin, convnext, efficientnet) drop whole residual branches in training, with
    torchvision's ``StochasticDepth``. Some need images of a fixed or least size (vit: 224x224).

    Examples
    --------
    >>> from noisyfit.modules import TorchvisionBackbone
    >>> TorchvisionBackbone("mobilenet_v3_small", n_classes=4, in_channels=1).classifier
    Linear(in_features=1024, out_features=4, bias=True)
    """

    def __init__(self, name="resnet50", n_classes=10, weights=None, in_channels=3):
        super().__init__()
        _check_counts(n_classes=n_classes, in_channels=in_channels)
        from_file = isinstance(weights, str | os.PathLike) and os.path.isfile(weights)
        self.body = _torchvision_model(name, None if from_file else weights)
        layers = self.body.named_modules()
        *_, (last, linear) = ((key, m) for key, m in layers if isinstance(m, nn.Linear))
        self.body.set_submodule(last, nn.Identity())
        if from_file:
            _load_body(self.body, weights, without=last)
        if in_channels != 3:
            _adapt_first_convolution(self.body, in_channels, keep=weights is not None)
        self.classifier = nn.Linear(linear.in_features, n_classes)


def _check_counts(least=1, **counts):
    for name, value in counts.items():
        check_scalar(value, name, Integral, min_val=least)


def _conv(n_in, n_out, activation, **settings):
    return [nn.Conv2d(n_in, n_out, 3, **settings), nn.BatchNorm2d(n_out), activation]


def _torchvision_model(name, weights):
    from torchvision import models  # slow to import, and needed here only

    if name not in models.list_models(models, exclude=["googlenet", "inception*", "squeezenet*"]):
        raise ValueError(f"name={name!r} is no classification network that can be adapted.")
    if weights is not None:
        known = models.get_model_weights(name)
        weights = str(weights).removeprefix(f"{known.__name__}.")
        if weights not in known.__members__:
            raise ValueError(f"weights must be an existing file or one of {[*known.__members__]}.")
    return models.get_model(name, weights=weights)


def _load_body(body, path, without):
    """Load all but the entries of the layer called `without`."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    state = {key: value for key, value in state.items() if not key.startswith(f"{without}.")}
    try:
        body.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"weights: {path} holds another network. {error}") from error


def _adapt_first_convolution(body, in_channels, keep):
    """Let `body` take `in_channels`; `keep` spreads the kernel's sum over channels evenly."""
    conv = next(m for m in body.modules() if isinstance(m, nn.Conv2d))
    summed = conv.weight.detach().sum(1, keepdim=True)  # (n_out, 1, height, width)
    conv.weight = nn.Parameter(summed.repeat(1, in_channels, 1, 1) / in_channels)
    conv.in_channels = in_channels
    if not keep:
        conv.reset_parameters()
