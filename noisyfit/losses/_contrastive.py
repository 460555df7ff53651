"""Contrastive loss: a pure function of two views' projections, unreduced."""

import math

import torch
from torch.nn import functional as F


def nt_xent(first, second, temperature=0.5, base_temperature=None):
    """Normalised temperature-scaled cross-entropy of pairs of views (NT-Xent).

    Each of the 2 n projections is to find the other view of its sample among the 2 n - 1 other
    projections, by cosine similarity over `temperature`. The loss of a sample is the mean over its
    two views.

    Parameters
    ----------
    first, second : floating tensors of shape (batch, n_features)
        Projections of two views of each sample; they are scaled to unit length here. A row of
        zeros has the similarity 0 to everything, and no gradient.
    temperature : float above 0, default=0.5
        Divides the similarities.
    base_temperature : float above 0, optional
        Multiplies the loss by ``temperature / base_temperature``. Code for supervised contrastive
        learning has 0.07 here, and learning rates to suit.

    Returns
    -------
    tensor of shape (batch,)
        float32, or float64 if the projections are. Needs memory for a few matrices of
        ``(2 * batch)**2`` entries.

    Raises
    ------
    ValueError
        If the views are not tables of the same shape.

    References
    ----------
    Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
    Representations", ICML 2020, eq. 1. Factor: Khosla et al., "Supervised Contrastive Learning",
    NeurIPS 2020.

    Examples
    --------
    >>> import torch
    >>> from noisyfit.losses import nt_xent
    >>> nt_xent(torch.ones(8, 4), torch.ones(8, 4))[:2]  # log(15): all look the same
    tensor([2.7081, 2.7081])
    >>> nt_xent(torch.eye(8), torch.eye(8))[:2]
    tensor([1.0629, 1.0629])
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "nt_xent needs two tables of the same shape, got "
            f"{tuple(first.shape)} and {tuple(second.shape)}."
        )
    n = len(first)
    with torch.autocast(first.device.type, enabled=False):  # similarities need all digits
        z = _unit(torch.cat([first, second]))  # (2 batch, n_features)
        similarity = z @ z.T / temperature
    itself = torch.eye(2 * n, dtype=torch.bool, device=z.device)
    partner = torch.arange(2 * n, device=z.device).roll(n)
    loss = F.cross_entropy(similarity.masked_fill(itself, -math.inf), partner, reduction="none")
    loss = loss.view(2, n).mean(0)
    return loss if base_temperature is None else loss * (temperature / base_temperature)


def _unit(z):
    """Rows scaled to length 1; zeros stay zeros, with zero gradient."""
    z = z if z.dtype == torch.float64 else z.float()
    length = torch.linalg.vector_norm(z, dim=1, keepdim=True)
    return z / length.masked_fill(length == 0, math.inf)
