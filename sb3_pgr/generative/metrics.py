"""How like real transitions generated ones are. Rows are joined vectors ``(n, d)``, see ``TransitionLayout``."""

import numpy as np
import torch as th


def marginal_distances(real: th.Tensor, synthetic: th.Tensor) -> np.ndarray:
    """Kolmogorov-Smirnov distance of each dimension, in [0, 1], ``(d,)``."""
    from scipy.stats import ks_2samp  # takes a second to import

    pairs = zip(real.cpu().numpy().T, synthetic.cpu().numpy().T, strict=True)
    return np.array([ks_2samp(ours, theirs, method="asymp").statistic for ours, theirs in pairs])


def correlations(rows: th.Tensor) -> th.Tensor:
    """Correlation matrix ``(d, d)``; 0 where a dimension does not vary."""
    return th.corrcoef(rows.T).nan_to_num()


def correlation_error(real: th.Tensor, synthetic: th.Tensor) -> float:
    """Mean absolute difference of the correlations between two dimensions."""
    d = real.shape[1]
    difference = (correlations(real) - correlations(synthetic)).abs()
    return float((difference.sum() - difference.diagonal().sum()) / max(d * (d - 1), 1))


def nearest_distances(rows: th.Tensor, among: th.Tensor, scale: th.Tensor, skip_first: bool = False) -> th.Tensor:
    """
    Euclidean distance of each row to the nearest of others, in standard deviations.

    :param rows: ``(n, d)``
    :param among: ``(m, d)``
    :param scale: one standard deviation of each dimension ``(d,)``
    :param skip_first: take the second nearest, where the rows are among the others themselves
    :return: ``(n,)``
    """
    rows, among = rows / scale, among / scale
    at_a_time = max(10_000_000 // len(among), 1)
    nearest = [th.cdist(part, among).topk(1 + skip_first, dim=1, largest=False).values for part in rows.split(at_a_time)]
    return th.cat(nearest)[:, -1]


def relative_dynamics_error(next_obs: np.ndarray, true_next_obs: np.ndarray, typical_change: np.ndarray) -> np.ndarray:
    """
    Squared error of generated next observations against the true ones, in units of the variance of real changes
    ``next_obs - obs``, averaged over dimensions: 0 is perfect.

    :param typical_change: standard deviation of real changes ``(obs_dim,)``
    :return: ``(n,)``
    """
    changes = np.maximum(typical_change, 1e-6)
    return (((next_obs - true_next_obs) / changes) ** 2).mean(1)
