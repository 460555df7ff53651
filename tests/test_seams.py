"""What methods with stages, averaged weights or parameters of their own build upon."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs, make_classification
from sklearn.model_selection import train_test_split
from skorch.callbacks import EarlyStopping, LRScheduler
from skorch.dataset import ValidSplit
from torch import nn

from noisyfit import (
    CoTeachingClassifier,
    CoTeachingPlusClassifier,
    CrossEntropyClassifier,
    DivideMixClassifier,
    ELRClassifier,
    ForwardCorrectionClassifier,
    INCVClassifier,
    JointOptimizationClassifier,
    MCorrectionClassifier,
    MentorMixClassifier,
    MentorNetClassifier,
    MLNTClassifier,
    MomentELRClassifier,
    Network,
    NoiseAdaptationClassifier,
    PencilClassifier,
    SelfPacedClassifier,
)
from noisyfit._averaging import WeightAverage
from noisyfit.modules import MLP

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(
            nn.Linear(n_features, 8),
            nn.BatchNorm1d(8),
            nn.Dropout(0.2),
            nn.Linear(8, n_classes),
        )


def weights(learner):
    return torch.cat([p.detach().flatten() for p in learner.module.parameters()])


def test_weight_average_is_the_recursion_written_out():
    class Averaged(CrossEntropyClassifier):
        def _begin(self, run):
            (net,) = run.learners
            self.teacher = WeightAverage(net, run.generator)
            self.by_hand = weights(net).clone()

        def _train_epoch(self, run, epoch):
            (net,) = run.learners
            self.teacher.train()
            for batch, t in run.train_batches(epoch):
                run.step(self._loss(run, batch, t))
                self.teacher.update(0.9)
                self.by_hand = 0.9 * self.by_hand + 0.1 * weights(net)
                out = self.teacher(run.view(batch.x))
                assert not out.requires_grad

        def _finish(self, run):
            (net,) = run.learners
            self.apart = (weights(net) - weights(self.teacher)).abs().max()
            self.mean = (
                self.teacher.module[1].running_mean.clone(),
                net.module[1].running_mean.clone(),
            )
            self.teacher.replace()

    clf = Averaged(Network(WithNorm, max_epochs=3, batch_size=32), random_state=0).fit(X, Y)
    torch.testing.assert_close(weights(clf.teacher), clf.by_hand, rtol=1e-4, atol=1e-6)
    assert clf.apart > 1e-3
    ours, theirs = clf.mean
    assert (ours - theirs).abs().max() > 1e-4  # batch statistics of its own
    fitted = clf.nets_[0].module_
    for a, b in zip(fitted.parameters(), clf.teacher.module.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_restarted_network_repeats_its_first_steps():
    losses = []

    class Twice(CrossEntropyClassifier):
        def _begin(self, run):
            run.learners[0].keep_start()

        def _train_epoch(self, run, epoch):
            if epoch == 2:
                run.learners[0].restart()
            for batch, t in run.train_batches(epoch, order=torch.arange(90)):
                loss = self._loss(run, batch, t)
                losses.append(loss.item())
                run.step(loss)

        def _lr_factor(self, schedule, epoch, max_epochs):
            return schedule(epoch % 2, 2)

    clf = Twice(Network(max_epochs=4, batch_size=30), random_state=0).fit(X, Y)
    assert losses[:6] == losses[6:]
    assert [row["lr"] for row in clf.history_] == pytest.approx([0.05, 0.025, 0.05, 0.025])


def test_parameters_of_the_method_are_trained_clipped_and_scheduled_with_the_network():
    class WithBias(CrossEntropyClassifier):
        def _begin(self, run):
            self.bias = nn.Parameter(torch.zeros(run.n_classes))
            run.learners[0].add_parameters([self.bias], weight_decay=0)
            self.groups = run.learners[0].optimizers[0].param_groups

        def _loss(self, run, batch, t):
            logits = run.learners[0](run.view(batch.x)) + self.bias
            return nn.functional.cross_entropy(logits, batch.y)

    y = np.r_[np.zeros(60, int), np.arange(1, 3).repeat(15)]
    clf = WithBias(Network(max_epochs=4), random_state=0).fit(np.zeros((90, 2)), y)
    assert clf.bias[0] > clf.bias[1] + 0.1
    network, own = clf.groups
    assert own["weight_decay"] == 0
    assert network["weight_decay"] == 5e-4
    assert own["lr"] == network["lr"] == pytest.approx(0.05 * 0.1464, rel=1e-2)
    still = WithBias(Network(max_epochs=4, gradient_clip=1e-9), random_state=0)
    assert still.fit(np.zeros((90, 2)), y).bias.abs().max() < 1e-6


# ---- stages and callbacks ----------------------------------------------------------------------


class Listening(EarlyStopping):
    """Early stopping that notes the epochs it hears of and asks at the first bad one."""

    heard = []

    def on_epoch_end(self, net, **kwargs):
        type(self).heard.append(net.history[-1]["epoch"])
        super().on_epoch_end(net, **kwargs)


@pytest.mark.parametrize(
    ("method", "first"),
    [
        (CrossEntropyClassifier(), 1),
        (DivideMixClassifier(warmup=4), 5),
        (CoTeachingClassifier(noise_rate=0.2, n_gradual=4), 5),
        (CoTeachingClassifier(noise_rate=0.2, n_gradual=4, exponent=2), 3),
        (CoTeachingClassifier(noise_rate=0.2, n_gradual=2, exponent=0.5), 5),
        (CoTeachingClassifier(noise_rate=0.2, n_gradual=4, exponent=2, schedule="code"), 5),
        (ForwardCorrectionClassifier(warmup=4), 5),
        (ForwardCorrectionClassifier(transition=np.eye(3)), 1),
        (NoiseAdaptationClassifier(warmup=4), 5),
        (MCorrectionClassifier(bootstrap_start=5), 5),
        (JointOptimizationClassifier(relabel_until=4, warmup=2), 5),
        (PencilClassifier(warmup=2, correct_until=4), 5),
        (SelfPacedClassifier(percentile=0.8, burn_in=2, n_gradual=2), 5),
        (MentorNetClassifier(percentile=0.8, burn_in=4), 5),
        (MentorMixClassifier(noise_rate=0.2, burn_in=0.5), 5),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else str(value),
)
def test_early_stopping_looks_on_from_the_last_stage(method, first):
    Listening.heard = []
    net = Network(max_epochs=7, callbacks=[Listening(patience=50)])
    clf = clone(method).set_params(net=net, random_state=0)
    clf.fit(X[:60], Y[:60], X_val=X[60:], y_val=Y[60:])
    assert sorted(set(Listening.heard)) == list(range(first, 8))


def test_best_weights_are_loaded_before_the_method_finishes():
    class Average(CrossEntropyClassifier):
        def _finish(self, run):
            with torch.no_grad():
                for p in run.learners[0].module.parameters():
                    p.fill_(0.5)

    net = Network(max_epochs=4, lr=0.5, callbacks=[EarlyStopping(patience=1, load_best=True)])
    clf = Average(net, random_state=0).fit(X[:60], Y[:60], X_val=X[60:], y_val=Y[60:])
    assert all((p == 0.5).all() for p in clf.nets_[0].module_.parameters())


@pytest.mark.parametrize(
    ("method", "refused"),
    [
        (CrossEntropyClassifier(), False),
        (ForwardCorrectionClassifier(), True),
        (ForwardCorrectionClassifier(transition=np.eye(3)), False),
        (JointOptimizationClassifier(), True),
        (PencilClassifier(), True),
        (NoiseAdaptationClassifier(), False),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else str(value),
)
def test_a_scheduler_that_would_override_the_rates_of_stages_is_refused(method, refused):
    scheduler = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch)
    net = Network(max_epochs=4, callbacks=[scheduler])
    clf = clone(method).set_params(net=net, random_state=0)
    if refused:
        with pytest.raises(ValueError, match="lr_schedule instead"):
            clf.fit(X, Y)
    else:
        assert clf.fit(X, Y).history_[-1]["lr"] == pytest.approx(0.05 * 0.125)


# ---- what is refused before pre-training ---------------------------------------------------------


class Encoding:
    """Notes that it was asked for an encoder."""

    def __init__(self):
        self.asked = []

    def encoder_for(self, run, net, shape, seed, check):
        self.asked.append(net)
        return run.learners[0].module


MASK = np.arange(90) % 2 == 0
SHORT = Network(MLP, max_epochs=2)
UNWATCHED = Network(MLP, max_epochs=2, callbacks=[EarlyStopping(monitor="valid_acc")])


@pytest.mark.parametrize(
    ("method", "rows", "message"),
    [
        (CoTeachingClassifier(Network(MLP(4, 3), max_epochs=2)), {}, "pass a module class"),
        (CoTeachingPlusClassifier(Network(MLP(4, 3), max_epochs=2)), {}, "pass a module class"),
        (INCVClassifier(Network(MLP(4, 3), max_epochs=2)), {}, "pass a module class"),
        (
            MentorNetClassifier(SHORT, mentor="data_driven"),
            {"trusted": MASK, "clean_labels": Y},
            "rows are right",
        ),
        (
            MentorNetClassifier(SHORT, use_trusted_in_training=False),
            {"trusted": MASK | True},
            "leaves none",
        ),
        (MLNTClassifier(SHORT, n_iterations=5), {}, "n_iterations=5 need more"),
        (MLNTClassifier(SHORT, feature_net=nn.Flatten(0)), {}, "one row of features"),
        (SelfPacedClassifier(UNWATCHED), {}, "watches valid_acc"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else "",
)
def test_refusals_come_before_pretraining(method, rows, message):
    pretrain = Encoding()
    with pytest.raises(ValueError, match=message):
        method.set_params(pretrain=pretrain).fit(X, Y, **rows)
    assert not pretrain.asked


# ---- rows that are held out ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "name"),
    [
        (SelfPacedClassifier(percentile=0.7, burn_in=1), "sample_weight_"),
        (MentorMixClassifier(noise_rate=0.3, burn_in=0.5), "sample_weight_"),
        (MLNTClassifier(n_iterations=2, filter_threshold=0.0), "selected_"),
    ],
    ids=lambda value: type(value).__name__ if hasattr(value, "fit") else "",
)
def test_what_is_said_of_trained_rows_has_their_positions(method, name):
    split = ValidSplit(3, stratified=True)
    whole = Network(max_epochs=4, batch_size=30)
    clf = clone(method).set_params(net=clone(whole).set_params(train_split=split), random_state=0)
    values = getattr(clf.fit(X, Y), name)
    trained = clf.dynamics_["n_seen"] > 0
    assert (len(values), trained.sum()) == (90, 60)
    if values.dtype == bool:
        assert not values[~trained].any()
        assert values[trained].any()
    else:
        np.testing.assert_array_equal(np.isnan(values), ~trained)


# ---- classes that are rare ---------------------------------------------------------------------


@pytest.mark.parametrize("method", [ELRClassifier, MomentELRClassifier, DivideMixClassifier])
def test_rare_classes_with_right_labels_are_learnt(method):
    """A pull towards early predictions, or towards equal shares, cost them up to ten points."""
    lost = []
    for seed in range(3):
        x, y = make_classification(
            600,
            20,
            n_informative=8,
            n_classes=4,
            weights=[0.8, 0.1, 0.06, 0.04],
            class_sep=1.5,
            flip_y=0,
            random_state=seed,
        )
        x, x_test, y, y_test = train_test_split(x, y, test_size=0.5, stratify=y, random_state=seed)
        plain = CrossEntropyClassifier(random_state=seed).fit(x, y).score(x_test, y_test)
        lost.append(plain - method(random_state=seed).fit(x, y).score(x_test, y_test))
    assert np.mean(lost) < 0.01


# ---- steps that are not taken ------------------------------------------------------------------


class Skipping(CrossEntropyClassifier):
    """Training in which some batches take no step, or are passed over in another way."""

    def __init__(self, net=None, *, skipped=(), by="skip", asks=True, random_state=0):
        super().__init__(net, random_state=random_state)
        self.skipped, self.by, self.asks = skipped, by, asks

    def _train_epoch(self, run, epoch):
        (net,) = run.learners
        net._asks = self.asks
        for b, (batch, t) in enumerate(run.train_batches(epoch, order=torch.arange(90))):
            loss, skip = self._loss(run, batch, t), b in self.skipped
            if self.by == "skip":
                before = weights(net).clone()
                run.step(loss, skip=torch.tensor(skip))
                assert torch.equal(before, weights(net)) == skip
            elif not skip:
                run.step(loss)

    def _finish(self, run):
        optimizer = run.learners[0].optimizers[0]
        self.state = [v for s in optimizer.state_dict()["state"].values() for v in s.values()]


@pytest.mark.parametrize("asks", [True, False], ids=["host", "device"])
@pytest.mark.parametrize(
    "optimizer",
    [
        {"optimizer__fused": True},
        {"optimizer__momentum": 0.0},
        {"optimizer__foreach": True, "optimizer__dampening": 0.5},
        {"optimizer": torch.optim.Adam},
        {"optimizer": torch.optim.AdamW, "optimizer__fused": True},
        {"optimizer": torch.optim.NAdam},
    ],
    ids=["SGD-fused", "SGD-plain", "SGD-dampened", "Adam", "AdamW-fused", "NAdam"],
)
def test_a_skipped_step_is_one_that_never_was(optimizer, asks):
    net = Network(max_epochs=3, batch_size=18, gradient_clip=1.0, **optimizer)
    for skipped in ((0, 3), (2, 4)):  # with and without the first of all steps
        a, b = (
            Skipping(net, skipped=skipped, by=by, asks=asks).fit(X, Y) for by in ("skip", "omit")
        )
        np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
        for ours, theirs in zip(a.state, b.state, strict=True):
            assert torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs))


def test_only_the_first_step_asks_the_device():
    asked = []

    class Watched(torch.Tensor):
        def item(self):
            asked.append(bool(self))
            return super().item()

    class Clf(CrossEntropyClassifier):
        def _train_epoch(self, run, epoch):
            run.learners[0]._asks = False
            for batch, t in run.train_batches(epoch):
                skip = torch.zeros((), dtype=torch.bool).as_subclass(Watched)
                run.step(self._loss(run, batch, t), skip=skip)

    for optimizer in (torch.optim.SGD, torch.optim.Adam):
        Clf(Network(max_epochs=2, optimizer=optimizer), random_state=0).fit(X, Y)
    assert asked == [False, False]
