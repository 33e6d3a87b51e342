"""What a MuJoCo simulator would have done: one step from a state that only an observation describes."""

from collections.abc import Callable

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

State = tuple[np.ndarray, np.ndarray]


def _without_root_x(n_positions: int) -> Callable[[np.ndarray], State]:
    """Of planar robots whose observation is everything but the place along the track."""

    def state(obs: np.ndarray) -> State:
        return np.concatenate([[0.0], obs[:n_positions]]), obs[n_positions : 2 * n_positions + 1]

    return state


def _swimmer(obs: np.ndarray) -> State:
    return np.concatenate([[0.0, 0.0], obs[:3]]), obs[3:8]


# Environments whose observation determines the state.
_GYMNASIUM: dict[str, Callable[[np.ndarray], State]] = {
    "HalfCheetahEnv": _without_root_x(8),
    "HopperEnv": _without_root_x(5),
    "Walker2dEnv": _without_root_x(8),
    "SwimmerEnv": _swimmer,
    "InvertedPendulumEnv": lambda obs: (obs[:2], obs[2:4]),
}
# Of these it does only while no velocity is clipped: number of observed positions, before the velocities, and their bound.
_CLIPPED: dict[str, tuple[int, float]] = {"HopperEnv": (5, 10.0), "Walker2dEnv": (8, 10.0)}
_DMC: dict[str, Callable[[np.ndarray], State]] = {"cheetah": _without_root_x(8)}


def determines_state(spec: EnvSpec) -> bool:
    """Whether observations of such an environment determine its state (if they are not configured away)."""
    entry_point = spec.entry_point if isinstance(spec.entry_point, str) else ""
    return entry_point.rpartition(":")[2] in _GYMNASIUM or (
        entry_point.endswith("dmc:make_dmc") and spec.kwargs.get("domain") in _DMC and not spec.kwargs.get("pixels")
    )


class SimulatorProbe:
    """
    Steps the real simulator from given observations, where these determine its state.

    :param env: a MuJoCo environment of Gymnasium or DeepMind Control; it is reset and stepped
    :raises ValueError: if the observation does not determine the state, or its state cannot be set
    """

    def __init__(self, env: gym.Env):
        self.env = env
        base = env.unwrapped
        control_env = getattr(base, "_env", None)
        self._physics = getattr(control_env, "physics", None)
        if self._physics is not None:
            domain = type(control_env._task).__module__.rpartition(".")[2]  # type: ignore[union-attr]
            state = _DMC.get(domain)
        else:
            state = _GYMNASIUM.get(type(base).__name__)
        name = env.spec.id if env.spec is not None else type(base).__name__
        if state is None or not isinstance(env.action_space, gym.spaces.Box):
            raise ValueError(f"An observation of {name} does not determine the state of its simulator.")
        self._state, self._clipped = state, _CLIPPED.get(type(base).__name__)
        self._check(name)

    def _check(self, name: str) -> None:
        """Observation lengths are configurable, so try it: a step from what was observed must lead where it led."""
        obs, _ = self.env.reset(seed=0)
        self.env.action_space.seed(0)
        observed, actions, wanted = [], [], []
        for _ in range(5):
            action = self.env.action_space.sample()
            next_obs = self.env.step(action)[0]
            observed.append(obs)
            actions.append(action)
            wanted.append(next_obs)
            obs = next_obs
        try:
            reached, _ = self.step(np.array(observed), np.array(actions), scaled=False)
        except ValueError:
            reached = np.full_like(np.array(wanted), np.inf)
        known = self.known(np.array(observed))
        error = np.abs(reached - wanted)[known] / (1 + np.abs(wanted)[known])
        error = error.max() if error.size else np.inf  # nothing was tried
        if not error < 1e-3:
            raise ValueError(f"Setting {name} to an observed state does not reproduce its next step (error {error:.2g}).")

    def known(self, obs: np.ndarray) -> np.ndarray:
        """
        :param obs: ``(n, obs_dim)``
        :return: which of them determine their state ``(n,)``; not those of Hopper-v5 and Walker2d-v5 with a velocity cut at 10
        """
        if self._clipped is None:
            return np.ones(len(obs), bool)
        n_positions, bound = self._clipped
        return (np.abs(obs[:, n_positions:]) < bound).all(1)

    def step(self, obs: np.ndarray, actions: np.ndarray, scaled: bool = True) -> tuple[np.ndarray, np.ndarray]:
        """
        :param obs: ``(n, obs_dim)``
        :param actions: ``(n, action_dim)``
        :param scaled: whether actions are in [-1, 1], as buffers hold them, or in the environment's own units
        :return: next observations ``(n, obs_dim)`` and rewards ``(n,)``, right for observations that are ``known``
        """
        space = self.env.action_space
        assert isinstance(space, gym.spaces.Box)
        if scaled:
            actions = space.low + (actions + 1) / 2 * (space.high - space.low)
        next_obs, rewards = np.empty_like(obs), np.empty(len(obs))
        over = True
        for i in range(len(obs)):
            if over:  # time limits count these steps too, and the next one would be a reset
                self.env.reset()
            self._set(*self._state(obs[i].astype(np.float64)))
            next_obs[i], rewards[i], terminated, truncated, _ = self.env.step(actions[i].astype(space.dtype))
            over = terminated or truncated
        self.env.reset()
        return next_obs, rewards

    def _set(self, qpos: np.ndarray, qvel: np.ndarray) -> None:
        if self._physics is None:
            self.env.unwrapped.set_state(qpos, qvel)  # type: ignore[attr-defined]
            return
        with self._physics.reset_context():
            self._physics.data.qpos[:] = qpos
            self._physics.data.qvel[:] = qvel
