"""Distributions as pure functions of their parameters and noise, fit for compilation."""

import math

import torch as th
import torch.nn.functional as F


def squashed_gaussian_sample(mean: th.Tensor, log_std: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """
    Sample ``tanh(mean + std * noise)`` and its log density (SAC, Haarnoja et al. 2018, appendix C), with the exact
    ``log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2 u))`` in place of the usual epsilon.

    :param mean: ``(batch, action_dim)``
    :param log_std: ``(batch, action_dim)``
    :param noise: standard normal draws, ``(batch, action_dim)``
    :return: actions ``(batch, action_dim)`` in [-1, 1] and log densities ``(batch,)``
    """
    mean, log_std = mean.to(noise.dtype), log_std.to(noise.dtype)
    u = mean + log_std.exp() * noise
    log_gaussian = -0.5 * noise.pow(2) - log_std - 0.5 * math.log(2 * math.pi)
    log_det = 2 * (math.log(2) - u - F.softplus(-2 * u))
    return th.tanh(u), (log_gaussian - log_det).sum(-1)


def squashed_gaussian_log_prob(mean: th.Tensor, log_std: th.Tensor, actions: th.Tensor) -> th.Tensor:
    """
    Log density of given actions under the same distribution; actions at the bounds are taken slightly within them.

    :param mean: ``(batch, action_dim)``
    :param log_std: ``(batch, action_dim)``
    :param actions: in [-1, 1], ``(batch, action_dim)``
    :return: ``(batch,)``
    """
    actions = actions.clamp(-1 + 1e-5, 1 - 1e-5)
    z = (actions.atanh() - mean) / log_std.exp()
    log_prob = -0.5 * z.pow(2) - log_std - 0.5 * math.log(2 * math.pi)
    return (log_prob - (1 - actions.pow(2)).log()).sum(1)
