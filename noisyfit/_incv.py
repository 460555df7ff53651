"""Iterative noisy cross-validation: rows whose label is predicted by a model that lacked them."""

import math
import warnings
from itertools import repeat

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from noisyfit._agreement import (
    accepted_precision,
    is_chance,
    least_agreement,
    rate_from_agreement,
    right_given,
)
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, is_auto, is_one_of
from noisyfit._evidence import EvidenceMixin
from noisyfit._inputs import validate_y
from noisyfit._network import Network
from noisyfit._out_of_fold import out_of_fold_proba, short_training, stratified_folds
from noisyfit._random import draw_seed, spawn_seeds
from noisyfit.methods.cross_entropy import CrossEntropyClassifier

CANDIDATE, SELECTED, DISCARDED = range(3)
_FLOOR = 0.01  # share of a class that is selected where nothing of it was accepted
_NO_TABLE = (1, 1, 1)  # shape of a row
_TIES = 1e-3  # weight of what orders equal posteriors


def among_top(proba, codes, n_top):
    """Whether each label is among the `n_top` most probable classes, bool (n,)."""
    of_label = np.take_along_axis(proba, codes[:, None], axis=1)
    earlier = np.arange(proba.shape[1]) < codes[:, None]  # goes first among equals, as in arg max
    return ((proba > of_label) | (earlier & (proba == of_label))).sum(1) < n_top


def number_to_discard(n_accepted, rate):
    """``int(r n)`` with ``r = min(2, eps / (1 - eps))``."""
    return int(min(2.0, rate / (1 - rate)) * n_accepted)


def lowest(scores, n):
    """Positions of the `n` lowest scores, none for 0; ties go to the earlier row."""
    return np.argsort(scores, kind="stable")[:n]


def record(iteration, agreement, status):
    """Row of ``history_``."""
    counts = np.bincount(status, minlength=3).tolist()
    names = ("candidates", "selected", "discarded")
    return {"iteration": iteration + 1, "agreement": agreement} | dict(
        zip(names, counts, strict=True)
    )


class INCVCleaner(BaseEstimator):
    """Divide labelled rows by whether a model that has not seen them predicts their label.

    The rows are split into halves, and a model trained on either half predicts the other. A row
    whose label is predicted is selected; of the others the worst are discarded and the rest stay
    candidates. Then the candidates are split again, and the selected rows help to train, so that
    each iteration starts from better labels. It works with any classifier that has
    ``predict_proba``.

    Parameters
    ----------
    base_estimator : classifier, optional
        Trained on the given labels; every clone gets seeds of its own. By default a
        `CrossEntropyClassifier` with a short training: at least 13 epochs, as many as 100 steps
        need, and more on tables with few columns.
    n_iter : int, default=4
        Iterations (N). Fewer are made if less than two candidates per class are left.
    cv : int, default=2
        Parts in an iteration, each tested by a model that is trained on the others.
    noise_type : {"symmetric", "pair"}, default="symmetric"
        Whether the wrong labels of a class spread over all others or mostly go to one. It
        enters the estimate of the noise rate.
    discard : "auto" or bool, default="auto"
        Set the least probable rows of each part aside, for every accepted one eps / (1 - eps) of
        them, two at most (eps is the noise rate). ``"auto"`` does so for symmetric noise.
    reexamine_selected : bool, default=False
        Test the selected rows again in every iteration too; they then train on the parts they are
        not tested in.
    n_top : int, default=1
        Accept a label that is among so many most probable classes, for data with many classes.
    keep_best : bool, default=False
        Take the epoch that predicts most labels of the tested part, as published: in every
        iteration up to an estimated noise rate of 0.3, in the first two up to 0.6, and in the
        first one above that and for pair noise. Needs a method of this library as base estimator.
    shared_init : bool, default=False
        Give the same seeds to all models, as published, where all start from the same weights.
    n_jobs : int, optional
        Models trained in parallel, at most `cv`.
    random_state : int, RandomState instance or None, default=None
        Seed of the splits and the models.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Labels in sorted order.
    selected_, candidate_, discarded_ : bool ndarrays of shape (n_samples,)
        A row is in exactly one of them.
    noise_rate_ : float
        Share of wrong labels, estimated from the agreement in the first iteration (eps).
    expected_precision_ : float
        Share of right labels to be expected among the accepted ones at that rate.
    out_of_fold_proba_ : ndarray of shape (n_samples, n_classes)
        Prediction for each row in the last iteration that tested it.
    clean_proba_ : ndarray of shape (n_samples,)
        How likely each given label is right, by that prediction and the estimated rate.
    refined_labels_ : ndarray of shape (n_samples,)
        The given label of selected rows, the predicted one elsewhere.
    refined_proba_ : ndarray of shape (n_samples, n_classes)
        The same as distributions; rows sum to 1.
    history_ : list of dict
        One row per iteration: ``agreement``, the share of the tested labels that were predicted,
        and the counts ``selected``, ``candidates`` and ``discarded``.
    n_features_in_ : int
        Columns, if ``X`` is a table.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` is a data frame.

    Warns
    -----
    UserWarning
        If fewer labels are predicted than noise of any rate explains, and if none of a class were.

    Notes
    -----
    The rate is estimated from all parts of the first iteration (the authors' code: the first
    half), with the formula of `noise_type` (the code: always the symmetric one), and by the closed
    form, which is at most (K - 1) / K. Parts are stratified by the given labels, and seeds differ.
    A class of which no label was accepted keeps the hundredth with the highest probability.

    The out-of-fold probability of a label is that of *meeting* it under the noise, near 1 - eps
    for a right one. ``clean_proba_`` is solved from it by Bayes' rule, which says 0 or 1 of many
    labels; so the probability itself enters with a weight of 0.001 and keeps its order. On digits
    with 40 % wrong labels the F1 of the labels doubted at 0.5 rises from .78 to .93.

    The formula of the rate supposes models that repeat the noise. Briefly trained ones do better
    and agree more often, so that ``noise_rate_`` is too low: .14, .27 and .47 for .2, .4 and .6 on
    digits. ``1 - clean_proba_.mean()`` is closer: .19, .38 and .57.

    References
    ----------
    Chen, Liao, Chen, Zhang, "Understanding and Utilizing Deep Neural Networks Trained with Noisy
    Labels", ICML 2019.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from noisyfit import INCVCleaner
    >>> from noisyfit.noise import sym_excl
    >>> X, y = load_iris(return_X_y=True)
    >>> noisy = sym_excl(y, 0.2, random_state=0)
    >>> model = LogisticRegression(max_iter=1000)
    >>> cleaner = INCVCleaner(model, random_state=0).fit(X, noisy.y)
    >>> bool(noisy.changed[cleaner.selected_].mean() < 0.1)
    True
    >>> _ = model.fit(X[cleaner.get_support()], noisy.y[cleaner.get_support()])
    """

    label_issues = EvidenceMixin.label_issues

    def __init__(
        self,
        base_estimator=None,
        *,
        n_iter=4,
        cv=2,
        noise_type="symmetric",
        discard="auto",
        reexamine_selected=False,
        n_top=1,
        keep_best=False,
        shared_init=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
    ):
        self.base_estimator = base_estimator
        self.n_iter = n_iter
        self.cv = cv
        self.noise_type = noise_type
        self.discard = discard
        self.reexamine_selected = reexamine_selected
        self.n_top = n_top
        self.keep_best = keep_best
        self.shared_init = shared_init
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Divide the rows.

        Parameters
        ----------
        X : array-like, sparse matrix, data frame, list or torch Dataset
            Whatever the base estimator is fitted on.
        y : array-like of shape (n_samples,), optional
            Given labels of any kind that scikit-learn takes. None reads them from a `Dataset`.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            For parameters or labels that cannot be used, and what the base estimator raises.
        """
        self._divide(X, y)
        agreement, n_classes = self.history_[0]["agreement"], len(self.classes_)
        message = None
        if is_chance(agreement, len(self.selected_), n_classes, self.noise_type):
            message = (
                f"The base estimator of INCVCleaner predicts {agreement:.0%} of the labels that it "
                f"has not seen, where {self.noise_type} noise alone leaves "
                f"{least_agreement(n_classes, self.noise_type):.0%} at least: it is too weak, or "
                "the labels have nothing to do with X."
            )
        elif self._rescued:
            message = (
                f"No label of the classes {self.classes_[self._rescued].tolist()} was predicted by "
                "a model that had not seen it; INCVCleaner selects the most probable ones."
            )
        if message is not None:
            warnings.warn(message, UserWarning, stacklevel=2)
        return self

    def get_support(self, indices=False):
        """Which rows were selected.

        Parameters
        ----------
        indices : bool, default=False
            Return positions instead of a mask.

        Returns
        -------
        ndarray
            Bool mask of shape (n_samples,), or int64 positions.
        """
        check_is_fitted(self)
        return np.flatnonzero(self.selected_) if indices else self.selected_

    def _divide(self, X, y):
        """Fit without warnings."""
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)
        self._check_parameters()
        (X,) = indexable(X)
        codes, self.classes_ = validate_y(self, X, y)
        n, n_classes = len(codes), len(self.classes_)
        if n < 2:
            raise ValueError(f"INCVCleaner needs at least two rows, got n_samples={n}.")
        self._note_columns(X)
        first, *seeds = spawn_seeds(draw_seed(self.random_state), 1 + self.n_iter * self.cv)
        seeds = repeat(first) if self.shared_init else iter(seeds)
        rng = np.random.default_rng(first)
        status, proba = np.full(n, CANDIDATE), np.zeros((n, n_classes), np.float32)
        self.history_ = []
        for iteration in tqdm(range(self.n_iter), type(self).__name__, disable=not self.verbose):
            usable = status != DISCARDED
            rows = np.flatnonzero(usable if self.reexamine_selected else status == CANDIDATE)
            if iteration and len(rows) < 2 * n_classes:
                break
            fold = stratified_folds(codes[rows], self.cv, rng)
            parts = [part for k in range(self.cv) if len(part := rows[fold == k])]
            for part, p in zip(parts, self._test(X, codes, parts, usable, seeds), strict=True):
                proba[part] = p
            agreement = float(among_top(proba[rows], codes[rows], 1).mean())
            if iteration == 0:
                self.noise_rate_ = rate_from_agreement(agreement, n_classes, self.noise_type)
            for part in parts:
                status[part] = self._judge(proba[part], codes[part])
            self.history_.append(record(iteration, agreement, status))
        of_label = proba[np.arange(n), codes]
        self._rescue(status, codes, of_label)
        self._conclude(status, codes, proba, of_label)

    def _test(self, X, codes, parts, usable, seeds):
        """Predictions for each of `parts` by a model trained on the other `usable` rows."""
        estimator = self.base_estimator
        if estimator is None:
            estimator = self._default_estimator(len(codes))
        labels, keep_best = self.classes_[codes], self._keeps_best()
        jobs = []
        for part in parts:
            train = usable.copy()
            train[part] = False
            train = np.flatnonzero(train)
            job = estimator, X, labels, train, part, self.classes_, next(seeds), keep_best
            jobs.append(delayed(out_of_fold_proba)(*job))
        return Parallel(n_jobs=self.n_jobs)(jobs)

    def _default_estimator(self, n):
        net = Network()
        shape = (self.n_features_in_,) if hasattr(self, "n_features_in_") else _NO_TABLE
        epochs = short_training(net.max_epochs, n, net.batch_size, shape)
        return CrossEntropyClassifier(net.set_params(max_epochs=epochs))

    def _keeps_best(self):
        iteration = len(self.history_)
        if not self.keep_best or iteration == 0:
            return self.keep_best
        if self.noise_type == "pair" or self.noise_rate_ > 0.6:
            return False
        return iteration == 1 or self.noise_rate_ <= 0.3

    def _judge(self, proba, codes):
        """Status of the rows of one part."""
        accepted = among_top(proba, codes, self.n_top)
        status = np.where(accepted, SELECTED, CANDIDATE)
        if self.noise_type == "symmetric" if is_auto(self.discard) else self.discard:
            of_label = proba[np.arange(len(codes)), codes]
            bad = lowest(of_label, number_to_discard(accepted.sum(), self.noise_rate_))
            status[bad[~accepted[bad]]] = DISCARDED
        return status

    def _rescue(self, status, codes, of_label):
        """Select the most probable rows of every class of which none was accepted."""
        self._rescued = []
        for code in range(len(self.classes_)):
            rows = np.flatnonzero(codes == code)
            if not (status[rows] == SELECTED).any():
                best = lowest(-of_label[rows], math.ceil(_FLOOR * len(rows)))
                status[rows[best]] = SELECTED
                self._rescued.append(code)

    def _conclude(self, status, codes, proba, of_label):
        self.selected_ = status == SELECTED
        self.candidate_ = status == CANDIDATE
        self.discarded_ = status == DISCARDED
        self.out_of_fold_proba_ = proba
        noise = self.noise_rate_, len(self.classes_), self.noise_type
        self.expected_precision_ = accepted_precision(*noise)
        met = of_label.astype(float)
        self.clean_proba_ = (1 - _TIES) * right_given(met, *noise) + _TIES * met
        given = np.eye(len(self.classes_), dtype=np.float32)[codes]
        self.refined_proba_ = np.where(self.selected_[:, None], given, proba)
        self.refined_labels_ = self.classes_[self.refined_proba_.argmax(1)]

    def _note_columns(self, X):
        if not isinstance(X, Dataset) and getattr(X, "ndim", 2) == 2:
            validate_data(self, X, skip_check_array=True)

    def _check_parameters(self):
        base = self.base_estimator
        if isinstance(base, type) or not (base is None or hasattr(base, "predict_proba")):
            raise TypeError(
                f"base_estimator must be a classifier with predict_proba, got {base!r}."
            )
        for name, least in (("n_iter", 1), ("cv", 2), ("n_top", 1)):
            check_integer(getattr(self, name), name, least)
        for name in ("reexamine_selected", "keep_best", "shared_init"):
            check_bool(getattr(self, name), name)
        if not is_auto(self.discard):
            check_bool(self.discard, "discard")
        if not is_one_of(self.noise_type, ("symmetric", "pair")):
            raise ValueError(f"noise_type must be 'symmetric' or 'pair', got {self.noise_type!r}.")
        if self.keep_best and not (base is None or isinstance(base, BaseNoisyClassifier)):
            raise ValueError(
                "keep_best=True needs a method of noisyfit as base_estimator, whose epochs can be "
                f"compared; got {type(base).__name__}."
            )

    def __sklearn_is_fitted__(self):
        return hasattr(self, "selected_")  # set last

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        if hasattr(self.base_estimator, "__sklearn_tags__"):
            of_base = get_tags(self.base_estimator).input_tags
            tags.input_tags.sparse = of_base.sparse
            tags.input_tags.allow_nan = of_base.allow_nan
        return tags
