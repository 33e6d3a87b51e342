"""Recording transitions of a policy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.vec_env import VecEnv, unwrap_vec_normalize

from sb3_pgr.common.health import check_finite_transition
from sb3_pgr.offline.checks import dataset_from_arrays
from sb3_pgr.offline.dataset import OfflineDataset

_COLUMNS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
Row = tuple[Any, ...]


def collect(
    env: VecEnv,
    model: Any = None,
    episodes: int | None = None,
    rows: int | None = None,
    deterministic: bool = True,
    action_noise: ActionNoise | None = None,
    random_action_probability: float = 0.0,
    seed: int = 0,
    source: str = "collected",
    env_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    on_episode: Callable[[int, int, float], None] | None = None,
) -> OfflineDataset:
    """
    Run a policy and keep what happens, in whole episodes.

    Every environment gives the same number of episodes (up to one), so that short ones are not favoured. Observations and
    rewards are recorded raw, also below ``VecNormalize``. Stopped by Ctrl-C, or by an error of the environment, it returns the
    episodes that are finished, and says why in ``metadata["stopped_by"]``.

    :param env: one or several environments with a ``Box`` or ``Discrete`` action space
    :param model: has ``predict``; none for uniformly random actions
    :param episodes: number of episodes
    :param rows: instead of ``episodes``: go on until this many transitions are there, and end the running episodes
    :param deterministic: the policy's best action, or a draw from it
    :param action_noise: added to actions scaled to [-1, 1], which are then clipped; it draws from numpy's global generator
    :param random_action_probability: chance of a uniformly random action instead, at every step
    :param seed: of the environments and of random actions
    :param source: what the dataset is called
    :param env_id: environment
    :param metadata: goes into the dataset
    :param on_episode: called with finished episodes, finished rows and the return of the last episode
    :raises ValueError: on contradictory arguments, or if no episode was finished
    """
    space = env.action_space
    if not isinstance(space, spaces.Box | spaces.Discrete):
        raise ValueError(f"Actions must be Box or Discrete to be a dataset, not {space}.")
    if (episodes is None) == (rows is None):
        raise ValueError("Say how much to collect: either episodes or rows.")
    if (episodes if rows is None else rows or 0) < 1:  # type: ignore[operator]
        raise ValueError(f"episodes={episodes}, rows={rows}: at least 1 is needed.")
    if not 0 <= random_action_probability <= 1:
        raise ValueError(f"random_action_probability={random_action_probability} must be between 0 and 1.")
    if action_noise is not None and not isinstance(space, spaces.Box):
        raise ValueError(f"action_noise is for Box actions, not {space}; random_action_probability works for all.")
    actor = _Actor(env, model, deterministic, action_noise, random_action_probability, seed)
    finished, stopped_by = _run(env, actor, _shares(episodes, env.num_envs), rows, seed, on_episode)
    if not finished:
        raise ValueError("Interrupted before an episode was finished: there is nothing to keep.")
    if stopped_by is not None:
        print(f"Stopped ({stopped_by}): {len(finished)} finished episodes are kept.")
        metadata = {**(metadata or {}), "stopped_by": stopped_by}
    transitions = [row for episode in finished for row in episode]
    arrays = {name: _stacked([row[i] for row in transitions]) for i, name in enumerate(_COLUMNS)}
    return dataset_from_arrays(arrays, source, env.observation_space, space, env_id, metadata)


class _Actor:
    """Chooses actions ``(n_envs, *action_shape)`` in units of the environment."""

    def __init__(self, env: VecEnv, model: Any, deterministic: bool, noise: ActionNoise | None, chance: float, seed: int):
        self.space, self.n_envs = env.action_space, env.num_envs
        self.model, self.deterministic = model, deterministic
        self.noise = None if noise is None else VectorizedActionNoise(noise, env.num_envs)
        self.chance = 1.0 if model is None else chance
        self.generator = np.random.default_rng(seed)
        self.memory: Any = None  # of recurrent policies
        self.starts = np.ones(env.num_envs, bool)
        self.space.seed(seed)

    def __call__(self, obs: Any) -> np.ndarray:
        random = np.stack([self.space.sample() for _ in range(self.n_envs)])
        if self.model is None:
            return random
        actions, self.memory = self.model.predict(
            obs, state=self.memory, episode_start=self.starts, deterministic=self.deterministic
        )
        self.starts = np.zeros(self.n_envs, bool)
        if self.noise is not None:
            low, high = self.space.low, self.space.high  # type: ignore[attr-defined]
            actions = np.clip(actions + self.noise() * (high - low) / 2, low, high).astype(self.space.dtype)
        chosen = self.generator.random(self.n_envs) < self.chance
        return np.where(chosen.reshape(-1, *[1] * (random.ndim - 1)), random, actions)

    def end_episode(self, index: int) -> None:
        self.starts[index] = True
        if self.noise is not None:
            self.noise.reset([index])


def _shares(episodes: int | None, n_envs: int) -> list[float]:
    """Episodes of each environment."""
    if episodes is None:
        return [np.inf] * n_envs
    return [(episodes + i) // n_envs for i in range(n_envs)]


def _run(
    env: VecEnv,
    actor: _Actor,
    shares: list[float],
    rows: int | None,
    seed: int,
    on_episode: Callable[[int, int, float], None] | None,
) -> tuple[list[list[Row]], str | None]:
    """Finished episodes, and what stopped the collection before its time."""
    normalize = unwrap_vec_normalize(env)
    if normalize is not None:
        if normalize is not env:
            raise ValueError(
                "VecNormalize must be the outermost wrapper of the environments: observations are recorded raw, and below "
                "VecFrameStack (frame_stack in a run's settings) what the policy sees has no raw form."
            )
        env = normalize.venv  # raw, where terminal observations are not clipped

    def seen(obs: Any) -> Any:
        return obs if normalize is None else normalize.normalize_obs(obs)

    running: list[list[Row]] = [[] for _ in range(env.num_envs)]
    finished: list[list[Row]] = []
    n_rows = 0
    try:
        env.seed(seed)
        obs = env.reset()
        while any(share > 0 for share in shares):
            actions = actor(seen(obs))
            following, rewards, dones, infos = env.step(actions)
            check_finite_transition(following, rewards, f"After {n_rows} rows", infos)
            for i in range(env.num_envs):
                if shares[i] <= 0:
                    continue
                timeout = bool(dones[i] and infos[i].get("TimeLimit.truncated", False))
                after = infos[i]["terminal_observation"] if dones[i] else _at(following, i)
                running[i].append((_at(obs, i), actions[i].copy(), rewards[i], after, bool(dones[i]) and not timeout, timeout))
                if dones[i]:
                    actor.end_episode(i)
                    finished.append(running[i])
                    n_rows += len(running[i])
                    running[i] = []
                    shares[i] -= 1
                    if rows is not None and n_rows >= rows:  # the others may end their running episodes
                        shares = [float(share > 0 and bool(part)) for share, part in zip(shares, running)]
                    if on_episode is not None:
                        on_episode(len(finished), n_rows, float(sum(row[2] for row in finished[-1])))
            obs = following
    except KeyboardInterrupt:
        return finished, "interrupted"
    except Exception as error:
        if not finished:
            raise
        return finished, str(error)
    return finished, None


def _at(observations: Any, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[index].copy() for key, value in observations.items()}
    return observations[index].copy()


def _stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: np.stack([value[key] for value in values]) for key in values[0]}
    return np.stack(values)
