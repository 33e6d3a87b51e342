"""What is said of hyper-parameters before anything is built."""

import pytest

from sb3_pgr import REDQ
from sb3_pgr.zoo.hyperparams import hyperparam_problems


@pytest.mark.parametrize(
    "given, message",
    [
        ({"env_wrapper": "gymnasium.wrappers.RescaleAktion"}, "no class gymnasium.wrappers.RescaleAktion"),
        ({"env_wrapper": ["gymnasium.wrappers.FlattenObservation", "gymnasum.wrappers.X"]}, "no class gymnasum.wrappers.X"),
        ({"env_wrapper": [{"gymnasium.wrappers.Rescale": {"min_action": -1}}]}, "no class gymnasium.wrappers.Rescale"),
        ({"vec_env_wrapper": "VecMonitor"}, "no class VecMonitor; name it with its module"),
        ({"callback": "sb3_pgr.NoCallback"}, "callback: there is no class sb3_pgr.NoCallback"),
        ({"n_envs": 0}, "n_envs must be at least 1, not 0"),
        ({"n_timesteps": "1e5"}, "n_timesteps must be a number"),
        ({"n_timesteps": -1}, "n_timesteps must be at least 1"),
        ({"train_freq": 0}, "train_freq must be at least 1"),
        ({"train_freq": (0, "episode")}, "train_freq must be at least 1"),
    ],
)
def test_problems(given, message):
    ((name, problem),) = hyperparam_problems(REDQ, given)
    assert name in given and message in problem


@pytest.mark.parametrize(
    "given",
    [
        {"env_wrapper": None},
        {"env_wrapper": [{"gymnasium.wrappers.RescaleAction": {"min_action": -1, "max_action": 1}}]},
        {"callback": ["rl_zoo3.callbacks.RawStatisticsCallback"]},
        {"n_envs": 2, "n_timesteps": 1e5, "train_freq": [1, "episode"]},
    ],
)
def test_what_is_right(given):
    assert hyperparam_problems(REDQ, given) == []
