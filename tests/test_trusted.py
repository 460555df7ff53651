"""Rows known to be right: alone, sliced by cross-validation, routed through a pipeline."""

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.datasets import make_blobs
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.dataset import ValidSplit
from torch.utils.data import TensorDataset

from noisyfit import CrossEntropyClassifier, Network
from noisyfit._trusted import TrustedMixin, trusted_mask
from noisyfit.noise import sym_incl

X, Y = make_blobs(120, n_features=3, centers=3, random_state=0)
NAMES = np.array(["ash", "elm", "oak"])
Y_NOISY = NAMES[sym_incl(Y, 0.5, random_state=0).y]
MASK = (NAMES[Y] == Y_NOISY) & (np.arange(120) % 2 == 0)


class Listening(TrustedMixin, CrossEntropyClassifier):
    """Notes what reached the training."""

    seen = []

    def _begin(self, run):
        super()._begin(run)
        mask = run.data.rows.get("trusted")
        self.seen.append(None if mask is None else (mask.clone(), run.data.y.clone()))


class Needy(Listening):
    needs_trusted = True


@pytest.fixture(autouse=True)
def empty():
    Listening.seen.clear()


def small(method=Listening, **net):
    return method(Network(max_epochs=2, batch_size=32, **net), random_state=0)


def test_the_mask_reaches_training_and_evidence():
    clf = small().fit(X, Y_NOISY, trusted=MASK)
    mask, y = Listening.seen[0]
    assert mask.tolist() == MASK.tolist()
    assert (NAMES[y] == Y_NOISY).all()
    assert (clf.clean_proba_[MASK] == 1).all()
    assert (clf.refined_labels_[MASK] == Y_NOISY[MASK]).all()
    assert (clf.refined_proba_[MASK].max(1) == 1).all()
    np.testing.assert_array_equal(clf.refined_labels_, clf.classes_[clf.refined_proba_.argmax(1)])
    assert clf.noise_rate_ == pytest.approx(1 - clf.clean_proba_.mean())
    small().fit(X, Y_NOISY)
    assert Listening.seen[1] is None


def test_kinds_of_masks():
    column = pd.DataFrame({"checked": MASK})["checked"]
    read_only = MASK.copy()
    read_only.flags.writeable = False
    for mask in (MASK.tolist(), torch.from_numpy(MASK), column, read_only):
        assert trusted_mask(mask, Y).flags.writeable  # torch warns of others, once in a process
        small().fit(X, Y_NOISY, trusted=mask)
    assert all(torch.equal(Listening.seen[0][0], seen) for seen, _ in Listening.seen)


def test_rows_held_out_and_streams():
    clf = small(train_split=ValidSplit(4, stratified=True)).fit(X, Y_NOISY, trusted=MASK)
    assert len(Listening.seen[0][0]) == 90
    assert (clf.clean_proba_[MASK] == 1).all()
    stream = TensorDataset(torch.from_numpy(X).float())
    clf = small(train_split=ValidSplit(4, stratified=True)).fit(stream, Y_NOISY, trusted=MASK)
    assert Listening.seen[1][0].sum() == Listening.seen[0][0].sum()
    assert (clf.clean_proba_[MASK] == 1).all()


def mask_of(rows):
    mask = np.zeros(120, dtype=bool)
    mask[rows] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (MASK[:-1], ValueError, "inconsistent numbers of samples"),
        (MASK[:, None] & MASK, ValueError, "1d"),
        (MASK.astype(int), TypeError, "boolean"),
        (mask_of([]), ValueError, "none of \\['ash', 'elm', 'oak'\\]"),
        (mask_of(np.flatnonzero(Y_NOISY != "elm")), ValueError, "none of \\['elm'\\]"),
    ],
)
def test_bad_masks_are_refused_before_training(mask, error, message):
    with pytest.raises(error, match=message):
        small().fit(X, Y_NOISY, trusted=mask)
    assert not Listening.seen


def test_methods_that_need_trusted_rows_say_so():
    with pytest.raises(ValueError, match="trusted=mask"):
        small(Needy).fit(X, Y_NOISY)
    small(Needy).fit(X, Y_NOISY, trusted=MASK)


def test_a_mask_without_a_row_is_as_none_where_no_row_is_needed():
    class Modest(Listening):
        needs_every_class = False

    class NeedsAny(Modest):
        needs_trusted = True

    small(Modest).fit(X, Y_NOISY, trusted=mask_of([]))
    assert Listening.seen == [None]
    with pytest.raises(ValueError, match="trusted=mask"):
        small(NeedsAny).fit(X, Y_NOISY, trusted=mask_of([]))
    with pytest.raises(TypeError, match="boolean"):
        small(Modest).fit(X, Y_NOISY, trusted=mask_of([]).astype(int))


def check_slices(n_fits):
    """Every mask that was seen belongs to the labels beside it."""
    assert len(Listening.seen) == n_fits
    right = {tuple(row) for row in X[MASK]}
    assert right
    for mask, y in Listening.seen:
        assert len(mask) == len(y)
        assert mask.sum() in range(int(MASK.sum()) // 2, int(MASK.sum()) + 1)
        assert (np.bincount(y[mask], minlength=3) > 0).all()


def test_cross_validation_slices_the_mask():
    folds = StratifiedKFold(3)
    cross_validate(small(), X, Y_NOISY, cv=folds, params={"trusted": MASK}, error_score="raise")
    check_slices(3)
    for (mask, _), (train, _) in zip(Listening.seen, folds.split(X, Y_NOISY), strict=True):
        assert mask.tolist() == MASK[train].tolist()


def test_grid_search_slices_the_mask_without_routing():
    grid = GridSearchCV(small(), {"net__lr": [0.01, 0.1]}, cv=3, error_score="raise")
    grid.fit(X, Y_NOISY, trusted=MASK)
    check_slices(7)


def test_metadata_routing_through_a_pipeline_and_a_grid_search():
    with sklearn.config_context(enable_metadata_routing=True):
        clf = small(Needy).set_fit_request(trusted=True)
        pipe = make_pipeline(StandardScaler(), clf)
        pipe.fit(X, Y_NOISY, trusted=MASK)
        assert Listening.seen[0][0].tolist() == MASK.tolist()
        grid = GridSearchCV(pipe, {"needy__net__lr": [0.01, 0.1]}, cv=3, error_score="raise")
        grid.fit(X, Y_NOISY, trusted=MASK)
        check_slices(8)
        assert (grid.best_estimator_[-1].clean_proba_[MASK] == 1).all()
