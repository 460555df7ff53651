"""Networks of torchvision with a last layer of our own."""

import os

import torch
from torch import nn

from noisyfit.modules._parts import Classifier, check_counts


class TorchvisionBackbone(Classifier):
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
        check_counts(n_classes=n_classes, in_channels=in_channels)
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
