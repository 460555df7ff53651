"""Published settings run by name, and the page of what came out: docs/results.md.

``reproduce.py dividemix cifar10 sym-50`` trains the published network on all images, best on an
accelerator; ``--reduced`` takes 5 000 images, the small network and fewer epochs, which a CPU can
do. A noise that a method has no setting for takes the nearest one, and the result says which.
``--list`` shows what there is.

A run that is stopped, whatever the way, goes on at the last epoch when the command is given again,
and ends as if nothing had happened. Its progress is in ``--work``; at the end it becomes one file
of JSON in ``--folder``. ``--table full`` or ``--table reduced`` makes all runs of a table that have
none yet; ``--page`` writes the page from these files alone.

Data: see `noisyfit.datasets`; their folder is ``--data`` or NOISYFIT_DATA.
"""

import argparse
import json
import signal
import sys
from pathlib import Path

import _reproduced as files
import joblib
import numpy as np
import torch
from _results import percent
from _runs import NOISES, TABLES, Task, setting_of, show
from _timing import at_least, machine, page_file
from published import LOADERS, SETTINGS, EpochScores, shortened, told
from sklearn.metrics import roc_auc_score

from noisyfit import BaseNoisyClassifier, Network, __version__, datasets, fit_resumable, noise
from noisyfit._network import resolve_device, training_dtype
from noisyfit.modules import SmallCNN

ROOT = Path(__file__).parents[2]
TEST_IMAGES = 2000  # of a run on a part of the images
SMALL_LR = 0.02  # the most for the small network: a layer without batch norm dies of 0.1
REDUCED = {"images": 5000, "network": "small", "epochs": 45}


def problem(task, folder):
    """Images, true and given labels, test images and labels; SystemExit where files are missing."""
    kind, level, _ = NOISES[task.noise]
    try:
        data = LOADERS[task.data](folder)
        human = datasets.load_cifar10n(folder)[task.noise] if kind == "human" else None
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(str(error)) from error
    n_all, rng = len(data.y_train), np.random.default_rng(task.seed)
    if task.images is not None and task.images > n_all:
        raise SystemExit(f"{task.data} has {n_all} training images, fewer than {task.images}.")
    train = rng.permutation(n_all)[: task.images]
    test = rng.permutation(len(data.y_test))[: TEST_IMAGES if task.images else None]
    y = data.y_train[train]
    if kind == "human":
        given = human[train]
    else:
        given = getattr(noise, kind)(y, level, random_state=task.seed).y
    return data.X_train[train], y, given, data.X_test[test], data.y_test[test], len(y) / n_all


def small(net):
    """A published network with `SmallCNN` as its module."""
    params = net.get_params(deep=False)
    params = {name: value for name, value in params.items() if not name.startswith("module")}
    return Network(SmallCNN, **params)


def estimator(task, share, wrong, options):
    """The setting of a task, unfitted, and what differs from it by name.

    `share` of the rows are in use, `wrong` is the share of wrong labels.
    """
    setting = SETTINGS[setting_of(task)]
    clf, changes = setting.build(), {}
    if task.network == "small":
        clf.set_params(net=small(clf.net))
        if clf.net.lr > SMALL_LR:
            changes["net__lr"] = SMALL_LR
    clf = shortened(clf, task.epochs or clf.net.max_epochs, share)
    is_told = isinstance(setting.params.get("noise_rate"), float)
    if is_told and setting.noise != NOISES[task.noise][:2]:
        changes["noise_rate"] = round(float(wrong), 4)
    clf.set_params(random_state=task.seed, verbose=options.verbose, **changes)
    return clf.set_params(net__device=options.device, net__precision=options.precision), changes


class KeptScores(EpochScores):
    """Accuracies by epoch that outlive an interruption, in a file."""

    def __init__(self, X, y, path):
        super().__init__(X, y)
        self.path = path
        self.before = json.loads(path.read_text()) if path.exists() else []

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        """Score an epoch and write it down; epochs that are run again are replaced."""
        if context.task_name != "epoch":
            return
        super().on_fit_task_end(estimator, context, fitted_estimator=fitted_estimator)
        past = len(fitted_estimator.nets_[0].history) - 1
        if len(self.before) < past:
            raise SystemExit(f"{self.path} lacks epochs that were run; remove the .fit beside it.")
        self.before = [*self.before[:past], self.accuracy[-1]]
        files.write(self.path, self.before)


def run(task, options):
    """Train, and write the result; a fit in progress is taken up."""
    if not hasattr(BaseNoisyClassifier, "set_callbacks"):
        raise SystemExit("The scores of each epoch need scikit-learn 1.9 or newer.")
    if options.device == "cpu" and task.images:
        torch.set_num_threads(1)
    X, y, given, X_test, y_test, share = problem(task, options.data)
    right = y == given
    clf, changes = estimator(task, share, np.mean(~right), options)
    device = resolve_device(clf.net.device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    options.work.mkdir(parents=True, exist_ok=True)
    progress, path = (options.work / f"{task.name}.{end}" for end in ("fit", "scores"))
    scores = KeptScores(X_test, y_test, path)
    clf.set_callbacks(scores)
    try:
        extra = told(SETTINGS[setting_of(task)], y, share, task.seed)
        fit_resumable(clf, X, given, path=progress, every=options.every, **extra)
    except ValueError as error:
        if str(progress) not in str(error):
            raise
        raise SystemExit(str(error)) from error  # the file is of another fit
    accuracy = scores.before
    both = right.any() and not right.all()
    on_gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None
    figures = {
        "format": files.FORMAT,
        **{name: getattr(task, name) for name in ("method", "data", "noise", "size", "seed")},
        "setting": setting_of(task),
        "setting_noise": list(SETTINGS[setting_of(task)].noise),
        "changes": changes,
        "generator": list(NOISES[task.noise][:2]),
        "images": len(y),
        "test_images": len(y_test),
        "network": clf.net.module.__name__,
        "epochs": len(clf.history_),
        "batch_size": clf.net.batch_size,
        "wrong": percent(np.mean(~right)),
        "accuracy": [round(value, 3) for value in accuracy],
        "last": percent(clf.score(X_test, y_test)),
        "last_ten": round(float(np.mean(accuracy[-10:])), 3),
        "best": round(max(accuracy), 3),
        "best_epoch": 1 + int(np.argmax(accuracy)),
        "auroc": round(float(roc_auc_score(right, clf.clean_proba_)), 5) if both else None,
        "refined": percent(np.mean(clf.refined_labels_ == y)),
        "seconds": round(sum(row["seconds"] for row in clf.history_), 2),
        "seconds_are": "training epochs of all sessions, on a clock, without scores and files",
        "peak_memory_mib": None if peak is None else round(peak, 1),
        "device": torch.cuda.get_device_name(device) if on_gpu else device.type,
        "precision": "float32" if training_dtype(clf.net, device) is None else "bfloat16",
        "machine": machine() | {"noisyfit": __version__},
    }
    options.folder.mkdir(parents=True, exist_ok=True)
    files.write(options.folder / f"{task.name}.json", figures)
    path.unlink()
    return figures


def one_of_many(task, options):
    """Run a task of a table, and say how it went: what fails leaves the others alone."""
    try:
        figures = run(task, options)
    except (Exception, SystemExit) as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str):
            raise  # a signal, and no sentence of `run`
        return False, f"{task.name}: {type(error).__name__}: {error}"
    end = f"{figures['last_ten']:.2f} %, {figures['seconds']:.0f} s"
    return True, f"{task.name}: {end}"


def tasks_of(options):
    """What was asked for, the first seed of everything first."""
    size = options.images, options.network, options.epochs
    cells = [(options.method, options.data_name, options.noise)]
    if options.table:
        table = TABLES[options.table].items()
        cells = [(method, "cifar10", noise) for method, noises in table for noise in noises]
    return [Task(*cell, seed, *size) for seed in options.seeds for cell in cells]


def to_do(tasks, options):
    """Tasks without a result; SystemExit where one is there that must not be written over."""
    rest = []
    for task in tasks:
        setting_of(task)
        path = options.folder / f"{task.name}.json"
        if path.exists():
            files.read(path)
            if not options.again:
                if not options.table:
                    raise SystemExit(f"{path} is there already; --again makes the run anew.")
                continue
        rest.append(task)
    return rest


def work(tasks, options):
    """Run tasks, several at once in a table."""
    if not options.table:
        for task in tasks:
            figures = run(task, options)
            print(
                f"{task.name}: mean of the last ten {figures['last_ten']:.2f}, last epoch "
                f"{figures['last']:.2f}, best {figures['best']:.2f} (epoch "
                f"{figures['best_epoch']}), {figures['seconds']:.0f} s"
            )
        return
    kinds = {NOISES[task.noise][0] == "human": task for task in tasks}
    for task in kinds.values():
        problem(task, options.data)  # says what is missing before anything is trained
    jobs = (joblib.delayed(one_of_many)(task, options) for task in tasks)
    parallel = joblib.Parallel(options.workers, batch_size=1, return_as="generator_unordered")
    failed = 0
    for i, (went_well, text) in enumerate(parallel(jobs), start=1):
        failed += not went_well
        print(f"{i}/{len(tasks)}  {text}", flush=True)
    if failed:
        raise SystemExit(f"{failed} of {len(tasks)} runs failed.")


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("method", nargs="?", metavar="METHOD")
    parser.add_argument("data_name", nargs="?", metavar="DATA")
    parser.add_argument("noise", nargs="?", metavar="NOISE")
    parser.add_argument("--list", action="store_true", help="methods, data, noises and tables")
    parser.add_argument("--table", choices=TABLES, help="all runs of a table that have no result")
    parser.add_argument("--page", action="store_true", help="write the page from the results")
    seeds = "default 0, of a table 0 1 2"
    parser.add_argument("--seeds", "--seed", nargs="+", type=int, help=seeds)
    parser.add_argument("--reduced", action="store_true", help=f"{REDUCED}, on the CPU")
    parser.add_argument("--images", type=at_least(1), help="only so many training images")
    parser.add_argument("--network", choices=("published", "small"))
    parser.add_argument("--epochs", type=at_least(1), help="fewer; stages shrink in proportion")
    parser.add_argument("--device", help="default auto, reduced: cpu")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        help="default auto, reduced: bfloat16",
    )
    parser.add_argument(
        "--every", type=at_least(1), default=1, help="epochs between writes of progress"
    )
    parser.add_argument(
        "--workers", type=at_least(1), help="runs of a table at once; default 1, reduced 2"
    )
    parser.add_argument("--again", action="store_true", help="replace results that are there")
    parser.add_argument("--verbose", type=int, default=0, help="1 shows a bar")
    parser.add_argument("--data", type=Path, help="folder with the data")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument(
        "--doc", type=page_file(files.TITLE), default=str(ROOT / "docs" / "results.md")
    )
    parser.add_argument("--work", type=Path, default=ROOT / "results", help="files of progress")
    options = parser.parse_args(argv)
    options.reduced |= options.table == "reduced"
    defaults = {"network": "published", "device": "auto", "precision": "auto", "workers": 1}
    defaults["seeds"] = [0, 1, 2] if options.table else [0]
    if options.reduced:
        defaults |= REDUCED | {"device": "cpu", "precision": "bfloat16", "workers": 2}
    for name, value in defaults.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    try:
        resolve_device(options.device)
    except ValueError as error:
        raise SystemExit(str(error)) from error
    return options


def main(argv=None):
    options = arguments(argv)
    if options.list:
        return show()
    if options.table and options.method:
        raise SystemExit("Give a METHOD with DATA and NOISE, or a --table, not both.")
    if options.table or options.noise:
        tasks = tasks_of(options)
        rest = to_do(tasks, options)
        print(f"{len(rest)} runs to do, {len(tasks) - len(rest)} done before", flush=True)
        work(rest, options)
    elif options.method or not options.page:
        raise SystemExit("Give METHOD DATA NOISE, --table, --page or --list; --help says more.")
    if options.page:
        runs = files.read_all(options.folder)
        options.doc.write_text(files.page(runs))
        print(f"{len(runs)} runs in {options.doc}")
    return None


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # workers end as well
    main()
