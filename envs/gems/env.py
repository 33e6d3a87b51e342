"""One user of GeMS as a Gymnasium environment."""

from typing import Any

import gymnasium as gym
import numpy as np
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.items import Items
from sb3_pgr.envs.gems.observations import Observed
from sb3_pgr.envs.gems.render import as_image, as_text
from sb3_pgr.envs.gems.users import make_users


class GemsEnv(gym.Env):
    """
    Show slates to a user; the reward of a step is the number of clicks. After ``horizon`` slates the episode is cut off.

    What the user likes, and what bores, is hidden; it is in ``info`` (``preferences``, ``bored``, ``probabilities``), with the
    ``slate``, its ``topics`` and its ``clicks``.

    :param items: ``"focused"``, ``"diffuse"``, or a catalogue
    :param world: ``"topdown"``, ``"mix"`` or ``"divpen"``
    :param render_mode: ``"ansi"`` or ``"rgb_array"``
    :param options: see ``make_users``: what actions and observations are, and numbers of ``GemsConfig`` that are to differ
    :raises ValueError: on a name or number that makes no sense
    :raises ModelError: if a model is needed that is missing, or another one
    """

    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 4}

    def __init__(self, items: str | Items = "focused", world: str = "topdown", render_mode: str | None = None, **options: Any):
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ValueError(f"render_mode={render_mode!r} must be one of {', '.join(self.metadata['render_modes'])}.")
        self.users = make_users(items, world, **options)
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.users.observations.space, self.users.actions.space
        self._seed: int | None = None
        self._episode = 0

    @property
    def engine(self) -> GemsEngine:
        return self.users.engine

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None or self._seed is None:
            self._seed = seed if seed is not None else int(self.np_random.integers(2**62))
            self._episode = -1
        self._episode += 1
        return _of_one(self.users.reset(np.array([self._seed]), self._episode)), self._info()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, clicks, over = self.users.step(np.asarray(action)[None])
        return _of_one(obs), float(clicks[0]), False, over, self._info()

    def _info(self) -> dict[str, Any]:
        slate, outcome = self.users.slates[0], self.users.outcome
        return {
            "slate": slate.copy(),
            "clicks": outcome.clicks[0].copy(),
            "topics": self.engine.items.topics[slate],
            "probabilities": outcome.probabilities[0].copy(),
            "preferences": self.engine.preferences[0].copy(),
            "bored": self.engine.bored[0].copy(),
        }

    def render(self) -> Any:
        if self._seed is None or self.render_mode is None:
            return None
        draw = as_text if self.render_mode == "ansi" else as_image
        return draw(self.engine, self.users.slates[0], self.users.outcome.clicks[0])


def _of_one(obs: Observed) -> Any:
    return {name: value[0] for name, value in obs.items()} if isinstance(obs, dict) else obs[0]
