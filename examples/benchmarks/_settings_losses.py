"""The settings of the papers as a table by name: robust losses and transition matrices."""

import math

import torch
from _settings import CIFAR10, CIFAR100, EXCL, add, sgd
from sklearn.base import clone

from noisyfit import Network
from noisyfit.augment import CropFlip
from noisyfit.modules import CNN4, CNN6, CNN8, MLP, PreActResNetThin, ResNet34
from noisyfit.schedules import Cosine


def add_loss(name, net, loss, note="", loss_params=None, **params):
    """A robust loss; all of these papers exclude the true label from symmetric noise."""
    params |= {"loss": loss, "loss_params": loss_params}
    add(name, "RobustLossClassifier", net, (EXCL, 0.4), note, **params)


def truncated_lq():
    """Zhang, Sabuncu, NeurIPS 2018."""
    for data, statistics, epochs, drops, prune in (
        ("cifar10", CIFAR10, 120, [40, 80], 39),
        ("cifar100", CIFAR100, 150, [80, 120], 79),
    ):
        resnet = sgd(ResNet34, 0.01, epochs, drops, 1e-4, statistics)
        add_loss(f"gce/{data}", resnet, "gce", loss_params={"q": 0.7})
        chosen = "rows chosen by the network of the moment, not the best on validation labels"
        pruning = {"prune_start": prune, "prune_interval": 10, "guards": False}
        params = {"q": 0.7, "k": 0.5}
        add_loss(f"truncated_gce/{data}", resnet, "truncated_gce", chosen, params, **pruning)


def symmetric():
    """Wang et al., ICCV 2019. Weight decay of Keras, lambda ||w||^2: its gradient is 2 lambda w."""
    shifts = CropFlip(6)
    hidden_layer = [("body.22.*", {"weight_decay": 2e-2})]
    cnn8 = sgd(CNN8, 0.01, 120, [40, 80], 1e-4, optimizer__param_groups=hidden_layer)
    cnn4 = sgd(CNN4, 0.1, 50, [10, 30], 0, None)
    thin44 = sgd(PreActResNetThin, 0.1, 150, [80, 120], 5e-3, CIFAR100, module__depth=44)
    for data, net, alpha, beta, view, note in (
        ("mnist", cnn4, 0.01, 1, None, ""),
        ("cifar10", cnn8, 0.1, 1, shifts, ""),
        ("cifar100", thin44, 6, 0.1, shifts, "without rotations"),
    ):
        weights = {"alpha": alpha, "beta": beta, "log_zero": math.log(1e-4)}
        add_loss(f"sce/{data}", net, "sce", note, weights, augment=view)
        if data == "cifar10":  # its code base has these too; Reed et al., ICLR workshop 2015
            for kind, weight in (("soft", 0.05), ("hard", 0.2)):
                boot = {"kind": kind, "weight": weight, "augment": view}
                name = f"bootstrapping/cifar10-{kind}"
                add(name, "BootstrappingClassifier", net, (EXCL, 0.4), "schedule of SCE", **boot)
            params = {"smoothing": 0.1}
            note = "schedule of SCE"
            add_loss("label_smoothing/cifar10", net, "label_smoothing", note, params, augment=view)


def clipped():
    """Networks by data set of Ma et al., ICML 2020, whom the papers on asymmetric losses follow."""
    clip = {"gradient_clip": 5.0}
    return {
        "mnist": sgd(
            CNN4, 0.01, 50, Cosine(final=0.1), 1e-2, None, optimizer__nesterov=True, **clip
        ),
        "cifar10": sgd(CNN8, 0.01, 120, Cosine(), 1e-4, **clip),
        "cifar100": sgd(ResNet34, 0.1, 200, Cosine(), 1e-5, CIFAR100, **clip),
    }


def add_table(data, net, table):
    """Losses of one data set, {name: parameters}."""
    note = "ResNet-34 instead of ResNet-50, without rotations" if data == "cifar100" else ""
    view = {"augment": None} if data == "mnist" else {}
    for loss, params in table.items():
        add_loss(f"{loss}/{data}", net, loss, note, params, **view)


def active_passive():
    """Ma et al., ICML 2020."""
    apl = clipped()
    for data, (alpha, beta), (of_mae, q) in (
        ("mnist", (1, 10), (10, 0.1)),
        ("cifar10", (1, 1), (1, 0.1)),
        ("cifar100", (10, 0.1), (1, 0.7)),
    ):
        half = {"alpha": alpha, "beta": of_mae / 2}  # its MAE is 1 - p, here it is 2 (1 - p)
        table = {
            "nce+rce": {"alpha": alpha, "beta": beta},
            "nfl+rce": {"alpha": alpha, "beta": beta, "gamma": 0.5},
            "nce+mae": half,
            "nfl+mae": half | {"gamma": 0.5},
            "ngce": {"q": q},
            "focal": {"gamma": 0.5},
            "mae": {},  # twice the published one, and so its step
        }
        add_table(data, apl[data], table)


def asymmetric():
    """Zhou et al., ICML 2021; Ye et al., NeurIPS 2023."""
    apl = clipped()
    same = {"cifar10": {"agce": (0.6, 0.6), "aul": (5.5, 3.0), "ael": (2.5,)}}
    same["cifar100"] = same["cifar10"]
    same["mnist"] = {"agce": (4, 0.2), "aul": (3, 0.1), "ael": (3.5,)}
    for data, table in same.items():
        named = {loss: dict(zip("aq", v, strict=False)) for loss, v in table.items()}
        add_table(data, apl[data], named)
    sums = {
        "cifar10": {"nce+agce": (1, 4, 6, 1.5), "nce+aul": (1, 4, 6.3, 1.5)},
        "cifar100": {"nce+agce": (10, 0.1, 1.8, 3), "nce+aul": (10, 0.015, 6, 3)},
    }
    for data, table in sums.items():
        names = ("alpha", "beta", "a", "q")
        named = {loss: dict(zip(names, v, strict=True)) for loss, v in table.items()}
        add_table(data, apl[data], named)
    for data, alpha, beta, l1 in (("cifar10", 5, 5, 5e-5), ("cifar100", 10, 1, 5e-7)):
        net = clone(apl[data]).set_params(optimizer__weight_decay=0)
        params = {"alpha": alpha, "beta": beta, "p_min": 1e-7}
        add_loss(f"anl_ce/{data}", net, "anl_ce", "", params, l1=l1)


def loss_correction():
    """Patrini et al., CVPR 2017: half of the epochs estimate. Weight decay of Keras again."""
    grid = {
        "cifar10": sgd(PreActResNetThin, 0.1, 240, [41, 81], 2e-4, "auto", module__depth=32),
        "cifar100": sgd(PreActResNetThin, 0.1, 300, [81, 121], 2e-3, "auto", module__depth=44),
        "mnist": Network(
            MLP,
            module__n_features=784,
            module__dropout=0.2,
            optimizer=torch.optim.Adagrad,
            lr=0.01,
            lr_schedule="constant",
            max_epochs=80,
            batch_size=128,
            normalize=None,
        ),
    }
    noise_ = (EXCL, 0.5)
    for data, net in grid.items():
        estimate = {
            "warmup": net.max_epochs // 2,
            "percentile": None if data == "cifar100" else 97,
            "augment": None if data == "mnist" else CropFlip(3),
        }
        note = "last epoch, not the best on noisy validation labels"
        add(
            f"forward/{data}",
            "ForwardCorrectionClassifier",
            net,
            noise_,
            note,
            **estimate,
            guards=False,
        )
        # what cannot be inverted is mixed with the identity, so this one keeps its guards
        add(f"backward/{data}", "BackwardCorrectionClassifier", net, noise_, note, **estimate)


def noise_adaptation():
    """Goldberger, Ben-Reuven, ICLR 2017."""
    adam = {"optimizer": torch.optim.Adam, "lr": 0.001, "lr_schedule": "constant"}
    adam |= {"max_epochs": 80, "batch_size": 256, "normalize": None}
    wide = {"module__n_features": 784, "module__hidden": (500, 300), "module__dropout": 0.5}
    for data, net in (("mnist", Network(MLP, **wide, **adam)), ("cifar100", Network(CNN6, **adam))):
        for channel in ("simple", "complex"):
            add(
                f"noise_adaptation/{data}-{channel}",
                "NoiseAdaptationClassifier",
                net,
                ("pair", 0.45),
                "40 epochs each instead of early stopping; its noise is a fixed permutation",
                channel=channel,
                warmup=40,
                confusion="hard",
                augment=None,
                guards=False,
            )


for paper in (
    truncated_lq,
    symmetric,
    active_passive,
    asymmetric,
    loss_correction,
    noise_adaptation,
):
    paper()
