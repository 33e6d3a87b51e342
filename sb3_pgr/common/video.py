"""Videos of a policy."""

import os
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from PIL import Image, ImageOps
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv


def record_episodes(
    model: BaseAlgorithm,
    env: VecEnv,
    path: str | Path,
    episodes: int = 1,
    size: tuple[int, int] | None = None,
    fps: int | None = None,
    deterministic: bool = True,
) -> list[float]:
    """
    Film a policy, from the first to the last observation of each episode.

    :param model: has a ``predict``
    :param env: one environment with ``render_mode="rgb_array"``, in a ``DummyVecEnv``
    :param path: the mp4 file; it appears under this name when it is whole
    :param episodes: number of episodes, one after the other
    :param size: (width, height) in pixels, into which frames of another size are fitted, with black bars; the frames' own by
        default
    :param fps: frames per second; the environment's ``render_fps`` by default
    :param deterministic: the policy's mode, not draws from it
    :return: return of each episode, as the environment gives it
    """
    from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter  # takes a while to import

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = fps or env.get_attr("metadata")[0].get("render_fps") or 30
    temporary = path.with_name(f".{path.stem}.writing.mp4")
    vec_env = env.unwrapped
    assert isinstance(vec_env, DummyVecEnv), "only in a DummyVecEnv can be seen how an episode ends"
    (unfilmed,) = vec_env.envs
    filmed = vec_env.envs[0] = _Filmed(unfilmed)
    returns = []
    try:
        obs, memory = env.reset(), None  # of recurrent policies
        first = _fitted(filmed.start, size)
        with FFMPEG_VideoWriter(str(temporary), (first.shape[1], first.shape[0]), rate) as writer:
            for _ in range(episodes):
                writer.write_frame(_fitted(filmed.start, size))
                done, total, starts = False, 0.0, np.ones(1, bool)
                while not done:
                    action, memory = model.predict(
                        obs,  # type: ignore[arg-type]
                        state=memory,
                        episode_start=starts,
                        deterministic=deterministic,
                    )
                    starts = np.zeros(1, bool)
                    obs, reward, dones, _ = env.step(action)
                    writer.write_frame(_fitted(filmed.frame, size))
                    total += float(reward[0])
                    done = bool(dones[0])
                returns.append(total)
        os.replace(temporary, path)
    finally:
        vec_env.envs[0] = unfilmed
        temporary.unlink(missing_ok=True)
    return returns


class _Filmed(gym.Wrapper):
    """Keeps how an episode starts and what each step leads to: at its end, a VecEnv itself shows the next one."""

    start: np.ndarray
    frame: np.ndarray

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        result = self.env.reset(**kwargs)
        self.start = self._picture()
        return result

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        result = self.env.step(action)
        self.frame = self._picture()
        return result

    def _picture(self) -> np.ndarray:
        frame: Any = self.env.render()
        assert frame is not None, "the environment renders nothing; it needs render_mode='rgb_array'"
        return frame


def _fitted(frame: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Of even sides, which the codec wants."""
    if size is None:
        return frame[: len(frame) // 2 * 2, : frame.shape[1] // 2 * 2]
    even = size[0] // 2 * 2, size[1] // 2 * 2
    return frame if even == (frame.shape[1], frame.shape[0]) else np.asarray(ImageOps.pad(Image.fromarray(frame), even))
