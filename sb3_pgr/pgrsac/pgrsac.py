"""Prioritized generative replay with an ensemble of critics."""

from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_pgr.buffers.schedules import Schedule as RatioSchedule
from sb3_pgr.generative.callback import RefitLog
from sb3_pgr.generative.config import GeneratorConfig, generator_config
from sb3_pgr.generative.relevance import Relevance
from sb3_pgr.generative.replay import GenerativeReplayBuffer
from sb3_pgr.pgrsac.policies import MlpPolicy, MultiInputPolicy, SimbaPolicy
from sb3_pgr.redq.policies import REDQPolicy
from sb3_pgr.redq.redq import REDQ

# Arguments of ours that are the buffer's.
REPLAY_ARGUMENTS = frozenset(
    {"relevance", "retrain_every", "num_samples", "synthetic_ratio", "cond_top_frac", "cfg_scale", "generator"}
)
SelfPGRSAC = TypeVar("SelfPGRSAC", bound="PGRSAC")


class PGRSAC(REDQ):
    """
    Prioritized Generative Replay (PGR, Wang et al. 2025, https://arxiv.org/abs/2410.18082) on soft actor-critic.

    A conditional diffusion model of transitions is fitted again and again on all real ones; half of every batch are
    transitions that it imagines, those that a relevance function (curiosity) finds worth learning from.

    Parameters not listed are those of ``REDQ``. Further settings of the replay (``cfg_dropout``, ``warmup``,
    ``policy_actions``, ``n_steps``, ...) go into ``replay_buffer_kwargs``, see ``GenerativeReplayBuffer``. The defaults
    are the lean setting; ``zoo_configs/pgrsac_paper.yml`` has the paper's.

    :param policy: ``"MlpPolicy"`` (normalised observations, layer norm in the critics, an averaged actor),
        ``"MultiInputPolicy"`` (layer norm, averaged actor), ``"SimbaPolicy"``, or a class
    :param env: environment, or its registered id; observations must be vectors of real numbers
    :param relevance: what makes a transition worth imagining: ``"curiosity"``, ``"disagreement"``, ``"rnd"``, ``"novelty"``,
        ``"reward"``, ``"return"``, ``"return_to_go"``, ``"td_error"``, ``"uniform"`` (which is SynthER), a mapping or a
        ``Relevance``
    :param retrain_every: real transitions between two fits of the generator
    :param num_samples: synthetic transitions drawn after a fit
    :param synthetic_ratio: their share of each batch: a number, ``(start, end, n_transitions)`` or a function
    :param cond_top_frac: share of the real rows, the most relevant, whose relevance the generator is asked for
    :param cfg_scale: strength of the guidance towards relevance; the generator's preset's by default
    :param generator: ``"lean"``, ``"paper"``, or a mapping of settings
    :param ent_coef: weight of the entropy; by default learned from 0.1 on. From 1 on (``"auto"``), values first learn an
        entropy far above most tasks' rewards
    :raises ValueError: as ``REDQ`` and ``GenerativeReplayBuffer`` do
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "SimbaPolicy": SimbaPolicy,
    }
    replay_buffer: GenerativeReplayBuffer

    def __init__(
        self,
        policy: str | type[REDQPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 5_000,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 4,
        action_noise: ActionNoise | None = None,
        relevance: str | dict[str, Any] | Relevance = "curiosity",
        retrain_every: int = 5_000,
        num_samples: int = 100_000,
        synthetic_ratio: RatioSchedule = 0.5,
        cond_top_frac: float = 0.25,
        cfg_scale: float | None = None,
        generator: str | dict[str, Any] | GeneratorConfig = "lean",
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        ent_coef: str | float = "auto_0.1",
        target_entropy: str | float = "auto",
        n_critics: int = 2,
        n_target_critics: int = 2,
        policy_delay: int = 2,
        target_mode: str = "min",
        compile: bool = False,
        precision: str = "fp32",
        cuda_graph: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.relevance = relevance
        self.retrain_every = retrain_every
        self.num_samples = num_samples
        self.synthetic_ratio = synthetic_ratio
        self.cond_top_frac = cond_top_frac
        self.cfg_scale = cfg_scale
        self.generator = generator
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class or GenerativeReplayBuffer,
            replay_buffer_kwargs=replay_buffer_kwargs,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            n_critics=n_critics,
            n_target_critics=n_target_critics,
            policy_delay=policy_delay,
            target_mode=target_mode,
            compile=compile,
            precision=precision,
            cuda_graph=cuda_graph,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        _require_generative(self.replay_buffer_class)
        given = dict(self.replay_buffer_kwargs)  # load takes these and the arguments of their own, as the constructor does
        for name in REPLAY_ARGUMENTS & given.keys():
            setattr(self, name, given.pop(name))
        settings = {name: getattr(self, name) for name in REPLAY_ARGUMENTS}
        config = generator_config(self.generator)
        compiled, captured = config.compile or self.compile, config.cuda_graph or self.cuda_graph
        settings["generator"] = replace(config, compile=compiled, cuda_graph=captured)
        self.replay_buffer_kwargs = {**given, "gamma": self.gamma, **settings}
        super()._setup_model()
        self.replay_buffer_kwargs = given
        self.replay_buffer.bind_model(self)
        self._refit_log = RefitLog()

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        super().train(gradient_steps, batch_size)
        self._refit_log.follow(self)

    def _accept_replay_buffer(self, replaced: ReplayBuffer | None) -> None:
        _require_generative(type(self.replay_buffer))
        super()._accept_replay_buffer(replaced)
        if isinstance(replaced, GenerativeReplayBuffer):
            self.replay_buffer.take_settings(replaced)  # as ``load`` was told
        self.replay_buffer.bind_model(self)
        self._refit_log.reported = self.replay_buffer.last_report

    def learn(
        self: SelfPGRSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "PGRSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfPGRSAC:
        self.replay_buffer.bind_model(self)  # a copy's buffer knows none
        self._refit_log.progress = progress_bar
        self._refit_log.attach(self.replay_buffer)
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_refit_log"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, tensors = super()._get_torch_save_params()
        return [*state_dicts, "replay_buffer.imagination"], tensors


def _require_generative(buffer_class: type[ReplayBuffer] | None) -> None:
    if buffer_class is None or not issubclass(buffer_class, GenerativeReplayBuffer):
        raise ValueError(f"PGRSAC needs a GenerativeReplayBuffer, not {getattr(buffer_class, '__name__', None)}; or use REDQ.")
