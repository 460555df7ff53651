"""What the recorders share: they are callbacks of scikit-learn 1.9, and leave a fit as it is."""

from contextlib import contextmanager

import torch

from noisyfit._random import global_states, restore_states


class EpochRecorder:
    """Adds a row to ``history_`` after every epoch of a fit.

    A recorder fills in ``_begin(estimator, X, y)``, which checks what a fit is given and forgets
    the last one, and ``_look(fitted_estimator, X)``, which adds a row.
    """

    def __init__(self):
        self.history_ = []

    def setup(self, estimator, context):
        """Do nothing; scikit-learn asks for it."""

    def teardown(self, estimator, context):
        """Do nothing; scikit-learn asks for it."""

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None):
        """Begin a new record when a fit begins."""
        if context.task_name != "epoch":
            with _generators_kept(estimator):
                self._begin(estimator, X, y)

    def on_fit_task_end(self, estimator, context, *, X=None, fitted_estimator=None):
        """Add a row when an epoch ends."""
        if context.task_name == "epoch":
            with _generators_kept(estimator):
                self._look(fitted_estimator, X)

    def _add(self, **columns):
        self.history_.append({"epoch": len(self.history_) + 1} | columns)


def rows_of(recorder, kind):
    """The rows of a recorder of that kind, refused if there are none."""
    if not isinstance(recorder, kind):
        raise TypeError(f"recorder must be of type {kind.__name__}, got {type(recorder)}.")
    if not recorder.history_:
        raise ValueError(
            "The recorder has recorded nothing: set it by clf.set_callbacks(recorder) and fit "
            "clf in this process."
        )
    return recorder.history_


@contextmanager
def _generators_kept(estimator):
    """Let the random transforms of a data set go on as if it had not been read here."""
    before = global_states(torch.device(estimator.nets_[0].device))
    try:
        yield
    finally:
        restore_states(before)
