"""DivideMix: its formulas, the cross-over of the networks, its edge cases, and its main job."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from sklearn.metrics import roc_auc_score
from skorch.callbacks import Callback
from torch import nn
from torch.utils.data import Dataset

from noisyfit import CrossEntropyClassifier, DivideMixClassifier, Network, augment
from noisyfit._divide import (
    agreement_with_believed,
    agreement_with_doubted,
    balanced_rows,
    labelled_rows,
    scaled_losses,
    with_class_floor,
)
from noisyfit._mixmatch import co_refine, mean_guess, mixmatch_loss
from noisyfit._usual_views import strong_view, weak_view
from noisyfit.augment import CropFlip, beta, mixup
from noisyfit.losses import cross_entropy
from noisyfit.mixtures import BetaMixtureSplitter, GaussianMixtureSplitter
from noisyfit.modules import SmallCNN
from noisyfit.noise import sym_incl

X, Y = make_blobs(160, n_features=4, centers=4, random_state=0)
NOISY = sym_incl(Y, 0.4, random_state=0)


def fit(net=None, X=X, y=NOISY.y, **params):
    net = Network(max_epochs=6, batch_size=32) if net is None else net
    return DivideMixClassifier(net, random_state=0, **params).fit(X, y)


# ---- formulas --------------------------------------------------------------------------------


def test_refined_target_is_the_sharpened_mean_of_label_and_guess():
    guess = torch.tensor([[0.2, 0.8], [0.6, 0.4]])
    target = co_refine(torch.tensor([0, 1]), guess, torch.tensor([0.75, 0.0]), 0.5)
    mean = np.array([[0.75 + 0.25 * 0.2, 0.25 * 0.8], [0.6, 0.4]])
    np.testing.assert_allclose(target, mean**2 / (mean**2).sum(1, keepdims=True), rtol=1e-5)


def test_loss_of_trusted_labels_alone_is_cross_entropy_on_mixup():
    gen = torch.Generator().manual_seed(0)
    z = torch.randn(8, 5, generator=gen)
    y = torch.randint(5, (8,), generator=gen)
    target = co_refine(y, z.softmax(1), torch.ones(8), temperature=1.0)
    partner = torch.randperm(8, generator=gen)
    mixed = mixup(target, 0.7, partner)
    loss = mixmatch_loss(z, mixed, 8, lambda_u=0.0, lambda_r=0.0)
    expected = 0.7 * cross_entropy(z, y) + 0.3 * cross_entropy(z, y[partner])
    torch.testing.assert_close(loss, expected.mean())
    plain = mixmatch_loss(z, mixup(target, 1.0, partner), 8, 0.0, 0.0)
    torch.testing.assert_close(plain, cross_entropy(z, y).mean())


def test_loss_terms_equal_plain_loops():
    gen = torch.Generator().manual_seed(1)
    z = torch.randn(6, 3, generator=gen)
    q = torch.rand(6, 3, generator=gen).softmax(1)
    p = z.softmax(1).tolist()
    lx = -sum(q[i, c].item() * math.log(p[i][c]) for i in range(4) for c in range(3)) / 4
    lu = sum((p[i][c] - q[i, c].item()) ** 2 for i in (4, 5) for c in range(3)) / 6
    mean = [sum(row[c] for row in p) / 6 for c in range(3)]
    reg = sum(1 / 3 * math.log(1 / 3 / m) for m in mean)
    loss = mixmatch_loss(z, q, 4, lambda_u=25.0, lambda_r=2.0)
    assert loss.item() == pytest.approx(lx + 25 * lu + 2 * reg, rel=1e-5)
    skipped = mixmatch_loss(z[:4], q, 4, lambda_u=25.0, lambda_r=0.0)
    assert skipped.item() == pytest.approx(lx, rel=1e-5)


@pytest.mark.parametrize(("alpha", "mean"), [(4, 0.637), (0.5, 0.818)])
def test_mixing_weight_favours_the_row_itself(alpha, mean):
    draws = beta(alpha, 1_000_000, np.random.default_rng(0))
    larger = np.maximum(draws, 1 - draws)
    assert larger.mean() == pytest.approx(mean, abs=0.002)
    assert larger.min() >= 0.5


def test_losses_are_scaled_to_the_unit_interval():
    z, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 3
    scaled = scaled_losses(z, y)
    assert (scaled.min(), scaled.max()) == (0, 1)
    assert (scaled.argsort() == cross_entropy(z, y).argsort()).all()
    assert not scaled_losses(torch.zeros(4, 3), torch.zeros(4, dtype=int)).any()


# ---- division --------------------------------------------------------------------------------


def test_labelled_rows_lie_strictly_above_the_threshold():
    clean = torch.tensor([0.5, 0.51, 0.9, 0.1])
    assert labelled_rows(clean, 0.5, 1).tolist() == [False, True, True, False]


@pytest.mark.parametrize("threshold", [0.0, 0.03, 0.5, 1.0])
def test_both_parts_have_members_whenever_the_posteriors_spread(threshold):
    clean = torch.tensor([0.5, 0.5 + 2.1e-5, 0.5, 0.5])
    labelled = labelled_rows(clean, threshold, 1)
    assert 0 < labelled.sum() < 4


def test_a_tiny_labelled_part_is_filled_with_the_most_believed():
    clean = torch.linspace(0, 0.45, 10)
    clean[3] = 0.9
    assert labelled_rows(clean, 0.5, 4).nonzero().flatten().tolist() == [3, 7, 8, 9]
    assert labelled_rows(torch.zeros(3), 0.5, 8).all()


def test_agreement_counts_the_doubted_labels_that_are_predicted():
    y = torch.arange(100) % 4
    clean = torch.where(torch.arange(100) < 60, 0.9, 0.1)
    predicted = torch.where(torch.arange(100) < 70, y, (y + 1) % 4)
    logits = nn.functional.one_hot(predicted, 4).float()
    assert agreement_with_doubted(clean, logits, y, 0.5).item() == pytest.approx(10 / 40)
    assert agreement_with_doubted(torch.ones(100), logits, y, 0.5) == 0


@pytest.mark.parametrize(("shift", "believed"), [(0, 160), (1, 100)])
def test_doubted_labels_are_believed_if_the_networks_predict_them(shift, believed):
    y = torch.arange(160) % 4

    class Fixed(nn.Module):
        """Says the label of a row plus a shift; the row is its own number."""

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return nn.functional.one_hot((x[:, 0].long() + shift) % 4, 4) * 5 + self.weight

    clf = Watched(warmup=0)
    clean = torch.where(torch.arange(160) < 100, 0.9, 0.1)
    clf.posteriors = clean, clean
    x = np.c_[np.arange(160) % 4, np.zeros(160)].astype(float)
    clf.watch(Network(Fixed, max_epochs=1, normalize=None), x, y.numpy())
    assert clf.history_[0]["n_labelled_1"] == believed


def test_every_class_keeps_its_share_of_believed_rows():
    y = torch.tensor([0] * 40 + [1] * 10)
    clean = torch.cat([torch.full((40,), 0.9), torch.linspace(0.01, 0.1, 10)])
    floored = with_class_floor(clean, y, 3, 0.5, floor=0.5)
    believed = floored > 0.5
    assert believed[:40].all()
    # half of the believed share 0.8 of ten rows, the most believed ones
    assert believed[40:].nonzero().flatten().tolist() == [6, 7, 8, 9]
    torch.testing.assert_close(floored[:46], clean[:46])


def test_balanced_rows_bound_every_class():
    y = torch.tensor([0] * 50 + [1] * 5 + [2] * 50)
    rows = balanced_rows(y, 3, 30, torch.Generator().manual_seed(0))
    assert torch.bincount(y[rows]).tolist() == [10, 5, 10]
    assert len(rows.unique()) == 25


class Watched(DivideMixClassifier):
    """Replaces the posteriors and records what each network trains on."""

    posteriors = None

    def _clean_posterior(self, run, k, logits, y):
        if self.posteriors is None:
            return super()._clean_posterior(run, k, logits, y)
        clean = self.posteriors[k]
        return clean, {"kind": "given"}, 1 - clean

    def _batch_loss(self, run, net, peer, batch, clean, batch_u, lam, rise):
        k = run.learners.index(net)
        self.seen[k] |= set(batch.index.tolist())
        if batch_u is not None:
            self.seen_u[k] |= set(batch_u.index.tolist())
        self.rises.append(rise)
        self.lams.append(lam)
        assert net.module.training
        assert not peer.module.training
        return super()._batch_loss(run, net, peer, batch, clean, batch_u, lam, rise)

    def watch(self, net, X=X, y=NOISY.y):
        self.seen, self.seen_u, self.rises, self.lams = [set(), set()], [set(), set()], [], []
        self.set_params(net=net, random_state=0)
        return self.fit(X, y)


def test_each_network_trains_on_the_division_of_its_peer():
    """Network 2 doubts everything but one row, so network 1 has few labels; not the other way."""
    first, second = torch.full((160,), 0.9), torch.full((160,), 0.1)
    first[7], second[7] = 0.1, 0.9
    clf = Watched(warmup=1, guards=False)
    clf.posteriors = first, second
    with pytest.warns(UserWarning, match="one network believes 159 labels and the other 1"):
        clf.watch(Network(max_epochs=2, batch_size=8))
    assert 7 in clf.seen[0]
    assert len(clf.seen[0]) == 4  # filled up to the larger of n_classes and half a batch
    assert clf.seen[1] == set(range(160)) - {7}
    assert 7 not in clf.seen_u[0]


def test_the_peer_stays_bit_identical_while_the_other_trains():
    states = []

    class Spy(DivideMixClassifier):
        def _semi_supervised_epoch(self, run, k, *args):
            peer = run.learners[1 - k].module
            before = {name: value.clone() for name, value in peer.state_dict().items()}
            super()._semi_supervised_epoch(run, k, *args)
            states.append(
                all(torch.equal(value, before[name]) for name, value in peer.state_dict().items())
            )

    images = np.random.default_rng(0).random((60, 1, 8, 8))
    Spy(Network(SmallCNN, max_epochs=3, batch_size=16), warmup=1, random_state=0).fit(
        images, np.arange(60) % 3
    )
    assert states == [True] * 4


def test_targets_carry_no_gradient(monkeypatch):
    guesses = []

    def spy(*args):
        guesses.append(mean_guess(*args))
        return guesses[-1]

    monkeypatch.setattr("noisyfit.methods.dividemix.mean_guess", spy)
    fit(Network(max_epochs=3, batch_size=16))
    assert guesses
    assert not any(guess.requires_grad for guess in guesses)


def test_the_unlabelled_weight_ramps_up_after_the_warm_up():
    clf = Watched(warmup=2, lambda_u=25.0, ramp_up=4)
    clf.watch(Network(max_epochs=8, batch_size=32))
    assert clf.rises[0] == 0
    assert max(clf.rises) == 1
    assert clf.lambda_u_ == 25
    assert all(0.5 <= lam <= 1 for lam in clf.lams)


def test_a_small_unlabelled_part_is_cycled():
    clean = torch.full((160,), 0.9)
    clean[:3] = 0.1
    clf = Watched(warmup=1, guards=False)
    clf.posteriors = clean, clean
    clf.watch(Network(max_epochs=2, batch_size=16))
    assert clf.seen_u == [{0, 1, 2}, {0, 1, 2}]
    alone = Watched(warmup=1, guards=False)
    alone.posteriors = torch.ones(160), torch.ones(160)
    alone.watch(Network(max_epochs=2, batch_size=16))
    assert alone.seen_u == [set(), set()]


def test_warm_up_is_plain_training_of_both_networks():
    clf = fit(Network(max_epochs=3), warmup=3)
    assert "n_labelled_1" not in clf.history_[-1]
    assert len(clf.mixture_history_) == 2  # only the final division


@pytest.mark.parametrize(
    ("n_columns", "max_epochs", "epochs"),
    [(10, 1, 1), (10, 12, 4), (10, 40, 6), (10, 120, 10), (4, 40, 10), (2, 40, 15), (2, 20, 12)],
)
def test_warm_up_is_short_but_has_steps_enough_for_few_columns(n_columns, max_epochs, epochs):
    x, y = np.random.default_rng(0).normal(size=(160, n_columns)), np.arange(160) % 2
    clf = DivideMixClassifier(Network(max_epochs=max_epochs, batch_size=16), random_state=0)
    divided = [row for row in clf.fit(x, y).history_ if "n_labelled_1" in row]
    assert max_epochs - len(divided) == epochs


def test_confidence_penalty_keeps_the_warm_up_less_certain():
    sharp, soft = (
        fit(Network(max_epochs=10), warmup=10, confidence_penalty=weight)
        .predict_proba(X)
        .max(1)
        .mean()
        for weight in (0.0, 1.0)
    )
    assert soft < sharp


def test_the_history_of_losses_is_averaged():
    seen = []

    class Spy(GaussianMixtureSplitter):
        def fit_tensor(self, x):
            seen.append(x.clone())
            return super().fit_tensor(x)

    Spy.__init__ = GaussianMixtureSplitter.__init__
    fit(
        Network(max_epochs=4, batch_size=32), warmup=1, loss_history=2, splitter=Spy(normalize=None)
    )
    assert seen[0].max() == 1
    assert seen[2].max() < 1  # a mean over two epochs, not normalised again


def test_guess_mode_spares_batch_norm_and_dropout():
    clf = DivideMixClassifier()
    assert not clf._guesses_in_eval(SmallCNN((1, 8, 8), 3))
    assert clf._guesses_in_eval(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    assert clf._guesses_in_eval(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)))
    assert DivideMixClassifier(guess_mode="eval")._guesses_in_eval(nn.Linear(2, 2))


class Eager:
    """A learner without the rest of a fit."""

    def __init__(self, module):
        self.module, self.train, self.eval = module, module.train, module.eval

    def __call__(self, x):
        return self.module(x)


def test_fused_and_separate_guesses_agree_in_evaluation_mode():
    module = SmallCNN((1, 8, 8), 3).eval()
    views = [torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(s)) for s in (0, 1)]
    separate = sum(module(view).softmax(1) for view in views) / 2
    torch.testing.assert_close(mean_guess(Eager(module), views), separate)
    module.train()
    torch.testing.assert_close(mean_guess(Eager(module), views, True), separate)
    assert module.training
    by_batch = sum(module(view).softmax(1) for view in views) / 2
    torch.testing.assert_close(mean_guess(Eager(module), views), by_batch)


def test_a_subset_of_rows_per_epoch_is_balanced_and_enough():
    clf = Watched(warmup=1, epoch_rows=40, guards=False)
    clf.watch(Network(max_epochs=12, batch_size=16))
    assert len(clf.history_) == 12
    assert max(row["n_labelled_1"] for row in clf.history_[1:]) <= 40
    assert clf.clean_proba_.shape == (160,)
    assert clf.score(X, Y) > 0.8


def test_streamed_images_train_like_resident_ones():
    rng = np.random.default_rng(0)
    images, y = rng.integers(0, 255, (60, 1, 8, 8), dtype=np.uint8), np.arange(60) % 3

    class Stream(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, i):
            return images[i]

    for params in ({}, {"epoch_rows": 30}):
        net = Network(SmallCNN, max_epochs=4, batch_size=16)
        resident, streamed = (
            DivideMixClassifier(net, random_state=0, **params).fit(X, y) for X in (images, Stream())
        )
        np.testing.assert_array_equal(resident.clean_proba_, streamed.clean_proba_)


def test_views_guess_and_skip_options_train():
    images = (
        np.random.default_rng(0).random((80, 1, 8, 8)) + (np.arange(80) % 2)[:, None, None, None]
    )
    y = np.arange(80) % 2
    net = Network(SmallCNN, max_epochs=4, batch_size=16)
    for params in (
        {"n_views": 3},
        {"skip_unlabelled_forward": True},
        {"guess_mode": "eval"},
        {"class_prior": [0.5, 0.5]},
        {"splitter": BetaMixtureSplitter()},
        {"augment": CropFlip(2)},
    ):
        clf = DivideMixClassifier(net, random_state=0, **params).fit(images, y)
        assert clf.score(images, y) > 0.9, params


def test_refined_distributions_follow_the_rule():
    clf = fit(Network(max_epochs=10, batch_size=32))
    p = np.mean(
        [net.module_(clf._input_scale_.table(X)).softmax(1).detach().numpy() for net in clf.nets_],
        axis=0,
    )
    w = np.where(clf.clean_proba_ > 0.5, clf.clean_proba_, 0)[:, None]
    mean = w * np.eye(4)[NOISY.y] + (1 - w) * p
    expected = mean**2 / (mean**2).sum(1, keepdims=True)
    np.testing.assert_allclose(clf.refined_proba_, expected, atol=1e-4)
    np.testing.assert_allclose(clf.clean_proba_per_net_.mean(0), clf.clean_proba_, atol=1e-6)
    assert clf.losses_.shape == (2, 160)
    assert clf.mixture_history_[-1]["kind"] == "gaussian"


# ---- two pools of views ----------------------------------------------------------------------


class Shift:
    """A view that a test can tell: it adds `by`."""

    def __init__(self, by):
        self.by = by

    def __call__(self, x, generator):
        return x + self.by


class Pools(DivideMixClassifier):
    """Records which values the networks see at which point."""

    def _begin(self, run):
        self.seen, self.point = {}, "warm-up"
        super()._begin(run)

        def hear(module, args):
            point = self.point
            if point == "training":
                point = "learnt" if torch.is_grad_enabled() else "guessed"
            self.seen.setdefault(point, []).append(args[0].flatten())

        for learner in run.learners:
            learner.module.register_forward_pre_hook(hear)

    def _divide(self, run, k, epoch):
        self.point = "division"
        divided = super()._divide(run, k, epoch)
        self.point = "training"
        return divided

    def _finish(self, run):
        super()._finish(run)
        self.point = "evidence"


def test_labels_are_guessed_on_weak_views_and_learnt_on_strong_ones():
    net = Network(max_epochs=4, batch_size=32, normalize=None)
    x = X / np.abs(X).max()  # within [-1, 1]
    clf = Pools(net, warmup=2, augment=Shift(10), strong_augment=Shift(100), random_state=0)
    clf.fit(x, NOISY.y)
    expected = {"warm-up": 10, "division": 0, "guessed": 10, "learnt": 100, "evidence": 0}
    assert set(clf.seen) == set(expected)
    for point, shift in expected.items():
        values = torch.cat(clf.seen[point])
        assert shift - 1.001 <= values.min() <= values.max() <= shift + 1.001, point


def test_the_same_view_in_both_pools_is_one_pool():
    """As long as it draws nothing."""
    one, two = (
        fit(augment=Shift(0.5), strong_augment=strong, alpha=1.0) for strong in (None, Shift(0.5))
    )
    np.testing.assert_array_equal(one.predict_proba(X), two.predict_proba(X))
    assert [row["train_loss"] for row in one.history_] == [
        row["train_loss"] for row in two.history_
    ]


def test_strong_views_are_drawn_for_every_view_of_every_part():
    drawn = []

    def strong(x, generator):
        drawn.append(len(x))
        return x + torch.randn(x.shape, generator=generator)

    a, b = (fit(strong_augment=strong, warmup=1, n_views=3) for _ in range(2))
    np.testing.assert_array_equal(a.predict_proba(X), b.predict_proba(X))
    n_batches = len(drawn[1:]) // 2  # without the check of the shape
    assert drawn[0] == 32
    assert n_batches % 3 == 0
    assert all(drawn[1 + 3 * i] == drawn[3 + 3 * i] for i in range(n_batches // 3))


@pytest.mark.parametrize(
    ("shape", "weak", "expected"),
    [
        ((4,), None, None),
        ((1, 7, 7), None, None),
        ((2, 9, 9), "some", None),
        ((1, 8, 8), None, "policy"),
        ((3, 8, 9), "some", ("some", "policy")),
    ],
)
def test_strong_views_by_default_add_a_policy_to_the_weak_one(monkeypatch, shape, weak, expected):
    monkeypatch.setattr(augment, "AutoAugment", lambda: "policy", raising=False)
    monkeypatch.setattr(augment, "Chain", lambda *views: views, raising=False)
    assert strong_view(shape, weak) == expected


@pytest.mark.parametrize(
    ("images", "is_distorted"),
    [
        (lambda x: x, True),
        (lambda x: (x / 255).astype(np.float32), True),
        (lambda x: x.astype(np.float32), False),  # a range that the policy does not know
        (lambda x: x / 100 - 1, False),
    ],
)
def test_strong_views_by_default_are_for_images_of_a_known_range(images, is_distorted):
    class Spy(DivideMixClassifier):
        def _begin(self, run):
            super()._begin(run)
            self.strong = run.memory.strong

    x = np.random.default_rng(0).integers(0, 256, (40, 1, 8, 8), dtype=np.uint8)
    clf = Spy(Network(SmallCNN, max_epochs=2), strong_augment="auto", warmup=1, random_state=0)
    clf.fit(images(x), np.arange(40) % 2)
    assert (clf.strong is not None) == is_distorted


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4,), None),
        ((1, 3, 9), None),
        ((1, 4, 4), CropFlip(1, flip=False)),
        ((3, 32, 40), CropFlip(4, flip=True)),
    ],
)
def test_weak_views_by_default_shift_what_is_large_enough(shape, expected):
    assert weak_view(shape) == expected


@pytest.mark.parametrize(
    ("view", "error", "message"),
    [
        (3, TypeError, "strong_augment must be 'auto', None or a callable"),
        ("strong", TypeError, "strong_augment must be 'auto', None or a callable"),
        (CropFlip, TypeError, "strong_augment must be 'auto', None or a callable"),
        (lambda x, g: x[:, 1:], ValueError, "strong_augment=.* changes the shape"),
    ],
)
def test_views_that_cannot_be_learnt_from_are_refused(view, error, message):
    clf = DivideMixClassifier(Network(max_epochs=2), strong_augment=view)
    with pytest.raises(error, match=message):
        clf.fit(X, NOISY.y)
    assert not hasattr(clf, "nets_")


# ---- edge cases and errors -------------------------------------------------------------------


def test_constant_losses_believe_every_label_and_warn():
    class Flat(nn.Module):
        def __init__(self, n_classes):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(1))
            self.n_classes = n_classes

        def forward(self, x):
            return self.bias.expand(len(x), self.n_classes)

    with pytest.warns(UserWarning, match="losses are constant"):
        clf = fit(Network(Flat, max_epochs=3), warmup=1)
    assert (clf.clean_proba_ == 1).all()


def test_a_loss_that_is_not_finite_names_epoch_and_network():
    class Bad(nn.Linear):
        def __init__(self, n_features, n_classes):
            super().__init__(n_features, n_classes)
            self.calls = 0

        def forward(self, x):
            self.calls += not self.training
            return super().forward(x) * (torch.nan if self.calls > 1 else 1)

    with pytest.raises(ValueError, match="losses of network 1 are not finite in epoch 2"):
        fit(Network(Bad, max_epochs=3), warmup=1)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"threshold": 2}, "threshold == 2, must be <= 1"),
        ({"temperature": 0}, "temperature == 0, must be > 0"),
        ({"alpha": -1}, "alpha == -1, must be >= 0"),
        ({"warmup": 60}, "warmup=60 is longer than the training"),
        ({"warmup": -1}, "warmup == -1"),
        ({"warmup": True}, "warmup must be an integer, got True"),
        ({"temperature": np.nan}, "temperature must be finite"),
        ({"alpha": np.ones(2)}, "alpha must be an instance of"),
        ({"loss_history": 0}, "loss_history == 0"),
        ({"lambda_u": -1}, "lambda_u == -1"),
        ({"n_views": 0}, "n_views == 0"),
        ({"guess_mode": "both"}, "guess_mode must be"),
        ({"class_prior": [0.5, 0.5]}, "class_prior must hold 4 shares"),
        ({"epoch_rows": 10, "loss_history": 5}, "loss_history must be 1"),
        ({"ensemble": "best"}, "ensemble must be"),
        ({"splitter": "gmm"}, "splitter must be a splitter of noisyfit.mixtures"),
    ],
)
def test_bad_parameters_are_refused(params, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DivideMixClassifier(**params).fit(X, NOISY.y)


def test_agreement_with_believed_labels_is_a_share_of_them():
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]])
    y = torch.tensor([0, 0, 0, 1])
    clean = torch.tensor([0.9, 0.8, 0.2, 0.7])
    assert agreement_with_believed(clean, logits, y, 0.5).item() == pytest.approx(1 / 3)


class BelievesAll(GaussianMixtureSplitter):
    """A mixture that has drawn its line beyond every loss."""

    def fit_tensor(self, losses):
        return 0.6 + 0.4 * (1 - super().fit_tensor(losses))


def test_labels_that_a_mixture_believes_against_both_networks_are_doubted_in_the_evidence():
    noisy = sym_incl(Y, 0.9, random_state=0)
    assert noisy.changed.mean() > 0.6
    guarded, bare = (
        fit(y=noisy.y, splitter=BelievesAll(), guards=guards, warmup=6) for guards in (True, False)
    )
    assert (bare.clean_proba_ > 0.5).all()
    denied = guarded.clean_proba_per_net_ <= 0.5
    predicted = np.stack(
        [net.module_(guarded._input_scale_.table(X)).argmax(1) for net in guarded.nets_]
    )
    np.testing.assert_array_equal(denied, predicted != noisy.y)
    right = (guarded.refined_labels_ == Y).mean(), (bare.refined_labels_ == Y).mean()
    assert right[0] > right[1] + 0.1


# ---- the main job ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contest(digits):
    """Three seeds of digits at 40 % noise: scores of plain training and DivideMix, AUROC."""
    images, y = digits
    net = Network(SmallCNN, max_epochs=40)
    rows = []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(y))
        train, test = order[450:], order[:450]
        noisy = sym_incl(y[train], 0.4, random_state=seed)
        plain = CrossEntropyClassifier(net, augment=None, random_state=seed)
        mix = DivideMixClassifier(net, random_state=seed)
        for clf in (plain, mix):
            clf.fit(images[train], noisy.y)
        rows.append(
            {
                "plain": plain.score(images[test], y[test]),
                "dividemix": mix.score(images[test], y[test]),
                "auroc": roc_auc_score(~noisy.changed, mix.clean_proba_),
                "refined": np.mean(mix.refined_labels_ == y[train]),
            }
        )
    return rows


def test_dividemix_beats_plain_training_by_eight_points_on_digits(contest):
    for row in contest:
        assert row["dividemix"] >= row["plain"] + 0.08


def test_dividemix_finds_the_wrong_digits(contest):
    for row in contest:
        assert row["auroc"] >= 0.95
        assert row["refined"] >= 0.9


def test_clean_digits_lose_at_most_a_point(digits):
    """Without the guards this division costs 4 to 9 points."""
    images, y = digits
    net = Network(SmallCNN, max_epochs=40)
    gaps = []
    for seed in range(2):
        order = np.random.default_rng(seed).permutation(len(y))
        train, test = order[450:], order[:450]
        plain, mix = (
            cls(net, random_state=seed, **params)
            .fit(images[train], y[train])
            .score(images[test], y[test])
            for cls, params in (
                (CrossEntropyClassifier, {"augment": None}),
                (DivideMixClassifier, {}),
            )
        )
        gaps.append(mix - plain)
    assert np.mean(gaps) >= -0.01


def test_callbacks_hear_only_of_the_steps_of_their_own_network():
    class Count(Callback):
        def initialize(self):
            self.steps, self.batches = 0, 0
            return self

        def on_grad_computed(self, net, **kwargs):
            self.steps += 1

        def on_batch_end(self, net, **kwargs):
            self.batches += 1

    clf = fit(Network(max_epochs=4, batch_size=32, callbacks=[("count", Count())]))
    for net in clf.nets_:
        heard = dict(net.callbacks_)["count"]
        assert heard.batches == heard.steps > 0
