"""Matrices of label noise: checks, estimates, and the losses that they correct."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from noisyfit._transition import (
    anchor_rows,
    as_matrix,
    auto_percentile,
    backward_corrected,
    check_columns,
    forward_corrected,
    given_transition,
    is_led_by_diagonal,
    led_by_diagonal,
    log_odds,
    log_transition,
    posterior,
    soft_confusion,
    well_conditioned,
)

T = np.array([[0.8, 0.2, 0.0], [0.0, 0.7, 0.3], [0.1, 0.0, 0.9]])
LOGITS = torch.tensor([[2.0, 1.0, 0.1]]).repeat(3, 1)
Y = torch.arange(3)
LOG_FLOOR = float(np.log(1e-7))


def log_given(matrix, y=Y):
    return log_transition(matrix, "cpu").t()[y]


def factors(matrix):
    return torch.linalg.lu_factor(torch.as_tensor(matrix))


def symmetric(n, level):
    return (1 - level) * np.eye(n) + level / n


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def random_matrix(n, rng):
    matrix = rng.random((n, n)) + n * np.eye(n)
    return matrix / matrix.sum(1, keepdims=True)


def test_forward_loss_and_posterior_have_the_published_values():
    losses = forward_corrected(LOGITS, log_given(T))
    assert losses.tolist() == pytest.approx([0.621650, 1.198974, 1.823627], abs=1e-6)
    p = posterior(LOGITS, log_given(T)).numpy()
    expected = [[0.981647, 0, 0.018353], [0.437144, 0.562856, 0], [0, 0.450510, 0.549490]]
    np.testing.assert_allclose(p, expected, atol=1e-6)


def test_backward_loss_has_the_published_values_and_its_mean_over_the_noise_is_cross_entropy():
    losses = backward_corrected(LOGITS, Y, factors(T), LOG_FLOOR)
    assert losses.tolist() == pytest.approx([0.287618, 0.934677, 2.542520], abs=1e-6)
    np.testing.assert_allclose(T @ losses.numpy(), [0.417030, 1.417030, 2.317030], atol=1e-6)
    assert np.linalg.cond(T) == pytest.approx(1.655606, abs=1e-6)


def test_the_weights_of_the_losses_are_the_published_inverse():
    """Its rows sum to 1, so that the gradient is the prediction less the row of the label."""
    z = LOGITS.clone().requires_grad_()
    backward_corrected(z, Y, factors(T), LOG_FLOOR).sum().backward()
    expected = [
        [1.235294, -0.352941, 0.117647],
        [0.058824, 1.411765, -0.470588],
        [-0.137255, 0.039216, 1.098039],
    ]
    np.testing.assert_allclose(LOGITS.softmax(1) - z.grad, expected, atol=2e-6)


@pytest.mark.parametrize(("n_classes", "batch"), [(2, 1), (4, 7), (9, 30)])
def test_losses_agree_with_loops(n_classes, batch):
    rng = np.random.default_rng(n_classes)
    matrix = random_matrix(n_classes, rng)
    z = rng.normal(0, 3, (batch, n_classes))
    y = rng.integers(0, n_classes, batch)
    forward, backward, of_true = [], [], []
    for row, label in zip(z, y, strict=True):
        p = softmax(row)
        joint = [p[i] * matrix[i, label] for i in range(n_classes)]
        forward.append(-np.log(sum(joint)))
        of_true.append(np.array(joint) / sum(joint))
        inverse = np.linalg.inv(matrix)
        backward.append(sum(-inverse[label, j] * np.log(p[j]) for j in range(n_classes)))
    z, y = torch.tensor(z, dtype=torch.float32), torch.tensor(y)
    given = log_given(matrix, y)
    np.testing.assert_allclose(forward_corrected(z, given), forward, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(posterior(z, given), of_true, atol=1e-5)
    found = backward_corrected(z, y, factors(matrix), LOG_FLOOR)
    np.testing.assert_allclose(found, backward, rtol=1e-4, atol=1e-5)


def test_gradient_of_the_forward_loss_is_prediction_minus_posterior():
    z = LOGITS.clone().requires_grad_()
    forward_corrected(z, log_given(T)).sum().backward()
    expected = LOGITS.softmax(1) - posterior(LOGITS, log_given(T))
    torch.testing.assert_close(z.grad, expected, rtol=0, atol=1e-6)


def test_gradients_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.normal(size=(5, 3)), requires_grad=True)
    y = torch.tensor([0, 1, 2, 0, 1])
    given = torch.as_tensor(random_matrix(3, rng)).log().t()[y]
    torch.autograd.gradcheck(lambda z: forward_corrected(z, given), z)
    lu = factors(random_matrix(3, rng))

    def weighted(z):  # as backward_corrected, whose result is float32
        losses = -functional.log_softmax(z, 1).t()
        return torch.linalg.lu_solve(*lu, losses).gather(0, y[None]).squeeze(0)

    single = z.detach().float().requires_grad_()
    backward_corrected(single, y, lu, -np.inf).sum().backward()
    weighted(z).sum().backward()
    torch.testing.assert_close(single.grad, z.grad.float())


def test_the_identity_is_cross_entropy_to_the_bit():
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.normal(0, 60, (40, 5)), dtype=torch.float32)
    y = torch.tensor(rng.integers(0, 5, 40))
    losses = functional.cross_entropy(z, y, reduction="none")
    assert torch.equal(forward_corrected(z, log_given(np.eye(5), y)), losses)
    assert torch.equal(backward_corrected(z, y, factors(np.eye(5)), -np.inf), losses)


def test_symmetric_noise_has_its_inverse_in_closed_form():
    matrix = symmetric(10, 0.4)
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(np.diag(inverse), 1.6)
    np.testing.assert_allclose(inverse[0, 1:], -0.0666667, atol=1e-6)
    assert np.linalg.cond(matrix) == pytest.approx(1.6666667)
    z = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([0, 3, 9, 9, 1, 5])
    of_all = -functional.log_softmax(z, 1)
    expected = (of_all.gather(1, y[:, None]).squeeze(1) - 0.04 * of_all.sum(1)) / 0.6
    torch.testing.assert_close(backward_corrected(z, y, factors(matrix), LOG_FLOOR), expected)


def test_the_backward_loss_is_bounded_by_its_floor():
    z = torch.tensor([[200.0, 0.0, 0.0]], requires_grad=True)
    loss = backward_corrected(z, torch.tensor([0]), factors(symmetric(3, 0.6)), LOG_FLOOR)
    inverse = np.linalg.inv(symmetric(3, 0.6))[0]
    assert loss.item() == pytest.approx(LOG_FLOOR * -(inverse[1] + inverse[2]), rel=1e-5)
    loss.backward()
    assert not z.grad.any()


def test_forward_stays_finite_where_the_network_is_sure_of_an_impossible_class():
    z = torch.tensor([[0.0, 0.0, 300.0]], requires_grad=True)
    loss = forward_corrected(z, log_given(T, torch.tensor([1])))  # T[2, 1] = 0
    loss.backward()
    assert torch.isfinite(loss).all()
    assert torch.isfinite(z.grad).all()
    assert z.grad[0, 2] > 0.99


PREDICTIONS = torch.tensor(
    [
        [0.75, 0.20, 0.05],
        [0.05, 0.66, 0.29],
        [0.12, 0.02, 0.86],
        [0.40, 0.35, 0.25],
        [0.70, 0.25, 0.05],
    ]
)


def test_anchors_are_the_surest_rows():
    rows = anchor_rows(PREDICTIONS)
    assert rows.tolist() == [0, 1, 2]
    np.testing.assert_allclose(as_matrix(PREDICTIONS[rows]), PREDICTIONS[:3], atol=1e-6)


@pytest.mark.parametrize(("n", "anchor"), [(1000, 969), (100, 96), (101, 96)])
def test_the_percentile_takes_the_best_row_strictly_below(n, anchor):
    scores = torch.arange(n)[:, None] / n
    by_numpy = np.quantile(scores.numpy(), 0.97, method="higher")
    assert anchor_rows(scores, 97).item() == anchor == (scores < by_numpy).sum() - 1


def test_finding_anchors_leaves_the_scores_as_they_were():
    """A column overwritten while its class is looked up would spoil the rows of later ones."""
    scores = PREDICTIONS.clone()
    anchor_rows(scores, 50)
    assert torch.equal(scores, PREDICTIONS)


def test_log_odds_rank_as_the_probabilities_do_and_beyond_their_rounding():
    rng = np.random.default_rng(0)
    z = torch.tensor(rng.normal(0, 2, (50, 4)), dtype=torch.float32)
    assert torch.equal(log_odds(z).argsort(0), z.double().softmax(1).argsort(0))
    p = z.double().softmax(1)
    torch.testing.assert_close(log_odds(z).double(), (p / (1 - p)).log(), rtol=1e-4, atol=1e-4)
    sure = torch.tensor([[40.0, 0.0], [30.0, 0.0], [0.0, 9.0]])
    assert (sure.softmax(1)[:2, 0] == 1).all()
    assert anchor_rows(log_odds(sure), 97).tolist() == [1, 1]


def test_the_percentile_is_used_if_the_rarest_class_has_twice_what_it_skips():
    assert auto_percentile(np.array([6, 94])) == 97
    assert auto_percentile(np.array([5, 95])) is None
    assert auto_percentile(np.full(16, 10)) == 97
    assert auto_percentile(np.full(17, 10)) is None


def test_soft_confusion_agrees_with_loops():
    y = [0, 1, 2, 1, 0]
    p = PREDICTIONS.double().numpy()
    expected = np.zeros((3, 3))
    for i in range(3):
        for row, label in zip(p, y, strict=True):
            expected[i, label] += row[i] / p[:, i].sum()
    np.testing.assert_allclose(soft_confusion(PREDICTIONS, torch.tensor(y)), expected, rtol=1e-5)


def test_a_row_led_by_another_class_is_mixed_with_the_identity():
    matrix = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.3, 0.3, 0.4]])
    assert not is_led_by_diagonal(matrix)
    led = led_by_diagonal(matrix)
    np.testing.assert_allclose(led, [[0.9, 0.1, 0.0], [0.3, 0.65, 0.05], [0.3, 0.3, 0.4]])
    assert is_led_by_diagonal(led)
    assert not is_led_by_diagonal(np.full((3, 3), 1 / 3))
    assert is_led_by_diagonal(np.eye(1))


def test_a_matrix_is_changed_no_more_than_its_condition_needs():
    np.testing.assert_array_equal(well_conditioned(T, 10), T)
    singular = np.full((3, 3), 1 / 3)
    mended = well_conditioned(singular, 8)  # the condition number is 1 / share
    np.testing.assert_allclose(mended, 0.85 * singular + 0.15 * np.eye(3))
    assert np.linalg.cond(mended) < 8 < np.linalg.cond(0.9 * singular + 0.1 * np.eye(3))


@pytest.mark.parametrize(
    ("matrix", "match"),
    [
        (np.eye(2), "shape"),
        (np.ones((3, 2)) / 2, "shape"),
        (np.ones(3), "shape"),
        (None, "shape"),
        ([[1.2, -0.2, 0], [0, 1, 0], [0, 0, 1]], "negative"),
        ([[np.nan, 0, 1], [0, 1, 0], [0, 0, 1]], "NaN"),
        (np.eye(3) * 0.9, "sum to 1"),
        ([["a", "b"], ["c", "d"]], "transition"),
        ([[1.0], [0.0, 1.0]], "transition"),
    ],
)
def test_a_matrix_that_is_none_is_refused(matrix, match):
    with pytest.raises(ValueError, match=match) as error:
        given_transition(matrix, 3)
    assert "transition" in str(error.value)


def test_a_label_that_the_matrix_calls_impossible_is_refused():
    matrix = np.array([[1.0, 0.0], [1.0, 0.0]])
    check_columns(matrix, np.array([5, 0]))
    with pytest.raises(ValueError, match="column 1 is entirely zero"):
        check_columns(matrix, np.array([5, 2]))
