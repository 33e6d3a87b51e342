"""A conditional diffusion model of transitions: fit it on real ones, draw new ones."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

from sb3_pgr.common.engine import CudaGraph, has_fast_bfloat16, keep_freed_memory, set_capturable
from sb3_pgr.common.optimizers import (
    apply_gradients,
    clipped,
    compile_alone,
    gradients_of,
    make_traceable,
    set_learning_rate,
    traced_gradients,
)
from sb3_pgr.common.state import own_randomness, set_generator_state
from sb3_pgr.generative.config import GeneratorConfig, generator_config
from sb3_pgr.generative.denoiser import PaperDenoiser, ResidualDenoiser
from sb3_pgr.generative.ema import WarmupEMA
from sb3_pgr.generative.layout import TransitionLayout
from sb3_pgr.generative.normalizers import CONDITIONS, NORMALIZERS, chosen

DENOISERS: dict[str, type[nn.Module]] = {"residual": ResidualDenoiser, "paper": PaperDenoiser}
Progress = Callable[[int, int], None]


class GeneratorDivergedError(RuntimeError):
    """The fit ended in numbers that are not finite; nothing may be drawn from it."""


class TransitionGenerator:
    """
    EDM on transition vectors, conditioned on a relevance value by classifier-free guidance.

    It knows nothing of SB3: transitions are dicts of tensors ``observations (n, obs_dim)``, ``actions``, ``rewards (n,
    1)``, ``next_observations``, ``dones (n, 1)``.

    :param obs_dim: numbers of a flat observation
    :param action_dim: numbers of a continuous action; 1 for a discrete one
    :param n_actions: number of discrete actions; 0 for continuous actions
    :param config: ``"lean"``, ``"paper"``, a mapping or a ``GeneratorConfig``
    :param device: where it is trained and draws
    :param seed: of its random numbers; global generators are not touched
    :raises ValueError: if the configuration names something unknown
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        n_actions: int = 0,
        config: str | dict[str, Any] | GeneratorConfig = "lean",
        device: th.device | str = "cpu",
        seed: int = 0,
    ):
        self.config, self.device = generator_config(config), th.device(device)
        self.layout = TransitionLayout(obs_dim, action_dim, n_actions, self.config.terminals, self.config.delta)
        self._make_normalizer = chosen(NORMALIZERS, self.config.normalizer, "normalizer")
        self._make_condition = chosen(CONDITIONS, self.config.condition, "condition")
        self._make_network = chosen(DENOISERS, self.config.denoiser, "denoiser")
        self.generator = th.Generator(self.device).manual_seed(seed)
        self.n_fits, self.outside, self.can_go_on = 0, 0.0, False
        self._bfloat16 = self.config.precision == "bf16" or (
            self.config.precision == "auto" and has_fast_bfloat16(self.device)
        )
        self.condition: Any = None  # until a fit with relevance
        self._new_network()
        if self.config.memory_limit < self._bytes_per_row():
            raise ValueError(
                f"generator setting memory_limit={self.config.memory_limit} is below the {self._bytes_per_row()} bytes that "
                "one row takes."
            )

    def _new_network(self) -> None:
        """With weights from the generator's own random numbers."""
        seed = int(th.randint(2**62, (1,), generator=self.generator, device=self.device))
        with own_randomness(seed, self.device):
            try:
                self.network = self._make_network(self.layout.dim, **self.config.denoiser_kwargs).to(self.device)
            except TypeError as error:
                raise ValueError(f"generator setting denoiser_kwargs: {error}.") from None
        self.ema = WarmupEMA(self.network, self.config.ema_decay)
        self.optimizer = th.optim.Adam(self.network.parameters(), betas=self.config.betas, fused=self._can_fuse)
        self._train = compile_alone(self._step) if self.config.compile else self._step
        self._draw = compile_alone(self.ema.network) if self.config.compile else self.ema.network

    @property
    def n_parameters(self) -> int:
        """Weights of the denoiser."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def captures(self) -> bool:
        """Steps of a fit are CUDA graphs."""
        return self.config.cuda_graph and self.device.type == "cuda"

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the network for one drawn transition."""
        return self.config.sampler.n_evaluations(self.config.cfg_scale)

    def fit(
        self, transitions: dict[str, th.Tensor], relevance: th.Tensor | None, progress: Progress | None = None
    ) -> dict[str, float]:
        """
        Fit on real transitions, all alike; normalisers are fitted anew.

        :param transitions: of ``n`` rows
        :param relevance: ``(n,)``; None for an unconditional model
        :param progress: called with the step and their number
        :return: ``loss`` over the last tenth of the steps, ``seconds``
        :raises GeneratorDivergedError: if the loss or the weights are not finite
        """
        started, config = time.perf_counter(), self.config
        if self.device.type == "cpu":
            keep_freed_memory()
        n_steps = config.train_steps
        if config.warm_start and self.can_go_on:
            n_steps = min(n_steps, config.warm_steps)
        if not config.warm_start and self.n_fits:
            self._new_network()
        self.n_fits += 1
        data = self.layout.join(transitions)
        self.normalizer = self._make_normalizer.fit(data)
        data = self.normalizer.normalize(data)
        conditions, dropout = data.new_zeros(len(data), 1), 1.0
        if relevance is not None:
            self.condition = self._make_condition(relevance)
            conditions, dropout = self.condition.normalize(relevance)[:, None], config.cfg_dropout
        self.network.train()
        self.optimizer.state.clear()
        self.ema.restart(n_steps)
        tail, last_losses = max(n_steps // 10, 1), []
        set_capturable([self.optimizer], self.captures)
        with traced_gradients(config.compile):
            train = CudaGraph(self._train) if self.captures else self._train
            if config.compile:
                make_traceable(self.optimizer)
            for step in range(n_steps):
                rows = th.randint(len(data), (config.batch_size,), generator=self.generator, device=self.device)
                hidden = th.rand((config.batch_size, 1), generator=self.generator, device=self.device) < dropout
                given = conditions[rows].masked_fill(hidden, float("nan"))
                normal = th.randn((config.batch_size, data.shape[1] + 1), generator=self.generator, device=self.device)
                decay = (1 + math.cos(math.pi * step / n_steps)) / 2
                set_learning_rate(self.optimizer, config.learning_rate * decay)
                loss = train(data[rows], given, normal)
                self.ema.update(self.network)
                if step >= n_steps - tail:
                    last_losses.append(loss.clone())
                if progress is not None and (step + 1) % 100 == 0:
                    progress(step + 1, n_steps)
        last_loss = th.stack(last_losses).mean().item()
        finite = all(bool(parameter.isfinite().all()) for parameter in self.ema.network.parameters())
        if not (finite and math.isfinite(last_loss)):
            self._new_network()
            self.can_go_on = False
            raise GeneratorDivergedError(f"The generator's loss is {last_loss} after {n_steps} steps.")
        self.can_go_on = True
        return {"loss": last_loss, "seconds": time.perf_counter() - started}

    def _step(self, x: th.Tensor, given: th.Tensor, normal: th.Tensor) -> th.Tensor:
        """One step of a fit; returns its loss."""
        with self._autocast():
            loss = self.config.edm.loss(self.network, x, given, normal).mean()
        apply_gradients(self.optimizer, clipped(gradients_of(self.optimizer, loss), self.config.grad_clip))
        return loss.detach()

    @th.no_grad()
    def sample(
        self,
        n: int,
        prompt: th.Tensor | None = None,
        start: dict[str, th.Tensor] | None = None,
        progress: Progress | None = None,
    ) -> dict[str, th.Tensor]:
        """
        Draw transitions, in chunks that keep within ``memory_limit``.

        :param n: how many
        :param prompt: relevance values ``(n,)`` to ask for, in the units of ``fit``; None for the unconditional model
        :param start: real transitions of ``n`` rows to begin from, needed with ``sigma_start``
        :param progress: called with the number of transitions so far and ``n``
        :return: transitions of ``n`` rows; ``outside`` then is the share of the numbers estimated on the way that, before
            they were clamped, lay outside the box of the real ones (widened by a tenth)
        :raises ValueError: before the first fit, or if ``prompt`` or ``start`` do not go with it
        """
        if self.n_fits == 0:
            raise ValueError("The generator has not been fitted; it has nothing to draw from.")
        if prompt is not None and self.condition is None:
            raise ValueError("The generator was fitted without relevance; it cannot be asked for any.")
        config, sampler = self.config, self.config.sampler
        chunk = max(1, min(n, config.memory_limit // self._bytes_per_row()))
        conditions = None if prompt is None else self.condition.normalize(prompt)[:, None]
        sigma = config.sigma_start or config.edm.sigma_max
        if config.sigma_start is not None and start is None:
            raise ValueError(f"sigma_start={config.sigma_start} needs real transitions to start from.")
        origin = self.normalizer.normalize(self.layout.join(start)) if config.sigma_start and start else None
        drawn, outside = [], []

        def checked(estimate: th.Tensor) -> th.Tensor:
            outside.append(self.normalizer.outside(estimate))
            return self.normalizer.clamp(estimate) if config.clamp else estimate

        for first in range(0, n, chunk):
            count = min(chunk, n - first)
            x = sigma * th.randn((count, self.layout.dim), generator=self.generator, device=self.device)
            if origin is not None:
                x = x + origin[first : first + count]
            given = None if conditions is None else conditions[first : first + count]
            with self._autocast():
                x = sampler.sample(
                    config.edm,
                    self._draw,
                    x,
                    sigma,
                    given,
                    config.cfg_scale,
                    self.generator,
                    checked,
                )
            drawn.append(self.normalizer.denormalize(x))
            if progress is not None:
                progress(first + count, n)
        self.outside = sum(outside) / len(outside)
        return self.layout.split(th.cat(drawn))

    def state_dict(self) -> dict[str, Any]:
        """Weights, normalisers and random state, as tensors and plain values; no weights that a fit would not go on from."""
        return {
            "n_fits": self.n_fits,
            "can_go_on": self.can_go_on,
            "network": self.network.state_dict() if self.config.warm_start else None,
            "average": self.ema.network.state_dict(),
            "normalizer": vars(self.normalizer) if self.n_fits else None,
            "condition": None if self.condition is None else vars(self.condition),
            "random": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """
        Put back what ``state_dict`` returned.

        :raises RuntimeError: if the weights are of other sizes
        """
        self.ema.network.load_state_dict(state["average"])
        if state["network"] is not None:
            self.network.load_state_dict(state["network"])
        self.n_fits, self.can_go_on = state["n_fits"], state["can_go_on"]
        for name, kind in (("normalizer", self._make_normalizer), ("condition", self._make_condition)):
            if state[name] is not None:
                part = kind.__new__(kind)
                vars(part).update({key: value.to(self.device) for key, value in state[name].items()})
                setattr(self, name, part)
        set_generator_state(self.generator, state["random"])

    def _bytes_per_row(self) -> int:
        """Roughly what one row takes: the widest activations of two layers, twice."""
        width = max(max(parameter.shape) for parameter in self.network.parameters() if parameter.dim() == 2)
        return 16 * width

    def _autocast(self) -> th.autocast:
        return th.autocast(self.device.type, th.bfloat16, enabled=self._bfloat16)

    @property
    def _can_fuse(self) -> bool:
        return self.device.type in ("cpu", "cuda")
