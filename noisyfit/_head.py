"""The linear layer that a network ends in, and what it is fed."""

from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def inputs_of(layer):
    """A list that receives the input of each call of `layer` inside the block."""
    received = []
    handle = layer.register_forward_pre_hook(lambda _, args: received.append(args[0]))
    try:
        yield received
    finally:
        handle.remove()


def last_linear(module, x):
    """Name and layer of the linear layer whose output are the logits of `module`.

    `module` is tried on the batch `x` in its present mode, past what may be compiled of it. The
    name is empty if it is the layer itself; (None, None) if it ends otherwise.
    """
    for name, layer in reversed(list(module.named_modules())):
        if not isinstance(layer, nn.Linear):
            continue
        if layer is module:  # `forward` calls no hooks of its own
            return name, layer
        with torch.no_grad(), inputs_of(layer) as received:
            logits = module.forward(x)
        if len(received) != 1 or received[0].ndim != 2:
            continue
        with torch.no_grad():
            again = layer(received[0])
        if again.shape == logits.shape and torch.allclose(again, logits, rtol=1e-3, atol=1e-5):
            return name, layer
    return None, None
