"""What a module must return, tried on one batch before training."""

import torch

from noisyfit._random import seeded_start


def check_module(run, starts, augment):
    """Refuse a network of the wrong width or one that returns probabilities, and a view that
    changes the shape. `starts` are the seeds of the networks."""
    batch = next(iter(run.data.batches(32)))
    check_shape_of_view(run, augment, "augment")
    for learner, start in zip(run.learners, starts, strict=True):
        learner.eval()
        with torch.no_grad(), seeded_start(start):  # lazy layers take their start here
            out = learner.module(run.plain(batch.x.clone()))
        _check_logits(out, len(batch.x), run.n_classes)


def check_shape_of_view(run, augment, name):
    """Refuse a random view that changes the shape; `augment` is the parameter `name`."""
    x = next(iter(run.data.batches(32))).x
    view = run.view(x, augment if callable(augment) else None)
    if view.shape != x.shape:
        raise ValueError(
            f"{name}={augment!r} changes the shape of a batch from {tuple(x.shape)} to "
            f"{tuple(view.shape)}."
        )


def _check_logits(out, n_rows, n_classes):
    if not isinstance(out, torch.Tensor):
        raise TypeError(f"The module must return one tensor of logits, got {type(out).__name__}.")
    if out.shape != (n_rows, n_classes):
        raise ValueError(
            f"The module must return logits of shape (batch, {n_classes}), one column per class; "
            f"for a batch of {n_rows} it returned {tuple(out.shape)}."
        )
    if n_classes > 1 and (out >= 0).all() and (out.sum(1) - 1).abs().max() < 1e-4:
        raise ValueError(
            "The module returns probabilities (rows that sum to 1), but it must return logits: "
            "remove its last softmax layer."
        )
