"""EM on torch tensors: two Gaussians or two betas on a line, without a round trip to the host."""

from noisyfit._beta_em import BETA_PRESETS, BetaFit, beta_em, beta_posterior
from noisyfit._em_loop import Scaling, minmax_scaling, no_scaling, percentile_scaling
from noisyfit._gaussian_em import GaussianFit, gaussian_em, gaussian_posterior, usual_bins

__all__ = [
    "BETA_PRESETS",
    "BetaFit",
    "GaussianFit",
    "Scaling",
    "beta_em",
    "beta_posterior",
    "gaussian_em",
    "gaussian_posterior",
    "minmax_scaling",
    "no_scaling",
    "percentile_scaling",
    "usual_bins",
]
