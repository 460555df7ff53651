"""What pre-training, strong views, uncertainty and outlier removal add to DivideMix, part by part.

Real images on a CPU: a subset of CIFAR-10 with symmetric, human and open-set noise, the small
network, three seeds. Pre-trained methods start from one encoder a seed, which has seen more images
than have labels: the training images of the classes among them, but no image of another class. With
``--full`` the whole CIFAR-10 with PreActResNet18, for an accelerator.

Each fit is one line of JSON in ``--results``; finished ones are skipped when the command is given
again. Data: see `noisyfit.datasets`; their folder is ``--data`` or NOISYFIT_DATA.
"""

import argparse
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from _results import cell, loaded, machines, markdown, percent, read, work
from _timing import at_least, page_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from noisyfit import Network, SimCLR, methods
from noisyfit.datasets import load_cifar10, load_cifar10n, load_cifar100, load_tinyimagenet_ood
from noisyfit.modules import PreActResNet18, SmallCNN
from noisyfit.noise import open_set, sym_incl
from noisyfit.schedules import Cosine, Step

ROOT = Path(__file__).parents[2]
TITLE = "# Beyond DivideMix"
TEST_IMAGES = 2000  # of a subset
NOISES = {
    "sym-0.5": "symmetric, 50 % redrawn",
    "sym-0.8": "symmetric, 80 % redrawn",
    "worst": 'human labels ("worst")',
    "open-tiny": "20 % Tiny-ImageNet images of other classes, 20 % redrawn",
    "open-cifar100": "20 % CIFAR-100 images, 20 % redrawn",
}
OPEN = {"open-tiny", "open-cifar100"}
NONE = "none"
OF_CIFAR10 = set(  # classes of Tiny-ImageNet that are one of CIFAR-10, or nearly
    """bullfrog, tailed frog, goose, black stork, king penguin, albatross, gazelle, Chihuahua,
    Yorkshire terrier, golden retriever, Labrador retriever, German shepherd, standard poodle,
    tabby, Persian cat, Egyptian cat, beach wagon, convertible, limousine, sports car, moving van,
    police van, gondola, lifeboat""".replace("\n   ", "").split(", ")
)
NOT_UNSURE = {"uncertainty_weighting": None}
PLAIN = "plain training"
ENCODER = "encoder"  # no method: what was learnt without labels
STRONG = "DivideMix, pre-trained, strong views"
KEPT, UNMIXED = "Manifold, nothing removed", "Manifold, no mixed embeddings"
# name: (class, parameters, pre-trained)
ROWS = {
    PLAIN: ("CrossEntropyClassifier", {}, False),
    "plain training, pre-trained": ("CrossEntropyClassifier", {}, True),
    "DivideMix": ("DivideMixClassifier", {}, False),
    "DivideMix, pre-trained": ("DivideMixClassifier", {}, True),
    STRONG: ("DivideMixClassifier", {"strong_augment": "auto"}, True),
    "Bayesian, no weighting": ("BayesianDivideMixPP", NOT_UNSURE, True),
    "Bayesian, certainty": ("BayesianDivideMixPP", {}, True),
    "Bayesian, entropy": ("BayesianDivideMixPP", {"uncertainty_weighting": "entropy"}, True),
    "Manifold": ("ManifoldDivideMixClassifier", {}, True),
    KEPT: ("ManifoldDivideMixClassifier", {"ood_share": 0}, True),
    UNMIXED: ("ManifoldDivideMixClassifier", {"lambda_e": 0}, True),
}
SOME = ["sym-0.5", "open-tiny"]  # the kinds that show what a single part brings
ONLY = {STRONG: SOME, KEPT: SOME, UNMIXED: SOME}
COLUMNS = (
    ("last epoch", "last", 1),
    ("best epoch", "best", 1),
    ("AUROC, wrong labels", "auroc", 3),
    ("AUROC, out of distribution", "auroc_open", 3),
    ("refined labels", "refined", 1),
    ("seconds", "seconds", 0),
)


class Task(NamedTuple):
    """One fit."""

    noise: str
    method: str
    seed: int
    images: int  # 0 is all of them, with the large network
    epochs: int
    unlabelled: int  # images that the encoder sees; 0 is all of them
    pretraining_epochs: int


class Problem(NamedTuple):
    """Images with given labels; `y` is the true class, of no meaning where `is_open`."""

    X: np.ndarray
    y: np.ndarray
    y_noisy: np.ndarray
    is_open: np.ndarray
    X_test: np.ndarray
    y_test: np.ndarray


def problem(task, data):
    """The data of a task, which depend on noise, seed and number of images alone."""
    cifar, rng = loaded(load_cifar10, data), np.random.default_rng(task.seed)
    n = task.images or len(cifar.y_train)
    rows = rng.permutation(len(cifar.y_train))[:n]
    test = rng.permutation(len(cifar.y_test))[: TEST_IMAGES if task.images else None]
    X, y = cifar.X_train[rows], cifar.y_train[rows]
    is_open = np.zeros(n, dtype=bool)
    if task.noise == "worst":
        y_noisy = loaded(load_cifar10n, data)["worst"][rows]
    elif task.noise == NONE:
        y_noisy = y
    elif task.noise in OPEN:
        other = (
            strangers(data) if task.noise == "open-tiny" else loaded(load_cifar100, data).X_train
        )
        noisy = open_set(X, y, 0.4, 0.5, other, random_state=task.seed)
        X, y_noisy, is_open = noisy.X, noisy.y, noisy.mask_open
    else:
        y_noisy = sym_incl(y, float(task.noise.split("-")[1]), random_state=task.seed).y
    return Problem(X, y, y_noisy, is_open, cifar.X_test[test], cifar.y_test[test])


def strangers(data):
    """Images of Tiny-ImageNet of no class of CIFAR-10."""
    tiny = loaded(load_tinyimagenet_ood, data)
    names = [name.split(",")[0] for name in tiny.class_names]
    missing = OF_CIFAR10 - set(names)
    if missing:
        raise ValueError(f"Tiny-ImageNet without the classes {sorted(missing)}.")
    return tiny.X[[names[label] not in OF_CIFAR10 for label in tiny.y]]


def network(task, **params):
    """The network of all methods."""
    if task.images:
        return Network(SmallCNN, device="cpu", precision="bfloat16", **params)
    return Network(PreActResNet18, **params)


def encoder_path(task, folder):
    """Where the encoder of a task lies. All kinds of noise share one."""
    return folder / f"{task.unlabelled}-{task.seed}-{task.pretraining_epochs}.pt"


def train_encoder(task, data, folder):
    """Write the encoder of a task, and return its figures: a linear classifier on its features,
    with the true labels of the images of the other methods."""
    X, y, _, _, X_test, y_test = problem(task._replace(noise=NONE), data)
    X_all = problem(task._replace(noise=NONE, images=task.unlabelled), data).X
    net = network(
        task,
        max_epochs=task.pretraining_epochs,
        batch_size=128 if task.images else 512,
        lr=0.1,
        lr_schedule=Cosine(1e-3, warmup=task.pretraining_epochs // 10),
        optimizer__weight_decay=5e-4,
    )
    begin = clock(task)
    simclr = SimCLR(net, temperature=0.2, random_state=task.seed).fit(X_all)
    seconds = clock(task) - begin
    path = encoder_path(task, folder)
    torch.save(simclr.encoder_.state_dict(), path.with_suffix(".new"))
    os.replace(path.with_suffix(".new"), path)  # whole, or not there
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    linear.fit(simclr.transform(X), y)
    probe = percent(linear.score(simclr.transform(X_test), y_test))
    return {"last": probe, "seconds": round(seconds, 2)}


def clock(task):
    """CPU seconds of a subset's fit, else seconds."""
    return time.process_time() if task.images else time.perf_counter()


class Fit:
    """Figures of one task; the test set is scored, never used to decide."""

    def __init__(self, data, folder):
        self.data, self.folder = data, folder

    def __call__(self, task):
        if task.images:
            torch.set_num_threads(1)
        if task.method == ENCODER:
            return train_encoder(task, self.data, self.folder)
        X, y, y_noisy, is_open, X_test, y_test = problem(task, self.data)
        schedule = {} if task.images else {"lr_schedule": Step([task.epochs // 2])}
        net = network(
            task,
            lr=0.02,
            max_epochs=task.epochs,
            batch_size=64 if task.images else 128,
            **schedule,
        )
        name, params, pretrained = ROWS[task.method]
        start = encoder_path(task, self.folder) if pretrained else None
        clf = getattr(methods, name)(net, pretrain=start, random_state=task.seed, **params)
        begin = clock(task)
        clf.fit(X, y_noisy, X_val=X_test, y_val=y_test)
        seconds = clock(task) - begin
        accuracy = [row["valid_acc"] for row in clf.history_]
        right = (y == y_noisy) & ~is_open
        figures = {
            "last": percent(accuracy[-1]),
            "best": percent(max(accuracy)),
            "auroc": round(float(roc_auc_score(right, clf.clean_proba_)), 5),
            "refined": percent(np.mean((clf.refined_labels_ == y)[~is_open])),
            "wrong": percent(np.mean(~right)),
            "seconds": round(seconds, 2),
        }
        strange = strangeness(clf)
        if is_open.any() and strange is not None:
            figures["auroc_open"] = round(float(roc_auc_score(is_open, strange)), 5)
        if hasattr(clf, "in_distribution_"):
            figures["removed"] = percent(np.mean(~clf.in_distribution_))
        return figures


def strangeness(clf):
    """How far each training row is from the classes, (n,), where a method says so."""
    if hasattr(clf, "ood_score_"):
        return 1 - clf.ood_score_
    return getattr(clf, "uncertainty_", None)


def check_data(tasks, data):
    """Say what is missing before anything is trained."""
    for task in {task.noise: task for task in tasks}.values():
        try:
            n = len(loaded(load_cifar10, data).y_train)
            if max(task.images, task.unlabelled) > n:
                raise ValueError(f"CIFAR-10 has {n} training images, fewer than asked for.")
            problem(task, data)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(str(error)) from error


def page(results):
    """The whole page in Markdown."""
    encoders = [figures for task, figures in results.items() if task.method == ENCODER]
    groups = defaultdict(list)
    for task, figures in sorted(results.items()):
        groups[task.noise, task.method].append(figures)
    first = next(iter(results))
    size = f"{first.images} images of CIFAR-10, `SmallCNN` in bfloat16"
    if not first.images:
        size = "CIFAR-10, `PreActResNet18`"
    tested = f"{TEST_IMAGES} of the " if first.images else ""
    parts = [
        TITLE,
        f"{size}, {first.epochs} epochs, crops and mirror images for everybody. Pre-training is "
        f"SimCLR on {first.unlabelled or 'all'} images of CIFAR-10 without labels (the training "
        "images among them; images of no class are not), "
        f"{first.pretraining_epochs} epochs, one encoder a seed, "
        f"{cell([row['seconds'] for row in encoders], 0)} s; a linear classifier that is trained "
        "on its features and the true labels of the training images reaches "
        f"{cell([row['last'] for row in encoders], 1)} %. Written by\n\n"
        "```bash\npython examples/benchmarks/beyond.py\n```",
        machines(results),
        "Mean ± standard deviation over the seeds; the column of seeds says how many. The AUROC of "
        "wrong labels counts images of no class as wrong; that of images out of distribution is "
        "that of `ood_score_` or `uncertainty_`. *Refined labels* leaves such images out. "
        f"*Seconds* are {'CPU seconds' if first.images else 'seconds'} of the fit, without the "
        "pre-training and with a score after every epoch, for the best of them.",
        f"Accuracy on {tested}10000 test images after the last epoch:",
    ]
    noises = [kind for kind in NOISES if any((kind, name) in groups for name in ROWS)]
    summary = [
        [name, *(cell([row["last"] for row in groups[kind, name]], 1) for kind in noises)]
        for name in ROWS
    ]
    parts.append(markdown(["method", *(NOISES[kind] for kind in noises)], summary))
    for kind in noises:
        lines = []
        for name in ROWS:
            figures = groups[kind, name]
            if not figures:
                continue
            cells = [cell([f[k] for f in figures if k in f], digits) for _, k, digits in COLUMNS]
            lines.append([name, *cells, str(len(figures))])
        wrong = np.mean([f["wrong"] for name in ROWS for f in groups[kind, name]])
        parts.append(f"## {NOISES[kind]} ({wrong:.1f} % of the labels are wrong)")
        parts.append(markdown(["method", *(title for title, _, _ in COLUMNS), "seeds"], lines))
    return "\n\n".join(parts) + "\n"


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, default=None, help="folder with the data")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "beyond.jsonl")
    parser.add_argument("--doc", type=page_file(TITLE), default=str(ROOT / "docs" / "beyond.md"))
    parser.add_argument("--encoders", type=Path, default=Path("encoders"), help="folder for them")
    parser.add_argument("--full", action="store_true", help="all images and PreActResNet18")
    parser.add_argument(
        "--images", type=at_least(10), default=1800, help="training images of the subset"
    )
    parser.add_argument(
        "--unlabelled",
        type=at_least(10),
        default=10_000,
        help="images of the pre-training of the subset",
    )
    parser.add_argument(
        "--epochs", type=at_least(1), default=None, help="default 10, with --full 100"
    )
    parser.add_argument(
        "--pretraining-epochs", type=at_least(1), help="default 20, with --full 200"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=[*NOISES])
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=[*ROWS], metavar="NAME")
    parser.add_argument(
        "--workers", type=at_least(1), default=None, help="default 2, with --full 1"
    )
    parser.add_argument("--table-only", action="store_true", help="no fits, only the page")
    options = parser.parse_args(argv)
    defaults = ("epochs", 10, 100), ("pretraining_epochs", 20, 200), ("workers", 2, 1)
    for name, small, full in defaults:
        if getattr(options, name) is None:
            setattr(options, name, full if options.full else small)
    if options.full:
        options.images = options.unlabelled = 0
    if options.unlabelled < options.images:
        parser.error("--unlabelled holds the training images, so it is at least --images")
    return options


def main():
    options = arguments()
    size = options.images, options.epochs, options.unlabelled, options.pretraining_epochs
    done, failed = read(options.results, Task), 0
    if not options.table_only:
        wanted = [
            Task(kind, name, seed, *size)
            for seed in options.seeds
            for kind in options.noises
            for name in options.methods
            if kind in ONLY.get(name, NOISES)
        ]
        tasks = [task for task in wanted if task not in done]
        print(f"{len(tasks)} fits to do, {len(done)} done before, {options.workers} at once")
        check_data(tasks, options.data)
        options.encoders.mkdir(parents=True, exist_ok=True)
        missing = {}
        for task in tasks:
            path = encoder_path(task, options.encoders)
            if ROWS[task.method][2] and not path.exists():
                missing[path] = task._replace(noise=NONE, method=ENCODER)
        for some in (list(missing.values()), tasks):  # encoders come first
            if some:
                fit = Fit(options.data, options.encoders)
                failed += work(some, fit, options.results, options.workers)
    results = {t: row for t, row in read(options.results, Task).items() if t[3:] == size}
    if results:
        options.doc.write_text(page(results))
    print(f"{len(results)} fits in {options.doc}")
    if failed:
        raise SystemExit(f"{failed} fits failed; {options.results} says how.")


if __name__ == "__main__":
    main()
