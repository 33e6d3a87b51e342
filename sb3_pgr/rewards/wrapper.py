"""A classifier's verdict in place of the environment's reward."""

import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgr.rewards.classifier import ClassifierError, RewardClassifier


class ClassifierReward(gym.Wrapper):
    """
    Reward 1 and the end of the episode where the classifier sees success, otherwise 0 (HIL-SERL). What the environment says of
    its own goes to ``info["true_reward"]`` and ``info["true_success"]``, so that mistakes can be counted; whether the
    classifier saw success to ``info["is_success"]``, its probability to ``info["success_probability"]``.

    Around a ``Monitor``, where RL Zoo puts it, every episode ends with ``info["episode"]``, the return of the environment's
    own rewards: the monitor does not see the ends that the classifier makes. What commands say
    of a trained policy is by the environment alone, see ``stand_aside``.

    :param env: with Dict observations that hold the classifier's cameras, height, width, channels
    :param classifier: it, or the file it was saved to
    :param condition: ``obs -> bool`` that must hold too, of proprioception for instance: policies learn to fool a classifier
        that is asked alone. Or the name of such a function, ``"package.module:function"``
    :param threshold: in place of the classifier's own
    :param consecutive: steps in a row at which classifier and condition must hold: what looks like success in passing is none.
        A step that ends the task has none behind it, and is enough by itself; tasks that end at their own success thereby tell
        it, so let them go on (``terminate_on_success=False`` of our robots)
    :raises ValueError: if ``consecutive`` is below 1
    :raises ClassifierError: if the observations do not hold what it looks at, or there is no such function
    """

    def __init__(
        self,
        env: gym.Env,
        classifier: RewardClassifier | str | Path,
        condition: Callable[[Any], bool] | str | None = None,
        threshold: float | None = None,
        consecutive: int = 1,
    ):
        super().__init__(env)
        if consecutive < 1 or not 0 <= (threshold or 0) <= 1:
            raise ValueError(f"consecutive={consecutive} must be at least 1, threshold={threshold} a probability.")
        self.consecutive, self._in_a_row = consecutive, 0
        self.classifier = classifier if isinstance(classifier, RewardClassifier) else RewardClassifier.load(classifier)
        self.condition = _function(condition) if isinstance(condition, str) else condition
        self.threshold = self.classifier.threshold if threshold is None else threshold
        self._stands_aside, self._around_monitor = False, is_wrapped(env, Monitor)
        self._return, self._steps = 0.0, 0
        blank = env.observation_space.sample()
        if not isinstance(blank, Mapping):
            raise ClassifierError(f"The classifier looks at {self.classifier.image_keys}, not at {env.observation_space}.")
        self.classifier.predict_success(blank)

    def stand_aside(self) -> None:
        """
        From now on leave reward and success to the environment, where it tells ``info["is_success"]`` itself, at which the
        episode ends. Classifiers see success a step too early or too late, and policies learn to fool them.
        """
        self._stands_aside = True

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._return, self._steps, self._in_a_row = 0.0, 0, 0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._return += float(np.asarray(reward))
        self._steps += 1
        if self._stands_aside and "is_success" in info:
            terminated = terminated or bool(info["is_success"])
            self._note_end(info, terminated or truncated)
            return obs, float(np.asarray(reward)), terminated, truncated, info
        probability, _ = self.classifier.predict_success(obs)
        seen = probability >= self.threshold and (self.condition is None or bool(self.condition(obs)))
        self._in_a_row = self._in_a_row + 1 if seen else 0
        success = self._in_a_row >= self.consecutive or (seen and terminated)
        info["true_reward"], info["true_success"] = float(np.asarray(reward)), bool(info.get("is_success", False))
        info["is_success"] = info["succeed"] = success
        info["success_probability"] = probability
        # A success that the classifier has missed still ends the episode, but not the task: its value is bootstrapped.
        missed = terminated and info["true_success"] and not success
        terminated, truncated = success or (terminated and not missed), truncated or missed
        self._note_end(info, terminated or truncated)
        return obs, float(success), terminated, truncated, info

    def _note_end(self, info: dict[str, Any], is_over: bool) -> None:
        """SB3 counts the episodes that end with this entry."""
        if is_over and self._around_monitor:
            info["episode"] = {"r": self._return, "l": self._steps}


def let_task_judge(env: VecEnv) -> None:
    """In environments for evaluations: a learned reward does not judge its own policy, see ``stand_aside``."""
    if all(env.env_is_wrapped(ClassifierReward)):
        env.env_method("stand_aside")


def _function(name: str) -> Callable[[Any], bool]:
    try:
        return pkgutil.resolve_name(name)
    except (ValueError, ImportError, AttributeError) as error:
        raise ClassifierError(f"condition={name!r} is no function that can be imported: {error}.") from None
