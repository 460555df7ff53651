"""The settings of the papers, by name, and a command that trains one of them.

``published.py --list`` shows the names. Where a paper is silent, its published code is followed.
Images are augmented and scaled as published as far as shifts, mirror images and channel statistics
go; what differs is in the notes. Papers that held out a tenth of the training images for validation
trained on 45 000, here it is always all of them.

Data: a folder (``--data``, or the environment variable NOISYFIT_DATA) with CIFAR-10, CIFAR-100 or
MNIST as torchvision leaves them. For other data build the estimator and fit it yourself:
``SETTINGS["dividemix/clothing1m"].build().fit(ImageFiles(paths, size=224), labels)``.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import _settings_losses  # noqa: F401 (enters its settings)
import numpy as np
from _settings import SETTINGS
from _timing import machine
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from noisyfit import datasets, noise
from noisyfit.schedules import LinearDecay, Step

EPOCHS_IN = ("warmup", "bootstrap_start", "guided_start", "temperature_epochs", "prune_start")
EPOCHS_IN += ("prune_interval", "relabel_until", "correct_until", "n_gradual")
LOADERS = {
    "cifar10": datasets.load_cifar10,
    "cifar100": datasets.load_cifar100,
    "mnist": datasets.load_mnist,
}


def shortened(clf, epochs):
    """The estimator with another number of epochs; stages and drops of the rate in proportion."""
    clf, share = clone(clf), epochs / clf.net.max_epochs
    for name in EPOCHS_IN:
        value = clf.get_params().get(name)
        if isinstance(value, int) and value > 0:
            clf.set_params(**{name: max(1, round(value * share))})
    schedule = clf.net.lr_schedule
    if isinstance(schedule, Step):
        drops = [max(1, round(m * share)) for m in schedule.milestones]
        schedule = replace(schedule, milestones=drops)
    elif isinstance(schedule, LinearDecay):
        schedule = LinearDecay(min(round(schedule.start * share), epochs - 1))
    return clf.set_params(net__max_epochs=epochs, net__lr_schedule=schedule)


def problem(setting, options):
    """Images, true and noisy labels, test images and labels; a random part of them with --rows."""
    if setting.data not in LOADERS:
        raise SystemExit(f"{options.name} has no loader here: build it and fit it yourself.")
    data, rng = LOADERS[setting.data](options.data), np.random.default_rng(options.seed)
    train, test = (rng.permutation(len(y))[: options.rows] for y in (data.y_train, data.y_test))
    X, y = data.X_train[train], data.y_train[train]
    generator, level = setting.noise
    generator = options.noise or generator
    level = level if options.level is None else options.level
    features = (X.astype(np.float32) / 255,) if generator == "idn" else ()
    noisy = getattr(noise, generator)(*features, y, level, random_state=options.seed)
    share = noisy.info["wrong_fraction"]
    print(f"{generator} {level:g}: {share:.1%} of {len(y)} labels are wrong; {len(test)} test rows")
    return X, y, noisy.y, data.X_test[test], data.y_test[test]


def run(setting, options):
    """Train, and print what papers print."""
    clf = setting.build().set_params(random_state=options.seed, verbose=1)
    clf.set_params(net__device=options.device, net__precision=options.precision)
    if options.epochs is not None:
        clf = shortened(clf, options.epochs)
    X, y, y_noisy, X_test, y_test = problem(setting, options)
    start = time.perf_counter()
    clf.fit(X, y_noisy, X_val=X_test, y_val=y_test)
    accuracy = [100 * row["valid_acc"] for row in clf.history_]
    right = y == y_noisy
    print(f"last epoch {accuracy[-1]:.2f}, mean of the last ten {np.mean(accuracy[-10:]):.2f}")
    print(f"best epoch {max(accuracy):.2f} (epoch {1 + int(np.argmax(accuracy))})")
    if not right.all():
        print(f"AUROC of clean_proba_ {roc_auc_score(right, clf.clean_proba_):.4f}")
    print(f"refined labels {100 * np.mean(clf.refined_labels_ == y):.2f}, given {right.mean():.2%}")
    print(f"{time.perf_counter() - start:.0f} s, {machine()}")
    return clf


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="?", choices=SETTINGS, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="names, noise and notes")
    parser.add_argument("--noise", help="a generator of noisyfit.noise instead of the setting's")
    parser.add_argument("--level", type=float, help="its level")
    parser.add_argument("--epochs", type=int, help="fewer; stages shrink in proportion")
    parser.add_argument("--rows", type=int, help="only so many training and test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--data", type=Path, help="folder with the data")
    options = parser.parse_args(argv)
    if options.list or options.name is None:
        for name, setting in SETTINGS.items():
            kind = "" if setting.noise is None else f"{setting.noise[0]} {setting.noise[1]:g}"
            print(f"{name:34}{kind:26}{setting.note}".rstrip())
        return
    run(SETTINGS[options.name], options)


if __name__ == "__main__":
    main()
