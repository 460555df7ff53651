"""SimCLR: features learnt without labels, from pairs of views."""

import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted
from torch import nn
from tqdm.auto import tqdm

from noisyfit._checks import check_integer, check_real, is_auto
from noisyfit._data import as_data
from noisyfit._inputs import InputScale, validate_X
from noisyfit._learner import Learner
from noisyfit._module_check import check_shape_of_view
from noisyfit._network import Network, build_net, check_net, resolve_device
from noisyfit._pretraining import below_head
from noisyfit._random import draw_seed, own_generators, seeded_start, spawn_seeds
from noisyfit._run import Run, forward_all
from noisyfit.augment import FeatureCorruption, SimCLRView
from noisyfit.losses import nt_xent
from noisyfit.schedules import Cosine

__all__ = ["SimCLR"]


class SimCLR(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Learn features without labels: two views of a row agree, those of other rows do not.

    A network embeds two random views of every row of a batch, and a small projection head maps
    the embeddings to a sphere; there each view is to find its partner among all others. Wrong
    labels cannot mislead what sees none, so a method that starts from these features
    (``pretrain=SimCLR()``) stands far more noise.

    Parameters
    ----------
    net : Network or other skorch net, optional
        How the network is trained. Cloned, never trained in place. The module is a classifier,
        whose last layer is set aside; ``"auto"`` is that of the method in ``pretrain=``, else
        chosen by the shape of `X`. Its ``train_split`` is not used. By default
        ``Network(max_epochs=100, batch_size=128, lr=0.1, lr_schedule=Cosine(1e-3, warmup=10),
        optimizer__weight_decay=1e-4)``. Published, for 50,000 images: 1000 epochs, batches of
        1024, ``lr=0.5``.
    temperature : float, default=0.5
        Divides the similarities.
    base_temperature : float, optional
        Multiplies the loss by ``temperature / base_temperature``. The learning rate 0.5 was
        published for 0.07, which makes the loss 7.1 times larger.
    n_projected : int, default=128
        Outputs of the projection head, a hidden layer as wide as the embedding and a linear one.
    view : "auto" or callable, default="auto"
        Random view of a batch, ``view(x, generator)``. ``"auto"`` is `SimCLRView` for images
        and `FeatureCorruption` for tables.
    random_state : int, RandomState instance or None, default=None
        Seed of start, order and views. In ``pretrain=``, None takes that of the method.
    verbose : int, default=0
        1 shows a progress bar.

    Attributes
    ----------
    encoder_ : torch.nn.Module
        The trained network without its last layer and without the projection head. Frozen: an
        `EncoderClassifier` on it trains its last layer alone; from ``pretrain=`` all are trained.
    history_ : list of dict
        One row per epoch, with the loss.
    n_features_in_ : int
        Columns of the table, or values of one image.
    feature_names_in_ : ndarray of str
        Column names, if ``X`` was a data frame.

    Notes
    -----
    In `GridSearchCV` and everything else that clones, a fitted SimCLR in ``pretrain=`` is trained
    again; give its ``encoder_``, or wrap it in scikit-learn's ``FrozenEstimator``. `encoder_` sees
    inputs as scaled here; a method scales by its own training rows, which is the same for the same
    data.

    The default batch is small because little data make few steps: on 2,000 images of CIFAR-10 and
    30 epochs of `SmallCNN` a linear classifier on the features (32 % before the training) reaches
    44 % with batches of 128, 41 with 256 or 512, and 38 with 512 and ``lr=0.5`` (one seed).

    An epoch passes two views of each row with gradient, six forward passes' worth.

    References
    ----------
    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020. Tables: Bahri, Jiang, Tay, Metzler, "SCARF: Self-Supervised
    Contrastive Learning using Random Feature Corruption", ICLR 2022. As a start for noisy labels:
    Zheltonozhskii, Baskin, Mendelson, Bronstein, Litany, "Contrast to Divide", WACV 2022.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from noisyfit import Network, SimCLR
    >>> X, _ = load_digits(return_X_y=True)
    >>> simclr = SimCLR(Network(max_epochs=2, batch_size=512), random_state=0).fit(X)
    >>> simclr.transform(X).shape
    (1797, 128)
    """

    def __init__(
        self,
        net=None,
        *,
        temperature=0.5,
        base_temperature=None,
        n_projected=128,
        view="auto",
        random_state=None,
        verbose=0,
    ):
        self.net = net
        self.temperature = temperature
        self.base_temperature = base_temperature
        self.n_projected = n_projected
        self.view = view
        self.random_state = random_state
        self.verbose = verbose

    def set_params(self, **params):
        """Set parameters by name; ``net__*`` change the default net where ``net`` is None.

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
            params = params | {"net": _default_net()}
        return super().set_params(**params)

    def fit(self, X, y=None):
        """Train the encoder.

        Parameters
        ----------
        X : array-like, tensor, data frame, torch Dataset or list of image paths
            As for the methods.
        y : ignored

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            Before any training, for data or parameters that cannot be used; ValueError also when
            the loss stops being finite. The transformer is then unfitted.
        """
        self._forget()
        try:
            self._fit(X)
        except BaseException:
            self._forget()
            raise
        return self

    def _forget(self):
        for name in [name for name in vars(self) if name.endswith("_")]:
            delattr(self, name)

    def _fit(self, X):
        net = self._checked_net()
        device = resolve_device(getattr(net, "device", "cpu"))
        source = validate_X(self, X, reset=True)
        start, loop, stream = spawn_seeds(draw_seed(self.random_state), 3)
        with own_generators(start, device, getattr(net, "deterministic", True)):
            self._input_scale_ = InputScale(source, getattr(net, "normalize", None))
            nothing = torch.zeros(len(source), dtype=torch.int64)
            data = as_data(source, nothing, self._input_scale_, device, net, stream)
            constants = self._input_scale_.constants(device)
            built = build_net(net, self._input_scale_.shape, 2, device, start)
            self._train(built, data, constants, self._input_scale_.shape, (start, loop))

    def encoder_for(self, run, net, shape, seed, check):
        """Train on the rows of a `Run` and return the encoder for a method with this `net`.

        `shape` is that of a row and `seed` is used without a ``random_state``. `check` raises,
        before training, if it cannot use the state dict. The transformer itself stays as it is.
        """
        worker = clone(self)
        own = worker._checked_net()
        if is_auto(own.module):
            of_module = {f"module__{k}": v for k, v in net.get_params_for("module").items()}
            own = own.set_params(module=net.module, **of_module)
        if self.random_state is not None:
            seed = draw_seed(self.random_state)
        start, loop = spawn_seeds(seed, 2)
        built = build_net(own, shape, run.n_classes, run.device, start)
        worker._train(built, run.data, run.constants, shape, (start, loop), check)
        return worker.encoder_

    def _checked_net(self):
        """The net to clone, after a look at all parameters."""
        check_real(self.temperature, "temperature", 0, closed="neither")
        if self.base_temperature is not None:
            check_real(self.base_temperature, "base_temperature", 0, closed="neither")
        check_integer(self.n_projected, "n_projected", 1)
        if isinstance(self.view, type) or not (is_auto(self.view) or callable(self.view)):
            raise TypeError(f"view must be 'auto' or a callable (x, generator), got {self.view!r}.")
        return _default_net() if self.net is None else check_net(self.net)

    def _train(self, net, data, constants, shape, seeds, check=None):
        start, loop = seeds
        device = data.device
        learner = Learner(net, device, torch.Generator(device).manual_seed(loop))
        learner.check_callbacks(has_validation=False)
        view = self._resolve_view(shape)
        run = Run([learner], data, constants, view, 1, loop)
        module = learner.module
        x = run.plain(next(iter(data.batches(32))).x.clone())
        check_shape_of_view(run, view, "view")
        with seeded_start(start):  # lazy layers take their start here
            head, _ = below_head(module, x)
        width = module.get_submodule(head).in_features
        module.set_submodule(head, nn.Identity())
        if check is not None:
            check(module.state_dict())
        with seeded_start(start):
            project = nn.Sequential(
                *(nn.Linear(width, width), nn.ReLU()), nn.Linear(width, self.n_projected)
            ).to(device)
        learner.add_parameters(project.parameters())
        run.begin()
        name = type(self).__name__
        with tqdm(range(run.max_epochs), name, unit="epoch", disable=not self.verbose) as bar:
            for epoch in bar:
                row = self._run_epoch(run, project, epoch)
                bar.set_postfix(loss=f"{row['train_loss']:.3f}")
                if run.close_epoch(row):
                    break
        run.end()
        run.rest()
        self.history_ = run.history
        self._width_ = width
        self.encoder_ = module.requires_grad_(False)

    def _run_epoch(self, run, project, epoch):
        (encode,) = run.learners
        run.begin_epoch(epoch, lambda schedule, *at: schedule(*at))
        for batch, _ in run.train_batches(epoch):
            views = torch.cat([run.view(batch.x), run.view(batch.x)])
            first, second = project(encode(views)).chunk(2)  # (batch, n_projected)
            losses = nt_xent(first, second, self.temperature, self.base_temperature)
            run.step(losses.mean())
        return run.end_epoch(epoch)

    def _resolve_view(self, shape):
        if not is_auto(self.view):
            return self.view
        if len(shape) == 1:
            return FeatureCorruption()
        return SimCLRView(flip=shape[0] == 3)

    def transform(self, X):
        """Embed rows as they are, in evaluation mode.

        Parameters
        ----------
        X : like the `X` of `fit`

        Returns
        -------
        ndarray of shape (n_samples, n_embedded), float32
            What the last layer of the module would see.
        """
        check_is_fitted(self)
        source = validate_X(self, X, reset=False)
        device = next(self.encoder_.parameters()).device
        net = _default_net() if self.net is None else self.net
        data = as_data(source, None, self._input_scale_, device, net)
        constants = self._input_scale_.constants(device)
        return forward_all(self.encoder_.eval(), data, constants, self._width_).cpu().numpy()

    @property
    def _n_features_out(self):
        return self._width_

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _default_net():
    return Network(
        max_epochs=100,
        batch_size=128,
        lr=0.1,
        lr_schedule=Cosine(1e-3, warmup=10),
        optimizer__weight_decay=1e-4,
    )
