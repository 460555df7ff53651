"""The settings of the papers as a table by name: methods that choose, correct or learn labels.

Every function here enters those of one paper; `published.py` trains them.
"""

import math
from dataclasses import dataclass

import torch
from sklearn.base import clone
from skorch.callbacks import Callback

from noisyfit import Network, methods
from noisyfit.augment import CropFlip
from noisyfit.modules import (
    CNN7,
    CNN9,
    MLP,
    LeNet,
    PreActResNet18,
    PreActResNet32,
    ResNet34,
    TorchvisionBackbone,
)
from noisyfit.schedules import CosineRestarts, LinearDecay, Step

CIFAR10 = ([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010])
CIFAR100 = ([0.507, 0.487, 0.441], [0.267, 0.256, 0.276])
NO_SCALE = [1.0, 1.0, 1.0]  # where a paper subtracts the mean and leaves the spread
CLOTHING1M = ([0.6959, 0.6537, 0.6371], [0.3113, 0.3192, 0.3214])
CROPS = CropFlip(4)
SYM, EXCL, ASYM = "sym_incl", "sym_excl", "asym_cifar10"
BLOCKS = "asym_cifar100_block5"


@dataclass(frozen=True)
class Setting:
    """A method with everything that was published for one data set and noise."""

    method: str
    net: Network
    params: dict
    data: str
    noise: tuple
    note: str = ""
    n_trusted: int = 0  # rows whose true label is told

    def build(self):
        """The estimator, unfitted."""
        return getattr(methods, self.method)(clone(self.net), **self.params)


SETTINGS = {}


def add(name, method, net, noise_=(SYM, 0.5), note="", n_trusted=0, **params):
    """Enter a setting; the data set is the first word behind the slash."""
    data = name.split("/")[1].split("-")[0]
    params = {"augment": CROPS} | params
    SETTINGS[name] = Setting(method, net, params, data, noise_, note, n_trusted)


def sgd(module, lr, epochs, schedule, decay, normalize=CIFAR10, batch=128, **more):
    """A network trained by SGD with momentum 0.9."""
    return Network(
        module,
        lr=lr,
        max_epochs=epochs,
        lr_schedule=Step(schedule) if isinstance(schedule, list) else schedule,
        batch_size=batch,
        normalize=normalize,
        optimizer__weight_decay=decay,
        **more,
    )


def pretrained(lr, epochs, schedule, batch=64):
    """ResNet-50 with ImageNet weights, which torchvision downloads, for Clothing1M."""
    backbone = {"module__name": "resnet50", "module__weights": "IMAGENET1K_V1"}
    workers = {"iterator_train__num_workers": 8}
    return sgd(
        TorchvisionBackbone, lr, epochs, schedule, 1e-3, CLOTHING1M, batch, **backbone, **workers
    )


@dataclass(frozen=True)
class KerasDecay:
    """Drops times Keras' learning-rate decay, ``1 / (1 + decay * step)``, as its mean in an epoch.

    `per_epoch` is the decay times the steps of an epoch.
    """

    drops: Step
    per_epoch: float

    def __call__(self, epoch, max_epochs):
        since_start = self.per_epoch / (1 + self.per_epoch * epoch)
        return self.drops(epoch, max_epochs) * math.log1p(since_start) / self.per_epoch


def dividemix():
    """Li, Socher, Hoi, ICLR 2020."""
    as_published = {"alpha": 4, "loss_history": 1, "guards": False, "guess_mode": "train"}
    at_90 = {"threshold": 0.6, "loss_history": 5}
    for data, statistics, warmup, weights in (
        ("cifar10", CIFAR10, 10, {20: 0, 50: 25, 80: 25, 90: 50}),
        ("cifar100", CIFAR100, 30, {20: 25, 50: 150, 80: 150, 90: 150}),
    ):
        resnet = sgd(PreActResNet18, 0.02, 300, [150], 5e-4, statistics)
        for level, lambda_u in weights.items():
            params = as_published | {"warmup": warmup, "lambda_u": lambda_u}
            params |= at_90 if level == 90 else {}
            name = f"dividemix/{data}-sym{level}"
            add(name, "DivideMixClassifier", resnet, (SYM, level / 100), **params)
    add(
        "dividemix/cifar10-asym40",
        "DivideMixClassifier",
        sgd(PreActResNet18, 0.02, 300, [150], 5e-4),
        (ASYM, 0.4),
        **as_published | {"warmup": 10, "lambda_u": 0, "confidence_penalty": 1.0},
    )
    add(
        "dividemix/clothing1m",
        "DivideMixClassifier",
        pretrained(0.002, 80, [40]),
        None,
        "shifts by 16 pixels instead of crops; no best epoch by clean validation labels",
        **as_published
        | {"warmup": 1, "alpha": 0.5, "lambda_u": 0, "confidence_penalty": 1.0}
        | {"skip_unlabelled_forward": True, "epoch_rows": 32000, "augment": CropFlip(16)},
    )


class LowerMomentum(Callback):
    """Adam's beta_1 is 0.9 before zero-based epoch `start` and 0.1 from there on."""

    def __init__(self, start=80):
        self.start = start

    def on_epoch_begin(self, net, **kwargs):
        beta_1 = 0.1 if net.history[-1, "epoch"] > self.start else 0.9
        for group in net.optimizer_.param_groups:
            group["betas"] = beta_1, 0.999


def adam(module, start=80, **params):
    """A network as Co-teaching trained it: its rate falls from zero-based epoch `start` on."""
    return Network(
        module,
        optimizer=torch.optim.Adam,
        lr=0.001,
        lr_schedule=LinearDecay(start),
        max_epochs=200,
        batch_size=128,
        normalize=None,
        callbacks=[LowerMomentum(start)],
        **params,
    )


CO_TEACHING_NOISE = (("pair", "pair", 45), ("sym", EXCL, 50), ("sym", EXCL, 20))
CO_TEACHING = {"augment": None, "n_gradual": 10, "ensemble": "first"}


def co_teaching():
    """Han et al., NeurIPS 2018; ``schedule="code"`` reaches the rate an epoch earlier."""
    for data, start in (("mnist", 80), ("cifar10", 80), ("cifar100", 100)):
        cnn9 = adam(CNN9, start, module__dropout=0.0)
        for kind, generator, level in CO_TEACHING_NOISE:
            add(
                f"co_teaching/{data}-{kind}{level}",
                "CoTeachingClassifier",
                cnn9,
                (generator, level / 100),
                "told the true rate",
                noise_rate=level / 100,
                **CO_TEACHING,
            )


def co_teaching_plus():
    """Yu et al., ICML 2019, as its code, to which the published figures belong."""
    mlp = adam(MLP, module__n_features=784, module__hidden=(256,))
    for data, net, init_epoch in (
        ("mnist", mlp, 0),
        ("cifar10", adam(LeNet), 20),
        ("cifar100", adam(CNN7), 5),
    ):
        for kind, generator, level in CO_TEACHING_NOISE:
            add(
                f"co_teaching_plus/{data}-{kind}{level}",
                "CoTeachingPlusClassifier",
                net,
                (generator, level / 100),
                "told the true rate; steps are counted through, not anew in every epoch",
                noise_rate=level / 100,
                init_epoch=init_epoch,
                plain_steps=5000,
                guards=False,
                legacy_double_softmax=True,
                **CO_TEACHING,
            )


def long_training():
    """300 epochs of Arazo et al., with CIFAR-10's statistics for CIFAR-100 too."""
    return sgd(PreActResNet18, 0.1, 300, [100, 250], 1e-4)


def mixed():
    """Zhang et al., ICLR 2018; and as rows of Arazo et al., ICML 2019. Plain training as there."""
    resnet, long = sgd(PreActResNet18, 0.1, 200, [100, 150], 1e-4), long_training()
    add("cross_entropy/cifar10", "CrossEntropyClassifier", resnet, note="as in the table of mixup")
    for level, alpha in ((20, 8), (50, 32), (80, 32)):
        add(f"mixup/cifar10-sym{level}", "MixupClassifier", resnet, (SYM, level / 100), alpha=alpha)
    for data in ("cifar10", "cifar100"):
        note = "as in the tables of M-correction"
        add(f"mixup/{data}-long", "MixupClassifier", long, note=note, alpha=32)
        add(f"cross_entropy/{data}-long", "CrossEntropyClassifier", long, note=note)


def m_correction():
    """Arazo et al., ICML 2019."""
    long = long_training()
    bmm = {"guards": False, "lookup": 100, "track_augment": True, "lambda_r": 1.0, "alpha": 32}
    for data, n_classes in (("cifar10", 10), ("cifar100", 100)):
        uniform = bmm | {"class_prior": [1 / n_classes] * n_classes}
        for variant in ("M-DYR-S", "M-DYR-H"):
            name = f"m_correction/{data}-{variant.lower()}"
            add(
                name, "MCorrectionClassifier", long, variant=variant, bootstrap_start=106, **uniform
            )
        for variant in ("MD-DYR-H", "MD-DYR-SH"):
            starts = {"guided_start": 106, "bootstrap_start": 111, "temperature_epochs": 89}
            name = f"m_correction/{data}-{variant.lower()}"
            add(name, "MCorrectionClassifier", long, variant=variant, **starts, **uniform)
    short = sgd(PreActResNet18, 0.1, 120, [30, 80, 110], 1e-4)
    for variant in ("ST-S", "ST-H", "DY-S", "DY-H"):
        note = "schedule of our own: the appendix was not at hand"
        own = bmm | {"bootstrap_start": 31, "class_prior": [0.1] * 10}
        name = f"m_correction/cifar10-{variant.lower()}"
        add(name, "MCorrectionClassifier", short, note=note, variant=variant, **own)


def early_learning():
    """Liu et al., NeurIPS 2020."""
    restarts = CosineRestarts(period=10, final=0.05)
    for data, statistics, epochs, schedule, beta, strength, noise_ in (
        ("cifar10-sym", CIFAR10, 150, restarts, 0.7, 3, (SYM, 0.4)),
        ("cifar10-asym", CIFAR10, 120, Step([40, 80], 0.01), 0.9, 1, (ASYM, 0.4)),
        ("cifar100-sym", CIFAR100, 150, Step([80, 120], 0.01), 0.9, 7, (SYM, 0.4)),
        ("cifar100-asym", CIFAR100, 150, Step([80, 120], 0.01), 0.9, 7, (BLOCKS, 0.4)),
    ):
        net = sgd(ResNet34, 0.02, epochs, schedule, 1e-3, statistics)
        target = {"momentum": beta, "strength": strength, "warmup": 0}
        add(f"elr/{data}", "ELRClassifier", net, noise_, **target)
        net = clone(net).set_params(lr_schedule=restarts, max_epochs=150)
        note = "momentum and strength of ELR, for none are given; full mass from the first visit"
        moments = target | {"elr_mass": False}
        add(f"moment_elr/{data}", "MomentELRClassifier", net, noise_, note, **moments)
        resnet = sgd(PreActResNet18, 0.02, 200, [150], 5e-4, statistics)
        ramps = {"alpha": 1, "average_decay": 0.997, "average_ramp": 40000, "ramp_unit": "steps"}
        ramps |= {"strength_ramp": 0, "sharpen_target": False}
        if data.startswith("cifar100"):
            resnet = clone(resnet).set_params(max_epochs=250, lr_schedule=Step([200]))
            ramps |= {"strength_ramp": 40000, "sharpen_target": True}
        add(f"elr_plus/{data}", "ELRPlusClassifier", resnet, noise_, **target, **ramps)
    add(
        "elr_plus/clothing1m",
        "ELRPlusClassifier",
        pretrained(0.002, 15, [7]),
        None,
        "whole passes instead of 3000 class-balanced batches an epoch",
        **{"momentum": 0.7, "strength": 3, "warmup": 0, "alpha": 1, "strength_ramp": 0},
        **{"sharpen_target": False, "average_decay": 0.9999, "average_ramp": None},
        augment=CropFlip(16),
    )


def joint_optimization():
    """Tanaka et al., CVPR 2018: `lr` is that of the second step, `lr_factor` leads to the first."""
    relabel = {"relabel_until": 200, "warmup": 70, "window": 10}
    relabel |= {"retrain": True, "class_prior": None}
    for kind, noise_, lr, alpha, beta in (
        ("sym70", (SYM, 0.7), 0.08, 1.2, 0.8),
        ("asym40", (ASYM, 0.4), 0.03, 0.8, 0.4),
    ):
        net = sgd(PreActResNet32, 0.2, 320, [40, 80], 1e-4, (CIFAR10[0], NO_SCALE))
        weights = {"alpha": alpha, "beta": beta, "lr_factor": lr / 0.2, "prior_momentum": 0.0}
        name = f"joint_optimization/cifar10-{kind}"
        add(name, "JointOptimizationClassifier", net, noise_, **relabel, **weights)


def pencil():
    """Yi, Wu, CVPR 2019; rates of other noise by a later implementation."""
    stages = {"warmup": 70, "correct_until": 200, "scale": "code", "init_scale": 10.0}
    stages |= {"loss_weight": 1.0, "double_softmax": True}  # to which the alphas belong
    for kind, noise_, lr, alpha, beta, label_lr in (
        ("cifar10-sym", ("sym_incl_bernoulli", 0.5), 0.06, 0.4, 0.1, 600),
        ("cifar10-clean", (SYM, 0.0), 0.02, 0.1, 0.8, 200),
        ("cifar10-sym30", ("sym_incl_bernoulli", 0.3), 0.03, 0.1, 0.8, 300),
        ("cifar10-asym50", (ASYM, 0.5), 0.03, 0.0, 0.4, 4000),
        ("cifar100-sym30", ("sym_incl_bernoulli", 0.3), 0.35, 0.1, 0.4, 1000),
    ):
        module = ResNet34 if kind.startswith("cifar100") else PreActResNet32
        statistics = CIFAR100 if kind.startswith("cifar100") else CIFAR10
        net = sgd(module, 0.2, 320, [40, 80], 1e-4, statistics)
        weights = {"alpha": alpha, "beta": beta, "label_lr": label_lr, "lr_factor": lr / 0.2}
        add(f"pencil/{kind}", "PencilClassifier", net, noise_, **stages, **weights)
    add(
        "pencil/clothing1m",
        "PencilClassifier",
        pretrained(5e-4, 25, [4, 7], batch=32),
        None,
        "label_lr stays at 3000 instead of falling to 500",
        **stages | {"warmup": 5, "correct_until": 15, "lr_factor": 1.6e-3 / 5e-4},
        **{"alpha": 0.08, "beta": 0.8, "label_lr": 3000, "augment": CropFlip(16)},
    )


for paper in (
    dividemix,
    co_teaching,
    co_teaching_plus,
    mixed,
    m_correction,
    early_learning,
    joint_optimization,
    pencil,
):
    paper()
