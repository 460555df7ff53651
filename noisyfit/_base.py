"""The loop that all methods share, and the evidence that all of them leave behind."""

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted
from skorch.dataset import Dataset as SkorchDataset
from torch.utils.data import Subset
from tqdm.auto import tqdm

from noisyfit._callbacks import CallbackSupportMixin, with_callbacks
from noisyfit._checks import check_view, is_auto, is_one_of
from noisyfit._data import as_data
from noisyfit._evidence import EvidenceMixin, combined
from noisyfit._inputs import InputScale, validate_X, validate_y
from noisyfit._learner import Learner
from noisyfit._module_check import check_module
from noisyfit._network import Network, build_net, check_net, resolve_device
from noisyfit._pretraining import check_pretrain, start_pretrained
from noisyfit._random import draw_seed, own_generators, spawn_seeds
from noisyfit._run import Run, forward_all
from noisyfit._simclr import SimCLR
from noisyfit._usual_views import weak_view

__all__ = ["BaseNoisyClassifier"]


class BaseNoisyClassifier(CallbackSupportMixin, EvidenceMixin, ClassifierMixin, BaseEstimator):
    """Base of all methods: validation, seeding, networks, the loop, prediction, evidence.

    A method stores its parameters in ``__init__`` and fills in as few of these as it can:

    ``_loss(run, batch, t)``
        Scalar to be minimised on one batch; `t` counts epochs, fractional inside one.
    ``_check_run(run)``
        Refuse networks or rows that it cannot train, before any pre-training.
    ``_begin(run)``
        Allocate memory per sample, before the first epoch.
    ``_end_epoch(run, epoch)``
        Relabel or re-estimate, after each zero-based epoch.
    ``_train_epoch(run, epoch)``
        One pass, for methods whose batches are not plain ones.

    ``_finish(run)``
        After the last epoch, before the evidence is gathered.
    ``_lr_factor(schedule, epoch, max_epochs)``
        Factor on the learning rate, for methods whose stages have schedules of their own.

    and, where it knows better than the defaults, of these two, which turn what was learnt into
    evidence: ``_posterior(run, logits)`` and ``_refined_proba(run, rows, logits, clean_proba)``.

    Examples
    --------
    >>> from noisyfit import CrossEntropyClassifier, Network
    >>> class AbsoluteErrorClassifier(CrossEntropyClassifier):
    ...     def _loss(self, run, batch, t):
    ...         logits = run.learners[0](run.view(batch.x))
    ...         return 1 - logits.softmax(1).gather(1, batch.y[:, None]).mean()
    >>> clf = AbsoluteErrorClassifier(Network(max_epochs=20), random_state=0)
    >>> clf.fit([[0.0], [1.0]] * 20, ["no", "yes"] * 20).predict([[0.9]]).item()
    'yes'
    """

    n_networks = 1
    ensemble = "first"
    drop_last = False
    pretrain = None
    _checkpoint = None  # file of a fit that may be interrupted

    def set_params(self, **params):
        """Set parameters by name; ``net__*`` make a `Network` where ``net`` is None.

        Parameters
        ----------
        **params : dict
            As in scikit-learn, nested names included.

        Returns
        -------
        self
        """
        of_net = any(name.startswith("net__") for name in params)
        if of_net and params.get("net", self.net) is None:
            params = params | {"net": Network()}
        return super().set_params(**params)

    @with_callbacks
    def fit(self, X, y=None, *, X_val=None, y_val=None):
        """Train on `X` with labels of which some may be wrong.

        Parameters
        ----------
        X : array-like, tensor, data frame, torch Dataset or list of image paths
            A table (n_samples, n_features); images (n_samples, C, H, W), (n_samples, H, W, C) or
            (n_samples, H, W), uint8 or float; or a source that is streamed.
        y : array-like of shape (n_samples,), optional
            Given labels of any kind that scikit-learn takes. None reads them from a `Dataset`.
        X_val, y_val : like `X` and `y`, optional
            Scored after every epoch into ``history_`` as ``valid_loss`` and ``valid_acc``, and
            watched by callbacks such as skorch's ``EarlyStopping``. Never trained on.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Before any training, for data or parameters that cannot be used; ValueError also when
            the training loss stops being finite. The estimator is then unfitted.
        """
        return self._fit_or_forget(X, y, X_val, y_val)

    def _fit_or_forget(self, X, y, X_val, y_val, **of_rows):
        """Fit; leave the estimator unfitted if that fails.

        `of_rows` are what a method's own ``fit`` takes beside `y`, one entry a row.
        """
        self._forget()
        try:
            self._fit(X, y, X_val, y_val, of_rows)
        except BaseException:
            self._forget()
            raise
        return self

    def _forget(self):
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def _fit(self, X, y, X_val, y_val, of_rows):
        net = check_net(self.net)
        self._check_parameters()
        device = resolve_device(getattr(net, "device", "cpu"))
        seed = draw_seed(self.random_state)
        if self._checkpoint is not None:
            seed = self._checkpoint.seed(seed)
        seeds = spawn_seeds(seed, 4 + self.n_networks)
        start, loop, stream, *starts, of_encoder = seeds
        with own_generators(start, device, getattr(net, "deterministic", True)):
            source = validate_X(self, X, reset=True)
            codes, self.classes_ = validate_y(self, source, y)
            of_rows = self._check_rows(codes, **of_rows)
            train_rows, held_rows = self._split_rows(net, codes, X_val, y_val)
            normalize = getattr(net, "normalize", None)
            self._input_scale_ = InputScale(source, normalize, train_rows)
            data = self._as_data(source, codes, device, net, stream)
            data.rows = {k: torch.from_numpy(v).to(device) for k, v in of_rows.items()}
            train, valid = self._hold_out(net, data, (train_rows, held_rows), X_val, y_val)
            n_classes = len(self.classes_)
            self.nets_ = [
                build_net(net, self._input_scale_.shape, n_classes, device, seed) for seed in starts
            ]
            generator = torch.Generator(device).manual_seed(loop)
            learners = [Learner(net, device, generator) for net in self.nets_]
            run = Run(
                learners,
                train,
                self._input_scale_.constants(device),
                self._resolve_augment(),
                n_classes,
                loop,
                self.drop_last,
            )
            check_module(run, starts, self.augment)
            for learner in learners:
                learner.check_callbacks(valid is not None)
            self._check_run(run)
            run = self._taken_up(run, valid) or self._started(run, valid, net, of_encoder)
            self._train(run, valid, X, y)
            self._gather_evidence(run, data, train_rows)

    def _check_rows(self, codes):
        """Arrays (n_samples,) by name, from what the method's ``fit`` takes beside `y`.

        `codes` (n_samples,) are the given labels as positions in ``classes_``. In training the
        arrays are tensors in ``run.data.rows``.
        """
        return {}

    def _check_parameters(self):
        """Refuse parameters of the method; called before any data is touched."""
        if not is_one_of(self.ensemble, ("logits", "proba", "first", "second")):
            raise ValueError(
                f"ensemble must be 'logits', 'proba', 'first' or 'second', got {self.ensemble!r}."
            )
        check_view(self.augment, "augment")
        if not is_auto(self.pretrain):
            check_pretrain(self.pretrain)
        score = self.clean_score
        if not is_one_of(score, ("auto", "history", "final")) and (
            isinstance(score, type) or not hasattr(score, "fit_tensor")
        ):
            raise ValueError(
                f"clean_score must be 'auto', 'history', 'final' or a splitter, got {score!r}."
            )

    def _as_data(self, source, codes, device, net, seed=0):
        return as_data(source, codes, self._input_scale_, device, net, seed)

    def _split_rows(self, net, codes, X_val, y_val):
        """Positions (int64 tensors) that are trained on and held out; None, None for all rows."""
        if X_val is None and y_val is not None:
            raise ValueError("y_val was given without X_val.")
        if X_val is not None and net.train_split is not None:
            raise ValueError("Give X_val or a net with train_split, not both.")
        if net.train_split is None:
            return None, None
        kept, held = net.train_split(SkorchDataset(np.arange(len(codes))), codes)
        if not isinstance(kept, Subset) or not isinstance(held, Subset):
            raise ValueError("train_split must divide the rows given to fit; pass X_val instead.")
        return torch.as_tensor(kept.indices), torch.as_tensor(held.indices)

    def _hold_out(self, net, data, rows, X_val, y_val):
        """Training data, and validation data (None without)."""
        if X_val is not None:
            source = validate_X(self, X_val, reset=False)
            codes, _ = validate_y(self, source, y_val, self.classes_)
            return data, self._as_data(source, codes, data.device, net)
        train_rows, held_rows = rows
        if train_rows is None:
            return data, None
        return data.subset(train_rows), data.subset(held_rows)

    @property
    def _shape(self):
        """(n_features,) of a table, (C, H, W) of images."""
        return self._input_scale_.shape

    @property
    def _on_table(self):
        return len(self._shape) == 1

    def _resolve_augment(self):
        return weak_view(self._shape) if is_auto(self.augment) else self.augment

    def _resolve_pretrain(self):
        if is_auto(self.pretrain):
            return None if self._on_table else SimCLR()
        return self.pretrain

    def _taken_up(self, run, valid):
        """The fit that was interrupted instead of `run`, if there is one."""
        return None if self._checkpoint is None else self._checkpoint.load(self, run, valid)

    def _started(self, run, valid, net, of_encoder):
        pretrain = self._resolve_pretrain()
        if pretrain is not None:
            if self._checkpoint is not None:
                self._checkpoint.check(self, run, valid)
            start_pretrained(pretrain, run, net, self._shape, of_encoder)
        self._begin(run)
        self._check_stages(run)
        if self._checkpoint is not None:
            self._checkpoint.save(self, run, valid)
        return run

    def _train(self, run, valid, X, y):
        run.begin(valid)
        context = self._init_callback_context(max_subtasks=run.max_epochs)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        with tqdm(
            range(len(run.history), run.max_epochs),
            initial=len(run.history),
            total=run.max_epochs,
            desc=type(self).__name__,
            unit="epoch",
            disable=not self.verbose,
        ) as bar:
            for epoch in bar:
                task = context.subcontext(task_name="epoch")
                task.call_on_fit_task_begin(estimator=self, X=X, y=y)
                row = self._run_epoch(run, epoch, valid)
                bar.set_postfix(loss=f"{row['train_loss']:.3f}")
                stop = run.close_epoch(row)
                stop |= task.call_on_fit_task_end(
                    estimator=self, X=X, y=y, reconstruction_attributes=self._predictor
                )
                if stop:
                    break
                if self._checkpoint is not None and (epoch + 1) % self._checkpoint.every == 0:
                    self._checkpoint.save(self, run, valid)
        run.end()
        self._finish(run)
        run.rest()
        self.history_ = run.history
        context.call_on_fit_task_end(
            estimator=self, X=X, y=y, reconstruction_attributes=self._predictor
        )

    def _check_stages(self, run):
        own_rates = type(self)._lr_factor is not BaseNoisyClassifier._lr_factor
        if own_rates and run.last_stage and any(net.is_scheduled for net in run.learners):
            raise ValueError(
                f"{type(self).__name__} trains in stages with learning rates of their own, which "
                "the callback LRScheduler would override; give the net an lr_schedule instead."
            )

    def _run_epoch(self, run, epoch, valid):
        run.begin_epoch(epoch, self._lr_factor)
        self._train_epoch(run, epoch)
        self._end_epoch(run, epoch)
        row = run.end_epoch(epoch)
        if valid is not None:
            row |= self._score(run, valid)
        return row

    def _predictor(self):
        """What a copy of the estimator needs to predict at this point of the fit."""
        names = (
            "classes_",
            "nets_",
            "_input_scale_",
            "_image_shape_",
            "_image_range_",
            "n_features_in_",
        )
        return {name: getattr(self, name) for name in names if hasattr(self, name)}

    def _check_run(self, run):
        pass

    def _begin(self, run):
        pass

    def _train_epoch(self, run, epoch):
        for batch, t in run.train_batches(epoch):
            run.step(self._loss(run, batch, t))

    def _end_epoch(self, run, epoch):
        pass

    def _finish(self, run):
        pass

    def _lr_factor(self, schedule, epoch, max_epochs):
        return schedule(epoch, max_epochs)

    def _score(self, run, data):
        proba = combined(run.evaluate_all(data, exact=True), self.ensemble)
        of_label = proba.gather(1, data.y[:, None]).clamp_min(1e-12)
        return {
            "valid_loss": -of_label.log().mean().item(),
            "valid_acc": (proba.argmax(1) == data.y).sum().item() / len(data),
        }

    def predict_proba(self, X):
        """Class probabilities of un-augmented rows.

        Parameters
        ----------
        X : like the `X` of `fit`

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns in the order of ``classes_``; rows sum to 1.
        """
        check_is_fitted(self)
        data = self._data_to_predict(X)
        return combined(self._outputs(data, len(self.classes_)), self.ensemble).cpu().numpy()

    def _data_to_predict(self, X):
        source, net = validate_X(self, X, reset=False), self.nets_[0]
        return self._as_data(source, None, torch.device(net.device), net)

    def _outputs(self, data, n_outputs):
        """Outputs (n_networks, n, n_outputs) of the fitted nets for un-augmented rows."""
        constants = self._input_scale_.constants(data.device)
        outputs = torch.empty(len(self.nets_), len(data), n_outputs, device=data.device)
        for net, out in zip(self.nets_, outputs, strict=True):
            forward_all(net.module_.eval(), data, constants, n_outputs, out=out)
        return outputs

    def predict(self, X):
        """Most probable class of each row.

        Parameters
        ----------
        X : like the `X` of `fit`

        Returns
        -------
        ndarray of shape (n_samples,)
            Labels of the kind given to `fit`.
        """
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(axis=1)]
