"""The settings of the methods that go beyond DivideMix; added to the table of `_settings`.

Of Bayesian DivideMix++ no value was at hand but those of the works it stands on, see its notes.
"""

from _settings import CIFAR10, CIFAR100, CROPS, SYM, add, sgd

from noisyfit import Network, SimCLR
from noisyfit.augment import AutoAugment, Chain
from noisyfit.modules import PreActResNet18
from noisyfit.schedules import Cosine

STRONG = Chain(CROPS, AutoAugment())


def simclr():
    """The contrastive code that Contrast to Divide and Manifold DivideMix point to."""
    net = Network(
        lr=0.5,
        max_epochs=1000,
        batch_size=1024,
        lr_schedule=Cosine(1e-3, warmup=10),
        optimizer__weight_decay=1e-4,
    )
    return SimCLR(net, base_temperature=0.07)


def bayesian():
    """Nagarajan et al., Neural Networks 2024, as DivideMix, AugDesc and Contrast to Divide."""
    for data, statistics, weights in (
        ("cifar10", CIFAR10, {20: 0, 50: 25, 80: 25, 90: 50}),
        ("cifar100", CIFAR100, {20: 25, 50: 150, 80: 150, 90: 150}),
    ):
        resnet = sgd(PreActResNet18, 0.02, 300, [150], 5e-4, statistics, gradient_clip=1.0)
        for level, lambda_u in weights.items():
            add(
                f"bayesian/{data}-sym{level}",
                "BayesianDivideMixPP",
                resnet,
                (SYM, level / 100),
                warmup=5,
                alpha=4,
                lambda_u=lambda_u,
                guards=False,
                strong_augment=STRONG,
                pretrain=simclr(),
                **({"threshold": 0.6, "loss_history": 5} if level == 90 else {}),
            )


def manifold():
    """Fooladgar et al., CVPR Workshops 2024: the commands of its code's manual."""
    for data, statistics in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        add(
            f"manifold/{data}",
            "ManifoldDivideMixClassifier",
            sgd(PreActResNet18, 0.2, 300, Cosine(), 5e-4, statistics),
            warmup=20,
            redivide_every=10,
            alpha=4,
            lambda_u=100,
            lambda_c=1.0,
            loss="sce",
            ood_share=None,
            ood_initial=0.1,
            ood_step=0.01,
            backbone_lr=0.01,
            guards=False,
            strong_augment=STRONG,
            pretrain=simclr(),
        )


for enter in (bayesian, manifold):
    enter()
