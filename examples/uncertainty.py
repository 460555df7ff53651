"""Wrong labels among digits, and images that are no digit at all.

DivideMix can only call a label wrong; its Bayesian form says how unsure it is of an image, and its
manifold form how unlike all others an image is. The figure shows which of the three tells wrong
labels, and which tells images that belong to no class, from the rest.

The 1 797 handwritten digits come with scikit-learn. Of the training images 40 % are noisy: half of
these got the label of another digit, the others were replaced by two different digits written over
each other. Recording uncertainty needs scikit-learn 1.9.
"""

import argparse
import time
from pathlib import Path

import joblib
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from noisyfit import (
    BayesianDivideMixPP,
    DivideMixClassifier,
    ManifoldDivideMixClassifier,
    Network,
    SimCLR,
)
from noisyfit.modules import SmallCNN
from noisyfit.noise import open_set
from noisyfit.plots import (
    DetectionRocDisplay,
    LossHistogramDisplay,
    UncertaintyDisplay,
    UncertaintyRecorder,
)
from noisyfit.schedules import Cosine

OPEN = "out of distribution"


def problem(noise, open_share, seed):
    """Training images, given labels and kinds of these samples; test images and labels."""
    digits = load_digits()
    X, X_test, y, y_test = train_test_split(
        digits.images / 16, digits.target, test_size=450, stratify=digits.target, random_state=seed
    )
    rng = np.random.default_rng(seed)
    one, other = rng.permutation(len(X)), rng.permutation(len(X))
    differ = y[one] != y[other]
    blends = np.maximum(X[one], X[other])[differ]
    noisy = open_set(X, y, noise, open_share, blends, closed="sym_excl", random_state=seed)
    kinds = np.select([noisy.mask_open, noisy.mask_closed], [OPEN, "wrong label"], "clean")
    return (noisy.X, noisy.y, kinds), (X_test, y_test)


def methods(encoder, epochs, seed):
    """The three methods; two of them start from what was learnt without labels."""
    net = Network(SmallCNN, lr=0.05, max_epochs=epochs, batch_size=64, device="cpu")
    return {
        "DivideMix": DivideMixClassifier(net, random_state=seed),
        "Bayesian DivideMix++": BayesianDivideMixPP(net, pretrain=encoder, random_state=seed),
        # the short pre-training is no reason to keep the encoder nearly as it is
        "Manifold DivideMix": ManifoldDivideMixClassifier(
            net, pretrain=encoder, backbone_lr=1.0, random_state=seed
        ),
    }


def fit(clf, X, y, kinds):
    """The fitted method, the record of its uncertainty (None without) and CPU seconds."""
    torch.set_num_threads(1)
    begin, recorder = time.process_time(), None
    if hasattr(clf, "predict_uncertainty"):
        recorder = UncertaintyRecorder(kinds)
        clf.set_callbacks(recorder)
    return clf.fit(X, y), recorder, time.process_time() - begin


def figure(fits, recorder, kinds, path):
    """Losses of two methods, uncertainty over the epochs, and what is found."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(2, 2, figsize=(11, 8.5), layout="constrained")
    divided = {"DivideMix": axes[0, 0], "Bayesian DivideMix++": axes[0, 1]}
    for name, ax in divided.items():
        LossHistogramDisplay.from_estimator(fits[name], wrong=kinds, ax=ax)
        ax.set_title(f"What {name} divides")
    UncertaintyDisplay.from_recorder(recorder, ax=axes[1, 0])
    axes[1, 0].set_title("How unsure Bayesian DivideMix++ is")
    draw = DetectionRocDisplay.from_estimator
    short = {name.split()[0]: clf for name, clf in fits.items()}
    draw({f"{name}: wrong": clf for name, clf in short.items()}, kinds, ax=axes[1, 1])
    del short["DivideMix"]  # which has no word for images that are no digit
    strange = {f"{name}: no digit": clf for name, clf in short.items()}
    draw(strange, kinds, find=OPEN, ax=axes[1, 1])
    axes[1, 1].set_title("Wrong labels, and images of no digit, found by each")
    plt.savefig(path, dpi=100)
    plt.close()


def areas(clf, kinds):
    """AUROC of wrong labels (images of no digit among them), and of images of no digit."""
    yield roc_auc_score(kinds != "clean", 1 - clf.clean_proba_)
    if hasattr(clf, "ood_score_"):
        yield roc_auc_score(kinds == OPEN, -clf.ood_score_)
    elif hasattr(clf, "uncertainty_"):
        yield roc_auc_score(kinds == OPEN, clf.uncertainty_)
    else:
        yield np.nan


def table(fits, seconds, kinds, test):
    """Markdown table: test accuracy, both kinds of detection, time."""
    columns = ("test accuracy", "AUROC, wrong labels", "AUROC, no digit", "CPU seconds")
    lines = ["| method | " + " | ".join(columns) + " |", "|---" * 5 + "|"]
    for name, clf in fits.items():
        of_wrong, of_open = areas(clf, kinds)
        cells = [
            f"{100 * clf.score(*test):.1f}",
            f"{of_wrong:.3f}",
            "" if np.isnan(of_open) else f"{of_open:.3f}",
            f"{seconds[name]:.0f}",
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    """Learn an encoder without labels, fit the methods, draw the figure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--noise", type=float, default=0.4, help="share of noisy images")
    parser.add_argument("--open", type=float, default=0.5, help="share of these of no class")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--pretraining-epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--figure", type=Path, default=Path("uncertainty.png"))
    args = parser.parse_args()

    start = time.perf_counter()
    (X, y, kinds), test = problem(args.noise, args.open, args.seed)
    net = Network(
        SmallCNN,
        lr=0.1,
        lr_schedule=Cosine(1e-3, warmup=3),
        max_epochs=args.pretraining_epochs,
        batch_size=128,
        device="cpu",
    )
    encoder = SimCLR(net, random_state=args.seed).fit(X).encoder_
    todo = methods(encoder, args.epochs, args.seed)
    done = joblib.Parallel(n_jobs=args.jobs)(
        joblib.delayed(fit)(clf, X, y, kinds) for clf in todo.values()
    )
    fits = {name: clf for name, (clf, _, _) in zip(todo, done, strict=True)}
    seconds = {name: spent for name, (_, _, spent) in zip(todo, done, strict=True)}
    (recorder,) = (record for _, record, _ in done if record is not None)
    figure(fits, recorder, kinds, args.figure)
    counts = ", ".join(f"{np.sum(kinds == kind)} {kind}" for kind in np.unique(kinds))
    print(f"{len(y)} training images: {counts}; {len(test[1])} test digits, seed {args.seed}\n")
    print(table(fits, seconds, kinds, test))
    print(f"\nfigure in {args.figure}, {time.perf_counter() - start:.0f} s in all")


if __name__ == "__main__":
    main()
