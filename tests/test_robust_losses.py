"""Robust losses: published values, identities, gradients and limits, against plain loops."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from noisyfit import losses
from noisyfit.losses import get_loss

Z = [2.0, 1.0, 0.1]
LOG_A = math.log(1e-4)
RNG = np.random.default_rng(0)

PUBLISHED = [
    ("focal", {"gamma": 0.5}, (0.243525, 1.233359, 2.199878)),
    ("focal", {"gamma": 2}, (0.048492, 0.813245, 1.882780)),
    ("gce", {}, (0.361675, 0.898766, 1.146402)),
    ("truncated_gce", {}, (0.361675, 0.549183, 0.549183)),
    ("mae", {}, (0.681998, 1.515134, 1.802868)),
    ("rce", {}, (3.140716, 6.977450, 8.302515)),
    ("rce", {"log_zero": -6}, (2.045993, 4.545402, 5.408605)),
    ("sce", {}, (3.182419, 7.119153, 8.534218)),
    ("nce", {}, (0.100463, 0.341363, 0.558174)),
    ("nce+rce", {}, (3.241178, 7.318814, 8.860689)),
    ("nfl", {}, (0.066234, 0.335447, 0.598319)),
    ("label_smoothing", {}, (0.513697, 1.413697, 2.223697)),
    ("taylor_ce", {}, (0.399139, 1.044521, 1.307726)),
    ("taylor_ce", {"order": 6}, (0.416921, 1.353197, 1.925428)),
    ("agce", {}, (0.295978, 0.705906, 0.865717)),
    ("aul", {}, (7.441705, 18.068242, 22.154830)),
    ("ael", {}, (0.768280, 0.907580, 0.961341)),
    ("nnce", {}, (0.644798, 0.667421, 0.687781)),
    ("anl_ce", {}, (3.726304, 5.043921, 6.229776)),
]
SINGLE = [
    "cross_entropy", "focal", "gce", "truncated_gce", "mae", "rce", "sce", "taylor_ce",
    "label_smoothing", "agce", "aul", "ael", "nce", "nfl", "ngce", "nnce", "nnfl",
]  # fmt: skip
SUMS = [f"{a}+{p}" for a in ("nce", "nfl") for p in ("mae", "rce", "agce", "aul", "ael")]
SUMS += ["ngce+mae", "ngce+rce", "anl_ce", "anl_fl"]
BOOTSTRAPPED = {
    "bootstrap_soft": losses.bootstrap_soft,
    "bootstrap_soft, target not detached": partial(losses.bootstrap_soft, detach_target=False),
    "bootstrap_hard": losses.bootstrap_hard,
}
EVERY_LOSS = pytest.mark.parametrize(
    "loss",
    [*map(get_loss, SINGLE + SUMS), *BOOTSTRAPPED.values()],
    ids=[*SINGLE, *SUMS, *BOOTSTRAPPED],
)


def of_all_labels(loss, row=Z):
    """The loss of every label for one row of logits, and its gradients (n_classes, n_classes)."""
    n = len(row)
    z = torch.tensor([row] * n, dtype=torch.float32, requires_grad=True)
    values = loss(z, torch.arange(n))
    values.sum().backward()
    return values.detach(), z.grad


@pytest.mark.parametrize(("name", "params", "expected"), PUBLISHED)
def test_losses_have_their_computed_values(name, params, expected):
    values, _ = of_all_labels(get_loss(name, **params))
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.bootstrap_soft, (0.438515, 1.388515, 2.243515)),
        (losses.bootstrap_hard, (0.417030, 1.217030, 1.937030)),
    ],
)
def test_bootstrapped_losses_have_their_computed_values(loss, expected):
    values, _ = of_all_labels(loss)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-6)


def in_loops(name, p, y):
    """Each loss with its default parameters, as its definition reads; `p` and a label."""
    classes, py = range(len(p)), p[y]
    log = math.log
    p_min, worst = 1e-7, (1 - 1e-7) ** 0.5 * -log(1e-7)
    fl = [-((1 - v) ** 0.5) * log(v) for v in p]
    clamped = [max(v, p_min) for v in p]
    fl_clamped = [-((1 - v) ** 0.5) * log(v) for v in clamped]
    onehot = [float(k == y) for k in classes]
    return {
        "cross_entropy": lambda: -log(py),
        "focal": lambda: -((1 - py) ** 2) * log(py),
        "gce": lambda: (1 - py**0.7) / 0.7,
        "truncated_gce": lambda: (1 - max(py, 0.5) ** 0.7) / 0.7,
        "mae": lambda: sum(abs(onehot[k] - p[k]) for k in classes),
        "rce": lambda: -sum(p[k] * (0 if k == y else LOG_A) for k in classes),
        "sce": lambda: -0.1 * log(py) + sum(-p[k] * LOG_A for k in classes if k != y),
        "taylor_ce": lambda: (1 - py) + (1 - py) ** 2 / 2,
        "label_smoothing": lambda: (
            -sum((0.9 * onehot[k] + 0.1 / len(p)) * log(p[k]) for k in classes)
        ),
        "agce": lambda: (1.6**0.6 - (0.6 + py) ** 0.6) / 0.6,
        "aul": lambda: ((5.5 - py) ** 3 - 4.5**3) / 3,
        "ael": lambda: math.exp(-py / 2.5),
        "nce": lambda: log(py) / sum(log(v) for v in p),
        "nfl": lambda: fl[y] / sum(fl),
        "ngce": lambda: (1 - py**0.7) / (len(p) - sum(v**0.7 for v in p)),
        "nnce": lambda: (
            1 - (log(clamped[y]) - log(p_min)) / sum(log(v) - log(p_min) for v in clamped)
        ),
        "nnfl": lambda: 1 - (worst - fl_clamped[y]) / sum(worst - v for v in fl_clamped),
    }[name]()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", SINGLE)
def test_losses_equal_plain_loops(name, dtype):
    for n_classes in (2, 3, 10):
        z = torch.tensor(RNG.normal(size=(6, n_classes)) * 3).to(dtype)
        y = torch.tensor(RNG.integers(0, n_classes, 6))
        got = get_loss(name)(z, y)
        assert got.dtype == torch.float32
        rows = [np.exp(np.array(row)) / np.exp(np.array(row)).sum() for row in z.tolist()]
        expected = [in_loops(name, row, k) for row, k in zip(rows, y.tolist(), strict=True)]
        np.testing.assert_allclose(got, expected, rtol=2e-4, atol=1e-5)


@pytest.mark.parametrize("name", SUMS)
def test_sums_are_weighted_sums_of_their_parts(name):
    z = torch.tensor(RNG.normal(size=(6, 4)), dtype=torch.float32)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    pairs = {"anl_ce": "nce+nnce", "anl_fl": "nfl+nnfl"}
    active, passive = pairs.get(name, name).split("+")
    own = {"agce": {"a": 2, "q": 3}, "aul": {"a": 3, "q": 2}, "ael": {"a": 2}}.get(passive, {})
    shared = {"gamma": 1.5} if active == "nfl" else {"q": 0.4} if active == "ngce" else {}
    got = get_loss(name, alpha=0.3, beta=7, **own, **shared)(z, y)
    part = shared if passive == "nnfl" else own
    expected = 0.3 * get_loss(active, **shared)(z, y) + 7 * get_loss(passive, **part)(z, y)
    torch.testing.assert_close(got, expected)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("gce", {"q": 0}), ("cross_entropy", {})),
        (("truncated_gce", {"q": 0.4, "k": 0}), ("gce", {"q": 0.4})),
        (("focal", {"gamma": 0}), ("cross_entropy", {})),
        (("nfl", {"gamma": 0}), ("nce", {})),
        (("nnfl", {"gamma": 0}), ("nnce", {})),
        (("ngce", {"q": 0}), ("nce", {})),
        (("sce", {"alpha": 1, "beta": 0}), ("cross_entropy", {})),
        (("label_smoothing", {"smoothing": 0}), ("cross_entropy", {})),
        (("rce", {"log_zero": -2}), ("mae", {})),
        (("aul", {"a": 2, "q": 1}), ("taylor_ce", {"order": 1})),
        (("agce", {"a": 2, "q": 1}), ("gce", {"q": 1})),
    ],
)
def test_losses_meet_where_their_papers_say(one, other):
    a, b = (get_loss(name, **params) for name, params in (one, other))
    for got, expected in zip(of_all_labels(a), of_all_labels(b), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_limits_and_halves():
    ce, _ = of_all_labels(losses.cross_entropy)
    half, _ = of_all_labels(lambda z, y: losses.mae(z, y) / 2)
    close = {"rtol": 0, "atol": 1e-6}
    assert (of_all_labels(get_loss("gce", q=1e-6))[0] - ce).abs().max() < 5e-6
    assert half[2].item() == pytest.approx(0.901434, abs=1e-6)
    torch.testing.assert_close(of_all_labels(get_loss("gce", q=1))[0], half, **close)
    torch.testing.assert_close(of_all_labels(get_loss("taylor_ce", order=1))[0], half, **close)
    many = of_all_labels(get_loss("taylor_ce", order=300))[0]
    torch.testing.assert_close(many, ce, rtol=1e-5, atol=1e-5)
    for loss in (losses.bootstrap_soft, losses.bootstrap_hard):
        torch.testing.assert_close(of_all_labels(lambda z, y, f=loss: f(z, y, 0))[0], ce)
    own = of_all_labels(lambda z, y: losses.bootstrap_hard(z, y, 1.0))[0]
    torch.testing.assert_close(own, ce[:1].expand(3))  # against the arg max, whatever the label


@pytest.mark.parametrize(
    ("loss", "total"),
    [
        (lambda z, y: losses.mae(z, y) / 2, 2.0),
        (losses.rce, 18.420681),
        (losses.nce, 1.0),
        (losses.nfl, 1.0),
        (losses.ngce, 1.0),
        (losses.nnce, 2.0),
        (losses.nnfl, 2.0),
    ],
)
def test_robust_losses_sum_to_a_constant_over_the_labels(loss, total):
    for row in (Z, [0.0, 0.0, 0.0], [5.0, -2.0, 1.0]):
        assert of_all_labels(loss, row)[0].sum().item() == pytest.approx(total, rel=1e-6)


def test_other_losses_do_not_sum_to_a_constant():
    assert of_all_labels(losses.cross_entropy)[0].sum().item() == pytest.approx(4.151090)
    assert of_all_labels(losses.gce)[0].sum().item() == pytest.approx(2.406843)
    for loss in (losses.cross_entropy, losses.gce):
        sums = [of_all_labels(loss, row)[0].sum().item() for row in (Z, [5.0, -2.0, 1.0])]
        assert abs(sums[0] - sums[1]) > 0.1


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (losses.cross_entropy, (0.659001, 0.242433, -0.901434)),
        (losses.gce, (0.130165, 0.047885, -0.178050)),
        (lambda z, y: losses.mae(z, y) / 2, (0.064955, 0.023896, -0.088851)),
        (losses.rce, (0.598258, 0.220087, -0.818345)),
        (losses.nce, (0.027382, 0.095071, -0.122452)),
        (losses.focal, (0.806830, 0.296816, -1.103646)),
        (
            lambda z, y: losses.focal(z, y, detach_modulation=True),
            (0.535493, 0.196997, -0.732490),
        ),
        (losses.bootstrap_soft, (0.626051, 0.230311, -0.856362)),
        (
            lambda z, y: losses.bootstrap_soft(z, y, detach_target=False),
            (0.611892, 0.237224, -0.849116),
        ),
    ],
)
def test_gradients_have_their_computed_values(loss, expected):
    np.testing.assert_allclose(of_all_labels(loss)[1][2], expected, rtol=0, atol=2e-6)


FACTORS = {
    "cross_entropy": lambda p: 1.0,
    "focal": lambda p: (1 - p) ** 2 - 2 * p * (1 - p) * math.log(p),
    "gce": lambda p: p**0.7,
    "truncated_gce": lambda p: p**0.7 * (p > 0.5),
    "mae": lambda p: 2 * p,
    "rce": lambda p: -LOG_A * p,
    "sce": lambda p: 0.1 - LOG_A * p,
    "taylor_ce": lambda p: p * (1 + (1 - p)),
    "agce": lambda p: p * (0.6 + p) ** -0.4,
    "aul": lambda p: p * (5.5 - p) ** 2,
    "ael": lambda p: p / 2.5 * math.exp(-p / 2.5),
}


@pytest.mark.parametrize("name", FACTORS)
def test_gradient_is_a_multiple_of_that_of_cross_entropy(name):
    for row in (Z, [0.0, 0.0, 0.0], [4.0, -2.0, 1.0]):
        p = torch.tensor(row).softmax(0)
        _, gradient = of_all_labels(get_loss(name), row)
        for y in range(3):
            expected = FACTORS[name](p[y].item()) * (p - torch.eye(3)[y])
            torch.testing.assert_close(gradient[y], expected, rtol=1e-4, atol=1e-5)


@EVERY_LOSS
def test_gradients_of_the_logits_sum_to_zero(loss):
    for row in (Z, [5.0, -2.0, 1.0]):
        _, gradient = of_all_labels(loss, row)
        assert gradient.abs().sum() > 1e-3
        bound = 1e-6 * max(1.0, gradient.abs().max().item())
        assert gradient.sum(1).abs().max() <= bound


@EVERY_LOSS
def test_losses_are_finite_and_not_negative_at_certainty_and_with_one_class(loss):
    for row in ([60.0, 0, 0], [-60.0, 0, 0], [1e4, 0, 0], [0.0]):
        values, gradient = of_all_labels(loss, row)
        assert torch.isfinite(values).all()
        assert torch.isfinite(gradient).all()
        assert (values >= 0).all()


@pytest.mark.parametrize("gamma", [0.3, 0.5, 1, 2])
def test_focal_losses_of_any_gamma_have_finite_gradients_at_certainty(gamma):
    for name in ("focal", "nfl", "nnfl"):
        for row in ([60.0, 0, 0], [-60.0, 0, 0]):
            assert torch.isfinite(of_all_labels(get_loss(name, gamma=gamma), row)[1]).all()


def test_sums_have_the_weights_published_for_ten_classes():
    z, y = torch.tensor([Z]), torch.tensor([1])
    expected = {
        "nce+mae": losses.nce(z, y) + losses.mae(z, y),
        "nfl+rce": losses.nfl(z, y) + losses.rce(z, y),
        "nce+agce": losses.nce(z, y) + 4 * losses.agce(z, y, 6, 1.5),
        "nce+aul": losses.nce(z, y) + 4 * losses.aul(z, y, 6.3, 1.5),
        "nce+ael": losses.nce(z, y) + 4 * losses.ael(z, y, 5),
        "ngce+mae": losses.ngce(z, y, 0.1) + losses.mae(z, y),
        "anl_fl": 5 * losses.nfl(z, y) + 5 * losses.nnfl(z, y),
    }
    for name, value in expected.items():
        torch.testing.assert_close(get_loss(name)(z, y), value)


def test_probabilities_below_the_smallest_have_no_gradient():
    _, gradient = of_all_labels(losses.nnce, [20.0, 0.0, 0.0])
    certain = torch.tensor([1.0, 0, 0])
    assert gradient[1].abs().max() < 1e-6 < abs(gradient[1] - certain).max()
    assert of_all_labels(losses.nnce, [20.0, 0.0, 0.0])[0].tolist() == pytest.approx([0, 1, 1])


@pytest.mark.parametrize("name", ["huber", None, 3, ["gce"], "rce+nce"])
def test_unknown_loss_is_refused_with_those_that_exist(name):
    with pytest.raises(ValueError, match=r"'gce'.*'nce\+rce'.*'anl_ce'"):
        get_loss(name)


@pytest.mark.parametrize(
    ("name", "params", "allowed"),
    [
        ("gce", {"q": 1.5}, "q \\(a number in \\[0, 1\\]\\)"),
        ("gce", {"q": "much"}, "q "),
        ("gce", {"q": True}, "q "),
        ("gce", {"q": math.nan}, "q "),
        ("gce", {"gamma": 1}, "q "),
        ("mae", {"q": 1}, "no parameters"),
        ("truncated_gce", {"k": 1.0}, "q .*k "),
        ("aul", {"a": 1.0}, "a \\(a number above 1\\), q"),
        ("rce", {"log_zero": 0}, "log_zero "),
        ("focal", {"detach_modulation": 1}, "detach_modulation \\(True or False\\)"),
        ("taylor_ce", {"order": 1.5}, "order \\(an integer of at least 1\\)"),
        ("taylor_ce", {"order": 0}, "order "),
        ("nce+rce", {"alpha": -1}, "alpha .*beta .*log_zero "),
        ("nnce", {"p_min": 0}, "p_min "),
        ("agce", {"q": 0}, "a number above 0"),
    ],
)
def test_bad_parameters_are_refused_with_the_allowed_ones(name, params, allowed):
    with pytest.raises(ValueError, match=f"{allowed}.*got {next(iter(params))}="):
        get_loss(name, **params)
