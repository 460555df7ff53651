"""A step taken on paper: the network as a function of its parameters."""

import warnings

import torch
from torch.func import functional_call, jvp

_TILT, _SHIFT = 1.1, 0.1  # applied to all parameters, they must change what the network says


class LookAhead:
    """A learner's network as a function of parameters, which need not be its own.

    Passes have the network's mode, layout, precision and dropout, and leave its buffers as they
    are: batch normalisation in training mode uses the statistics of the batch and forgets them.

    Parameters
    ----------
    learner : Learner

    Attributes
    ----------
    parameters : dict of tensors
        The trained parameters of the network, by name.
    """

    def __init__(self, learner):
        self._learner = learner
        trained = learner.module.named_parameters()
        self.parameters = {name: p for name, p in trained if p.requires_grad}

    def __call__(self, x, parameters):
        """Float32 logits (batch, n_classes) of a prepared batch."""
        module = self._learner.module
        buffers = {name: b.clone() for name, b in module.named_buffers()}
        return self._learner.forward(
            lambda x: functional_call(module, (parameters, buffers), (x,)), x
        )

    def gradient(self, loss, second_order=False):
        """Gradient of a scalar by the parameters, by name; its graph is kept.

        With `second_order` it is itself differentiable.
        """
        gradients = torch.autograd.grad(
            loss,
            list(self.parameters.values()),
            create_graph=second_order,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return dict(zip(self.parameters, gradients, strict=True))

    def step(self, gradient, lr):
        """Parameters after one plain gradient step, a function of the present ones."""
        return {name: p - lr * gradient[name] for name, p in self.parameters.items()}

    def along(self, function, direction):
        """``function(parameters)`` and its derivative along `direction` (dict like them).

        One pass in forward mode, without a graph.
        """
        parameters = {name: p.detach() for name, p in self.parameters.items()}
        with warnings.catch_warnings():  # torch scripts some functions of its own the first time
            warnings.simplefilter("ignore", FutureWarning)
            return jvp(function, (parameters,), (direction,))

    def check(self, x, second_order=False):
        """Refuse a module whose output on a prepared batch does not follow the parameters.

        With `second_order` also one that cannot be differentiated twice.
        """
        name = type(self._learner.module).__name__
        if getattr(self._learner.net, "compile", False):
            raise ValueError(
                f"compile=True fixes the parameters of {name}, so that no step can be tried out on "
                "a copy of them; leave it False."
            )
        self._learner.eval()
        with torch.no_grad():
            own = self._learner(x)
            same = self(x, self.parameters)
            tilted = self(x, {key: _TILT * p + _SHIFT for key, p in self.parameters.items()})
        if second_order:
            self._differentiate_twice(x, name)
        self._learner.train()
        if not torch.allclose(own, same, rtol=1e-3, atol=1e-4) or torch.equal(own, tilted):
            raise ValueError(
                f"{name} does not compute its output from the parameters it lists, so that no "
                "step can be tried out on a copy of them. Modules that rewrite their own weights "
                "(weight or spectral normalisation as a hook) do so; use "
                "torch.nn.utils.parametrizations instead."
            )

    def _differentiate_twice(self, x, name):
        try:
            gradient = self.gradient(self(x, self.parameters).square().mean(), second_order=True)
            sum(g.square().sum() for g in gradient.values()).backward()
            self._learner.zero_grad()
        except (RuntimeError, NotImplementedError) as error:
            raise ValueError(
                f"{name} cannot be differentiated twice ({str(error).splitlines()[0]}); set "
                "second_order=False."
            ) from error
