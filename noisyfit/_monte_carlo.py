"""Monte-Carlo dropout: a network that averages over masks, and how unsure that shows it to be."""

import math
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import nn
from torch.nn import functional

from noisyfit._head import last_linear

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# not attributes of the modules, as one network may predict in several threads
_seed = ContextVar("_seed", default=None)  # of the masks of the pass in progress; None for none
_with_entropy = ContextVar("_with_entropy", default=False)


def normalized_entropy(p):
    """Entropy (...) of distributions p (..., n_classes), divided by its largest value."""
    n_classes = p.shape[-1]
    if n_classes == 1:
        return torch.zeros_like(p[..., 0])
    return (torch.special.entr(p).sum(-1) / math.log(n_classes)).clamp(0, 1)


def mutual_information(of_mean, of_each):
    """What the passes disagree on, (n,), in the units of `normalized_entropy`.

    Entropy of their mean distribution minus their mean entropy.
    """
    return (of_mean - of_each).clamp_min(0)


def log_mean(logits):
    """Logarithm (n, n_classes) of the mean softmax of logits (n, n_passes, n_classes)."""
    return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


def averaged(logits):
    """`log_mean` of logits (n, n_passes, n_classes), inside `showing_entropy` with the mean
    entropy of the passes as a last column."""
    mean = log_mean(logits)
    if not _with_entropy.get():
        return mean
    return torch.cat([mean, normalized_entropy(logits.softmax(2)).mean(1, keepdim=True)], 1)


@contextmanager
def showing_entropy():
    """Inside, evaluation gives (batch, n_classes + 1), see `averaged`."""
    token = _with_entropy.set(True)
    try:
        yield
    finally:
        _with_entropy.reset(token)


def shared_mask(shape, p, seed, device):
    """Dropout mask drawn from `seed`, scaled to mean 1."""
    generator = torch.Generator(device).manual_seed(seed)
    mask = torch.empty(shape, device=device).bernoulli_(1 - p, generator=generator)
    return mask / (1 - p)


class MonteCarloLinear(nn.Linear):
    """A last layer behind dropout that in evaluation mode averages over `n_passes` masks.

    All rows share a mask, so that a prediction does not depend on the rest of its batch: each mask
    is one network, and all together cost one matrix product. It takes over the parameters of the
    layer `linear`.
    """

    def __init__(self, linear, p, n_passes):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_parameter("weight", linear.weight)
        self.register_parameter("bias", linear.bias)
        self.dropout = nn.Dropout(p)
        self.n_passes, self.seed, self.averages = n_passes, 0, True

    def forward(self, h):
        if self.training:
            return super().forward(self.dropout(h))
        if not (self.averages or _with_entropy.get()):
            return super().forward(h)
        shape, p = (self.n_passes, 1, self.in_features), self.dropout.p
        masks = shared_mask(shape, p, self.seed, h.device)
        logits = functional.linear(h, (masks * self.weight).flatten(0, 1))
        logits = logits.unflatten(1, (self.n_passes, -1))  # (batch, n_passes, n_classes)
        if self.bias is not None:
            logits = logits + self.bias
        return averaged(logits)


class MonteCarloDropout(nn.Module):
    """The dropout `layer`, which in evaluation applies a mask that all rows of a pass share.

    `number` tells its masks from those of the other layers.
    """

    def __init__(self, layer, number):
        super().__init__()
        self.layer, self.number = layer, number

    def forward(self, x):
        seed = _seed.get()
        if self.training or seed is None:
            return self.layer(x)
        rest = x.ndim - 2
        by_channel = not isinstance(self.layer, nn.Dropout)
        shape = (1, x.shape[1], *(1,) * rest) if by_channel else (1, *x.shape[1:])
        return x * shared_mask(shape, self.layer.p, seed + self.number, x.device)


class MonteCarloNetwork(nn.Module):
    """A network that in evaluation mode averages over `n_passes` passes with masks.

    `module` has `n_layers` layers `MonteCarloDropout`.
    """

    def __init__(self, module, n_layers, n_passes):
        super().__init__()
        self.module, self.n_layers = module, n_layers
        self.n_passes, self.seed, self.averages = n_passes, 0, True

    def forward(self, x):
        if self.training or not (self.averages or _with_entropy.get()):
            return self.module(x)
        logits = [self._masked(x, self.seed + s * self.n_layers) for s in range(self.n_passes)]
        return averaged(torch.stack(logits, 1))

    def _masked(self, x, seed):
        token = _seed.set(seed)
        try:
            return self.module(x.clone())  # a layer may work in place
        finally:
            _seed.reset(token)


def layers_at(module, x, position):
    """Names of the layers of `module` that a dropout position means; ValueError if it has none.

    `position` is ``"head"``, the last linear layer, or ``"blocks"``, the module's own dropout
    layers. `x` is a batch to try the module on.
    """
    name = type(module).__name__
    if position == "head":
        module.eval()
        head, linear = last_linear(module, x)
        if type(linear) is not nn.Linear:  # a subclass may compute something else
            raise ValueError(
                "dropout_position='head' acts before the torch.nn.Linear that gives the logits; "
                f"{name} does not end in one."
            )
        return [head]
    names = [key for key, layer in module.named_modules() if isinstance(layer, _DROPOUT)]
    if not names:
        raise ValueError(
            f"dropout_position='blocks' needs a module with dropout layers; {name} has none. Use "
            "'head', or a module such as PreActResNet18 or SmallCNN."
        )
    return names


def behind_dropout(module, x, position, p, n_passes):
    """`module` with Monte-Carlo dropout, which in evaluation mode returns log probabilities.

    It acts before the last linear layer (``"head"``) or in place of the module's own dropout
    layers, whose rate becomes `p`. `x` is a batch to try the module on.
    """
    names = layers_at(module, x, position)
    if position == "head":
        (head,) = names
        layer = MonteCarloLinear(module.get_submodule(head), p, n_passes)
        if not head:  # the layer is all there is
            return layer
        module.set_submodule(head, layer)
        return module
    for i, key in enumerate(names):
        layer = module.get_submodule(key)
        layer.p = p
        module.set_submodule(key, MonteCarloDropout(layer, i))
    return MonteCarloNetwork(module, len(names), n_passes)


def monte_carlo_part(module):
    """The part of a module made by `behind_dropout` that makes the passes."""
    kinds = (MonteCarloLinear, MonteCarloNetwork)
    return next(part for part in module.modules() if isinstance(part, kinds))


def without_masks(module):
    """`module`, or of a `MonteCarloNetwork` the network that makes its passes."""
    return module.module if isinstance(module, MonteCarloNetwork) else module
