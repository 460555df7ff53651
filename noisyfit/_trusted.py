"""Rows whose label is known to be right: ``fit(X, y, trusted=mask)``."""

import numpy as np
import torch
from sklearn.utils.validation import check_consistent_length, column_or_1d

from noisyfit._callbacks import with_callbacks


class TrustedMixin:
    """Gives a method trusted rows: ``run.data.rows["trusted"]``, a bool tensor (n,), if any.

    Such rows have a ``clean_proba_`` of 1 and keep their label. `needs_trusted` says whether the
    method can do without.
    """

    needs_trusted = False

    @with_callbacks
    def fit(self, X, y=None, *, trusted=None, X_val=None, y_val=None):
        """Train on `X` with labels of which some may be wrong and some are known to be right.

        Parameters
        ----------
        X : array-like, tensor, data frame, torch Dataset or list of image paths
            As in the other methods: a table, images, or a source that is streamed.
        y : array-like of shape (n_samples,), optional
            Given labels of any kind that scikit-learn takes. None reads them from a `Dataset`.
        trusted : bool array-like of shape (n_samples,), optional
            True where the label is known to be right; every class needs one such row at least.
            Cross-validation slices it with the rows; with metadata routing ask for it by
            ``set_fit_request(trusted=True)``.
        X_val, y_val : like `X` and `y`, optional
            Scored after every epoch, never trained on.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Before any training, for data or parameters that cannot be used; ValueError also when
            the training loss stops being finite. The estimator is then unfitted.
        """
        return self._fit_or_forget(X, y, X_val, y_val, trusted=trusted)

    def _check_rows(self, codes, trusted=None, **others):
        of_rows = super()._check_rows(codes, **others)
        if trusted is None:
            if self.needs_trusted:
                raise ValueError(
                    f"{type(self).__name__} needs some labels that are known to be right; pass "
                    "fit(X, y, trusted=mask), a boolean array with one entry for each row."
                )
            return of_rows
        mask = trusted_mask(trusted, codes)
        missing = self.classes_[np.setdiff1d(np.arange(len(self.classes_)), codes[mask])]
        if len(missing):
            raise ValueError(
                f"Every class needs a trusted row at least; there is none of {missing.tolist()}."
            )
        return of_rows | {"trusted": mask}

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        if "trusted" not in data.rows:
            return
        mask = data.rows["trusted"].cpu().numpy()
        given = data.y.cpu().numpy()[mask]
        self.clean_proba_[mask] = 1
        self.refined_proba_[mask] = np.eye(len(self.classes_), dtype=np.float32)[given]
        self.refined_labels_[mask] = self.classes_[given]
        self.noise_rate_ = float(1 - self.clean_proba_.mean())


def trusted_mask(trusted, codes):
    """`trusted` as bool array (n_samples,), aligned with `codes`."""
    mask = np.asarray(trusted.cpu() if isinstance(trusted, torch.Tensor) else trusted)
    if mask.dtype != bool:
        raise TypeError(
            "trusted must be a boolean array with one entry for each row, got an array of "
            f"{mask.dtype}."
        )
    mask = column_or_1d(mask)
    check_consistent_length(codes, mask)
    return mask
