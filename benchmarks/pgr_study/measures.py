"""What the study looks at along training beside returns: how the networks and the values are."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from torch import nn

DORMANT_BELOW = 0.025
STEPS, HORIZON = 1_000, 500


def values_and_networks(policy: Any, env: gym.Env, gamma: float, entropy_weight: float, seed: int) -> dict[str, float]:
    """
    Along episodes of the stochastic policy, 1 000 to 1 500 steps:

    - ``q_bias``, ``q_bias_std``: how far the critics' mean is above what is earned from there, discounted and with the entropy
      to come (REDQ, section 3.2): mean and standard deviation of the difference, over ``mc_return``, the mean of what is
      earned, in absolute value. Steps whose return is not known are left out: the last 500 before an episode is cut off
      (0.99^500 is 0.007).
    - ``dormant_actor``, ``dormant_critics``: shares of hidden units whose mean activation is at most 0.025 of the mean of
      their layer's (Sokar et al. 2023, definition 3.1; each critic's for itself). NaN for networks without ``nn.ReLU``
      modules.

    :param policy: of an SB3 SAC, or one of its kind
    :param env: its environment once more
    :param gamma: discount
    :param entropy_weight: the temperature
    """
    differences: list[float] = []
    returns: list[float] = []
    visited = []
    while len(visited) < STEPS:
        obs, _ = env.reset(seed=seed + len(visited))
        episode = []
        terminated = truncated = False
        while not (terminated or truncated) and len(visited) < STEPS + HORIZON:
            batch = policy.obs_to_tensor(obs)[0]
            with th.no_grad():
                action, log_prob = policy.actor.action_log_prob(batch)
                value = th.stack(list(policy.critic(batch, action))).mean()
            visited.append((batch, action))
            obs, reward, terminated, truncated, _ = env.step(policy.unscale_action(action[0].cpu().numpy()))
            episode.append((float(value), float(log_prob), float(reward)))
        backwards = []
        to_come = 0.0
        for value, log_prob, reward in reversed(episode):
            earned = reward + gamma * to_come
            backwards.append((value - earned, earned))
            to_come = earned - entropy_weight * log_prob
        known = backwards if terminated else backwards[HORIZON:]
        differences += [difference for difference, _ in known]
        returns += [earned for _, earned in known]
    scale = float(np.mean(np.abs(returns))) if returns else float("nan")
    bias = {"q_bias": np.mean(differences) / scale, "q_bias_std": np.std(differences) / scale} if returns else {}
    return bias | {"mc_return": scale} | _dormant(policy, *map(th.cat, zip(*visited, strict=True)))


def _dormant(policy: Any, obs: th.Tensor, actions: th.Tensor) -> dict[str, float]:
    with th.no_grad():
        with _activations(policy.actor) as of_actor:
            policy.actor(obs, deterministic=True)
        with _activations(policy.critic) as of_critics:
            policy.critic(obs, actions)
    return {"dormant_actor": _share(of_actor), "dormant_critics": _share(of_critics)}


@contextmanager
def _activations(network: nn.Module) -> Iterator[list[th.Tensor]]:
    found: list[th.Tensor] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: found.append(output.detach()))
        for module in network.modules()
        if isinstance(module, nn.ReLU)
    ]
    yield found
    for hook in hooks:
        hook.remove()


def _share(activations: list[th.Tensor]) -> float:
    units = [layer.mean(-2) for layer in activations]  # over the batch: (width) or (n_critics, width)
    if not units:
        return float("nan")
    dormant = [(unit <= DORMANT_BELOW * unit.mean(-1, keepdim=True)).flatten() for unit in units]
    return float(th.cat(dormant).float().mean())
