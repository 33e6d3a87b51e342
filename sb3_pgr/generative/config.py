"""Settings of the diffusion model, and its presets."""

from dataclasses import dataclass, field, replace
from typing import Any

from sb3_pgr.common.checks import check_counts
from sb3_pgr.generative.edm import EDM, HeunSampler
from sb3_pgr.generative.normalizers import chosen


@dataclass(frozen=True)
class GeneratorConfig:
    """
    Everything about the diffusion model and its training. Defaults are the lean preset.

    :param denoiser: ``"residual"`` or ``"paper"``
    :param denoiser_kwargs: sizes of the network; of a mapping on top of a preset with the same denoiser, those that differ
    :param normalizer: ``"standard"`` or ``"minmax"``
    :param condition: ``"rank"`` or ``"minmax"``: how relevance is normalised over the real rows
    :param delta: model the change of the observation in place of the next one
    :param terminals: model terminals (without, generated rows never end)
    :param train_steps: steps of a fit from scratch
    :param warm_start: go on from the last fit instead of from scratch
    :param warm_steps: steps of a fit that goes on from the last, at most ``train_steps``
    :param batch_size: rows of a training step
    :param learning_rate: at the start; it falls to 0 along a cosine
    :param grad_clip: largest norm of the gradient
    :param betas: of Adam
    :param ema_decay: largest decay of the averaged weights, which are the ones that draw
    :param cfg_dropout: share of training rows whose relevance is hidden
    :param cfg_scale: strength of guidance when drawing; 1 is none, 0 ignores relevance
    :param sampler: noise levels and churn
    :param clamp: keep estimates within the box of the real rows while drawing
    :param sigma_start: draw by noising real transitions up to this level, not from pure noise (SDEdit, Meng et al. 2022)
    :param edm: noise levels of training
    :param dynamics_head: replace reward and next observation of what is drawn by the prediction of a one-step model
    :param dynamics_steps: steps of a fit of that model
    :param reward_values: with a dynamics head, rewards of tasks that have at most so many different ones (a goal reached or
        not) are classified, not predicted; 0 predicts them always
    :param precision: of matrix products: ``"fp32"``, ``"bf16"``, or ``"auto"``: bf16 where the processor has it
    :param compile: compile the steps of a fit and the network that draws; takes half a minute once, and pays from the second
        fit on (without ``warm_start``, at each fit)
    :param cuda_graph: on a CUDA device, run the steps of a fit as CUDA graphs; without effect elsewhere
    :param memory_limit: bytes that drawing may take for activations at a time
    :raises ValueError: if a number is out of range
    """

    denoiser: str = "residual"
    denoiser_kwargs: dict[str, Any] = field(default_factory=lambda: dict(width=192, n_blocks=3))
    normalizer: str = "standard"
    condition: str = "rank"
    delta: bool = False
    terminals: bool = True
    train_steps: int = 4_000
    warm_start: bool = True
    warm_steps: int = 2_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    grad_clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float = 0.995
    cfg_dropout: float = 0.25
    cfg_scale: float = 1.5
    sampler: HeunSampler = field(default_factory=lambda: HeunSampler(n_steps=6))
    clamp: bool = True
    sigma_start: float | None = 1.0
    edm: EDM = field(default_factory=EDM)
    dynamics_head: bool = True
    dynamics_steps: int = 2_000
    reward_values: int = 16
    precision: str = "auto"
    compile: bool = False
    cuda_graph: bool = False
    memory_limit: int = 2**28

    def __post_init__(self) -> None:
        for name in ("train_steps", "warm_steps", "batch_size", "dynamics_steps", "memory_limit"):
            check_counts(**{f"generator setting {name}": getattr(self, name)})
        check_counts(**{"generator setting sampler: n_steps": self.sampler.n_steps})
        if self.reward_values != 0:
            check_counts(**{"generator setting reward_values": self.reward_values})
        for name in ("learning_rate", "grad_clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"generator setting {name}={getattr(self, name)} must be above 0.")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"generator setting ema_decay={self.ema_decay} must be at least 0 and below 1.")
        if not 0 <= self.cfg_dropout < 1:
            raise ValueError(f"generator setting cfg_dropout={self.cfg_dropout} must be at least 0 and below 1.")
        if self.cfg_dropout == 0 and self.cfg_scale != 1:
            raise ValueError(f"generator setting cfg_dropout=0 goes with cfg_scale=1 (no guidance), not {self.cfg_scale}.")
        if self.sigma_start is not None and not self.edm.sigma_min < self.sigma_start <= self.edm.sigma_max:
            raise ValueError(
                f"generator setting sigma_start={self.sigma_start} must be above {self.edm.sigma_min} and at most "
                f"{self.edm.sigma_max}."
            )
        if self.precision not in ("fp32", "bf16", "auto"):
            raise ValueError(f"generator setting precision={self.precision!r} must be 'fp32', 'bf16' or 'auto'.")


LEAN = GeneratorConfig()
PAPER = GeneratorConfig(
    denoiser="paper",
    denoiser_kwargs={},
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
    sigma_start=None,
    dynamics_head=False,
    precision="fp32",
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
    if "denoiser_kwargs" in settings or "denoiser" in settings:  # sizes of another network mean nothing
        same = settings.get("denoiser", preset.denoiser) == preset.denoiser
        settings["denoiser_kwargs"] = (preset.denoiser_kwargs if same else {}) | dict(settings.get("denoiser_kwargs", {}))
    for name, kind in (("sampler", HeunSampler), ("edm", EDM)):
        if isinstance(settings.get(name), dict):
            try:
                settings[name] = replace(getattr(preset, name), **settings[name])
            except TypeError as error:
                raise ValueError(f"generator setting {name}: {error}.") from None
        elif name in settings and not isinstance(settings[name], kind):
            raise ValueError(f"generator setting {name}={settings[name]!r} must be a mapping of its values.")
    return replace(preset, **settings)
