"""Rollouts held as torch tensors, for on-policy learning."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import DictRolloutBufferSamples, RolloutBufferSamples

from sb3_pgr.buffers.fields import (
    FieldType,
    FromShapes,
    action_field,
    as_array,
    field_name,
    observation_field,
    observation_keys,
    of_key,
)
from sb3_pgr.buffers.gae import generalized_advantages
from sb3_pgr.buffers.storage import RecordStorage, usable_device
from sb3_pgr.common.checks import check_counts

_OBS = "observations"
_GATHERED_BYTES = 2**24
_VALUES, _LOG_PROBS, _ADVANTAGES, _RETURNS = range(4)


def _put(target: th.Tensor, value: Any) -> None:
    target.copy_(th.as_tensor(value).expand_as(target))


def _estimate(column: int) -> property:
    """An array of the buffer's estimates, which can be assigned."""

    def get(buffer: "TensorRolloutBuffer") -> np.ndarray:
        return buffer._estimates[..., column].cpu().numpy()

    return property(get, lambda buffer, value: _put(buffer._estimates[..., column], value))


class TensorRolloutBuffer(FromShapes, RolloutBuffer):
    """
    Drop-in for SB3's ``RolloutBuffer`` and ``DictRolloutBuffer`` (``rollout_buffer_class`` of ``PPO``, ``A2C`` and
    sb3-contrib's ``TRPO``) on torch tensors: advantages are computed without a loop over time, and minibatches are
    drawn on the device.

    Minibatches are shuffled as SB3 shuffles them (numpy's global generator), so a seeded run sees the same ones.

    :param buffer_size: steps of a rollout, per environment
    :param observation_space: any space with array observations, or a ``Dict`` of such
    :param action_space: ``Box``, ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``
    :param device: where the rollout lives
    :param gae_lambda: trade-off of bias and variance of the advantages; 1 for Monte-Carlo
    :param gamma: discount
    :param n_envs: number of environments
    :param obs_dtype: numpy type of stored observations (or a mapping from key to type); by default float32 for
        floating observations and the space's own type for others
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        gae_lambda: float = 1,
        gamma: float = 0.99,
        n_envs: int = 1,
        obs_dtype: Any = None,
    ):
        check_counts(buffer_size=buffer_size, n_envs=n_envs)
        # RolloutBuffer.__init__ would allocate numpy storage: start one class above it.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.gae_lambda, self.gamma = gae_lambda, gamma
        self._keys = observation_keys(self.obs_shape)
        fields: dict[str, FieldType] = {
            field_name(_OBS, key): observation_field(observation_space, self.obs_shape, key, obs_dtype) for key in self._keys
        }
        fields["actions"] = action_field(action_space, self.action_dim)
        fields["rewards"] = fields["episode_starts"] = ((), np.dtype(np.float32))
        self._storage = RecordStorage(fields, buffer_size, n_envs, self.device)
        self._estimates = th.zeros(buffer_size, n_envs, 4, device=self.device)

    # Arrays (buffer_size, n_envs), as SB3's algorithms read them for their logs. Assign whole ones: on a GPU they are copies.

    @property
    def observations(self) -> Any:  # type: ignore[override]
        views = {key: self._storage.field(field_name(_OBS, key)).cpu().numpy() for key in self._keys}
        return views[None] if None in views else views

    @property
    def actions(self) -> np.ndarray:  # type: ignore[override]
        return self._storage.field("actions").cpu().numpy()

    @property
    def rewards(self) -> np.ndarray:
        return self._storage.field("rewards").cpu().numpy()

    @rewards.setter
    def rewards(self, value: Any) -> None:
        _put(self._storage.field("rewards"), value)

    @property
    def episode_starts(self) -> np.ndarray:  # type: ignore[override]
        return self._storage.field("episode_starts").cpu().numpy()

    values: np.ndarray = _estimate(_VALUES)  # type: ignore[assignment]
    log_probs: np.ndarray = _estimate(_LOG_PROBS)  # type: ignore[assignment]
    advantages: np.ndarray = _estimate(_ADVANTAGES)  # type: ignore[assignment]
    returns: np.ndarray = _estimate(_RETURNS)  # type: ignore[assignment]

    def reset(self) -> None:
        """Start a new rollout."""
        self.pos, self.full = 0, False
        self._storage.clear()

    def add(self, obs: Any, action: Any, reward: Any, episode_start: Any, value: th.Tensor, log_prob: th.Tensor) -> None:
        """
        Store one step of each environment.

        :param obs: ``(n_envs, *obs_shape)``, or a dict of such
        :param action: ``(n_envs, *action_shape)``
        :param reward: ``(n_envs,)``
        :param episode_start: ``(n_envs,)``: the observation is the first of an episode
        :param value: estimated value of the observation, of ``n_envs`` elements
        :param log_prob: logarithm of the action's probability, of ``n_envs`` elements
        :raises ValueError: if the rollout is complete
        """
        if self.full:
            raise ValueError(f"The rollout of {self.buffer_size} steps is complete; call reset() before adding more.")
        values = [obs[key] if key is not None else obs for key in self._keys]
        shapes = [(self.n_envs, *of_key(self.obs_shape, key)) for key in self._keys]
        row = [as_array(value).reshape(shape) for value, shape in zip(values, shapes, strict=True)]
        row += [as_array(action).reshape(self.n_envs, self.action_dim), as_array(reward), as_array(episode_start)]
        self._storage.write_row(self.pos, row)
        estimates = self._estimates[self.pos]
        estimates[:, _VALUES] = th.as_tensor(value).detach().flatten()
        estimates[:, _LOG_PROBS] = th.as_tensor(log_prob).detach().flatten()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def compute_returns_and_advantage(self, last_values: th.Tensor, dones: Any) -> None:
        """
        Compute lambda-returns and GAE(lambda) advantages of a complete rollout.

        :param last_values: estimated values of the observations after the last step, of ``n_envs`` elements
        :param dones: whether an episode ended with the last step, ``(n_envs,)``
        :raises ValueError: if the rollout is not complete
        """
        self._check_complete()
        values, starts = self._estimates[..., _VALUES], self._storage.field("episode_starts")
        last = th.as_tensor(last_values).detach().to(self.device).flatten()[None]
        ends = th.as_tensor(np.asarray(as_array(dones), np.float32), device=self.device).flatten()[None]
        advantages = generalized_advantages(
            self._storage.field("rewards"),
            values,
            th.cat([values[1:], last]),
            1 - th.cat([starts[1:], ends]),
            self.gamma,
            self.gae_lambda,
        )
        self._estimates[..., _ADVANTAGES] = advantages
        self._estimates[..., _RETURNS] = advantages + values

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_estimates": self._estimates.cpu()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """On this machine's devices, whatever it comes from."""
        self.__dict__.update(state)
        self.device = usable_device(self.device)
        self._estimates = self._estimates.to(self.device)

    def _check_complete(self) -> None:
        if not self.full:
            raise ValueError(f"The rollout is not complete: {self.pos} of {self.buffer_size} steps.")

    def get(self, batch_size: int | None = None) -> Iterator[Any]:  # type: ignore[override]
        """
        All steps once, in random order.

        :param batch_size: rows of a minibatch; by default all in one
        :return: SB3's ``RolloutBufferSamples`` (``DictRolloutBufferSamples``), tensors ``(batch_size, ...)``
        :raises ValueError: if the rollout is not complete
        """
        self._check_complete()
        size = self.buffer_size * self.n_envs
        if batch_size is not None:
            check_counts(batch_size=batch_size)
        order = np.random.permutation(size)
        # SB3 counts rows environment by environment; here they lie step by step.
        order = order % self.buffer_size * self.n_envs + order // self.buffer_size
        index, batch_size = th.as_tensor(order, device=self.device), min(batch_size or size, size)
        # One gather for many small minibatches, which are then views of it.
        at_once = max(1, _GATHERED_BYTES // (batch_size * self._storage.record_bytes)) * batch_size
        for chunk in index.split(at_once):
            samples = self._rows(chunk)
            for start in range(0, len(chunk), batch_size):
                yield _part(samples, slice(start, start + batch_size))

    def _rows(self, index: th.Tensor) -> Any:
        record, estimates = self._storage.gather(index), self._estimates.flatten(0, 1).index_select(0, index)
        observations = {key: record[field_name(_OBS, key)] for key in self._keys}
        rest = (record["actions"].float(), *(column.contiguous() for column in estimates.unbind(1)))
        if None in observations:
            return RolloutBufferSamples(observations[None], *rest)
        return DictRolloutBufferSamples(observations, *rest)


def _part(samples: Any, rows: slice) -> Any:
    def of(value: Any) -> Any:
        return {key: item[rows] for key, item in value.items()} if isinstance(value, dict) else value[rows]

    return type(samples)(*map(of, samples))
