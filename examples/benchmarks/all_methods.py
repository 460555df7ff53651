"""Every method of the library on the same problems: accuracy, detection, correction, time.

Two problems that a CPU can do, five kinds of noise, three seeds. All methods have the same network,
schedule and number of epochs, and their defaults otherwise. Random views would help plain training
as much as many a method, so nobody gets them but the methods that are made of them, and one row of
plain training for comparison.

Each fit is one line of JSON in ``--results``, which is kept beside the page; finished ones are
skipped when the command is given again, so it can be stopped at any time. The page is written from
the lines that are there.
"""

import argparse
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
import torch
from _results import cell, machines, markdown, percent, read, work
from _timing import at_least, page_file
from epoch_cost import typical_cost
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from noisyfit import Network, methods, noise
from noisyfit.datasets import load_mnist
from noisyfit.modules import SmallCNN

ROOT = Path(__file__).parents[2]
TITLE = "# Benchmarks"
BASELINE = "CrossEntropy"
NEED_VIEWS = {
    "DivideMix",
    "BayesianDivideMixPP",
    "ManifoldDivideMix",
}  # their algorithm compares two views of a row
VARIANTS = {
    "CrossEntropyClassifier": {BASELINE: {}, "CrossEntropy + views": {"augment": "auto"}},
    "RobustLossClassifier": {
        "GCE": {"loss": "gce"},
        "SCE": {"loss": "sce"},
        "MAE": {"loss": "mae"},
        "NCE + RCE": {"loss": "nce+rce"},
        "focal": {"loss": "focal"},
    },
    "BootstrappingClassifier": {
        "Bootstrapping, soft": {"kind": "soft"},
        "Bootstrapping, hard": {"kind": "hard"},
    },
    "MCorrectionClassifier": {
        "MCorrection": {},
        "MCorrection, MD-DYR-SH": {"variant": "MD-DYR-SH"},
    },
}
VARIANTS |= {  # pre-training is what examples/benchmarks/beyond.py is about
    name: {name.removesuffix("Classifier"): {"pretrain": None}}
    for name in ("BayesianDivideMixPP", "ManifoldDivideMixClassifier")
}
NOISES = {
    "sym-0.2": ("sym_incl", 0.2, "symmetric, 20 % redrawn"),
    "sym-0.5": ("sym_incl", 0.5, "symmetric, 50 % redrawn"),
    "sym-0.8": ("sym_incl", 0.8, "symmetric, 80 % redrawn"),
    "pair-0.4": ("pair", 0.4, "pair, 40 %"),
    "idn-0.4": ("idn", 0.4, "instance-dependent, 40 %"),
}


class Problem(NamedTuple):
    """Images, and how the network is trained on them."""

    title: str
    load: object  # seed -> X, y, X_test, y_test
    brightest: int  # pixel value that becomes 1 where the noise depends on the image
    epochs: int
    lr: float
    weight: float  # what an epoch costs, for the order of work
    precision: str  # bfloat16 halves the time on a CPU that has it


def digits(seed):
    """1 347 training and 450 test images, 8 x 8."""
    data = load_digits()
    X, X_test, y, y_test = train_test_split(
        data.images, data.target, test_size=450, stratify=data.target, random_state=seed
    )
    return X, y, X_test, y_test


def mnist(seed):
    """10 000 training and 2 000 test images, 28 x 28."""
    data, rng = load_mnist(), np.random.default_rng(seed)
    train = rng.choice(len(data.y_train), 10_000, replace=False)
    test = rng.choice(len(data.y_test), 2_000, replace=False)
    return data.X_train[train], data.y_train[train], data.X_test[test], data.y_test[test]


PROBLEMS = {
    "fast": Problem("digits, 1 347 training and 450 test images", digits, 16, 40, 0.05, 1, "auto"),
    "medium": Problem(
        "MNIST, 10 000 training and 2 000 test images", mnist, 255, 12, 0.02, 13, "bfloat16"
    ),
}


class Task(NamedTuple):
    """One fit."""

    problem: str
    method: str
    noise: str
    seed: int
    epochs: int
    precision: str


def rows():
    """Name in the table: (class, its parameters), of every public method."""
    table = {}
    for name in [*VARIANTS, *methods.__all__]:
        cls = getattr(methods, name, None)
        if cls is None or any(cls is known for known, _ in table.values()):
            continue
        short = name.removesuffix("Classifier")
        for row, params in VARIANTS.get(name, {short: {}}).items():
            views = {} if row in NEED_VIEWS else {"augment": None}
            table[row] = cls, views | params
    return table


def noisy_labels(task, X, y):
    """The given labels of a task."""
    generator, level, _ = NOISES[task.noise]
    if generator != "idn":
        return getattr(noise, generator)(y, level, random_state=task.seed).y
    pixels = np.float32(X / PROBLEMS[task.problem].brightest)
    return noise.idn(pixels, y, level, random_state=task.seed).y


def fit(task):
    """The figures of one fit, with one thread; the test set is scored, never used to decide."""
    torch.set_num_threads(1)
    problem = PROBLEMS[task.problem]
    X, y, X_test, y_test = problem.load(task.seed)
    y_noisy = noisy_labels(task, X, y)
    net = Network(
        SmallCNN,
        lr=problem.lr,
        max_epochs=task.epochs,
        batch_size=64,
        precision=task.precision,
        device="cpu",
    )
    cls, params = rows()[task.method]
    clf = cls(net, random_state=task.seed, **params)
    start = time.process_time()
    clf.fit(X, y_noisy, X_val=X_test, y_val=y_test)
    seconds = time.process_time() - start
    accuracy = [row["valid_acc"] for row in clf.history_]
    return {
        "last": percent(accuracy[-1]),
        "best": percent(max(accuracy)),
        "auroc": round(float(roc_auc_score(y == y_noisy, clf.clean_proba_)), 5),
        "refined": percent(np.mean(clf.refined_labels_ == y)),
        "wrong": percent(np.mean(y != y_noisy)),
        "noise_rate": percent(clf.noise_rate_),
        "seconds": round(seconds, 2),
    }


# ---- the page --------------------------------------------------------------------------------

COLUMNS = (
    ("last epoch", "last", 1),
    ("best epoch", "best", 1),
    ("AUROC of `clean_proba_`", "auroc", 3),
    ("refined labels", "refined", 1),
    ("time", "time", 1),
)


def with_relative_time(results):
    """Figures by (problem, noise, method), a list over the seeds each, with CPU time relative to
    plain training of the same seed."""
    groups = defaultdict(list)
    for task, figures in sorted(results.items()):
        plain = results.get(task._replace(method=BASELINE))
        time_ = {} if plain is None else {"time": figures["seconds"] / plain["seconds"]}
        groups[task.problem, task.noise, task.method].append(figures | time_)
    return groups


def column(figures, key):
    return [row[key] for row in figures if key in row]


def tables(groups, name):
    """The page's part on one problem: last epochs side by side, then all figures by noise."""
    noises = [kind for kind in NOISES if any(key[:2] == (name, kind) for key in groups)]
    names = {m: f"{m} (views)" if m in NEED_VIEWS else m for m in rows()}
    summary = [
        [shown, *(cell(column(groups[name, kind, method], "last"), 1) for kind in noises)]
        for method, shown in names.items()
    ]
    parts = ["Accuracy on the test set after the last epoch:"]
    parts.append(markdown(["method", *(NOISES[kind][2] for kind in noises)], summary))
    for kind in noises:
        wrong = [v for m in names for v in column(groups[name, kind, m], "wrong")]
        lines = []
        for method, shown in names.items():
            figures = groups[name, kind, method]
            cells = [cell(column(figures, key), digits) for _, key, digits in COLUMNS]
            lines.append([shown, *cells, str(len(figures))])
        share = f" ({np.mean(wrong):.1f} % of the labels are wrong)" if wrong else ""
        parts.append(f"### {PROBLEMS[name].title.split(',')[0]}, {NOISES[kind][2]}{share}")
        parts.append(markdown(["method", *(title for title, _, _ in COLUMNS), "seeds"], lines))
    return parts


def page(results, options):
    """The whole page in Markdown."""
    groups = with_relative_time(results)
    command = "python examples/benchmarks/all_methods.py"
    if options.precision:
        command += f" --precision {options.precision}"
    parts = [
        TITLE,
        "All methods with their defaults; the same network (`SmallCNN`), SGD with a cosine "
        "schedule and batches of 64. Written by\n\n"
        f"```bash\n{command}\n```",
        machines(results),
        "Mean ± standard deviation over the seeds; the column of seeds says how many. A dash: not "
        "run yet. *Last epoch* is what a user gets; *best epoch* is chosen by the test labels and "
        "is here for comparison with papers. *AUROC* says how well `clean_proba_` tells right from "
        "wrong labels, *refined labels* which share of the training labels is right afterwards. "
        "*Time* is CPU time of the whole fit, with the scores of every epoch, relative to "
        f"{BASELINE}. Images are not augmented, except in the rows with views, which the method "
        "needs or which show what they do alone. "
        "Symmetric noise may draw the true label; for the instance-dependent one pixels are "
        "scaled to [0, 1].",
    ]
    for name, problem in PROBLEMS.items():
        epochs = options.epochs or problem.epochs
        if any(task.problem == name for task in results):
            precision = (options.precision or problem.precision).replace("auto", "float32")
            parts.append(
                f"## {problem.title}, {epochs} epochs, learning rate {problem.lr}, {precision}"
            )
            parts += tables(groups, name)
    return "\n\n".join(parts) + "\n"


# ---- the command -----------------------------------------------------------------------------


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "benchmarks.jsonl")
    parser.add_argument(
        "--doc", type=page_file(TITLE), default=str(ROOT / "docs" / "benchmarks.md")
    )
    parser.add_argument("--workers", type=at_least(1), default=joblib.cpu_count())
    parser.add_argument("--problem", nargs="+", choices=PROBLEMS, default=[*PROBLEMS])
    parser.add_argument("--methods", nargs="+", choices=rows(), default=[*rows()], metavar="NAME")
    parser.add_argument("--noises", nargs="+", choices=NOISES, default=[*NOISES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=at_least(1), help="instead of 40 (fast) and 12 (medium)")
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        help="instead of each problem's own",
    )
    parser.add_argument("--again", action="store_true", help="repeat finished fits")
    parser.add_argument("--table-only", action="store_true", help="no fits, only the page")
    parser.add_argument("--list", action="store_true", help="names of the methods, no fits")
    return parser.parse_args(argv)


def wanted(options):
    """The fits asked for: the first seed of everything first, cheap methods first."""
    tasks = [
        Task(
            name,
            method,
            kind,
            seed,
            options.epochs or PROBLEMS[name].epochs,
            options.precision or PROBLEMS[name].precision,
        )
        for name in options.problem
        for method in options.methods
        for kind in options.noises
        for seed in options.seeds
    ]
    known = rows()

    def price(task):
        return task.seed, typical_cost(known[task.method][0]) * PROBLEMS[task.problem].weight

    return sorted(tasks, key=price)


def comparable(task, options):
    """Whether a finished fit has the epochs and the precision of the page, and a row on it."""
    problem = PROBLEMS[task.problem]
    asked = options.epochs or problem.epochs, options.precision or problem.precision
    return (task.epochs, task.precision) == asked and task.method in rows()


def check_data(tasks):
    """Say what is missing before anything is trained."""
    for name in {task.problem for task in tasks}:
        try:
            PROBLEMS[name].load(0)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(str(error)) from error


def main():
    options = arguments()
    if options.list:
        print("\n".join(rows()))
        return
    failed = 0
    if not options.table_only:
        done = set() if options.again else set(read(options.results, Task))
        tasks = [task for task in wanted(options) if task not in done]
        check_data(tasks)
        print(f"{len(tasks)} fits to do, {len(done)} done before, {options.workers} at once")
        failed = work(tasks, fit, options.results, options.workers)
    results = {t: row for t, row in read(options.results, Task).items() if comparable(t, options)}
    options.doc.write_text(page(results, options))
    print(f"{len(results)} fits in {options.doc}")
    if failed:
        raise SystemExit(f"{failed} fits failed; {options.results} says how.")


if __name__ == "__main__":
    main()
