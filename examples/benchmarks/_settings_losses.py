"""The settings of the papers as a table by name: robust losses and transition matrices."""

import math

import torch
from _settings import CIFAR10, CIFAR100, EXCL, NO_SCALE, KerasDecay, add, sgd
from sklearn.base import clone
from skorch.dataset import ValidSplit

from noisyfit import Network
from noisyfit.augment import CropFlip
from noisyfit.modules import CNN4, CNN6, CNN8, MLP, PreActResNetThin, ResNet34
from noisyfit.schedules import Cosine, Step

STEPS = {"mnist": 469, "cifar10": 391, "cifar100": 391}  # of an epoch at 128 rows
MNIST = [0.1307], [0.3081]
SPREAD10 = [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]
CENTRED10, CENTRED100 = (CIFAR10[0], NO_SCALE), (CIFAR100[0], NO_SCALE)


def add_loss(name, net, loss, note="", loss_params=None, **params):
    """A robust loss; all of these papers exclude the true label from symmetric noise."""
    params |= {"loss": loss, "loss_params": loss_params, "warmup": 0}
    add(name, "RobustLossClassifier", net, (EXCL, 0.4), note, **params)


def as_if_scaled(net, factor):
    """A network trained by SGD for a loss as if that were `factor` times as large."""
    decay = net.get_params()["optimizer__weight_decay"] / factor
    clip = net.gradient_clip / factor
    return clone(net).set_params(
        lr=net.lr * factor, optimizer__weight_decay=decay, gradient_clip=clip
    )


def truncated_lq():
    """Zhang, Sabuncu, NeurIPS 2018."""
    for data, statistics, epochs, drops, prune in (
        ("cifar10", SPREAD10, 120, [40, 80], 39),
        ("cifar100", CIFAR100, 150, [80, 120], 79),
    ):
        resnet = sgd(ResNet34, 0.01, epochs, drops, 1e-4, statistics)
        add_loss(f"gce/{data}", resnet, "gce", loss_params={"q": 0.7})
        chosen = "a tenth of the noisy rows is held out to find the network that chooses rows"
        split = ValidSplit(0.1, stratified=True, random_state=0)
        resnet = clone(resnet).set_params(train_split=split)
        pruning = {"prune_start": prune, "prune_interval": 10, "guards": False}
        params = {"q": 0.7, "k": 0.5}
        add_loss(f"truncated_gce/{data}", resnet, "truncated_gce", chosen, params, **pruning)


def symmetric():
    """Wang et al., ICCV 2019: by Keras, whose penalty lambda ||w||^2 has the gradient 2 lambda w.

    ``decay`` is no penalty there but lowers the learning rate by the step, besides the drops.
    """
    shifts = CropFlip(6)
    keras = {
        data: KerasDecay(Step(drops), decay * STEPS[data])
        for data, drops, decay in (
            ("mnist", [11, 31], 1e-4),
            ("cifar10", [41, 81], 1e-4),
            ("cifar100", [81, 121], 5e-3),
        )
    }
    cnn4 = sgd(CNN4, 0.1, 50, keras["mnist"], 0, None)
    groups = {"optimizer__param_groups": [("body.22.*", {"weight_decay": 2e-2})]}  # hidden layer
    cnn8 = sgd(CNN8, 0.01, 120, keras["cifar10"], 0, CENTRED10, **groups)
    kernels = ("body.0.weight", "*conv?.weight", "*shortcut*weight", "classifier.weight")
    groups = {"optimizer__param_groups": [(name, {"weight_decay": 2e-2}) for name in kernels]}
    thin44 = PreActResNetThin, 0.1, 150, keras["cifar100"], 0, CENTRED100
    thin44 = sgd(*thin44, module__depth=44, **groups)
    for data, net, alpha, beta, view, note in (
        ("mnist", cnn4, 0.01, 1, None, ""),
        ("cifar10", cnn8, 0.1, 1, shifts, ""),
        ("cifar100", thin44, 6, 0.1, shifts, "; without rotations"),
    ):
        weights = {"alpha": alpha, "beta": beta, "log_zero": math.log(1e-4)}
        decay = keras[data].per_epoch / STEPS[data]
        note = f"rate / (1 + {decay:g} step) by Keras' decay, averaged over each epoch{note}"
        add_loss(f"sce/{data}", net, "sce", note, weights, augment=view)
    # its code base has these too; Reed et al., ICLR workshop 2015
    for kind, weight in (("soft", 0.05), ("hard", 0.2)):
        boot = {"kind": kind, "weight": weight, "augment": shifts}
        boot |= {"detach_target": kind == "hard"}  # whose target has no gradient anyway
        name = f"bootstrapping/cifar10-{kind}"
        add(name, "BootstrappingClassifier", cnn8, (EXCL, 0.4), "schedule of SCE", **boot)
    params = {"smoothing": 0.1}
    note = "schedule of SCE"
    add_loss("label_smoothing/cifar10", cnn8, "label_smoothing", note, params, augment=shifts)


def clipped():
    """Networks by data set of Ma et al., ICML 2020, whom the papers on asymmetric losses follow."""
    clip = {"gradient_clip": 5.0}
    return {
        "mnist": sgd(
            CNN4, 0.01, 50, Cosine(final=0.1), 1e-2, MNIST, optimizer__nesterov=True, **clip
        ),
        "cifar10": sgd(CNN8, 0.01, 120, Cosine(), 1e-4, SPREAD10, **clip),
        "cifar100": sgd(ResNet34, 0.1, 200, Cosine(), 1e-5, CIFAR100, **clip),
    }


def add_table(data, net, table, note=""):
    """Losses of one data set, {name: parameters}."""
    notes = [note] if note else []
    notes += ["ResNet-34 instead of ResNet-50, without rotations"] if data == "cifar100" else []
    view = {"augment": None} if data == "mnist" else {}
    for loss, params in table.items():
        add_loss(f"{loss}/{data}", net, loss, "; ".join(notes), params, **view)


def active_passive():
    """Ma et al., ICML 2020."""
    apl = clipped()
    for data, (alpha, beta), (of_mae, q) in (
        ("mnist", (1, 10), (10, 0.1)),
        ("cifar10", (1, 1), (1, 0.1)),
        ("cifar100", (10, 0.1), (1, 0.7)),
    ):
        half = {"alpha": alpha, "beta": of_mae / 2}  # its MAE is 1 - p, here it is 2 (1 - p)
        focus = {"gamma": 0.5, "detach_modulation": True}
        table = {
            "nce+rce": {"alpha": alpha, "beta": beta},
            "nfl+rce": {"alpha": alpha, "beta": beta} | focus,
            "nce+mae": half,
            "nfl+mae": half | focus,
            "focal": focus,
        }
        add_table(data, apl[data], table)
        note = "half the rate, twice decay and clip, as its MAE is half of the one here"
        add_table(data, as_if_scaled(apl[data], 0.5), {"mae": {}}, note)
        note = "ten times the rate, a tenth of decay and clip, for its loss has a factor of 10"
        scale, note = (10, note) if data == "mnist" else (1, "")
        add_table(data, as_if_scaled(apl[data], scale), {"ngce": {"q": q}}, note)


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
        "cifar10": sgd(PreActResNetThin, 0.1, 240, [41, 81], 2e-4, CENTRED10, module__depth=32),
        "cifar100": sgd(PreActResNetThin, 0.1, 300, [81, 121], 2e-3, CENTRED100, module__depth=44),
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
        for name in ("forward", "backward"):
            method = f"{name.title()}CorrectionClassifier"
            add(f"{name}/{data}", method, net, noise_, note, guards=False, **estimate)


def noise_adaptation():
    """Goldberger, Ben-Reuven, ICLR 2017."""
    adam = {"optimizer": torch.optim.Adam, "lr": 0.001, "lr_schedule": "constant"}
    adam |= {"max_epochs": 80, "batch_size": 256, "normalize": None}
    wide = {"module__n_features": 784, "module__hidden": (500, 300), "module__dropout": 0.5}
    mlp, cnn6 = Network(MLP, **wide, **adam), Network(CNN6, **adam)
    note = "40 epochs each instead of early stopping; its noise is a fixed permutation"
    plain = {"warmup": 40, "confusion": "hard", "channel_lr": 1.0, "augment": None, "guards": False}
    for name, net, top_k in (("mnist", mlp, None), ("cifar100", cnn6, None), ("cifar100", cnn6, 5)):
        for channel in ("simple", "complex"):
            add(
                f"noise_adaptation/{name}-{channel}{'-sparse' if top_k else ''}",
                "NoiseAdaptationClassifier",
                net,
                ("pair", 0.45),
                note if channel == "simple" else f"{note}; starts from plain training, not simple",
                channel=channel,
                top_k=top_k,
                **plain,
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
