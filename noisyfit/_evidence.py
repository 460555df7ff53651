"""What a fit believes of the labels: clean probabilities, refined labels, doubted samples."""

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional

from noisyfit._checks import check_real

_BLOCK = 2**24  # values of a block of rows: 64 MiB


def combine(logits, ensemble):
    """Class probabilities from the logits of one or more networks.

    Parameters
    ----------
    logits : tensor of shape (n_networks, n, n_classes)
    ensemble : {"logits", "proba", "first", "second"}
        Average the logits, average the probabilities, or take one network.

    Returns
    -------
    tensor of shape (n, n_classes)
    """
    if ensemble == "proba":
        return softmax(logits).mean(0)
    if ensemble == "logits":
        return softmax(logits.mean(0))
    return softmax(logits[min(("first", "second").index(ensemble), len(logits) - 1)])


def softmax(logits):
    """Softmax over the last axis; for few classes several times as fast as torch's on a CPU."""
    e = (logits - logits.amax(-1, keepdim=True)).exp_()
    return e.div_(e.sum(-1, keepdim=True))


def row_blocks(n, n_classes):
    """Slices that cut (n, n_classes) values into blocks of rows that are small beside them."""
    size = max(1, _BLOCK // n_classes)
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]


def combined(logits, ensemble):
    """`combine` block by block, for one network in the memory of the logits themselves."""
    _, n, n_classes = logits.shape
    proba = logits[0] if len(logits) == 1 else torch.empty_like(logits[0])
    for rows in row_blocks(n, n_classes):
        proba[rows] = combine(logits[:, rows], ensemble)
    return proba


def of_given(of_rows, logits, y):
    """Entries (n,) of the labels `y` in distributions that are made block by block.

    ``of_rows(rows, logits)`` gives those of a slice of rows, to which its logits (n_networks,
    n_rows, n_classes) belong.
    """
    blocks = row_blocks(*logits.shape[1:])
    return torch.cat([of_rows(r, logits[:, r]).gather(1, y[r, None]) for r in blocks])[:, 0]


def of_label(logits, y, ensemble):
    """Probabilities (n,) of the labels `y`; logits (n_networks, n, n_classes)."""
    return of_given(lambda rows, z: combine(z, ensemble), logits, y)


def predicted(logits, ensemble):
    """Most probable classes (n,); logits (n_networks, n, n_classes)."""
    blocks = row_blocks(*logits.shape[1:])
    return torch.cat([combine(logits[:, rows], ensemble).argmax(1) for rows in blocks])


def library_rule(y, proba, clean_proba):
    """The given label where it is believed, else the network's distribution, (n, n_classes)."""
    given = functional.one_hot(y, proba.shape[1]).to(proba.dtype)
    return torch.where(clean_proba[:, None] >= 0.5, given, proba)


def for_all_rows(values, train_rows, n, otherwise):
    """Array (n,) with the `values`, a tensor, at the positions `train_rows` (None: at all)."""
    full = torch.full((n,), otherwise, dtype=values.dtype)
    full[slice(None) if train_rows is None else train_rows] = values.cpu()
    return full.numpy()


class EvidenceMixin:
    """Evidence of all methods. A method may know better and override two of its steps.

    ``_posterior(run, logits)`` is its own probability that each label is right;
    ``_refined_proba(run, rows, logits, clean_proba)`` its own distribution over the labels of a
    block of rows.
    """

    def _gather_evidence(self, run, data, train_rows):
        """Set the fitted attributes that say which labels are believed."""
        logits = self._final_logits(run, data)
        clean = of_label(logits, data.y, self.ensemble)  # rows held out keep this
        rows = slice(None) if train_rows is None else train_rows.to(data.device)
        clean[rows] = self._clean_proba(run, logits[:, rows])
        refined = torch.empty_like(logits[0])
        if train_rows is not None:
            for part in row_blocks(*refined.shape):
                proba = combine(logits[:, part], self.ensemble)
                refined[part] = library_rule(data.y[part], proba, clean[part])
        for part in row_blocks(len(run.data), run.n_classes):
            place = part if train_rows is None else rows[part]
            refined[place] = self._refined_proba(run, part, logits[:, place], clean[place])
        del logits
        self.clean_proba_ = clean.cpu().numpy().astype(np.float64).clip(0, 1)
        self.refined_proba_ = refined.cpu().numpy()
        self.refined_labels_ = self.classes_[self.refined_proba_.argmax(1)]
        self.noise_rate_ = float(1 - self.clean_proba_.mean())
        means = run.dynamics.means()
        self.dynamics_ = {k: for_all_rows(v, train_rows, len(data), 0) for k, v in means.items()}

    def _final_logits(self, run, data):
        """Logits (n_networks, n, n_classes) of all rows of the fit, held out or not."""
        return run.evaluate_all(data, exact=True)

    def _clean_proba(self, run, logits):
        """Probability that each label of ``run.data`` is right, (n,); logits (nets, n, classes)."""
        score = self.clean_score
        by_name = isinstance(score, str)
        if by_name and score == "auto":
            posterior = self._posterior(run, logits)
            if posterior is not None:
                return posterior
        if by_name and score == "final":
            return self._final_proba(run, logits)
        share = self._history(run, logits)
        if by_name:
            return share
        doubt = (1 - share).cpu().numpy()[:, None]
        posterior = clone(score).fit(doubt).predict_proba(doubt)[:, 1]
        return torch.as_tensor(posterior, dtype=share.dtype, device=share.device)

    def _final_proba(self, run, logits):
        """Final probability of each label of ``run.data``, (n,)."""
        return of_label(logits, run.data.y, self.ensemble)

    def _history(self, run, logits):
        """How often each label was predicted in training, (n,); unseen rows by the final one."""
        final = self._final_proba(run, logits)
        return torch.where(run.dynamics.n_seen > 0, run.dynamics.agreement(), final)

    def _posterior(self, run, logits):
        """The method's own probability that each label of ``run.data`` is right, or None."""
        return None

    def _refined_proba(self, run, rows, logits, clean_proba):
        """Distribution over the classes for some rows of ``run.data``, (n_rows, n_classes).

        `rows` is their slice, to which logits (nets, n_rows, n_classes) and `clean_proba` belong.
        """
        return library_rule(run.data.y[rows], combine(logits, self.ensemble), clean_proba)

    def label_issues(self, *, threshold=0.5, splitter=None):
        """Positions of the training samples whose label is doubted, worst first.

        Parameters
        ----------
        threshold : float in [0, 1], default=0.5
            A label is doubted where ``clean_proba_`` lies below.
        splitter : splitter of `noisyfit.mixtures`, optional
            Fitted on ``1 - clean_proba_``, it replaces the fixed threshold by its own: for
            under-confident methods and many classes.

        Returns
        -------
        int64 ndarray of shape (n_doubted,)
        """
        check_is_fitted(self)
        check_real(threshold, "threshold", 0, 1)
        clean = self.clean_proba_
        if splitter is None:
            doubted = clean < threshold
        else:
            doubt = 1 - clean[:, None]
            doubted = ~clone(splitter).fit(doubt).predict(doubt).astype(bool)
        worst_first = np.argsort(clean, kind="stable")
        return worst_first[doubted[worst_first]]
