"""One user of GeMS as a Gymnasium environment."""

from typing import Any

import gymnasium as gym
import numpy as np
from sb3_pgr.envs.gems.engine import Outcome
from sb3_pgr.envs.gems.items import Items
from sb3_pgr.envs.gems.random import episode_keys
from sb3_pgr.envs.gems.render import as_image, as_text
from sb3_pgr.envs.gems.world import action_space, make_engine, observation_space, observations


class GemsEnv(gym.Env):
    """
    Show slates to a user; the reward of a step is the number of clicks. After ``horizon`` slates the episode is cut off.

    Observation: the slate that was shown, and which of its items were clicked. What the user likes, and what bores, is hidden;
    it is in ``info`` (``preferences``, ``bored``, ``probabilities``).

    :param items: ``"focused"``, ``"diffuse"``, or a catalogue
    :param world: ``"topdown"``, ``"mix"`` or ``"divpen"``
    :param render_mode: ``"ansi"`` or ``"rgb_array"``
    :param changes: numbers of ``GemsConfig`` that are to differ
    :raises ValueError: on a name or number that makes no sense
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(self, items: str | Items = "focused", world: str = "topdown", render_mode: str | None = None, **changes: Any):
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r} must be one of {', '.join(self.metadata['render_modes'])}.")
        self.engine = make_engine(items, world, **changes)
        self.render_mode = render_mode
        self.observation_space, self.action_space = observation_space(self.engine), action_space(self.engine)
        self._seed: int | None = None
        self._episode = 0
        self._shown: tuple[np.ndarray, Outcome] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or self._seed is None:
            self._seed = seed if seed is not None else int(self.np_random.integers(2**62))
            self._episode = -1
        self._episode += 1
        slates, outcome = self.engine.reset(episode_keys(np.array([self._seed]), self._episode))
        self._shown = slates, outcome
        return self._observation(), self._info()

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        slates = np.asarray(action)[None]
        outcome = self.engine.step(slates)
        self._shown = slates, outcome
        truncated = self.engine.step_number >= self.engine.config.horizon
        return self._observation(), float(outcome.clicks.sum()), False, truncated, self._info()

    def _observation(self) -> dict[str, np.ndarray]:
        assert self._shown is not None
        return {name: value[0] for name, value in observations(self._shown[0], self._shown[1].clicks).items()}

    def _info(self) -> dict[str, Any]:
        assert self._shown is not None
        return {
            "preferences": self.engine.preferences[0].copy(),
            "bored": self.engine.bored[0].copy(),
            "probabilities": self._shown[1].probabilities[0].copy(),
            "topics": self.engine.items.topics[self._shown[0][0]],
        }

    def render(self) -> Any:
        if self._shown is None or self.render_mode is None:
            return None
        slate, clicks = self._shown[0][0], self._shown[1].clicks[0]
        return (as_text if self.render_mode == "ansi" else as_image)(self.engine, slate, clicks)
