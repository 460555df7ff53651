"""Five ways to train on digits of which 40 % got a random label.

The 1 797 handwritten digits come with scikit-learn. The table shows what each method makes of the
noisy labels and which of them it doubts, over three seeds; the figure shows the losses that
DivideMix divides, and accuracy over the epochs.
"""

import argparse
import time
from pathlib import Path

from _contest import contest, figure, table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from noisyfit import (
    CoTeachingClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    MixupClassifier,
    Network,
)
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl

NET = Network(SmallCNN, lr=0.05, max_epochs=40, batch_size=64, device="cpu")
METHODS = {
    "cross-entropy": CrossEntropyClassifier(NET, augment=None),
    "cross-entropy + shifts": CrossEntropyClassifier(NET),
    "mixup": MixupClassifier(NET, augment=None),
    "Co-teaching": CoTeachingClassifier(NET, augment=None),
    "DivideMix": DivideMixClassifier(NET),
}


def problem(level, seed):
    """Training images, true and noisy labels, test images and labels."""
    digits = load_digits()
    X, X_test, y, y_test = train_test_split(
        digits.images, digits.target, test_size=450, stratify=digits.target, random_state=seed
    )
    return X, y, sym_incl(y, level, random_state=seed).y, X_test, y_test


def main():
    """Run all methods over all seeds, print the table, save the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--noise", type=float, default=0.4, help="share of redrawn labels")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--figure", type=Path, default=Path("digits.png"))
    args = parser.parse_args()

    start = time.perf_counter()
    rows, fits = contest(METHODS, lambda seed: problem(args.noise, seed), args.seeds, args.jobs)
    _, y, y_noisy, _, _ = problem(args.noise, 0)
    wrong = y != y_noisy
    print(
        f"{args.noise:.0%} of {len(y)} training labels redrawn, {wrong.mean():.1%} wrong (seed 0); "
        f"450 test digits, {args.seeds} seeds, mean ± standard deviation\n"
    )
    print(table(rows))
    figure(fits, wrong, args.figure)
    print(f"\nfigure in {args.figure}, {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
