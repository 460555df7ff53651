"""What `reproduce.py` can run: methods and data with a published setting, noises, tables."""

from typing import NamedTuple

from published import LOADERS, SETTINGS

NOISES = {
    "sym-20": ("sym_incl", 0.2, "symmetric, 20 % redrawn"),
    "sym-50": ("sym_incl", 0.5, "symmetric, 50 % redrawn"),
    "sym-80": ("sym_incl", 0.8, "symmetric, 80 % redrawn"),
    "sym-90": ("sym_incl", 0.9, "symmetric, 90 % redrawn"),
    "excl-20": ("sym_excl", 0.2, "symmetric, 20 % wrong"),
    "excl-50": ("sym_excl", 0.5, "symmetric, 50 % wrong"),
    "pair-45": ("pair", 0.45, "pair, 45 %"),
    "asym-40": ("asym_cifar10", 0.4, "asymmetric, 40 %"),
    "aggre": ("human", None, 'human labels ("aggre")'),
    "rand1": ("human", None, 'human labels ("rand1")'),
    "worst": ("human", None, 'human labels ("worst")'),
}
ONLY_CIFAR10 = {"asym-40", "aggre", "rand1", "worst"}
LEVELS = ("sym-50", "sym-80")
REDUCED_TABLE = {
    "dividemix": ("sym-20", "sym-50", "sym-80", "sym-90", "asym-40", "worst", "aggre"),
    "elr_plus": ("worst", "aggre"),
    "m_correction": LEVELS,
    "co_teaching": LEVELS,
    "elr": LEVELS,
    "mixup": LEVELS,
    "cross_entropy": LEVELS,
}
TABLES = {
    "reduced": REDUCED_TABLE,
    "full": REDUCED_TABLE | {"co_teaching": (*LEVELS, "excl-50")},  # the noise of its paper
}
# where the nearest noise does not decide
CHOSEN = {"m_correction/cifar10": "m_correction/cifar10-m-dyr-h"}
CHOSEN_FOR_PEOPLE = {  # no unlabelled loss for DivideMix; beta 0.7 and lambda 3 for ELR
    "dividemix/cifar10": "dividemix/cifar10-sym20",
    "elr/cifar10": "elr/cifar10-sym",
    "elr_plus/cifar10": "elr_plus/cifar10-sym",
}


class Task(NamedTuple):
    """One run. No images or epochs: all of them."""

    method: str
    data: str
    noise: str
    seed: int
    images: int | None = None
    network: str = "published"
    epochs: int | None = None

    @property
    def size(self):
        """``full``, or what is smaller."""
        if self[4:] == (None, "published", None):
            return "full"
        return f"{self.images or 'all'}-{self.network}-{self.epochs or 'all'}"

    @property
    def name(self):
        """Of its files."""
        return f"{self.method}-{self.data}-{self.noise}-{self.size}-seed{self.seed}"


def candidates(method, data):
    """Settings of a method for a data set, by name."""
    return {
        name: setting
        for name, setting in SETTINGS.items()
        if name.split("/")[0] == method and setting.data == data
    }


def setting_of(task):
    """Name of the setting of a task, that of the nearest noise; SystemExit if there is none."""
    if task.data not in LOADERS:
        raise SystemExit(f"No data set {task.data!r} here, only {', '.join(LOADERS)}.")
    known = candidates(task.method, task.data)
    if not known:
        methods = sorted({n.split("/")[0] for n, s in SETTINGS.items() if s.data == task.data})
        raise SystemExit(
            f"No setting of {task.method!r} was published for {task.data}, only of "
            f"{', '.join(methods)}."
        )
    if task.noise not in NOISES or (task.noise in ONLY_CIFAR10 and task.data != "cifar10"):
        choice = [n for n in NOISES if n not in ONLY_CIFAR10 or task.data == "cifar10"]
        raise SystemExit(f"No noise {task.noise!r} for {task.data}, only {', '.join(choice)}.")
    kind, level, _ = NOISES[task.noise]
    key = f"{task.method}/{task.data}"
    if kind == "human" and key in CHOSEN_FOR_PEOPLE:
        return CHOSEN_FOR_PEOPLE[key]
    if key in CHOSEN:
        return CHOSEN[key]

    def distance(name):
        other, other_level = known[name].noise
        symmetric = [k.startswith("sym") for k in (kind, other)]
        return symmetric[0] != symmetric[1], kind != other, abs((level or 0.4) - other_level)

    return min(known, key=distance)


def show():
    """Print what can be run."""
    print("METHOD and DATA:")
    for data in LOADERS:
        methods = sorted({n.split("/")[0] for n, s in SETTINGS.items() if s.data == data})
        print(f"  {data}: {' '.join(methods)}")
    print("NOISE:")
    for name, (_, _, title) in NOISES.items():
        print(f"  {name:10}{title}{', CIFAR-10 alone' if name in ONLY_CIFAR10 else ''}")
    print("Runs of the tables, and their settings:")
    for method, noises in TABLES["full"].items():
        for name in noises:
            cell = f"{method} cifar10 {name}"
            print(f"  {cell:34}{setting_of(Task(method, 'cifar10', name, 0))}")
