"""What a learning algorithm thinks of transitions: values, actions and TD errors of SB3's off-policy algorithms."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch as th

from sb3_pgr.buffers.normalize import normalize_reward

_CHUNK = 10_000


class ModelValues:
    """
    Values and actions of an algorithm, for flat and raw transitions.

    :param model: SAC, TD3, DDPG, TQC, CrossQ, REDQ (``actor`` and ``critic``), DQN (``q_net``) or QR-DQN
        (``quantile_net``), or an algorithm of these
    :param to_policy: from flat raw observations ``(n, obs_dim)`` to what the policy takes, normalised
    :raises ValueError: if it has neither
    """

    def __init__(self, model: Any, to_policy: Callable[[th.Tensor], Any]):
        self.model, self._to_policy = model, to_policy
        self._discrete = next((name for name in ("q_net", "quantile_net") if hasattr(model, name)), None)
        if self._discrete is None and not (hasattr(model, "actor") and hasattr(model, "critic")):
            raise ValueError(f"{type(model).__name__} has no critic that relevance could ask.")

    def actions(self, obs: th.Tensor, deterministic: bool = True) -> th.Tensor:
        """The policy's actions as buffers hold them, ``(n, action_dim)``."""
        with self._evaluating():
            parts = []
            for part in obs.split(_CHUNK):
                if self._discrete:
                    parts.append(self._action_values(self._discrete, part).argmax(1, keepdim=True))
                else:
                    parts.append(self._act(self._to_policy(part), deterministic))
        return th.cat(parts)

    def state_values(self, obs: th.Tensor) -> th.Tensor:
        """``Q(s, pi(s))``, the mean over critics, ``(n,)``."""
        with self._evaluating():
            return th.cat([self._best_value(part, target=False) for part in obs.split(_CHUNK)])

    def td_errors(self, transitions: Mapping[str, th.Tensor]) -> th.Tensor:
        """
        ``r + gamma (1 - done) Q_target(s', pi(s')) - Q(s, a)``, means over critics, ``(n,)``; of discrete
        actions ``pi(s')`` is the best under Q.
        """
        parts = []
        with self._evaluating():
            for start in range(0, len(transitions["rewards"]), _CHUNK):
                part = {name: rows[start : start + _CHUNK] for name, rows in transitions.items()}
                rewards = normalize_reward(part["rewards"], self.model.get_vec_normalize_env()).flatten()
                next_values = self._best_value(part["next_observations"], target=True)
                target = rewards + self.model.gamma * (1 - part["dones"].flatten()) * next_values
                parts.append(target - self._value(part["observations"], part["actions"]))
        return th.cat(parts)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without gradients and in evaluation mode: batch norm must not learn from this."""
        training = self.model.policy.training
        self.model.policy.set_training_mode(False)
        try:
            with th.no_grad():
                yield
        finally:
            self.model.policy.set_training_mode(training)

    def _act(self, given: Any, deterministic: bool = True) -> th.Tensor:
        if "deterministic" in inspect.signature(self.model.actor.forward).parameters:
            return self.model.actor(given, deterministic=deterministic)
        return self.model.actor(given)

    def _best_value(self, obs: th.Tensor, target: bool) -> th.Tensor:
        if self._discrete:
            values = self._action_values(self._discrete, obs)
            if not target:
                return values.amax(1)
            return self._action_values(f"{self._discrete}_target", obs).gather(1, values.argmax(1, keepdim=True)).flatten()
        given = self._to_policy(obs)
        critic = getattr(self.model, "critic_target", None) if target else None
        return _mean_of_critics(critic or self.model.critic, given, self._act(given))

    def _value(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        if self._discrete:
            return self._action_values(self._discrete, obs).gather(1, actions.long().reshape(-1, 1)).flatten()
        return _mean_of_critics(self.model.critic, self._to_policy(obs), actions)

    def _action_values(self, network: str, obs: th.Tensor) -> th.Tensor:
        values = getattr(self.model, network)(self._to_policy(obs))
        return values.mean(1) if values.dim() == 3 else values  # over quantiles


def _mean_of_critics(critic: Any, obs: Any, actions: th.Tensor) -> th.Tensor:
    values = critic(obs, actions)
    if isinstance(values, th.Tensor):  # TQC: (n, critics, quantiles)
        return values.flatten(1).mean(1)
    return th.stack(list(values)).mean(0).flatten()
