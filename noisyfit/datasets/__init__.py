"""Readers of data sets that lie on disk. Nothing is ever downloaded.

Two layouts are read: the one that torchvision downloads (or, for human labels, the file that
their authors publish), and compact archives of the same data. Every `root` is the folder that
holds them; without it, the environment variable `NOISYFIT_DATA` names the folder, else it is
`./data`. Images come as uint8 arrays (n, channels, height, width), labels as int64.
"""

from noisyfit.datasets.human_labels import load_cifar10h, load_cifar10n, load_cifar100n
from noisyfit.datasets.image_sets import (
    load_cifar10,
    load_cifar100,
    load_mnist,
    load_tinyimagenet_ood,
)

__all__ = [
    "load_cifar10",
    "load_cifar10h",
    "load_cifar10n",
    "load_cifar100",
    "load_cifar100n",
    "load_mnist",
    "load_tinyimagenet_ood",
]
