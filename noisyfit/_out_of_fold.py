"""Class probabilities of rows by models that did not see them."""

import math

import numpy as np
from sklearn.base import clone
from sklearn.utils import _safe_indexing
from skorch.callbacks import EarlyStopping
from torch.utils.data import Dataset, Subset

from noisyfit._network import check_net
from noisyfit._random import spawn_seeds
from noisyfit._small_tables import epochs_before_doubt

_STEPS = 100


def stratified_folds(codes, n_folds, rng):
    """Random fold (n,) of every row. Every class, and all rows, are shared equally up to a row."""
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
    name = "random_state"
    names = [n for n in estimator.get_params() if n == name or n.endswith(f"__{name}")]
    return estimator.set_params(**dict(zip(names, spawn_seeds(seed, len(names)), strict=True)))


def out_of_fold_proba(estimator, X, y, train, test, classes, seed, keep_best=False):
    """Probabilities (n_test, n_classes) of the rows `test` by a clone trained on the rows `train`.

    A class that `train` lacks has probability 0. `keep_best` takes the epoch that agrees best with
    the labels of `test`; the estimator must be a method of this library then.
    """
    proba = np.zeros((len(test), len(classes)))
    seen = np.unique(y[train])
    if len(seen) == 1:  # which many classifiers refuse
        proba[:, np.searchsorted(classes, seen)] = 1
        return proba
    model = seeded(clone(estimator), seed)
    known = test[np.isin(y[test], seen)]
    validation = {}
    if keep_best and len(known):
        model.set_params(net=keeping_best_epoch(model.net))
        validation = {"X_val": rows_of(X, known), "y_val": y[known]}
    model.fit(rows_of(X, train), y[train], **validation)
    proba[:, np.searchsorted(classes, model.classes_)] = model.predict_proba(rows_of(X, test))
    return proba


def keeping_best_epoch(net):
    """A copy of `net` that returns to the epoch with the best accuracy in validation."""
    net = clone(check_net(net))
    best = EarlyStopping(
        "valid_acc",
        patience=int(net.max_epochs),  # never stops
        threshold=0,
        lower_is_better=False,
        load_best=True,
    )
    net.callbacks = [*(net.callbacks if isinstance(net.callbacks, list) else []), best]
    net.train_split = None
    return net


def bare(net, **params):
    """A copy of `net` with other `params`, without the user's callbacks and held-out rows."""
    given = clone(net).get_params(deep=False)
    kept = {k: v for k, v in given.items() if not k.startswith("callbacks")}
    return type(net)(**kept | {"train_split": None} | params)


def short_training(max_epochs, n_rows, batch_size, shape):
    """Epochs of a training on half of `n_rows`: a quarter of `max_epochs`, on small data more.

    As many as 100 steps need, on a table with few columns up to 150 more, but all at most. `shape`
    is that of a row.
    """
    steps = math.ceil(n_rows / 2 / batch_size)
    needed = math.ceil(_STEPS / steps) + epochs_before_doubt(0, shape, steps)
    return max(math.ceil(max_epochs / 4), min(needed, max_epochs))
