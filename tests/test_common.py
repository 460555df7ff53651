"""What every public class promises. A new method is tested here without being named."""

import copy
import inspect
import os
import pickle
import random
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpydoc.docscrape import ClassDoc
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_classifiers_train,
    check_dataframe_column_names_consistency,
    estimator_checks_generator,
)

import noisyfit
from noisyfit import Network, SimCLR, methods, mixtures
from noisyfit.noise import sym_incl
from noisyfit.outliers import KNNOutlierFilter

METHODS = [getattr(methods, name) for name in methods.__all__]
SPLITTERS = [cls for name in mixtures.__all__ if inspect.isclass(cls := getattr(mixtures, name))]
TRANSFORMERS = [SimCLR, KNNOutlierFilter]
CLASSES = METHODS + SPLITTERS + TRANSFORMERS
QUICK = Network(max_epochs=4, batch_size=32, device="cpu")  # also in processes of joblib
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda m: m.__name__)


def run_checks(estimator):
    skipped = []
    for instance, check in estimator_checks_generator(estimator):
        try:
            check(instance)
        except pytest.skip.Exception as reason:
            skipped.append(str(reason))
        except Exception as error:
            if type(error).__name__ != "SkipTest":
                raise
            skipped.append(str(error))
    return skipped


def to_check(cls):
    """An instance with fewer epochs, as a class is fitted some fifty times."""
    if cls in METHODS:
        return cls(Network(max_epochs=15))
    return cls(Network(max_epochs=2)) if cls is SimCLR else cls()


@every_class
def test_scikit_learn_checks_pass(cls):
    # the only check that may skip itself is the one about array API input, run below
    assert [s for s in run_checks(to_check(cls)) if "SCIPY_ARRAY_API" not in s] == []


@every_method
def test_defaults_learn_what_scikit_learn_asks_for(method):
    check_classifiers_train(method.__name__, method())


def test_scikit_learn_checks_pass_with_array_api():
    """In a process of its own, because scipy reads the variable when it is imported."""
    code = (
        "import torch; torch.set_num_threads(1)\n"
        "from tests.test_common import CLASSES, run_checks, to_check\n"
        "for cls in CLASSES:\n"
        "    assert run_checks(to_check(cls)) == [], cls\n"
    )
    env = os.environ | {"SCIPY_ARRAY_API": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@every_class
def test_column_names_are_checked(cls):
    check_dataframe_column_names_consistency(cls.__name__, to_check(cls))


@pytest.fixture(scope="module")
def noisy():
    """120 rows, 3 classes, 4 columns, 30 % of the labels redrawn."""
    X, y = make_blobs(120, n_features=4, centers=3, random_state=1)
    return X, sym_incl(y, 0.3, random_state=0).y


@every_method
def test_evidence_has_its_promised_shape(method, noisy):
    X, y = noisy
    clf = method(QUICK, random_state=0).fit(X, y)
    assert clf.clean_proba_.shape == (120,)
    assert np.isfinite(clf.clean_proba_).all()
    assert (clf.clean_proba_ >= 0).all()
    assert (clf.clean_proba_ <= 1).all()
    assert clf.refined_proba_.shape == (120, 3)
    np.testing.assert_allclose(clf.refined_proba_.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(clf.refined_labels_, clf.classes_[clf.refined_proba_.argmax(1)])
    assert 0 <= clf.noise_rate_ <= 1
    assert set(clf.dynamics_) == {"n_seen", "wrong_events", "margin", "proba"}
    assert all(values.shape == (120,) for values in clf.dynamics_.values())
    assert [row["epoch"] for row in pd.DataFrame(clf.history_).to_dict("records")] == [1, 2, 3, 4]
    assert len(clf.nets_) == method.n_networks
    doubted = clf.label_issues()
    assert (np.diff(clf.clean_proba_[doubted]) >= 0).all()
    assert set(doubted) == set(np.flatnonzero(clf.clean_proba_ < 0.5))
    clone(clf).fit(X, clf.refined_labels_)


@every_method
def test_same_seed_gives_equal_bits_and_another_seed_does_not(method, noisy):
    X, y = noisy
    a, b, c = (method(QUICK, random_state=seed).fit(X, y) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    np.testing.assert_array_equal(a.clean_proba_, b.clean_proba_)
    assert (a.predict_proba(X) != c.predict_proba(X)).any()


def fit_predict(method, X, y):
    torch.set_num_threads(1)
    return method(QUICK, random_state=0).fit(X, y).predict_proba(X)


@every_method
@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_parallel_fits_give_the_bits_of_a_serial_one(method, backend, noisy):
    X, y = noisy
    alone = fit_predict(method, X, y)
    work = (joblib.delayed(fit_predict)(method, X, y) for _ in range(4))
    for result in joblib.Parallel(n_jobs=2, backend=backend)(work):
        np.testing.assert_array_equal(result, alone)


@every_method
@pytest.mark.parametrize("seed", [0, None])
def test_global_generators_are_left_alone(method, seed, noisy):
    X, y = noisy
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    method(QUICK, random_state=seed).fit(X, y).predict(X)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


@every_method
def test_fitted_copies_predict_the_same(method, noisy, tmp_path):
    X, y = noisy
    clf = method(QUICK, random_state=0).fit(X, y)
    expected = clf.predict_proba(X)
    joblib.dump(clf, tmp_path / "clf")
    copies = pickle.loads(pickle.dumps(clf)), joblib.load(tmp_path / "clf"), copy.deepcopy(clf)
    for other in copies:
        np.testing.assert_array_equal(other.predict_proba(X), expected)
    assert not hasattr(clone(clf), "nets_")


def test_pickle_holds_no_training_set():
    X = np.zeros((20_000, 40)) + np.arange(40)
    y = np.arange(20_000) % 2
    net = Network(max_epochs=1, batch_size=1000)
    clf = methods.CrossEntropyClassifier(net, random_state=0).fit(X, y)
    assert len(pickle.dumps(clf)) < X.astype(np.float32).nbytes


def test_the_net_that_was_given_is_never_trained(noisy):
    X, y = noisy
    module = torch.nn.Linear(4, 3)
    before = copy.deepcopy(module.state_dict())
    methods.CrossEntropyClassifier(Network(module, max_epochs=2)).fit(X, y)
    assert all(torch.equal(module.state_dict()[k], before[k]) for k in before)


LABELS = {
    "str": lambda y: np.array(["ant", "bee", "cat"])[y],
    "object": lambda y: np.array(["ant", "bee", "cat"], dtype=object)[y],
    "bool": lambda y: y > 0,
    "signed": lambda y: y - 1,
    "gaps": lambda y: y * 10 + 3,
    "float": lambda y: y.astype(float),
    "uint8": lambda y: y.astype(np.uint8),
    "int32": lambda y: y.astype(np.int32),
    "list": lambda y: y.tolist(),
    "series": lambda y: pd.Series(y, index=np.arange(len(y))[::-1]),
    "unsorted": lambda y: np.array([7, -2, 5])[y],
    "column": lambda y: y[:, None],
}


@every_method
@pytest.mark.parametrize("kind", LABELS)
def test_any_kind_of_labels_comes_back_as_it_was(method, kind, noisy):
    X, codes = noisy
    y = LABELS[kind](codes)
    clf = method(Network(max_epochs=1, batch_size=64), random_state=0)
    if kind == "column":
        with pytest.warns(match="column-vector"):
            clf.fit(X, y)
    else:
        clf.fit(X, y)
    flat = np.asarray(y).reshape(-1)
    for labels in (clf.predict(X), clf.refined_labels_, clf.classes_):
        assert np.asarray(labels).dtype.kind == flat.dtype.kind
        assert set(labels) <= set(flat)
    np.testing.assert_array_equal(clf.classes_, np.unique(flat))


@every_method
def test_pipeline_grid_search_and_cross_validation_work(method, noisy):
    X, y = noisy
    own = {"MixupClassifier": "alpha", "DivideMixClassifier": "temperature"}.get(
        method.__name__, "net__batch_size"
    )
    values = [16, 32] if own == "net__batch_size" else [0.5, 1.0]
    clf = method(Network(max_epochs=2), random_state=0)
    grid = GridSearchCV(clf, {"net__lr": [0.01, 0.1], own: values}, cv=2, error_score="raise")
    grid.fit(pd.DataFrame(X, columns=list("abcd")), y)
    assert set(grid.best_params_) == {"net__lr", own}
    assert list(grid.best_estimator_.feature_names_in_) == list("abcd")
    pipe = make_pipeline(StandardScaler(), method(QUICK, random_state=0))
    scores = cross_val_score(pipe, X, y, cv=3, n_jobs=2, error_score="raise")
    assert scores.shape == (3,)


def corrupted(level):
    X, y = make_blobs(90, centers=3, random_state=2)
    return X, sym_incl(y, level, random_state=0).y


ODD_DATA = {
    "0 % noise": lambda: corrupted(0.0),
    "40 % noise": lambda: corrupted(0.4),
    "90 % noise": lambda: corrupted(0.9),
    "100 % noise": lambda: corrupted(1.0),
    "one class": lambda: (corrupted(0)[0], np.zeros(90, int)),
    "class of one": lambda: (corrupted(0)[0], np.r_[np.zeros(89, int), 1]),
    "fewer rows than a batch": lambda: tuple(a[:7] for a in corrupted(0.4)),
    "two rows": lambda: (np.eye(2), np.array([0, 1])),
    "last batch of one": lambda: tuple(a[:65] for a in corrupted(0.4)),
    "constant columns": lambda: (np.ones((90, 3)), corrupted(0.4)[1]),
}


@every_method
@pytest.mark.parametrize("case", ODD_DATA)
def test_odd_data_is_handled(method, case, recwarn):
    X, y = ODD_DATA[case]()
    net = Network(max_epochs=6, batch_size=32)
    clf = method(net, random_state=0).fit(X, y)
    assert np.isfinite(clf.predict_proba(X)).all()
    assert clf.clean_proba_.shape == (len(X),)
    assert [w for w in recwarn if w.category is not UserWarning] == []


@every_method
def test_a_batch_norm_module_takes_a_last_batch_of_one(method):
    X, y = (a[:65] for a in corrupted(0.4))

    class Normed(torch.nn.Sequential):
        def __init__(self, n_features, n_classes):
            norm = torch.nn.BatchNorm1d(8)
            super().__init__(torch.nn.Linear(n_features, 8), norm, torch.nn.Linear(8, n_classes))

    method(Network(Normed, max_epochs=6, batch_size=64), random_state=0).fit(X, y)


@every_method
def test_clean_labels_cost_at_most_a_point_against_plain_training(method):
    gaps = []
    for seed in range(5):
        X, y = make_blobs(600, centers=3, cluster_std=1.0, random_state=seed)
        plain, robust = (
            cls(random_state=seed).fit(X[:300], y[:300]).score(X[300:], y[300:])
            for cls in (methods.CrossEntropyClassifier, method)
        )
        gaps.append(robust - plain)
    assert np.mean(gaps) >= -0.01


@every_method
def test_noisy_labels_are_found(method):
    X, y = make_blobs(300, centers=3, random_state=0)
    noisy = sym_incl(y, 0.4, random_state=0)
    clf = method(random_state=0).fit(X, noisy.y)
    doubt = clf.clean_proba_[noisy.changed].mean()
    assert doubt < clf.clean_proba_[~noisy.changed].mean() - 0.2
    assert accuracy_score(y, clf.refined_labels_) > accuracy_score(y, noisy.y)


@every_class
def test_docstring_names_every_parameter_and_fitted_attribute(cls):
    doc = ClassDoc(cls)
    documented = {p.name for p in doc["Parameters"]}
    assert documented == set(inspect.signature(cls).parameters)
    assert doc["References"]
    assert doc["Examples"]
    attributes = {n.strip() for p in doc["Attributes"] for n in p.name.split(",")}
    if cls in METHODS:
        X, y = corrupted(0.4)
        fitted = cls(QUICK, random_state=0).fit(pd.DataFrame(X, columns=["a", "b"]), y)
        public = {n for n in vars(fitted) if n.endswith("_") and not n.startswith("_")}
        assert public == attributes


def test_every_method_is_exported_at_the_top():
    assert {m.__name__ for m in METHODS} <= set(noisyfit.__all__)
