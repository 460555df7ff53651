"""The settings of the papers as a table by name: methods that weigh samples or learn to.

Those of Co-teaching and Co-teaching+ stand beside the other pairs of networks.
"""

import torch
from _settings import ASYM, CIFAR10, CIFAR100, EXCL, SYM, add, pretrained, sgd

from noisyfit import INCVCleaner, Network
from noisyfit.modules import PreActResNet32, PreActResNetThin
from noisyfit.schedules import Step


def mentornet():
    """Jiang et al., ICML 2018: the student called ResNet-101, 39 000 steps of 128 rows."""
    shared = {"decay": 0.5, "n_mentor_updates": 0, "scale_decay_by_weights": True}
    shared |= {"use_trusted_in_training": False}
    learnt = shared | {"mentor": "data_driven", "burn_in": 0.18, "mentor_percentile": 0.9}
    learnt |= {"example_dropout": "data_driven", "trusted_noise": "given", "n_trusted": 5000}
    rule = shared | {"mentor": "predefined", "burn_in": 0, "example_dropout": "predefined"}
    note = "shortcuts by 1x1 convolutions, no leak, one scale per channel instead of per image"
    for data, statistics in (("cifar100", CIFAR100), ("cifar10", CIFAR10)):
        wide = {"module__depth": 56, "module__width": 160}
        student = sgd(PreActResNetThin, 0.1, 100, [50, 64, 77], 2e-4, statistics, **wide)
        for kind, params, shares in (
            ("dd", learnt, (0.8, 0.6, 0.5)),
            ("pd", rule, (0.75, 0.75, 0.5)),
        ):
            for level, share in zip((20, 40, 80), shares, strict=True):
                name = f"mentornet/{data}-{kind}-sym{level}"
                noise = (EXCL, level / 100)
                add(name, "MentorNetClassifier", student, noise, note, percentile=share, **params)


def self_paced():
    """Kumar et al., NIPS 2010, as a row of Jiang et al., ICML 2018, with its student."""
    published = {"percentile": 0.7, "decay": 0.5, "lambda_init": 0.0, "burn_in": 0}
    note = "shortcuts by 1x1 convolutions, no leak, one scale per channel instead of per image"
    for data, statistics in (("cifar100", CIFAR100), ("cifar10", CIFAR10)):
        wide = {"module__depth": 56, "module__width": 160}
        student = sgd(PreActResNetThin, 0.1, 100, [50, 64, 77], 2e-4, statistics, **wide)
        for curriculum, kind in (("linear", "linear-sym"), ("hard", "sym")):
            for level in (20, 40, 80):
                add(
                    f"self_paced/{data}-{kind}{level}",
                    "SelfPacedClassifier",
                    student,
                    (EXCL, level / 100),
                    note,
                    curriculum=curriculum,
                    scale_decay_by_weights=True,
                    **published,
                )


def mentormix():
    """Jiang et al., ICML 2020, as the command file of its code."""
    note = "the rule instead of the released mentor, no colour jitter, stem of 128 channels"
    schedule = Step(list(range(30, 512, 30)), 0.9)
    for data, percentiles, alphas, seconds in (
        ("cifar100", (0.7, 0.5, 0.3, 0.1), (2, 8, 4, 8), (False, False, True, True)),
        ("cifar10", (0.8, 0.6, 0.6, 0.2), (2, 8, 8, 4), (False, False, True, True)),
    ):
        for level, percentile, alpha, second in zip(
            (20, 40, 60, 80), percentiles, alphas, seconds, strict=True
        ):
            decay = 0.0 if second else 2e-4
            half = ([0.5] * 3, [0.5] * 3)
            net = sgd(PreActResNet32, 0.1, 512, schedule, decay, half, module__width=128)
            add(
                f"mentormix/{data}-sym{level}",
                "MentorMixClassifier",
                net,
                (EXCL, level / 100),
                note,
                noise_rate=None,
                percentile=percentile,
                alpha=alpha,
                second_reweight=second,
                burn_in=0.1,
                ema_decay=0.9999,
            )


def mlnt():
    """Li et al., CVPR 2019; the values for CIFAR-10 by later accounts of the paper."""
    as_published = {"n_sets": 10, "flip_share": 0.5, "n_neighbors": 10, "second_order": True}
    as_published |= {"kl_reduction": "mean", "damp": False, "teacher_decay": (0.99, 0.999)}
    as_published |= {"feature_net": "pretrain", "filter_threshold": 0.3}
    cifar = as_published | {"meta_rate": 0.4, "inner_lr": 0.2, "warmup": 3, "ramp": 17}
    thrice = sgd(PreActResNet32, 0.2, 480, [80], 1e-4)
    note = "drops count in each network's epochs; a network of 120 epochs gives the features"
    iterated = cifar | {"n_iterations": 3, "pretrain_epochs": 120}
    add("mlnt/cifar10-iterated", "MLNTClassifier", thrice, (SYM, 0.5), note, **iterated)
    once = sgd(PreActResNet32, 0.2, 134, [80], 1e-4)  # 14 of them for the features
    note = "first iteration; drops count in each network's epochs"
    for kind, noise_ in (("sym50", (SYM, 0.5)), ("asym40", (ASYM, 0.4))):
        add(f"mlnt/cifar10-{kind}", "MLNTClassifier", once, noise_, note, **cifar)
    add(
        "mlnt/clothing1m",
        "MLNTClassifier",
        pretrained(8e-4, 6, [1], batch=32),
        None,
        "meta phase from the first step, not from step 501 of 31250; no crops; "
        "the best epoch by clean labels is not taken",
        **as_published | {"meta_rate": 1.0, "inner_lr": 0.02, "warmup": 0, "ramp": 0.064},
        **{"pretrain_epochs": 3, "n_iterations": 3, "augment": None},
    )


def incv():
    """Chen et al., ICML 2019."""
    net = Network(
        PreActResNet32,
        optimizer=torch.optim.Adam,
        optimizer__weight_decay=1e-4,
        lr=0.001,
        lr_schedule=Step([80, 120, 160]),
        max_epochs=200,
        batch_size=128,
        normalize=None,
    )
    note = "constant rate in the cleaning, no last halving at epoch 180, decay of all weights"
    for kind, noise, noise_type in (
        ("sym20", (EXCL, 0.2), "symmetric"),
        ("sym50", (EXCL, 0.5), "symmetric"),
        ("sym80", (EXCL, 0.8), "symmetric"),
        ("pair40", ("pair", 0.4), "pair"),
    ):
        add(
            f"incv/cifar10-{kind}",
            "INCVClassifier",
            net,
            noise,
            note,
            cleaner=INCVCleaner(noise_type=noise_type, keep_best=True, shared_init=True),
            cleaning_epochs=50,
            guards=False,
        )


for paper in (mentornet, self_paced, mentormix, mlnt, incv):
    paper()
