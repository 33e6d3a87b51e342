"""Replay of live experience and demonstrations, to which interventions are added."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr.buffers.fields import FieldType, infos_by_step, scaled_actions
from sb3_pgr.buffers.mixture import ONLINE, MixtureReplayBuffer
from sb3_pgr.buffers.tensor_replay import TensorReplayBuffer
from sb3_pgr.common.vision import images_as_in

DEMONSTRATIONS = "demonstrations"


class GraspSamples(NamedTuple):
    """SB3's ``ReplayBufferSamples``, and what each row's gripper commands cost, ``(batch, 1)``, not above 0."""

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None = None
    grasp_penalties: th.Tensor | None = None


class GraspReplayBuffer(TensorReplayBuffer):
    """``TensorReplayBuffer`` that keeps ``info["grasp_penalty"]`` of each step (0 where it is missing)."""

    def _extra_fields(self) -> dict[str, FieldType]:
        return {"grasp_penalties": ((), np.dtype(np.float32))}

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: Any,
        reward: Any,
        done: Any,
        infos: list[dict[str, Any]] | None = None,
        timeouts: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if infos and len(infos) != self.n_envs:
            raise ValueError(f"{self.n_envs} environments need as many infos, got {len(infos)}.")
        if extra is None:
            penalties = [info.get("grasp_penalty", 0.0) for info in infos] if infos else [0.0] * self.n_envs
            extra = {"grasp_penalties": _penalties(penalties, self.n_envs, 'info["grasp_penalty"]')}
        super().add(obs, next_obs, action, reward, done, infos, timeouts, extra)

    def extend(
        self,
        obs: Any,
        next_obs: Any,
        action: Any,
        reward: Any,
        done: Any,
        infos: list[list[dict[str, Any]]] | None = None,
        timeouts: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        if extra is None:
            n = len(reward) * self.n_envs
            penalties = (
                [info.get("grasp_penalty", 0.0) for step in infos_by_step(infos) for info in step] if infos else [0.0] * n
            )
            extra = {"grasp_penalties": _penalties(penalties, n, 'info["grasp_penalty"]').reshape(-1, self.n_envs)}
        super().extend(obs, next_obs, action, reward, done, infos, timeouts, extra)

    def rows(self, index: th.Tensor, env: VecNormalize | None = None, single_steps: bool = False) -> GraspSamples:
        samples = super().rows(index, env, single_steps)
        penalties = self._storage.field("grasp_penalties")[index // self.n_envs, index % self.n_envs]
        return GraspSamples(**samples._asdict(), grasp_penalties=penalties.unsqueeze(-1).to(self.device))


class DemonstrationReplayBuffer(MixtureReplayBuffer):
    """
    Half of every batch from live experience, half from demonstrations (RLPD, Ball et al. 2023). Fits any off-policy
    algorithm of SB3: ``replay_buffer_class=DemonstrationReplayBuffer``, then ``model.replay_buffer.add_demonstrations``.

    Where ``info["intervene_action"]`` is present, somebody took over: that action is stored in place of the policy's, and the
    transition is added to the demonstrations as well (HIL-SERL, Luo et al. 2024). Parameters not listed are those of
    ``MixtureReplayBuffer``.

    :param demo_share: share of demonstrations in a batch; while there are none, all rows are live ones, even with a share of 1
    :param demo_size: how many transitions of demonstrations and interventions are held; by default as many as live ones.
        Memory is taken as they come
    :param online_class: class of both parts
    :param online_kwargs: further arguments for both, but no ``n_steps``: rows of demonstrations follow one another with gaps
    :raises ValueError: if ``demo_share`` is not between 0 and 1, or another argument is none of these
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
        demo_share: float = 0.5,
        demo_size: int | None = None,
        online_class: type[TensorReplayBuffer] = GraspReplayBuffer,
        online_kwargs: Mapping[str, Any] | None = None,
        gamma: float = 0.99,
    ):
        if not 0 <= demo_share <= 1:
            raise ValueError(f"demo_share={demo_share} must be between 0 and 1.")
        if not issubclass(online_class, TensorReplayBuffer):
            raise ValueError(f"online_class={online_class.__name__} must be a TensorReplayBuffer.")
        if (online_kwargs or {}).get("n_steps", 1) > 1:
            raise ValueError("n_steps must be 1: demonstrations and interventions follow one another with gaps.")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
            shares={ONLINE: 1 - demo_share, DEMONSTRATIONS: demo_share},
            online_class=online_class,
            online_kwargs=online_kwargs,
            gamma=gamma,
        )
        rows = online_class(
            buffer_size if demo_size is None else demo_size,
            observation_space,
            action_space,
            device,
            optimize_memory_usage=optimize_memory_usage,
            handle_timeout_termination=handle_timeout_termination,
            **(online_kwargs or {}),
        )
        self.set_source(DEMONSTRATIONS, rows)
        self.n_interventions = 0
        self._warned_of_room = False

    @property
    def demonstrations(self) -> ReplayBuffer:
        """The source of demonstrations and interventions."""
        return self.sources[DEMONSTRATIONS]

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: list[dict[str, Any]]) -> None:
        """
        Store one transition of each environment, those of interventions in both parts.

        :raises ValueError: if an intervention's action is not told, not finite, or of another shape
        """
        if any(info.get("is_intervention") and info.get("intervene_action") is None for info in infos):
            raise ValueError(
                'info["is_intervention"] without info["intervene_action"]: nothing says what was done in place of the '
                "policy's action. For gym-hil, wrap the environment in sb3_pgr.envs.robots.wrappers.HilInfo."
            )
        taken_over = [i for i, info in enumerate(infos) if info.get("intervene_action") is not None]
        if taken_over:
            action = np.array(action, copy=True).reshape(self.n_envs, -1)
            for i in taken_over:
                action[i] = self._scaled(infos[i]["intervene_action"])
        super().add(obs, next_obs, action, reward, done, infos)
        self._check_room(len(taken_over))
        for i in taken_over:
            obs_i, next_obs_i, action_i, reward_i, done_i = (_row(part, i) for part in (obs, next_obs, action, reward, done))
            self.demonstrations.add(obs_i, next_obs_i, action_i, reward_i, done_i, [infos[i]])
        self.n_interventions += len(taken_over)

    def present_shares(self) -> dict[str, float]:
        """As the mixture's; without demonstrations all rows are live ones, whatever their share."""
        if self.demonstrations.size() == 0 and self.online.size() > 0:
            return {ONLINE: 1.0, DEMONSTRATIONS: 0.0}
        return super().present_shares()

    def extend(self, *args: Any, **kwargs: Any) -> None:
        """
        Refused: it would leave out interventions and what gripper commands cost.

        :raises NotImplementedError: always; see ``add`` and ``add_demonstrations``
        """
        raise NotImplementedError("Live steps are added one by one, for their interventions; add_demonstrations takes many.")

    def _check_room(self, rows: int) -> None:
        """Say once that the oldest demonstrations have to go."""
        room = self.demonstrations.buffer_size
        if self.demonstrations.size() + rows > room and not self._warned_of_room:
            self._warned_of_room = True
            warnings.warn(f"There is room for {room} demonstrated transitions; the oldest go now: demo_size.", stacklevel=3)

    def _scaled(self, action: Any) -> np.ndarray:
        """An action in units of the environment as SB3 stores it."""
        action = np.asarray(action)
        if action.shape != self.action_space.shape:
            raise ValueError(f'info["intervene_action"] has shape {action.shape}, actions have {self.action_space.shape}.')
        if not np.isfinite(action).all():
            raise ValueError(f'info["intervene_action"] must be finite, not {action}.')
        return scaled_actions(action, self.action_space).reshape(-1)

    def add_demonstrations(self, dataset: Any) -> None:
        """
        Store the transitions of an ``OfflineDataset``, beside what is there. The oldest go when there is no more room.

        :param dataset: with this buffer's spaces (images may have their channels last), actions in the environment's
            units; ``extras["grasp_penalty"]`` if known
        :raises TypeError: if it is no such dataset, but a file, say
        :raises ValueError: if there is no room for this many, or ``grasp_penalty`` is not one finite number a row, at most 0
        """
        if not hasattr(dataset, "terminals"):
            raise TypeError(
                f"add_demonstrations takes an OfflineDataset, not {dataset!r:.200}; sb3_pgr.load_dataset makes one."
            )
        if len(dataset) > self.demonstrations.buffer_size:
            raise ValueError(
                f"There is room for {self.demonstrations.buffer_size} demonstrated transitions, not {len(dataset)}: demo_size."
            )
        self._check_room(len(dataset))
        extra = {}
        if isinstance(self.demonstrations, GraspReplayBuffer):
            penalties = dataset.extras.get("grasp_penalty", np.zeros(len(dataset)))
            extra["extra"] = {"grasp_penalties": _penalties(penalties, len(dataset), f"{dataset.source}: grasp_penalty")}
        self.demonstrations.extend(
            images_as_in(dataset.observations, self.observation_space),
            images_as_in(dataset.next_observations, self.observation_space),
            scaled_actions(dataset.actions, self.action_space),
            dataset.rewards,
            dataset.terminals | dataset.timeouts,
            timeouts=dataset.timeouts & ~dataset.terminals,
            **extra,
        )

    def state_dict(self) -> dict[str, Any]:
        """As the mixture's, and the number of interventions."""
        return super().state_dict() | {"n_interventions": self.n_interventions}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned."""
        super().load_state_dict(state)
        self.n_interventions = state["n_interventions"]


def _penalties(values: Any, n: int, name: str) -> np.ndarray:
    penalties = np.asarray(values, np.float32)
    if penalties.size != n or not (penalties <= 0).all() or not np.isfinite(penalties).all():
        raise ValueError(f"{name} must be one finite number a row, not above 0.")
    return penalties.reshape(n)


def _row(value: Any, i: int) -> Any:
    if isinstance(value, Mapping):
        return {key: part[i : i + 1] for key, part in value.items()}
    return np.asarray(value)[i : i + 1]
