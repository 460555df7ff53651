"""The settings of the papers as a table by name: methods that weigh samples or learn to.

Those of Co-teaching and Co-teaching+ stand beside the other pairs of networks.
"""

from _settings import CIFAR10, CIFAR100, EXCL, add, sgd

from noisyfit.modules import PreActResNetThin


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


for paper in (mentornet,):
    paper()
