"""Class probabilities of rows by models that did not see them."""

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from skorch.callbacks import EarlyStopping
from torch.utils.data import Dataset, Subset

from noisyfit._network import check_net
from noisyfit._random import spawn_seeds


def stratified_folds(codes, n_folds, rng):
    """Random fold (n,) of every row; the folds share every class, and all rows, but for one row."""
    order = rng.permutation(len(codes))
    by_class = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(len(codes), dtype=np.int64)
    fold[by_class] = np.arange(len(codes)) % n_folds
    return fold


def rows_of(X, rows):
    """The rows of `X` at the positions `rows`, of the kind of `X`."""
    return Subset(X, rows.tolist()) if isinstance(X, Dataset) else _safe_indexing(X, rows)


def seeded(estimator, seed):
    """`estimator` with every ``random_state`` set from `seed`, also those of its parts."""
    last = "random_state"
    names = [n for n in estimator.get_params() if n == last or n.endswith("__" + last)]
    seeds = spawn_seeds(seed, len(names))
    return estimator.set_params(**dict(zip(sorted(names), seeds, strict=True)))


def out_of_fold_proba(estimator, X, y, train, test, classes, seed, keep_best=False):
    """Probabilities (n_test, n_classes) of the rows `test` by a clone trained on the rows `train`.

    `keep_best` takes the epoch that agrees best with the labels of `test`; the estimator must be a
    method of this library.
    """
    proba = np.zeros((len(test), len(classes)))
    seen = np.unique(y[train])
    if len(seen) == 1:  # many classifiers refuse a single class
        proba[:, np.searchsorted(classes, seen)] = 1
        return proba
    model, validation = seeded(clone(estimator), seed), {}
    known = test[np.isin(y[test], seen)]
    if keep_best and len(known):
        keep_best_epoch(model)
        validation = {"X_val": rows_of(X, known), "y_val": y[known]}
    model.fit(rows_of(X, train), y[train], **validation)
    proba[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(rows_of(X, test))
    return proba


def keep_best_epoch(model):
    """Let the net of a method return to the epoch with the best accuracy in validation."""
    net = clone(check_net(model.net))
    best = EarlyStopping(
        "valid_acc",
        patience=int(net.max_epochs),  # never stops
        threshold=0,
        lower_is_better=False,
        load_best=True,
    )
    net.callbacks = [*(net.callbacks if isinstance(net.callbacks, list) else []), best]
    net.train_split = None
    model.set_params(net=net)
