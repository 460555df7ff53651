"""Ninety per cent of the labels drawn anew: does a method fall into one class, and does it say so?

Digits as rows, and as images whose networks start from one SimCLR encoder a seed, 40 epochs,
twenty seeds. A fit has collapsed where it predicts one class for more than half of the test set.
Prints Markdown.
"""

import argparse
import warnings

import joblib
import numpy as np
import torch
from _results import cell, markdown
from all_methods import PROBLEMS, digits

from noisyfit import Network, SimCLR, methods
from noisyfit.augment import SimCLRView
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl

METHODS = (
    "CrossEntropyClassifier",
    "DivideMixClassifier",
    "BayesianDivideMixPP",
    "ManifoldDivideMixClassifier",
)
FORMS = ("rows", "images")


def some_fits(form, seed, names, level, epochs):
    """{name: (accuracy, share of the class predicted most, whether a division was warned of)}."""
    torch.set_num_threads(1)
    X, y, X_test, y_test = digits(seed)
    y_noisy = sym_incl(y, level, random_state=seed).y
    if form == "rows":
        X, X_test = (images.reshape(len(images), -1) for images in (X, X_test))
        net, start = Network(max_epochs=epochs, device="cpu"), None
    else:
        lr = PROBLEMS["fast"].lr
        net = Network(SmallCNN, lr=lr, max_epochs=epochs, batch_size=64, device="cpu")
        view = SimCLRView(flip=False)
        start = SimCLR(net.set_params(lr=0.1, batch_size=128), view=view, random_state=seed)
        start = start.fit(X).encoder_
        net.set_params(lr=lr, batch_size=64)
    results = {}
    for name in names:
        clf = getattr(methods, name)(net, pretrain=start, random_state=seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            clf.fit(X, y_noisy)
        predicted = clf.predict(X_test)
        largest = np.unique(predicted, return_counts=True)[1].max() / len(predicted)
        warned = any("degenerate" in str(warning.message) for warning in caught)
        results[name] = 100 * np.mean(predicted == y_test), 100 * largest, warned
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--level", type=float, default=0.9, help="share of labels drawn anew")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=FORMS)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS, metavar="NAME")
    parser.add_argument("--workers", type=int, default=joblib.cpu_count())
    args = parser.parse_args()
    lines = []
    for form in args.forms:
        jobs = [
            joblib.delayed(some_fits)(form, seed, args.methods, args.level, args.epochs)
            for seed in range(args.seeds)
        ]
        fits = joblib.Parallel(args.workers)(jobs)
        for name in args.methods:
            accuracy, largest, warned = zip(*(of_seed[name] for of_seed in fits), strict=True)
            lines.append(
                [
                    f"`{name}`",
                    form,
                    cell(accuracy, 1),
                    f"{min(accuracy):.1f}",
                    f"{max(largest):.0f}",
                    str(sum(share > 50 for share in largest)),
                    str(sum(warned)),
                ]
            )
    header = ["method", "digits as", "accuracy", "lowest", "largest share of a predicted class"]
    print(markdown([*header, f"collapsed of {args.seeds}", "warned of a division"], lines))


if __name__ == "__main__":
    main()
