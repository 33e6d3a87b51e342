"""Demonstrations, and frames of success and failure."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from sb3_pgr.envs.robots.experts import expert_action
from sb3_pgr.envs.robots.task import RobotTask

Act = Callable[[gym.Env], np.ndarray]
_AFTER = 15  # frames of success that are recorded


def record_demonstrations(
    env: gym.Env,
    act: Act,
    episodes: int,
    seed: int = 0,
    keep_failures: bool = False,
    on_episode: Callable[[int, int], Any] | None = None,
) -> dict[str, Any]:
    """
    Transitions of whole episodes under D4RL's names, and ``grasp_penalty``.

    :param act: says what is done next; what the environment reports as ``intervene_action`` counts instead
    :param episodes: how many are kept
    :param seed: the ``i``-th attempt is seeded with ``seed + i``
    :param keep_failures: keep all episodes, not only successful ones
    :param on_episode: called with the number of kept and of tried ones
    :return: arrays ``(n, ...)``, observations a dict of such if the environment's are. Of what was finished before a
        ``KeyboardInterrupt``, which ends the recording; nothing if that is nothing
    :raises ValueError: if only one in a hundred attempts succeeds
    """
    rows: list[dict[str, Any]] = []
    try:
        _record(rows, env, act, episodes, seed, keep_failures, on_episode)
    except KeyboardInterrupt:
        print("Interrupted; what is finished is kept.")
    return {name: _stack([row[name] for row in rows]) for name in (rows[0] if rows else {})}


def _record(
    rows: list[dict[str, Any]],
    env: gym.Env,
    act: Act,
    episodes: int,
    seed: int,
    keep_failures: bool,
    on_episode: Callable[[int, int], Any] | None,
) -> None:
    kept = tried = 0
    while kept < episodes:
        if tried >= 100 * (kept + 1):
            raise ValueError(f"{kept} of {tried} attempts succeeded: these would be no demonstrations.")
        obs, _ = env.reset(seed=seed + tried)
        episode, over, info = [], False, dict[str, Any]()
        while not over:
            action = act(env)
            next_obs, reward, terminated, truncated, info = env.step(action)
            over = terminated or truncated
            executed = info.get("intervene_action")
            episode.append(
                {
                    "observations": obs,
                    "actions": np.asarray(action if executed is None else executed, np.float32),
                    "rewards": float(reward),
                    "next_observations": next_obs,
                    "terminals": terminated,
                    "timeouts": truncated and not terminated,
                    "grasp_penalty": float(info.get("grasp_penalty", 0.0)),
                }
            )
            obs = next_obs
        tried += 1
        if keep_failures or info.get("is_success", False):
            rows += episode
            kept += 1
        if on_episode is not None:
            on_episode(kept, tried)


def _stack(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: np.stack([value[key] for value in values]) for key in values[0]}
    return np.stack(values)


def record_frames(env: gym.Env, seed: int, noise: float = 0.4, fumble: float = 0.3, pretend: float = 0.3) -> tuple[Any, Any]:
    """
    One episode of images for a reward classifier: the scripted expert with noise, who fumbles now and then, and goes on for a
    while after success. Some episodes only look like one: these are what a policy would find to fool a classifier that has
    not seen them.

    :param env: a robot task with images
    :param noise: standard deviation of noise on its movements
    :param fumble: share of episodes in which it opens the gripper, or stops, half-way
    :param pretend: share of episodes in which the hands wander about with nothing in them, mostly upwards, opening and closing
    :return: images by camera of failure and of success, ``(n, height, width, 3)``; either may have no frames
    :raises ValueError: if the environment is no robot task with images
    """
    task = env.unwrapped
    if not isinstance(task, RobotTask) or not isinstance(env.observation_space, gym.spaces.Dict):
        raise ValueError("Frames are recorded in robot tasks with images, robots/..._images-v0.")
    random = np.random.default_rng(seed)
    obs, _ = task.reset(seed=seed)
    frames: dict[bool, list[Any]] = {False: [obs], True: []}
    fumbles_at = int(random.integers(5, 20)) if random.random() < fumble else None
    wandering = _Wandering(task, random) if random.random() < pretend else None
    length = int(env.spec.max_episode_steps or 100) if env.spec else 100
    for step in range(length):  # the task's own step: it goes on after success
        action = expert_action(env, noise, random) if wandering is None else wandering.action()
        if fumbles_at is not None and step >= fumbles_at:
            action = (
                np.full_like(action, 0) if random.random() < 0.3 else random.uniform(-1, 1, action.shape).astype(np.float32)
            )
        obs, _, _, _, info = task.step(action)
        frames[info["is_success"]].append(obs)
        if len(frames[True]) >= _AFTER or task.is_failure():
            break
    return tuple(  # type: ignore[return-value]
        {key: np.stack([frame[key] for frame in frames[kind]]) for key in task.cameras} if frames[kind] else {}
        for kind in (False, True)
    )


class _Wandering:
    """Ways of empty hands: each arm drifts somewhere, more often up than down, and its gripper does this and that."""

    def __init__(self, task: RobotTask, random: np.random.Generator):
        self.random, self.shape, self.per_arm = random, task.action_space.shape, 4 if task.gripper == "learned" else 3
        self.drift = random.uniform(-1, 1, self.shape)
        self.drift[2 :: self.per_arm] = random.uniform(-0.3, 1, len(task.arms))

    def action(self) -> np.ndarray:
        action = self.drift + self.random.normal(0, 0.4, self.shape)
        if self.per_arm == 4:
            action[3::4] = self.random.choice((-1.0, 0.0, 1.0), len(action[3::4]))
        return action.clip(-1, 1).astype(np.float32)
