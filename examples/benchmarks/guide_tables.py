"""The small tables of the guide: digits as rows and as images, tiny tables, two columns.

Every fit has default settings but for what its column or the table's title names; a cell is a mean
over the seeds. Prints Markdown.
"""

import argparse
from typing import NamedTuple

import joblib
import numpy as np
import torch
from sklearn.datasets import load_digits, load_iris, make_circles, make_moons
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from noisyfit import (
    CoTeachingClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    MixupClassifier,
    Network,
)
from noisyfit.modules import SmallCNN
from noisyfit.noise import pair, sym_excl

FOUR = {
    "plain": (CrossEntropyClassifier, {}),
    "mixup": (MixupClassifier, {}),
    "Co-teaching": (CoTeachingClassifier, {}),
    "DivideMix": (DivideMixClassifier, {}),
}
NOISES = {
    "no wrong label": lambda y, seed: y,
    "20 % symmetric": lambda y, seed: sym_excl(y, 0.2, random_state=seed).y,
    "40 % symmetric": lambda y, seed: sym_excl(y, 0.4, random_state=seed).y,
    "40 % pair flips": lambda y, seed: pair(y, 0.4, random_state=seed).y,
}


def digits(seed, images=False):
    data = load_digits()
    X = data.images if images else data.data
    return train_test_split(X, data.target, test_size=450, stratify=data.target, random_state=seed)


def thirty_flowers(seed):
    X, y = load_iris(return_X_y=True)
    return train_test_split(X, y, train_size=30, stratify=y, random_state=seed)


def of_two_columns(make, noise):
    def problem(seed):
        X, y = make(2300, noise=noise, random_state=seed)
        return X[:300], X[300:], y[:300], y[300:]

    return problem


class Table(NamedTuple):
    """A problem, the noises of its lines, the methods of its columns, what a cell shows."""

    problem: object
    noises: list
    seeds: int
    shows: list = ["last"]
    methods: dict = FOUR
    net: object = None


IMAGE_NET = Network(SmallCNN, max_epochs=40, device="cpu")
SMALL = ["no wrong label", "20 % symmetric", "40 % symmetric"]
LARGER = ["no wrong label", "40 % symmetric", "40 % pair flips"]
TABLES = {
    "digits": Table(digits, LARGER, 3, ["noise_rate", "auroc", "last (best)"]),
    "images": Table(
        lambda seed: digits(seed, images=True),
        LARGER,
        3,
        ["last (best)"],
        {"plain, no shifts": (CrossEntropyClassifier, {"augment": None})} | FOUR,
        IMAGE_NET,
    ),
    "iris": Table(thirty_flowers, SMALL, 10),
    "iris, batch_size=8": Table(
        thirty_flowers, SMALL[:1], 10, net=Network(batch_size=8, device="cpu")
    ),
    "moons": Table(of_two_columns(make_moons, 0.25), SMALL, 8),
    "circles": Table(of_two_columns(make_circles, 0.1), SMALL, 8),
}


def one_fit(table, kind, method, seed):
    torch.set_num_threads(1)
    X, X_test, y, y_test = table.problem(seed)
    y_noisy = NOISES[kind](y, seed)
    cls, params = table.methods[method]
    clf = cls(table.net, random_state=seed, **params)
    clf.fit(X, y_noisy, X_val=X_test, y_val=y_test)
    accuracy = [100 * row["valid_acc"] for row in clf.history_]
    wrong = y_noisy != y
    return {
        "last": accuracy[-1],
        "best": max(accuracy),
        "noise_rate": clf.noise_rate_,
        "auroc": roc_auc_score(~wrong, clf.clean_proba_) if wrong.any() else np.nan,
    }


def cell(fits, shows):
    mean = {key: np.mean([fit[key] for fit in fits]) for key in fits[0]}
    if shows == "last (best)":
        return f"{mean['last']:.1f} ({mean['best']:.1f})"
    return f"{mean[shows]:.{1 if shows == 'last' else 2}f}"


def lines(table, workers):
    """Rows of Markdown, one for each noise and shown figure."""
    todo = [(k, m, s) for k in table.noises for m in table.methods for s in range(table.seeds)]
    done = joblib.Parallel(workers)(joblib.delayed(one_fit)(table, *fit) for fit in todo)
    fits = dict(zip(todo, done, strict=True))
    yield f"| | {' | '.join(table.methods)} |"
    yield "|---" * (1 + len(table.methods)) + "|"
    for shows in table.shows:
        for kind in table.noises:
            cells = [
                cell([fits[kind, m, s] for s in range(table.seeds)], shows) for m in table.methods
            ]
            yield f"| {shows}, {kind} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("tables", nargs="*", metavar="NAME", help=f"of {', '.join(TABLES)}")
    parser.add_argument("--workers", type=int, default=joblib.cpu_count())
    args = parser.parse_args()
    for name in args.tables or TABLES:
        print(f"\n{name}, mean of {TABLES[name].seeds} seeds\n")
        print("\n".join(lines(TABLES[name], args.workers)), flush=True)


if __name__ == "__main__":
    main()
