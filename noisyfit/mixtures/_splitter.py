"""What the splitters share: checks, scaling, scoring and the threshold."""

import warnings
from numbers import Integral, Real

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_feature_names_in, check_is_fitted, validate_data

_MARGIN = 1e-5

PROBABILITY = Interval(Real, 0, 1, closed="both")
NOT_NEGATIVE = Interval(Real, 0, None, closed="left")
COUNT = Interval(Integral, 1, None, closed="left")


def effective_threshold(clean_proba, threshold=0.5):
    """Threshold moved inside the range of the probabilities, so that both parts have members.

    ``clean_proba > effective_threshold(clean_proba, threshold)`` is neither empty nor everything
    whenever the probabilities spread over at least 2e-5. Below that they count as constant and the
    threshold is left alone.

    Parameters
    ----------
    clean_proba : array-like or tensor of shape (n_samples,)
        Probabilities that the given labels are right.
    threshold : float, default=0.5
        The wanted threshold, in [0, 1].

    Returns
    -------
    float or scalar tensor
        At least 1e-5 above the smallest and below the largest probability. A tensor gives a
        tensor on its device, without a wait for the device.

    References
    ----------
    Evgenii Zheltonozhskii, Chaim Baskin, Avi Mendelson, Alex M. Bronstein, Or Litany. Contrast to
    Divide: Self-Supervised Pre-Training for Learning with Noisy Labels. WACV 2022.

    Examples
    --------
    >>> from noisyfit.mixtures import effective_threshold
    >>> effective_threshold([0.2, 0.8], threshold=0.5)
    0.5
    >>> round(effective_threshold([0.7, 0.8, 0.9], threshold=0.5), 6)
    0.70001
    """
    is_tensor = isinstance(clean_proba, torch.Tensor)
    p = clean_proba if is_tensor else torch.tensor(np.asarray(clean_proba, dtype=np.float64))
    low, high = p.aminmax()
    wanted = torch.full_like(low, threshold)
    inside = wanted.clamp(low + _MARGIN, high - _MARGIN)
    # the last factor: rounding must not decide about a spread of exactly two margins
    constant = high - low < 2 * _MARGIN * (1 - 1e-3)
    result = torch.where(constant, wanted, inside)
    return result if is_tensor else result.item()


def _double(x):
    return x.double() if x.device.type != "mps" else x.cpu().double()  # mps lacks float64


class MixtureSplitter(TransformerMixin, BaseEstimator):
    """Base of the splitters. A subclass fills in ``_scale``, ``_fit_mixture``, ``_posterior``."""

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Fit the mixture to the losses.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_columns)
            One row per sample; the columns are averaged.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : object
            The fitted splitter.
        """
        X = validate_data(self, X, dtype=[np.float64, np.float32], ensure_min_samples=2)
        clean = self.fit_tensor(self._suspicion(X))
        self.clean_proba_ = clean.numpy()
        self.threshold_ = effective_threshold(self.clean_proba_, self.threshold)
        self.noise_rate_ = float(np.mean(self.clean_proba_ <= self.threshold_))
        return self

    def fit_tensor(self, x):
        """Fit to a tensor where it lies: the inner loop of a training, without checks.

        Parameters
        ----------
        x : floating tensor of shape (n_samples,)
            Losses, on any device; computed in float64.

        Returns
        -------
        tensor of shape (n_samples,), of the kind of `x`
            Clean probabilities. The components are set as in `fit`.
        """
        given, x = x, _double(x)
        self._scaling, weight = self._scale(x)
        x = self._scaling.apply(x)
        self._mixture = self._fit_mixture(x, weight)
        if self._scaling.constant:
            self._call_all_clean()
        for name in self._mixture_parameters:
            setattr(self, f"{name}_", getattr(self._mixture, name).cpu().numpy())
        self.n_iter_ = self._mixture.n_iter.item()
        self.converged_ = self._mixture.converged.item()
        self.offset_, self.span_ = self._scaling.offset.item(), self._scaling.span.item()
        return self._posterior(x).to(given)

    def transform_tensor(self, x):
        """Clean probabilities of other losses under the fitted scale and components.

        Parameters
        ----------
        x : floating tensor of shape (n_samples,)
            On the device of the fit; nothing is read back from it.

        Returns
        -------
        tensor of shape (n_samples,), of the kind of `x`
        """
        return self._posterior(self._scaling.apply(_double(x))).to(x)

    def components(self):
        """The fitted components as a dict of numbers, for a record."""
        fitted = {name: getattr(self, f"{name}_").tolist() for name in self._mixture_parameters}
        kind = "gaussian" if "variances" in fitted else "beta"
        axis = {"offset": self.offset_, "span": self.span_}
        return {"kind": kind, "converged": self.converged_} | axis | fitted

    def _suspicion(self, X):
        """(n_samples, n_columns) array -> (n_samples,) tensor, larger = more suspicious."""
        return torch.from_numpy(np.asarray(X, dtype=np.float64).mean(axis=1))

    def _call_all_clean(self):
        warnings.warn(
            f"{type(self).__name__} was fitted to constant values, which cannot be split: all "
            "samples get the clean probability 1.",
            UserWarning,
            stacklevel=5,
        )
        # All weight on the clean component makes its posterior 1 everywhere.
        self._mixture = self._mixture._replace(
            weights=torch.tensor([1.0, 0.0]).to(self._mixture.weights)
        )

    def _clean_proba(self, X):
        return self._posterior(self._scaling.apply(self._suspicion(X))).numpy()

    def _score(self, X):
        """Checked X of any method but fit -> (n_samples,) float64 probabilities, and its dtype."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=[np.float64, np.float32], reset=False)
        return self._clean_proba(X), X.dtype

    def transform(self, X):
        """Probability that each label is right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_columns)
            Values of the same kind as in `fit`. Those beyond the fitted range count as its end.

        Returns
        -------
        ndarray of shape (n_samples, 1)
            Clean probabilities.
        """
        clean, dtype = self._score(X)
        return clean[:, None].astype(dtype)

    def predict_proba(self, X):
        """Probabilities that each label is wrong and that it is right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_columns)
            Values of the same kind as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Columns (wrong, clean); rows sum to 1.
        """
        clean, dtype = self._score(X)
        return np.stack([1 - clean, clean], axis=1).astype(dtype)

    def predict(self, X):
        """Decide which labels are right.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_columns)
            Values of the same kind as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples,)
            1 where the clean probability exceeds ``threshold_``, 0 elsewhere.
        """
        return (self._score(X)[0] > self.threshold_).astype(np.int64)

    def get_feature_names_out(self, input_features=None):
        """Name of the output column.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Only checked against the names seen in `fit`.

        Returns
        -------
        ndarray of str
            ``["clean_proba"]``.
        """
        check_is_fitted(self)
        _check_feature_names_in(self, input_features, generate_names=False)
        return np.array(["clean_proba"], dtype=object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
