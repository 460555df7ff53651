"""Figures of three kinds of samples, of uncertainty over the epochs and of rows of no class."""

import inspect
import sys
from importlib.util import find_spec

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from numpydoc.docscrape import ClassDoc
from scipy.stats import norm
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score
from skorch.dataset import ValidSplit
from torch.utils.data import TensorDataset

from noisyfit import BayesianDivideMixPP, CrossEntropyClassifier, Network
from noisyfit.methods import ManifoldDivideMixClassifier
from noisyfit.mixtures import GaussianMixtureSplitter, sample_kinds
from noisyfit.plots import (
    DetectionRocDisplay,
    EmbeddingDisplay,
    LossHistogramDisplay,
    MemorizationRecorder,
    TrainingHistoryDisplay,
    UncertaintyDisplay,
    UncertaintyRecorder,
)
from noisyfit.plots._recording import EpochRecorder

matplotlib.use("Agg")

needs_callbacks = pytest.mark.skipif(
    find_spec("sklearn.callback") is None, reason="scikit-learn 1.9 has callbacks"
)

CLEAN, WRONG, OPEN = "clean", "wrong label", "out of distribution"
KINDS = np.array([CLEAN, CLEAN, WRONG, OPEN, CLEAN, WRONG])
MASK = KINDS == WRONG
Y_TRUE = np.array(["ant", "bee", "bee", "cow", "cow", "ant"])
Y_NOISY = np.where(MASK, "dog", Y_TRUE)
EPOCHS = np.array([[0.9, 0.8, 1.0, 1.0, 0.6, 0.7], [0.1, 0.3, 0.5, 0.9, 0.2, 0.7]])


class Fitted(BaseEstimator):
    """An estimator with the fitted attributes that it is given."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def fit(self, X, y=None):
        return self


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def rows():
    """120 rows of three classes, the first 20 of none, and 30 wrong labels after them."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    X = rng.normal(0, 0.5, (120, 4)) + 4 * np.eye(3, 4)[y]
    X[:20] = rng.normal(0, 6, (20, 4))
    kinds = np.repeat([OPEN, WRONG, CLEAN], [20, 30, 70])
    return X, np.where(kinds == WRONG, (y + 1) % 3, y), kinds


def bayesian(max_epochs=4, **settings):
    net = Network(max_epochs=max_epochs, batch_size=16, **settings)
    return BayesianDivideMixPP(net, random_state=0)


@pytest.fixture(scope="module")
def manifold(rows):
    """A short fit of the method that sets rows aside, with some held out."""
    net = Network(max_epochs=6, train_split=ValidSplit(5, stratified=True))
    clf = ManifoldDivideMixClassifier(net, ood_share=0.2, ood_initial=0.15, random_state=0)
    return clf.fit(*rows[:2])


def weights(clf):
    return [value for net in clf.nets_ for value in net.module_.state_dict().values()]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---- the record ----------------------------------------------------------------------------------


def quartile(values, share):
    """Linear interpolation between the sorted values."""
    values = sorted(values)
    place = share * (len(values) - 1)
    below = int(place)
    above = min(below + 1, len(values) - 1)
    return values[below] + (place - below) * (values[above] - values[below])


def test_every_epoch_has_mean_and_quartiles_of_every_kind():
    recorder = UncertaintyRecorder(KINDS)
    for values in EPOCHS:
        recorder.record(values)
    for epoch, (row, values) in enumerate(zip(recorder.history_, EPOCHS, strict=True), 1):
        expected = {"epoch": epoch}
        for kind, name in ((CLEAN, "clean"), (WRONG, "wrong_label"), (OPEN, "out_of_distribution")):
            mine = [u for u, k in zip(values, KINDS, strict=True) if k == kind]
            expected[f"{name}_mean"] = sum(mine) / len(mine)
            expected[f"{name}_lower"] = quartile(mine, 0.25)
            expected[f"{name}_upper"] = quartile(mine, 0.75)
        assert row == pytest.approx(expected)
        assert list(row) == list(expected)


@pytest.mark.parametrize(
    "kinds",
    [MASK, MASK.tolist(), (Y_TRUE, Y_NOISY), np.where(MASK, WRONG, CLEAN).tolist()],
    ids=["mask", "list", "labels", "names"],
)
def test_kinds_may_be_a_mask_two_label_columns_or_names(kinds):
    display = UncertaintyDisplay.from_values(kinds, EPOCHS)
    assert list(display.curves) == [CLEAN, WRONG]
    epochs, means, _, _ = display.curves[WRONG]
    assert epochs == [1, 2]
    assert means == pytest.approx(EPOCHS[:, MASK].mean(1))


def test_names_from_pandas_or_as_objects_are_names():
    pandas = pytest.importorskip("pandas")
    for kinds in (pandas.Series(KINDS), KINDS.astype(object), pandas.Series(MASK)):
        assert CLEAN in UncertaintyDisplay.from_values(kinds, EPOCHS).curves


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["clean", "wrong"], r"kinds of samples are .*got \['wrong'\] too"),
        (Y_NOISY, "got .*dog"),
        (MASK.astype(int), "boolean mask"),
        (np.zeros(0, bool), "boolean mask"),
        (np.zeros(0, str), "boolean mask"),
        ((Y_TRUE, Y_NOISY[:2]), "inconsistent"),
        ([KINDS], "1d array"),
        (KINDS[:, None], "boolean mask"),
    ],
)
def test_what_names_no_kinds_is_refused(kinds, message):
    with pytest.raises(ValueError, match=message):
        UncertaintyRecorder(kinds)


def test_values_that_do_not_fit_are_refused():
    recorder = UncertaintyRecorder(KINDS)
    for bad, message in ((EPOCHS[0, :5], "inconsistent"), (EPOCHS[0] * np.nan, "NaN")):
        with pytest.raises(ValueError, match=message):
            recorder.record(bad)
    assert recorder.history_ == []
    with pytest.raises(ValueError, match="at least one epoch"):
        UncertaintyDisplay.from_values(KINDS, [])
    with pytest.raises(ValueError, match="recorded nothing"):
        UncertaintyDisplay.from_recorder(recorder)
    with pytest.raises(TypeError, match="of type UncertaintyRecorder, got"):
        UncertaintyDisplay.from_recorder(MemorizationRecorder(Y_TRUE))


@needs_callbacks
def test_a_fit_is_recorded_as_it_ends(rows):
    X, y, kinds = rows
    recorder = UncertaintyRecorder(kinds)
    clf = bayesian().set_callbacks(recorder).fit(X, y)
    assert [row["epoch"] for row in recorder.history_] == [1, 2, 3, 4]
    by_hand = UncertaintyRecorder(kinds)
    by_hand.record(clf.predict_uncertainty(X))
    assert recorder.history_[-1] == by_hand.history_[0] | {"epoch": 4}
    assert recorder.history_[0] != recorder.history_[-1] | {"epoch": 1}
    clf.set_params(net__max_epochs=2).fit(X, y)
    display = TrainingHistoryDisplay.from_histories({"unsure": recorder}, "clean_mean")
    assert display.lines_[0].get_xdata().tolist() == [1, 2]  # of the last fit alone


@needs_callbacks
@pytest.mark.parametrize("position", ["head", "blocks"])
def test_a_recorder_of_uncertainty_leaves_the_fit_as_it_is_to_the_bit(rows, position):
    X, y, kinds = rows
    clf = bayesian(module__dropout=0.3).set_params(dropout_position=position)
    watched = clone(clf).set_callbacks(UncertaintyRecorder(kinds)).fit(X, y)
    for a, b in zip(weights(clf.fit(X, y)), weights(watched), strict=True):
        assert torch.equal(a, b)
    for name in ("clean_proba_", "uncertainty_", "refined_proba_"):
        np.testing.assert_array_equal(getattr(clf, name), getattr(watched, name))


@needs_callbacks
def test_random_transforms_go_on_as_without_a_recorder_of_uncertainty(rows):
    class Jittered(TensorDataset):
        def __getitem__(self, i):
            x, label = super().__getitem__(i)
            return x + 0.1 * torch.randn(x.shape), label

    X, y, kinds = rows
    data = Jittered(torch.from_numpy(X).float(), torch.from_numpy(y))
    recorder = UncertaintyRecorder(kinds)
    watched = bayesian(2).set_callbacks(recorder).fit(data)
    for a, b in zip(weights(bayesian(2).fit(data)), weights(watched), strict=True):
        assert torch.equal(a, b)
    assert len(recorder.history_) == 2


@needs_callbacks
def test_fits_that_cannot_be_recorded_are_refused_before_training(rows):
    X, y, kinds = rows
    clf = bayesian().set_callbacks(UncertaintyRecorder(kinds[1:]))
    with pytest.raises(ValueError, match="119 rows for 120"):
        clf.fit(X, y)
    clf = CrossEntropyClassifier(Network(max_epochs=1)).set_callbacks(UncertaintyRecorder(kinds))
    with pytest.raises(TypeError, match="CrossEntropyClassifier has no predict_uncertainty"):
        clf.fit(X, y)
    assert not hasattr(clf, "history_")


def test_both_recorders_share_their_base():
    for recorder in (UncertaintyRecorder(KINDS), MemorizationRecorder(Y_TRUE)):
        assert isinstance(recorder, EpochRecorder)
        assert recorder.history_ == []


# ---- uncertainty over the epochs -----------------------------------------------------------------


def test_every_kind_has_a_line_and_a_band_between_its_quartiles():
    display = UncertaintyDisplay.from_values(KINDS, EPOCHS)
    looks = set()
    for line, band, (epochs, means, lower, upper) in zip(
        display.lines_, display.bands_, display.curves.values(), strict=True
    ):
        assert line.get_xdata().tolist() == epochs
        assert line.get_ydata().tolist() == means
        corners = {tuple(point) for point in band.get_paths()[0].vertices}
        assert corners == {*zip(epochs, lower, strict=True), *zip(epochs, upper, strict=True)}
        assert to_hex(band.get_facecolor()[0]) == to_hex(line.get_color())
        looks.add((to_hex(line.get_color()), line.get_linestyle()))
    assert len(looks) == 3
    assert legend(display.ax_) == ["Clean", "Wrong label", "Out of distribution"]
    assert display.ax_.get_xlabel() == "Epoch"
    assert display.ax_.get_ylabel().startswith("Uncertainty")


@pytest.mark.parametrize("is_shared", [False, True])
def test_no_band_runs_behind_the_legend_or_out_of_the_axes(is_shared):
    figure, axes = plt.subplots(1, 2, sharey=is_shared)
    for scale, ax in zip((1, 50), axes, strict=True):
        display = UncertaintyDisplay.from_values(KINDS, scale * EPOCHS, ax=ax)
        figure.draw_without_rendering()
        drawn = np.array([values[1:] for values in display.curves.values()])
        lowest, highest = (ax.transData.transform((1, f(drawn)))[1] for f in (np.min, np.max))
        assert ax.get_legend().get_window_extent().y0 > highest
        assert lowest > ax.get_window_extent().y0
        ticks = ax.get_yticks()
        assert 3 <= len(ticks) <= 7
        assert 0.8 * scale < ticks.max() < 1.1 * scale


def test_a_kind_looks_the_same_whether_others_are_there_or_not():
    names = np.where(KINDS == OPEN, OPEN, WRONG)
    two = UncertaintyDisplay.from_values(names, EPOCHS)
    three = UncertaintyDisplay.from_values(KINDS, EPOCHS)
    for a, b in zip(two.lines_, three.lines_[1:], strict=True):
        assert a.get_label() == b.get_label()
        assert (a.get_color(), a.get_linestyle()) == (b.get_color(), b.get_linestyle())


def test_one_epoch_of_uncertainty_has_markers():
    display = UncertaintyDisplay.from_values(KINDS, EPOCHS[:1])
    assert {line.get_marker() for line in display.lines_} == {"o"}


# ---- losses --------------------------------------------------------------------------------------


def heights(bars):
    return np.array([patch.get_height() for patch in bars])


def test_three_kinds_of_losses_are_stacked_in_three_colours():
    losses = np.array([[0.0, 0.1, 0.9, 0.4, 0.2, 1.0]])
    display = LossHistogramDisplay.from_estimator(Fitted(losses_=losses), wrong=KINDS, bins=5)
    below = np.zeros(5)
    for bars, kind in zip(display.bars_, (CLEAN, WRONG, OPEN), strict=True):
        expected = np.histogram(losses[0, kind == KINDS], display.edges)[0]
        np.testing.assert_array_equal(heights(bars), expected)
        np.testing.assert_array_equal([p.get_y() for p in bars], below)
        below = below + expected
    assert len({to_hex(bars[0].get_facecolor()) for bars in display.bars_}) == 3
    assert legend(display.ax_) == [
        "Right labels (3)",
        "Wrong labels (2)",
        "Out of distribution (1)",
    ]


def test_doubts_and_splitters_take_the_kinds_too():
    clean = 1 - EPOCHS[1]
    display = LossHistogramDisplay.from_estimator(Fitted(clean_proba_=clean), wrong=KINDS)
    assert display.counts.sum(1).tolist() == [3, 2, 1]
    losses = EPOCHS[1][:, None]
    splitter = GaussianMixtureSplitter().fit(losses)
    display = LossHistogramDisplay.from_splitter(splitter, losses, wrong=KINDS.tolist())
    assert display.counts.sum(1).tolist() == [3, 2, 1]
    with pytest.raises(ValueError, match="inconsistent"):
        LossHistogramDisplay.from_splitter(splitter, losses, wrong=KINDS[1:])
    with pytest.raises(ValueError, match="kinds of samples"):
        LossHistogramDisplay.from_splitter(splitter, losses, wrong=Y_TRUE)


def test_both_networks_of_the_bayesian_form_show_their_kinds_in_given_axes(rows):
    X, y, kinds = rows
    clf = bayesian(6).fit(X, y)
    _, axes = plt.subplots(1, 2)
    for net, ax in enumerate(axes):
        display = LossHistogramDisplay.from_estimator(clf, wrong=kinds, net=net, ax=ax)
        assert display.ax_ is ax
        assert display.counts.sum(1).tolist() == [70, 30, 20]
        final = [row for row in clf.mixture_history_ if row["net"] == net + 1][-1]
        np.testing.assert_array_equal(display.weights, final["weights"])
        assert len(ax.lines) == 2


def test_the_one_network_of_the_manifold_form_shows_the_rows_it_was_trained_on(rows, manifold):
    kinds = rows[2]
    display = LossHistogramDisplay.from_estimator(manifold, wrong=kinds)
    trained = kinds[manifold.dynamics_["n_seen"] > 0]
    assert 0 < len(trained) < 120
    expected = [np.sum(trained == kind) for kind in (CLEAN, WRONG, OPEN)]
    assert display.counts.sum(1).tolist() == expected
    np.testing.assert_array_equal(display.weights, manifold.mixture_history_[-1]["weights"])
    with pytest.raises(ValueError, match="net == 1"):
        LossHistogramDisplay.from_estimator(manifold, net=1)


def test_a_mixture_of_the_rows_in_distribution_expects_no_more_than_these():
    losses = np.linspace(0, 1, 100)[None]
    mixture = {"epoch": 1, "net": 1, "kind": "gaussian", "means": [0.3, 0.7]}
    mixture |= {"variances": [0.01, 0.01], "weights": [0.5, 0.5]}
    inside = np.arange(100) < 75
    expected = {}
    for excluded in (False, True):
        clf = Fitted(losses_=losses, mixture_history_=[mixture], gmm_exclude_ood=excluded)
        clf.in_distribution_ = inside
        display = LossHistogramDisplay.from_estimator(clf, bins=10)
        expected[excluded] = display.expected
    share = np.diff(norm.cdf([0.0, 0.1], 0.3, 0.1)).item()
    assert expected[False][0, 0] == pytest.approx(100 * 0.5 * share)
    np.testing.assert_allclose(expected[True], 0.75 * expected[False])


# ---- detection -----------------------------------------------------------------------------------

SCORE = np.array([0.9, 0.8, 0.4, 0.1, 0.7, 0.6])  # small for what is strange
CLEAN_PROBA = np.array([0.9, 0.2, 0.3, 0.1, 0.7, 0.05])


def area(positive, doubt):
    """Share of the pairs in which what is to be found is doubted more."""
    pairs = [(a, b) for a in doubt[positive] for b in doubt[~positive]]
    return np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs])


@pytest.mark.parametrize(
    ("attributes", "doubt"),
    [
        ({"ood_score_": SCORE}, -SCORE),
        ({"uncertainty_": EPOCHS[1]}, EPOCHS[1]),
        ({"uncertainty_": EPOCHS[1], "ood_score_": SCORE, "clean_proba_": CLEAN_PROBA}, -SCORE),
    ],
    ids=["score", "uncertainty", "both"],
)
def test_rows_of_no_class_are_found_where_scores_are_small_or_uncertainty_large(attributes, doubt):
    is_open = np.array([False, True, False, True, False, False])
    clf = Fitted(**attributes)
    display = DetectionRocDisplay.from_estimator({"one": clf}, is_open, find=OPEN)
    assert display.auroc["one"] == pytest.approx(area(is_open, doubt))
    assert display.find == OPEN
    assert "in distribution doubted" in display.ax_.get_xlabel()
    assert "out of distribution found" in display.ax_.get_ylabel()
    assert legend(display.ax_) == [f"one (AUROC {display.auroc['one']:.3f})"]


def test_uncertainties_near_zero_keep_their_order():
    tiny = np.float32([1e-9, 2e-9, 3e-9, 4e-9, 5e-9, 6e-9])
    is_open = tiny > 3.5e-9
    display = DetectionRocDisplay.from_estimator(Fitted(uncertainty_=tiny), is_open, find=OPEN)
    assert display.auroc == {"Fitted": 1.0}


def test_named_kinds_say_what_is_out_of_distribution_and_whose_label_is_wrong():
    clf = Fitted(clean_proba_=CLEAN_PROBA, ood_score_=SCORE)
    wrong = DetectionRocDisplay.from_estimator(clf, KINDS)
    assert wrong.auroc["Fitted"] == pytest.approx(area(KINDS != CLEAN, -CLEAN_PROBA))
    assert wrong.auroc["Fitted"] == roc_auc_score(KINDS != CLEAN, 1 - CLEAN_PROBA)
    assert wrong.ax_.get_ylabel() == "Wrong labels found (share)"
    strange = DetectionRocDisplay.from_estimator(clf, KINDS, find=OPEN)
    assert strange.auroc["Fitted"] == pytest.approx(area(KINDS == OPEN, -SCORE))


def test_axes_of_both_kinds_of_detection_say_what_they_share():
    ax = plt.subplots()[1]
    labels = []
    for find, trust in ((WRONG, CLEAN_PROBA), (OPEN, SCORE), (OPEN, -SCORE)):
        DetectionRocDisplay.from_predictions(KINDS, {find: trust}, find=find, ax=ax)
        labels.append((ax.get_xlabel(), ax.get_ylabel()))
    assert labels[0] == ("Right labels doubted (share)", "Wrong labels found (share)")
    assert labels[1] == labels[2] == ("Doubted without reason (share)", "Found (share)")
    assert len({to_hex(line.get_color()) for line in ax.lines}) == 4  # one is the diagonal


def test_given_scores_may_be_any_finite_numbers():
    display = DetectionRocDisplay.from_predictions(KINDS == OPEN, 50 * SCORE - 7, find=OPEN)
    assert display.auroc == {"Score": 1.0}
    named = DetectionRocDisplay.from_predictions(KINDS == OPEN, SCORE, find=OPEN, name="mine")
    assert list(named.auroc) == ["mine"]
    assert list(DetectionRocDisplay.from_predictions(MASK, SCORE).auroc) == ["Clean probability"]


def test_what_cannot_be_found_is_refused():
    draw, clf = DetectionRocDisplay.from_predictions, Fitted(clean_proba_=SCORE)
    for find in ("ood", None, ["wrong label"]):
        with pytest.raises(ValueError, match="find must be one of"):
            draw(MASK, SCORE, find=find)
        with pytest.raises(ValueError, match="find must be one of"):
            DetectionRocDisplay.from_estimator(clf, MASK, find=find)
    with pytest.raises(ValueError, match="in and rows out of distribution"):
        draw(np.zeros(6, bool), SCORE, find=OPEN)
    with pytest.raises(ValueError, match="give a mask"):
        draw((Y_TRUE, Y_NOISY), SCORE, find=OPEN)
    with pytest.raises(ValueError, match="5 entries for 6 rows"):
        draw(MASK, SCORE[:5], find=OPEN)
    with pytest.raises(ValueError, match="NaN"):
        draw(MASK, SCORE * np.nan, find=OPEN)
    with pytest.raises(ValueError, match="no ood_score_ and no uncertainty_"):
        DetectionRocDisplay.from_estimator(clf, MASK, find=OPEN)
    with pytest.raises(NotFittedError):
        DetectionRocDisplay.from_estimator(bayesian(), MASK, find=OPEN)


def test_a_real_fit_gives_the_curve_of_its_scores(rows, manifold):
    kinds = rows[2]
    display = DetectionRocDisplay.from_estimator({"m": manifold}, kinds, find=OPEN)
    expected = roc_auc_score(kinds == OPEN, -manifold.ood_score_)
    assert display.auroc["m"] == pytest.approx(expected)
    assert expected > 0.6


# ---- features ------------------------------------------------------------------------------------


def test_kinds_colour_the_map_in_their_own_order(rows, manifold):
    X, _, kinds = rows
    display = EmbeddingDisplay.from_estimator(
        manifold, X, kinds=kinds, method="pca", random_state=0
    )
    assert legend(display.ax_) == [CLEAN, WRONG, OPEN]
    assert display.ax_.get_legend().get_title().get_text() == "Kind"
    lines = UncertaintyDisplay.from_values(KINDS, EPOCHS).lines_
    for points, kind, line in zip(display.points_, (CLEAN, WRONG, OPEN), lines, strict=True):
        np.testing.assert_array_equal(points.get_offsets(), display.embedding[kinds == kind])
        assert to_hex(points.get_facecolor()[0]) == to_hex(line.get_color())
    two = EmbeddingDisplay.from_estimator(manifold, X[:50], kinds=kinds[:50], method="pca")
    assert legend(two.ax_) == [WRONG, OPEN]
    for points, line in zip(two.points_, lines[1:], strict=True):
        assert to_hex(points.get_facecolor()[0]) == to_hex(line.get_color())


def test_found_kinds_and_masks_colour_the_map_too(rows, manifold):
    X, _, kinds = rows
    draw = EmbeddingDisplay.from_estimator
    found = draw(manifold, X, kinds=manifold.sample_kind_, method="pca")
    assert set(legend(found.ax_)) == set(manifold.sample_kind_)
    masked = draw(manifold, X, kinds=kinds == WRONG, method="pca", max_points=60, random_state=0)
    assert legend(masked.ax_) == [CLEAN, WRONG]
    assert len(masked.labels) == 60
    named = sample_kinds([0.9, 0.1] * 60)
    np.testing.assert_array_equal(draw(manifold, X, kinds=named, method="pca").labels, named)


def test_the_bayesian_form_has_a_map(rows):
    X, y, kinds = rows
    display = EmbeddingDisplay.from_estimator(bayesian(1).fit(X, y), X, kinds=kinds, method="pca")
    assert display.embedding.shape == (120, 2)


def test_a_map_has_one_source_of_colours(rows, manifold):
    X, y, kinds = rows
    with pytest.raises(ValueError, match="Either y or kinds"):
        EmbeddingDisplay.from_estimator(manifold, X, y, kinds=kinds, method="pca")
    with pytest.raises(ValueError, match="inconsistent"):
        EmbeddingDisplay.from_estimator(manifold, X, kinds=kinds[1:], method="pca")
    with pytest.raises(ValueError, match="kinds of samples"):
        EmbeddingDisplay.from_estimator(manifold, X, kinds=y.astype(str), method="pca")
    with pytest.raises(ValueError, match="not in list"):
        EmbeddingDisplay(np.eye(2), np.array(["a", "b"]), colours={"a": "red"}).plot()


# ---- the display as any other --------------------------------------------------------------------


def test_uncertainty_is_drawn_where_it_is_told_and_again_elsewhere(monkeypatch):
    figure, (left, right) = plt.subplots(1, 2)
    display = UncertaintyDisplay.from_values(KINDS, EPOCHS, ax=left)
    assert display.figure_ is figure
    assert len(left.lines) == len(left.collections) == 3
    assert not right.lines
    assert display.plot(ax=right) is display
    assert len(right.lines) == 3
    display.plot()
    assert display.figure_ is not figure
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"UncertaintyDisplay\.plot requires matplotlib"):
        display.plot()


@pytest.mark.parametrize("cls", [UncertaintyDisplay, UncertaintyRecorder])
def test_docstring_names_every_parameter_and_attribute(cls):
    if cls is UncertaintyDisplay:
        thing = cls.from_values(KINDS, EPOCHS)
    else:
        thing = cls(KINDS)
    doc, parameters = ClassDoc(cls), list(inspect.signature(cls).parameters)
    assert [p.name for p in doc["Parameters"]] == parameters
    attributes = {name.strip() for p in doc["Attributes"] for name in p.name.split(",")}
    public = {name for name in vars(thing) if not name.startswith("_")}
    assert attributes == public.difference(parameters)
