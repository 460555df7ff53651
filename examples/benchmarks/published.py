"""The settings of the papers, by name, and a command that trains one of them.

``published.py --list`` shows the names. Where a paper is silent, its published code is followed.
Images are augmented and scaled as published as far as shifts, mirror images and channel statistics
go; what differs is in the notes. Papers that held out a tenth of the training images for validation
trained on 45 000; here it is all of them, unless the method itself needs a part to choose by, which
then carries noisy labels too. Test labels never enter a fit: they are compared from outside with
what is predicted after an epoch, so that the best epoch is known, and of no use to the training.

Data: a folder (``--data``, or the environment variable NOISYFIT_DATA) with CIFAR-10, CIFAR-100 or
MNIST as torchvision leaves them. For other data build the estimator and fit it yourself:
``SETTINGS["dividemix/clothing1m"].build().fit(ImageFiles(paths, size=224), labels)``.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import _settings_beyond  # noqa: F401 (enters its settings)
import _settings_losses  # noqa: F401 (as well)
import _settings_selection  # noqa: F401 (as well)
import numpy as np
from _settings import SETTINGS, KerasDecay, LowerMomentum
from _timing import at_least, machine
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from noisyfit import datasets, noise
from noisyfit.schedules import CosineRestarts, LinearDecay, Step

EPOCHS_IN = ("warmup", "bootstrap_start", "guided_start", "temperature_epochs", "prune_start")
EPOCHS_IN += ("prune_interval", "relabel_until", "correct_until", "n_gradual", "window")
EPOCHS_IN += ("loss_history", "init_epoch", "pretrain_epochs", "cleaning_epochs")
EPOCHS_IN += ("redivide_every",)
RAMPS_IN = ("ramp", "ramp_up", "strength_ramp", "average_ramp")  # lengths that need not be whole
GENERATORS = ("sym_incl", "sym_incl_bernoulli", "sym_excl", "pair", "idn", "asym_mnist")
GENERATORS += ("asym_cifar10", "asym_cifar100_block5", "asym_cifar100_next")
GENERATORS += ("asym_cifar100_superclass",)
LOADERS = {
    "cifar10": datasets.load_cifar10,
    "cifar100": datasets.load_cifar100,
    "mnist": datasets.load_mnist,
}


class EpochScores:
    """Callback of scikit-learn 1.9: accuracy of the test images in percent after every epoch.

    It looks at the fit from outside and tells it nothing.
    """

    def __init__(self, X, y):
        self.X, self.y, self.accuracy = X, y, []

    def setup(self, estimator, context):
        """Do nothing; scikit-learn asks for it."""

    def teardown(self, estimator, context):
        """Do nothing; scikit-learn asks for it."""

    def on_fit_task_begin(self, estimator, context):
        """Do nothing; scikit-learn asks for it."""

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Score the images when an epoch ends."""
        if context.task_name == "epoch":
            self.accuracy.append(100 * fitted_estimator.score(self.X, self.y))


def in_proportion(n_epochs, share):
    """A number of epochs, at least one; 0 stays."""
    return max(1, round(n_epochs * share)) if n_epochs else 0


def whole_cycles(schedule, epochs, full):
    """(period, epochs) of restarts in fewer epochs: cycles that fall, and none cut short."""
    period = min(epochs, max(2, round(schedule.period * epochs / full)))
    return period, period * max(1, round(epochs / period))


def shortened_schedule(schedule, epochs, full):
    """A learning-rate schedule of `full` epochs for another number of them."""
    share = epochs / full
    if isinstance(schedule, Step):
        drops = [in_proportion(m, share) for m in schedule.milestones]
        return replace(schedule, milestones=drops)
    if isinstance(schedule, LinearDecay):
        return LinearDecay(min(round(schedule.start * share), epochs - 1))
    if isinstance(schedule, CosineRestarts):
        return replace(schedule, period=whole_cycles(schedule, epochs, full)[0])
    if isinstance(schedule, KerasDecay):
        drops = shortened_schedule(schedule.drops, epochs, full)
        return KerasDecay(drops, schedule.per_epoch / share)
    return schedule  # the others know their length


def shortened(clf, epochs, rows=1.0):
    """The estimator with another number of epochs; whatever is counted in them in proportion.

    `rows` is the share of the training rows in use, of which an epoch has fewer steps. Restarts run
    in whole cycles, which may change the number of epochs a little.
    """
    clf = clone(clf)
    full, schedule = clf.net.max_epochs, clf.net.lr_schedule
    cyclic = isinstance(schedule, CosineRestarts)
    total = whole_cycles(schedule, epochs, full)[1] if cyclic else epochs
    share, params = total / full, clf.get_params(deep=False)
    for name in EPOCHS_IN:
        if isinstance(params.get(name), int):
            clf.set_params(**{name: in_proportion(params[name], share)})
    if isinstance(params.get("plain_steps"), int):
        clf.set_params(plain_steps=round(params["plain_steps"] * share * rows))
    if hasattr(params.get("pretrain"), "net"):
        longest = params["pretrain"].net.max_epochs
        clf.set_params(pretrain__net__max_epochs=in_proportion(longest, share))
    by_step = rows if params.get("ramp_unit") == "steps" else 1.0
    for name in RAMPS_IN:
        if isinstance(params.get(name), int | float):
            clf.set_params(**{name: params[name] * share * by_step})
    schedule = shortened_schedule(schedule, epochs, full)
    for callback in clf.net.callbacks or []:
        if isinstance(callback, LowerMomentum):
            callback.start = schedule.start
    return clf.set_params(net__max_epochs=total, net__lr_schedule=schedule)


def problem(setting, options):
    """Images, true and noisy labels, test images and labels, and the share of rows of --rows."""
    if setting.data not in LOADERS:
        raise SystemExit(f"{options.name} has no loader here: build it and fit it yourself.")
    try:
        data = LOADERS[setting.data](options.data)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    rng = np.random.default_rng(options.seed)
    train, test = (rng.permutation(len(y))[: options.rows] for y in (data.y_train, data.y_test))
    X, y = data.X_train[train], data.y_train[train]
    generator, level = setting.noise
    generator = options.noise or generator
    level = level if options.level is None else options.level
    features = (X.astype(np.float32) / 255,) if generator == "idn" else ()
    noisy = getattr(noise, generator)(*features, y, level, random_state=options.seed)
    share = noisy.info["wrong_fraction"]
    print(f"{generator} {level:g}: {share:.1%} of {len(y)} labels are wrong; {len(test)} test rows")
    return X, y, noisy.y, data.X_test[test], data.y_test[test], len(y) / len(data.y_train)


def told(setting, y, rows, seed):
    """What ``fit`` is given of the true labels, where the method learns from some of them."""
    if not setting.n_trusted:
        return {}
    n = max(len(np.unique(y)), round(setting.n_trusted * rows))
    trusted = np.random.default_rng(seed).permutation(len(y)) < n
    return {"trusted": trusted, "clean_labels": y}


def run(setting, options):
    """Train, and print what papers print."""
    clf = setting.build().set_params(random_state=options.seed, verbose=1)
    clf.set_params(net__device=options.device, net__precision=options.precision)
    X, y, y_noisy, X_test, y_test, rows = problem(setting, options)
    epochs = clf.net.max_epochs if options.epochs is None else options.epochs
    clf = shortened(clf, epochs, rows)
    start = time.perf_counter()
    scores = EpochScores(X_test, y_test)
    if hasattr(clf, "set_callbacks"):
        clf.set_callbacks(scores)
    clf.fit(X, y_noisy, **told(setting, y, rows, options.seed))
    accuracy, last = scores.accuracy, 100 * clf.score(X_test, y_test)
    mean = f"{np.mean(accuracy[-10:]):.2f}" if accuracy else "-"
    best = f"{max(accuracy):.2f} (epoch {1 + int(np.argmax(accuracy))})" if accuracy else "-"
    right = y == y_noisy
    print(f"last epoch {last:.2f}, mean of the last ten {mean}")
    print(f"best epoch {best}")
    if not right.all():
        print(f"AUROC of clean_proba_ {roc_auc_score(right, clf.clean_proba_):.4f}")
    print(f"refined labels {100 * np.mean(clf.refined_labels_ == y):.2f}, given {right.mean():.2%}")
    print(f"{time.perf_counter() - start:.0f} s, {machine()}")
    return clf


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("name", nargs="?", choices=SETTINGS, metavar="NAME")
    parser.add_argument("--list", action="store_true", help="names, noise and notes")
    parser.add_argument("--noise", choices=GENERATORS, help="a generator instead of the setting's")
    parser.add_argument("--level", type=float, help="its level")
    parser.add_argument("--epochs", type=at_least(1), help="fewer; stages shrink in proportion")
    parser.add_argument("--rows", type=at_least(1), help="only so many training and test images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--data", type=Path, help="folder with the data")
    options = parser.parse_args(argv)
    if options.list or options.name is None:
        for name, setting in SETTINGS.items():
            kind = "" if setting.noise is None else f"{setting.noise[0]} {setting.noise[1]:g}"
            print(f"{name:36}{kind:26}{setting.note}".rstrip())
        return None
    return run(SETTINGS[options.name], options)


if __name__ == "__main__":
    main()
