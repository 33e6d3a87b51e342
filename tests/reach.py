"""A small task for HybridSAC, and demonstrations of it."""

import gymnasium as gym
import numpy as np
from gymnasium import spaces

SMALL = dict(learning_starts=10, batch_size=8, buffer_size=400, device="cpu", seed=0)


class Reach(gym.Env):
    """The first entry of the action moves a point to 0; camera pictures are of the place."""

    def __init__(self, action_dim=4, images=False, teacher_from=None, low=-1.0, high=1.0):
        self.action_space = spaces.Box(low, high, (action_dim,), np.float32)
        state = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        camera = spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.observation_space = spaces.Dict({"front": camera, "wrist": camera, "state": state}) if images else state
        self.images, self.teacher_from, self.taken = images, teacher_from, []

    def _obs(self):
        state = np.array([self.place, self.steps / 20, 1], np.float32)
        if not self.images:
            return state
        front = np.full((32, 32, 3), 100, np.uint8)
        front[:, int(np.clip(16 + 10 * self.place, 0, 31))] = 255
        return {"front": front, "wrist": 255 - front, "state": state}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = float(self.np_random.uniform(-1, 1)), 0
        return self._obs(), {}

    def step(self, action):
        info = {"grasp_penalty": -0.02}
        if self.teacher_from is not None and self.steps >= self.teacher_from:
            action = np.full(self.action_space.shape, 0.5 * self.action_space.high[0], np.float32)
            info["intervene_action"] = action
        self.taken.append(np.array(action))
        self.place += 0.1 * float(action[0])
        self.steps += 1
        return self._obs(), -abs(self.place), False, self.steps >= 20, info


def demonstrations(n=40, action_dim=4, images=False, **more):
    random = np.random.default_rng(0)

    def obs():
        state = random.normal(size=(n, 3)).astype(np.float32)
        pictures = random.integers(0, 256, (2, n, 32, 32, 3), dtype=np.uint8)
        return {"front": pictures[0], "wrist": pictures[1], "state": state} if images else state

    timeouts = np.zeros(n, bool)
    timeouts[19::20] = True
    return {
        "observations": obs(),
        "actions": random.uniform(-1, 1, (n, action_dim)).astype(np.float32),
        "rewards": random.random(n),
        "next_observations": obs(),
        "terminals": np.zeros(n, bool),
        "timeouts": timeouts,
    } | more
