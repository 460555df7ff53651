"""Manifold DivideMix: its formulas, what is set aside, its edge cases, and its main job."""

import math
import warnings
from collections import defaultdict

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from skorch.callbacks import EarlyStopping
from skorch.dataset import ValidSplit
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from noisyfit import (
    DivideMixClassifier,
    ManifoldDivideMixClassifier,
    Network,
    SimCLR,
)
from noisyfit._mixematch import (
    farthest,
    masked_mean,
    mixed_loss,
    rows_set_aside,
    scaled_by,
    soft_rce,
    soft_sce,
    without_meaning,
)
from noisyfit.augment import mixup
from noisyfit.losses import nt_xent, rce, sce, soft_cross_entropy
from noisyfit.methods import manifold_dividemix
from noisyfit.mixtures import BetaMixtureSplitter, sample_kinds
from noisyfit.modules import MLP, SmallCNN
from noisyfit.noise import sym_incl
from noisyfit.outliers import count_of, knn_distances

X, Y = make_blobs(160, n_features=4, centers=4, random_state=0)
NOISY = sym_incl(Y, 0.4, random_state=0)


def fit(net=None, X=X, y=NOISY.y, cls=ManifoldDivideMixClassifier, **params):
    net = Network(max_epochs=6, batch_size=32) if net is None else net
    return cls(net, random_state=0, **params).fit(X, y)


def small_images(n, n_classes=3, seed=0):
    """Images uint8 (n, 1, 8, 8) whose brightness tells the class, and the classes."""
    rng, y = np.random.default_rng(seed), np.arange(n) % n_classes
    bright = (y + 0.5) / n_classes
    images = rng.random((n, 1, 8, 8)) * 60 + 180 * bright[:, None, None, None]
    return images.astype(np.uint8), y


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---- formulas --------------------------------------------------------------------------------


@pytest.mark.parametrize(("n_classes", "expected"), [(10, 1.56115), (100, 3.72221)])
def test_reverse_cross_entropy_of_the_code_and_of_the_textbook(n_classes, expected):
    rest = math.log(0.1 / (n_classes - 1))
    logits = torch.full((1, n_classes), rest)
    logits[0, 3] = math.log(0.9)
    target = functional.one_hot(torch.tensor([3]), n_classes).float()
    assert soft_rce(logits, target, "code").item() == pytest.approx(expected, abs=1e-5)
    assert soft_rce(logits, target, "standard").item() == pytest.approx(0.92103, abs=1e-5)


def test_symmetric_losses_of_distributions_equal_plain_loops():
    logits, target = randn(5, 4), randn(5, 4, seed=1).softmax(1)
    p, q = logits.softmax(1).numpy(), target.numpy()
    for kind in ("code", "standard"):
        for row in range(5):
            ce = -sum(q[row, c] * math.log(p[row, c]) for c in range(4))
            if kind == "standard":
                reverse = -sum(p[row, c] * math.log(max(q[row, c], 1e-4)) for c in range(4))
            else:
                total = math.log(sum(math.exp(v) for v in q[row]))
                reverse = -sum(p[row, c] * (q[row, c] - total) for c in range(4))
            value = soft_sce(logits, target, kind)[row].item()
            assert value == pytest.approx(ce + reverse, rel=1e-5)


def test_on_one_hot_targets_the_textbook_form_is_that_of_the_library():
    logits, y = randn(6, 4), torch.arange(6) % 4
    target = functional.one_hot(y, 4).float()
    torch.testing.assert_close(soft_rce(logits, target, "standard"), rce(logits, y))
    torch.testing.assert_close(soft_sce(logits, target, "standard"), sce(logits, y, alpha=1.0))


def test_a_linear_layer_of_mixed_embeddings_mixes_its_outputs():
    layer, v, partner = nn.Linear(16, 5), randn(12, 16), torch.arange(12).roll(5)
    of_mixed, mixed = layer(mixup(v, 0.7, partner)), mixup(layer(v), 0.7, partner)
    torch.testing.assert_close(of_mixed, mixed, rtol=0, atol=1e-5)


def test_mixed_loss_equals_plain_loops_and_counts_rows_without_weight():
    logits, target = randn(5, 3), randn(5, 3, seed=1).softmax(1)
    weight = torch.tensor([1.0, 0.3, 0.8, 0.0, 0.5])
    p, q, w = logits.softmax(1).tolist(), target.tolist(), weight.tolist()
    lx = sum(w[i] * -sum(q[i][c] * math.log(p[i][c]) for c in range(3)) for i in (0, 1)) / 2
    lu = sum(w[i] * sum((p[i][c] - q[i][c]) ** 2 for c in range(3)) / 3 for i in (2, 3, 4)) / 3
    loss = mixed_loss(logits, target, weight, 2, soft_cross_entropy, 100.0)
    assert loss.item() == pytest.approx(lx + 100 * lu, rel=1e-5)
    alone = mixed_loss(logits[:2], target[:2], weight[:2], 2, soft_cross_entropy, 100.0)
    assert alone.item() == pytest.approx(lx, rel=1e-5)
    assert mixed_loss(logits, target, torch.zeros(5), 2, soft_cross_entropy, 100.0) == 0


def test_masked_rows_have_exactly_no_gradient():
    logits = randn(6, 3).requires_grad_()
    mask = torch.tensor([True, False, True, True, False, True])
    losses = sce(logits, torch.arange(6) % 3, alpha=1.0)
    masked_mean(losses, mask).backward()
    assert (logits.grad[~mask] == 0).all()
    assert (logits.grad[mask] != 0).any(1).all()
    torch.testing.assert_close(masked_mean(losses, mask), losses[mask].mean())
    assert masked_mean(losses, torch.zeros(6, dtype=torch.bool)) == 0


def test_losses_are_scaled_by_the_fitted_rows():
    losses = torch.tensor([1.0, 2.0, 3.0, 9.0])
    assert scaled_by(losses, losses[:3]).tolist() == [0, 0.5, 1, 1]
    assert not scaled_by(torch.ones(3), torch.ones(2)).any()


# ---- what is set aside -----------------------------------------------------------------------


def test_published_counts_of_rows_set_aside():
    n = 50_000
    for j in range(29):
        expected = math.ceil(n / 10) + j * math.ceil(n / 100)
        assert rows_set_aside(n, j, initial=0.1, step=0.01) == expected
    assert rows_set_aside(n, 28, initial=0.1, step=0.01) == 0.38 * n
    assert count_of(0.07, 100) == 7  # 0.07 * 100 is more than 7


def test_rows_between_clusters_are_the_farthest():
    """Five tight clusters on the sphere and fifty other directions."""
    rng = np.random.default_rng(0)
    centres = functional.normalize(torch.tensor(rng.normal(size=(5, 32))), dim=1)
    around = centres.repeat_interleave(90, 0) + 0.05 * torch.tensor(rng.normal(size=(450, 32)))
    others = torch.tensor(rng.normal(size=(50, 32)))
    distance = knn_distances(torch.cat([around, others]))
    assert farthest(distance, 50).nonzero().squeeze(1).tolist() == [*range(450, 500)]
    assert farthest(torch.ones(4), 2).tolist() == [True, True, False, False]
    assert not farthest(torch.ones(4), 0).any()


def agreeing(*shares_and_counts, seed=0):
    """Agreement of rows in groups, the farthest first, with the given probabilities."""
    rng = np.random.default_rng(seed)
    return torch.tensor(np.concatenate([rng.random(n) < p for p, n in shares_and_counts]))


@pytest.mark.parametrize(
    ("agreement", "low", "high"),
    [
        (((1.0, 500),), 0, 0),
        (((0.7, 50), (1.0, 450)), 0, 0),  # atypical, but their labels are right
        (((0.6, 500),), 0, 0),  # 40 % of the labels are wrong everywhere
        (((0.1, 500),), 0, 0),  # nothing has been learnt
        (((0.1, 100), (0.9, 400)), 90, 110),
        (((0.1, 100), (0.6, 400)), 80, 120),
        (((0.1, 2), (0.9, 498)), 0, 2),
    ],
)
def test_far_rows_count_as_meaningless_where_labels_are_met_by_chance(agreement, low, high):
    n = 500
    distance = torch.arange(n, 0, -1.0)
    for seed in range(3):
        count = without_meaning(distance, agreeing(*agreement, seed=seed), n_classes=10)
        assert low <= count <= high, seed
    shuffled = torch.arange(n).roll(123)
    agrees = agreeing(*agreement, seed=2)
    assert without_meaning(distance[shuffled], agrees[shuffled], n_classes=10) == count


class Watched(ManifoldDivideMixClassifier):
    """Records what each part of the training sees."""

    def _begin(self, run):
        self.seen = defaultdict(list)
        super()._begin(run)

    def _divide(self, run, epoch):
        super()._divide(run, epoch)
        memory = run.memory
        self.seen["epochs"].append(epoch)
        self.seen["out"].append(memory.n_out)
        inside = set(memory.inside.nonzero().squeeze(1).tolist())
        assert set(memory.labelled.tolist()) | set(memory.unlabelled.tolist()) == inside
        assert not set(memory.labelled.tolist()) & set(memory.unlabelled.tolist())

    def _batch_loss(self, run, batch, batch_u, lam, rise):
        self.seen["rise"].append(rise)
        self.seen["lam"].append(lam)
        rows = [*batch.index.tolist(), *([] if batch_u is None else batch_u.index.tolist())]
        assert run.memory.inside[rows].all()
        self.seen["rows"].append(rows)
        self.seen["n_unlabelled"].append(len(rows) - len(batch.index))
        return super()._batch_loss(run, batch, batch_u, lam, rise)


def test_the_number_of_rows_set_aside_grows_with_every_division_up_to_its_bound():
    net = Network(max_epochs=9, batch_size=16)
    given = {"warmup": 1, "redivide_every": 2, "ood_initial": 0.1, "ood_step": 0.05}
    clf = fit(net, cls=Watched, ood_share=None, **given)
    assert clf.seen["epochs"] == [1, 3, 5, 7]
    assert clf.seen["out"] == [24, 32, 40, 48]
    assert (~clf.in_distribution_).sum() == 48
    assert [row["n_out"] for row in clf.history_] == [0, 24, 24, 32, 32, 40, 40, 48, 48]
    bounded = fit(net, cls=Watched, ood_share=0.22, **given)
    assert bounded.seen["out"] == [24, 32, 36, 36]
    assert fit(net, cls=Watched, ood_share=0.0, **given).in_distribution_.all()
    once = fit(net, cls=Watched, ood_share=None, **given | {"redivide_every": None})
    assert once.seen["out"] == [24]


def test_the_default_divides_thirty_times_in_all_epochs():
    clf = ManifoldDivideMixClassifier()
    assert [clf._interval(n) for n in (300, 50, 30, 4)] == [10, 2, 1, 1]


def test_too_large_an_amount_leaves_rows_for_batches_and_warns():
    with pytest.warns(UserWarning, match="no more than 128 of 160 rows"):
        clf = fit(ood_share=None, ood_initial=0.95)
    assert clf.in_distribution_.sum() == 32


def test_few_rows_are_never_set_aside():
    for n in (2, 9):
        clf = fit(Network(max_epochs=4), X[:n], np.arange(n) % 2)
        assert clf.in_distribution_.all()
        assert np.isfinite(clf.ood_score_).all()


def test_rows_set_aside_before_the_warm_up_do_not_teach(monkeypatch):
    """A trained encoder lets atypical rows be known at once; their logits get no gradient."""
    images, y = small_images(90)
    images[:9] = np.random.default_rng(1).integers(0, 255, (9, 1, 8, 8))
    gradients, masks = [], []

    class Spy(ManifoldDivideMixClassifier):
        def _given_loss(self, run, logits, y):
            logits.register_hook(lambda g: gradients.append(g.clone()))
            return super()._given_loss(run, logits, y)

    def spy(losses, mask):
        masks.append(mask)
        return masked_mean(losses, mask)

    monkeypatch.setattr(manifold_dividemix, "masked_mean", spy)
    encoder = SmallCNN((1, 8, 8), 3)
    net = Network(SmallCNN, max_epochs=3, batch_size=32)
    given = {"warmup": 3, "ood_initial": 0.1}
    clf = fit(net, images, y, cls=Spy, pretrain=encoder, ood_share=0.1, **given)
    assert clf.history_[0]["n_out"] == 9
    assert len(gradients) == len(masks) == 9
    for gradient, mask in zip(gradients, masks, strict=True):
        assert (gradient[~mask] == 0).all()
        assert (gradient[mask] != 0).any(1).all()
    assert sum((~mask).sum() for mask in masks) == 27
    assert (~clf.in_distribution_).sum() == 9
    by_labels = fit(net, images, y, pretrain=encoder, **given)
    assert by_labels.history_[0]["n_out"] == 2  # no label has been asked yet
    fresh = fit(net, images, y, pretrain=None, ood_share=0.1, **given)
    assert fresh.history_[0]["n_out"] == 0  # distances of an untrained network say nothing


def test_a_warm_up_batch_without_rows_in_distribution_takes_no_step():
    images, y = small_images(40)
    states = []

    class Spy(ManifoldDivideMixClassifier):
        def _set_aside(self, run, embeddings, logits=None):
            super()._set_aside(run, embeddings, logits)
            run.memory.inside[:] = False
            states.append([p.clone() for p in run.learners[0].module.parameters()])

        def _finish(self, run):
            states.append([p.clone() for p in run.learners[0].module.parameters()])
            run.memory.inside[:] = True

    net = Network(SmallCNN, max_epochs=2, batch_size=8)
    params = {"pretrain": SmallCNN((1, 8, 8), 3), "warmup": 2, "ood_initial": 0.1}
    fit(net, images, y, cls=Spy, **params)
    assert len(states) == 2
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


class Strangers(ManifoldDivideMixClassifier):
    """What the network says of the last 40 rows means nothing, and they lie apart."""

    def _measure(self, run, data, exact=False):
        generator, n = torch.Generator().manual_seed(0), len(data)
        classes = torch.from_numpy(Y)
        classes[-40:] = torch.randint(4, (40,), generator=generator)
        embeddings = torch.randn(n, run.memory.layer.in_features, generator=generator)
        embeddings[:-40] *= 0.05
        embeddings[torch.arange(n - 40), classes[:-40]] += 1
        return embeddings, 5.0 * functional.one_hot(classes, 4)


def test_by_default_the_labels_tell_how_many_rows_are_of_no_class():
    given = {"ood_initial": 0.1, "ood_step": 0.1, "warmup": 1}
    clf = fit(Network(max_epochs=5, batch_size=32), cls=Strangers, **given)
    out = ~clf.in_distribution_
    assert 25 <= out.sum() <= 48
    assert out[-40:].mean() > 0.6
    assert out[:-40].mean() < 0.1
    slow = fit(Network(max_epochs=3, batch_size=32), cls=Strangers, warmup=1)
    assert (~slow.in_distribution_).sum() == 2 + 2 * 2  # a percent at once and one per division


def test_images_of_no_class_are_told_from_others_with_a_trained_encoder():
    images, y = small_images(120)
    noise = np.random.default_rng(1).integers(0, 255, (15, 1, 8, 8), dtype=np.uint8)
    images[:15] = noise
    start = SimCLR(Network(SmallCNN, max_epochs=10, batch_size=60), random_state=0)
    net = Network(SmallCNN, max_epochs=8, batch_size=32)
    clf = fit(net, images, y, pretrain=start, ood_share=0.125, ood_initial=0.125)
    assert (~clf.in_distribution_)[:15].mean() > 0.8
    new, _ = small_images(40, seed=5)
    strange = np.random.default_rng(2).integers(0, 255, (40, 1, 8, 8), dtype=np.uint8)
    assert roc_auc_score([1] * 40 + [0] * 40, clf.predict_ood(np.r_[new, strange])) > 0.9


# ---- one batch -------------------------------------------------------------------------------


def test_without_its_own_parts_a_batch_is_one_of_dividemix():
    """Peer equal to the network itself, guesses in evaluation mode, equal views."""
    pairs = []

    class Both(ManifoldDivideMixClassifier):
        def _batch_loss(self, run, batch, batch_u, lam, rise):
            net, memory = run.learners[0], run.memory
            state = run.generator.get_state()
            own = super()._batch_loss(run, batch, batch_u, lam, rise)
            run.generator.set_state(state)
            memory.guess_in_eval, memory.lambda_u = True, 25.0
            other, trust = DivideMixClassifier(), memory.clean[batch.index]
            loss = other._batch_loss(run, net, net, batch, trust, batch_u, lam, rise)
            pairs.append((own.item(), loss.item(), batch_u is not None))
            return own

    fit(
        Network(max_epochs=4, batch_size=32),
        cls=Both,
        warmup=1,
        lambda_e=0.0,
        lambda_c=0.0,
        lambda_u=25.0,
        ramp_up=2,
        confidence=0.0,
        loss="ce",
        ood_share=0.0,
    )
    assert any(with_unlabelled for *_, with_unlabelled in pairs)
    for own, loss, _ in pairs:
        assert own == pytest.approx(loss, rel=1e-5)


def test_losses_from_scratch_and_from_a_trained_encoder(monkeypatch):
    weights, contrasts = [], []

    def loss(logits, target, weight, n_labelled, labelled_loss, lambda_u):
        weights.append((lambda_u, labelled_loss is soft_cross_entropy))
        return mixed_loss(logits, target, weight, n_labelled, labelled_loss, lambda_u)

    def contrast(*args):
        contrasts.append(args)
        return nt_xent(*args)

    monkeypatch.setattr(manifold_dividemix, "mixed_loss", loss)
    monkeypatch.setattr(manifold_dividemix, "nt_xent", contrast)
    images, y = small_images(60)
    y = sym_incl(y, 0.5, random_state=0).y
    net = Network(SmallCNN, max_epochs=3, batch_size=32)
    given = {"warmup": 1, "ramp_up": 0}
    fit(warmup=1, ramp_up=0)
    fit(net, images, y, pretrain=None, **given)
    assert set(weights) == {(5.0, True)}
    assert not contrasts
    weights.clear()
    fit(net, images, y, pretrain=SmallCNN((1, 8, 8), 3), **given)
    assert set(weights) == {(25.0, False)}
    assert contrasts


def test_the_unlabelled_weight_rises_over_sixteen_epochs():
    clf = fit(Network(max_epochs=20, batch_size=32), cls=Watched, warmup=2, redivide_every=1)
    epochs = [rows for rows in clf.history_ if "n_labelled" in rows]
    first, starts = 0, []
    for row in epochs:
        starts.append(clf.seen["rise"][first])
        first += math.ceil(row["n_labelled"] / 16)
    assert starts[0] == 0
    assert starts[8] == 0.5
    assert starts[16] == 1
    assert max(clf.seen["rise"]) == 1
    assert min(clf.seen["lam"]) >= 0.5
    at_once = fit(cls=Watched, warmup=1, ramp_up=0)
    assert set(at_once.seen["rise"]) == {1.0}


def test_rows_without_confidence_count_only_by_a_labelled_partner(monkeypatch):
    weights, partners = [], []

    def loss(logits, target, weight, n_labelled, labelled_loss, lambda_u):
        weights.append((weight, n_labelled))
        return mixed_loss(logits, target, weight, n_labelled, labelled_loss, lambda_u)

    def permutation(n, generator):
        partners.append(torch.randperm(n, generator=generator))
        return partners[-1]

    monkeypatch.setattr(manifold_dividemix, "mixed_loss", loss)
    monkeypatch.setattr(manifold_dividemix, "random_permutation", permutation)
    clf = fit(cls=Watched, warmup=1, confidence=1.01)
    assert len(weights) == 2 * len(partners) > 0  # embeddings and inputs
    for i, (weight, n) in enumerate(weights):
        partner, lam = partners[i // 2], clf.seen["lam"][i // 2]
        from_partner = (1 - lam) * (partner < n).float()
        torch.testing.assert_close(weight[n:], from_partner[n:])
        torch.testing.assert_close(weight[:n], lam + from_partner[:n])


def test_the_contrastive_loss_compares_unlabelled_rows_at_its_temperature(monkeypatch):
    calls = []

    def spy(first, second, temperature):
        calls.append((first.shape, second.shape, temperature, first.requires_grad))
        return nt_xent(first, second, temperature)

    monkeypatch.setattr(manifold_dividemix, "nt_xent", spy)
    clf = fit(cls=Watched, warmup=1, lambda_c=1.0)
    assert calls
    n_rows = [n for n in clf.seen["n_unlabelled"] if n]
    for n, (shape, other, temperature, learns) in zip(n_rows, calls, strict=True):
        assert shape == other == (n, 128)
        assert temperature == 0.05
        assert learns
    calls.clear()
    fit(warmup=1)  # nothing is pre-trained
    assert not calls


def test_gradients_reach_the_encoder_through_mixed_embeddings():
    """The loss on mixed embeddings alone moves the layers below the last."""

    class Spy(ManifoldDivideMixClassifier):
        def _batch_loss(self, run, *args):
            loss = super()._batch_loss(run, *args)
            first = next(run.learners[0].module.parameters())
            self.gradients.append(torch.autograd.grad(loss, first, retain_graph=True)[0])
            return loss

    totals = []
    for lambda_e in (0.0, 1.0):
        Spy.gradients = []
        fit(cls=Spy, warmup=1, lambda_e=lambda_e, lambda_c=0.0)
        totals.append(Spy.gradients[0])
    assert not torch.allclose(*totals)


def test_an_epoch_costs_what_is_counted():
    """28 units a labelled row: four guesses, four strong and four mixed rows with gradient."""
    counts = {True: 0, False: 0}

    class Counting(MLP):
        def forward(self, x):
            counts[self.training] += len(x)
            return super().forward(x)

    class Spy(ManifoldDivideMixClassifier):
        def _semi_supervised_epoch(self, run, epoch):
            counts.update({True: 0, False: 0})
            memory = run.memory
            memory.labelled, memory.unlabelled = torch.arange(64), torch.arange(64, 160)
            super()._semi_supervised_epoch(run, epoch)
            self.per_epoch.append(dict(counts))

        def _divide(self, run, epoch):
            before = counts[False]
            super()._divide(run, epoch)
            self.per_division.append(counts[False] - before)

    Spy.per_epoch, Spy.per_division = [], []
    fit(Network(Counting, max_epochs=3, batch_size=32), cls=Spy, warmup=1)
    assert Spy.per_epoch == [{True: 8 * 64, False: 4 * 64}] * 2
    assert Spy.per_division == [160] * 2


# ---- network and optimiser -------------------------------------------------------------------


class Groups(ManifoldDivideMixClassifier):
    def _finish(self, run):
        self.groups = run.learners[0].optimizers[0].param_groups


def test_the_last_layer_learns_faster_than_pretrained_ones():
    images, y = small_images(60)
    net = Network(SmallCNN, max_epochs=3, batch_size=32, lr=0.1, lr_schedule="constant")
    clf = fit(net, images, y, cls=Groups, pretrain=SmallCNN((1, 8, 8), 3))
    head, backbone, projection = clf.groups
    assert [len(group["params"]) for group in clf.groups] == [2, 11, 4]
    assert (head["lr"], backbone["lr"], projection["lr"]) == pytest.approx((0.1, 0.01, 0.1))
    assert clf.history_[0]["lr"] == 0.1
    plain = fit(net, images, y, cls=Groups, pretrain=None)
    assert {group["lr"] for group in plain.groups} == {0.1}
    given = fit(net, images, y, cls=Groups, pretrain=None, backbone_lr=0.5)
    assert given.groups[1]["lr"] == pytest.approx(0.05)


def test_a_backbone_without_a_rate_stays_where_it_was():
    images, y = small_images(60)
    encoder = SmallCNN((1, 8, 8), 3)
    net = Network(SmallCNN, max_epochs=3, batch_size=32, optimizer__weight_decay=0)
    clf = fit(net, images, y, pretrain=encoder, backbone_lr=0.0)
    fitted = clf.nets_[0].module_
    for name, value in encoder.named_parameters():
        assert torch.equal(fitted.get_parameter(name), value) == name.startswith("body")


@pytest.mark.parametrize("mode", ["train", "frozen"])
def test_frozen_batch_norm_keeps_its_statistics(mode):
    images, y = small_images(60)
    encoder = SmallCNN((1, 8, 8), 3)
    clf = fit(
        Network(SmallCNN, max_epochs=3, batch_size=32), images, y, pretrain=encoder, bn_mode=mode
    )
    mine, given = clf.nets_[0].module_.body[1], encoder.body[1]
    assert torch.equal(mine.running_mean, given.running_mean) == (mode == "frozen")
    assert not torch.equal(mine.weight, given.weight)


class Split(nn.Module):
    """A network of a user: no `features`, its parts under other names, and a hidden last layer."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.heads = nn.ModuleDict({"main": nn.Linear(7, n_classes)})
        self.below = nn.Sequential(nn.Linear(n_features, 7), nn.BatchNorm1d(7), nn.Tanh())

    def forward(self, x):
        return self.heads["main"](self.below(x))


def test_embeddings_of_any_network_that_ends_in_a_linear_layer():
    clf = fit(Network(Split, max_epochs=8, batch_size=32))
    embedded = clf.transform(X)
    assert embedded.shape == (160, 7)
    assert embedded.dtype == np.float32
    with torch.no_grad():
        logits = clf.nets_[0].module_.heads["main"](torch.from_numpy(embedded))
    np.testing.assert_allclose(logits.softmax(1), clf.predict_proba(X), atol=1e-5)


def test_a_linear_network_embeds_its_input():
    clf = fit(Network(nn.Linear, module__in_features=4, module__out_features=4, max_epochs=8))
    scaled = (X - X.mean(0)) / X.std(0)
    np.testing.assert_allclose(clf.transform(X), scaled, atol=1e-5)
    assert clf.get_feature_names_out().shape == (4,)


def test_a_network_without_a_linear_end_is_refused():
    class NoLinear(nn.Module):
        def __init__(self, n_features, n_classes):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(n_features, n_classes))

        def forward(self, x):
            return x @ self.weight

    with pytest.raises(ValueError, match="NoLinear does not end in one"):
        fit(Network(NoLinear, max_epochs=2))


def test_a_compiled_network_gives_the_same_bits():
    one, other = (
        fit(Network(max_epochs=4, batch_size=32, **params))
        for params in ({}, {"compile": True, "compile__backend": "eager"})
    )
    np.testing.assert_array_equal(one.predict_proba(X), other.predict_proba(X))
    np.testing.assert_array_equal(one.ood_score_, other.ood_score_)


def test_precision_and_batches_of_any_size():
    net = Network(max_epochs=4, batch_size=32, precision="bfloat16")
    assert np.isfinite(fit(net).predict_proba(X)).all()
    for size in (1, 2, 3, 1000):
        clf = fit(Network(max_epochs=3, batch_size=size), X[:33], NOISY.y[:33])
        assert np.isfinite(clf.predict_proba(X)).all()


@pytest.mark.parametrize(
    "params",
    [
        {"rce": "standard", "loss": "sce"},
        {"loss": "sce"},
        {"lambda_e": 0.0},
        {"lambda_e": 0.0, "lambda_c": 1.0},
        {"lambda_u": 100.0, "ramp_up": 0},
        {"gmm_exclude_ood": True, "ood_share": 0.3, "ood_initial": 0.3},
        {"guards": False},
        {"class_prior": [0.25] * 4},
        {"splitter": BetaMixtureSplitter()},
        {"n_neighbors": 500},
        {"redivide_every": 3},
        {"warmup": 0},
        {"alpha": 0.0},
        {"threshold": 1.0},
        {"threshold": 0.0},
        {"clean_score": "history"},
    ],
    ids=str,
)
def test_options_train(params):
    clf = fit(Network(max_epochs=20, batch_size=32), **params)
    assert clf.score(X, Y) > 0.6
    assert (clf.clean_proba_[~clf.in_distribution_] == 0).all()


def test_images_start_from_simclr_and_learn_from_strong_views(monkeypatch):
    images, y = small_images(80)
    start = SimCLR(Network(SmallCNN, max_epochs=2, batch_size=40))
    encode, fitted = SimCLR.encoder_for, []
    monkeypatch.setattr(
        SimCLR, "encoder_for", lambda *args, **kw: fitted.append(args) or encode(*args, **kw)
    )
    seen = []

    def strong(x, generator):
        seen.append(len(x))
        return x

    net = Network(SmallCNN, max_epochs=6, batch_size=32)
    clf = fit(net, images, y, pretrain=start, strong_augment=strong, warmup=2)
    assert len(fitted) == 1
    assert sum(n == 16 for n in seen) > 4
    assert clf.transform(images).shape == (80, 128)


def test_streamed_images_train_like_resident_ones():
    images, y = small_images(60)

    class Stream(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, i):
            return images[i]

    net = Network(SmallCNN, max_epochs=4, batch_size=16)
    resident, streamed = (fit(net, data, y, pretrain=None) for data in (images, Stream()))
    np.testing.assert_array_equal(resident.clean_proba_, streamed.clean_proba_)
    np.testing.assert_array_equal(resident.ood_score_, streamed.ood_score_)


# ---- evidence --------------------------------------------------------------------------------


def test_kinds_of_samples():
    kinds = sample_kinds([0.9, 0.3, 0.9, 0.0], np.array([True, True, False, False]), 0.3)
    assert kinds.tolist() == ["clean", "wrong label", *["out of distribution"] * 2]
    assert sample_kinds([0.4, 0.6]).tolist() == ["wrong label", "clean"]
    assert sample_kinds([]).shape == (0,)
    with pytest.raises(TypeError, match="in_distribution must hold True and False"):
        sample_kinds([0.4], [1.0])
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        sample_kinds([0.4], [True, False])
    with pytest.raises(ValueError, match="threshold"):
        sample_kinds([0.4], threshold=2)


def test_evidence_of_rows_set_aside():
    clf = fit(Network(max_epochs=12, batch_size=32), ood_share=0.2, ood_initial=0.2)
    out = ~clf.in_distribution_
    assert out.sum() == 32
    assert clf.ood_score_[out].max() <= clf.ood_score_[~out].min()
    assert (clf.clean_proba_[out] == 0).all()
    assert clf.gmm_clean_proba_[out].max() > 0
    assert clf.noise_rate_ == pytest.approx(1 - clf.clean_proba_.mean())
    kinds = sample_kinds(clf.clean_proba_, clf.in_distribution_, 0.3)
    np.testing.assert_array_equal(clf.sample_kind_, kinds)
    assert clf.losses_.shape == (1, 160)
    assert len(clf.mixture_history_) == len([r for r in clf.history_ if "n_labelled" in r]) + 1


def test_refined_distributions_follow_the_rule():
    clf = fit(Network(max_epochs=12, batch_size=32), ood_share=0.2, ood_initial=0.2)
    p = clf.predict_proba(X)
    w = np.where(clf.clean_proba_ > 0.3, clf.clean_proba_, 0)[:, None]
    mean = w * np.eye(4)[NOISY.y] + (1 - w) * p
    expected = mean**2 / (mean**2).sum(1, keepdims=True)
    np.testing.assert_allclose(clf.refined_proba_, expected, atol=1e-4)


def test_new_rows_are_scored_as_training_rows_were():
    clf = fit(Network(max_epochs=8, batch_size=32), ood_share=0.0)
    np.testing.assert_allclose(clf.predict_ood(X), clf.ood_score_, rtol=1e-4)
    scores = clf.predict_ood(X[:5] + 1e-3)
    assert scores.shape == (5,)
    assert ((scores > 0) & (scores <= 1)).all()
    some = fit(Network(max_epochs=8, batch_size=32), ood_share=0.3, ood_initial=0.3)
    out = ~some.in_distribution_
    assert (some.predict_ood(X[out]) <= some.ood_score_[out] + 1e-5).all()  # fewer neighbours


def test_rows_held_out_have_evidence_too():
    images_net = Network(
        max_epochs=8,
        batch_size=32,
        train_split=ValidSplit(0.25, stratified=True, random_state=0),
        callbacks=[("stop", EarlyStopping(patience=2))],
    )
    clf = fit(images_net, ood_share=0.2, ood_initial=0.2)
    for name in ("ood_score_", "in_distribution_", "clean_proba_", "gmm_clean_proba_"):
        assert getattr(clf, name).shape == (160,), name
    assert ((clf.ood_score_ > 0) & (clf.ood_score_ <= 1)).all()
    assert clf.losses_.shape == (1, 120)
    assert (~clf.in_distribution_).sum() >= 24
    held = clf.dynamics_["n_seen"] == 0
    assert held.sum() == 40
    np.testing.assert_allclose(clf.predict_ood(X)[held], clf.ood_score_[held], rtol=1e-4)
    assert (clf.clean_proba_[~clf.in_distribution_] == 0).all()


def test_constant_losses_believe_every_label_and_warn():
    class Flat(ManifoldDivideMixClassifier):
        def _measure(self, run, data, exact=False):
            embeddings, logits = super()._measure(run, data, exact)
            return embeddings, torch.zeros_like(logits)

    with pytest.warns(UserWarning, match="Flat: a division is degenerate: the losses are constant"):
        clf = fit(cls=Flat, warmup=1, ood_share=0.0)
    assert (clf.gmm_clean_proba_ == 1).all()


def test_labels_that_are_all_met_are_believed_without_a_warning():
    """In float32 a large margin leaves no loss at all."""

    class Certain(ManifoldDivideMixClassifier):
        def _measure(self, run, data, exact=False):
            embeddings, _ = super()._measure(run, data, exact)
            return embeddings, 50.0 * functional.one_hot(data.y, run.n_classes)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clf = fit(cls=Certain, warmup=1, ood_share=0.0)
    assert (clf.clean_proba_ == 1).all()


def test_a_loss_that_is_not_finite_names_the_epoch():
    class Bad(ManifoldDivideMixClassifier):
        def _measure(self, run, data, exact=False):
            embeddings, logits = super()._measure(run, data, exact)
            return embeddings, logits * torch.nan

    with pytest.raises(ValueError, match="losses of the network are not finite in epoch 2"):
        fit(cls=Bad, warmup=1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"threshold": 2}, "threshold == 2, must be <= 1"),
        ({"temperature": 0}, "temperature == 0, must be > 0"),
        ({"contrastive_temperature": 0}, "contrastive_temperature == 0, must be > 0"),
        ({"confidence": -1}, "confidence == -1"),
        ({"alpha": -1}, "alpha == -1"),
        ({"lambda_u": -1}, "lambda_u == -1"),
        ({"lambda_e": -1}, "lambda_e == -1"),
        ({"lambda_c": np.nan}, "lambda_c must be finite"),
        ({"lambda_r": "1"}, "lambda_r must be an instance"),
        ({"ramp_up": -1}, "ramp_up == -1"),
        ({"ood_share": 1}, "ood_share == 1, must be < 1"),
        ({"ood_share": -0.1}, "ood_share == -0.1"),
        ({"ood_initial": 1.5}, "ood_initial == 1.5"),
        ({"ood_step": -0.5}, "ood_step == -0.5"),
        ({"n_neighbors": 0}, "n_neighbors == 0"),
        ({"redivide_every": 0}, "redivide_every == 0"),
        ({"warmup": 60}, "warmup=60 is longer than the training"),
        ({"warmup": True}, "warmup must be an integer, got True"),
        ({"loss": "mse"}, "loss must be one of"),
        ({"rce": "paper"}, "rce must be one of"),
        ({"bn_mode": "eval"}, "bn_mode must be one of"),
        ({"backbone_lr": -1}, "backbone_lr == -1"),
        ({"guards": 1}, "guards must be True or False"),
        ({"gmm_exclude_ood": 1}, "gmm_exclude_ood must be True or False"),
        ({"splitter": "gmm"}, "splitter must be a splitter of noisyfit.mixtures"),
        ({"strong_augment": "strong"}, "strong_augment must be 'auto'"),
        ({"class_prior": [0.5, 0.5]}, "class_prior must hold 4 shares"),
        ({"pretrain": 3}, "pretrain must be SimCLR"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ManifoldDivideMixClassifier(**params).fit(X, NOISY.y)
