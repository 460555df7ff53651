"""What a network feeds into its last linear layer, fitted or in training."""

import sys
from contextlib import ExitStack
from numbers import Integral

import numpy as np
import torch
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted
from torch import nn

from noisyfit._inputs import validate_X
from noisyfit._monte_carlo import without_masks
from noisyfit._run import forward_all

__all__ = ["penultimate_features"]


def penultimate_features(estimator, X, net=0):
    """Input of the last linear layer of a fitted network, for un-augmented rows.

    Parameters
    ----------
    estimator : estimator
        A fitted method of this library.
    X : like the `X` of its `fit`
    net : int, default=0
        Whose features, counted from 0.

    Returns
    -------
    ndarray of shape (n_samples, n_features), float32
        Everything but the first axis is flattened.

    Raises
    ------
    ValueError, TypeError
        If the estimator was not fitted, if there is no such network, if the network calls no
        linear layer, or if that layer sees something else than one entry per row.

    Notes
    -----
    Rows pass in evaluation mode and in batches, as they do in ``predict_proba``. The last layer is
    the ``torch.nn.Linear`` that is called last, wherever it stands in the module.

    Examples
    --------
    >>> from noisyfit import CrossEntropyClassifier, Network
    >>> from noisyfit._features import penultimate_features
    >>> X, y = [[0.0], [1.0]] * 20, ["no", "yes"] * 20
    >>> clf = CrossEntropyClassifier(Network(max_epochs=2, module__hidden=(8, 3))).fit(X, y)
    >>> penultimate_features(clf, X).shape
    (40, 3)
    """
    check_is_fitted(estimator)
    check_scalar(net, "net", Integral, min_val=0, max_val=len(estimator.nets_) - 1)
    net = estimator.nets_[net]
    source, device = validate_X(estimator, X, reset=False), torch.device(net.device)
    data = estimator._as_data(source, None, device, net)
    constants = estimator._input_scale_.constants(device)
    module, recorder = without_masks(net.module_).eval(), _LastLinear()
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # slow to import, and without it nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # deaf to new hooks
        for hook in recorder.hooks(module):
            stack.callback(hook.remove)
        forward_all(module, data, constants, len(estimator.classes_))
    return recorder.features(type(module).__name__, len(data))


class _LastLinear:
    """Keeps the input of the last linear layer of every batch."""

    def __init__(self):
        self._latest, self._batches = None, []

    def hooks(self, module):
        """Yield the handles of the hooks, each as soon as it is set."""
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                yield layer.register_forward_pre_hook(self._see)
        yield module.register_forward_hook(self._close)

    def _see(self, layer, inputs):
        self._latest = inputs[0]

    def _close(self, module, inputs, output):
        if self._latest is not None:
            self._batches.append(self._latest.flatten(1).float().cpu())
        self._latest = None

    def features(self, name, n_rows):
        """All batches as an array (n_rows, n_features)."""
        if not self._batches:
            raise ValueError(
                f"{name} has no torch.nn.Linear that it calls, so it has no penultimate features."
            )
        features = torch.cat(self._batches).numpy()
        if len(features) != n_rows:
            raise ValueError(
                f"The last linear layer of {name} sees {len(features)} entries for {n_rows} rows; "
                "it must see one for each."
            )
        return np.ascontiguousarray(features)


class Watched:
    """A network without gradient that gives features with its logits.

    Features are the input of its last linear layer; without one, its output.

    Parameters
    ----------
    learner : Learner
        In whose layout and precision batches pass.
    module : torch.nn.Module
    """

    def __init__(self, learner, module):
        self._learner, self._module = learner, module
        self._seen = None
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(self._see)

    def _see(self, layer, inputs):
        self._seen = inputs[0]

    def __call__(self, x):
        """Output (batch, ...) and features (batch, n_features) of a prepared batch, float32."""
        with torch.no_grad():
            out = self._learner.forward(self._module, x)
        seen, self._seen = self._seen, None
        if seen is None or len(seen) != len(x):
            seen = out
        return out, seen.reshape(len(seen), -1).float()
