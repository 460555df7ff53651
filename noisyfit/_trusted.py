"""Rows whose label is known to be right: ``fit(X, y, trusted=mask)``."""

import numpy as np
import torch
from sklearn.utils.validation import check_consistent_length, column_or_1d

from noisyfit._callbacks import with_callbacks


class TrustedMixin:
    """Gives a method trusted rows: ``run.data.rows["trusted"]``, a bool tensor (n,), if any.

    Such rows have a ``clean_proba_`` of 1 and keep their label. `needs_trusted` says whether the
    method can do without, `needs_every_class` whether each class must have such a row; where it
    must not, a mask without any row is as none.

    A method whose ``fit`` also takes `clean_labels` finds the true labels of the trusted rows, as
    codes, in ``run.data.rows["true"]`` (n,); those of the others are the given ones. A trusted row
    then gets its true label, and a ``clean_proba_`` of 0 where the given one is another.
    """

    needs_trusted = False
    needs_every_class = True

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

    def _check_rows(self, codes, trusted=None, clean_labels=None, **others):
        of_rows = super()._check_rows(codes, **others)
        mask = None if trusted is None else trusted_mask(trusted, codes)
        if mask is None or not (mask.any() or self.needs_every_class):
            if self.needs_trusted:
                raise ValueError(
                    f"{type(self).__name__} needs some labels that are known to be right; pass "
                    "fit(X, y, trusted=mask), a boolean array with one entry for each row."
                )
            if mask is None and clean_labels is not None:
                raise ValueError(
                    "clean_labels was given without trusted, which says where to look."
                )
            return of_rows
        of_rows |= {"trusted": mask}
        if clean_labels is not None:
            of_rows |= {"true": true_codes(clean_labels, mask, codes, self.classes_)}
        found = of_rows.get("true", codes)[mask]
        missing = self.classes_[np.setdiff1d(np.arange(len(self.classes_)), found)]
        if len(missing) and self.needs_every_class:
            raise ValueError(
                f"Every class needs a trusted row at least; there is none of {missing.tolist()}."
            )
        return of_rows

    def _gather_evidence(self, run, data, train_rows):
        super()._gather_evidence(run, data, train_rows)
        if "trusted" not in data.rows:
            return
        mask = data.rows["trusted"].cpu().numpy()
        given = data.y.cpu().numpy()[mask]
        true = data.rows.get("true", data.y).cpu().numpy()[mask]
        self.clean_proba_[mask] = given == true
        self.refined_proba_[mask] = np.eye(len(self.classes_), dtype=np.float32)[true]
        self.refined_labels_[mask] = self.classes_[true]
        self.noise_rate_ = float(1 - self.clean_proba_.mean())


def trusted_mask(trusted, codes):
    """`trusted` as bool array (n_samples,), aligned with `codes`."""
    mask = np.asarray(trusted.cpu() if isinstance(trusted, torch.Tensor) else trusted)
    mask = mask.copy()  # of a column it may be read-only
    if mask.dtype != bool:
        raise TypeError(
            "trusted must be a boolean array with one entry for each row, got an array of "
            f"{mask.dtype}."
        )
    mask = column_or_1d(mask)
    check_consistent_length(codes, mask)
    return mask


def true_codes(clean_labels, mask, codes, classes):
    """`codes` (n,) with those of the true labels where `mask`; other entries are not read."""
    if isinstance(clean_labels, torch.Tensor):
        clean_labels = clean_labels.cpu()
    labels = column_or_1d(np.asarray(clean_labels))
    check_consistent_length(codes, labels)
    code_of = {label: code for code, label in enumerate(classes.tolist())}
    labels = labels[mask].tolist()
    unknown = sorted({repr(label) for label in labels if label not in code_of})
    if unknown:
        raise ValueError(
            "clean_labels must hold labels that occur in y where trusted is True, got "
            f"{', '.join(unknown[:5])}."
        )
    true = codes.copy()
    true[mask] = [code_of[label] for label in labels]
    return true
