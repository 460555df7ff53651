"""The splitters as estimators: scikit-learn's contract, the papers' properties, safety."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import estimator_checks

from noisyfit import mixtures
from noisyfit._em import BETA_PRESETS, beta_em, beta_posterior, minmax_scaling
from noisyfit.mixtures import (
    BetaMixtureSplitter,
    GaussianMixtureSplitter,
    HistorySplitter,
)

SPLITTERS = [
    GaussianMixtureSplitter(),
    GaussianMixtureSplitter(normalize="percentile", monotone=True),
    GaussianMixtureSplitter(normalize=None),
    BetaMixtureSplitter(),
    BetaMixtureSplitter(preset="official", lookup=100),
    HistorySplitter(),
    HistorySplitter(statistic="margin"),
]
# checks that scikit-learn keeps for its own estimators
EXTRA_CHECKS = [
    "check_dataframe_column_names_consistency",
    "check_get_feature_names_out_error",
    "check_global_output_transform_pandas",
    "check_inplace_ensure_writeable",
    "check_n_features_in",
    "check_param_validation",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]

every_splitter = pytest.mark.parametrize("splitter", SPLITTERS, ids=str)


@pytest.fixture
def losses():
    """600 losses in two columns, the last 200 of them of wrong labels."""
    rng = np.random.default_rng(0)
    clean, wrong = rng.gamma(2, 0.1, (400, 2)), rng.normal(3, 0.4, (200, 2))
    return np.concatenate([clean, wrong])


# --- scikit-learn's contract, beyond what tests/test_common.py checks of every class ---


@every_splitter
@pytest.mark.parametrize("check", EXTRA_CHECKS)
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names")
def test_splitter_passes_further_checks_of_scikit_learn(splitter, check):
    getattr(estimator_checks, check)(type(splitter).__name__, splitter)


@pytest.mark.parametrize("name", [n for n in mixtures.__all__ if n.endswith("Splitter")])
def test_splitter_documents_every_parameter_and_fitted_attribute(name, losses):
    splitter = getattr(mixtures, name)().fit(losses)
    fitted = {a for a in vars(splitter) if a.endswith("_") and not a.startswith("_")}
    assert all(word in type(splitter).__doc__ for word in fitted | set(splitter.get_params()))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        (
            {"threshold": 2},
            r"The 'threshold' parameter .* in the range \[0(\.0)?, 1(\.0)?\]. Got 2",
        ),
        ({"normalize": "max"}, "The 'normalize' parameter .* Got 'max' instead"),
        ({"max_iter": 0}, "The 'max_iter' parameter .* Got 0 instead"),
        ({"reg_covar": 0}, "The 'reg_covar' parameter .* Got 0 instead"),
    ],
)
def test_splitter_with_a_bad_parameter_says_which_and_what_is_allowed(params, message, losses):
    with pytest.raises(ValueError, match=message):
        GaussianMixtureSplitter(**params).fit(losses)


@every_splitter
def test_splitter_given_a_column_as_a_vector_asks_to_reshape(splitter, losses):
    with pytest.raises(ValueError, match="Reshape your data"):
        clone(splitter).fit(losses[:, 0])


@every_splitter
def test_splitter_given_one_sample_refuses(splitter):
    with pytest.raises(ValueError, match="minimum of 2 is required"):
        clone(splitter).fit([[0.5]])


# --- what a fit says ---


@every_splitter
def test_scores_are_consistent_with_each_other_and_with_the_fitted_evidence(splitter, losses):
    splitter = clone(splitter).fit(losses)
    clean = splitter.transform(losses)
    assert clean.shape == (600, 1)
    np.testing.assert_array_equal(clean[:, 0], splitter.clean_proba_)
    np.testing.assert_allclose(splitter.predict_proba(losses), np.hstack([1 - clean, clean]))
    labels = splitter.predict(losses)
    np.testing.assert_array_equal(labels == 1, splitter.clean_proba_ > splitter.threshold_)
    assert splitter.noise_rate_ == pytest.approx(1 - labels.mean())
    assert splitter.weights_.sum() == pytest.approx(1)
    assert splitter.means_[0] < splitter.means_[1]


@every_splitter
def test_tensors_are_scored_on_the_stored_scale_as_arrays_are(splitter, losses):
    splitter = clone(splitter).fit(losses)
    new = losses[:7] * 3 - 1
    suspicion = splitter._suspicion(new)  # margins are turned round
    clean = splitter.transform_tensor(suspicion)
    np.testing.assert_array_equal(clean, splitter.transform(new)[:, 0])
    assert splitter.transform_tensor(suspicion.float()).dtype == torch.float32


@every_splitter
def test_splitter_keeps_float32_and_computes_in_float64(splitter, losses):
    wide = clone(splitter).fit(losses.astype(np.float32).astype(np.float64))
    narrow = clone(splitter).fit(losses.astype(np.float32))
    assert narrow.transform(losses.astype(np.float32)).dtype == np.float32
    np.testing.assert_array_equal(narrow.clean_proba_, wide.clean_proba_)


@every_splitter
def test_splitter_averages_the_columns(splitter, losses):
    both = clone(splitter).fit(losses)
    mean = clone(splitter).fit(losses.mean(1, keepdims=True))
    np.testing.assert_array_equal(both.clean_proba_, mean.clean_proba_)


@pytest.mark.parametrize(
    "splitter",
    [GaussianMixtureSplitter(), BetaMixtureSplitter(), BetaMixtureSplitter(preset="official")],
    ids=str,
)
def test_new_losses_beyond_the_fitted_range_count_as_its_end(splitter, losses):
    splitter.fit(losses)
    new = splitter.transform([[-5, -5], losses.min(0), losses.max(0), [50, 50]])[:, 0]
    assert new[0] == pytest.approx(splitter.clean_proba_[losses.mean(1).argmin()])
    assert new[3] == pytest.approx(splitter.clean_proba_[losses.mean(1).argmax()])
    assert new[3] < 0.01 < new[0]


def test_largest_losses_under_the_official_preset_get_the_largest_wrong_posterior(losses):
    splitter = BetaMixtureSplitter(preset="official").fit(losses)
    beyond_the_percentile = losses.mean(1) > splitter.offset_ + splitter.span_
    assert beyond_the_percentile.sum() == 30
    np.testing.assert_allclose(
        splitter.clean_proba_[beyond_the_percentile], splitter.clean_proba_.min(), atol=1e-12
    )


def test_splitter_in_a_pipeline_names_its_column(losses):
    pipeline = make_pipeline(
        FunctionTransformer(np.sqrt, feature_names_out="one-to-one"), GaussianMixtureSplitter()
    )
    frame = pipeline.set_output(transform="pandas").fit_transform(losses)
    assert list(frame.columns) == ["clean_proba"]
    assert frame.shape == (600, 1)


def test_beta_parameters_of_none_come_from_the_preset_and_others_replace_them(losses):
    official = BetaMixtureSplitter(preset="official").fit(losses)
    spelt_out = BetaMixtureSplitter(init="official", m_step="moments", max_iter=10, tol=0)
    np.testing.assert_array_equal(official.clean_proba_, spelt_out.fit(losses).clean_proba_)
    assert official.n_iter_ == 10
    assert not official.converged_
    robust = BetaMixtureSplitter().fit(losses)
    assert robust.converged_
    assert 1 < robust.n_iter_ < 100
    assert BetaMixtureSplitter(max_iter=1).fit(losses).n_iter_ == 1


def test_beta_lookup_of_ten_points_gives_ten_values_at_most(losses):
    splitter = BetaMixtureSplitter(lookup=10).fit(losses)
    assert 1 < len(np.unique(splitter.clean_proba_)) <= 10


@pytest.mark.parametrize(
    "splitter",
    [GaussianMixtureSplitter(max_iter=100, tol=1e-6), BetaMixtureSplitter()],
    ids=str,
)
def test_monotone_splitter_never_calls_a_larger_loss_cleaner(splitter):
    # a tight clean group, and a broad group of wrong labels on both sides of it
    rng = np.random.default_rng(0)
    x = np.r_[rng.beta(60, 240, 700), rng.beta(1.2, 1, 300)][:, None]
    grid = np.linspace(0, 1, 500)[:, None]
    as_published = splitter.fit(x).transform(grid)[:, 0]
    assert np.diff(as_published).max() > 0.01
    monotone = splitter.set_params(monotone=True).fit(x).transform(grid)[:, 0]
    assert np.diff(monotone).max() <= 0


# --- safety ---


@every_splitter
@pytest.mark.parametrize("n_samples", [2, 100])
def test_constant_input_counts_as_clean_with_a_warning(splitter, n_samples):
    splitter = clone(splitter)
    with pytest.warns(UserWarning, match="constant values"):
        splitter.fit(np.full((n_samples, 2), 0.7))
    np.testing.assert_array_equal(splitter.clean_proba_, 1)
    assert splitter.noise_rate_ == 0
    assert splitter.predict([[0.7, 0.7], [3, 4]]).tolist() == [1, 1]
    assert all(np.isfinite(v).all() for k, v in vars(splitter).items() if k.endswith("s_"))


@every_splitter
@pytest.mark.parametrize("wrong", [1, 30, 97])
def test_two_values_are_told_apart_at_any_share(splitter, wrong):
    losses = np.r_[np.zeros(100 - wrong), np.ones(wrong)][:, None]
    if getattr(splitter, "statistic", None) == "margin":
        losses = -losses
    labels = clone(splitter).fit(losses).predict(losses)
    assert labels.tolist() == [1] * (100 - wrong) + [0] * wrong


def test_clean_skewed_losses_are_doubted_as_documented():
    def doubted(splitter):
        return splitter.fit(losses).noise_rate_

    for seed in range(5):
        losses = np.random.default_rng(seed).beta(1, 8, (5000, 1))
        assert 0.21 <= doubted(GaussianMixtureSplitter()) <= 0.26
        assert 0.20 <= doubted(BetaMixtureSplitter(preset="official")) <= 0.24
        assert 0.13 <= doubted(BetaMixtureSplitter()) <= 0.22
        assert 0.01 <= doubted(HistorySplitter()) <= 0.05
        scaled = torch.from_numpy(losses[:, 0])
        scaled = minmax_scaling(scaled, margin=1e-3).apply(scaled)
        posterior = beta_posterior(scaled, beta_em(scaled, **BETA_PRESETS["official"]))
        assert 0.02 <= (posterior <= 0.5).double().mean() <= 0.06


# --- the papers' properties ---


@pytest.mark.parametrize("seed", range(5))
def test_gaussian_splitter_recovers_separated_groups(seed):
    rng = np.random.default_rng(seed)
    clean = rng.random(5000) < 0.7
    x = np.where(clean, rng.normal(0.1, 0.05, 5000), rng.normal(0.6, 0.1, 5000))[:, None]
    splitter = GaussianMixtureSplitter().fit(x)
    assert (splitter.predict(x) == clean).mean() >= 0.995
    assert splitter.weights_[0] == pytest.approx(0.7, abs=0.02)


def test_history_splitter_on_two_betas_has_the_known_weight_and_ranks_almost_perfectly():
    rng = np.random.default_rng(0)
    x = np.r_[rng.beta(2, 8, 3000), rng.beta(8, 2, 2000)][:, None]
    splitter = HistorySplitter().fit(x)
    assert splitter.weights_[0] == pytest.approx(0.58, abs=0.04)
    assert roc_auc_score(np.arange(5000) < 3000, splitter.clean_proba_) >= 0.99
    assert splitter.n_iter_ == 20


def test_history_splitter_never_calls_a_larger_count_cleaner():
    # Few wrong events of clean labels and a broad group of the others: two betas that cross twice.
    rng = np.random.default_rng(0)
    counts = np.r_[rng.binomial(40, 0.15, 400), rng.integers(0, 41, 200)]
    clean = HistorySplitter().fit(counts[:, None]).transform(np.arange(41)[:, None])[:, 0]
    assert (np.diff(clean) <= 0).all()
    assert clean[0] > 0.5 > clean[-1]


def test_history_statistics_that_are_larger_for_right_labels_are_turned_round():
    proba = np.random.default_rng(0).beta(2, 1, (300, 1))
    doubt = HistorySplitter().fit(1 - proba)
    for statistic in ("proba", "margin"):
        splitter = HistorySplitter(statistic=statistic).fit(proba)
        np.testing.assert_allclose(splitter.clean_proba_, doubt.clean_proba_, atol=1e-9)
    assert roc_auc_score(proba[:, 0] > 0.5, doubt.clean_proba_) == 1


# --- histograms of many samples ---


def many_losses(n, seed=0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.4
    return np.where(wrong, rng.beta(5, 3, n), rng.beta(1, 9, n))[:, None]


def crowded_losses(n, seed=0):
    """Most of them all but 0, as after memorisation."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.3
    spread = rng.normal(0.5, 0.14, n).clip(0, 1)
    return np.where(wrong, spread, 1e-5 * rng.random(n))[:, None]


def test_a_component_narrower_than_a_bin_stays_where_it_is():
    losses = crowded_losses(50_000)
    exact = GaussianMixtureSplitter(bins=None).fit(losses)
    by_default = GaussianMixtureSplitter().fit(losses)
    np.testing.assert_allclose(by_default.clean_proba_, exact.clean_proba_, atol=1e-5)


def test_components_that_may_be_narrow_are_not_put_into_bins():
    losses = crowded_losses(20_000)
    given = {"reg_covar": 1e-8}
    exact = GaussianMixtureSplitter(bins=None, **given).fit(losses)
    by_default = GaussianMixtureSplitter(**given).fit(losses)
    np.testing.assert_array_equal(by_default.clean_proba_, exact.clean_proba_)


def test_many_samples_are_fitted_by_their_histogram():
    losses = many_losses(50_000)
    by_default = GaussianMixtureSplitter().fit(losses)
    exact = GaussianMixtureSplitter(bins=None).fit(losses)
    assert by_default.means_.tolist() != exact.means_.tolist()
    np.testing.assert_allclose(by_default.clean_proba_, exact.clean_proba_, atol=1e-3)
    assert by_default.n_iter_ == exact.n_iter_
    coarse = GaussianMixtureSplitter(bins=10).fit(losses)
    assert abs(coarse.clean_proba_ - exact.clean_proba_).max() > 1e-3


@pytest.mark.parametrize("preset", ["official", "robust"])
@pytest.mark.parametrize("made", [many_losses, crowded_losses])
def test_many_samples_are_fitted_to_betas_by_their_histogram(preset, made):
    losses = made(50_000)
    by_default = BetaMixtureSplitter(preset=preset).fit(losses)
    exact = BetaMixtureSplitter(preset=preset, bins=None).fit(losses)
    assert by_default.alphas_.tolist() != exact.alphas_.tolist()
    np.testing.assert_allclose(by_default.clean_proba_, exact.clean_proba_, atol=2e-3)
    coarse = BetaMixtureSplitter(preset=preset, bins=10).fit(losses)
    assert abs(coarse.clean_proba_ - exact.clean_proba_).max() > 2e-3


def test_few_samples_are_not_put_into_bins_for_betas():
    losses = many_losses(19_999)
    exact = BetaMixtureSplitter(bins=None).fit(losses)
    np.testing.assert_array_equal(
        BetaMixtureSplitter().fit(losses).clean_proba_, exact.clean_proba_
    )


@pytest.mark.parametrize("params", [{"normalize": None}, {"bins": None}])
def test_unscaled_losses_are_not_put_into_bins_by_default(params):
    losses = many_losses(20_000)
    exact = GaussianMixtureSplitter(normalize=None, bins=None).fit(losses)
    splitter = GaussianMixtureSplitter(**{"normalize": None} | params).fit(losses)
    np.testing.assert_array_equal(splitter.clean_proba_, exact.clean_proba_)


def test_few_samples_are_not_put_into_bins():
    losses = many_losses(19_999)
    exact = GaussianMixtureSplitter(bins=None).fit(losses)
    np.testing.assert_array_equal(
        GaussianMixtureSplitter().fit(losses).clean_proba_, exact.clean_proba_
    )
