"""What an epoch of every method costs, beside the cost counted from its algorithm.

A forward pass is one unit and a training step three, so an epoch of plain training is three units
a row and has cost 1 here. A method that measures more than it counts makes passes that nobody
asked for. All methods take turns on made images; an epoch's cost is the median over the epochs of a
fit, relative to plain training in the same round, and the median over the rounds is shown. Neither
the start of a fit nor what it gathers at its end is in it.
"""

import json
import time
from statistics import median

import numpy as np
import torch
from _timing import in_turns, machine, parser, spread
from skorch.callbacks import Callback

from noisyfit import Network, methods
from noisyfit.modules import PreActResNet18, SmallCNN
from noisyfit.noise import sym_incl

BASELINE = "CrossEntropyClassifier"
EPOCHS = 7
SECOND = 4  # zero-based epoch in which the second stage begins, where there are two
NETS = {
    "SmallCNN": (SmallCNN, {}, 4096),
    "PreActResNet18": (PreActResNet18, {"module__width": 16}, 512),
}


def division(row, n):
    """DivideMix: per labelled row two own guesses, two by both networks on as many unlabelled
    rows, and four mixed rows in a step, or two guesses and two rows if no label is doubted; both
    networks evaluate all rows."""
    counts = row["n_labelled_1"], row["n_labelled_2"]
    units = sum(count * (2 + 2 * 3 if count == n else 2 + 4 + 4 * 3) for count in counts)
    return (units + 2 * n) / (3 * n)


def exchange(row, n):
    """INCV: where rows are dropped both networks look at the pool; both train on what is kept."""
    passes = 2 * row["n_pool"] if row["n_kept"] < row["n_pool"] else 0
    return (passes + 2 * 3 * row["n_kept"]) / (3 * n)


def manifold_division(row, n):
    """Manifold DivideMix: per labelled row and its unlabelled one, if there is any, four guesses
    and a step on four strong views and four mixed rows; one evaluation of all rows."""
    has_unlabelled = row["n_labelled"] + row.get("n_out", 0) < n
    return ((28 if has_unlabelled else 14) * row["n_labelled"] + n) / (3 * n)


ONE_STEP = [("", 1, "a step")]
# class: (stage, cost in epochs of plain training, what is counted)
COUNTED = {
    BASELINE: ONE_STEP,
    "MixupClassifier": [("", 1, "a step on mixed rows")],
    "RobustLossClassifier": ONE_STEP,
    "BootstrappingClassifier": ONE_STEP,
    "ForwardCorrectionClassifier": ONE_STEP,
    "BackwardCorrectionClassifier": ONE_STEP,
    "NoiseAdaptationClassifier": [("", 1, "a step with the channel")],
    "ELRClassifier": ONE_STEP,
    "MomentELRClassifier": ONE_STEP,
    "JointOptimizationClassifier": [("", 1, "a step that remembers its predictions")],
    "PencilClassifier": [("", 1, "a step of network and labels")],
    "MCorrectionClassifier": [
        ("mixup", 4 / 3, "a step on mixed rows, one pass over the losses"),
        ("bootstrapping", 6 / 3, "the same, passes for targets and for their weights"),
    ],
    "CoTeachingClassifier": [("", 2, "two steps")],
    "CoTeachingPlusClassifier": [("", 2, "two steps")],
    "SelfPacedClassifier": ONE_STEP,
    "MentorMixClassifier": [("", 4 / 3, "a step on mixed rows, a pass for the weights")],
    "MLNTClassifier": [("", 5, "a step, a pass of the teacher, a step on paper derived twice")],
    "INCVClassifier": [("", exchange, "a pass a row looked at, a step a row kept, two networks")],
    "MentorNetClassifier": [("", 1, "a step; the mentor is too small to count")],
    "ELRPlusClassifier": [("", 8 / 3, "two steps on mixed rows, a pass of each averaged network")],
    "DivideMixClassifier": [
        ("warm-up", 2, "two steps"),
        ("divided", division, "18 units a labelled row and network, one a row and network"),
    ],
    "BayesianDivideMixPP": [
        ("warm-up", 2, "two steps"),
        ("divided", division, "18 units a labelled row and network, one a row and network"),
    ],
    "ManifoldDivideMixClassifier": [
        ("warm-up", 1, "a step"),
        ("divided", manifold_division, "28 units a labelled row, one a row"),
    ],
}
# makes the stage that matters begin after the first epoch, or the second stage at SECOND
REDRAWN = 0.6 * np.eye(10) + 0.04  # the noise of `made_images`
STAGES = {
    "ForwardCorrectionClassifier": {"transition": REDRAWN},
    # an early estimate saturates the network, whose subnormal gradients cost some CPUs half as much
    "BackwardCorrectionClassifier": {"transition": REDRAWN},
    "NoiseAdaptationClassifier": {"warmup": 1},
    "JointOptimizationClassifier": {"warmup": 1, "retrain": False},
    "PencilClassifier": {"warmup": 1, "correct_until": EPOCHS},
    "MCorrectionClassifier": {"bootstrap_start": SECOND + 1},
    "SelfPacedClassifier": {"percentile": 0.7, "burn_in": 1},
    "MentorMixClassifier": {"noise_rate": 0.4, "burn_in": 0.1},
    "MentorNetClassifier": {"percentile": 0.7},
    "INCVClassifier": {"warmup": 0, "n_gradual": 0, "cleaning_epochs": 2},
    "CoTeachingPlusClassifier": {"noise_rate": 0.4, "init_epoch": 1},
    "DivideMixClassifier": {"warmup": SECOND, "augment": "auto"},
    "BayesianDivideMixPP": {"warmup": SECOND, "augment": "auto", "pretrain": None},
    "ManifoldDivideMixClassifier": {"warmup": SECOND, "redivide_every": 1, "augment": "auto"}
    | {"pretrain": None},
}
TYPICAL = {
    "n_labelled": 0.5,
    "n_labelled_1": 0.5,
    "n_labelled_2": 0.5,
    "n_pool": 0.75,
    "n_kept": 0.5,
}


def typical_cost(cls):
    """Cost of an epoch of the last stage, for a rough order."""
    cost = COUNTED.get(cls.__name__, ONE_STEP)[-1][1]
    return cost(TYPICAL, 1) if callable(cost) else cost


class EpochTimer(Callback):
    """CPU seconds of every epoch."""

    def initialize(self):
        self.seconds_ = []
        return self

    def on_epoch_begin(self, net, **kwargs):
        self.start_ = time.process_time()

    def on_epoch_end(self, net, **kwargs):
        self.seconds_.append(time.process_time() - self.start_)


def made_images(n, side=28):
    """Images of ten blurred patterns under noise, and labels of which 40 % are redrawn."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 10
    patterns = np.kron(rng.random((10, 7, 7)), np.ones((side // 7, side // 7)))
    images = 160 * patterns[y] + 95 * rng.random((n, side, side))
    return images[:, None].astype(np.uint8), sym_incl(y, 0.4, random_state=0).y


def one_fit(name, net, X, y):
    """{stage: (seconds of an epoch, counted cost)} of a fit, its first epoch left out."""
    params = {"augment": None} | STAGES.get(name, {})
    clf = getattr(methods, name)(net, random_state=0, **params).fit(X, y)
    seconds = dict(clf.nets_[0].callbacks_)["EpochTimer"].seconds_
    stages = COUNTED.get(name, ONE_STEP)
    of_stage = [range(1, EPOCHS)] if len(stages) == 1 else [range(1, SECOND), range(SECOND, EPOCHS)]
    result = {}
    for (stage, cost, _), epochs in zip(stages, of_stage, strict=True):
        counted = [cost(clf.history_[e], len(y)) if callable(cost) else cost for e in epochs]
        result[stage] = median(seconds[e] for e in epochs), median(counted)
    return result


def compare(case, net, X, y, names, rounds):
    """One row of figures per method and stage."""
    sides = {name: lambda name=name: one_fit(name, net, X, y) for name in names}
    turns = in_turns(sides, rounds)
    plain = [turn[""][0] for turn in turns[BASELINE]]
    rows = []
    for name, fits in turns.items():
        for stage, _, what in COUNTED.get(name, ONE_STEP):
            cost = [fit[stage][0] / base for fit, base in zip(fits, plain, strict=True)]
            counted = median(fit[stage][1] for fit in fits)
            ratio = spread([c / fit[stage][1] for c, fit in zip(cost, fits, strict=True)])
            known = name in COUNTED
            rows.append(
                {"case": case, "method": name.removesuffix("Classifier"), "stage": stage}
                | {"measured": spread(cost), "counted": counted if known else None}
                | {"ratio": ratio, "what": what if known else "nothing: not in the table"}
            )
    return rows


def show(rows):
    titles = ("network", "method and stage", "measured", "counted", "measured / counted")
    print("{:16}{:34}{:>9}{:>9}  {:28}what is counted".format(*titles))
    for row in rows:
        ratio = "{median:5.2f} ({min:.2f} to {max:.2f})".format_map(row["ratio"])
        far = "  " if abs(row["ratio"]["median"] - 1) <= 0.15 else " !"
        counted = "–" if row["counted"] is None else f"{row['counted']:.2f}"
        name = f"{row['method']}, {row['stage']}" if row["stage"] else row["method"]
        measured = f"{row['measured']['median']:.2f}"
        print(f"{row['case']:16}{name:34}{measured:>9}{counted:>9}  {ratio + far:28}{row['what']}")


def main():
    options = parser(__doc__, rounds=5)
    options.add_argument("--nets", nargs="+", choices=NETS, default=[*NETS])
    options.add_argument("--methods", nargs="+", choices=methods.__all__, default=methods.__all__)
    options.add_argument("--rows", type=int, help="images, instead of 4096 and 512")
    options = options.parse_args()
    torch.set_num_threads(1)
    names = [BASELINE, *(name for name in options.methods if name != BASELINE)]
    rows = []
    for case in options.nets:
        module, params, n = NETS[case]
        net = Network(
            module, lr=0.02, max_epochs=EPOCHS, device="cpu", callbacks=[EpochTimer()], **params
        )
        X, y = made_images(options.rows or n)
        rows += compare(case, net, X, y, names, options.rounds)
    head = machine() | {"rounds": options.rounds}
    print("\n".join(f"{key}: {value}" for key, value in head.items()), end="\n\n")
    show(rows)
    if options.json:
        options.json.write_text(json.dumps({"machine": head, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
