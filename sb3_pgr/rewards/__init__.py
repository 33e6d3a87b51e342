"""Rewards that are learned: from images of success and failure."""

from sb3_pgr.rewards.classifier import ClassifierError, RewardClassifier
from sb3_pgr.rewards.wrapper import ClassifierReward, let_task_judge

__all__ = ["ClassifierError", "ClassifierReward", "RewardClassifier", "let_task_judge"]
