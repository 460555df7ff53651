"""A fit that was interrupted goes on and ends as if nothing had happened."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback, EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import Dataset

from noisyfit import (
    BayesianDivideMixPP,
    CoTeachingClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    Mentor,
    MentorNetClassifier,
    MixupClassifier,
    Network,
    SimCLR,
    _resume,
    fit_resumable,
    methods,
)
from noisyfit.modules import MLP, SmallCNN
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
NOISY = sym_incl(Y, 0.4, random_state=0).y


class PowerCut(Exception):
    """What ends a fit in these tests."""


def interrupted(monkeypatch, clf, X, y, path, after, **params):
    """Fit until the file was written `after` times beside that of the start."""
    write, written = _resume.Checkpoint.save, []

    def save(self, *args):
        write(self, *args)
        written.append(self)
        if len(written) > after:
            raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(_resume.Checkpoint, "save", save)
        with pytest.raises(PowerCut):
            fit_resumable(clf, X, y, path=path, **params)


def assert_equal_fits(one, other, X=X):
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    np.testing.assert_array_equal(one.clean_proba_, other.clean_proba_)
    np.testing.assert_array_equal(one.refined_proba_, other.refined_proba_)
    for name, values in one.dynamics_.items():
        np.testing.assert_array_equal(values, other.dynamics_[name])
    rows = [[{**row, "seconds": 0} for row in clf.history_] for clf in (one, other)]
    assert str(rows[0]) == str(rows[1])  # nan equals nan


@pytest.mark.parametrize("name", methods.__all__)
@pytest.mark.parametrize("after", [0, 7])
def test_every_method_goes_on_to_the_bit(name, after, tmp_path, monkeypatch):
    net = Network(MLP, max_epochs=12, batch_size=32, module__dropout=0.1)
    clf = getattr(methods, name)(net, random_state=0)
    straight = clone(clf).fit(X, NOISY)
    path = tmp_path / "fit.pt"
    interrupted(monkeypatch, clone(clf), X, NOISY, path, after)
    fresh = clone(clf)
    epochs = []
    run_epoch = type(clf)._run_epoch
    monkeypatch.setattr(
        type(clf), "_run_epoch", lambda s, r, e, v: epochs.append(e) or run_epoch(s, r, e, v)
    )
    assert fit_resumable(fresh, X, NOISY, path=path) is fresh
    assert epochs == [*range(after, 12)]
    assert not path.exists()
    assert not hasattr(fresh, "_checkpoint") or fresh._checkpoint is None
    assert_equal_fits(straight, fresh)


def test_images_with_pretraining_momentum_and_two_networks(tmp_path, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8), dtype=np.uint8)
    y = np.arange(60) % 3
    start = SimCLR(Network(SmallCNN, max_epochs=2, batch_size=30))
    net = Network(SmallCNN, max_epochs=5, batch_size=30, precision="bfloat16")
    clf = BayesianDivideMixPP(net, pretrain=start, warmup=1, random_state=0)
    straight = clone(clf).fit(images, y)
    path = tmp_path / "fit.pt"
    interrupted(monkeypatch, clone(clf), images, y, path, 3)
    calls = []
    monkeypatch.setattr(SimCLR, "encoder_for", lambda *args: calls.append(args))
    assert_equal_fits(straight, fit_resumable(clone(clf), images, y, path=path), images)
    assert not calls


class Noisy(nn.Module):
    """Dropout as a function, which draws from torch's own generator."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.layer = nn.Linear(n_features, n_classes)

    def forward(self, x):
        return self.layer(nn.functional.dropout(x, 0.3, self.training))


class Stream(Dataset):
    """Rows with noise from the global generators."""

    def __len__(self):
        return len(X)

    def __getitem__(self, i):
        noise = np.random.normal() + torch.randn(()).item()  # noqa: NPY002
        return (X[i] + 0.01 * noise).astype(np.float32)


def test_what_draws_from_global_generators_goes_on_too(tmp_path, monkeypatch):
    clf = MixupClassifier(Network(Noisy, max_epochs=6, batch_size=32), random_state=0)
    straight, path = clone(clf).fit(Stream(), NOISY), tmp_path / "fit.pt"
    interrupted(monkeypatch, clone(clf), Stream(), NOISY, path, 3)
    state = torch.get_rng_state()
    assert_equal_fits(straight, fit_resumable(clone(clf), Stream(), NOISY, path=path))
    assert torch.equal(state, torch.get_rng_state())


def test_callbacks_keep_their_count(tmp_path, monkeypatch):
    split = ValidSplit(0.25, stratified=True, random_state=0)
    net = Network(max_epochs=40, train_split=split, callbacks=[EarlyStopping(patience=4)])
    clf = CoTeachingClassifier(net, n_gradual=2, random_state=0)
    straight, path = clone(clf).fit(X, NOISY), tmp_path / "fit.pt"
    n = len(straight.history_)
    assert n < 40
    interrupted(monkeypatch, clone(clf), X, NOISY, path, n - 2)
    assert_equal_fits(straight, fit_resumable(clone(clf), X, NOISY, path=path))


def test_compiled_networks_stay_compiled(tmp_path, monkeypatch):
    net = Network(max_epochs=4, compile=True, compile__backend="eager")
    clf = CrossEntropyClassifier(net, random_state=0)
    straight, path = clone(clf).fit(X, NOISY), tmp_path / "fit.pt"
    interrupted(monkeypatch, clone(clf), X, NOISY, path, 2)
    other = fit_resumable(clone(clf), X, NOISY, path=path)
    assert other.nets_[0].module_._compiled_call_impl is not None
    assert_equal_fits(straight, other)


def test_without_a_seed_it_goes_on_with_the_rows_it_held_out(tmp_path, monkeypatch):
    net = Network(max_epochs=6, train_split=ValidSplit(0.25))
    clf, path = DivideMixClassifier(net), tmp_path / "fit.pt"
    interrupted(monkeypatch, clf, X, NOISY, path, 3)
    first = torch.load(path, weights_only=False)["run"].history
    other = fit_resumable(clone(clf), X, NOISY, path=path)
    assert [row["train_loss"] for row in other.history_[:3]] == [r["train_loss"] for r in first]
    assert len(other.history_) == 6


def test_the_best_weights_and_streamed_validation_go_on(tmp_path, monkeypatch):
    split = ValidSplit(0.25, stratified=True, random_state=0)
    stop = EarlyStopping(patience=3, load_best=True)
    net = Network(max_epochs=30, train_split=split, callbacks=[stop], iterator_train__num_workers=1)
    clf = CrossEntropyClassifier(net, random_state=0)
    straight, path = clone(clf).fit(Stream(), NOISY), tmp_path / "fit.pt"
    interrupted(monkeypatch, clone(clf), Stream(), NOISY, path, 2)
    assert_equal_fits(straight, fit_resumable(clone(clf), Stream(), NOISY, path=path))


def test_trusted_rows_go_on_and_are_compared(tmp_path, monkeypatch):
    trusted = np.arange(len(X)) % 5 == 0
    mentor = Mentor(n_steps=20, random_state=0)
    clf = MentorNetClassifier(Network(max_epochs=6), mentor=mentor, burn_in=0.4, random_state=0)
    given = {"trusted": trusted, "clean_labels": Y}
    straight, path = clone(clf).fit(X, NOISY, **given), tmp_path / "fit.pt"
    interrupted(monkeypatch, clone(clf), X, NOISY, path, 3, **given)
    with pytest.raises(ValueError, match="another argument of fit"):
        fit_resumable(clone(clf), X, NOISY, path=path, trusted=~trusted, clean_labels=Y)
    assert_equal_fits(straight, fit_resumable(clone(clf), X, NOISY, path=path, **given))


def test_the_file_is_written_every_so_often(tmp_path, monkeypatch):
    epochs, write = [], _resume.Checkpoint.save

    def save(self, estimator, run, valid):
        write(self, estimator, run, valid)
        epochs.append(len(run.history))

    monkeypatch.setattr(_resume.Checkpoint, "save", save)
    clf = CrossEntropyClassifier(Network(max_epochs=7), random_state=0)
    fit_resumable(clf, X, NOISY, path=tmp_path / "fit.pt", every=3)
    assert epochs == [0, 3, 6]
    assert not [*tmp_path.iterdir()]


def test_a_file_of_another_fit_is_refused_and_left_alone(tmp_path, monkeypatch):
    path = tmp_path / "fit.pt"
    clf = CrossEntropyClassifier(Network(max_epochs=5), random_state=0)
    interrupted(monkeypatch, clf, X, NOISY, path, 2)
    before = path.read_bytes()
    calm, stopping = Network(max_epochs=5, callbacks=[Callback()]), EarlyStopping("train_loss")
    hasty = Network(max_epochs=5, callbacks=[stopping])
    others = [
        (clone(clf).set_params(net__lr=0.1), X, NOISY, "another set of parameters"),
        (clone(clf).set_params(net=calm), X, NOISY, "another set of parameters"),
        (clone(clf).set_params(net=hasty), X, NOISY, "another set of parameters"),
        (clone(clf), X, NOISY + 1, "another y"),
        (clone(clf), np.sin(X), NOISY, "another X"),
        (clone(clf), X, Y, "another y"),
        (clone(clf), X[:, :3], NOISY, "another shape of X and another X"),
        (MixupClassifier(Network(max_epochs=5), random_state=0), X, NOISY, "another class"),
    ]
    for other, rows, y, message in others:
        with pytest.raises(ValueError, match=message):
            fit_resumable(other, rows, y, path=path)
        assert not hasattr(other, "classes_")
    assert path.read_bytes() == before
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"fit\.pt' holds no fit in progress"):
        fit_resumable(clf, X, NOISY, path=path)
    assert path.read_bytes() == b"something else"


def test_bad_input(tmp_path):
    clf = CrossEntropyClassifier(Network(max_epochs=2))
    with pytest.raises(ValueError, match="There is no folder"):
        fit_resumable(clf, X, NOISY, path=tmp_path / "no" / "fit.pt")
    with pytest.raises(ValueError, match="every == 0"):
        fit_resumable(clf, X, NOISY, path=tmp_path / "fit.pt", every=0)
    clf.set_params(net__lr_schedule=lambda epoch, n: 1.0)
    with pytest.raises(ValueError, match="cannot be written to a file"):
        fit_resumable(clf, X, NOISY, path=tmp_path / "fit.pt")
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_written_is_refused_before_the_pretraining(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(SimCLR, "encoder_for", lambda *args: calls.append(args))
    net = Network(MLP, max_epochs=2, lr_schedule=lambda epoch, n: 1.0)
    clf = CrossEntropyClassifier(net, pretrain=SimCLR(Network(max_epochs=1)))
    with pytest.raises(ValueError, match="cannot be written to a file"):
        fit_resumable(clf, X, NOISY, path=tmp_path / "fit.pt")
    assert not calls
    assert not [*tmp_path.iterdir()]


def test_what_is_no_method_is_refused_and_no_file_removed(tmp_path):
    path = tmp_path / "fit.pt"
    path.write_text("of somebody else")
    pipe = make_pipeline(StandardScaler(), CrossEntropyClassifier(Network(max_epochs=1)))
    for other in (pipe, SimCLR(), LogisticRegression()):
        with pytest.raises(TypeError, match="Only methods of noisyfit"):
            fit_resumable(other, X, NOISY, path=path)
    assert path.read_text() == "of somebody else"
