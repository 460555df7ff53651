"""Monte-Carlo dropout: a network that averages over masks, and how unsure that shows it to be."""

import math
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn import functional

from noisyfit._head import last_linear

_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def normalized_entropy(p):
    """Entropy (...) of distributions p (..., n_classes), divided by its largest value."""
    n_classes = p.shape[-1]
    if n_classes == 1:
        return torch.zeros_like(p[..., 0])
    return (torch.special.entr(p).sum(-1) / math.log(n_classes)).clamp(0, 1)


def mutual_information(passes):
    """What the passes disagree on, (n,), in the units of `normalized_entropy`.

    Entropy of the mean distribution minus mean entropy; `passes` (n, n_passes, n_classes).
    """
    of_mean = normalized_entropy(passes.mean(1))
    return (of_mean - normalized_entropy(passes).mean(1)).clamp_min(0)


def log_mean(logits):
    """Logarithm (n, n_classes) of the mean softmax of logits (n, n_passes, n_classes)."""
    return logits.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


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
        self.n_passes, self.seed = n_passes, 0
        self.averages, self.shows_passes = True, False

    def forward(self, h):
        if self.training:
            return super().forward(self.dropout(h))
        if not (self.averages or self.shows_passes):
            return super().forward(h)
        shape, p = (self.n_passes, 1, self.in_features), self.dropout.p
        masks = shared_mask(shape, p, self.seed, h.device)
        logits = functional.linear(h, (masks * self.weight).flatten(0, 1))
        logits = logits.unflatten(1, (self.n_passes, -1))  # (batch, n_passes, n_classes)
        if self.bias is not None:
            logits = logits + self.bias
        return logits.flatten(1) if self.shows_passes else log_mean(logits)


class MonteCarloDropout(nn.Module):
    """The dropout `layer`, which in evaluation mode applies a mask that all rows share."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.seed = layer, None

    def forward(self, x):
        if self.training or self.seed is None:
            return self.layer(x)
        rest = x.ndim - 2
        by_channel = not isinstance(self.layer, nn.Dropout)
        shape = (1, x.shape[1], *(1,) * rest) if by_channel else (1, *x.shape[1:])
        return x * shared_mask(shape, self.layer.p, self.seed, x.device)


class MonteCarloNetwork(nn.Module):
    """A network that in evaluation mode averages over `n_passes` passes with masks."""

    def __init__(self, module, layers, n_passes):
        super().__init__()
        self.module = module
        self._layers = layers
        self.n_passes, self.seed = n_passes, 0
        self.averages, self.shows_passes = True, False

    def forward(self, x):
        if self.training or not (self.averages or self.shows_passes):
            return self.module(x)
        logits = []
        for s in range(self.n_passes):
            for i, layer in enumerate(self._layers):
                layer.seed = self.seed + s * len(self._layers) + i
            logits.append(self.module(x))
        for layer in self._layers:
            layer.seed = None
        logits = torch.stack(logits, 1)  # (batch, n_passes, n_classes)
        return logits.flatten(1) if self.shows_passes else log_mean(logits)


def behind_dropout(module, x, position, p, n_passes):
    """`module` with Monte-Carlo dropout, which in evaluation mode returns log probabilities.

    `position` is ``"head"``, before the last linear layer, or ``"blocks"``, at the module's own
    dropout layers, whose rate becomes `p`. `x` is a batch
    to try the module on.
    """
    name = type(module).__name__
    if position == "head":
        module.eval()
        head, linear = last_linear(module, x)
        if not head:
            raise ValueError(
                "dropout_position='head' acts before the torch.nn.Linear that gives the logits; "
                f"{name} does not end in one."
            )
        module.set_submodule(head, MonteCarloLinear(linear, p, n_passes))
        return module
    names = [key for key, layer in module.named_modules() if isinstance(layer, _DROPOUT)]
    if not names:
        raise ValueError(
            f"dropout_position='blocks' needs a module with dropout layers; {name} has none. Use "
            "'head', or a module such as PreActResNet18 or SmallCNN."
        )
    layers = []
    for key in names:
        module.get_submodule(key).p = p
        layers.append(MonteCarloDropout(module.get_submodule(key)))
        module.set_submodule(key, layers[-1])
    return MonteCarloNetwork(module, layers, n_passes)


def monte_carlo_part(module):
    """The part of a module made by `behind_dropout` that makes the passes."""
    kinds = (MonteCarloLinear, MonteCarloNetwork)
    return next(part for part in module.modules() if isinstance(part, kinds))


@contextmanager
def showing_passes(module):
    """Inside, evaluation gives the logits of all passes, (batch, n_passes * n_classes)."""
    part = monte_carlo_part(module)
    part.shows_passes = True
    try:
        yield part.n_passes
    finally:
        part.shows_passes = False
