"""Running average of a network's weights: the teacher of several methods."""

import copy

import torch

from noisyfit._random import seed_dropout


class WeightAverage:
    """A second set of weights that follows those of a learner; call it to get float32 logits.

    Parameters average by `update`; buffers, such as the statistics of batch normalisation, are
    its own, fed by its own passes in training mode.

    Parameters
    ----------
    learner : Learner
    generator : torch.Generator
        Source of its dropout masks.
    """

    def __init__(self, learner, generator):
        self.module = _copy(learner.module)
        if not getattr(learner.net, "compile", False):
            seed_dropout(self.module, generator)
        self._of, self.dtype = learner, learner.dtype
        self._pairs = (list(self.module.parameters()), list(learner.module.parameters()))
        for parameter in self._pairs[0]:
            parameter.requires_grad_(False)

    def __call__(self, x):
        """Float32 logits (batch, n_classes) of a prepared batch, without gradient."""
        with torch.no_grad():
            return self._of.forward(self.module, x)

    def train(self):
        """Training mode: batch statistics, dropout."""
        self.module.train()

    def eval(self):
        """Evaluation mode."""
        self.module.eval()

    def update(self, decay):
        """``average = decay * average + (1 - decay) * weights``; `decay` is a float."""
        average, weights = self._pairs
        with torch.no_grad():
            torch._foreach_lerp_(average, weights, 1 - decay)

    def replace(self, learner=None):
        """Put the averaged weights and buffers into the learner's network."""
        (learner or self._of).module.load_state_dict(self.module.state_dict())


def _copy(module):
    """Deep copy with the dropout generators left out, which do not copy."""
    generators = {
        layer: layer.generator for layer in module.modules() if hasattr(layer, "generator")
    }
    memo = {id(generator): generator for generator in generators.values()}
    return copy.deepcopy(module, memo)
