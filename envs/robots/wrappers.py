"""Wrappers for robot tasks of any origin: gripper penalty, interventions, relative frame, flat observations, success."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from sb3_pgr.envs.robots.arm import STATE_DIM
from sb3_pgr.envs.robots.task import RobotTask


class GripperPenalty(gym.Wrapper):
    """
    Tell in ``info["grasp_penalty"]`` what a step's gripper commands cost: something for each change from open to closed or
    back, nothing for a command that changes nothing (HIL-SERL). The reward stays as it is; ``HybridSAC`` uses the penalty in
    its grasp critic's target alone.

    :param env: whose actions hold gripper commands: the upper bound opens, the lower one closes, the middle half does neither
    :param indices: the commands' entries
    :param penalty: of one change
    :param starts_open: state of the grippers at reset
    :raises ValueError: if an index is no entry of the actions, or one without bounds, or the penalty is positive
    """

    def __init__(self, env: gym.Env, indices: Sequence[int], penalty: float = -0.02, starts_open: bool = True):
        shape = (isinstance(env.action_space, spaces.Box) and env.action_space.shape) or (0,)
        if len(shape) != 1 or not all(0 <= index < shape[0] for index in indices):
            raise ValueError(f"indices={tuple(indices)} must be entries of actions of shape {shape}.")
        if penalty > 0:
            raise ValueError(f"penalty={penalty} must not be positive.")
        super().__init__(env)
        self.indices, self.penalty, self.starts_open = list(indices), penalty, starts_open
        low, high = (getattr(env.action_space, name)[self.indices] for name in ("low", "high"))
        if not np.isfinite([low, high]).all():
            raise ValueError(f"Gripper commands need bounds; actions are {env.action_space}.")
        self._low, self._range = low, high - low
        self._open = np.full(len(self.indices), starts_open)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._open[:] = self.starts_open
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        executed = info.get("intervene_action")
        commands = 2 * (np.asarray(action if executed is None else executed)[self.indices] - self._low) / self._range - 1
        now = np.where(np.abs(commands) < 0.5, self._open, commands > 0)
        info["grasp_penalty"] = self.penalty * int((now != self._open).sum())
        self._open = now
        return obs, reward, terminated, truncated, info


class InterventionSource(Protocol):
    """Somebody, or something, that may take over."""

    def reset(self, env: gym.Env) -> None:
        """An episode begins."""

    def action(self, env: gym.Env) -> np.ndarray | None:
        """What to do in place of the policy, in units of the environment; None leaves it to the policy."""


class Intervention(gym.Wrapper):
    """
    Let a source take over. Where it does, its action is executed and reported in ``info["intervene_action"]``. Each step tells
    ``info["intervention_count"]`` (how often it took over) and ``info["intervention_rate"]`` (share of steps), so far in the
    episode: a time limit outside of this wrapper may end it.

    :param env: any environment with ``Box`` actions
    :param source: see ``InterventionSource``; one that draws at random has a method ``seed`` too, which is called where the
        environment is reset with a seed
    """

    def __init__(self, env: gym.Env, source: InterventionSource):
        super().__init__(env)
        self.source = source
        self._steps = self._taken = self._times = 0
        self._was_taken = False

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(seed=seed, **kwargs)
        if seed is not None and hasattr(self.source, "seed"):
            self.source.seed(seed)
        self._steps = self._taken = self._times = 0
        self._was_taken = False
        self.source.reset(self.env)
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        own = self.source.action(self.env)
        obs, reward, terminated, truncated, info = self.env.step(action if own is None else own)
        self._steps += 1
        if own is not None:
            info["intervene_action"] = np.asarray(own, np.float32)
            self._taken += 1
            self._times += not self._was_taken
        self._was_taken = own is not None
        info["intervention_count"] = self._times
        info["intervention_rate"] = self._taken / self._steps
        return obs, reward, terminated, truncated, info


class RelativeFrame(gym.ObservationWrapper):
    """
    Observe where each gripper is from where it was at reset, not from the robot's base (HIL-SERL; its grippers turn, and
    actions turn with them, while ours always point down).

    :param env: a ``RobotTask``, wrapped or not
    :raises ValueError: if it is none
    """

    def __init__(self, env: gym.Env):
        if not isinstance(env.unwrapped, RobotTask):
            raise ValueError(f"RelativeFrame knows the states of robot tasks, not of {type(env.unwrapped).__name__}.")
        super().__init__(env)
        self._places = [STATE_DIM * i + axis for i in range(len(env.unwrapped.arms)) for axis in range(3)]
        self._origin = np.zeros(len(self._places), np.float32)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._origin = self._state(obs)[self._places].copy()
        return self.observation(obs), info

    def observation(self, observation: Any) -> Any:
        state = self._state(observation).copy()
        state[self._places] -= self._origin
        return {**observation, "state": state} if isinstance(observation, Mapping) else state

    @staticmethod
    def _state(observation: Any) -> np.ndarray:
        return observation["state"] if isinstance(observation, Mapping) else observation


class FlatObservation(gym.ObservationWrapper):
    """
    Dicts within dicts, as gym-hil has them, made one Dict that SB3 takes: images under their own names, all else in order of
    its names as one float32 ``"state"``; without images the state alone.

    :param env: with ``Dict`` observations
    :param keys: names to keep (of the inner ones); all by default
    :raises ValueError: if observations are no ``Dict``, or a name is not among them, or twice
    """

    def __init__(self, env: gym.Env, keys: Sequence[str] | None = None):
        if not isinstance(env.observation_space, spaces.Dict):
            raise ValueError(f"FlatObservation takes Dict observations, not {env.observation_space}.")
        super().__init__(env)
        leaves = _leaves(env.observation_space.spaces)
        parts = dict(leaves)
        twice = sorted({key for key, _ in leaves if sum(key == other for other, _ in leaves) > 1})
        if twice:
            raise ValueError(f"There are several observations called {', '.join(twice)}, in different Dicts.")
        unknown = set(keys or ()) - parts.keys()
        if unknown:
            raise ValueError(f"There are no observations {sorted(unknown)}; there are {sorted(parts)}.")
        self._kept = [key for key in parts if keys is None or key in keys]
        self._parts = parts
        self._images = [key for key in self._kept if parts[key].dtype == np.uint8 and len(parts[key].shape) == 3]
        self._others = sorted(set(self._kept) - set(self._images))
        state = spaces.Box(-np.inf, np.inf, (sum(spaces.flatdim(parts[key]) for key in self._others),), np.float32)
        if "state" in self._images:
            raise ValueError('A camera cannot be called "state", which is what all else is put into.')
        images = {key: parts[key] for key in self._images}
        rest = {"state": state} if self._others else {}
        self.observation_space = spaces.Dict({**images, **rest}) if images else state

    def observation(self, observation: Any) -> Any:
        parts = dict(_leaves(observation))
        state = np.concatenate([np.zeros(0), *(spaces.flatten(self._parts[key], parts[key]) for key in self._others)]).astype(
            np.float32
        )
        rest = {"state": state} if self._others else {}
        return {**{key: parts[key] for key in self._images}, **rest} if self._images else state


def _leaves(tree: Mapping[str, Any]) -> list[tuple[str, Any]]:
    leaves = []
    for key, value in tree.items():
        inner = value.spaces if isinstance(value, spaces.Dict) else value
        leaves += _leaves(inner) if isinstance(inner, Mapping) else [(key, value)]
    return leaves


class HilInfo(gym.Wrapper):
    """
    What environments of HIL-SERL and gym-hil tell in ``info``, under the names that SB3 and this library know: ``succeed`` as
    ``is_success``; ``teleop_action``, where ``is_intervention`` is true, as ``intervene_action``; ``discrete_penalty`` as
    ``grasp_penalty``.

    :param env: any environment; gym-hil's own wrappers lie inside of this one
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        if "succeed" in info:
            info["is_success"] = bool(info["succeed"])
        if info.get("is_intervention") and "teleop_action" in info:  # which gym-hil tells at every step
            info["intervene_action"] = np.asarray(info["teleop_action"], np.float32)
        if "discrete_penalty" in info:
            info["grasp_penalty"] = info["discrete_penalty"]
        return obs, reward, terminated, truncated, info
