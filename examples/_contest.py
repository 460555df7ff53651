"""Several methods on one problem: fit, measure, tabulate. Shared by the examples."""

import time

import joblib
import numpy as np
import torch
from sklearn.metrics import roc_auc_score

COLUMNS = (
    ("last epoch", "last", 1),
    ("best epoch", "best", 1),
    ("AUROC of `clean_proba_`", "auroc", 3),
    ("refined labels", "refined", 1),
    ("seconds", "seconds", 1),
)


def measure(clf, problem, n_threads=1):
    """Fit on noisy labels; scores on the test set are recorded, never used for a decision.

    `problem` is (X, y_true, y_noisy, X_test, y_test).
    """
    torch.set_num_threads(n_threads)
    X, y, y_noisy, X_test, y_test = problem
    start = time.perf_counter()
    clf.fit(X, y_noisy, X_val=X_test, y_val=y_test)
    seconds = time.perf_counter() - start
    accuracy = [row["valid_acc"] for row in clf.history_]
    right = y == y_noisy
    return clf, {
        "last": 100 * accuracy[-1],
        "best": 100 * max(accuracy),
        "auroc": roc_auc_score(right, clf.clean_proba_) if not right.all() else np.nan,
        "refined": 100 * np.mean(clf.refined_labels_ == y),
        "seconds": seconds,
    }


def contest(methods, make_problem, n_seeds, n_jobs):
    """All methods on all seeds: rows of figures by method, and the fits of the first seed.

    With several jobs each is a process of one thread; the slowest methods start first.
    """
    tasks = [(name, seed) for name in reversed(methods) for seed in range(n_seeds)]
    n_threads = 1 if n_jobs > 1 else torch.get_num_threads()

    def work(name, seed):
        clf = methods[name].set_params(random_state=seed)
        return measure(clf, make_problem(seed), n_threads)

    done = joblib.Parallel(n_jobs=n_jobs)(joblib.delayed(work)(*task) for task in tasks)
    rows = {name: [] for name in methods}
    fits = dict.fromkeys(methods)
    for (name, seed), (clf, row) in zip(tasks, done, strict=True):
        rows[name].append(row)
        if seed == 0:
            fits[name] = clf
    return rows, fits


def table(rows):
    """Markdown table: mean and sample standard deviation over the seeds."""
    lines = ["| method | " + " | ".join(title for title, _, _ in COLUMNS) + " |"]
    lines.append("|---" * (len(COLUMNS) + 1) + "|")
    for name, figures in rows.items():
        cells = []
        for _, key, digits in COLUMNS:
            values = [row[key] for row in figures]
            cell = f"{np.mean(values):.{digits}f}"
            if len(values) > 1:
                cell += f" ± {np.std(values, ddof=1):.{digits}f}"
            cells.append(cell)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def figure(fits, wrong, path):
    """Losses that DivideMix divides, with their mixture, beside accuracy over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from noisyfit.plots import LossHistogramDisplay, TrainingHistoryDisplay

    _, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    LossHistogramDisplay.from_estimator(fits["DivideMix"], wrong=wrong, ax=left)
    left.set_title("What DivideMix divides")
    TrainingHistoryDisplay.from_histories(fits, key="valid_acc", ax=right)
    right.set_title("Accuracy on clean test labels")
    plt.savefig(path, dpi=120)
    plt.close()
