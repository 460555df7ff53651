"""Curricula of MentorNet, from losses to weights: rules, and the network that learns one."""

import copy
import json
from pathlib import Path

import torch
from sklearn.exceptions import NotFittedError

from noisyfit._checks import check_integer, check_real, is_one_of
from noisyfit._curriculum import hard_weights, linear_weights
from noisyfit._mentor_network import (
    PERCENT,
    MentorModule,
    as_numbers,
    as_points,
    published_grid,
    squared_error,
    train_module,
)
from noisyfit._random import draw_seed

ARCHITECTURES = ("mlp", "lstm")
_PARAMETERS = ("architecture", "n_steps", "batch_size", "penalty", "random_state")
_FORMAT, _VERSION = "noisyfit mentor", 1


def self_paced(loss, difference, progress):
    """1 where the loss is at most the threshold, at any time."""
    return hard_weights(difference)


def predefined(loss, difference, progress, width=1.0):
    """The predefined curriculum (PD): all samples, then the hard rule, then the linear one.

    `loss` and `difference`, the loss minus the threshold, are tensors (batch,); `progress` is the
    percentage of the training that has passed, an integer from 0 to 99.
    """
    if progress <= 18:
        return torch.ones_like(difference)
    if progress < 90:
        return hard_weights(difference)
    return linear_weights(difference, width)


CURRICULA = {"predefined": predefined, "self_paced": self_paced}


def rule_weights(rule, loss, difference, progress):
    """Weights (n,) of a rule for points that differ in `progress`."""
    weights = torch.empty_like(loss)
    for percent in progress.unique().tolist():
        here = progress == percent
        weights[here] = rule(loss[here], difference[here], percent)
    return weights


def check_rule(rule, name):
    """Refuse what is no function to weights, tried on a few losses."""
    if isinstance(rule, type) or not callable(rule):
        raise TypeError(f"{name} must be a function (loss, difference, progress), got {rule!r}.")
    loss = torch.linspace(0, 6, 7)
    for progress in (0, 50, PERCENT - 1):
        weights = rule(loss, loss - 2, progress)
        if not torch.is_tensor(weights) or weights.shape != loss.shape:
            raise ValueError(f"{name} must return one weight per sample, a tensor (batch,).")
        if not ((weights >= 0) & (weights <= 1)).all():
            raise ValueError(f"{name} must return weights in [0, 1], got {weights.tolist()}.")


class Mentor:
    """A small network that weighs training samples: the mentor of MentorNet.

    From the loss of a sample, its distance to a running threshold and the progress of the training
    it computes a weight between 0 and 1. It learns that from samples whose labels are known to be
    right or wrong, or imitates a rule. Once trained it can be saved and used in the training of
    another network on other data: ``MentorNetClassifier(mentor=mentor)``.

    Parameters
    ----------
    architecture : {"mlp", "lstm"}, default="mlp"
        ``"lstm"`` is the published network, whose recurrent part makes a single step and whose
        embedding of the progress is random; ``"mlp"`` sees loss and difference directly and learns
        the embedding. Both have less than 1000 parameters.
    n_steps : int, default=1000
        Training steps; the learning rate falls in 30 stairs. Published: 30000, which is no better.
    batch_size : int, default=256
        Points per step. Published: 32.
    penalty : float, default=0.3
        Weight of the squared weights, divided by the number of points: with few samples the
        weight would otherwise jump from one to the next. Published: 0.
    random_state : int, RandomState instance or None, default=None
        Seed of start and batches.

    Attributes
    ----------
    error_ : float
        Mean squared error of the weights: on a fifth of the points that was held out by `imitate`,
        on the samples of `fit`.
    progress_range_ : tuple of int
        Smallest and largest progress that it was trained with; others are moved inside.

    References
    ----------
    Jiang, Zhou, Leung, Li, Fei-Fei, "MentorNet: Learning Data-Driven Curriculum for Very Deep
    Neural Networks on Corrupted Labels", ICML 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from noisyfit import Mentor
    >>> rng = np.random.default_rng(0)
    >>> right = rng.random(200) < 0.6
    >>> loss = np.where(right, rng.gamma(1, 0.3, 200), rng.gamma(4, 1, 200))
    >>> mentor = Mentor(random_state=0).fit(loss, loss - np.quantile(loss, 0.6), 18, right)
    >>> small, large = mentor([0.1, 5.0], [-1.0, 4.0], progress=50).tolist()
    >>> small > 0.9, large < 0.1
    (True, True)
    """

    def __init__(
        self, architecture="mlp", *, n_steps=1000, batch_size=256, penalty=0.3, random_state=None
    ):
        self.architecture = architecture
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.penalty = penalty
        self.random_state = random_state

    def __repr__(self):
        state = "" if self.is_trained else ", not trained"
        return f"<Mentor: {self.architecture}{state}>"

    @property
    def is_trained(self):
        """Whether it can weigh samples."""
        return hasattr(self, "_module")

    def __sklearn_clone__(self):
        return copy.deepcopy(self)  # what it learnt is what it is handed over for

    def get_params(self, deep=True):
        """Parameters by name.

        Parameters
        ----------
        deep : bool, default=True
            Without effect; there as in scikit-learn.

        Returns
        -------
        dict
        """
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params):
        """Set parameters by name.

        Parameters
        ----------
        **params : dict
            Any of the parameters.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            For other names, and once it is trained, as the weights would stay as they are; only
            ``random_state`` can be set then.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"Mentor has no parameter {name!r}, only {list(_PARAMETERS)}.")
            if self.is_trained and name != "random_state" and value != getattr(self, name):
                raise ValueError(f"{name}={value!r} is too late for a trained Mentor.")
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def _check_parameters(self):
        if not is_one_of(self.architecture, ARCHITECTURES):
            raise ValueError(
                f"architecture must be one of {ARCHITECTURES}, got {self.architecture!r}."
            )
        check_integer(self.n_steps, "n_steps", 1)
        check_integer(self.batch_size, "batch_size", 1)
        check_real(self.penalty, "penalty", 0)

    def fit(self, loss, difference, progress, weight):
        """Learn the weights of samples, such as 1 for right and 0 for wrong labels.

        Parameters
        ----------
        loss : array-like or tensor of shape (n_samples,)
            Cross-entropy with the given labels.
        difference : array-like or tensor of shape (n_samples,)
            The losses minus the threshold.
        progress : int or array-like of shape (n_samples,)
            Percentage of the training that had passed, from 0 to 99.
        weight : array-like of shape (n_samples,)
            Wanted weights in [0, 1], or bool.

        Returns
        -------
        self
        """
        self._check_parameters()
        points = as_points(loss, difference, progress)
        target = as_numbers(weight, "weight").cpu()
        if target.shape != points[0].shape:
            raise ValueError(f"weight must hold {len(points[0])} numbers, got {len(target)}.")
        if not ((target >= 0) & (target <= 1)).all():
            raise ValueError("weight must lie in [0, 1].")
        generator = torch.Generator().manual_seed(draw_seed(self.random_state))
        return self._train(points, target, generator)

    def imitate(self, rule="predefined", *, n_points=100_000):
        """Learn a rule from its values at random points of the published grid.

        Parameters
        ----------
        rule : {"predefined", "self_paced"} or callable, default="predefined"
            Function ``(loss, difference, progress)`` of two tensors (n,) and an integer from 0 to
            99 which returns weights (n,).
        n_points : int, default=100000
            Points of the grid, which has 1.2 million; a fifth is held out.

        Returns
        -------
        self
        """
        self._check_parameters()
        check_integer(n_points, "n_points", 5)
        rule = CURRICULA[rule] if is_one_of(rule, CURRICULA) else rule
        check_rule(rule, "rule")
        generator = torch.Generator().manual_seed(draw_seed(self.random_state))
        points = published_grid(n_points, generator)
        target = rule_weights(rule, *points)
        n_held = len(target) // 5
        self._train([values[n_held:] for values in points], target[n_held:], generator)
        self.progress_range_ = 0, PERCENT - 1
        self._measure([values[:n_held] for values in points], target[:n_held])
        return self

    def _train(self, points, target, generator):
        module = MentorModule(self.architecture, generator)
        settings = self.n_steps, self.batch_size, self.penalty, generator
        train_module(module, points, target, *settings)
        self._module = module.requires_grad_(False)
        self.progress_range_ = tuple(int(p) for p in points[2].aminmax())
        self._measure(points, target)
        return self

    def _measure(self, points, target):
        with torch.no_grad():
            self.error_ = squared_error(self._module(*points), target).item()

    def __call__(self, loss, difference, progress):
        """Weights of samples.

        Parameters
        ----------
        loss, difference : array-like or tensor of shape (n_samples,)
            Losses, and losses minus the threshold; outside the published grid they are clipped.
        progress : int
            Percentage of the training that has passed.

        Returns
        -------
        tensor of shape (n_samples,)
            In [0, 1], on the device of `loss`.
        """
        if not self.is_trained:
            raise NotFittedError("The mentor is not trained; call fit, imitate or Mentor.load.")
        low, high = self.progress_range_
        loss, difference = as_numbers(loss, "loss"), as_numbers(difference, "difference")
        self._to(loss.device)
        with torch.no_grad():
            return self._module(loss, difference, min(max(int(progress), low), high)).sigmoid()

    def _to(self, device):
        if self._module.out.device != device:
            self._module.to(device)
        return self

    def save(self, path):
        """Write the trained mentor to a file of text (JSON).

        Parameters
        ----------
        path : str or path-like
        """
        if not self.is_trained:
            raise NotFittedError("The mentor is not trained; call fit or imitate before save.")
        weights = {name: value.tolist() for name, value in self._module.state_dict().items()}
        content = {"format": _FORMAT, "version": _VERSION, "architecture": self.architecture}
        content |= {"progress_range": self.progress_range_, "error": self.error_}
        Path(path).write_text(json.dumps(content | {"weights": weights}), encoding="utf-8")

    @classmethod
    def load(cls, path):
        """Read a mentor that `save` has written, to weigh samples.

        The file does not hold how it was trained, so that training anew takes the defaults.

        Parameters
        ----------
        path : str or path-like

        Returns
        -------
        Mentor

        Raises
        ------
        ValueError
            If the file holds no mentor, or one in another version of the format.
        OSError
            If it cannot be read.
        """
        try:
            content = json.loads(Path(path).read_bytes())
        except ValueError:
            content = None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"{str(path)!r} is no file of a mentor.")
        version = content.get("version")
        if version != _VERSION:
            raise ValueError(
                f"{str(path)!r} holds a mentor in version {version!r} of the format; this noisyfit "
                f"reads version {_VERSION}. Train and save it anew."
            )
        try:
            return cls._from_content(content)
        except (KeyError, TypeError, ValueError, RuntimeError):
            raise ValueError(f"{str(path)!r} holds a damaged mentor.") from None

    @classmethod
    def _from_content(cls, content):
        mentor = cls(content["architecture"])
        mentor._check_parameters()
        module = MentorModule(mentor.architecture, torch.Generator())
        weights = {name: torch.tensor(value) for name, value in dict(content["weights"]).items()}
        if not all(values.isfinite().all() for values in weights.values()):
            raise ValueError
        module.load_state_dict(weights)
        low, high = (int(p) for p in content["progress_range"])
        if not 0 <= low <= high < PERCENT:
            raise ValueError
        mentor._module = module.requires_grad_(False)
        mentor.progress_range_, mentor.error_ = (low, high), float(content["error"])
        return mentor
