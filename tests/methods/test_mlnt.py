"""MLNT: its label sets, gradients through a step on paper, and a training written out."""

import copy
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from skorch.callbacks import LRScheduler
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy, kl_div

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._features import Watched
from noisyfit._learner import Learner
from noisyfit._lookahead import LookAhead
from noisyfit.methods.mlnt import (
    MLNTClassifier,
    damped,
    divergence,
    labels_to_keep,
    nearest,
    synthetic_labels,
)
from noisyfit.modules import MLP
from noisyfit.noise import sym_incl

X, Y = make_blobs(90, n_features=4, centers=3, random_state=0)
CPU = torch.device("cpu")


class WithNorm(nn.Sequential):
    def __init__(self, n_features, n_classes):
        super().__init__(nn.Linear(n_features, 8), nn.BatchNorm1d(8), nn.Linear(8, n_classes))


class WithDropout(MLP):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes, hidden=(16,), dropout=0.3)


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


# ---- formulas ----------------------------------------------------------------------------------


def test_nearest_rows_are_those_of_a_loop():
    features = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    found = nearest(features, 4)
    for i, row in enumerate(features):
        distance = [((row - other) ** 2).sum() for other in features]
        distance[i] = np.inf
        assert found[i].tolist() == np.argsort(distance)[:4].tolist()


@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize(
    ("share", "n_rows", "changed"),
    [(0.5, 31, 15), (0.3, 10, 3), (0.29, 100, 29), (0.0, 12, 0), (1.0, 12, 12), (0.5, 2, 1)],
)
def test_exactly_the_floor_of_the_share_is_changed(share, n_rows, changed):
    seen = []

    class Spy(MLNTClassifier):
        def _meta_losses(self, run, x, y, logits, rise):
            self.y = y
            yield from super()._meta_losses(run, x, y, logits, rise)

        def _meta_loss(self, run, x, labels, logits, target):
            seen.append((labels != self.y).sum().item())
            return super()._meta_loss(run, x, labels, logits, target)

    x = np.random.default_rng(0).normal(size=(n_rows, 4))
    net = Network(max_epochs=1, batch_size=n_rows)
    labels = np.arange(n_rows).astype(str)  # all differ, so that every change shows
    Spy(net, n_sets=6, flip_share=share, warmup=0, random_state=0).fit(x, labels)
    assert seen == [changed] * 6


def test_labels_change_only_in_the_drawn_rows_and_come_from_neighbours():
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(40)
    features = torch.randn(40, 3, generator=generator)
    near = nearest(features, 10)
    sets = synthetic_labels(y, near, 13, 50, generator)
    assert sets.shape == (50, 40)
    assert ((sets != y).sum(1) == 13).all()  # a row is never its own neighbour
    seen = set()
    for labels in sets:
        for i in (labels != y).nonzero().flatten().tolist():
            assert labels[i] in y[near[i]]
            seen.add((i, labels[i].item()))
    assert len(seen) > 300  # of 400 pairs of row and neighbour: drawn uniformly
    assert len({tuple(row.tolist()) for row in sets != y}) == 50


def test_divergence_is_that_of_kullback_and_leibler():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(7, 4, generator=generator).softmax(1)
    target[0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    logits = torch.randn(7, 4, generator=generator)
    by_hand = 0.0
    for p, z in zip(target.tolist(), logits.softmax(1).tolist(), strict=True):
        by_hand += sum(a * np.log(a / b) for a, b in zip(p, z, strict=True) if a > 0) / 7
    assert divergence(target, logits).item() == pytest.approx(by_hand, rel=1e-5)
    assert divergence(logits.softmax(1), logits).item() == pytest.approx(0, abs=1e-6)


def test_damping_acts_above_one_only_and_its_gradient_does_not_grow():
    for value, expected, slope in ((0.3, 0.3, 1), (1.0, 1.0, 1), (8.0, 1 + np.log(8), 1 / 8)):
        at = torch.tensor(value, requires_grad=True)
        out = damped(at)
        out.backward()
        assert out.item() == pytest.approx(expected)
        assert at.grad.item() == pytest.approx(slope)


def test_labels_to_keep_leaves_no_class_empty():
    posterior = torch.tensor([0.9, 0.3, 0.29, 0.1, 0.2] + [0.01] * 299 + [0.02])
    y = torch.tensor([0, 0, 0, 1, 1] + [2] * 300)
    kept, vanished = labels_to_keep(posterior, y, 4, 0.3)
    assert kept[:5].tolist() == [True, True, False, False, True]
    assert kept[5:].sum() == 3
    assert kept[-1]
    assert vanished == [1, 2]


# ---- gradients ---------------------------------------------------------------------------------


def at_work(module, double=True, **params):
    """What `_meta_loss` needs, around a module."""
    params = {"kl_reduction": "batchmean", "inner_lr": 0.7, "damp": False} | params
    clf = MLNTClassifier(**params)
    learner = Learner(Network(module, device="cpu").initialize(), CPU, torch.Generator())
    if double:
        learner.module.double()
        learner.forward = lambda module, x: module(x)
    memory = SimpleNamespace(look=LookAhead(learner), inner_lr=params["inner_lr"])
    return clf, SimpleNamespace(learners=[learner], memory=memory, n_classes=3), learner


def batch(n=12, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(n, 4, generator=generator).to(dtype)
    target = torch.randn(n, 3, generator=generator).softmax(1).to(dtype)
    return x, torch.randint(3, (5, n), generator=generator), target


@pytest.mark.parametrize("inner_lr", [0.7, 0.0])
@pytest.mark.parametrize("second_order", [True, False])
def test_the_gradient_is_that_of_differences_if_the_step_is_differentiated(second_order, inner_lr):
    torch.manual_seed(0)
    clf, run, learner = at_work(nn.Linear(4, 3), second_order=second_order, inner_lr=inner_lr)
    x, sets, target = batch()

    def apart():
        return clf._meta_loss(run, x, sets[0], learner(x), target)

    apart().backward()
    weight, exact = learner.module.weight, True
    for i, j in ((0, 1), (2, 3), (1, 0)):
        found = []
        for shift in (1e-5, -1e-5):
            with torch.no_grad():
                weight[i, j] += shift
            found.append(apart().item())
            with torch.no_grad():
                weight[i, j] -= shift
        difference = (found[0] - found[1]) / 2e-5
        exact &= abs(weight.grad[i, j].item() - difference) < 1e-4 * abs(difference)
    assert exact == (second_order or inner_lr == 0)


def test_without_a_step_all_sets_distil_the_teacher():
    torch.manual_seed(0)
    clf, run, learner = at_work(nn.Linear(4, 3), inner_lr=0.0)
    x, sets, target = batch()
    values = [clf._meta_loss(run, x, labels, learner(x), target).item() for labels in sets]
    assert values == pytest.approx([values[0]] * 5, rel=1e-12)
    clf._meta_loss(run, x, sets[0], learner(x), target).backward()
    p = learner(x).softmax(1).detach()
    by_hand = (p - target).T @ x / len(x)  # gradient of distillation in a linear model
    torch.testing.assert_close(learner.module.weight.grad, by_hand)


def test_mean_divides_by_the_classes_too():
    torch.manual_seed(0)
    x, sets, target = batch()
    module = nn.Linear(4, 3)
    values = []
    for reduction in ("batchmean", "mean"):
        clf, run, learner = at_work(copy.deepcopy(module), kl_reduction=reduction)
        values.append(clf._meta_loss(run, x, sets[0], learner(x), target).item())
    assert values[1] == pytest.approx(values[0] / 3)
    clf, run, learner = at_work(copy.deepcopy(module), damp=True, inner_lr=0.0)
    with torch.no_grad():
        learner.module.weight.mul_(100)
    plain = divergence(target, learner(x)).item()
    assert plain > 2
    damp = clf._meta_loss(run, x, sets[0], learner(x), target).item()
    assert damp == pytest.approx(1 + np.log(plain))


def test_set_by_set_gradients_are_those_of_the_sum_and_one_graph_lives_at_a_time():
    alive, gradients = [], []

    class Spy(MLNTClassifier):
        together = False

        def _meta_losses(self, run, x, y, logits, rise):
            losses = super()._meta_losses(run, x, y, logits, rise)
            if self.together:
                yield torch.stack(list(losses)).sum()
                return
            graphs = []
            for loss in losses:
                graphs.append(weakref.ref(loss))
                yield loss
                del loss
                alive.append(sum(graph() is not None for graph in graphs))

        def _train_epoch(self, run, epoch):
            (net,) = run.learners
            apply = net.apply_gradient
            net.apply_gradient = lambda *args: (
                gradients.append(torch.cat([p.grad.flatten() for p in net.module.parameters()])),
                apply(*args),
            )
            super()._train_epoch(run, epoch)
            net.apply_gradient = apply

    params = {"n_sets": 5, "warmup": 0, "ramp": 0, "random_state": 0}
    net = Network(WithNorm, max_epochs=1, batch_size=90)
    Spy(net, **params).fit(X, Y)
    whole = Spy(net, **params)
    whole.together = True
    whole.fit(X, Y)
    assert alive == [0] * 5
    one_by_one, at_once = gradients
    assert (one_by_one - at_once).abs().max() < 1e-6 * at_once.abs().max()


# ---- training ----------------------------------------------------------------------------------


class Started(MLNTClassifier):
    """Keeps what training starts from, and the student at its end."""

    def _begin(self, run):
        super()._begin(run)
        net = copy.deepcopy(run.learners[0].module)
        self._start = net, run.data.x, run.generator.clone_state()

    def _finish(self, run):
        self._student = copy.deepcopy(run.learners[0].module)
        super()._finish(run)


@pytest.mark.parametrize("second_order", [True, False])
def test_training_equals_a_loop_written_out(second_order):
    clf = Started(
        Network(WithNorm, max_epochs=4, batch_size=32, lr_schedule="constant"),
        meta_rate=3.0,
        inner_lr=0.5,
        n_sets=2,
        n_neighbors=6,
        second_order=second_order,
        damp=False,
        warmup=1,
        ramp=2,
        teacher_decay=(0.5, 0.8),
        random_state=0,
    ).fit(X, Y)
    net, x, generator = clf._start
    net.train()
    y, teacher, rates = torch.from_numpy(Y), None, []
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(4):
        rate = 0.0
        for b, index in enumerate(torch.randperm(90, generator=generator).split(32)):
            xb, yb = x[index], y[index]
            logits = net(xb)
            optimizer.zero_grad()
            loss = cross_entropy(logits, yb)
            since = epoch + b / 3 - 1
            if since >= 0:
                if teacher is None:
                    teacher = copy.deepcopy(net)
                else:
                    keep = 0.5 if since < 2 else 0.8
                    for old, new in zip(teacher.parameters(), net.parameters(), strict=True):
                        old.data = keep * old + (1 - keep) * new.data
                with torch.no_grad():
                    features = teacher[1](teacher[0](xb))
                    target = teacher[2](features).softmax(1)
                rate = 3.0 * np.exp(-5 * (1 - min(since / 2, 1)) ** 2)
                near = (features[:, None] - features).square().sum(2).argsort(1)[:, 1:7]
                rows = torch.rand(2, len(yb), generator=generator).argsort(1)[:, : len(yb) // 2]
                drawn = torch.randint(6, rows.shape, generator=generator)
                for chosen, which in zip(rows, drawn, strict=True):
                    labels = yb.clone()
                    labels[chosen] = yb[near[chosen, which]]
                    names, values = zip(*net.named_parameters(), strict=True)
                    g = torch.autograd.grad(
                        cross_entropy(logits, labels), values, create_graph=True
                    )
                    if not second_order:
                        g = [part.detach() for part in g]
                    ahead = {k: p - 0.5 * d for k, p, d in zip(names, values, g, strict=True)}
                    buffers = {k: v.clone() for k, v in net.named_buffers()}
                    out = functional_call(net, (ahead, buffers), (xb,))
                    apart = kl_div(out.log_softmax(1), target, reduction="sum") / target.numel()
                    loss = loss + rate / 2 * apart
            loss.backward()
            optimizer.step()
        rates.append(rate)
    assert [row["meta_rate"] for row in clf.history_] == pytest.approx(rates)
    student, ours = clf._student.state_dict(), clf.nets_[0].module_.state_dict()
    for name, value in net.state_dict().items():
        torch.testing.assert_close(student[name], value, rtol=1e-3, atol=1e-5)
    for name, value in teacher.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=1e-3, atol=1e-5)
    assert (weights(teacher) - weights(net)).abs().max() > 1e-3


def test_the_weight_rises_along_the_ramp():
    net = Network(max_epochs=6, batch_size=90)
    clf = MLNTClassifier(net, meta_rate=1, warmup=0, ramp=4, random_state=0).fit(X, Y)
    rates = [row["meta_rate"] for row in clf.history_]
    assert rates == pytest.approx([0.0067, 0.0601, 0.2865, 0.7316, 1, 1], abs=1e-4)


@pytest.mark.parametrize("params", [{"meta_rate": 0}, {"warmup": 5}])
@pytest.mark.parametrize("module", [WithNorm, WithDropout])
def test_without_the_meta_loss_it_is_plain_training_bit_for_bit(params, module):
    net = Network(module, max_epochs=5, batch_size=32)
    plain = CrossEntropyClassifier(net, random_state=0).fit(X, Y)
    ours = MLNTClassifier(net, random_state=0, **params).fit(X, Y)
    np.testing.assert_array_equal(ours.predict_proba(X), plain.predict_proba(X))
    np.testing.assert_array_equal(ours.clean_proba_, plain.clean_proba_)
    other = MLNTClassifier(net, random_state=0, warmup=4).fit(X, Y)
    assert (other.predict_proba(X) != plain.predict_proba(X)).any()


def test_steps_on_paper_leave_the_statistics_of_the_network_alone():
    statistics = []

    class Spy(MLNTClassifier):
        def _meta_loss(self, run, x, labels, logits, target):
            buffers = [b.clone() for b in run.learners[0].module.buffers()]
            loss = super()._meta_loss(run, x, labels, logits, target)
            after = list(run.learners[0].module.buffers())
            assert all(torch.equal(a, b) for a, b in zip(buffers, after, strict=True))
            statistics.append(buffers[0])
            return loss

    net = Network(WithNorm, max_epochs=2, batch_size=45)
    Spy(net, n_sets=2, warmup=0, random_state=0).fit(X, Y)
    assert len(statistics) == 8
    assert not torch.equal(statistics[1], statistics[2])  # the ordinary pass does count


def test_the_teacher_predicts_unless_the_student_is_asked_for():
    net = Network(WithNorm, max_epochs=5, batch_size=32)
    teacher = Started(net, teacher_decay=0.9, random_state=0).fit(X, Y)
    student = Started(net, teacher_decay=0.9, predict_with="student", random_state=0).fit(X, Y)
    np.testing.assert_array_equal(teacher.clean_proba_, student.clean_proba_)  # from the history
    assert torch.equal(weights(student.nets_[0].module_), weights(teacher._student))
    assert not torch.equal(weights(teacher.nets_[0].module_), weights(teacher._student))


def test_defaults_scale_with_the_training_and_the_table():
    chosen = []

    class Spy(MLNTClassifier):
        def _begin(self, run):
            super()._begin(run)
            m = run.memory
            chosen.append((m.rate, m.inner_lr, m.warmup, m.ramp, m.decays[0], run.last_stage))

    x = np.random.default_rng(0).normal(size=(64, 24))
    y = np.arange(64) % 4
    net = Network(max_epochs=8, batch_size=8)
    for data, params in (
        (x, {}),
        (x[:, :6], {"kl_reduction": "batchmean"}),
        (x[:, :16].reshape(64, 4, 4), {}),
    ):
        Spy(net, random_state=0, **params).fit(data, y)
    # a tenth of 64 steps
    common = 8 / 40, 8 / 6, 1 - 1 / 6.4, 2
    assert chosen[0] == pytest.approx((4, 1, *common))
    assert chosen[1] == pytest.approx((0.5, 1, *common))
    assert chosen[2] == pytest.approx((4, 0.2, *common))
    long = Network(max_epochs=200, batch_size=1, lr=1e-4)
    with pytest.raises(StopIteration):
        Spy(long, random_state=0, augment=stop).fit(x, y)
    assert chosen[3][4] == 0.999


def stop(x, generator):
    if len(x) == 1:
        raise StopIteration
    return x


# ---- features, iterations ----------------------------------------------------------------------


def test_a_first_network_gives_the_features_and_the_second_starts_afresh():
    seen = []

    class Spy(MLNTClassifier):
        def _start_afresh(self, run, part):
            (net,) = run.learners
            seen.append(copy.deepcopy(net.module))
            super()._start_afresh(run, part)
            seen.append(copy.deepcopy(net.module))

        def _targets(self, run, x, rise):
            target, features = super()._targets(run, x, rise)
            trained = seen[0].eval()
            torch.testing.assert_close(features, trained[1](trained[0](x)))
            with torch.no_grad():
                own = run.memory.average.module(x).softmax(1)
            torch.testing.assert_close(target, own)
            return target, features

    net = Network(WithNorm, max_epochs=12, batch_size=32)
    clf = Spy(net, feature_net="pretrain", pretrain_epochs=4, warmup=1, random_state=0)
    clf.fit(X, Y)
    trained, fresh = seen
    plain = CrossEntropyClassifier(net.set_params(max_epochs=4), random_state=0).fit(X, Y)
    assert torch.equal(weights(trained), weights(plain.nets_[0].module_))
    assert not torch.equal(weights(trained), weights(fresh))
    rates = [row["meta_rate"] for row in clf.history_]
    assert rates[:5] == [0] * 5
    assert min(rates[5:]) > 0
    rates = [row["lr"] for row in clf.history_]
    assert rates[4] == rates[0] == 0.05  # each has the whole schedule
    assert rates[3] < 0.01
    short = MLNTClassifier(net, feature_net="pretrain", random_state=0).fit(X, Y)
    assert short._parts_ == [(0, 1), (1, 4)]


def test_iterations_leave_out_what_the_mentor_doubts():
    noisy = sym_incl(Y, 0.4, random_state=0)
    seen = []

    class Spy(MLNTClassifier):
        def _filter(self, run, logits):
            super()._filter(run, logits)
            proba = logits.softmax(1).gather(1, run.data.y[:, None])[:, 0]
            seen.append((proba >= 0.3).numpy())

        def _targets(self, run, x, rise):
            target, features = super()._targets(run, x, rise)
            if run.memory.mixes:
                told = run.memory.mentor(x)[0].softmax(1)
                with torch.no_grad():
                    own = run.memory.average.module(x).softmax(1)
                torch.testing.assert_close(target, told + 0.5 * rise * (own - told))
            return target, features

    net = Network(max_epochs=30, batch_size=32)
    clf = Spy(net, n_iterations=3, meta_rate=1, random_state=0).fit(X, noisy.y)
    assert clf._parts_ == [(0, 10), (10, 20), (20, 30)]
    assert len(seen) == 2
    np.testing.assert_array_equal(clf.selected_, seen[-1])
    kept = clf.selected_[~noisy.changed].mean(), clf.selected_[noisy.changed].mean()
    assert kept[0] > 0.9
    assert kept[1] < 0.5
    visits = clf.dynamics_["n_seen"]
    np.testing.assert_array_equal(visits, 10 + 10 * (seen[0].astype(int) + seen[1]))
    assert MLNTClassifier(net, random_state=0).fit(X, Y).selected_.all()


def test_a_class_that_would_vanish_is_kept_with_a_warning():
    net = Network(max_epochs=4, batch_size=32)
    clf = MLNTClassifier(net, n_iterations=2, filter_threshold=1.0, random_state=0)
    with pytest.warns(UserWarning, match="filter_threshold"):
        clf.fit(X, np.array(["a", "b", "c"])[Y])
    assert {"a", "b", "c"} == set(np.array(["a", "b", "c"])[Y[clf.selected_]])


def test_a_module_of_the_user_gives_the_features():
    module = nn.Flatten()  # no linear layer: its output are the features
    seen = []

    class Spy(MLNTClassifier):
        def _targets(self, run, x, rise):
            target, features = super()._targets(run, x, rise)
            seen.append(torch.equal(features, x))
            return target, features

    net = Network(max_epochs=2, batch_size=32)
    Spy(net, feature_net=module, warmup=0, random_state=0).fit(X, Y)
    assert seen == [True] * 6
    fitted = CrossEntropyClassifier(net, random_state=0).fit(X, Y).nets_[0].module_
    before = weights(fitted).clone()
    clf = MLNTClassifier(net, feature_net=fitted, warmup=0, random_state=0).fit(X, Y)
    assert torch.equal(weights(fitted), before)
    assert not fitted.classifier._forward_pre_hooks
    assert not clf.nets_[0].module_.classifier._forward_pre_hooks

    class Pooled(nn.Module):
        def forward(self, x):
            return x.mean(0, keepdim=True)

    with pytest.raises(ValueError, match="feature_net must give one row"):
        MLNTClassifier(net, feature_net=Pooled()).fit(X, Y)


def test_features_are_of_rows_or_else_the_output():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 3)

        def forward(self, x):
            return self.linear(x.reshape(-1, 2)).reshape(len(x), 2, 3).mean(1)

    x = torch.randn(5, 4)
    for module, of_rows in (
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), True),
        (Tokens(), False),
    ):
        _, _, learner = at_work(module, double=False)
        out, features = Watched(learner, module)(x)
        assert torch.equal(features, x if of_rows else out)
        assert not out.requires_grad


# ---- odd cases ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "size"), [(11, 5), (3, 2), (2, 2)])
def test_last_batches_of_one_row_and_few_rows_work(n, size):
    net = Network(max_epochs=3, batch_size=size, lr=0.01)
    clf = MLNTClassifier(net, n_sets=2, n_iterations=2, warmup=0, random_state=0)
    clf.set_params(filter_threshold=0).fit(X[:n], Y[:n])
    assert np.isfinite(clf.predict_proba(X)).all()


def test_one_class_and_one_column():
    net = Network(max_epochs=3)
    clf = MLNTClassifier(net, warmup=0, random_state=0).fit(X[:, :1], np.zeros(90))
    assert (clf.predict_proba(X[:, :1]) == 1).all()


def test_training_in_bfloat16_works():
    net = Network(WithNorm, max_epochs=15, batch_size=32, precision="bfloat16")
    clf = MLNTClassifier(net, warmup=0, n_sets=2, random_state=0).fit(X, Y)
    assert clf.score(X, Y) > 0.9
    assert all(p.dtype == torch.float32 for p in clf.nets_[0].module_.parameters())


def test_rows_may_be_streamed_and_some_held_out():
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X).float())
    net = Network(max_epochs=6, batch_size=32)
    clf = MLNTClassifier(net, feature_net="pretrain", random_state=0)
    clf.fit(dataset, Y, X_val=X[:20], y_val=Y[:20])
    assert clf.score(dataset, Y) > 0.8
    assert "valid_acc" in clf.history_[-1]


def test_a_scheduler_is_refused_only_where_networks_follow_each_other():
    scheduler = LRScheduler(torch.optim.lr_scheduler.LambdaLR, lr_lambda=lambda epoch: 0.5**epoch)
    net = Network(max_epochs=4, callbacks=[scheduler])
    clf = MLNTClassifier(net, random_state=0).fit(X, Y)
    assert clf.history_[-1]["lr"] == pytest.approx(0.05 * 0.125)
    with pytest.raises(ValueError, match="lr_schedule instead"):
        MLNTClassifier(net, n_iterations=2).fit(X, Y)


class Cached(nn.Module):
    """Does not follow the parameters that it lists."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.linear = nn.Linear(n_features, n_classes)
        self.cached = [self.linear.weight]

    def forward(self, x):
        return x @ self.cached[0].T


class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return 2 * g * ctx.saved_tensors[0]


class Smooth(nn.Linear):
    def __init__(self, n_features, n_classes):
        super().__init__(n_features, n_classes)

    def forward(self, x):
        return Once.apply(super().forward(x))


@pytest.mark.parametrize(
    ("net", "match"),
    [
        (Network(Cached), "Cached does not compute its output"),
        (Network(Smooth), "set second_order=False"),
        (Network(compile=True, compile__backend="eager"), "compile"),
    ],
    ids=["Cached", "Smooth", "compile"],
)
def test_networks_that_cannot_be_stepped_on_paper_are_refused_before_training(net, match):
    with pytest.raises(ValueError, match=match):
        MLNTClassifier(net).fit(X, Y)
    if match.endswith("False"):
        MLNTClassifier(net.set_params(max_epochs=2), second_order=False).fit(X, Y)
    MLNTClassifier(net.set_params(max_epochs=1), meta_rate=0).fit(X, Y)  # needs none


@pytest.mark.parametrize(
    "params",
    [
        {"meta_rate": -1},
        {"meta_rate": "strong"},
        {"inner_lr": -0.1},
        {"n_sets": 0},
        {"flip_share": 1.1},
        {"n_neighbors": 2.5},
        {"feature_net": "other"},
        {"feature_net": nn.Flatten},
        {"pretrain_epochs": 0},
        {"pretrain_epochs": 50, "feature_net": "pretrain"},
        {"second_order": 1},
        {"kl_reduction": "sum"},
        {"damp": "yes"},
        {"warmup": -1},
        {"ramp": float("nan")},
        {"teacher_decay": 1.0},
        {"teacher_decay": (0.9, 0.99, 0.999)},
        {"teacher_decay": (0.9, "x")},
        {"n_iterations": 0},
        {"n_iterations": 51},
        {"filter_threshold": -0.1},
        {"predict_with": "both"},
    ],
)
def test_bad_parameters_are_refused(params):
    name = next(iter(params))
    with pytest.raises((ValueError, TypeError), match=name):
        MLNTClassifier(**params).fit(X, Y)


def test_it_does_not_memorise_where_plain_training_does(digits):
    images, y = digits
    table = images.reshape(len(images), -1)
    X, X_test, y, y_test = table[:1297], table[1297:], y[:1297], y[1297:]
    noisy = sym_incl(y, 0.4, random_state=0)
    net = Network(max_epochs=40)
    plain, ours = (
        cls(net, random_state=0).fit(X, noisy.y) for cls in (CrossEntropyClassifier, MLNTClassifier)
    )
    assert ours.score(X_test, y_test) >= plain.score(X_test, y_test) + 0.10
    assert roc_auc_score(~noisy.changed, ours.clean_proba_) >= 0.98
    assert np.mean(ours.refined_labels_ == y) >= 0.9
