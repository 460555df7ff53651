"""How many epochs ELR needs, and how many when its targets know how steady a prediction was.

ELR and its moment-refined form train the same network on digits of which 40 or 60 % got a random
label, under a schedule that restarts again and again. A network is worth taking at the end of a
cycle only, so accuracy is read there: in the first table at all of them, in the second until a
method reaches the best that ELR ever has (chosen on test data, to compare and not to train).
"""

import argparse
import time

import numpy as np
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from noisyfit import ELRClassifier, MomentELRClassifier, Network
from noisyfit.noise import sym_incl
from noisyfit.schedules import CosineRestarts

METHODS = {
    "ELR": ELRClassifier(),
    "moment-refined ELR": MomentELRClassifier(),
    "the same, full mass": MomentELRClassifier(elr_mass=False),
}


def accuracies(method, level, seed, period, n_epochs):
    """Test accuracy in percent at the end of each cycle."""
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X, y, test_size=500, stratify=y, random_state=seed)
    net = Network(
        max_epochs=n_epochs,
        lr=0.05,
        lr_schedule=CosineRestarts(period, final=0.02),
        optimizer__weight_decay=1e-3,
        device="cpu",
    )
    noisy = sym_incl(y, level, random_state=seed).y
    clf = clone(method).set_params(net=net, random_state=seed)
    clf.fit(X, noisy, X_val=X_test, y_val=y_test)
    return 100 * np.array([row["valid_acc"] for row in clf.history_][period - 1 :: period])


def epochs_to(goal, curve, ends):
    """Epochs until the end of the first cycle that reaches `goal`; infinity if none does."""
    reached = np.flatnonzero(curve >= goal)
    return ends[reached[0]] if len(reached) else np.inf


def main():
    """Fit all methods over all levels and seeds and print the two tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--noise", type=float, nargs="+", default=[0.4, 0.6])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--period", type=int, default=10, help="epochs from restart to restart")
    parser.add_argument("--epochs", type=int, default=100)
    args = parser.parse_args()

    torch.set_num_threads(1)
    start = time.perf_counter()
    curves = {
        (level, name): np.array(
            [accuracies(method, level, s, args.period, args.epochs) for s in range(args.seeds)]
        )
        for level in args.noise
        for name, method in METHODS.items()
    }  # each (n_seeds, n_cycles)

    ends = np.arange(args.period, args.epochs + 1, args.period)
    print(f"Test accuracy at the end of each cycle, mean of {args.seeds} seeds\n")
    print("| redrawn | method | " + " | ".join(f"epoch {e}" for e in ends) + " |")
    print("|---" * (len(ends) + 2) + "|")
    for (level, name), curve in curves.items():
        cells = " | ".join(f"{a:.1f}" for a in curve.mean(0))
        print(f"| {level:.0%} | {name} | {cells} |")

    print("\nEpochs to reach ELR's best accuracy, by seed\n")
    print("| redrawn | goal (mean) | " + " | ".join(METHODS) + " |")
    print("|---" * (len(METHODS) + 2) + "|")
    for level in args.noise:
        goals = curves[level, "ELR"].max(1)
        cells = [
            ", ".join(
                f"{epochs_to(goal, curve, ends):g}"
                for goal, curve in zip(goals, curves[level, name], strict=True)
            )
            for name in METHODS
        ]
        print(f"| {level:.0%} | {goals.mean():.1f} | " + " | ".join(cells) + " |")
    print(f"\n{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
