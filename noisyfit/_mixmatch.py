"""MixMatch as DivideMix changed it: targets, loss, guesses and the unlabelled stream."""

import math

import torch
from torch.nn import functional

from noisyfit.losses import class_balance_penalty, sharpen, soft_cross_entropy, squared_error


def co_refine(y, guess, clean, temperature):
    """Target of labelled rows: given label and own guess, weighed by trust, sharpened (eq. 3, 4).

    `y` (batch,) codes, `guess` (batch, n_classes), `clean` (batch,).
    """
    given = functional.one_hot(y, guess.shape[1])
    w = clean[:, None]
    return sharpen(w * given + (1 - w) * guess, temperature)


def mixmatch_loss(logits, targets, n_labelled, lambda_u, lambda_r, prior=None):
    """``L_X + lambda_u L_U + lambda_r L_reg`` (eq. 9 to 12); the first rows are the labelled."""
    x, u = logits[:n_labelled], logits[n_labelled:]
    loss = soft_cross_entropy(x, targets[:n_labelled]).mean()
    if len(u):
        loss = loss + lambda_u * squared_error(u, targets[n_labelled : len(logits)]).mean()
    return loss + lambda_r * class_balance_penalty(logits, prior)


def mean_guess(learner, views, in_eval=False):
    """Mean softmax over the views, (batch, n_classes).

    A network in training mode sees each view as a batch of its own, as its batch statistics do;
    in evaluation mode (its own, or for the guess if `in_eval`) one pass over all views is the same.
    """
    was_training = learner.module.training
    if was_training and not in_eval:
        return torch.stack([learner(view).softmax(1) for view in views]).mean(0)
    learner.eval()
    p = learner(torch.cat(views)).softmax(1).unflatten(0, (len(views), -1)).mean(0)
    if was_training:
        learner.train()
    return p


def unlabelled_batches(run, rows, size, n_batches):
    """Batches of unlabelled rows, reshuffled whenever they are exhausted; None if too few."""
    if len(rows) < 2:
        yield from [None] * n_batches
        return
    size = min(size, len(rows))
    passes = math.ceil(n_batches * size / len(rows))
    order = torch.cat([run.shuffled(rows) for _ in range(passes)])[: n_batches * size]
    yield from run.data.batches(size, order)
