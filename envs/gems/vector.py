"""Many users of GeMS at once: for Gymnasium, and for SB3."""

import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from sb3_pgr.envs.gems.items import Items
from sb3_pgr.envs.gems.users import make_users
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn


class _Episodes:
    """Seeds of the environments, and how many episodes there were."""

    def __init__(self, n: int):
        self.seed(np.random.SeedSequence().generate_state(n, np.uint64) >> np.uint64(2))

    def seed(self, seeds: np.ndarray) -> None:
        self.seeds, self.episode = seeds, -1

    def next(self) -> tuple[np.ndarray, int]:
        self.episode += 1
        return self.seeds, self.episode


def _refuse_drawing(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(f"render_mode={render_mode!r}: users who are simulated together are not drawn; make one environment.")


class GemsVectorEnv(VectorEnv):
    """
    ``GemsEnv`` for many users in one: the same episodes, bit for bit, as those of single environments with the same seeds.
    Episodes begin again in the step that ends them (``AutoresetMode.SAME_STEP``); infos hold the last observations and nothing
    else.

    :param num_envs: users
    :param items: see ``GemsEnv``
    :param world: see ``GemsEnv``
    :param options: see ``GemsEnv``
    """

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": []}

    def __init__(self, num_envs: int = 1, items: str | Items = "focused", world: str = "topdown", **options: Any):
        _refuse_drawing(options.pop("render_mode", None))
        self.num_envs = num_envs
        self.users, self.stream = make_users(items, world, **options), _Episodes(num_envs)
        self.single_observation_space = self.users.observations.space
        self.single_action_space = self.users.actions.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if not np.all((options or {}).get("reset_mask", True)):
            raise ValueError("Users share one step: all of them are reset, or none (no reset_mask).")
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        if seed is not None:
            self.stream.seed(self._seeds(seed))
        return self.users.reset(*self.stream.next()), {}

    def _seeds(self, seed: int | Sequence[int | None]) -> np.ndarray:
        if isinstance(seed, int | np.integer):
            seed = range(int(seed), int(seed) + self.num_envs)
        if len(seed) != self.num_envs:
            raise ValueError(f"There are {len(seed)} seeds for {self.num_envs} environments.")
        seeds = [int(self.np_random.integers(2**62)) if one is None else int(one) for one in seed]
        if not all(0 <= one < 2**63 for one in seeds):
            raise ValueError(f"Seeds must lie between 0 and 2**63 - 1, not at {seeds}.")
        return np.array(seeds, np.int64)

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        obs, rewards, over = self.users.step(actions)
        truncated = np.full(self.num_envs, over)
        info: dict[str, Any] = {}
        if over:
            last = np.empty(self.num_envs, object)
            last[:] = list(iterate(self.observation_space, obs))
            info = {"final_obs": last, "_final_obs": truncated}
            obs = self.users.reset(*self.stream.next())
        return obs, rewards.astype(np.float64), np.zeros(self.num_envs, bool), truncated, info


class GemsVecEnv(VecEnv):
    """
    ``GemsEnv`` for many users as SB3's ``VecEnv``; episodes are reported as ``Monitor`` does.

    :param n_envs: users
    :param items: see ``GemsEnv``
    :param world: see ``GemsEnv``
    :param options: see ``GemsEnv``
    """

    def __init__(self, n_envs: int, items: str | Items = "focused", world: str = "topdown", **options: Any):
        _refuse_drawing(options.pop("render_mode", None))
        self.users, self.stream = make_users(items, world, **options), _Episodes(n_envs)
        self.render_mode = None
        self.spec: Any = None
        super().__init__(n_envs, self.users.observations.space, self.users.actions.space)
        self._returns, self._started = np.zeros(n_envs), time.time()

    def reset(self) -> Any:
        if self._seeds[0] is not None:
            self.stream.seed(np.asarray(self._seeds))
            self._reset_seeds()
        self._returns[:] = 0
        return self.users.reset(*self.stream.next())

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, over = self.users.step(self._actions)
        self._returns += rewards
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if over:
            length, seconds = self.users.engine.config.horizon, round(time.time() - self._started, 6)
            for i, info in enumerate(infos):
                info["terminal_observation"] = (
                    {name: value[i] for name, value in obs.items()} if isinstance(obs, dict) else obs[i]
                )
                info["TimeLimit.truncated"] = True
                info["episode"] = {"r": float(self._returns[i]), "l": length, "t": seconds}
            obs = self.users.reset(*self.stream.next())
            self._returns = np.zeros(self.num_envs)
        return obs, rewards.astype(np.float32), np.full(self.num_envs, over), infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError("Users are simulated together; there is no environment of each.")

    def env_is_wrapped(self, wrapper_class: type[gym.Wrapper], indices: Any = None) -> list[bool]:
        return [wrapper_class is Monitor] * len(list(self._get_indices(indices)))  # it reports episodes as that does
