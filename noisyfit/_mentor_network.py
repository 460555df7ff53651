"""The network of a mentor: its inputs, its parameters and how they are trained."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PERCENT = 100
LARGEST_LOSS, LARGEST_DIFFERENCE = 30.0, 5.0  # of the published grid
_EMBEDDING, _HIDDEN = 5, 20
_LEARNING_RATE, _STAIR, _N_STAIRS, _CLIP = 0.1, 0.9, 30, 5.0


def published_grid(n_points, generator):
    """`n_points` of the 120 x 100 x 100 values of (loss, difference, progress) of the paper."""
    losses = torch.cat([torch.arange(100) / 10, torch.arange(10.0, 30.0)])
    differences = torch.arange(-50, 50) / 10
    sizes = len(losses), len(differences), PERCENT
    chosen = torch.randperm(sizes[0] * sizes[1] * sizes[2], generator=generator)[:n_points]
    i, j, progress = torch.unravel_index(chosen, sizes)
    return losses[i], differences[j], progress


class MentorModule(nn.Module):
    """Loss, difference and embedded progress to the logit of a weight: fewer than 1000 parameters.

    One step of the published LSTM from an empty state leaves ``sigmoid(gate) * tanh(candidate)``
    in the cell of each direction; its other gates act on nothing.
    """

    def __init__(self, architecture, generator):
        super().__init__()

        def normal(*shape):
            return nn.Parameter(torch.randn(shape, generator=generator))

        self.is_lstm = architecture == "lstm"
        self.embedding = normal(PERCENT, _EMBEDDING).requires_grad_(not self.is_lstm)
        self.hidden, self.hidden_bias = normal(_HIDDEN, 2 + _EMBEDDING), normal(_HIDDEN)
        self.out, self.out_bias = normal(1, _HIDDEN), nn.Parameter(torch.zeros(1))
        if self.is_lstm:
            self.gates, self.gates_bias = normal(4, 2), nn.Parameter(torch.zeros(4))

    def forward(self, loss, difference, progress):
        """Logits (n,); `progress` is an integer or an int64 tensor (n,)."""
        loss = loss.clamp(0, LARGEST_LOSS)
        difference = difference.clamp(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)
        features = torch.stack([loss, difference], dim=1)  # (n, 2)
        if self.is_lstm:
            gate, candidate = functional.linear(features, self.gates, self.gates_bias).chunk(2, 1)
            features = gate.sigmoid() * candidate.tanh()  # (n, 2), one per direction
        embedded = self.embedding[progress].expand(len(features), _EMBEDDING)
        features = torch.cat([features, embedded], dim=1)  # (n, 7)
        hidden = functional.linear(features, self.hidden, self.hidden_bias).tanh()
        return functional.linear(hidden, self.out, self.out_bias).squeeze(1)


def train_module(module, points, target, n_steps, batch_size, penalty, generator):
    """Fit `module` to the targets (n,) at `points`, three tensors (n,).

    Adam with the published rate, staircase and clipping; cross-entropy if all targets are 0 or 1,
    else the squared error.
    """
    is_binary = ((target == 0) | (target == 1)).all()
    error = functional.binary_cross_entropy_with_logits if is_binary else squared_error
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(parameters, lr=_LEARNING_RATE, fused=True)
    (group,) = optimizer.param_groups
    kept_small = [p for name, p in module.named_parameters() if name in ("hidden", "out", "gates")]
    for step in range(n_steps):
        group["lr"] = _LEARNING_RATE * _STAIR ** (step * _N_STAIRS // n_steps)
        rows = torch.randint(len(target), (batch_size,), generator=generator)
        loss = error(module(*(values[rows] for values in points)), target[rows])
        if penalty:
            loss = loss + penalty / len(target) * sum(p.square().sum() for p in kept_small)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()


def squared_error(logits, target):
    """Mean over the points, a tensor of shape ()."""
    return (logits.sigmoid() - target).square().mean()


def as_numbers(values, name):
    """Float32 tensor (n,) of the caller's `values`, on their device."""
    if not torch.is_tensor(values):
        values = torch.from_numpy(np.asarray(values, dtype=np.float32))
    if values.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {tuple(values.shape)}.")
    return values.detach().float()


def as_points(loss, difference, progress):
    """Three tensors (n,) on the host: float32, float32, int64."""
    loss, difference = as_numbers(loss, "loss").cpu(), as_numbers(difference, "difference").cpu()
    progress = torch.as_tensor(progress if torch.is_tensor(progress) else np.asarray(progress))
    if progress.is_floating_point() or progress.ndim > 1:
        raise ValueError("progress must be an integer, or one for each sample.")
    if ((progress < 0) | (progress >= PERCENT)).any():
        raise ValueError(f"progress must lie in 0, ..., {PERCENT - 1}.")
    progress = progress.cpu().long()
    progress = progress.expand(len(loss)) if progress.ndim == 0 else progress
    if not len(loss) == len(difference) == len(progress) > 0:
        raise ValueError(
            "loss, difference and progress must have the same length, at least 1; got "
            f"{len(loss)}, {len(difference)} and {len(progress)}."
        )
    if not (loss.isfinite().all() and difference.isfinite().all()):
        raise ValueError("loss and difference must be finite.")
    return loss, difference, progress
