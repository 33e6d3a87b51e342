"""Diffusion as in EDM: preconditioning, training loss, noise schedule and Heun sampler (Karras et al. 2022)."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch as th

Network = Callable[[th.Tensor, th.Tensor, th.Tensor | None], th.Tensor]  # denoises, see EDM.denoise


@dataclass(frozen=True)
class EDM:
    """
    The constants of EDM (https://arxiv.org/abs/2206.00364, table 1) and what follows from them.

    :param sigma_data: standard deviation of the data
    :param sigma_min: smallest noise level of the sampler
    :param sigma_max: largest noise level of the sampler
    :param rho: curvature of the schedule
    :param p_mean: mean of the logarithm of the training noise levels
    :param p_std: standard deviation of the logarithm of the training noise levels
    """

    sigma_data: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    p_mean: float = -1.2
    p_std: float = 1.2

    def denoise(self, network: Network, x: th.Tensor, sigma: th.Tensor, condition: th.Tensor | None) -> th.Tensor:
        """
        The preconditioned denoiser D(x; sigma, condition) (equation 7).

        :param network: ``(inputs (n, d), noise (n,) or (1,), condition (n, 1) or None) -> (n, d)``
        :param x: noised vectors ``(n, d)``
        :param sigma: noise levels ``(n,)``, or one for all ``(1,)``
        :param condition: ``(n, 1)``, NaN in rows without one; None for none at all
        :return: estimates of the clean vectors ``(n, d)``
        """
        variance = sigma**2 + self.sigma_data**2
        c_skip = self.sigma_data**2 / variance
        c_out = sigma * self.sigma_data * variance.rsqrt()
        output = network(variance.rsqrt()[:, None] * x, sigma.log() / 4, condition)
        return c_skip[:, None] * x + c_out[:, None] * output.float()

    def loss(self, network: Network, x: th.Tensor, condition: th.Tensor | None, normal: th.Tensor) -> th.Tensor:
        """
        Denoising loss of each row (equation 8), weighted so that all noise levels count alike at the start.

        :param x: clean vectors ``(n, d)``
        :param normal: standard normal numbers ``(n, d + 1)``: the noise and, last, the noise level
        :return: ``(n,)``
        """
        sigma = (self.p_mean + self.p_std * normal[:, -1]).exp()
        noised = x + sigma[:, None] * normal[:, :-1]
        error = (self.denoise(network, noised, sigma, condition) - x).pow(2).mean(1)
        return error * (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def schedule(self, n_steps: int, sigma_start: float | None = None) -> list[float]:
        """``n_steps`` decreasing noise levels and a final 0 (equation 5), from ``sigma_start`` if given."""
        high, low = (level ** (1 / self.rho) for level in (sigma_start or self.sigma_max, self.sigma_min))
        if n_steps == 1:
            return [high**self.rho, 0.0]
        return [(high + i / (n_steps - 1) * (low - high)) ** self.rho for i in range(n_steps)] + [0.0]


@dataclass(frozen=True)
class HeunSampler:
    """
    Heun's second-order sampler, deterministic or with churn (EDM, algorithms 1 and 2), with classifier-free guidance.

    Guidance moves the direction of a step from the unconditional towards the conditional one, and beyond it for scales
    above 1: ``d = d_uncond + cfg_scale (d_cond - d_uncond)`` (Ho & Salimans 2022).

    :param n_steps: noise levels
    :param s_churn: amount of noise that is added on the way; 0 is deterministic
    :param s_tmin: lowest noise level with churn
    :param s_tmax: highest noise level with churn
    :param s_noise: factor of the added noise
    :param guide_both_halves: guide the correction too, not only the Euler half of a step (the official PGR code guides
        the Euler half only)
    """

    n_steps: int = 16
    s_churn: float = 0.0
    s_tmin: float = 0.05
    s_tmax: float = 50.0
    s_noise: float = 1.003
    guide_both_halves: bool = True

    def gammas(self, sigmas: list[float]) -> list[float]:
        """By how much each noise level is raised before its step."""
        gamma = min(self.s_churn / self.n_steps, math.sqrt(2) - 1)
        return [gamma if self.s_tmin <= sigma <= self.s_tmax else 0.0 for sigma in sigmas]

    def n_evaluations(self, cfg_scale: float) -> int:
        """Evaluations of the network for one sample."""
        euler, correction = self.n_steps, self.n_steps - 1
        if cfg_scale in (0.0, 1.0):
            return euler + correction
        return 2 * euler + (2 if self.guide_both_halves else 1) * correction

    def sample(
        self,
        edm: EDM,
        network: Network,
        x: th.Tensor,
        sigma_start: float,
        condition: th.Tensor | None,
        cfg_scale: float,
        generator: th.Generator,
        clamp: Callable[[th.Tensor], th.Tensor] | None = None,
    ) -> th.Tensor:
        """
        Take vectors from a noise level down to none.

        :param x: ``(n, d)`` at level ``sigma_start``
        :param sigma_start: the level that ``x`` is at
        :param condition: ``(n, 1)``, or None
        :param cfg_scale: strength of the guidance; 1 is the conditional model, 0 the unconditional
        :param generator: source of the churn's noise
        :param clamp: is given every estimate of the clean vectors and returns what to use, say within bounds
        :return: ``(n, d)``
        """
        sigmas = edm.schedule(self.n_steps, sigma_start)

        def direction(x: th.Tensor, sigma: float, given: th.Tensor | None) -> th.Tensor:
            estimate = edm.denoise(network, x, x.new_full((1,), sigma), given)
            return (x - (estimate if clamp is None else clamp(estimate))) / sigma

        def guided(x: th.Tensor, sigma: float) -> th.Tensor:
            if condition is None or cfg_scale == 0.0:
                return direction(x, sigma, None)
            if cfg_scale == 1.0:
                return direction(x, sigma, condition)
            free = direction(x, sigma, None)
            return free + cfg_scale * (direction(x, sigma, condition) - free)

        def corrected(x: th.Tensor, sigma: float) -> th.Tensor:
            if self.guide_both_halves:
                return guided(x, sigma)
            return direction(x, sigma, None if cfg_scale == 0.0 else condition)

        for sigma, next_sigma, gamma in zip(sigmas[:-1], sigmas[1:], self.gammas(sigmas), strict=False):
            if gamma > 0:
                raised = sigma * (1 + gamma)
                noise = th.randn(x.shape, generator=generator, device=x.device)
                x, sigma = x + math.sqrt(raised**2 - sigma**2) * self.s_noise * noise, raised
            slope = guided(x, sigma)
            euler = x + (next_sigma - sigma) * slope
            if next_sigma > 0:
                slope = (slope + corrected(euler, next_sigma)) / 2
                euler = x + (next_sigma - sigma) * slope
            x = euler
        return x if clamp is None else clamp(x)
