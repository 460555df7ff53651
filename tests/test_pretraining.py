"""`pretrain=` of every method: where networks start, from what, and what is refused."""

import pickle
import random
from collections import OrderedDict

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import Dataset

from noisyfit import (
    BaseNoisyClassifier,
    CoTeachingClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    JointOptimizationClassifier,
    Network,
    SimCLR,
    methods,
)
from noisyfit._learner import Learner
from noisyfit._pretraining import match, prefixes
from noisyfit.augment import AutoAugment, FeatureCorruption
from noisyfit.modules import MLP, EncoderClassifier, SmallCNN, TorchvisionBackbone
from noisyfit.noise import sym_incl
from tests.test_common import run_checks

METHODS = [getattr(methods, name) for name in methods.__all__]
every_method = pytest.mark.parametrize("method", METHODS, ids=lambda m: m.__name__)

X, Y = make_blobs(90, n_features=4, centers=3, random_state=1)
NOISY = sym_incl(Y, 0.3, random_state=0).y
IMAGES = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), dtype=np.uint8)
LABELS = np.arange(24) % 3
NET = Network(MLP, module__hidden=(16, 8), max_epochs=3, batch_size=32)
BRIEF = Network(max_epochs=1, batch_size=90)  # its module is that of the method
FITTED = SimCLR(clone(NET).set_params(max_epochs=1, batch_size=90), random_state=3).fit(X)


class Stop(Exception):
    """Ends a fit where training would begin."""


def spied(method, stop=False):
    """`method` as a class that keeps the weights its networks start from."""

    class Spy(method):
        def _begin(self, run):
            modules = [learner.module for learner in run.learners]
            self.pointers = [p.data_ptr() for m in modules for p in m.parameters()]
            states = [m.state_dict() for m in modules]
            self.starts = [{k: v.clone() for k, v in state.items()} for state in states]
            self.draws = run.generator.get_state(), run.rng.bit_generator.state
            if stop:
                raise Stop
            super()._begin(run)

    return Spy


def start(pretrain, net=NET, x=X, y=NOISY, method=CrossEntropyClassifier, **params):
    """Weights at the start, by network."""
    clf = spied(method, stop=True)(net, pretrain=pretrain, **{"random_state": 0} | params)
    with pytest.raises(Stop):
        clf.fit(x, y)
    return clf.starts


def assert_equal(state, other, below="body."):
    """Two state dicts agree below the head and only there."""
    assert list(state) == list(other)
    for key in state:
        assert torch.equal(state[key], other[key]) == key.startswith(below), key


# ---- every method ----------------------------------------------------------------------------


@every_method
def test_every_method_starts_from_what_simclr_has_learnt(method):
    simclr = SimCLR(BRIEF, random_state=3)
    clf = spied(method)(NET, pretrain=simclr, random_state=0).fit(X, NOISY)
    encoder = FITTED.encoder_.state_dict()
    assert len(clf.starts) == method.n_networks
    for state in clf.starts:
        for key in encoder:
            assert torch.equal(state[key], encoder[key]), key
    heads = [state["classifier.weight"] for state in clf.starts]
    assert len(heads) == 1 or not torch.equal(*heads)
    assert len(set(clf.pointers)) == len(clf.pointers) == 6 * method.n_networks  # nothing is shared
    assert np.isfinite(clf.predict_proba(X)).all()
    assert not hasattr(simclr, "encoder_")


@pytest.mark.parametrize(
    "method", [CrossEntropyClassifier, CoTeachingClassifier, DivideMixClassifier]
)
def test_scikit_learn_checks_pass_with_pretraining(method):
    net = Network(max_epochs=6, batch_size=128, lr=0.1)
    clf = method(net, pretrain=SimCLR(Network(max_epochs=1, batch_size=256)))
    assert [s for s in run_checks(clf) if "SCIPY_ARRAY_API" not in s] == []


def test_a_method_of_ones_own_needs_no_such_parameter():
    class Own(BaseNoisyClassifier):
        def __init__(
            self, net=None, *, augment=None, clean_score="auto", random_state=None, verbose=0
        ):
            self.net = net
            self.augment = augment
            self.clean_score = clean_score
            self.random_state = random_state
            self.verbose = verbose

        def _loss(self, run, batch, t):
            return nn.functional.cross_entropy(run.learners[0](run.view(batch.x)), batch.y)

    clf = Own(NET, random_state=0).fit(X, Y)
    assert clf.score(X, Y) > 0.5
    assert "pretrain" not in clf.get_params()


# ---- randomness ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [CrossEntropyClassifier, DivideMixClassifier])
def test_pretraining_changes_no_other_draw_of_the_method(method):
    plain, trained = (
        spied(method)(NET, pretrain=pretrain, random_state=0).fit(X, NOISY)
        for pretrain in (None, SimCLR(BRIEF))
    )
    assert torch.equal(plain.draws[0], trained.draws[0])
    assert plain.draws[1] == trained.draws[1]
    for before, after in zip(plain.starts, trained.starts, strict=True):
        assert_equal(before, after, below="classifier.")


def test_the_start_of_the_method_given_as_encoder_changes_nothing():
    plain = spied(CrossEntropyClassifier)(NET, random_state=0).fit(X, NOISY)
    given = CrossEntropyClassifier(NET, pretrain=plain.starts[0], random_state=0).fit(X, NOISY)
    np.testing.assert_array_equal(plain.predict_proba(X), given.predict_proba(X))
    np.testing.assert_array_equal(plain.clean_proba_, given.clean_proba_)


def test_the_seed_of_the_method_is_that_of_the_pretraining_unless_it_has_one():
    (a,), (b,), (c,) = (start(SimCLR(BRIEF), random_state=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a["body.0.weight"], c["body.0.weight"])
    (d,), (e,) = (start(SimCLR(BRIEF, random_state=5), random_state=seed) for seed in (0, 1))
    assert_equal(d, e)


@pytest.mark.parametrize("seed", [0, None])
def test_global_generators_are_left_alone(seed):
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    CrossEntropyClassifier(NET, pretrain=SimCLR(BRIEF), random_state=seed).fit(X, NOISY)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def fit_predict():
    clf = CoTeachingClassifier(NET, pretrain=SimCLR(BRIEF), random_state=0)
    return clf.fit(X, NOISY).predict_proba(X)


def test_threads_give_the_bits_of_a_serial_fit():
    alone = fit_predict()
    work = (joblib.delayed(fit_predict)() for _ in range(4))
    for result in joblib.Parallel(n_jobs=2, backend="threading")(work):
        np.testing.assert_array_equal(result, alone)


# ---- sources ---------------------------------------------------------------------------------


def prefixed(prefix, state):
    """Keys below the body as an encoder saved on its own has them, behind `prefix`."""
    return OrderedDict((prefix + key.removeprefix("body."), v) for key, v in state.items())


def whole(head):
    """A classifier for other classes whose body is the encoder's."""
    module = MLP(4, head, hidden=(16, 8))
    module.load_state_dict(FITTED.encoder_.state_dict(), strict=False)
    return module


SOURCES = {
    "fitted": lambda: FITTED,
    "frozen": lambda: FrozenEstimator(FITTED),
    "encoder": lambda: FITTED.encoder_,
    "its body": lambda: FITTED.encoder_.body,
    "state dict": lambda: FITTED.encoder_.state_dict(),
    "plain dict": lambda: dict(FITTED.encoder_.state_dict()),
    "parallel": lambda: {f"module.{k}": v for k, v in FITTED.encoder_.state_dict().items()},
    "without body": lambda: prefixed("", FITTED.encoder_.state_dict()),
    "other prefix": lambda: prefixed("encoder.net.", FITTED.encoder_.state_dict()),
    "with more in it": lambda: {"epoch": 3, 7: None} | whole(11).state_dict(),
    "network": lambda: whole(3),
    "network for other classes": lambda: whole(11),
    "compiled": lambda: torch.compile(whole(5), backend="eager"),
    "double": lambda: whole(3).double(),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_start(source):
    pretrain = SOURCES[source]()
    (expected,) = start(SimCLR(BRIEF, random_state=3))
    (state,) = start(pretrain)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    for clf in (CrossEntropyClassifier(pretrain=pretrain), DivideMixClassifier(pretrain=pretrain)):
        clone(clf)
        repr(clf)


@pytest.mark.parametrize("as_type", [str, lambda path: path])
@pytest.mark.parametrize("source", ["state dict", "network", "other prefix"])
def test_a_saved_state_dict_is_read_from_its_path(tmp_path, source, as_type):
    state = SOURCES[source]()
    path = tmp_path / "encoder.pt"
    torch.save(state.state_dict() if isinstance(state, nn.Module) else state, path)
    (expected,), (read,) = start(FITTED), start(as_type(path))
    assert all(torch.equal(read[key], expected[key]) for key in expected)


def test_the_encoder_that_was_given_is_not_trained():
    module = whole(3)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    clf = CrossEntropyClassifier(NET, pretrain=module, random_state=0).fit(X, NOISY)
    assert all(torch.equal(module.state_dict()[key], before[key]) for key in before)
    trained = clf.nets_[0].module_
    assert not torch.equal(trained.body[0].weight, before["body.0.weight"])
    assert all(p.requires_grad for p in trained.parameters())


def test_batch_statistics_belong_to_the_encoder():
    net = Network(SmallCNN, max_epochs=1, batch_size=12)
    simclr = SimCLR(net, random_state=0).fit(IMAGES)
    state = simclr.encoder_.state_dict()
    assert state["body.1.running_mean"].any()
    (begun,) = start(simclr, net, IMAGES, LABELS)
    assert all(torch.equal(begun[key], state[key]) for key in state)
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    (begun,) = start(old, net, IMAGES, LABELS)
    assert all(torch.equal(begun[key], old[key]) for key in old)


@pytest.fixture(scope="module")
def resnet18():
    from torchvision import models

    with torch.random.fork_rng():
        torch.manual_seed(3)
        return models.resnet18(num_classes=17)


def test_a_file_of_torchvision_starts_its_backbone(resnet18, tmp_path):
    torch.save(resnet18.state_dict(), tmp_path / "resnet18.pt")
    net = Network(TorchvisionBackbone, module__name="resnet18", max_epochs=1)
    images = np.zeros((4, 3, 32, 32), dtype=np.uint8)
    (state,) = start(tmp_path / "resnet18.pt", net, images, np.arange(4) % 2)
    theirs = resnet18.state_dict()
    body = {k.removeprefix("body."): v for k, v in state.items() if k.startswith("body.")}
    assert set(theirs) - set(body) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(body[key], theirs[key]) for key in body)


def test_an_encoder_of_any_make_starts_below_a_linear_classifier():
    def encoder():
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU())

    given = encoder()
    options = {"module__encoder": encoder(), "module__n_embedded": 6}
    net = Network(EncoderClassifier, **options, max_epochs=1)
    (state,) = start(given, net)
    assert torch.equal(state["body.0.0.weight"], given[0].weight)
    (state,) = start(SimCLR(BRIEF, random_state=0), net)
    assert not torch.equal(state["body.0.0.weight"], net.get_params()["module__encoder"][0].weight)


def test_prefixes_are_those_that_fit_all_keys():
    keys = ["body.0.weight", "body.0.bias", "body.1.num_batches_tracked"]
    several = ["query.0.weight", "query.0.bias", "key.0.weight"]
    assert prefixes(keys, several) == ("query.", "body.")
    assert prefixes(keys, several[2:]) == ("", "")
    assert prefixes(keys, keys) == ("", "")
    assert prefixes(keys, {}) == ("", "")


def test_a_match_is_what_lies_below_the_head():
    module, state = MLP(4, 3, hidden=(8,)), MLP(4, 3, hidden=(8,)).state_dict()
    below = [key for key in state if key.startswith("body.")]
    assert set(match(module, below, state)) == set(below)


# ---- together with the rest ------------------------------------------------------------------


def test_by_default_images_are_pretrained_where_that_is_asked_for(monkeypatch):
    brief = SimCLR(Network(max_epochs=1, batch_size=12))
    monkeypatch.setattr("noisyfit._base.SimCLR", lambda: brief)
    net = Network(SmallCNN, max_epochs=1, batch_size=12)
    (auto,), (own,) = (start(p, net, IMAGES, LABELS) for p in ("auto", brief))
    assert all(torch.equal(auto[key], own[key]) for key in own)
    (table,), (plain,) = start("auto"), start(None)
    assert all(torch.equal(table[key], plain[key]) for key in plain)


def test_grid_search_chooses_start_and_temperature():
    clf = CrossEntropyClassifier(NET, random_state=0)
    values = [None, SimCLR(BRIEF), FITTED.encoder_, FITTED.encoder_.state_dict(), FITTED]
    grid = GridSearchCV(clf, {"pretrain": values}, cv=2, error_score="raise").fit(X, NOISY)
    scores = grid.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert scores[2] == scores[3]
    clf = CrossEntropyClassifier(NET, pretrain=SimCLR(), random_state=0)
    names = {"pretrain__temperature": [0.1, 0.5], "pretrain__net__max_epochs": [1]}
    grid = GridSearchCV(clf, names, cv=2, error_score="raise").fit(X, NOISY)
    assert set(grid.best_params_) == set(names)
    assert grid.best_estimator_.pretrain.net.max_epochs == 1
    assert clf.pretrain.net is None


def test_a_network_that_is_restarted_returns_to_the_encoder(monkeypatch):
    restarted = []
    original = Learner.restart

    def restart(learner):
        original(learner)
        restarted.append({k: v.clone() for k, v in learner.module.state_dict().items()})

    monkeypatch.setattr(Learner, "restart", restart)
    clf = JointOptimizationClassifier(
        NET, retrain=True, relabel_until=2, warmup=1, pretrain=FITTED, random_state=0
    )
    clf.fit(X, NOISY)
    expected = FITTED.encoder_.state_dict()
    assert len(restarted) == 1
    assert all(torch.equal(restarted[0][key], expected[key]) for key in expected)


def test_rows_that_are_held_out_are_never_seen():
    seen = []

    def view(x, generator):
        seen.append(x)
        return FeatureCorruption()(x, generator)

    net = clone(NET).set_params(train_split=ValidSplit(0.3, random_state=0), normalize=None)
    start(SimCLR(BRIEF, view=view), net)
    rows = {tuple(row) for row in torch.cat(seen).tolist()}
    assert len(rows) == 63
    assert rows < {tuple(row) for row in X.astype(np.float32).tolist()}


def test_streamed_rows_are_pretrained_on_like_resident_ones():
    class Stream(Dataset):
        def __len__(self):
            return 24

        def __getitem__(self, i):
            return IMAGES[i], LABELS[i]

    net = Network(SmallCNN, max_epochs=2, batch_size=12)
    simclr = SimCLR(Network(max_epochs=1, batch_size=12))
    resident, streamed = (
        CrossEntropyClassifier(net, pretrain=simclr, random_state=0).fit(x, y).predict_proba(IMAGES)
        for x, y in ((IMAGES, LABELS), (Stream(), None))
    )
    np.testing.assert_array_equal(resident, streamed)


def test_a_fitted_method_with_pretraining_pickles():
    clf = CrossEntropyClassifier(NET, pretrain=SimCLR(BRIEF), random_state=0).fit(X, NOISY)
    again = pickle.loads(pickle.dumps(clf))
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))


def test_options_of_the_methods_module_are_those_of_the_pretraining():
    own = Network(max_epochs=1, module__hidden=(3,))  # of which the method's module has another
    (expected,), (state,) = (
        start(SimCLR(net, random_state=3)) for net in (Network(max_epochs=1), own)
    )
    assert all(torch.equal(state[key], expected[key]) for key in expected)


# ---- errors ----------------------------------------------------------------------------------


def refused(pretrain, error, message, net=NET, x=X, y=NOISY):
    clf = spied(CrossEntropyClassifier, stop=True)(net, pretrain=pretrain)
    with pytest.raises(error, match=message):
        clf.fit(x, y)
    assert not hasattr(clf, "starts")
    assert not hasattr(clf, "nets_")


def without(key):
    return {k: v for k, v in FITTED.encoder_.state_dict().items() if k != key}


@pytest.mark.parametrize(
    ("pretrain", "error", "message"),
    [
        (3, TypeError, "pretrain must be SimCLR"),
        (SimCLR, TypeError, "pretrain must be SimCLR"),
        (MLP, TypeError, "pretrain must be SimCLR"),
        (np.ones(3), TypeError, "pretrain must be SimCLR"),
        (CrossEntropyClassifier(), TypeError, "pretrain must be SimCLR"),
        ("simclr", ValueError, "pretrain='simclr' is no file"),
        ({}, ValueError, "pretrain holds another network than MLP: it has no 'body.0.weight'"),
        (without("body.3.bias"), ValueError, "it has no 'body.3.bias'"),
        (MLP(5, 3, hidden=(16, 8)), ValueError, r"has shape \(16, 5\), not \(16, 4\)"),
        (MLP(4, 3, hidden=(16, 9)), ValueError, r"'body.3.weight' has shape \(9, 16\)"),
        (SmallCNN((1, 8, 8), 3), ValueError, "pretrain holds another network than MLP"),
        (SimCLR(temperature=-1), ValueError, "temperature"),
        ({"state_dict": {}}, ValueError, "it has no 'body.0.weight'"),
    ],
)
def test_what_gives_no_encoder_is_refused_before_training(pretrain, error, message):
    refused(pretrain, error, message)


FILES = {
    "text": lambda path: path.write_text("some text, but no weights"),
    "empty": lambda path: path.write_bytes(b""),
    "module": lambda path: torch.save(MLP(4, 3), path),
    "list": lambda path: torch.save([torch.ones(3)], path),
    "pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_without_a_state_dict_is_refused_before_training(kind, tmp_path):
    path = tmp_path / "encoder.pt"
    FILES[kind](path)
    refused(path, ValueError, r"encoder\.pt holds no state dict")
    refused(tmp_path, ValueError, "is no file")


@pytest.mark.parametrize("pretrain", [SimCLR(BRIEF), {}, FITTED])
@pytest.mark.parametrize(
    "module", [nn.Linear(4, 3), MLP(4, 3, hidden=()), nn.Sequential(nn.Linear(4, 3), nn.Tanh())]
)
def test_a_module_with_nothing_to_start_is_refused(module, pretrain):
    refused(pretrain, ValueError, "does not end in one, or has none below it", Network(module))


def test_pretraining_of_another_network_is_refused_before_it_begins(monkeypatch):
    monkeypatch.setattr("noisyfit._simclr.nt_xent", None)  # would be called by the first step
    other = SimCLR(Network(MLP, module__hidden=(16, 9)))
    refused(other, ValueError, r"'body.3.weight' has shape \(9, 16\), not \(8, 16\)")
    refused(SimCLR(Network("small")), ValueError, "module must be 'auto'")
    changing = SimCLR(BRIEF, view=lambda x, g: x[:, 1:])
    refused(changing, ValueError, "view=.* changes the shape")


def test_a_pretraining_that_diverges_leaves_the_method_unfitted():
    clf = CrossEntropyClassifier(NET, pretrain=SimCLR(Network(lr=1e30)), random_state=0)
    with pytest.raises(ValueError, match="training loss became"):
        clf.fit(X, NOISY)
    assert not hasattr(clf, "nets_")


class NoDropout(nn.Module):
    """A network of a user that has no dropout layer."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, x):
        return self.layer(x)


class Rescaled(NoDropout):
    """One that does not end in a linear layer."""

    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("DivideMixClassifier", {"warmup": 60}, "longer than the training"),
        ("DivideMixClassifier", {"strong_augment": AutoAugment()}, "Expected images"),
        ("DivideMixClassifier", {"class_prior": [0.5, 0.5]}, "class_prior"),
        ("BayesianDivideMixPP", {"dropout_position": "blocks"}, "needs a module with dropout"),
        ("ManifoldDivideMixClassifier", {"net__module": Rescaled}, "does not end in one"),
        ("ManifoldDivideMixClassifier", {"strong_augment": AutoAugment()}, "Expected images"),
    ],
)
def test_what_cannot_work_is_refused_before_the_pretraining(monkeypatch, name, params, message):
    calls = []
    monkeypatch.setattr(SimCLR, "encoder_for", lambda *args: calls.append(args))
    net = Network(NoDropout, max_epochs=3)
    clf = getattr(methods, name)(net, pretrain=SimCLR(Network(max_epochs=1)))
    with pytest.raises(ValueError, match=message):
        clf.set_params(**params).fit(X, NOISY)
    assert not calls
