"""`Network`: how a network is trained, as one parameter of a method."""

import inspect

import numpy as np
import torch
from sklearn.base import clone
from skorch import NeuralNet
from torch import nn

from noisyfit._checks import check_bool, check_real, is_auto, is_one_of
from noisyfit._random import seeded_start
from noisyfit.modules import MLP, PreActResNet18, SmallCNN
from noisyfit.schedules import Cosine

__all__ = ["Network", "build_net", "resolve_device"]

_SCHEDULES = {"cosine": Cosine(), "constant": None}
_PRECISIONS = ("auto", "float32", "bfloat16")


class Network(NeuralNet):
    """A module with its optimiser, schedule, device and precision: a skorch net.

    Every method of the library takes one as its first parameter ``net`` and trains clones of
    it, never the object itself. All parameters of skorch's `NeuralNet` are accepted, among them
    ``module__*`` and ``optimizer__*``.

    Parameters
    ----------
    module : "auto", torch.nn.Module class or instance, default="auto"
        Returns logits of shape (batch, n_classes). ``"auto"`` chooses by the shape of ``X``: an
        `MLP` for tables, `PreActResNet18` for colour images from 32x32 on, `SmallCNN` for other
        images. The constructor parameters ``n_features``, ``input_shape`` (C, H, W),
        ``in_channels`` and ``n_classes`` (or ``num_classes``) of a class are filled in from the
        data where the caller leaves them out. A class gives two networks two starts, an
        instance gives them one.
    criterion : torch.nn.Module class, default=torch.nn.CrossEntropyLoss
        Used by skorch's own methods only; the loss belongs to the method.
    optimizer : torch.optim.Optimizer class, default=torch.optim.SGD
        SGD gets momentum 0.9, weight decay 5e-4 and the fused kernel unless
        ``optimizer__momentum``, ``optimizer__weight_decay`` or ``optimizer__fused`` says otherwise.
    lr : float, default=0.05
        Initial learning rate.
    max_epochs : int, default=50
        Epochs, warm-up of a method included.
    batch_size : int, default=64
        Rows per step.
    lr_schedule : "cosine", "constant" or callable, default="cosine"
        Factor on the learning rate, ``f(epoch, max_epochs)`` with a zero-based epoch; see
        `noisyfit.schedules`. Use ``"constant"`` with skorch's ``LRScheduler`` callback.
    gradient_clip : float, optional
        Largest norm of the gradient of one network.
    precision : {"auto", "float32", "bfloat16"}, default="auto"
        Precision of the training passes. ``"auto"`` is bfloat16 on accelerators that support it
        and float32 elsewhere. It holds for training and the evaluations inside it; losses,
        memories, scores and predictions are always float32. (What CUDA calls float32 may be TF32
        in convolutions, see ``torch.backends.cudnn.allow_tf32``.)
    normalize : "auto", None or pair (mean, std), default="auto"
        Scaling of the input: by the statistics of the training rows (per column, or per
        channel), none but the division of uint8 by 255, or given values.
    device : str or torch.device, default="auto"
        ``"auto"`` takes the accelerator if there is one.
    compile : bool, default=False
        Compile the module in place; the keys of its state dict stay. Options are
        ``compile__*``.
    deterministic : bool, default=True
        On CUDA ask cuDNN for kernels whose results repeat bit by bit. False lets it take others,
        which may be faster. The pre-training of a method follows the method's own net.
    train_split : callable, optional
        skorch split whose second part is held out, scored each epoch as ``valid_loss`` and
        ``valid_acc``, e.g. ``skorch.dataset.ValidSplit(0.1, stratified=True)`` together with the
        callback ``EarlyStopping``.
    callbacks : list of skorch callbacks, optional
        Notified for each network.
    iterator_train__num_workers : int, optional
        Loader workers for streamed data sets.
    verbose : int, default=0
        Passed to the callbacks. The progress bar belongs to the method's ``verbose``.
    **kwargs
        See skorch's `NeuralNet`.

    Examples
    --------
    >>> from noisyfit import Network
    >>> from noisyfit.modules import MLP
    >>> net = Network(MLP, module__hidden=(32,), lr=0.1, max_epochs=20)
    >>> net.get_params()["module__hidden"]
    (32,)
    """

    def __init__(
        self,
        module="auto",
        *,
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.SGD,
        lr=0.05,
        max_epochs=50,
        batch_size=64,
        lr_schedule="cosine",
        gradient_clip=None,
        precision="auto",
        normalize="auto",
        device="auto",
        deterministic=True,
        train_split=None,
        verbose=0,
        **kwargs,
    ):
        super().__init__(
            module,
            criterion=criterion,
            optimizer=optimizer,
            lr=lr,
            max_epochs=max_epochs,
            batch_size=batch_size,
            device=device,
            train_split=train_split,
            verbose=verbose,
            **kwargs,
        )
        self.lr_schedule = lr_schedule
        self.gradient_clip = gradient_clip
        self.precision = precision
        self.normalize = normalize
        self.deterministic = deterministic

    @property
    def _default_callbacks(self):
        return []  # the methods record losses and times themselves

    def initialize(self):
        """Build module and optimiser; skorch calls this before training."""
        if isinstance(self.module, str):
            raise ValueError(
                f"module={self.module!r} is chosen by the estimator that holds the network; give a "
                "module class to use the network on its own."
            )
        if self.device == "auto":
            self.device = str(resolve_device(self.device))
        return super().initialize()

    def get_params_for_optimizer(self, prefix, named_parameters):
        """Arguments of the optimiser, with this class's defaults for SGD."""
        args, kwargs = super().get_params_for_optimizer(prefix, named_parameters)
        if self.optimizer is torch.optim.SGD:
            kwargs = {"momentum": 0.9, "weight_decay": 5e-4} | kwargs
            if not kwargs.get("foreach") and torch.device(self.device).type in ("cpu", "cuda"):
                kwargs = {"fused": True} | kwargs
        return args, kwargs

    def get_params(self, deep=True, **kwargs):
        """Parameters by name, see scikit-learn."""
        params = super().get_params(deep=deep, **kwargs)
        params.pop("_params_to_validate", None)  # skorch's own note
        return params

    def __setstate__(self, state):
        # skorch maps weights to state["device"] and does not know "auto"
        known = "cpu" if state["device"] == "auto" else state["device"]
        super().__setstate__(state | {"device": known})
        self.device = state["device"]

    def torch_compile(self, module, name):
        """Compile the module in place, so that its state dict keeps its keys."""
        if self.compile and name in self._modules:
            module.compile(**self.get_params_for("compile"))
        return module


def resolve_device(device):
    """A `torch.device` that exists on this machine."""
    if device is None or (isinstance(device, str) and device == "auto"):
        accelerator = torch.accelerator.current_accelerator(check_available=True)
        return accelerator or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(
            f"device={device!r} cannot be used on this machine ({str(error).splitlines()[0]}); "
            "use 'auto' or 'cpu'."
        ) from None
    return resolved


def check_net(net):
    """The skorch net that a method holds, with a sentence for each usual mistake."""
    if net is None:
        return Network()
    if isinstance(net, type):
        name = net.__name__
        what = f"Network({name})" if issubclass(net, nn.Module) else f"{name}(...)"
        raise TypeError(f"net must be an instance, got the class {name}; pass net={what}.")
    if isinstance(net, nn.Module):
        raise TypeError(
            f"net must be a Network or another skorch net, got the module {type(net).__name__}; "
            "pass net=Network(module)."
        )
    if not isinstance(net, NeuralNet):
        raise TypeError(
            f"net must be a Network, another skorch net or None, got {type(net).__name__}."
        )
    _check_numbers(net)
    return net


def _check_numbers(net):
    for name in ("max_epochs", "batch_size"):
        value = getattr(net, name)
        is_count = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if not is_count or value < 1:
            raise ValueError(f"{name} must be a positive integer, got {value!r}.")
    check_real(net.lr, "lr", 0, closed="neither")
    clip = getattr(net, "gradient_clip", None)
    if clip is not None:
        check_real(clip, "gradient_clip", 0, closed="neither")
    precision = getattr(net, "precision", "float32")
    if not is_one_of(precision, _PRECISIONS):
        raise ValueError(f"precision must be one of {_PRECISIONS}, got {precision!r}.")
    check_bool(getattr(net, "deterministic", True), "deterministic")
    schedule = getattr(net, "lr_schedule", "constant")
    if not callable(schedule) and not is_one_of(schedule, _SCHEDULES):
        raise ValueError(
            f"lr_schedule must be a callable or one of {sorted(_SCHEDULES)}, got {schedule!r}."
        )
    normalize = getattr(net, "normalize", None)
    pair = isinstance(normalize, tuple | list | np.ndarray)
    if not (normalize is None or is_auto(normalize) or pair):
        raise ValueError(f"normalize must be 'auto', None or (mean, std), got {normalize!r}.")
    if net.optimizer is torch.optim.LBFGS:
        raise ValueError(
            "optimizer=LBFGS evaluates the loss several times per step, which a method's batches "
            "do not allow; use SGD, Adam or another optimizer that takes one step per batch."
        )


def lr_schedule(net):
    """The net's schedule as a callable, or None for a constant rate."""
    schedule = getattr(net, "lr_schedule", "constant")
    return _SCHEDULES[schedule] if isinstance(schedule, str) else schedule


def training_dtype(net, device):
    """The dtype of the training passes: bfloat16, or None for float32 without autocast."""
    precision = getattr(net, "precision", "float32")
    if precision == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bfloat16" if fast else "float32"
    return torch.bfloat16 if precision == "bfloat16" else None


def build_net(net, shape, n_classes, device, seed):
    """A clone of `net` with its module chosen, started from `seed` and moved to `device`.

    `shape` is (n_features,) for tables and (C, H, W) for images.
    """
    net = clone(net)
    if isinstance(net.module, str):
        if net.module != "auto":
            raise ValueError(
                f"module must be 'auto', a module class or an instance, got {net.module!r}."
            )
        net.set_params(module=_auto_module(shape))
    net.set_params(device=str(device), **_missing_arguments(net, shape, n_classes))
    with seeded_start(seed):
        net.initialize()
    return net


def _auto_module(shape):
    if len(shape) == 1:
        return MLP
    channels, height, width = shape
    return PreActResNet18 if channels == 3 and min(height, width) >= 32 else SmallCNN


def _missing_arguments(net, shape, n_classes):
    """``module__*`` values known from the data that the module takes and the caller left out."""
    if isinstance(net.module, nn.Module):
        return {}
    known = {"n_classes": n_classes, "num_classes": n_classes}
    if len(shape) == 1:
        known["n_features"] = shape[0]
    else:
        known |= {"input_shape": tuple(shape), "in_channels": shape[0]}
    accepted = inspect.signature(net.module).parameters
    given = net.get_params_for("module")
    return {f"module__{k}": v for k, v in known.items() if k in accepted and k not in given}
