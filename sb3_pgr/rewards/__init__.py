"""Rewards that are learned: from images of success and failure."""

from sb3_pgr.rewards.classifier import ClassifierError, RewardClassifier
from sb3_pgr.rewards.wrapper import ClassifierReward

__all__ = ["ClassifierError", "ClassifierReward", "RewardClassifier"]
