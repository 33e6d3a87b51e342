"""Prioritized replay for SB3's own algorithms, which know nothing of it."""

from collections.abc import Callable
from typing import Any

import torch as th
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_pgr.buffers.prioritized import PrioritizedReplayBuffer


class PrioritizedReplayCallback(BaseCallback):
    """
    Keeps the priorities of a ``PrioritizedReplayBuffer``, alone or in a mixture, up to date for unmodified SB3 ``DQN``,
    ``SAC``, ``TD3`` and ``DDPG``: after every round of training, the TD errors of the rows it drew are computed anew (one
    forward pass).

    SB3's losses do not read importance weights, so the bias of prioritized sampling is not corrected; ``REDQ`` does
    correct it, and needs no callback.

    :raises TypeError: when training starts, if the buffer is not prioritized or the algorithm's TD error is not known
    """

    def _init_callback(self) -> None:
        buffer = getattr(self.model, "replay_buffer", None)
        candidates = (buffer, *getattr(buffer, "sources", {}).values())
        self.buffers = [part for part in candidates if isinstance(part, PrioritizedReplayBuffer)]
        if not self.buffers:
            raise TypeError(
                f"PrioritizedReplayCallback needs replay_buffer_class=PrioritizedReplayBuffer, found {type(buffer).__name__} "
                "(a mixture of buffers needs online_class=PrioritizedReplayBuffer)."
            )
        self.td_error = td_error_function(self.model)
        for part in self.buffers:
            part.remember_draws()

    def _on_rollout_start(self) -> None:  # SB3 calls it after each round of training
        self._update()

    def _on_training_end(self) -> None:
        self._update()
        for buffer in self.buffers:
            buffer.drawn = None

    def _on_step(self) -> bool:
        return True

    def _update(self) -> None:
        for buffer in self.buffers:
            assert buffer.drawn is not None
            for indices in buffer.drawn:
                batch = buffer.rows(indices, self.model.get_vec_normalize_env())
                with th.no_grad():
                    buffer.update_priorities(indices, self.td_error(self.model, batch))
            buffer.drawn.clear()


def td_error_function(model: Any) -> Callable[[Any, Any], th.Tensor]:
    """
    The function ``(model, batch) -> (batch_size,)`` of an algorithm's absolute TD errors, averaged over its critics.

    :raises TypeError: if the algorithm is not one of SB3's DQN, SAC, TD3 and DDPG
    """
    for algorithm, function in ((DQN, _dqn_error), (SAC, _sac_error), (TD3, _td3_error)):
        if isinstance(model, algorithm) and type(model).train is algorithm.train:
            return function
    raise TypeError(
        f"PrioritizedReplayCallback knows the TD errors of SB3's DQN, SAC, TD3 and DDPG, not of {type(model).__name__}; "
        "call buffer.update_priorities(indices, errors) where they are computed."
    )


def _target(model: OffPolicyAlgorithm, batch: Any, next_values: th.Tensor) -> th.Tensor:
    discounts = model.gamma if batch.discounts is None else batch.discounts
    return batch.rewards + (1 - batch.dones) * discounts * next_values


def _dqn_error(model: DQN, batch: Any) -> th.Tensor:
    target = _target(model, batch, model.q_net_target(batch.next_observations).amax(1, keepdim=True))
    return (model.q_net(batch.observations).gather(1, batch.actions.long()) - target).abs().squeeze(1)


def _sac_error(model: SAC, batch: Any) -> th.Tensor:
    next_actions, next_log_prob = model.actor.action_log_prob(batch.next_observations)
    next_values = th.cat(model.critic_target(batch.next_observations, next_actions), 1).amin(1, keepdim=True)
    ent_coef = model.ent_coef_tensor if model.log_ent_coef is None else model.log_ent_coef.exp()
    target = _target(model, batch, next_values - ent_coef * next_log_prob.reshape(-1, 1))
    return _critic_error(model, batch, target)


def _td3_error(model: TD3, batch: Any) -> th.Tensor:
    noise = th.randn_like(batch.actions) * model.target_policy_noise
    noise = noise.clamp(-model.target_noise_clip, model.target_noise_clip)
    next_actions = (model.actor_target(batch.next_observations) + noise).clamp(-1, 1)
    next_values = th.cat(model.critic_target(batch.next_observations, next_actions), 1).amin(1, keepdim=True)
    return _critic_error(model, batch, _target(model, batch, next_values))


def _critic_error(model: SAC | TD3, batch: Any, target: th.Tensor) -> th.Tensor:
    values = th.cat(model.critic(batch.observations, batch.actions), 1)
    return (values - target).abs().mean(1)
