"""Iterative noisy cross-validation: labels that a network predicts which has not seen them."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import get_tags, indexable
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import check_is_fitted, validate_data
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from noisyfit._agreement import accepted_precision, least_agreement, rate_from_agreement
from noisyfit._base import BaseNoisyClassifier
from noisyfit._checks import check_bool, check_integer, check_real, is_auto, is_one_of
from noisyfit._inputs import validate_y
from noisyfit._out_of_fold import out_of_fold_proba, stratified_folds
from noisyfit._random import draw_seed

_CANDIDATE, _SELECTED, _DISCARDED = range(3)
_FLOOR = 0.01  # share of a class that is kept where none of it was accepted


def among_largest(proba, codes, n_top):
    """Whether the label of each row is among its `n_top` most probable classes, bool (n,)."""
    of_label = np.take_along_axis(proba, codes[:, None], axis=1)
    earlier = np.arange(proba.shape[1]) < codes[:, None]
    ahead = (proba > of_label) | ((proba == of_label) & earlier)  # the arg max among equals
    return ahead.sum(1) < n_top


def ratio_to_discard(rate):
    """``min(2, eps / (1 - eps))``: rows discarded for each one that is accepted (r)."""
    return min(2.0, rate / (1 - rate))


def worst(of_label, n):
    """Positions of the `n` smallest probabilities of the given label; none for 0."""
    return np.argsort(of_label, kind="stable")[:n]


class INCVCleaner(BaseEstimator):
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
        self._check_parameters()
        (X,) = indexable(X)
        codes, self.classes_ = validate_y(self, X, y)
        n, n_classes = len(codes), len(self.classes_)
        if n < 2:
            raise ValueError(f"INCVCleaner cannot divide n_samples={n}; 2 are the minimum.")
        self._note_columns(X)
        rng = np.random.default_rng(draw_seed(self.random_state))
        self._start_seed = int(rng.integers(2**31))
        status = np.full(n, _CANDIDATE)
        proba = np.empty((n, n_classes))
        self.history_ = []
        labels = self.classes_[codes]
        for t in range(self.n_iter):
            again = self.reexamine_selected
            rows = np.flatnonzero(status != _DISCARDED if again else status == _CANDIDATE)
            if t and len(rows) < max(2 * n_classes, self.cv):
                break
            folds = stratified_folds(codes[rows], self.cv, rng)
            tests = [rows[folds == k] for k in range(self.cv) if (folds == k).any()]
            parts = self._test(X, labels, status, tests, rng, self._keeps_best(t))
            for test, p in zip(tests, parts, strict=True):
                proba[test] = p
            if t == 0:
                A = float(np.mean(among_largest(proba, codes, 1)))
                self.noise_rate_ = rate_from_agreement(A, n_classes, self.noise_type)
                self.at_chance_ = A < least_agreement(n_classes, self.noise_type)
                if A < least_agreement(n_classes, self.noise_type):
                    warnings.warn("chance", UserWarning)
            of_label = proba[np.arange(n), codes]
            for test in tests:
                accepted = among_largest(proba[test], codes[test], self.n_top)
                status[test] = np.where(accepted, _SELECTED, _CANDIDATE)
                if self._discards:
                    k = int(ratio_to_discard(self.noise_rate_) * accepted.sum())
                    bad = test[worst(of_label[test], k)]
                    status[bad[status[bad] == _CANDIDATE]] = _DISCARDED
            self.history_.append(dict(iteration=t+1, agreement=float(np.mean(among_largest(proba[rows],codes[rows],1))), selected=int((status==1).sum()), candidates=int((status==0).sum()), discarded=int((status==2).sum())))
        for c in range(n_classes):
            of_class = np.flatnonzero(codes == c)
            if not (status[of_class]==_SELECTED).any():
                kk = int(np.ceil(_FLOOR*len(of_class)))
                status[of_class[np.argsort(-of_label[of_class], kind="stable")[:kk]]] = _SELECTED
                warnings.warn("class", UserWarning)
        self.selected_ = status==_SELECTED
        self.candidate_ = status==_CANDIDATE
        self.discarded_ = status==_DISCARDED
        self.clean_proba_ = of_label
        self.proba_ = proba
        self.expected_precision_ = accepted_precision(self.noise_rate_, n_classes, self.noise_type)
        return self

    @property
    def _discards(self):
        return self.noise_type == "symmetric" if is_auto(self.discard) else self.discard

    def _keeps_best(self, t):
        if not self.keep_best: return False
        if t==0: return True
        if self.noise_type=="pair" or self.noise_rate_>.6: return False
        return t < 2 if self.noise_rate_>.3 else True

    def _test(self, X, labels, status, tests, rng, keep_best):
        jobs = []
        from noisyfit.methods.cross_entropy import CrossEntropyClassifier
        est = self.base_estimator if self.base_estimator is not None else CrossEntropyClassifier()
        for test in tests:
            may = status != _DISCARDED
            may[test] = False
            seed = self._start_seed if self.shared_init else int(rng.integers(2**31))
            jobs.append(delayed(out_of_fold_proba)(est, X, labels, np.flatnonzero(may), test, self.classes_, seed, keep_best))
        return Parallel(n_jobs=self.n_jobs)(jobs)

    def _note_columns(self, X):
        if isinstance(X, Dataset) or getattr(X, "ndim", 2) != 2: return
        validate_data(self, X, skip_check_array=True)
    def _check_parameters(self): pass
