"""Displays: what is counted, what the components expect, what ends up in the axes."""

import inspect
import subprocess
import sys

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpydoc.docscrape import ClassDoc
from scipy.integrate import quad
from scipy.stats import beta, norm
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.exceptions import NotFittedError

from noisyfit import DivideMixClassifier, Network
from noisyfit.mixtures import BetaMixtureSplitter, GaussianMixtureSplitter, HistorySplitter
from noisyfit.noise import sym_excl
from noisyfit.plots import LossHistogramDisplay, TrainingHistoryDisplay

matplotlib.use("Agg")

GAUSSIAN = {"kind": "gaussian", "means": [0.2, 0.7], "variances": [0.002, 0.005]}
GAUSSIAN |= {"weights": [0.6, 0.4]}
BETA = {"kind": "beta", "alphas": [0.4, 9.0], "betas": [4.0, 3.0], "weights": [0.7, 0.3]}
HISTORY = [{"epoch": e, "train_acc": e / 10, "valid_acc": e / 8} for e in (1, 2, 3)]


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
def sample():
    """400 losses in two groups, (400, 1), and which labels are wrong: those of the second."""
    rng = np.random.default_rng(0)
    losses = np.r_[rng.gamma(2, 0.2, 260), rng.normal(3.5, 0.5, 140)]
    return losses[:, None], np.arange(400) >= 260


def entry(epoch, net, mixture):
    return {"epoch": epoch, "net": net} | mixture


def two_networks():
    """Losses of two networks, each with the final entry of its own and an older one."""
    losses = np.random.default_rng(1).random((2, 300))
    older = GAUSSIAN | {"weights": [0.1, 0.9]}
    history = [entry(1, 1, older), entry(1, 2, older), entry(2, 1, GAUSSIAN), entry(2, 2, BETA)]
    return Fitted(losses_=losses, mixture_history_=history)


def densities(mixture, k):
    """The weighted density of component k, a function of x."""
    w = mixture["weights"][k]
    if mixture["kind"] == "gaussian":
        return lambda x: w * norm.pdf(x, mixture["means"][k], mixture["variances"][k] ** 0.5)
    return lambda x: w * beta.pdf(x, mixture["alphas"][k], mixture["betas"][k])


def heights(bars):
    return np.array([patch.get_height() for patch in bars])


def test_bars_without_truth_count_every_sample():
    estimator = two_networks()
    display = LossHistogramDisplay.from_estimator(estimator, bins=7)
    (bars,) = display.bars_
    edges, found = display.edges, heights(bars)
    assert found.sum() == 300
    for k in range(7):
        last = k == 6
        inside = [edges[k] <= x and (x < edges[k + 1] or last) for x in estimator.losses_[0]]
        assert found[k] == sum(inside)
        assert bars[k].get_x() == pytest.approx(edges[k])
        assert bars[k].get_width() == pytest.approx(edges[k + 1] - edges[k])


def test_bars_with_truth_stack_wrong_labels_on_right_ones(sample):
    losses, wrong = sample
    splitter = GaussianMixtureSplitter().fit(losses)
    display = LossHistogramDisplay.from_splitter(splitter, losses, wrong=wrong, bins=20)
    right_bars, wrong_bars = display.bars_
    assert heights(right_bars).sum() == 260
    assert heights(wrong_bars).sum() == 140
    np.testing.assert_array_equal([p.get_y() for p in wrong_bars], heights(right_bars))
    everything = LossHistogramDisplay.from_splitter(splitter, losses, bins=20)
    np.testing.assert_array_equal(display.counts.sum(0), everything.counts[0])


def test_wrong_labels_given_as_a_pair_of_label_columns_are_compared(sample):
    losses, wrong = sample
    splitter = GaussianMixtureSplitter().fit(losses)
    y = np.array(["ant", "bee"])[np.arange(400) % 2]
    noisy = np.where(wrong, "cow", y)
    display = LossHistogramDisplay.from_splitter(splitter, losses, wrong=(y, noisy))
    assert display.counts.sum(1).tolist() == [260, 140]


@pytest.mark.parametrize(("net", "mixture"), [(0, GAUSSIAN), (1, BETA)])
def test_curves_are_the_last_densities_of_the_network_integrated_over_a_bar(net, mixture):
    display = LossHistogramDisplay.from_estimator(two_networks(), net=net, bins=10)
    width = display.edges[1] - display.edges[0]
    for k, line in enumerate(display.lines_):
        x, y = line.get_data()
        density = densities(mixture, k)
        for i in range(0, len(x), 100):
            low, high = x[i] - width / 2, x[i] + width / 2
            assert y[i] == pytest.approx(300 * quad(density, low, high)[0], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("net", [0, 1])
def test_curves_divided_by_samples_and_width_integrate_to_the_weights(net):
    estimator = two_networks()
    estimator.losses_[:, :2] = [0, 1]  # all of the mass lies between the outermost bars
    estimator.mixture_history_ += [entry(3, 2, BETA | {"alphas": [3.0, 9.0]})]
    display = LossHistogramDisplay.from_estimator(estimator, net=net)
    density = display.expected / (300 * (display.edges[1] - display.edges[0]))
    np.testing.assert_allclose(np.trapezoid(density, display.grid), display.weights, atol=1e-3)


def test_a_beta_with_a_pole_expects_its_share_in_the_first_bar_and_not_more():
    estimator = Fitted(losses_=np.linspace(0, 1, 300), mixture_history_=[entry(1, 1, BETA)])
    display = LossHistogramDisplay.from_estimator(estimator, bins=25)
    in_first_bar = 300 * 0.7 * beta.cdf(0.04, 0.4, 4.0)
    assert display.lines_[0].get_ydata()[0] == pytest.approx(in_first_bar)
    assert np.isfinite(display.expected).all()


def test_losses_of_one_network_may_have_one_dimension():
    losses = np.random.default_rng(1).random(50)
    display = LossHistogramDisplay.from_estimator(Fitted(losses_=losses))
    assert display.counts.sum() == 50
    assert display.lines_ == []
    with pytest.raises(ValueError, match="net == 1"):
        LossHistogramDisplay.from_estimator(Fitted(losses_=losses), net=1)


def test_a_final_division_without_components_draws_no_older_ones():
    estimator = two_networks()
    estimator.mixture_history_.append({"epoch": 3, "net": 1})
    assert LossHistogramDisplay.from_estimator(estimator, net=0).lines_ == []
    assert len(LossHistogramDisplay.from_estimator(estimator, net=1).lines_) == 2


def test_an_estimator_without_losses_shows_its_doubts():
    clean = np.array([0.95, 0.9, 0.8, 0.3, 0.2])
    wrong = np.array([False, False, True, True, True])
    display = LossHistogramDisplay.from_estimator(Fitted(clean_proba_=clean), wrong=wrong, bins=2)
    assert display.edges.tolist() == [0, 0.5, 1]
    assert display.counts.tolist() == [[2, 0], [1, 2]]
    assert display.lines_ == []
    assert "clean probability" in display.ax_.get_xlabel()


def test_curves_of_a_splitter_are_in_the_units_of_the_losses(sample):
    losses, _ = sample
    curves = {}
    for scale, shift in ((1, 0), (50, -7)):
        x = scale * losses + shift
        display = LossHistogramDisplay.from_splitter(GaussianMixtureSplitter().fit(x), x)
        np.testing.assert_allclose(display.edges[[0, -1]], [x.min(), x.max()])
        curves[scale] = display.expected
    np.testing.assert_allclose(curves[1], curves[50], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("normalize", ["minmax", None])
def test_a_gaussian_splitter_expects_what_a_loop_over_its_components_says(normalize, sample):
    losses, _ = sample
    splitter = GaussianMixtureSplitter(normalize=normalize).fit(losses)
    display = LossHistogramDisplay.from_splitter(splitter, losses, bins=30)
    width = (losses.max() - losses.min()) / 30
    for k in range(2):
        mean = splitter.offset_ + splitter.span_ * splitter.means_[k]
        deviation = splitter.span_ * splitter.variances_[k] ** 0.5
        for i in range(0, len(display.grid), 250):
            x = display.grid[i]
            share = norm.cdf((x + width / 2 - mean) / deviation)
            share -= norm.cdf((x - width / 2 - mean) / deviation)
            assert display.expected[k, i] == pytest.approx(400 * splitter.weights_[k] * share)


@pytest.mark.parametrize(
    "splitter", [BetaMixtureSplitter(), GaussianMixtureSplitter(normalize="percentile")]
)
def test_curves_of_a_fit_between_percentiles_sum_to_the_losses_in_between(splitter, sample):
    losses = sample[0].copy()
    losses[:30] = losses.min()  # equal losses at the lower percentile take part in the fit
    low, high = np.percentile(losses, [5, 95])
    n_inside = np.sum((losses >= low) & (losses <= high))
    splitter.fit(losses)
    display = LossHistogramDisplay.from_splitter(splitter, losses, bins=201)
    total = display.expected[:, ::5].sum()  # every fifth point is the middle of a bar
    tails = 0.0
    if isinstance(splitter, GaussianMixtureSplitter):
        for mean, variance, weight in zip(
            splitter.means_, splitter.variances_, splitter.weights_, strict=True
        ):
            ends = (np.array([losses.min(), losses.max()]) - splitter.offset_) / splitter.span_
            tails += weight * (1 - np.diff(norm.cdf(ends, mean, variance**0.5)).item())
    assert 370 < n_inside < 400
    assert total == pytest.approx(n_inside * (1 - tails), rel=1e-4)


@pytest.mark.parametrize("statistic", ["wrong_events", "margin", "proba"])
def test_every_curve_lies_over_its_labels_whichever_way_the_statistic_runs(statistic):
    rng = np.random.default_rng(0)
    suspicion = np.r_[rng.beta(2, 8, 300), rng.beta(8, 2, 200)]
    x = suspicion if statistic == "wrong_events" else 5 - suspicion
    splitter = HistorySplitter(statistic=statistic).fit(x[:, None])
    display = LossHistogramDisplay.from_splitter(splitter, x[:, None], bins=201)
    middles = display.grid[::5]  # every fifth point is the middle of a bar
    sign = 1 if statistic == "wrong_events" else -1  # the fit turns the others round
    of_groups = np.array([x[:300].mean(), x[300:].mean()])
    for k, curve in enumerate(display.expected):
        mean = np.average(middles, weights=curve[::5])
        of_component = sign * (splitter.offset_ + splitter.span_ * splitter.means_[k])
        assert mean == pytest.approx(of_component, abs=1e-3)
        assert np.abs(mean - of_groups).argmin() == k
    assert display.ax_.get_xlabel().lower().startswith(statistic[:5].replace("_", " "))


def test_columns_of_losses_are_averaged(sample):
    losses, _ = sample
    two = np.hstack([losses - 1, losses + 1])
    splitter = GaussianMixtureSplitter().fit(two)
    display = LossHistogramDisplay.from_splitter(splitter, two)
    assert display.edges[-1] == pytest.approx(losses.max())
    with pytest.raises(ValueError, match="expecting 2 features"):
        LossHistogramDisplay.from_splitter(splitter, losses)


def test_constant_losses_are_drawn():
    losses = np.full((10, 1), 0.3)
    with pytest.warns(UserWarning, match="constant"):
        splitter = GaussianMixtureSplitter().fit(losses)
    display = LossHistogramDisplay.from_splitter(splitter, losses)
    assert display.counts.sum() == 10
    assert display.expected[1].max() == 0


def test_the_legend_names_bars_and_components_with_their_sizes(sample):
    losses, wrong = sample
    splitter = GaussianMixtureSplitter().fit(losses)
    display = LossHistogramDisplay.from_splitter(splitter, losses, wrong=wrong)
    texts = {text.get_text() for text in display.ax_.get_legend().get_texts()}
    assert {"Right labels (260)", "Wrong labels (140)"} < texts
    assert f"Clean component ({splitter.weights_[0]:.0%})" in texts
    assert display.ax_.get_xlabel() == "Loss"
    assert display.ax_.get_ylabel() == "Samples per bar"
    assert display.ax_.get_ylim()[1] > display.counts.sum(0).max()


def test_bad_input_of_the_histogram_is_refused(sample):
    losses, wrong = sample
    splitter = GaussianMixtureSplitter().fit(losses)
    estimator = two_networks()
    from_estimator = LossHistogramDisplay.from_estimator
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        from_estimator(estimator, wrong=wrong)
    with pytest.raises(ValueError, match="boolean mask"):
        from_estimator(estimator, wrong=np.zeros(300))
    for net in (2, -1):
        with pytest.raises(ValueError, match=f"net == {net}"):
            from_estimator(estimator, net=net)
    with pytest.raises(ValueError, match="bins == 0"):
        from_estimator(estimator, bins=0)
    with pytest.raises(TypeError, match="bins"):
        from_estimator(estimator, bins="auto")
    with pytest.raises(ValueError, match="no losses_ and no clean_proba_"):
        from_estimator(Fitted(nets_=[]))
    with pytest.raises(NotFittedError):
        from_estimator(DivideMixClassifier())
    with pytest.raises(NotFittedError):
        LossHistogramDisplay.from_splitter(GaussianMixtureSplitter(), losses)
    with pytest.raises(TypeError, match=r"noisyfit\.mixtures, got KMeans"):
        LossHistogramDisplay.from_splitter(KMeans(2, n_init=1).fit(losses), losses)
    with pytest.raises(ValueError, match="NaN"):
        LossHistogramDisplay.from_splitter(splitter, np.full((3, 1), np.nan))


def test_lines_of_one_history_are_its_columns():
    display = TrainingHistoryDisplay.from_estimator(Fitted(history_=HISTORY))
    train, valid = display.lines_
    assert train.get_xdata().tolist() == valid.get_xdata().tolist() == [1, 2, 3]
    assert train.get_ydata().tolist() == [0.1, 0.2, 0.3]
    assert valid.get_ydata().tolist() == [0.125, 0.25, 0.375]
    assert train.get_label() == "Training accuracy, given labels"
    assert display.ax_.get_xlabel() == "Epoch"
    assert display.ax_.get_ylabel() == "Accuracy"


def test_validation_is_left_out_where_there_was_none_but_no_other_column():
    rows = [{"epoch": 1, "train_acc": 0.5, "n_labelled_1": 7}]
    estimator = Fitted(history_=rows)
    display = TrainingHistoryDisplay.from_estimator(estimator)
    assert list(display.curves) == ["Training accuracy, given labels"]
    assert display.lines_[0].get_marker() == "o"
    for keys in ("valid_acc", ("valid_acc", "valid_loss"), ("train_acc", "train_los")):
        with pytest.raises(ValueError, match="The history has no"):
            TrainingHistoryDisplay.from_estimator(estimator, keys=keys)
    display = TrainingHistoryDisplay.from_estimator(estimator, keys="n_labelled_1")
    assert display.ax_.get_ylabel() == "n_labelled_1"


def test_epochs_without_the_column_are_left_out_of_the_line():
    rows = [
        {"epoch": 5},
        {"epoch": 6, "train_acc": 0.5},
        {"epoch": 7},
        {"epoch": 8, "train_acc": 1},
    ]
    display = TrainingHistoryDisplay.from_estimator(Fitted(history_=rows))
    assert list(display.curves.values()) == [([6, 8], [0.5, 1])]
    without_numbers = {"plain": [{"loss": 3.0}, {"loss": 2.0}]}
    display = TrainingHistoryDisplay.from_histories(without_numbers, "loss")
    assert display.curves == {"plain": ([1, 2], [3.0, 2.0])}


def test_columns_of_different_quantities_share_a_neutral_label():
    rows = [{"epoch": e, "train_acc": 0.5, "train_loss": 1.0} for e in (1, 2)]
    labels = {
        keys: TrainingHistoryDisplay.from_estimator(Fitted(history_=rows), keys=keys).value_label
        for keys in [("train_acc", "train_loss"), ("train_loss",)]
    }
    assert list(labels.values()) == ["Value", "Loss"]


def test_several_histories_share_one_axis_and_keep_their_names():
    sources = {"plain": HISTORY[:2], "robust": Fitted(history_=HISTORY)}
    display = TrainingHistoryDisplay.from_histories(sources)
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["plain", "robust"]
    assert [len(line.get_xdata()) for line in display.lines_] == [2, 3]
    assert display.ax_.get_ylabel() == "Validation accuracy"


def test_many_lines_are_all_drawn_differently():
    sources = {f"method {i}": HISTORY for i in range(20)}
    lines = TrainingHistoryDisplay.from_histories(sources).lines_
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20


def test_epochs_get_ticks_at_whole_numbers():
    display = TrainingHistoryDisplay.from_estimator(Fitted(history_=HISTORY))
    ticks = display.ax_.get_xticks()
    assert len(ticks) >= 3
    np.testing.assert_array_equal(ticks, np.round(ticks))


def test_bad_histories_are_refused():
    with pytest.raises(TypeError, match="histories must be a dict"):
        TrainingHistoryDisplay.from_histories([HISTORY])
    for source in ([], [0.5, 0.6], DivideMixClassifier()):
        with pytest.raises(TypeError, match="A history is a list of dicts"):
            TrainingHistoryDisplay.from_histories({"plain": source})
    with pytest.raises(ValueError, match=r"no 'lr', only .*valid_acc"):
        TrainingHistoryDisplay.from_histories({"plain": HISTORY}, "lr")
    with pytest.raises(NotFittedError):
        TrainingHistoryDisplay.from_estimator(DivideMixClassifier())


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: LossHistogramDisplay.from_estimator(two_networks(), ax=ax),
        lambda ax: TrainingHistoryDisplay.from_estimator(Fitted(history_=HISTORY), ax=ax),
    ],
    ids=["histogram", "history"],
)
def test_displays_draw_where_they_are_told_and_again_elsewhere(draw):
    figure, (left, right) = plt.subplots(1, 2)
    display = draw(left)
    assert display.ax_ is left
    assert display.figure_ is figure
    assert len(left.lines) == len(display.lines_) == 2
    assert not right.lines
    before = [line.get_ydata() for line in display.lines_]
    assert display.plot(ax=right) is display
    for line, y in zip(right.lines, before, strict=True):
        np.testing.assert_array_equal(line.get_ydata(), y)
    display.plot()
    assert display.figure_ is not figure


def test_matplotlib_is_asked_for_when_drawing_and_not_before(monkeypatch):
    code = "import sys, noisyfit.plots; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    display = TrainingHistoryDisplay({"plain": ([1], [0.5])})
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"TrainingHistoryDisplay\.plot requires matplotlib"):
        display.plot()


def test_a_real_dividemix_shows_its_final_division(blobs):
    X, y = blobs
    noisy = sym_excl(y, 0.3, random_state=0)
    clf = DivideMixClassifier(Network(max_epochs=6, batch_size=32), random_state=0)
    clf.fit(X, noisy.y, X_val=X, y_val=y)
    n_right = np.sum(~noisy.changed)
    for net in range(2):
        display = LossHistogramDisplay.from_estimator(clf, wrong=noisy.changed, net=net)
        assert display.counts.sum(1).tolist() == [n_right, 300 - n_right]
        final = [row for row in clf.mixture_history_ if row["net"] == net + 1][-1]
        np.testing.assert_array_equal(display.weights, final["weights"])
        peak_clean, peak_wrong = display.grid[display.expected.argmax(1)]
        assert peak_clean < peak_wrong
    history = TrainingHistoryDisplay.from_estimator(clf)
    assert history.lines_[1].get_ydata().tolist() == [row["valid_acc"] for row in clf.history_]


@pytest.mark.parametrize("cls", [LossHistogramDisplay, TrainingHistoryDisplay])
def test_docstring_names_every_parameter_and_attribute(cls):
    if cls is LossHistogramDisplay:
        display = cls.from_estimator(two_networks())
    else:
        display = cls.from_estimator(Fitted(history_=HISTORY))
    doc = ClassDoc(cls)
    assert [p.name for p in doc["Parameters"]] == list(inspect.signature(cls).parameters)
    attributes = {name.strip() for p in doc["Attributes"] for name in p.name.split(",")}
    assert attributes == {name for name in vars(display) if name.endswith("_")}
    assert doc["Examples"]
