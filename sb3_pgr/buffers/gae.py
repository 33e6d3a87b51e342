"""Generalized advantage estimation without a loop over time."""

import torch as th

from sb3_pgr.common.device import widest_float


def generalized_advantages(
    rewards: th.Tensor,
    values: th.Tensor,
    next_values: th.Tensor,
    next_non_terminal: th.Tensor,
    gamma: float,
    gae_lambda: float,
) -> th.Tensor:
    """
    GAE(lambda) (Schulman et al. 2016, https://arxiv.org/abs/1506.02438, equation 16).

    The recurrence ``A[t] = delta[t] + gamma lambda n[t] A[t + 1]`` is solved by doubling: after ``k`` rounds every
    ``A[t]`` holds the terms of ``2^k`` steps, so ``T`` steps take ``log2 T`` rounds on whole arrays.

    :param rewards: ``(T, n_envs)``
    :param values: of the observations, ``(T, n_envs)``
    :param next_values: of the next observations, ``(T, n_envs)``
    :param next_non_terminal: 0 where the next observation belongs to another episode, otherwise 1, ``(T, n_envs)``
    :param gamma: discount
    :param gae_lambda: weight of longer estimates
    :return: advantages ``(T, n_envs)``, in the type of ``values``
    """
    wide = widest_float(values.device)  # as many roundings as steps would show in float32
    continues = next_non_terminal.to(wide) * gamma
    advantages = rewards.to(wide) + continues * next_values.to(wide) - values.to(wide)
    factors, step = continues * gae_lambda, 1
    while step < len(advantages):
        advantages[:-step] = th.addcmul(advantages[:-step], factors[: len(advantages) - step], advantages[step:])
        factors, step = factors[:-step] * factors[step:], 2 * step
    return advantages.to(values.dtype)
