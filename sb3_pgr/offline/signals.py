"""Signs that offline training goes wrong: numbers that are none, values that nobody could earn, actions at their bounds."""

import math
import warnings
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import BasePolicy

from sb3_pgr.common.health import DivergedError
from sb3_pgr.offline.dataset import OfflineDataset, take

SATURATED = 0.99  # of a bound


def require_finite(metrics: dict[str, float], update: int) -> None:
    """
    :raises DivergedError: naming what is not finite
    """
    broken = [name for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise DivergedError(f"Update {update}: {', '.join(broken)} is not finite; training has diverged.")


def warn_of_divergence(value: float, bound: float, update: int) -> None:
    """
    :param value: largest absolute value
    :param bound: what no policy can exceed, max |r| / (1 - gamma)
    """
    warnings.warn(
        f"Update {update}: |Q| reaches {value:.3g}, but no policy can earn more than {bound:.3g}, max |r| / (1 - gamma): "
        "values diverge. Lower gamma or the learning rate, or stay closer to the data.",
        stacklevel=3,
    )


def saturated_share(policy: BasePolicy, dataset: OfflineDataset, n_rows: int = 256) -> float:
    """Share of a policy's actions that lie at their bounds, on rows of a dataset."""
    rows: Any = np.linspace(0, len(dataset) - 1, n_rows).astype(int)
    obs, _ = policy.obs_to_tensor(take(dataset.observations, rows))
    with th.no_grad():
        actions = policy._predict(obs, deterministic=True)
    return float((actions.abs() > SATURATED).float().mean())
