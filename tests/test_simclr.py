"""SimCLR as a transformer: what it learns without labels, and what scikit-learn asks of it."""

import copy
import inspect
import pickle
import random
import re
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpydoc.docscrape import ClassDoc
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import Dataset

from noisyfit import CrossEntropyClassifier, Network, SimCLR
from noisyfit._simclr import _default_net
from noisyfit.augment import FeatureCorruption, SimCLRView
from noisyfit.losses import nt_xent
from noisyfit.modules import MLP, EncoderClassifier, PreActResNet18, SmallCNN
from noisyfit.schedules import Cosine

X, Y = make_blobs(90, n_features=6, centers=3, random_state=0)
GREY = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
MLP8 = Network(MLP, module__hidden=(16, 8), max_epochs=2, batch_size=32)
CNN = Network(SmallCNN, max_epochs=2, batch_size=16)
IMAGES = {
    "uint8": COLOUR,
    "channels last": COLOUR.transpose(0, 2, 3, 1),
    "float": (COLOUR / 255).astype(np.float32),
    "tensor": torch.from_numpy(COLOUR),
    "grey": GREY,
    "list": list(COLOUR),
}


def fit(net=MLP8, x=X, **params):
    return SimCLR(net, **{"random_state": 0} | params).fit(x)


class Stream(Dataset):
    """Rows with labels that are not to be seen."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i], "no label"


# ---- what is learnt --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["table", "images"])
def test_twenty_steps_lower_the_loss(kind, digits):
    if kind == "table":
        net = Network(MLP, max_epochs=20, batch_size=90, lr=0.1, lr_schedule="constant")
        x = X
    else:
        net = Network(SmallCNN, max_epochs=20, batch_size=150, lr=0.1, lr_schedule="constant")
        x = digits[0][:150]
    losses = [row["train_loss"] for row in fit(net, x).history_]
    assert len(losses) == 20
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


@pytest.mark.parametrize("seed", [0, 1])
def test_embeddings_tell_classes_that_were_never_seen(seed):
    """Where twenty labels are known: better than the columns, and than a network at its start."""
    rng = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = rng.normal(size=(4, 20))[y] * 1.2 + rng.normal(size=(400, 20)) * 1.5
    net = Network(max_epochs=20, batch_size=200, lr=0.1)
    trained, at_start = (fit(n, x, random_state=seed) for n in (net, Network(lr=1e-9)))
    scores = []
    for features in (trained.transform(x), at_start.transform(x), x):
        scaled = (features - features.mean(0)) / (features.std(0) + 1e-6)
        neighbour = KNeighborsClassifier(1).fit(scaled[:20], y[:20])
        scores.append(neighbour.score(scaled[20:], y[20:]))
    assert scores[0] > max(scores[1:]) + 0.03


def test_history_has_a_row_per_epoch_with_the_mean_loss(monkeypatch):
    seen = []

    def spy(first, second, temperature, base_temperature):
        seen.append((first.shape, second.shape, temperature, base_temperature))
        losses = nt_xent(first, second, temperature, base_temperature)
        seen[-1] += (losses.mean().item(),)
        return losses

    monkeypatch.setattr("noisyfit._simclr.nt_xent", spy)
    clf = fit(temperature=0.3, base_temperature=0.07, n_projected=5)
    rows = clf.history_
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(set(row) == {"epoch", "train_loss", "lr", "seconds"} for row in rows)
    assert [call[:4] for call in seen] == [((n, 5), (n, 5), 0.3, 0.07) for n in (32, 32, 26) * 2]
    assert rows[0]["train_loss"] == pytest.approx(np.mean([call[4] for call in seen[:3]]))


def test_base_temperature_is_a_factor_of_the_loss():
    net = clone(MLP8).set_params(max_epochs=1, batch_size=90)
    plain, scaled = (
        fit(net, temperature=0.5, base_temperature=base).history_[0]["train_loss"]
        for base in (None, 0.07)
    )
    assert scaled == pytest.approx(plain * 0.5 / 0.07, rel=1e-5)


def test_one_step_is_the_gradient_of_the_loss_by_hand():
    """Two views by the view, the projection head, plain gradient descent; the head is trained."""
    calls = []

    def view(x, generator):
        calls.append(x.clone())
        return x + 0.1 * len(calls)

    net = Network(
        MLP,
        module__hidden=(16, 8),
        max_epochs=1,
        batch_size=90,
        lr=0.5,
        lr_schedule="constant",
        optimizer__momentum=0.0,
        optimizer__nesterov=False,
        optimizer__weight_decay=0.0,
    )
    start = fit(clone(net).set_params(lr=1e-30), view=view).encoder_
    calls.clear()
    clf = fit(net, view=view)
    x = calls[-1]
    assert len(calls) == 3  # the first was tried for its shape
    encoder = copy.deepcopy(start).requires_grad_(True)
    with torch.random.fork_rng():
        torch.manual_seed(seed_of_start(0))
        project = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 128))
    views = [encoder(x + 0.1 * k) for k in (2, 3)]
    loss = nt_xent(project(views[0]), project(views[1])).mean()
    assert clf.history_[0]["train_loss"] == pytest.approx(loss.item(), rel=1e-5)
    loss.backward()
    for ours, p in zip(clf.encoder_.parameters(), encoder.parameters(), strict=True):
        torch.testing.assert_close(ours, p - 0.5 * p.grad, rtol=0, atol=1e-5)


def seed_of_start(random_state):
    from noisyfit._random import draw_seed, spawn_seeds

    return spawn_seeds(draw_seed(random_state), 3)[0]


def test_labels_are_never_seen():
    one, two, three = (SimCLR(MLP8, random_state=0).fit(X, y) for y in (None, Y, "no labels"))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    np.testing.assert_array_equal(one.transform(X), three.transform(X))


def test_projection_head_and_last_layer_are_thrown_away():
    clf = fit()
    assert isinstance(clf.encoder_, MLP)
    assert isinstance(clf.encoder_.classifier, nn.Identity)
    shapes = [tuple(p.shape) for p in clf.encoder_.parameters()]
    assert shapes == [(16, 6), (16,), (8, 16), (8,)]
    assert not clf.encoder_.training
    assert not any(p.requires_grad or p.grad is not None for p in clf.encoder_.parameters())
    table = clf._input_scale_.table(X)
    np.testing.assert_allclose(clf.transform(X), clf.encoder_.features(table), atol=1e-6)


def test_the_default_view_fits_the_shape():
    clf = SimCLR()
    assert clf._resolve_view((5,)) == FeatureCorruption()
    assert clf._resolve_view((1, 8, 8)) == SimCLRView(flip=False)
    assert clf._resolve_view((3, 8, 8)) == SimCLRView(flip=True)
    assert SimCLR(view=max)._resolve_view((3, 8, 8)) is max


# ---- as a transformer ------------------------------------------------------------------------


def test_outputs_are_named_and_float32():
    clf = fit(x=pd.DataFrame(X, columns=list("abcdef")))
    assert list(clf.feature_names_in_) == list("abcdef")
    assert list(clf.get_feature_names_out()) == [f"simclr{i}" for i in range(8)]
    frame = clf.set_output(transform="pandas").transform(pd.DataFrame(X, columns=list("abcdef")))
    assert list(frame.columns) == list(clf.get_feature_names_out())
    assert set(frame.dtypes) == {np.dtype(np.float32)}
    for dtype in (np.float32, np.float64):
        assert fit().transform(X.astype(dtype)).dtype == np.float32
    assert SimCLR().__sklearn_tags__().transformer_tags.preserves_dtype == ["float32"]
    with pytest.raises(Exception, match="not fitted"):
        SimCLR().get_feature_names_out()


def test_pipeline_and_grid_search_work():
    pipe = make_pipeline(SimCLR(random_state=0), LogisticRegression(max_iter=300))
    grid = GridSearchCV(
        pipe,
        {"simclr__temperature": [0.1, 0.5], "simclr__net__max_epochs": [1]},
        cv=2,
        error_score="raise",
    )
    grid.fit(X, Y)
    assert grid.best_score_ > 0.8
    assert grid.best_estimator_[0].net.batch_size == _default_net().batch_size


def test_embeddings_of_rows_do_not_depend_on_the_others():
    clf = fit(x=list(COLOUR), net=CNN)
    whole = clf.transform(COLOUR)
    assert whole.shape == (30, 128)
    np.testing.assert_array_equal(clf.transform(COLOUR), whole)
    np.testing.assert_allclose(clf.transform(COLOUR[3:5]), whole[3:5], atol=1e-5)
    np.testing.assert_allclose(clf.transform(COLOUR[7:8]), whole[7:8], atol=1e-5)


def test_same_seed_gives_equal_bits_and_leaves_global_generators_alone():
    before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    net = Network(MLP, module__hidden=(8,), module__dropout=0.2, max_epochs=2, batch_size=32)
    a, b, c, d = (fit(net, random_state=seed).transform(X) for seed in (0, 0, 1, None))
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()
    assert (a != d).any()
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[2])


def test_parallel_fits_give_the_bits_of_a_serial_one():
    alone = fit().transform(X)
    work = (joblib.delayed(fit)() for _ in range(4))
    for clf in joblib.Parallel(n_jobs=2, backend="threading")(work):
        np.testing.assert_array_equal(clf.transform(X), alone)


def test_copies_embed_the_same_and_the_net_is_not_trained(tmp_path):
    net = Network(MLP(6, 3, hidden=(8,)), max_epochs=1)
    before = copy.deepcopy(net.module.state_dict())
    clf = fit(net)
    assert all(torch.equal(net.module.state_dict()[k], before[k]) for k in before)
    assert (clf.encoder_.body[0].weight != before["body.0.weight"]).any()
    joblib.dump(clf, tmp_path / "clf")
    for other in (pickle.loads(pickle.dumps(clf)), joblib.load(tmp_path / "clf")):
        np.testing.assert_array_equal(other.transform(X), clf.transform(X))
    assert not hasattr(clone(clf), "encoder_")


def test_docstring_names_every_parameter_and_fitted_attribute():
    doc = ClassDoc(SimCLR)
    assert {p.name for p in doc["Parameters"]} == set(inspect.signature(SimCLR).parameters)
    fitted = fit(x=pd.DataFrame(X, columns=list("abcdef")))
    public = {n for n in vars(fitted) if n.endswith("_") and not n.startswith("_")}
    assert public == {p.name for p in doc["Attributes"]}


# ---- data of all kinds -----------------------------------------------------------------------


@pytest.mark.parametrize("kind", IMAGES)
def test_images_of_every_kind_are_embedded(kind):
    x = IMAGES[kind]
    clf = fit(CNN, x)
    assert clf.transform(x).shape == (30, 128)
    assert clf.n_features_in_ == (64 if kind == "grey" else 192)
    if kind in ("channels last", "tensor", "list"):
        np.testing.assert_array_equal(clf.transform(x), fit(CNN, COLOUR).transform(COLOUR))
    if kind == "uint8":
        with pytest.raises(ValueError, match="0 to 1"):
            clf.transform((COLOUR / 255).astype(np.float32))
        with pytest.raises(ValueError, match="expecting them as"):
            clf.transform(X)


def test_streamed_images_and_files_embed_like_resident_ones(tmp_path):
    resident = fit(CNN, COLOUR).transform(COLOUR)
    streamed = fit(CNN, Stream(torch.from_numpy(COLOUR)))
    np.testing.assert_array_equal(streamed.transform(Stream(torch.from_numpy(COLOUR))), resident)
    paths = [tmp_path / f"{i}.png" for i in range(30)]
    for path, image in zip(paths, COLOUR, strict=True):
        Image.fromarray(image.transpose(1, 2, 0)).save(path)
    files = fit(CNN, paths)
    np.testing.assert_array_equal(files.transform([str(path) for path in paths]), resident)


def test_a_streamed_table_embeds_like_a_resident_one():
    table = X.astype(np.float32)
    net = clone(MLP8).set_params(normalize=None, lr=0.01)  # a data set of floats is scaled already
    resident, streamed = fit(net, table), fit(net, Stream(table))
    np.testing.assert_array_equal(streamed.transform(Stream(table)), resident.transform(table))


def test_loader_workers_of_the_net_also_fetch_what_is_transformed(monkeypatch):
    clf = fit(CNN, COLOUR)
    asked = []
    original = sys.modules["noisyfit._simclr"].as_data

    def spy(source, codes, scale, device, net, *seed):
        asked.append(net.get_params_for("iterator_train"))
        return original(source, codes, scale, device, net, *seed)

    monkeypatch.setattr("noisyfit._simclr.as_data", spy)
    clf.set_params(net__iterator_train__num_workers=3).transform(COLOUR)
    assert asked == [{"num_workers": 3}]


@pytest.mark.parametrize("n", [2, 3, 65])
def test_few_rows_and_a_last_batch_of_one_are_handled(n):
    norm = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    x = np.random.default_rng(0).normal(size=(n, 2))
    clf = fit(Network(norm, max_epochs=2, batch_size=64), x)
    assert np.isfinite(clf.transform(x)).all()
    assert np.isfinite(clf.history_[-1]["train_loss"])


def test_constant_rows_are_handled():
    assert np.isfinite(fit(x=np.ones((20, 3))).transform(np.ones((4, 3)))).all()


# ---- nets of all kinds -----------------------------------------------------------------------


def test_a_plain_skorch_net_is_trained():
    net = NeuralNetClassifier(MLP, module__hidden=(8,), max_epochs=3, batch_size=30, lr=0.1)
    clf = fit(net)
    assert [row["lr"] for row in clf.history_] == [0.1] * 3
    assert clf.transform(X).shape == (90, 8)


def test_the_default_net_is_the_documented_one():
    doc = " ".join(SimCLR.__doc__.replace("`", "").split())
    code = re.search(r"default (Network\(.*?\))\.", doc)
    documented = eval(code[1], {"Network": Network, "Cosine": Cosine})
    assert documented.get_params() == _default_net().get_params()


def test_a_linear_classifier_on_the_encoder_trains_alone():
    encoder = fit().encoder_
    options = {"module__encoder": encoder, "module__n_embedded": 8}
    net = Network(EncoderClassifier, **options, max_epochs=20, lr=0.5)
    clf = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    module = clf.nets_[0].module_
    for ours, theirs in zip(module.body.parameters(), encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert clf.score(X, Y) > 0.8


def test_parameters_of_the_default_net_change_one_at_a_time():
    default, net = _default_net().get_params(), SimCLR().set_params(net__lr=0.123).net
    assert net.get_params() | {"lr": default["lr"]} == default
    assert net.lr == 0.123
    assert SimCLR().net is None
    own = SimCLR(Network(max_epochs=3)).set_params(net__lr=0.2).net
    assert (own.max_epochs, own.batch_size, own.lr) == (3, 64, 0.2)
    again = SimCLR(Network(max_epochs=3)).set_params(net=None, net__max_epochs=7).net
    assert (again.max_epochs, again.batch_size) == (7, default["batch_size"])


def test_learning_rate_follows_the_schedule_of_the_net():
    clf = fit(clone(MLP8).set_params(max_epochs=3, lr=0.1, lr_schedule=lambda e, n: 1 / (e + n)))
    assert [row["lr"] for row in clf.history_] == pytest.approx([0.1 / 3, 0.1 / 4, 0.1 / 5])


def test_callbacks_hear_of_the_training_and_may_stop_it():
    class Count(Callback):
        def initialize(self):
            self.n_epochs = self.n_steps = 0
            return self

        def on_epoch_end(self, net, **kwargs):
            self.n_epochs += 1

        def on_grad_computed(self, net, **kwargs):
            self.n_steps += 1

        def on_train_end(self, net, **kwargs):
            counts.append((self.n_epochs, self.n_steps))

    counts = []
    options = {"module__hidden": (8,), "batch_size": 32}
    fit(Network(MLP, **options, max_epochs=2, callbacks=[Count()]))
    assert counts == [(2, 6)]
    stop = EarlyStopping("train_loss", patience=2, threshold=1e6, threshold_mode="abs", sink=len)
    stopped = fit(Network(MLP, **options, max_epochs=9, callbacks=[stop]))
    assert len(stopped.history_) == 3
    with pytest.raises(ValueError, match="watches valid_loss"):
        fit(Network(MLP, **options, callbacks=[EarlyStopping("valid_loss")]))


def test_a_split_of_the_net_is_not_used():
    split = clone(MLP8).set_params(train_split=ValidSplit(0.5))
    np.testing.assert_array_equal(fit(split).transform(X), fit().transform(X))


def test_verbose_shows_a_bar_with_the_loss(capsys):
    fit(verbose=1)
    err = capsys.readouterr().err
    assert "SimCLR" in err
    assert "loss=" in err
    fit()
    assert capsys.readouterr().err == ""


def test_bfloat16_and_gradient_clipping_train():
    clf = fit(clone(MLP8).set_params(precision="bfloat16", gradient_clip=0.1))
    assert clf.transform(X).dtype == np.float32
    np.testing.assert_allclose(clf.transform(X), fit().transform(X), atol=0.1)


def test_lazy_layers_start_from_the_seed():
    lazy = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 2))
    net = Network(lazy, max_epochs=1)

    def drawing(x, generator):
        torch.rand(1)  # from the generator that layers would start from
        return 1.1 * x

    one, two = (fit(net, view=view) for view in (drawing, lambda x, generator: 1.1 * x))
    np.testing.assert_array_equal(one.transform(X), two.transform(X))
    assert (fit(net, view=drawing, random_state=1).transform(X) != one.transform(X)).any()


def test_a_network_of_any_kind_is_cut_at_its_last_linear_layer():
    head_first = nn.Sequential()
    head_first.add_module("classifier", nn.Linear(6, 4))
    head_first.add_module("norm", nn.BatchNorm1d(4))
    head_first.add_module("out", nn.Linear(4, 2))
    clf = fit(Network(head_first, max_epochs=1))
    assert isinstance(clf.encoder_.out, nn.Identity)
    assert clf.transform(X).shape == (90, 4)
    resnet = Network(PreActResNet18, module__width=2, max_epochs=1, batch_size=16)
    assert fit(resnet, COLOUR).transform(COLOUR).shape == (30, 16)
    encoder = fit(CNN, COLOUR).encoder_
    probe = EncoderClassifier(encoder, n_embedded=128, n_classes=3)
    assert probe(torch.zeros(2, 3, 8, 8)).shape == (2, 3)


# ---- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (nn.Linear(6, 3), "Linear"),
        (nn.Sequential(nn.Linear(6, 3)), "Sequential"),
        (nn.Sequential(nn.Linear(6, 3), nn.Tanh()), "Sequential"),
        (MLP(6, 3, hidden=()), "MLP"),
    ],
)
def test_a_module_with_nothing_below_a_last_layer_is_refused(module, name):
    with pytest.raises(ValueError, match=f"{name} does not end in one, or has none below it"):
        fit(Network(module, max_epochs=1))


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"temperature": 0}, ValueError, "temperature == 0"),
        ({"temperature": True}, TypeError, "temperature"),
        ({"base_temperature": -1}, ValueError, "base_temperature == -1"),
        ({"base_temperature": np.nan}, ValueError, "base_temperature must be finite"),
        ({"n_projected": 0}, ValueError, "n_projected == 0"),
        ({"n_projected": 2.5}, TypeError, "n_projected"),
        ({"n_projected": True}, TypeError, "n_projected"),
        ({"view": "strong"}, TypeError, "view must be 'auto' or a callable"),
        ({"view": None}, TypeError, "view must be 'auto' or a callable"),
        ({"view": FeatureCorruption}, TypeError, "view must be 'auto' or a callable"),
        ({"view": lambda x, g: x[:, 1:]}, ValueError, "view=.* changes the shape of a batch"),
        ({"net": MLP}, TypeError, "net must be an instance"),
        ({"net": Network(max_epochs=0)}, ValueError, "max_epochs"),
        ({"net": Network("small")}, ValueError, "module must be 'auto'"),
    ],
)
def test_bad_parameters_are_refused_by_name(params, error, message):
    clf = SimCLR(**{"net": MLP8} | params)
    with pytest.raises(error, match=message):
        clf.fit(X)
    assert not [name for name in vars(clf) if name.endswith("_")]


def test_a_fit_that_fails_leaves_it_unfitted():
    clf = fit()
    with pytest.raises(ValueError, match="NaN"):
        clf.fit(np.full((9, 6), np.nan))
    assert not [name for name in vars(clf) if name.endswith("_")]
    with pytest.raises(Exception, match="not fitted"):
        clf.transform(X)
    fine = fit()
    fine.set_params(net__lr=1e30, net__max_epochs=5)
    with pytest.raises(ValueError, match=r"training loss became .* lower net__lr"):
        fine.fit(X)
    assert not [name for name in vars(fine) if name.endswith("_")]
