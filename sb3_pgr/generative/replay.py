"""A replay buffer that imagines the transitions most worth learning from."""

import functools
import warnings
from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer
from torch.utils._pytree import tree_map_only

from sb3_pgr.buffers import MixtureReplayBuffer, SequenceReplayBuffer, TensorReplayBuffer
from sb3_pgr.buffers.mixture import ONLINE
from sb3_pgr.buffers.normalize import normalize_obs
from sb3_pgr.buffers.schedules import Schedule, foreseen_values, schedule_value
from sb3_pgr.buffers.storage import usable_device
from sb3_pgr.common.checks import check_counts, check_discount
from sb3_pgr.common.state import seed_of_torch
from sb3_pgr.generative.config import GeneratorConfig, generator_config
from sb3_pgr.generative.critics import ModelValues
from sb3_pgr.generative.flat import FlatObservations, action_sizes
from sb3_pgr.generative.generator import Progress
from sb3_pgr.generative.imagination import Imagination, RefitReport
from sb3_pgr.generative.relevance import Relevance

SYNTHETIC = "synthetic"
_COUNTERS = ("_next_refit", "_n_relevant", "_told_to_wait")


class GenerativeReplayBuffer(MixtureReplayBuffer):
    """
    Prioritized generative replay (PGR, Wang et al. 2025, https://arxiv.org/abs/2410.18082) for any off-policy algorithm
    of SB3: ``SAC(..., replay_buffer_class=GenerativeReplayBuffer)``.

    Every ``retrain_every`` transitions a conditional diffusion model is fitted on all real ones and draws ``num_samples``
    relevant ones; until the next time a share ``synthetic_ratio`` of each batch comes from these. This happens in the
    first ``sample`` after the transition that makes it due. With a ratio of 0 training is the same, bit by bit, as with
    SB3's own buffer.

    Relevance functions and options that ask the learning algorithm need ``bind_model``: ``GenerativeReplayCallback`` does
    it, and ``PGRSAC`` by itself.

    Transitions are generated as they are stored: raw observations and rewards (``VecNormalize`` is applied on the way
    out), actions in [-1, 1], one step each (real rows may be of n steps).

    :param buffer_size: capacity in real transitions, over all environments
    :param observation_space: ``Box`` of floats, or a ``Dict`` of such
    :param action_space: ``Box`` or ``Discrete``
    :param device: where batches are needed and the generator is trained
    :param n_envs: number of environments that fill the buffer together
    :param optimize_memory_usage: store each real frame once, see ``TensorReplayBuffer``
    :param handle_timeout_termination: do not treat a time limit as terminal
    :param relevance: ``"curiosity"``, ``"disagreement"``, ``"rnd"``, ``"novelty"``, ``"reward"``, ``"return"`` (value of the
        state), ``"return_to_go"``, ``"td_error"``, ``"uniform"`` (SynthER); a mapping ``dict(name=..., ...)``; or a
        ``Relevance``
    :param retrain_every: real transitions between two fits
    :param num_samples: transitions drawn after a fit, which replace those drawn before
    :param synthetic_ratio: share of synthetic rows in a batch, in [0, 1]: a number, ``(start, end, n_transitions)`` or a
        function of the number of transitions added
    :param cond_top_frac: share of the real rows, the most relevant, whose relevance the generator is asked for
    :param cfg_scale: strength of the guidance towards relevance; the preset's by default
    :param cfg_dropout: share of training rows whose relevance is hidden; the preset's by default
    :param warmup: real transitions to wait for before the first fit
    :param generator: ``"lean"``, ``"paper"``, a mapping of settings (with ``preset`` if on top of another than lean) or a
        ``GeneratorConfig``
    :param policy_actions: give generated states the present policy's actions; needs the dynamics head and a bound model
    :param max_outside: share of generated numbers outside the box of the real ones (widened by a tenth) above which the
        generator counts as diverged: then its rows are not used, training goes on with real ones alone, and a warning
        says so
    :param n_steps: length of n-step returns of real rows
    :param gamma: discount of one step; with n-step returns the algorithm's own
    :param online_class: class of the buffer that holds real rows
    :param online_kwargs: further arguments for it
    :raises ValueError: if an argument is out of range, a space cannot be generated, or ``online_class`` relabels goals
    :raises MemoryError: if ``num_samples`` rows do not fit into memory
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        relevance: str | dict[str, Any] | Relevance = "curiosity",
        retrain_every: int = 5_000,
        num_samples: int = 100_000,
        synthetic_ratio: Schedule = 0.5,
        cond_top_frac: float = 0.25,
        cfg_scale: float | None = None,
        cfg_dropout: float | None = None,
        warmup: int = 1_000,
        generator: str | dict[str, Any] | GeneratorConfig = "lean",
        policy_actions: bool = False,
        max_outside: float = 0.05,
        n_steps: int = 1,
        gamma: float = 0.99,
        online_class: type[ReplayBuffer] = TensorReplayBuffer,
        online_kwargs: Mapping[str, Any] | None = None,
    ):
        check_counts(retrain_every=retrain_every, num_samples=num_samples, warmup=warmup)
        if issubclass(online_class, HerReplayBuffer):
            raise ValueError(
                "HerReplayBuffer relabels goals as it samples, whole episodes at a time; the generator makes single "
                "transitions. Hindsight replay and generative replay cannot be combined."
            )
        if not issubclass(online_class, TensorReplayBuffer) or issubclass(online_class, SequenceReplayBuffer):
            raise ValueError(
                f"online_class must be TensorReplayBuffer or a subclass that draws single rows, not {online_class.__name__}."
            )
        if warmup < 2:
            raise ValueError(f"warmup={warmup} must be at least 2: a generator cannot be fitted on a single row.")
        self._flat, (action_dim, n_actions) = FlatObservations(observation_space), action_sizes(action_space)
        for ratio in foreseen_values(synthetic_ratio, "synthetic_ratio"):
            _checked_ratio(ratio, 0)
        self.synthetic_ratio = synthetic_ratio
        self.retrain_every, self.num_samples, self.warmup = retrain_every, num_samples, warmup
        kwargs = dict(online_kwargs or {})
        if n_steps > 1:
            kwargs |= {"n_steps": n_steps, "gamma": gamma}
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            shares={
                ONLINE: functools.partial(_real_share, synthetic_ratio),
                SYNTHETIC: functools.partial(_checked_ratio, synthetic_ratio),
            },
            online_class=online_class,
            online_kwargs=kwargs,
            gamma=gamma,
        )
        seed = seed_of_torch()
        settings: dict[str, Any] = {"cfg_scale": cfg_scale, "cfg_dropout": cfg_dropout}
        config = replace(generator_config(generator), **{name: value for name, value in settings.items() if value is not None})
        self._make_imagination = functools.partial(
            Imagination,
            self._flat.dim,
            action_dim,
            n_actions,
            relevance,
            config,
            cond_top_frac,
            policy_actions,
            max_outside,
            seed=(seed + 2) % 2**62,
        )
        self.imagination = self._make_imagination(device=self.device)
        self.imagination.require_memory(num_samples)
        synthetic = TensorReplayBuffer(num_samples, observation_space, action_space, self.device)
        self.set_source(SYNTHETIC, synthetic)
        self.last_report: RefitReport | None = None
        self.relevance_log: dict[str, float] = {}
        self.progress: Progress | None = None
        self._next_refit = retrain_every
        self._n_relevant = 0  # transitions up to which relevance has been trained
        self._told_to_wait = False
        self._model: Any = None

    @property
    def generator(self) -> Any:
        """The diffusion model."""
        return self.imagination.generator

    @property
    def relevance(self) -> Relevance:
        """The relevance function."""
        return self.imagination.relevance

    @property
    def device(self) -> th.device:
        return self._device

    @device.setter
    def device(self, device: th.device | str) -> None:
        device = th.device(device)
        if hasattr(self, "imagination") and device != self._device:
            state, random = self.imagination.state_dict(), self.imagination.random
            # A generator's state does not travel between kinds of device: continue from a seed it draws.
            seed = int(th.randint(2**62, (1,), generator=random, device=random.device))
            self.imagination = self._make_imagination(device=device, seed=seed)
            self.imagination.load_state_dict(state)
        MixtureReplayBuffer.device.fset(self, device)  # type: ignore[attr-defined]
        if getattr(self, "_model", None) is not None:
            self.bind_model(self._model)

    def manual_seed(self, seed: int) -> None:
        """Let sources, generator and heads draw anew, from this seed."""
        super().manual_seed(seed)
        self.imagination.manual_seed((seed + 2) % 2**62)

    def bind_model(self, model: Any) -> None:
        """
        Let relevance and actions ask a learning algorithm; it is not saved with the buffer.

        :raises ValueError: if it has no critic and one is needed, or n-step returns are discounted by another ``gamma``
        """
        check_discount(self, model.gamma)
        self._model = model
        if self.imagination.needs_model:

            def to_policy(obs: th.Tensor) -> Any:
                return normalize_obs(self._flat.unflatten(obs), model.get_vec_normalize_env())

            self.imagination.bind(ModelValues(model, to_policy))

    def take_settings(self, other: "GenerativeReplayBuffer") -> None:
        """
        Go on with another's ``synthetic_ratio`` and ``retrain_every``.

        :raises ValueError: if its generator or relevance is of other settings: what they have learned stays with them
        """
        own, new = self._settings(), other._settings()
        if differ := [f"{name}={own[name]!r}, not {new[name]!r}" for name in own if own[name] != new[name]]:
            raise ValueError(f"This generative replay has {'; '.join(differ)}.")
        self.synthetic_ratio, self.shares = other.synthetic_ratio, other.shares
        if self.retrain_every != other.retrain_every:
            self.retrain_every = other.retrain_every
            self._next_refit = (self.n_added // self.retrain_every + 1) * self.retrain_every

    def _settings(self) -> dict[str, Any]:
        """Of what is fitted."""
        relevance, config, *rest = self._make_imagination.args[3:]
        return {
            "num_samples": self.num_samples,
            "relevance": type(relevance) if isinstance(relevance, Relevance) else relevance,
            "generator": replace(config, compile=False, cuda_graph=False),
            **dict(zip(("cond_top_frac", "policy_actions", "max_outside"), rest, strict=True)),
        }

    def _wanted(self) -> dict[str, float]:
        if SYNTHETIC not in self.sources or self.sources[SYNTHETIC].size() == 0:
            return {ONLINE: 1.0, SYNTHETIC: 0.0}  # whatever the ratio
        return super()._wanted()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        self._keep_up()
        return super().sample(batch_size, env)

    def sample_block(self, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> Any:
        self._keep_up()
        return super().sample_block(gradient_steps, batch_size, env)

    def _keep_up(self) -> None:
        """Train relevance and generator as far as the transitions added since make it due."""
        if isinstance(self.synthetic_ratio, Real) and self.synthetic_ratio == 0:
            return
        self.imagination.require_model()
        self._train_relevance()
        if self.n_added < self._next_refit or _checked_ratio(self.synthetic_ratio, self.n_added) == 0:
            return
        if self.size() * self.n_envs < self.warmup:
            if self.full:
                held = self.size() * self.n_envs
                raise ValueError(f"warmup={self.warmup} is never reached: the buffer holds {held} transitions.")
            if not self._told_to_wait:
                warnings.warn(
                    f"Generative replay waits: {self.size() * self.n_envs} real transitions, the first fit needs "
                    f"warmup={self.warmup}. Until then batches are all real.",
                    stacklevel=3,
                )
                self._told_to_wait = True
            return
        self.refit()

    def _train_relevance(self) -> None:
        every = self.relevance.update_every
        if every == 0:
            return
        if self._n_relevant == 0:  # what came before learning is only caught up with if the first fit is due at once
            due = self.n_added >= self._next_refit
            self._n_relevant = max(self.n_added - (max(self.retrain_every, every) if due else every), 0)
        while self._n_relevant + every <= self.n_added:
            self._n_relevant += every
            count, random = self.size() * self.n_envs, self.imagination.random
            rows = th.randint(count, (self.relevance.batch_size,), generator=random, device=self.device)
            self.relevance_log = self.relevance.update(self._transitions(rows))

    def reset(self) -> None:
        """Forget all transitions, real and synthetic, and start counting anew; generator and relevance keep what they know."""
        super().reset()
        self.sources[SYNTHETIC].reset()
        self.n_added = 0
        self._next_refit, self._n_relevant, self._told_to_wait = self.retrain_every, 0, False

    def refit(self) -> RefitReport:
        """
        Fit the generator on all real transitions now, and replace the synthetic ones.

        :raises ValueError: if there are fewer than two
        :raises RuntimeError: if relevance or actions need a model, and none is bound
        """
        if self.size() * self.n_envs < 2:
            raise ValueError(f"A generator cannot be fitted on {self.size() * self.n_envs} transitions.")
        self._next_refit = (self.n_added // self.retrain_every + 1) * self.retrain_every
        imagined, report = self.imagination.imagine(self.real_transitions(), self.num_samples, self.n_added, self.progress)
        synthetic = self.sources[SYNTHETIC]
        synthetic.reset()
        if imagined is None:
            warnings.warn(
                f"Generative replay at transition {self.n_added}: {report.problem} Training goes on with real rows alone.",
                stacklevel=4,
            )
        else:
            synthetic.extend(
                self._flat.unflatten(imagined["observations"]),
                self._flat.unflatten(imagined["next_observations"]),
                imagined["actions"],
                imagined["rewards"],
                imagined["dones"],
            )
        self.last_report = report
        return report

    def real_transitions(self) -> dict[str, th.Tensor]:
        """All real transitions, one step each, in the order of their collection, environment by environment."""
        first = self.pos if self.full else 0
        rows = (th.arange(self.size()) + first) % self.buffer_size
        real = self._transitions((rows * self.n_envs + th.arange(self.n_envs)[:, None]).flatten())
        real["episode_ends"].view(self.n_envs, -1)[:, -1] = 1  # what comes next is another environment
        return real

    def _transitions(self, index: th.Tensor) -> dict[str, th.Tensor]:
        """Single steps at ``row * n_envs + environment``, flat and raw, on the buffer's device."""
        online: Any = self.online
        index = index.to(online.dones.device)
        steps = online.rows(index, single_steps=True)
        return {
            "observations": self._flat.flatten(steps.observations),
            "actions": steps.actions.flatten(1),
            "rewards": steps.rewards,
            "next_observations": self._flat.flatten(steps.next_observations),
            "dones": steps.dones,
            "episode_ends": online.dones.reshape(-1, 1)[index].to(self.device),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything the buffer holds, generator and relevance included, as CPU tensors and numbers."""
        imagination = tree_map_only(th.Tensor, lambda value: value.cpu(), self.imagination.state_dict())
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return super().state_dict() | {"imagination": imagination, "counters": counters}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Put back what ``state_dict`` returned.

        :raises ValueError: if it does not fit
        """
        super().load_state_dict(state)
        self.imagination.load_state_dict(state["imagination"])
        for name in _COUNTERS:
            setattr(self, name, state["counters"][name])

    def __getstate__(self) -> dict[str, Any]:
        """Without the bound model, and the generator as CPU tensors."""
        imagination = tree_map_only(th.Tensor, lambda value: value.cpu(), self.imagination.state_dict())
        return self.__dict__ | {"_model": None, "progress": None, "imagination": imagination}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._device = usable_device(self._device)
        self.imagination = self._make_imagination(device=self._device)
        self.imagination.load_state_dict(state["imagination"])


def _checked_ratio(synthetic_ratio: Schedule, n_added: int) -> float:
    """
    :raises ValueError: if it is not in [0, 1]
    """
    ratio = schedule_value(synthetic_ratio, n_added, "synthetic_ratio")
    if not 0 <= ratio <= 1:
        raise ValueError(f"synthetic_ratio={ratio} must be between 0 and 1.")
    return ratio


def _real_share(synthetic_ratio: Schedule, n_added: int) -> float:
    return 1 - _checked_ratio(synthetic_ratio, n_added)
