"""Learning from data that are at hand, without steps in an environment."""

from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm


def run_gradient_loop(
    model: OffPolicyAlgorithm,
    total_timesteps: int,
    callback: BaseCallback,
    block_size: int,
    log_interval: int,
    before_log: Callable[[], None],
) -> None:
    """
    Call ``model.train`` until there were ``total_timesteps``, each of which is one gradient step; schedules, callbacks and
    logs work as if each had been a step in an environment.

    :param block_size: updates between two calls of the callbacks, which are then called as many times
    :param log_interval: timesteps between logs; 0 for none
    :param before_log: called before each of them
    """
    callback.on_training_start(locals(), globals())  # a progress bar asks for total_timesteps
    dones, infos = np.zeros(1, bool), [dict[str, Any]()]  # what callbacks expect of a step: no episode ends
    no_episodes = True  # for ``ResumableCheckpoint``: nor is one cut
    while model.num_timesteps < total_timesteps:
        callback.on_rollout_start()
        steps = min(block_size, total_timesteps - model.num_timesteps)
        model._update_current_progress_remaining(model.num_timesteps, model._total_timesteps)
        model.train(steps, model.batch_size)
        callback.update_locals(locals())
        for done in range(1, steps + 1):
            model.num_timesteps += 1
            if not callback.on_step():
                model.num_timesteps += steps - done  # the whole block has been learned from
                return
            if log_interval > 0 and model.num_timesteps % log_interval == 0:
                before_log()
                model.dump_logs()
        callback.on_rollout_end()
