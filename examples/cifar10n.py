"""Five ways to train on CIFAR-10 with the labels that people really gave.

CIFAR-10N's "worst" labels are 40 % wrong, and wrong as people are: cats for dogs, trucks for cars.
By default a subset and a small network, so that it ends within ten minutes on two cores; with
``--full`` all 50 000 images and PreActResNet18, for an accelerator.

Data: a folder (``--data``, or the environment variable NOISYFIT_DATA) with CIFAR-10 as
``torchvision.datasets.CIFAR10(root, download=True)`` leaves it, and ``CIFAR-10_human.pt`` of
github.com/UCSC-REAL/cifar-10-100n.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from _contest import contest, figure, table

from noisyfit import (
    CoTeachingClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    MixupClassifier,
    Network,
)
from noisyfit.datasets import load_cifar10, load_cifar10n
from noisyfit.modules import PreActResNet18, SmallCNN
from noisyfit.schedules import Step


def arguments():
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=None, help="folder with the data")
    parser.add_argument("--labels", default="worst", help="worst, aggre, rand1, rand2 or rand3")
    parser.add_argument("--full", action="store_true", help="all images and PreActResNet18")
    parser.add_argument("--images", type=int, default=5000, help="training images of the subset")
    parser.add_argument("--test", type=int, default=2000, help="test images of the subset")
    parser.add_argument("--epochs", type=int, default=None, help="default 15, with --full 100")
    parser.add_argument("--seeds", type=int, default=None, help="default 3, with --full 1")
    parser.add_argument("--jobs", type=int, default=None, help="default 2, with --full 1")
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--methods", nargs="*", help="only these, by the name in the table")
    parser.add_argument("--figure", type=Path, default=Path("cifar10n.png"))
    args = parser.parse_args()
    for name, small, full in (("epochs", 15, 100), ("seeds", 3, 1), ("jobs", 2, 1)):
        if getattr(args, name) is None:
            setattr(args, name, full if args.full else small)
    return args


def make_methods(args):
    """The same network and schedule for all; the published rate and batch with --full."""
    if args.full:
        net = Network(
            PreActResNet18,
            lr=0.02,
            lr_schedule=Step([args.epochs // 2]),
            max_epochs=args.epochs,
            batch_size=128,
            precision=args.precision,
        )
    else:
        net = Network(
            SmallCNN, lr=0.02, max_epochs=args.epochs, precision=args.precision, device="cpu"
        )
    methods = {
        "cross-entropy": CrossEntropyClassifier(net, augment=None),
        "cross-entropy + crops": CrossEntropyClassifier(net),
        "mixup + crops": MixupClassifier(net),
        "Co-teaching + crops": CoTeachingClassifier(net, n_gradual=max(1, args.epochs // 5)),
        "DivideMix": DivideMixClassifier(net),
    }
    return {name: clf for name, clf in methods.items() if not args.methods or name in args.methods}


def main():
    """Run, print the table, save the figure."""
    args = arguments()
    cifar, human = load_cifar10(args.data), load_cifar10n(args.data)
    y_noisy = human[args.labels]

    def problem(seed):
        if args.full:
            return cifar.X_train, human.clean, y_noisy, cifar.X_test, cifar.y_test
        rng = np.random.default_rng(seed)
        train = rng.choice(len(y_noisy), args.images, replace=False)
        test = rng.choice(len(cifar.y_test), args.test, replace=False)
        return (
            cifar.X_train[train],
            human.clean[train],
            y_noisy[train],
            cifar.X_test[test],
            cifar.y_test[test],
        )

    start = time.perf_counter()
    rows, fits = contest(make_methods(args), problem, args.seeds, args.jobs)
    X, y, given, X_test, _ = problem(0)
    print(
        f"CIFAR-10N {args.labels}: {len(X)} training images, {(y != given).mean():.1%} of their "
        f"labels wrong (seed 0), {len(X_test)} test images, {args.epochs} epochs, "
        f"{args.seeds} seeds\n"
    )
    print(table(rows))
    if fits.get("DivideMix") is not None:
        figure(fits, y != given, args.figure)
        print(f"\nfigure in {args.figure}")
    print(f"{time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
