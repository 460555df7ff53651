"""Networks for tables and images: torch modules that return logits.

Each is ``classifier(features(x))`` with a linear `classifier`, so that methods which look at
embeddings, or exchange the last layer, can use any of them. Sizes below 1 and probabilities
outside [0, 1] raise ``ValueError``, other types ``TypeError``.
"""

from noisyfit.modules._convolutional import CNN4, CNN6, CNN7, CNN8, CNN9, LeNet, SmallCNN
from noisyfit.modules._mlp import MLP
from noisyfit.modules._parts import EncoderClassifier
from noisyfit.modules._preactivation import PreActResNet18, PreActResNet32, PreActResNetThin
from noisyfit.modules._residual import ResNet34
from noisyfit.modules._torchvision import TorchvisionBackbone

__all__ = [
    "CNN4",
    "CNN6",
    "CNN7",
    "CNN8",
    "CNN9",
    "MLP",
    "EncoderClassifier",
    "LeNet",
    "PreActResNet18",
    "PreActResNet32",
    "PreActResNetThin",
    "ResNet34",
    "SmallCNN",
    "TorchvisionBackbone",
]
