"""The loop, the evidence and the errors that all methods share."""

import signal
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from sklearn.datasets import load_digits, make_blobs, make_circles, make_moons
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from skorch import NeuralNetClassifier
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    GradientNormClipping,
    LRScheduler,
)
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import Dataset, Subset, TensorDataset

from noisyfit import (
    CoTeachingClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    MixupClassifier,
    Network,
    _base,
    _random,
)
from noisyfit._base import BaseNoisyClassifier
from noisyfit._data import StreamData, TensorData, rows_at_once
from noisyfit._evidence import combine
from noisyfit.losses import cross_entropy
from noisyfit.mixtures import GaussianMixtureSplitter
from noisyfit.modules import MLP, SmallCNN
from noisyfit.noise import sym_incl
from noisyfit.schedules import Step

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)


def fit(net=None, X=X, y=Y, **params):
    net = Network(max_epochs=2) if net is None else net
    return CrossEntropyClassifier(net, random_state=0, **params).fit(X, y)


# ---- learning --------------------------------------------------------------------------------


def test_a_new_method_is_one_class_with_one_hook():
    class Focal(BaseNoisyClassifier):
        def __init__(self, net=None, *, augment=None, clean_score="auto", random_state=None):
            self.net = net
            self.augment = augment
            self.clean_score = clean_score
            self.random_state = random_state
            self.verbose = 0

        def _loss(self, run, batch, t):
            (net,) = run.learners
            loss = cross_entropy(net(run.view(batch.x)), batch.y)
            return (loss * (1 - (-loss).exp()) ** 2).mean()

    clf = Focal(random_state=0).fit(X, Y)
    assert clf.score(X, Y) > 0.9
    # nothing was observed in training: the final probability of the label takes its place
    final = clf.predict_proba(X)[np.arange(90), Y]
    np.testing.assert_allclose(clf.clean_proba_, final, atol=1e-6)


def test_plain_training_equals_a_loop_written_out():
    """Same start, order and steps as torch by hand, to the bit."""
    net = Network(MLP, max_epochs=3, batch_size=32, lr_schedule=Step([2]), normalize=None)
    clf = fit(net)
    reference = fit(Network(MLP, max_epochs=1, batch_size=32, lr=1e-30, normalize=None))
    module = reference.nets_[0].module_.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    seen = _orders(net)
    x, y = torch.from_numpy(X).float(), torch.from_numpy(Y)
    for epoch, order in enumerate(seen):
        optimizer.param_groups[0]["lr"] = 0.05 * (0.1 if epoch == 2 else 1)
        for index in order.split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(x[index]), y[index]).backward()
            optimizer.step()
    for ours, theirs in zip(clf.nets_[0].module_.parameters(), module.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def _orders(net):
    """Order of the samples in each epoch of a fit with this net."""
    orders = []

    class Spy(CrossEntropyClassifier):
        def _loss(self, run, batch, t):
            orders[int(t)].append(batch.index)
            return super()._loss(run, batch, t)

        def _train_epoch(self, run, epoch):
            orders.append([])
            super()._train_epoch(run, epoch)

    Spy(net, random_state=0).fit(X, Y)
    return [torch.cat(epoch) for epoch in orders]


def test_every_epoch_visits_every_row_once_in_a_new_order():
    a, b = _orders(Network(max_epochs=2, batch_size=32))
    assert sorted(a.tolist()) == list(range(90))
    assert a.tolist() != b.tolist()


def test_dynamics_agree_with_a_plain_count():
    logits = []

    class Spy(CrossEntropyClassifier):
        def _loss(self, run, batch, t):
            (net,) = run.learners
            z = net(run.view(batch.x))
            logits.append((batch.index, z.detach()))
            run.observe(batch.index, z)
            return cross_entropy(z, batch.y).mean()

    clf = Spy(Network(max_epochs=3, batch_size=32), random_state=0).fit(X, Y)
    wrong, margin, proba, seen = np.zeros((4, 90))
    for index, z in logits:
        for i, row in zip(index.tolist(), z.numpy(), strict=True):
            others = np.delete(row, Y[i])
            wrong[i] += row.argmax() != Y[i]
            margin[i] += row[Y[i]] - others.max()
            proba[i] += np.exp(row[Y[i]]) / np.exp(row).sum()
            seen[i] += 1
    np.testing.assert_array_equal(clf.dynamics_["n_seen"], seen)
    np.testing.assert_allclose(clf.dynamics_["wrong_events"], wrong / 3, atol=1e-6)
    np.testing.assert_allclose(clf.dynamics_["margin"], margin / 3, atol=1e-4)
    np.testing.assert_allclose(clf.dynamics_["proba"], proba / 3, atol=1e-5)
    np.testing.assert_allclose(clf.clean_proba_, (seen - wrong + proba / 3) / (seen + 1), atol=1e-5)
    assert clf.history_[2]["train_acc"] == pytest.approx(
        np.mean([z.argmax() == Y[i] for ix, zs in logits[-3:] for i, z in zip(ix, zs, strict=True)])
    )


def test_history_of_training_finds_more_wrong_labels_than_the_final_network(digits):
    """After memorisation the final loss has forgotten what the epochs knew."""
    from sklearn.metrics import roc_auc_score

    images, y = digits
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(SmallCNN, max_epochs=25)
    auc = {
        score: roc_auc_score(
            ~noisy.changed,
            CrossEntropyClassifier(net, augment=None, clean_score=score, random_state=0)
            .fit(images, noisy.y)
            .clean_proba_,
        )
        for score in ("history", "final")
    }
    assert auc["history"] > 0.97
    assert auc["history"] > auc["final"] + 0.05


def test_clean_score_takes_a_splitter_and_label_issues_too():
    noisy = sym_incl(Y, 0.4, random_state=0)
    clf = fit(Network(max_epochs=10), y=noisy.y, clean_score=GaussianMixtureSplitter())
    plain = fit(Network(max_epochs=10), y=noisy.y)
    doubt = 1 - plain.clean_proba_[:, None]
    expected = GaussianMixtureSplitter().fit(doubt).predict_proba(doubt)[:, 1]
    np.testing.assert_allclose(clf.clean_proba_, expected, atol=1e-5)
    issues = plain.label_issues(splitter=GaussianMixtureSplitter())
    assert set(issues) == set(np.flatnonzero(expected <= 0.5))
    with pytest.raises(ValueError, match="threshold == 2, must be <= 1"):
        plain.label_issues(threshold=2)


def test_combine_averages_as_named():
    z = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    a, b = z.softmax(2)
    torch.testing.assert_close(combine(z, "first"), a)
    torch.testing.assert_close(combine(z, "second"), b)
    torch.testing.assert_close(combine(z, "proba"), (a + b) / 2)
    torch.testing.assert_close(combine(z, "logits"), torch.tensor([[1.0, 0.5]]).softmax(1))


# ---- what a net may bring --------------------------------------------------------------------


def test_a_users_own_skorch_net_is_trained():
    class Module(nn.Module):
        def __init__(self, hidden=8):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))

        def forward(self, x):
            return self.layers(x)

    net = NeuralNetClassifier(
        Module, module__hidden=16, lr=0.1, max_epochs=30, train_split=None, verbose=0
    )
    clf = fit(net)
    assert type(clf.nets_[0]) is NeuralNetClassifier
    assert clf.nets_[0].module_.layers[0].out_features == 16
    assert clf.score(X, Y) > 0.9


def test_callbacks_hear_every_event_of_their_network():
    class Count(Callback):
        def initialize(self):
            self.heard = []
            return self

        def on_train_begin(self, net, **kwargs):
            self.heard.append("train_begin")

        def on_epoch_begin(self, net, **kwargs):
            self.heard.append("epoch_begin")

        def on_batch_begin(self, net, batch, training, **kwargs):
            assert training
            assert len(batch) == 2

        def on_grad_computed(self, net, named_parameters, **kwargs):
            assert all(p.grad is not None for _, p in named_parameters)
            self.heard.append("grad")

        def on_batch_end(self, net, loss, **kwargs):
            assert net.history[-1, "batches", -1, "train_loss"] == pytest.approx(loss.item())

        def on_epoch_end(self, net, **kwargs):
            assert net.history[-1, "train_loss"] > 0
            self.heard.append("epoch_end")

        def on_train_end(self, net, **kwargs):
            self.heard.append("train_end")

    net = Network(max_epochs=2, batch_size=45, callbacks=[("count", Count())])
    clf = CoTeachingClassifier(net, random_state=0).fit(X, Y)
    epoch = ["epoch_begin", "grad", "grad", "epoch_end"]
    for fitted in clf.nets_:
        assert dict(fitted.callbacks_)["count"].heard == ["train_begin", *epoch * 2, "train_end"]


def test_learning_rate_follows_schedule_or_callback():
    steps = fit(Network(max_epochs=4, lr=1.0, lr_schedule=Step([1, 3], 0.1)))
    assert [row["lr"] for row in steps.history_] == pytest.approx([1, 0.1, 0.1, 0.01])
    halving = LRScheduler("StepLR", step_size=1, gamma=0.5)
    called = fit(Network(max_epochs=3, lr=1.0, callbacks=[halving]))
    assert [row["lr"] for row in called.history_] == pytest.approx([1, 0.5, 0.25])
    cosine = fit(Network(max_epochs=2, lr=1.0))
    assert [row["lr"] for row in cosine.history_] == pytest.approx([1, 0.5])


def test_early_stopping_on_a_held_out_split_restores_the_best():
    net = Network(
        max_epochs=50,
        train_split=ValidSplit(3, stratified=True),
        callbacks=[EarlyStopping(patience=2, load_best=True, threshold=10, threshold_mode="abs")],
    )
    clf = fit(net)
    assert len(clf.history_) == 3  # the first epoch counts as the best, two misses follow
    assert {"valid_loss", "valid_acc"} <= set(clf.history_[0])
    assert clf.clean_proba_.shape == (90,)
    assert (clf.dynamics_["n_seen"] == 0).sum() == 30
    one = fit(
        Network(
            max_epochs=50,
            train_split=net.train_split,
            callbacks=[
                EarlyStopping(patience=1, load_best=True, threshold=10, threshold_mode="abs")
            ],
        )
    )
    np.testing.assert_array_equal(clf.predict_proba(X), one.predict_proba(X))


def test_validation_data_given_to_fit_is_scored_each_epoch():
    clf = CrossEntropyClassifier(Network(max_epochs=3), random_state=0)
    clf.fit(X, Y, X_val=X[:20], y_val=Y[:20])
    assert clf.history_[-1]["valid_acc"] == clf.score(X[:20], Y[:20])
    alone = CrossEntropyClassifier(Network(max_epochs=3), random_state=0).fit(X, Y)
    np.testing.assert_array_equal(alone.predict_proba(X), clf.predict_proba(X))
    with pytest.raises(ValueError, match="y_val contains labels"):
        clf.fit(X, Y, X_val=X[:20], y_val=Y[:20] + 5)


def test_gradient_clip_bounds_each_network_by_itself():
    norms = []

    class Norm(Callback):
        def on_batch_end(self, net, **kwargs):
            norms.append(
                torch.stack([p.grad.norm() for p in net.module_.parameters()]).norm().item()
            )

    net = Network(max_epochs=1, gradient_clip=0.01, callbacks=[Norm()])
    CoTeachingClassifier(net, random_state=0).fit(X, Y)
    assert norms == pytest.approx([0.01] * len(norms), rel=1e-3)
    by_callback = Network(max_epochs=2, callbacks=[GradientNormClipping(0.01)])
    ours = fit(Network(max_epochs=2, gradient_clip=0.01))
    np.testing.assert_allclose(fit(by_callback).predict_proba(X), ours.predict_proba(X), rtol=1e-5)


def test_bfloat16_trains_and_predicts_in_float32():
    clf = fit(Network(max_epochs=20, precision="bfloat16"))
    assert clf.score(X, Y) > 0.9
    assert clf.predict_proba(X).dtype == np.float32
    assert next(clf.nets_[0].module_.parameters()).dtype == torch.float32


def test_bfloat16_repeats_to_the_bit():
    first, second = (fit(Network(max_epochs=3, precision="bfloat16")) for _ in range(2))
    np.testing.assert_array_equal(first.predict_proba(X), second.predict_proba(X))
    np.testing.assert_array_equal(first.clean_proba_, second.clean_proba_)


def test_evidence_and_scores_of_bfloat16_training_are_those_of_the_predictions():
    net = Network(max_epochs=3, precision="bfloat16")
    clf = CrossEntropyClassifier(net, clean_score="final", random_state=0)
    clf.fit(X, Y, X_val=X, y_val=Y)
    proba = clf.predict_proba(X)[np.arange(len(Y)), Y]
    np.testing.assert_allclose(clf.clean_proba_, proba, rtol=1e-6)
    assert clf.history_[-1]["valid_loss"] == pytest.approx(-np.log(proba).mean(), rel=1e-6)


def test_evaluations_inside_a_training_have_its_precision(monkeypatch):
    seen, logits = [], []

    def note(module, x, out):
        seen.append((module.training, torch.is_autocast_enabled("cpu")))

    class Watched(CrossEntropyClassifier):
        def _end_epoch(self, run, epoch):
            run.learners[0].module.register_forward_hook(note)
            logits.extend(
                [run.evaluate(run.learners[0]), run.evaluate(run.learners[0], exact=True)]
            )

    net = Network(max_epochs=1, precision="bfloat16")
    Watched(net, random_state=0).fit(X, Y)
    assert seen == [(False, True), (False, False), (False, False)]  # the last is the evidence
    assert 0 < (logits[0] - logits[1]).abs().max() < 0.1


@pytest.mark.filterwarnings("ignore:Guards may run slower on Python 3.13.0:RuntimeWarning")
def test_compiling_in_place_keeps_the_keys_of_the_state_dict():
    clf = fit(Network(max_epochs=2, compile=True, compile__backend="eager"))
    plain = fit(Network(max_epochs=2))
    assert list(clf.nets_[0].module_.state_dict()) == list(plain.nets_[0].module_.state_dict())
    np.testing.assert_allclose(clf.predict_proba(X), plain.predict_proba(X), rtol=1e-4)


@pytest.mark.parametrize(("asked", "before"), [(True, False), (False, False), (False, True)])
def test_kernels_repeat_during_a_fit_on_cuda_unless_the_net_says_otherwise(
    asked, before, monkeypatch
):
    """The switch is the same without CUDA, where nothing looks at it."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", before)
    with _random.own_generators(0, cuda, asked), _random.own_generators(0, cuda, True):
        assert torch.backends.cudnn.deterministic is (asked or before)
    assert torch.backends.cudnn.deterministic is before
    first = _random.own_generators(0, cuda, asked)
    first.__enter__()
    with _random.own_generators(0, torch.device("cpu")):  # overlaps, and ends last
        first.__exit__(None, None, None)
    assert torch.backends.cudnn.deterministic is before


def test_the_net_says_whether_kernels_repeat(monkeypatch):
    seen = []

    def noted(seed, device, deterministic):
        seen.append(deterministic)
        return own_generators(seed, device, deterministic)

    own_generators = _base.own_generators
    monkeypatch.setattr(_base, "own_generators", noted)
    for deterministic in (True, False):
        fit(Network(max_epochs=1, deterministic=deterministic))
    fit(NeuralNetClassifier(MLP, max_epochs=1))
    assert seen == [True, False, True]


@pytest.mark.parametrize(
    ("shape", "device", "n_rows"),
    [
        ((5000,), "cpu", 2048),
        ((3, 32, 32), "cpu", 64),
        ((1, 8, 8), "cpu", 1024),
        ((3, 32, 32), "cuda", 2048),
        ((3, 224, 224), "cuda", 222),
        ((3, 2000, 2000), "cuda", 64),
    ],
)
def test_evaluations_take_as_many_rows_as_pay(shape, device, n_rows):
    assert rows_at_once(shape, torch.device(device)) == n_rows


def test_dropout_draws_from_the_generator_of_the_fit():
    net = Network(MLP, module__dropout=0.5, max_epochs=3)
    results = []

    def work():
        results.append(fit(net).predict_proba(X))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    plain = fit(Network(MLP, max_epochs=3)).predict_proba(X)
    assert (plain != results[0]).any()


# ---- data ------------------------------------------------------------------------------------


class Drawers(Dataset):
    """Images that are drawn when they are asked for."""

    def __init__(self, images, targets=None):
        self.images = images
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


@pytest.fixture(scope="module")
def images():
    digits = load_digits()
    return (digits.images[:200] * 15).astype(np.uint8), digits.target[:200]


@pytest.mark.parametrize(
    "form",
    [
        lambda x: x[:, None],
        lambda x: x[..., None],
        lambda x: torch.from_numpy(x)[:, None],
        lambda x: list(x),
        lambda x: x,
    ],
    ids=["channels first", "channels last", "tensor", "list", "no channel axis"],
)
def test_layouts_of_images_are_equivalent(form, images):
    x, y = images
    net = Network(SmallCNN, max_epochs=2)
    expected = fit(net, x[:, None], y).predict_proba(x[:, None])
    clf = fit(net, form(x), y)
    np.testing.assert_array_equal(clf.predict_proba(form(x)), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_streamed_data_set_trains_like_the_resident_array(workers, images):
    x, y = images
    net = Network(SmallCNN, max_epochs=2, iterator_train__num_workers=workers)
    resident = fit(net, x[:, None], y)
    stream = Drawers(x[:, None])
    clf = fit(net, stream, y)
    for streamed, stored in zip(
        clf.nets_[0].module_.parameters(), resident.nets_[0].module_.parameters(), strict=True
    ):
        assert torch.equal(streamed, stored)
    np.testing.assert_array_equal(clf.predict_proba(stream), resident.predict_proba(x[:, None]))
    np.testing.assert_array_equal(clf.clean_proba_, resident.clean_proba_)
    labelled = fit(net, Drawers(x[:, None], y), None)
    np.testing.assert_array_equal(labelled.clean_proba_, resident.clean_proba_)


def test_streamed_rows_are_evaluated_in_batches_of_the_same_size():
    cpu = torch.device("cpu")
    for shape in ((4,), (1, 8, 8), (3, 32, 32)):
        resident = TensorData(torch.zeros(3000, *shape), None, cpu)
        streamed = StreamData(TensorDataset(resident.x), None, cpu, shape)
        assert streamed.evaluation_size == resident.evaluation_size == rows_at_once(shape, cpu)
        assert streamed.subset(torch.arange(9)).evaluation_size == streamed.evaluation_size


def test_labels_are_read_from_a_tensor_data_set():
    pairs = TensorDataset(torch.from_numpy(X).float(), torch.from_numpy(Y))
    clf = CrossEntropyClassifier(Network(max_epochs=20), random_state=0).fit(pairs)
    assert clf.score(pairs, Y) > 0.9


def test_image_paths_are_decoded_while_training(tmp_path, images):
    from PIL import Image

    x, y = images
    paths = []
    for i, image in enumerate(x[:40]):
        paths.append(tmp_path / f"{i}.png")
        Image.fromarray(np.kron(image, np.ones((2, 2), np.uint8))).save(paths[-1])
    clf = fit(Network(SmallCNN, max_epochs=2), paths, y[:40])
    assert clf.predict([str(p) for p in paths]).shape == (40,)


def test_uint8_images_are_scaled_by_their_own_statistics(images):
    x, y = images
    clf = fit(Network(SmallCNN, max_epochs=1), x[:, None], y)
    scale = clf._input_scale_
    assert scale.mean == pytest.approx(x.mean(), rel=1e-6)
    assert 1 / scale.scale == pytest.approx(x.std(), rel=1e-6)
    fixed = fit(Network(SmallCNN, max_epochs=1, normalize=([0.5], [0.25])), x[:, None], y)
    assert fixed._input_scale_.mean == pytest.approx(127.5)
    assert 1 / fixed._input_scale_.scale == pytest.approx(63.75)


def test_a_table_far_from_zero_is_centred_before_it_loses_digits():
    shifted = fit(Network(max_epochs=10), X + 1e9)
    np.testing.assert_allclose(
        shifted.predict_proba(X + 1e9), fit(Network(max_epochs=10)).predict_proba(X), atol=1e-3
    )


def test_modules_are_chosen_by_the_shape(images):
    x, y = images
    assert type(fit().nets_[0].module_) is MLP
    assert type(fit(Network(max_epochs=1), x, y).nets_[0].module_) is SmallCNN


# ---- errors ----------------------------------------------------------------------------------


class Softmaxed(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(nn.Linear(n_features, n_classes), nn.Softmax(dim=1))


BAD_DATA = {
    "NaN": (np.where(np.eye(90, 4) > 0, np.nan, X), Y, "contains NaN"),
    "inf": (np.where(np.eye(90, 4) > 0, np.inf, X), Y, "infinity"),
    "complex": (X + 1j, Y, "Complex data not supported"),
    "empty": (X[:0], Y[:0], "minimum of 2 is required"),
    "one row": (X[:1], Y[:1], "minimum of 2 is required"),
    "one dimension": (X[:, 0], Y, "Expected 2D array"),
    "five dimensions": (X.reshape(90, 2, 2, 1, 1), Y, "dim 5"),
    "lengths": (X, Y[:-1], "inconsistent numbers of samples"),
    "no labels": (X, None, "the target y is None"),
    "continuous labels": (X, X[:, 0], "Unknown label type"),
    "missing label": (X, np.where(Y == 0, np.nan, Y), "contains NaN"),
    "NaN image": (np.full((9, 8, 8), np.nan), Y[:9], "contains NaN"),
    "text column": (pd.DataFrame({"a": list("xyz")}), Y[:3], "could not convert"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_before_training(case):
    data, labels, message = BAD_DATA[case]
    clf = CrossEntropyClassifier()
    with pytest.raises(ValueError, match=message):
        clf.fit(data, labels)
    with pytest.raises(NotFittedError):
        clf.predict(X)


def test_sparse_input_is_refused():
    with pytest.raises(TypeError, match="dense data is required"):
        CrossEntropyClassifier().fit(sparse.csr_array(X), Y)


BAD_NETS = {
    "class of net": (Network, TypeError, "instance, got the class Network; pass net=Network"),
    "class of module": (MLP, TypeError, r"pass net=Network\(MLP\)"),
    "module": (nn.Linear(4, 3), TypeError, r"pass net=Network\(module\)"),
    "string": ("mlp", TypeError, "must be a Network"),
    "module name": (Network("resnet"), ValueError, "module must be 'auto'"),
    "device": (Network(device="quantum"), ValueError, "use 'auto' or 'cpu'"),
    "absent device": (Network(device="cuda:77"), ValueError, "use 'auto' or 'cpu'"),
    "epochs": (Network(max_epochs=0), ValueError, "max_epochs must be a positive integer"),
    "batch": (Network(batch_size=2.5), ValueError, "batch_size must be a positive integer"),
    "true epochs": (Network(max_epochs=True), ValueError, "max_epochs must be a positive integer"),
    "rate as text": (Network(lr="a"), TypeError, "lr must be an instance of"),
    "infinite rate": (Network(lr=np.inf), ValueError, "lr must be finite"),
    "line search": (Network(optimizer=torch.optim.LBFGS), ValueError, "use SGD, Adam"),
    "three parts": (Network(normalize=(0, 1, 2)), ValueError, "must be a pair"),
    "columns": (Network(normalize=([0, 1], [1, 1])), ValueError, "each of the 4 columns"),
    "no spread": (Network(normalize=(0.0, 0.0)), ValueError, "std of normalize must be positive"),
    "rate": (Network(lr=-1), ValueError, "lr == -1, must be > 0"),
    "precision": (Network(precision="half"), ValueError, "precision must be one of"),
    "schedule": (Network(lr_schedule="linear"), ValueError, "lr_schedule must be"),
    "clip": (Network(gradient_clip=0), ValueError, "gradient_clip == 0, must be > 0"),
    "kernels": (Network(deterministic="yes"), TypeError, "deterministic must be True or False"),
    "normalize": (Network(normalize="zca"), ValueError, "normalize must be"),
    "probabilities": (Network(Softmaxed), ValueError, "remove its last softmax layer"),
    "width": (Network(nn.Linear(4, 2)), ValueError, r"logits of shape \(batch, 3\)"),
}


@pytest.mark.parametrize("case", BAD_NETS)
def test_bad_net_is_refused_with_a_sentence(case):
    net, error, message = BAD_NETS[case]
    with pytest.raises(error, match=message):
        CrossEntropyClassifier(net).fit(X, Y)


@pytest.mark.parametrize(
    ("params", "error", "message"),
    [
        ({"augment": "flip"}, TypeError, "augment must be"),
        ({"augment": lambda x, g: x[:, :2]}, ValueError, "changes the shape"),
        ({"clean_score": "loss"}, ValueError, "clean_score must be"),
        ({"clean_score": np.ones(3)}, ValueError, "clean_score must be"),
    ],
)
def test_bad_parameter_is_refused_with_a_sentence(params, error, message):
    with pytest.raises(error, match=message):
        CrossEntropyClassifier(Network(max_epochs=1), **params).fit(X, Y)


def test_images_of_another_shape_are_refused_in_prediction(images):
    x, y = images
    clf = fit(Network(SmallCNN, max_epochs=1), x, y)
    with pytest.raises(ValueError, match=r"expecting images of shape"):
        clf.predict(x[:, :6])
    with pytest.raises(ValueError, match="was fitted on images"):
        clf.predict(x.reshape(200, -1))
    with pytest.raises(ValueError, match="expecting a 2D table"):
        fit().predict(x)


def test_a_loss_that_explodes_stops_the_fit_and_names_epoch_and_cause():
    clf = CrossEntropyClassifier(Network(lr=1e20, max_epochs=9), random_state=0)
    with pytest.raises(ValueError, match=r"in epoch \d of 9.*learning rate"):
        clf.fit(X, Y)
    assert not hasattr(clf, "nets_")


def test_interrupted_fit_raises_and_leaves_the_estimator_unfitted():
    class Interrupt(CrossEntropyClassifier):
        def _end_epoch(self, run, epoch):
            if epoch == 1:
                signal.raise_signal(signal.SIGINT)

    clf = Interrupt(Network(max_epochs=3)).fit.__self__
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            clf.fit(X, Y)
    finally:
        signal.signal(signal.SIGINT, before)
    with pytest.raises(NotFittedError):
        clf.predict(X)
    assert not [name for name in vars(clf) if name.endswith("_")]


def test_progress_bar_shows_epochs_and_loss(capsys):
    fit(verbose=1)
    shown = capsys.readouterr().err
    assert "CrossEntropyClassifier" in shown
    assert "2/2" in shown
    assert "loss=" in shown
    fit()
    assert capsys.readouterr().err == ""


def test_scikit_learns_callbacks_score_and_stop_epochs():
    callback = pytest.importorskip("sklearn.callback", reason="scikit-learn 1.9 has callbacks")

    class StopAtSecond:
        def setup(self, estimator, context):
            pass

        def teardown(self, estimator, context):
            pass

        def on_fit_task_begin(self, estimator, context):
            pass

        def on_fit_task_end(self, estimator, context, *, fitted_estimator=None, X=None, y=None):
            if context.task_name == "epoch":
                scores.append(fitted_estimator.score(X, y))
                return context.task_id == 1

    scores = []
    clf = CrossEntropyClassifier(Network(max_epochs=5), random_state=0)
    clf.set_callbacks(StopAtSecond()).fit(X, Y)
    assert len(clf.history_) == 2
    assert scores[1] == clf.score(X, Y)
    silent = CrossEntropyClassifier(Network(max_epochs=5), random_state=0)
    watched = CrossEntropyClassifier(Network(max_epochs=5), random_state=0)
    watched.set_callbacks(callback.ScoringMonitor(scoring="accuracy")).fit(X, Y)
    np.testing.assert_array_equal(silent.fit(X, Y).predict_proba(X), watched.predict_proba(X))


# ---- found in review ---------------------------------------------------------------------------


def test_a_data_set_of_rows_is_scaled_like_the_table_of_the_fit():
    clf = fit(Network(max_epochs=10))
    rows = TensorDataset(torch.from_numpy(X))
    np.testing.assert_allclose(clf.predict_proba(rows), clf.predict_proba(X), atol=1e-5)
    watched = CrossEntropyClassifier(Network(max_epochs=10), random_state=0)
    watched.fit(X, Y, X_val=TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)))
    assert watched.history_[-1]["valid_acc"] == clf.score(X, Y)


def test_images_of_another_range_are_refused_in_prediction(images):
    x, y = images
    clf = fit(Network(SmallCNN, max_epochs=1), x, y)
    with pytest.raises(ValueError, match="was fitted on the range 0 to 255"):
        clf.predict(x / 255)
    clf.predict(x.astype(float))  # floats on the scale of the fit
    with pytest.raises(ValueError, match="was fitted on the range 0 to 1"):
        fit(Network(SmallCNN, max_epochs=1), x / 255, y).predict(x)


def test_an_augmentation_that_works_in_place_spares_the_callers_data(images):
    x, y = images
    before = x.copy()
    fit(Network(SmallCNN, max_epochs=1), x, y, augment=lambda x, generator: x.zero_())
    np.testing.assert_array_equal(x, before)


def test_a_module_that_works_in_place_spares_the_stored_rows():
    def module(inplace):
        class First(nn.Sequential):
            def __init__(self, n_features, n_classes):
                super().__init__(nn.ELU(inplace=inplace), nn.Linear(n_features, n_classes))

        return First

    a, b = (
        CoTeachingClassifier(Network(module(flag), max_epochs=5), random_state=0).fit(X, Y)
        for flag in (True, False)
    )
    np.testing.assert_array_equal(a.clean_proba_, b.clean_proba_)
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))


def test_a_lazy_module_starts_from_the_seed_in_threads_too():
    class Lazy(nn.Sequential):
        def __init__(self, n_classes):
            super().__init__(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, n_classes))

    results = []
    threads = [
        threading.Thread(target=lambda: results.append(fit(Network(Lazy)).predict_proba(X)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 3
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_arrays_and_data_sets_of_images_may_be_exchanged(images):
    x, y = images
    net = Network(SmallCNN, max_epochs=2)
    clf = fit(net, Drawers(x[:, None]), y)
    assert clf.n_features_in_ == 64
    np.testing.assert_array_equal(clf.predict(x), clf.predict(Drawers(x[:, None])))
    table = X[:, :2]
    clf.set_params(net=Network(max_epochs=2))
    clf.fit(TensorDataset(torch.from_numpy(table).float(), torch.from_numpy(Y)))
    assert clf.predict(table).shape == (90,)


def test_series_and_arrays_of_paths_are_paths(tmp_path, images):
    from PIL import Image

    paths = []
    for i, image in enumerate(images[0][:6]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image).save(paths[-1])
    clf = fit(Network(SmallCNN, max_epochs=1), pd.Series(paths), images[1][:6])
    np.testing.assert_array_equal(clf.predict(np.array(paths)), clf.predict(paths))
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(paths[3])
    with pytest.raises(ValueError, match=r"differ in shape.*ImageFiles\(paths, size"):
        clf.fit(paths, images[1][:6])


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        yield torch.zeros(4)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (Drawers(X[:1]), ValueError, "minimum of 2 is required"),
        (Drawers(np.full((90, 4), np.nan)), ValueError, "contains NaN"),
        (Endless(), TypeError, "map-style"),
    ],
)
def test_bad_data_sets_are_refused(data, error, message):
    y = Y if not hasattr(data, "__len__") else Y[: len(data)]
    with pytest.raises(error, match=message):
        fit(X=data, y=y)


def test_values_that_overflow_are_refused():
    with pytest.raises(ValueError, match="too large"):
        fit(X=X * 1e200)
    with pytest.raises(ValueError, match="too large"):
        fit().predict_proba([[1e300, 0, 0, 0]])


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (EpochScoring("accuracy"), "pass X_val"),
        (EarlyStopping(), "nothing is validated"),
    ],
)
def test_callbacks_that_could_not_work_are_refused_before_training(callback, message):
    with pytest.raises(ValueError, match=message):
        fit(Network(max_epochs=2, callbacks=[callback]))
    own = NeuralNetClassifier(
        nn.Linear(4, 3), max_epochs=2, train_split=None, callbacks=[("mine", callback)]
    )
    with pytest.raises(ValueError, match=message):
        fit(own)


def test_checkpoints_keep_the_best_epoch(tmp_path):
    checkpoint = Checkpoint(monitor="train_loss_best", dirname=tmp_path, f_params="best.pt")
    fit(Network(max_epochs=3, callbacks=[checkpoint]))
    assert (tmp_path / "best.pt").exists()


def test_repr_shows_the_parameters_that_were_given_and_no_notes_of_skorch():
    assert "_params_to_validate" not in repr(CrossEntropyClassifier(Network(lr=0.3)))


def test_a_module_that_returns_a_pair_is_refused():
    class Pair(nn.Linear):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(TypeError, match="one tensor of logits, got tuple"):
        fit(Network(Pair(4, 3)))


# ---- parameters of the net ---------------------------------------------------------------------


def test_parameters_of_the_net_can_be_set_where_the_net_is_none():
    clf = CrossEntropyClassifier().set_params(net__lr=0.3, net__module__hidden=(8,))
    assert clf.net.lr == 0.3
    search = GridSearchCV(
        CrossEntropyClassifier(random_state=0), {"net__max_epochs": [1, 30]}, cv=2
    )
    assert search.fit(X, Y).best_params_ == {"net__max_epochs": 30}
    assert CrossEntropyClassifier(Network(lr=0.1)).set_params(net__max_epochs=3).net.lr == 0.1
    assert CrossEntropyClassifier(Network(lr=0.1)).set_params(net=None, net__lr=0.2).net.lr == 0.2


@pytest.mark.parametrize("kind", ["table", "images", "data set"])
def test_rows_held_out_do_not_enter_the_statistics_of_the_input(kind):
    shape = {"table": (40, 2), "images": (40, 1, 4, 4), "data set": (40, 3)}[kind]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    x[1::2] += 100
    data = TensorDataset(torch.from_numpy((x > 0).astype(np.uint8))) if kind == "data set" else x
    odd = Subset(range(40), range(1, 40, 2))
    net = Network(max_epochs=1, train_split=lambda *_: (Subset(range(40), range(0, 40, 2)), odd))
    clf = CrossEntropyClassifier(net, random_state=0).fit(data, np.arange(40) // 2 % 2)
    alone = CrossEntropyClassifier(Network(max_epochs=1), random_state=0)
    even = TensorDataset(data.tensors[0][::2]) if kind == "data set" else x[::2]
    alone.fit(even, np.arange(20) % 2)
    np.testing.assert_array_equal(clf._input_scale_.mean, alone._input_scale_.mean)
    np.testing.assert_array_equal(clf._input_scale_.scale, alone._input_scale_.scale)


# ---- clean data --------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [make_moons, make_circles])
def test_a_curved_border_in_two_columns_is_learnt_before_labels_are_doubted(make):
    """Within a point of plain training on right labels of which some contradict their region."""
    noise = {"noise": 0.25} if make is make_moons else {"noise": 0.1, "factor": 0.5}
    losses = {DivideMixClassifier: [], MixupClassifier: []}
    for seed in range(5):
        x, y = make(2300, random_state=seed, **noise)
        plain = CrossEntropyClassifier(random_state=seed).fit(x[:300], y[:300])
        for method, lost in losses.items():
            clf = method(random_state=seed).fit(x[:300], y[:300])
            lost.append(plain.score(x[300:], y[300:]) - clf.score(x[300:], y[300:]))
    assert max(np.mean(lost) for lost in losses.values()) < 0.01


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ((12, 6, 6, 2), (2, 6, 6)),  # two maps, channels last
        ((12, 2, 6, 6), (2, 6, 6)),
        ((12, 5, 6, 7), (5, 6, 7)),
        ((12, 6, 7, 3), (3, 6, 7)),
        ((12, 3, 3, 3), (3, 3, 3)),
        ((12, 5, 1), (1, 5, 1)),  # too narrow to be shifted
    ],
)
def test_shapes_of_images_are_read_as_meant(given, read):
    x = np.random.default_rng(0).normal(size=given)
    module = nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
    clf = CrossEntropyClassifier(Network(module, max_epochs=1), random_state=0)
    assert clf.fit(x, np.arange(12) % 2)._shape == read
    assert (clf._resolve_augment() is None) == (min(read[1:]) < 4)
