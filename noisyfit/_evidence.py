"""What a fit believes of the labels: clean probabilities, refined labels, doubted samples."""

import numpy as np
import torch
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch.nn import functional

from noisyfit._checks import check_real


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
    ``_refined_proba(run, logits, clean_proba)`` its own distribution over the labels.
    """

    def _gather_evidence(self, run, data, train_rows):
        """Set the fitted attributes that say which labels are believed."""
        logits = self._final_logits(run, data)
        proba = combine(logits, self.ensemble)
        clean = proba.gather(1, data.y[:, None]).squeeze(1)  # rows held out keep this
        rows = slice(None) if train_rows is None else train_rows.to(data.device)
        clean[rows] = self._clean_proba(run, logits[:, rows])
        refined = library_rule(data.y, proba, clean)
        refined[rows] = self._refined_proba(run, logits[:, rows], clean[rows])
        self.clean_proba_ = clean.cpu().numpy().astype(np.float64).clip(0, 1)
        self.refined_proba_ = refined.cpu().numpy()
        self.refined_labels_ = self.classes_[self.refined_proba_.argmax(1)]
        self.noise_rate_ = float(1 - self.clean_proba_.mean())
        means = run.dynamics.means()
        self.dynamics_ = {k: for_all_rows(v, train_rows, len(data), 0) for k, v in means.items()}

    def _final_logits(self, run, data):
        """Logits (n_networks, n, n_classes) of all rows of the fit, held out or not."""
        return torch.stack([run.evaluate(learner, data, exact=True) for learner in run.learners])

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
        return combine(logits, self.ensemble).gather(1, run.data.y[:, None]).squeeze(1)

    def _history(self, run, logits):
        """How often each label was predicted in training, (n,); unseen rows by the final one."""
        of_label = self._final_proba(run, logits)
        return torch.where(run.dynamics.n_seen > 0, run.dynamics.agreement(), of_label)

    def _posterior(self, run, logits):
        """The method's own probability that each label of ``run.data`` is right, or None."""
        return None

    def _refined_proba(self, run, logits, clean_proba):
        """Distribution over the classes for each row of ``run.data``, (n, n_classes)."""
        return library_rule(run.data.y, combine(logits, self.ensemble), clean_proba)

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
