"""A conditional diffusion model of transitions: fit it on real ones, draw new ones."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch as th
from torch import nn

from sb3_pgr.common.engine import keep_freed_memory
from sb3_pgr.generative.denoiser import PaperDenoiser, ResidualDenoiser
from sb3_pgr.generative.edm import EDM, HeunSampler
from sb3_pgr.generative.ema import WarmupEMA
from sb3_pgr.generative.layout import TransitionLayout
from sb3_pgr.generative.normalizers import CONDITIONS, NORMALIZERS, chosen

DENOISERS: dict[str, type[nn.Module]] = {"residual": ResidualDenoiser, "paper": PaperDenoiser}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class GeneratorConfig:
    """
    Everything about the diffusion model and its training. Defaults are the lean preset.

    :param denoiser: ``"residual"`` or ``"paper"``
    :param denoiser_kwargs: sizes of the network
    :param normalizer: ``"standard"`` or ``"minmax"`` (samples then never leave the data's box)
    :param condition: ``"rank"`` or ``"minmax"``: how relevance is normalised over the real rows
    :param delta: model the change of the observation in place of the next one
    :param terminals: model terminals (without, generated rows never end)
    :param train_steps: steps of a fit
    :param warm_start: go on from the last fit instead of from scratch
    :param batch_size: rows of a training step
    :param learning_rate: at the start; it falls to 0 along a cosine
    :param grad_clip: largest norm of the gradient
    :param betas: of AdamW
    :param ema_decay: largest decay of the averaged weights, which are the ones that draw
    :param cfg_dropout: share of training rows whose relevance is hidden
    :param cfg_scale: strength of guidance when drawing; 1 is none, 0 ignores relevance
    :param sampler: noise levels and churn
    :param edm: noise levels of training
    :param precision: ``"fp32"`` or ``"bf16"`` for matrix products
    :param memory_limit: bytes that drawing may take for activations at a time
    """

    denoiser: str = "residual"
    denoiser_kwargs: dict[str, Any] = field(default_factory=dict)
    normalizer: str = "standard"
    condition: str = "rank"
    delta: bool = True
    terminals: bool = True
    train_steps: int = 5_000
    warm_start: bool = True
    batch_size: int = 512
    learning_rate: float = 1e-3
    grad_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.995
    cfg_dropout: float = 0.25
    cfg_scale: float = 1.5
    sampler: HeunSampler = field(default_factory=lambda: HeunSampler(n_steps=10))
    edm: EDM = field(default_factory=EDM)
    precision: str = "fp32"
    memory_limit: int = 2**28


LEAN = GeneratorConfig()
PAPER = GeneratorConfig(
    denoiser="paper",
    normalizer="minmax",
    condition="minmax",
    delta=False,
    terminals=False,
    train_steps=100_000,
    warm_start=False,
    batch_size=256,
    learning_rate=3e-4,
    cfg_scale=2.0,
    sampler=HeunSampler(n_steps=128, s_churn=80.0, guide_both_halves=False),
    memory_limit=2**32,
)
PRESETS = {"lean": LEAN, "paper": PAPER}


def generator_config(generator: str | dict[str, Any] | GeneratorConfig) -> GeneratorConfig:
    """
    A preset by name; or a mapping of settings, on top of the preset that its ``"preset"`` names (lean by default).

    :raises ValueError: if the preset or a setting is not known
    """
    if isinstance(generator, GeneratorConfig):
        return generator
    if isinstance(generator, str):
        return chosen(PRESETS, generator, "generator")
    settings = dict(generator)
    preset = chosen(PRESETS, settings.pop("preset", "lean"), "generator preset")
    unknown = settings.keys() - GeneratorConfig.__dataclass_fields__.keys()
    if unknown:
        raise ValueError(
            f"generator has no setting {sorted(unknown)}; there are {sorted(GeneratorConfig.__dataclass_fields__)}."
        )
    for name, kind in (("sampler", HeunSampler), ("edm", EDM)):
        if isinstance(settings.get(name), dict):
            settings[name] = replace(getattr(preset, name), **settings[name])
        elif name in settings and not isinstance(settings[name], kind):
            raise ValueError(f"generator setting {name}={settings[name]!r} must be a mapping of its values.")
    return replace(preset, **settings)


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
        self.n_fits = 0
        self._new_network()

    def _new_network(self) -> None:
        """With weights from the generator's own random numbers."""
        seed = int(th.randint(2**62, (1,), generator=self.generator, device=self.device))
        with th.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            th.manual_seed(seed)
            self.network = self._make_network(self.layout.dim, **self.config.denoiser_kwargs).to(self.device)
        self.ema = WarmupEMA(self.network, self.config.ema_decay)

    @property
    def n_parameters(self) -> int:
        """Weights of the denoiser."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    @property
    def n_evaluations(self) -> int:
        """Evaluations of the network for one drawn transition."""
        return self.config.sampler.n_evaluations(self.config.cfg_scale)

    def fit(
        self, transitions: dict[str, th.Tensor], relevance: th.Tensor, progress: Progress | None = None
    ) -> dict[str, float]:
        """
        Fit on real transitions, all alike; normalisers are fitted anew.

        :param transitions: of ``n`` rows
        :param relevance: ``(n,)``
        :param progress: called with the step and their number
        :return: ``loss`` over the last tenth of the steps, ``seconds``
        :raises GeneratorDivergedError: if the loss or the weights are not finite
        """
        started, config = time.perf_counter(), self.config
        if self.device.type == "cpu":
            keep_freed_memory()
        if not config.warm_start and self.n_fits:
            self._new_network()
        self.n_fits += 1
        data = self.layout.join(transitions)
        self.normalizer = self._make_normalizer.fit(data)
        data = self.normalizer.normalize(data)
        self.condition = self._make_condition(relevance)
        conditions = self.condition.normalize(relevance)[:, None]
        self.network.train()
        optimizer = th.optim.AdamW(
            self.network.parameters(), config.learning_rate, betas=config.betas, weight_decay=0.0, fused=self._can_fuse
        )
        schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.train_steps)
        tail, last_losses = max(config.train_steps // 10, 1), []
        for step in range(config.train_steps):
            rows = th.randint(len(data), (config.batch_size,), generator=self.generator, device=self.device)
            hidden = th.rand((config.batch_size, 1), generator=self.generator, device=self.device) < config.cfg_dropout
            given = conditions[rows].masked_fill(hidden, float("nan"))
            normal = th.randn((config.batch_size, data.shape[1] + 1), generator=self.generator, device=self.device)
            with self._autocast():
                loss = config.edm.loss(self.network, data[rows], given, normal).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.network.parameters(), config.grad_clip)
            optimizer.step()
            schedule.step()
            self.ema.update(self.network)
            if step >= config.train_steps - tail:
                last_losses.append(loss.detach())
            if progress is not None and (step + 1) % 100 == 0:
                progress(step + 1, config.train_steps)
        last_loss = th.stack(last_losses).mean().item()
        finite = all(bool(parameter.isfinite().all()) for parameter in self.ema.network.parameters())
        if not (finite and math.isfinite(last_loss)):
            self._new_network()
            raise GeneratorDivergedError(f"The generator's loss is {last_loss} after {config.train_steps} steps.")
        return {"loss": last_loss, "seconds": time.perf_counter() - started}

    @th.no_grad()
    def sample(self, n: int, prompt: th.Tensor | None = None, progress: Progress | None = None) -> dict[str, th.Tensor]:
        """
        Draw transitions, in chunks that keep within ``memory_limit``.

        :param n: how many
        :param prompt: relevance values ``(n,)`` to ask for, in the units of ``fit``; None for the unconditional model
        :param progress: called with the number of transitions so far and ``n``
        :return: transitions of ``n`` rows
        """
        config, sampler = self.config, self.config.sampler
        chunk = max(1, min(n, config.memory_limit // self._bytes_per_row()))
        conditions = None if prompt is None else self.condition.normalize(prompt)[:, None]
        drawn = []
        for start in range(0, n, chunk):
            count = min(chunk, n - start)
            x = config.edm.sigma_max * th.randn((count, self.layout.dim), generator=self.generator, device=self.device)
            given = None if conditions is None else conditions[start : start + count]
            with self._autocast():
                x = sampler.sample(
                    config.edm,
                    self.ema.network,
                    x,
                    config.edm.sigma_max,
                    given,
                    config.cfg_scale,
                    self.generator,
                    self.normalizer.bound,
                )
            drawn.append(self.normalizer.denormalize(x))
            if progress is not None:
                progress(start + count, n)
        return self.layout.split(th.cat(drawn))

    def _bytes_per_row(self) -> int:
        """Roughly what one row takes: the widest activations of two layers, twice."""
        width = max(max(parameter.shape) for parameter in self.network.parameters() if parameter.dim() == 2)
        return 16 * width

    def _autocast(self) -> th.autocast:
        return th.autocast(self.device.type, th.bfloat16, enabled=self.config.precision == "bf16")

    @property
    def _can_fuse(self) -> bool:
        return self.device.type in ("cpu", "cuda")
