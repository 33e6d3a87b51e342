"""A classifier's verdict in place of the environment's reward."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_pgr.rewards.classifier import ClassifierError, RewardClassifier


class ClassifierReward(gym.Wrapper):
    """
    Reward 1 and the end of the episode where the classifier sees success, otherwise 0 (HIL-SERL). What the environment says of
    its own goes to ``info["true_reward"]`` and ``info["true_success"]``, so that mistakes can be counted; whether the
    classifier saw success to ``info["is_success"]``, its probability to ``info["success_probability"]``.

    :param env: with Dict observations that hold the classifier's cameras, height, width, channels
    :param classifier: it, or the file it was saved to
    :param condition: ``obs -> bool`` that must hold too, of proprioception for instance: policies learn to fool a classifier
        that is asked alone
    :param threshold: in place of the classifier's own
    :raises ClassifierError: if the observations do not hold what it looks at
    """

    def __init__(
        self,
        env: gym.Env,
        classifier: RewardClassifier | str | Path,
        condition: Callable[[Any], bool] | None = None,
        threshold: float | None = None,
    ):
        super().__init__(env)
        self.classifier = classifier if isinstance(classifier, RewardClassifier) else RewardClassifier.load(classifier)
        self.condition = condition
        self.threshold = self.classifier.threshold if threshold is None else threshold
        blank = env.observation_space.sample()
        if not isinstance(blank, Mapping):
            raise ClassifierError(f"The classifier looks at {self.classifier.image_keys}, not at {env.observation_space}.")
        self.classifier.predict_success(blank)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        probability, _ = self.classifier.predict_success(obs)
        success = probability >= self.threshold and (self.condition is None or bool(self.condition(obs)))
        info["true_reward"], info["true_success"] = float(np.asarray(reward)), bool(info.get("is_success", False))
        info["is_success"] = info["succeed"] = success
        info["success_probability"] = probability
        # A success that the classifier has missed still ends the episode, but not the task: its value is bootstrapped.
        missed = terminated and info["true_success"] and not success
        return obs, float(success), success or (terminated and not missed), truncated or missed, info
