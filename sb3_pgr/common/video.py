"""Videos of a policy."""

import os
from pathlib import Path

import numpy as np
from moviepy.video.io.ffmpeg_writer import FFMPEG_VideoWriter
from PIL import Image
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv


def record_episodes(
    model: BaseAlgorithm,
    env: VecEnv,
    path: str | Path,
    episodes: int = 1,
    size: tuple[int, int] | None = None,
    fps: int | None = None,
) -> list[float]:
    """
    Film the deterministic policy.

    :param model: has a ``predict``
    :param env: one environment with ``render_mode="rgb_array"``
    :param path: the mp4 file; it appears under this name when it is whole
    :param episodes: number of episodes, one after the other
    :param size: (width, height) in pixels; frames of another size are resized
    :param fps: frames per second; the environment's ``render_fps`` by default
    :return: return of each episode, as the environment gives it
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = fps or env.get_attr("metadata")[0].get("render_fps") or 30
    temporary = path.with_name(f".{path.stem}.writing.mp4")
    returns = []
    obs = env.reset()
    frame = _frame(env, size)
    with FFMPEG_VideoWriter(str(temporary), (frame.shape[1], frame.shape[0]), rate) as writer:
        for _ in range(episodes):
            done, total = False, 0.0
            while not done:
                writer.write_frame(frame)
                action, _ = model.predict(obs, deterministic=True)  # type: ignore[arg-type]
                obs, reward, dones, _ = env.step(action)
                frame = _frame(env, size)
                total += float(reward[0])
                done = bool(dones[0])
            returns.append(total)
    os.replace(temporary, path)
    return returns


def _frame(env: VecEnv, size: tuple[int, int] | None) -> np.ndarray:
    frame = env.render(mode="rgb_array")
    assert frame is not None, "the environment renders nothing; it needs render_mode='rgb_array'"
    # The codec wants even sides.
    width, height = size or (frame.shape[1], frame.shape[0])
    even = (width // 2 * 2, height // 2 * 2)
    if even != (frame.shape[1], frame.shape[0]):
        frame = np.asarray(Image.fromarray(frame).resize(even))
    return frame
