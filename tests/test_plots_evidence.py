"""Displays of memorisation, noise, detection and features: numbers first, then the artists."""

import inspect
import sys
from importlib.util import find_spec
from types import SimpleNamespace

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from numpydoc.docscrape import ClassDoc
from scipy.stats import beta
from sklearn.base import BaseEstimator, clone
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.exceptions import NotFittedError
from skorch.dataset import ValidSplit
from torch import nn
from torch.utils.data import TensorDataset

from noisyfit import CrossEntropyClassifier, DivideMixClassifier, Network
from noisyfit._features import penultimate_features
from noisyfit.metrics import clean_auroc, memorization_rate, repair_rate, transition_error
from noisyfit.noise import sym_excl
from noisyfit.plots import (
    DetectionRocDisplay,
    EmbeddingDisplay,
    LossHistogramDisplay,
    MemorizationDisplay,
    MemorizationRecorder,
    TrainingHistoryDisplay,
    TransitionMatrixDisplay,
)

matplotlib.use("Agg")

needs_callbacks = pytest.mark.skipif(
    find_spec("sklearn.callback") is None, reason="scikit-learn 1.9 has callbacks"
)
TRUE = np.array(["ant", "ant", "bee", "bee", "cow", "cow"])
GIVEN = np.array(["ant", "bee", "bee", "cow", "ant", "cow"])  # rows 1, 3 and 4 are wrong
EPOCHS = [
    ["ant", "ant", "bee", "bee", "cow", "ant"],  # all wrong rows right
    ["ant", "bee", "bee", "ant", "cow", "cow"],  # one memorised, one a third class
    ["ant", "bee", "bee", "cow", "ant", "cow"],  # the given labels
]
MATRIX = np.array([[0.8, 0.2, 0.0], [0.1, 0.6, 0.3], [0.0, 0.5, 0.5]])
TRUTH = np.array([[0.9, 0.1, 0.0], [0.0, 0.7, 0.3], [0.0, 0.5, 0.5]])


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
def noisy(digits):
    """200 digits as rows, their labels and given labels of which 40 % are wrong."""
    X, y = digits[0][:200].reshape(200, -1), digits[1][:200]
    return X, y, sym_excl(y, 0.4, random_state=0).y


@pytest.fixture(scope="module")
def fitted(noisy):
    """Two networks with 16 and then 8 hidden units, three epochs."""
    net = Network(max_epochs=3, module__hidden=(16, 8))
    return DivideMixClassifier(net, random_state=0).fit(noisy[0], noisy[2])


def plain(max_epochs=3, **settings):
    return CrossEntropyClassifier(Network(max_epochs=max_epochs, **settings), random_state=0)


def weights(clf):
    return [value for net in clf.nets_ for value in net.module_.state_dict().values()]


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


# ---- memorisation --------------------------------------------------------------------------------


def test_the_shares_of_every_epoch_are_those_of_a_loop_over_the_rows():
    display = MemorizationDisplay.from_predictions(TRUE, GIVEN, EPOCHS)
    for e, predicted in enumerate(EPOCHS):
        memorised = repaired = kept = 0
        for true, given, p in zip(TRUE, GIVEN, predicted, strict=True):
            memorised += true != given and p == given
            repaired += true != given and p == true
            kept += true == given and p == given
        shares = {key: values[e] for key, (_, values) in display.curves.items()}
        expected = {"memorization_rate": memorised / 3, "repair_rate": repaired / 3}
        assert shares == pytest.approx(expected | {"right_accuracy": kept / 3})
    assert display.curves["memorization_rate"][0] == [1, 2, 3]


def test_probabilities_of_the_epochs_count_by_their_largest():
    of_columns = {"ant": 0, "bee": 1, "cow": 2}
    proba = [np.eye(3)[[of_columns[p] for p in predicted]] for predicted in EPOCHS]
    by_proba = MemorizationDisplay.from_predictions(TRUE, GIVEN, proba)
    by_label = MemorizationDisplay.from_predictions(TRUE, GIVEN, EPOCHS)
    assert by_proba.curves == by_label.curves
    reordered = [p[:, ::-1] for p in proba]
    classes = ["cow", "bee", "ant"]
    reordered = MemorizationDisplay.from_predictions(TRUE, GIVEN, reordered, classes=classes)
    assert reordered.curves == by_label.curves


def test_the_lines_of_memorisation_are_its_curves_in_different_styles():
    display = MemorizationDisplay.from_predictions(TRUE, GIVEN, EPOCHS)
    for line, (epochs, values) in zip(display.lines_, display.curves.values(), strict=True):
        assert line.get_xdata().tolist() == epochs
        assert line.get_ydata().tolist() == values
    assert len({line.get_linestyle() for line in display.lines_}) == 3
    assert len({line.get_color() for line in display.lines_}) == 3
    assert "memorised" in legend(display.ax_)[0]
    display.figure_.draw_without_rendering()
    highest = display.ax_.transData.transform((1, 1))[1]
    assert display.ax_.get_legend().get_window_extent().y0 > highest  # no line runs behind it
    assert display.ax_.get_xlabel() == "Epoch"


def test_clean_labels_leave_one_line_and_one_epoch_a_marker():
    display = MemorizationDisplay.from_predictions(TRUE, TRUE, EPOCHS[:1])
    (line,) = display.lines_
    assert line.get_ydata().tolist() == [pytest.approx(5 / 6)]
    assert line.get_marker() == "o"
    assert legend(display.ax_) == ["Right labels, predicted"]


@needs_callbacks
def test_three_lines_record_a_fit_and_draw_it(noisy):
    X, y, y_noisy = noisy
    recorder = MemorizationRecorder(y)
    clf = plain(20, batch_size=16).set_callbacks(recorder).fit(X, y_noisy)
    display = MemorizationDisplay.from_recorder(recorder)
    assert [row["epoch"] for row in recorder.history_] == list(range(1, 21))
    wrong, predicted = y != y_noisy, clf.predict(X)
    assert recorder.history_[-1] == {
        "epoch": 20,
        "memorization_rate": memorization_rate(predicted, y_noisy, y),
        "repair_rate": repair_rate(y, y_noisy, predicted),
        "right_accuracy": pytest.approx(np.mean(predicted[~wrong] == y[~wrong])),
    }
    memorised = display.lines_[0].get_ydata()
    assert memorised[-1] > memorised[0] + 0.2  # plain training learns wrong labels by heart


@needs_callbacks
@pytest.mark.parametrize("method", [CrossEntropyClassifier, DivideMixClassifier])
def test_a_recorder_leaves_the_fit_as_it_is_to_the_bit(method, noisy):
    X, y, y_noisy = noisy
    clf = method(Network(max_epochs=4, module__dropout=0.3), random_state=0)
    watched = clone(clf).set_callbacks(MemorizationRecorder(y)).fit(X, y_noisy)
    for a, b in zip(weights(clf.fit(X, y_noisy)), weights(watched), strict=True):
        assert torch.equal(a, b)
    np.testing.assert_array_equal(clf.clean_proba_, watched.clean_proba_)


@needs_callbacks
def test_a_data_set_with_random_transforms_goes_on_as_without_a_recorder(noisy):
    class Jittered(TensorDataset):
        def __getitem__(self, i):
            x, label = super().__getitem__(i)
            return x + 0.1 * torch.randn(x.shape), label

    X, y, y_noisy = noisy
    data = Jittered(torch.from_numpy(X).float(), torch.from_numpy(y_noisy))
    recorder = MemorizationRecorder(y)
    watched = plain(2).set_callbacks(recorder).fit(data)
    for a, b in zip(weights(plain(2).fit(data)), weights(watched), strict=True):
        assert torch.equal(a, b)
    assert len(recorder.history_) == 2


@needs_callbacks
def test_a_recorder_keeps_the_last_fit_and_serves_the_display_of_histories(noisy):
    X, y, y_noisy = noisy
    recorder = MemorizationRecorder(y)
    clf = plain(3).set_callbacks(recorder).fit(X, y_noisy)
    clf.set_params(net__max_epochs=2).fit(X, y_noisy)
    display = TrainingHistoryDisplay.from_histories({"plain": recorder}, "memorization_rate")
    assert display.lines_[0].get_xdata().tolist() == [1, 2]


@needs_callbacks
def test_true_labels_that_do_not_fit_the_rows_are_refused_before_training(noisy):
    X, y, y_noisy = noisy
    for bad, message in ((y[:-1], "199 labels for 200"), (y.astype(str), "Mix of label")):
        clf = plain().set_callbacks(MemorizationRecorder(bad))
        with pytest.raises(ValueError, match=message):
            clf.fit(X, y_noisy)
        assert not hasattr(clf, "history_")


def test_what_is_no_record_is_refused():
    with pytest.raises(ValueError, match="recorded nothing"):
        MemorizationDisplay.from_recorder(MemorizationRecorder(TRUE))
    with pytest.raises(TypeError, match="MemorizationRecorder, got"):
        MemorizationDisplay.from_recorder(Fitted(history_=[{"epoch": 1}]))
    with pytest.raises(ValueError, match="at least one epoch"):
        MemorizationDisplay.from_predictions(TRUE, GIVEN, [])
    with pytest.raises(ValueError, match="inconsistent numbers"):
        MemorizationDisplay.from_predictions(TRUE, GIVEN, [TRUE[:3]])


# ---- transition matrix ---------------------------------------------------------------------------


def numbers(texts):
    return [[None if t is None else t.get_text() for t in row] for row in texts]


def test_a_realised_matrix_is_that_of_a_loop_over_the_rows():
    display = TransitionMatrixDisplay.from_labels(TRUE, GIVEN, classes=["cow", "ant", "bee"])
    for r, true in enumerate(["cow", "ant", "bee"]):
        for c, given in enumerate(["cow", "ant", "bee"]):
            pairs = zip(TRUE, GIVEN, strict=True)
            assert display.matrix[r, c] == sum(pair == (true, given) for pair in pairs) / 2
    np.testing.assert_array_equal(display.images_[0].get_array(), display.matrix)
    assert [t.get_text() for t in display.axes_[0].get_yticklabels()] == ["cow", "ant", "bee"]
    assert display.axes_[0].get_xlabel() == "Given label"
    assert display.axes_[0].get_ylabel() == "True label"
    assert display.error is None


def test_every_cell_has_its_number_light_on_dark():
    display = TransitionMatrixDisplay.from_matrix(MATRIX)
    (texts,) = display.texts_
    assert numbers(texts)[1] == ["0.10", "0.60", "0.30"]
    assert [texts[0, k].get_color() for k in range(2)] == ["white", "black"]
    assert texts[1, 2].get_position() == (2, 1)


@pytest.mark.parametrize("n_classes", [2, 20])
def test_numbers_fit_into_their_cells(n_classes):
    uniform = np.full((n_classes, n_classes), 1 / n_classes)
    figure, ax = plt.subplots(figsize=(4, 4))
    for display in (
        TransitionMatrixDisplay.from_matrix(uniform, truth=uniform),
        TransitionMatrixDisplay.from_matrix(uniform, ax=ax),
    ):
        display.figure_.draw_without_rendering()
        for panel, texts in zip(display.axes_, display.texts_, strict=True):
            cell = panel.get_window_extent().width / n_classes
            assert texts[0, 0].get_window_extent().width < 0.95 * cell
    assert figure is display.figure_


def test_more_than_twenty_classes_have_no_numbers_and_not_all_names():
    display = TransitionMatrixDisplay.from_matrix(np.eye(45))
    assert display.texts_ == []
    assert display.axes_[0].get_yticks().tolist() == list(range(0, 45, 3))
    assert display.colorbar_.vmin == 0
    assert display.colorbar_.vmax == 1


def test_the_truth_stands_beside_the_estimate_with_the_error_in_the_title():
    estimator = Fitted(transition_=MATRIX, classes_=np.array(["ant", "bee", "cow"]))
    display = TransitionMatrixDisplay.from_estimator(estimator, truth=TRUTH)
    assert display.error == pytest.approx(transition_error(MATRIX, TRUTH))
    assert display.axes_[0].get_title() == f"Estimated (L1 error {display.error:.3f})"
    for image, values in zip(display.images_, (MATRIX, TRUTH), strict=True):
        np.testing.assert_array_equal(image.get_array(), values)
    counted = TransitionMatrixDisplay.from_estimator(estimator, truth=(TRUE, GIVEN))
    realised = TransitionMatrixDisplay.from_labels(TRUE, GIVEN).matrix
    np.testing.assert_array_equal(counted.truth, realised)


def test_a_class_without_rows_is_grey_and_left_out_of_the_error():
    display = TransitionMatrixDisplay.from_labels([0, 0, 1], [0, 2, 1], truth=TRUTH)
    assert np.isnan(display.matrix[2]).all()
    assert display.images_[0].get_array().mask.tolist() == [[False] * 3] * 2 + [[True] * 3]
    assert numbers(display.texts_[0])[2] == [None] * 3
    differences = np.abs([[0.5 - 0.9, 0 - 0.1, 0.5 - 0], [0, 1 - 0.7, 0 - 0.3]])
    assert display.error == pytest.approx(differences.sum() / 2)


def test_matrices_that_are_none_are_refused():
    from_matrix = TransitionMatrixDisplay.from_matrix
    for bad in (MATRIX[:2], 100 * MATRIX, MATRIX - 1, np.where(np.eye(3) > 0, np.nan, MATRIX)):
        with pytest.raises(ValueError, match="matrix must be square"):
            from_matrix(bad)
    with pytest.raises(ValueError, match="truth must be square"):
        from_matrix(MATRIX, truth=2 * TRUTH)
    with pytest.raises(ValueError, match="shape"):
        from_matrix(MATRIX, truth=np.eye(2))
    with pytest.raises(ValueError, match="2 classes for a matrix"):
        from_matrix(MATRIX, classes=["a", "b"])
    with pytest.raises(ValueError, match="no column stands for"):
        TransitionMatrixDisplay.from_labels(TRUE, GIVEN, classes=["ant", "bee"])
    with pytest.raises(ValueError, match="2 Axes here"):
        from_matrix(MATRIX, truth=TRUTH, ax=plt.subplots()[1])
    with pytest.raises(ValueError, match="Fitted has no transition_"):
        TransitionMatrixDisplay.from_estimator(Fitted(classes_=np.arange(3)))
    with pytest.raises(NotFittedError):
        TransitionMatrixDisplay.from_estimator(plain())


# ---- detection -----------------------------------------------------------------------------------

WRONG = np.array([False, False, False, True, True, False])
CLEAN = np.array([0.9, 0.8, 0.3, 0.3, 0.1, 0.7])


def test_every_point_of_the_roc_curve_is_the_share_below_some_threshold():
    display = DetectionRocDisplay.from_predictions(WRONG, CLEAN)
    (false_rates, found_rates) = display.curves["Clean probability"]
    points = {(0.0, 0.0)}
    for threshold in CLEAN:
        doubted = threshold >= CLEAN
        points.add((np.mean(doubted[~WRONG]), np.mean(doubted[WRONG])))
    assert set(zip(false_rates, found_rates, strict=True)) <= points
    assert display.auroc["Clean probability"] == pytest.approx(clean_auroc(WRONG, CLEAN))
    np.testing.assert_array_equal(display.lines_[0].get_data(), (false_rates, found_rates))


def test_several_methods_share_one_axis_with_their_areas_in_the_legend():
    clean = {"good": CLEAN, "coin": np.full(6, 0.5)}
    estimators = {name: Fitted(clean_proba_=p) for name, p in clean.items()}
    display = DetectionRocDisplay.from_estimator(estimators, (TRUE, GIVEN))
    areas = [clean_auroc((TRUE, GIVEN), p) for p in clean.values()]
    assert list(display.auroc.values()) == pytest.approx(areas)
    assert legend(display.ax_) == [f"good (AUROC {areas[0]:.3f})", "coin (AUROC 0.500)"]
    assert len(display.lines_) == 2


def test_a_second_display_in_the_same_axes_takes_the_next_colour_and_one_diagonal():
    first = DetectionRocDisplay.from_estimator(Fitted(clean_proba_=CLEAN), WRONG)
    second = DetectionRocDisplay.from_predictions(WRONG, 1 - CLEAN, name="turned", ax=first.ax_)
    colours = {to_hex(display.lines_[0].get_color()) for display in (first, second)}
    assert len(colours) == 2
    assert len(first.ax_.lines) == 3
    assert [text.split(" ")[0] for text in legend(first.ax_)] == ["Fitted", "turned"]


def test_labels_without_a_roc_curve_are_refused():
    for wrong in (np.zeros(6, bool), np.ones(6, bool)):
        with pytest.raises(ValueError, match="both right and wrong"):
            DetectionRocDisplay.from_predictions(wrong, CLEAN)
    with pytest.raises(ValueError, match="boolean mask"):
        DetectionRocDisplay.from_predictions(np.zeros(6), CLEAN)
    with pytest.raises(ValueError, match="5 entries for 6 labels"):
        DetectionRocDisplay.from_predictions(WRONG, CLEAN[:5])
    with pytest.raises(ValueError, match="no clean_proba_"):
        DetectionRocDisplay.from_estimator(Fitted(losses_=CLEAN), WRONG)
    with pytest.raises(NotFittedError):
        DetectionRocDisplay.from_estimator({"plain": plain()}, WRONG)


# ---- features ------------------------------------------------------------------------------------


class HeadFirst(nn.Module):
    """The last layer is registered first."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.head = nn.Linear(5, n_classes)
        self.body = nn.Linear(n_features, 5)

    def forward(self, x):
        return self.head(self.body(x).relu())


class NoLinear(nn.Module):
    def __init__(self, n_features, n_classes):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n_features, n_classes))

    def forward(self, x):
        return x @ self.weight


class PerColumn(nn.Module):
    """Its linear layer sees every column of every row."""

    def __init__(self, n_features, n_classes):
        super().__init__()
        self.linear = nn.Linear(1, n_classes)

    def forward(self, x):
        return self.linear(x.reshape(-1, 1)).unflatten(0, x.shape).mean(1)


@pytest.mark.parametrize("net", [0, 1])
def test_the_last_layer_turns_the_features_into_the_prediction(net, fitted, noisy):
    X = noisy[0]
    features = penultimate_features(fitted, X, net)
    assert features.shape == (200, 8)
    assert features.dtype == np.float32
    logits = fitted.nets_[net].module_.classifier(torch.from_numpy(features))
    alone = clone(fitted).set_params(ensemble=("first", "second")[net])
    vars(alone).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    proba = logits.detach().softmax(1).numpy()
    np.testing.assert_allclose(proba, alone.predict_proba(X), rtol=1e-4, atol=1e-6)


def test_no_hook_remains_and_no_weight_changes(fitted, noisy):
    module = fitted.nets_[0].module_
    before = [value.clone() for value in weights(fitted)]
    penultimate_features(fitted, noisy[0])
    with pytest.raises(ValueError, match="features"):
        penultimate_features(fitted, noisy[0][:, :5])
    for layer in module.modules():
        assert not layer._forward_pre_hooks
        assert not layer._forward_hooks
        assert not layer.training
    assert all(torch.equal(a, b) for a, b in zip(before, weights(fitted), strict=True))


def test_hooks_are_removed_when_the_network_fails(fitted, noisy, monkeypatch):
    module = fitted.nets_[0].module_
    monkeypatch.setattr(module, "features", lambda x: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        penultimate_features(fitted, noisy[0])
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in module.modules())


def test_features_come_in_the_order_of_the_rows_through_many_batches(fitted, noisy):
    X = noisy[0]
    many = np.tile(X, (15, 1))  # 3000 rows, more than a batch
    once = penultimate_features(fitted, X)
    np.testing.assert_allclose(penultimate_features(fitted, many), np.tile(once, (15, 1)), 1e-4)
    streamed = TensorDataset(torch.from_numpy(X).float())
    np.testing.assert_allclose(penultimate_features(fitted, streamed), once, 1e-4, 1e-6)


def test_features_of_images_are_the_128_of_the_small_network(digits):
    images = digits[0][:60]
    clf = plain(1).fit(images, digits[1][:60])
    assert penultimate_features(clf, images).shape == (60, 128)


def test_the_last_layer_is_the_one_called_last(blobs):
    clf = plain(1, module=HeadFirst).fit(*blobs)
    assert penultimate_features(clf, blobs[0]).shape == (300, 5)


def test_a_compiled_module_is_heard_too(blobs):
    clf = plain(1).fit(*blobs)
    expected = penultimate_features(clf, blobs[0])
    clf.nets_[0].module_.compile()
    np.testing.assert_array_equal(penultimate_features(clf, blobs[0]), expected)


def test_networks_without_penultimate_features_are_refused(blobs, fitted):
    with pytest.raises(ValueError, match=r"NoLinear has no torch\.nn\.Linear"):
        penultimate_features(plain(1, module=NoLinear).fit(*blobs), blobs[0])
    with pytest.raises(ValueError, match="1200 entries for 300 rows"):
        penultimate_features(plain(1, module=PerColumn).fit(*blobs), blobs[0])
    with pytest.raises(ValueError, match="net == 2"):
        penultimate_features(fitted, blobs[0], net=2)
    with pytest.raises(NotFittedError):
        penultimate_features(plain(), blobs[0])


# ---- embedding -----------------------------------------------------------------------------------


def test_pca_is_that_of_the_features(fitted, noisy):
    X, y, _ = noisy
    display = EmbeddingDisplay.from_estimator(fitted, X, y, method="pca", net=1, random_state=0)
    expected = PCA(2, random_state=0).fit_transform(penultimate_features(fitted, X, 1))
    np.testing.assert_allclose(np.abs(display.embedding), np.abs(expected), rtol=1e-3, atol=1e-4)
    assert display.ax_.get_xlabel() == "PCA 1"
    assert display.ax_.get_ylabel() == "PCA 2"
    assert len(display.ax_.get_xticks()) == 0


def test_points_are_grouped_by_class_and_wrong_labels_ringed(fitted, noisy):
    X, y, y_noisy = noisy
    display = EmbeddingDisplay.from_estimator(fitted, X, y, (y, y_noisy), method="pca")
    for k, points in enumerate(display.points_):
        np.testing.assert_array_equal(points.get_offsets(), display.embedding[y == k])
    np.testing.assert_array_equal(display.rings_.get_offsets(), display.embedding[y != y_noisy])
    names = [*map(str, range(10)), f"Wrong label ({np.sum(y != y_noisy)})"]
    assert legend(display.ax_) == names
    looks = {
        (to_hex(p.get_facecolor()[0]), p.get_paths()[0].vertices.tobytes()) for p in display.points_
    }
    assert len(looks) == 10


def test_without_labels_the_predicted_ones_give_the_colours(fitted, noisy):
    display = EmbeddingDisplay.from_estimator(fitted, noisy[0], method="pca")
    np.testing.assert_array_equal(display.labels, fitted.predict(noisy[0]))
    assert display.ax_.get_legend().get_title().get_text() == "Predicted class"
    assert display.rings_ is None


def test_many_classes_have_their_names_in_the_map():
    embedding, labels = np.arange(60.0).reshape(30, 2), np.arange(30)
    display = EmbeddingDisplay(embedding, labels).plot()
    assert [text.get_text() for text in display.names_] == [str(k) for k in range(30)]
    assert display.names_[7].get_position() == (14, 15)
    assert display.ax_.get_legend() is None
    wrong = EmbeddingDisplay(embedding, labels, wrong=labels < 4).plot()
    assert legend(wrong.ax_) == ["Wrong label (4)"]


def test_tsne_repeats_itself_with_a_seed_and_leaves_the_global_generator(fitted, noisy):
    X = noisy[0][:40]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two, other = (
        EmbeddingDisplay.from_estimator(fitted, X, random_state=seed).embedding
        for seed in (0, 0, None)
    )
    np.testing.assert_array_equal(one, two)
    assert one.shape == other.shape == (40, 2)
    np.testing.assert_array_equal(state, np.random.get_state()[1])  # noqa: NPY002


def test_few_rows_are_embedded(fitted, noisy):
    display = EmbeddingDisplay.from_estimator(fitted, noisy[0][:3], random_state=0)
    assert np.isfinite(display.embedding).all()


def test_of_too_many_rows_some_are_chosen_with_their_labels(fitted, noisy):
    X, y, y_noisy = noisy
    display = EmbeddingDisplay.from_estimator(
        fitted, X, np.arange(200), y != y_noisy, method="pca", max_points=50, random_state=0
    )
    assert len(display.embedding) == len(set(display.labels)) == 50
    np.testing.assert_array_equal(display.wrong, (y != y_noisy)[display.labels])


def test_umap_is_asked_for_by_name_and_gets_the_seed(fitted, noisy, monkeypatch):
    class UMAP:
        def __init__(self, **settings):
            seen.update(settings)

        def fit_transform(self, features):
            return features[:, :2]

    seen = {}
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    X = noisy[0][:10]
    display = EmbeddingDisplay.from_estimator(fitted, X, method="umap", random_state=0)
    np.testing.assert_array_equal(display.embedding, penultimate_features(fitted, X)[:, :2])
    assert isinstance(seen["random_state"], int)
    assert seen["n_neighbors"] == 9
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(ImportError, match="umap-learn"):
        EmbeddingDisplay.from_estimator(fitted, X, method="umap")


def test_another_transformer_is_cloned_and_used(fitted, noisy):
    transformer = PCA(3)
    display = EmbeddingDisplay.from_estimator(fitted, noisy[0], method=transformer)
    assert display.embedding.shape == (200, 2)
    assert display.method_name == "PCA"
    assert not hasattr(transformer, "components_")


def test_bad_input_of_the_embedding_is_refused(fitted, noisy):
    X, y, _ = noisy
    draw = EmbeddingDisplay.from_estimator
    with pytest.raises(ValueError, match="method must be one of"):
        draw(fitted, X, y, method="t-sne")
    with pytest.raises(TypeError, match="fit_transform"):
        draw(fitted, X, y, method=None)
    with pytest.raises(ValueError, match="inconsistent numbers"):
        draw(fitted, X, y[:-1], method="pca")
    with pytest.raises(ValueError, match="boolean mask"):
        draw(fitted, X, y, y, method="pca")
    with pytest.raises(ValueError, match="1 feature"):
        draw(fitted, X, y, method=PCA(1))
    with pytest.raises(ValueError, match="max_points == 2"):
        draw(fitted, X, y, max_points=2)


# ---- losses of one network -----------------------------------------------------------------------


def test_one_row_of_losses_is_drawn_with_its_last_betas():
    losses = np.random.default_rng(0).random((1, 200))
    older = {"epoch": 1, "net": 1, "kind": "beta", "alphas": [1.0, 1.0], "betas": [1.0, 1.0]}
    older |= {"weights": [0.5, 0.5]}
    last = older | {"epoch": 2, "alphas": [2.0, 8.0], "betas": [9.0, 3.0], "weights": [0.6, 0.4]}
    for history in ([older, last], [{k: v for k, v in last.items() if k != "net"}]):
        estimator = Fitted(losses_=losses, mixture_history_=history)
        display = LossHistogramDisplay.from_estimator(estimator, bins=10)
        assert display.counts.sum() == 200
        low, high = display.grid[[0, 0]] + np.array([-0.5, 0.5]) * np.diff(display.edges)[0]
        for k, line in enumerate(display.lines_):
            share = np.diff(beta.cdf([low, high], last["alphas"][k], last["betas"][k])).item()
            assert line.get_ydata()[0] == pytest.approx(200 * last["weights"][k] * share)
        with pytest.raises(ValueError, match="net == 1"):
            LossHistogramDisplay.from_estimator(estimator, net=1)


# ---- all of them ---------------------------------------------------------------------------------

DRAW = {
    MemorizationDisplay: lambda ax=None: MemorizationDisplay.from_predictions(
        TRUE, GIVEN, EPOCHS, ax=ax
    ),
    TransitionMatrixDisplay: lambda ax=None: TransitionMatrixDisplay.from_matrix(MATRIX, ax=ax),
    DetectionRocDisplay: lambda ax=None: DetectionRocDisplay.from_predictions(WRONG, CLEAN, ax=ax),
    EmbeddingDisplay: lambda ax=None: EmbeddingDisplay(np.eye(6)[:, :2], TRUE, wrong=WRONG).plot(
        ax=ax
    ),
}
every_display = pytest.mark.parametrize("cls", DRAW)


def n_artists(ax):
    return len(ax.lines) + len(ax.images) + len(ax.collections)


@every_display
def test_displays_draw_where_they_are_told_and_again_elsewhere(cls):
    figure, (left, right) = plt.subplots(1, 2)
    display = DRAW[cls](left)
    assert display.figure_ is figure
    assert n_artists(left) > 0
    assert n_artists(right) == 0
    assert display.plot(ax=right) is display
    assert n_artists(right) == n_artists(left)
    display.plot()
    assert display.figure_ is not figure


@every_display
def test_matplotlib_is_asked_for_when_drawing(cls, monkeypatch):
    display = DRAW[cls]()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=rf"{cls.__name__}\.plot requires matplotlib"):
        display.plot()


@every_display
def test_docstring_names_every_parameter_and_attribute(cls):
    display = DRAW[cls]()
    doc = ClassDoc(cls)
    parameters = list(inspect.signature(cls).parameters)
    assert [p.name for p in doc["Parameters"]] == parameters
    attributes = {name.strip() for p in doc["Attributes"] for name in p.name.split(",")}
    assert attributes == {name for name in vars(display) if name not in parameters}


def test_loss_histogram_of_a_fit_with_rows_held_out_takes_the_mask_of_all():
    x, y = make_blobs(200, centers=3, random_state=0)
    wrong = np.arange(200) % 5 == 0
    net = Network(max_epochs=6, train_split=ValidSplit(4, stratified=True))
    clf = DivideMixClassifier(net, random_state=0).fit(x, np.where(wrong, (y + 1) % 3, y))
    display = LossHistogramDisplay.from_estimator(clf, wrong=wrong)
    trained = clf.dynamics_["n_seen"] > 0
    assert display.counts.sum(1).tolist() == [(~wrong[trained]).sum(), wrong[trained].sum()]
    plt.close("all")


def test_detection_roc_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no curve to draw"):
        DetectionRocDisplay.from_predictions(np.arange(4) % 2 == 0, {})
