"""Stops training at the first bad number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn


class DivergedError(RuntimeError):
    """Losses or values are not finite any more."""


class NonFiniteTransitionError(ValueError):
    """An environment returned NaN or infinity."""


def check_finite_transition(obs: Any, reward: np.ndarray, moment: str, infos: Sequence[dict[str, Any]] = ()) -> None:
    """
    :param obs: observations ``(n_envs, ...)``, or a dict of such
    :param reward: rewards ``(n_envs,)``
    :param moment: named in the message, e.g. "Step 10"
    :param infos: one per environment; a ``terminal_observation`` in them is checked too
    :raises NonFiniteTransitionError: naming the step, the environment and the field
    """
    fields = {f"observation '{key}'": value for key, value in obs.items()} if isinstance(obs, dict) else {"observation": obs}
    for field, value in {**fields, "reward": reward}.items():
        finite = np.isfinite(value)
        if not finite.all():
            env, *where = np.argwhere(~finite)[0].tolist()
            index = f" at index {tuple(where)}" if where else ""
            raise NonFiniteTransitionError(
                f"{moment}: environment {env} returned {value[(env, *where)]} in its {field}{index}. "
                "Training stopped; nothing of this step was stored."
            )
    for env, info in enumerate(infos):
        # At the end of an episode the observation above is that of the next one.
        last = info.get("terminal_observation")
        for value in last.values() if isinstance(last, dict) else [] if last is None else [last]:
            if not np.isfinite(value).all():
                raise NonFiniteTransitionError(
                    f"{moment}: environment {env} returned {value[~np.isfinite(value)][0]} in the last observation of "
                    "its episode. Training stopped; nothing of this step was stored."
                )


class FiniteVecEnv(VecEnvWrapper):
    """
    Stops at the first NaN or infinity in an observation or reward.

    :param venv: environments to watch
    :param step_name: what the message calls a step of theirs
    """

    def __init__(self, venv: VecEnv, step_name: str = "Step"):
        super().__init__(venv)
        self.step_name = step_name
        self.timestep = 0

    def reset(self) -> VecEnvObs:
        obs = self.venv.reset()
        check_finite_transition(obs, np.zeros(self.num_envs), f"{self.step_name} {self.timestep}")
        return obs

    def step_wait(self) -> VecEnvStepReturn:
        obs, reward, dones, infos = self.venv.step_wait()
        self.timestep += self.num_envs
        check_finite_transition(obs, reward, f"{self.step_name} {self.timestep}", infos)
        return obs, reward, dones, infos
