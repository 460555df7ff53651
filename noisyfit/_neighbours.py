"""Nearest neighbours of embeddings, by blocks on the device."""

import math

import torch

_FEW_COLUMNS = 4  # up to which differences cost no more than the search for the smallest
SAME = 1e-13  # squared distance up to which rounding may keep equal rows apart


def resolve_metric(metric, n_features):
    """``"cosine"`` or ``"euclidean"``."""
    if metric != "auto":
        return metric
    return "cosine" if n_features > 3 else "euclidean"


def nearest_squares(queries, points, k, block_bytes, *, themselves=False):
    """Squared Euclidean distances to the `k` nearest of `points`, ascending (n_queries, k).

    With `themselves` the queries are the points, and none is its own neighbour.
    """
    n, d = points.shape
    half = points.square().sum(1) / 2
    # 4 bytes for each product and as much again to sort them out; k differences, twice
    block = max(1, block_bytes // (8 * n + 8 * k * d))
    found = []
    for start in range(0, len(queries), block):
        x = queries[start : start + block]
        close = closeness(x, points, half)  # (block, n)
        if themselves:
            close[:, start : start + len(x)].fill_diagonal_(-math.inf)
        index = close.topk(k, sorted=False).indices
        found.append((points[index] - x[:, None]).square_().sum(2).sort(1).values)
    return torch.cat(found)


def closeness(x, points, half):
    """A number for each pair that falls with their distance; `half` are half squared lengths."""
    if points.shape[1] > _FEW_COLUMNS:
        with torch.autocast(x.device.type, enabled=False):
            return torch.addmm(-half, x, points.T)  # half the squared distance is |x|²/2 less this
    far = torch.zeros(len(x), len(points), dtype=x.dtype, device=x.device)
    for of_x, of_points in zip(x.unbind(1), points.unbind(1), strict=True):
        far -= (of_x[:, None] - of_points).square_()
    return far


class Directions:
    """Rows on the unit sphere, where the cosine distance is half the squared distance."""

    def points(self, x):
        x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True)  # at least 1, or the row is 0
        # Zeros point into a direction of their own: at 0 from each other and at 1 from the rest.
        return torch.cat([x / length.clamp_min(1), length < 1], 1).float()

    def distances(self, squares):
        return squares / 2


class Positions:
    """Rows moved and scaled into the unit cube, so that squares keep their digits.

    Parameters
    ----------
    x : tensor of shape (n_samples, n_features)
    """

    def __init__(self, x):
        self._centre = x.mean(0)
        scale = (x - self._centre).abs().amax()
        self._scale = torch.where(scale > 0, scale, 1)

    def points(self, x):
        return ((x - self._centre) / self._scale).float()

    def distances(self, squares):
        return squares.sqrt() * self._scale


def space_of(x, metric):
    """Where distances of rows `x` are squared Euclidean ones."""
    return Directions() if resolve_metric(metric, x.shape[1]) == "cosine" else Positions(x)
