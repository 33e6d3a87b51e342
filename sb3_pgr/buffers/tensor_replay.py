"""Replay memory held as torch tensors on the device that learns from it."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize

_STORAGE = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class TensorReplayBuffer(ReplayBuffer):
    """
    Drop-in for SB3's ``ReplayBuffer`` whose storage is torch tensors, so that nothing is copied from the host
    when a batch is drawn.

    ``sample(n)`` draws its indices exactly as SB3 does (numpy's global generator), so swapping the class leaves a
    seeded run unchanged; ``sample_block`` draws the rows of a whole series of updates in one gather, from a
    generator of its own.

    Storage has shape ``(buffer_size // n_envs, n_envs, ...)``. Floating observations are stored as float32,
    integer ones (images) in their own type. Observations and rewards are stored raw; normalisation happens on the
    way out.

    :param buffer_size: capacity in transitions, over all environments
    :param observation_space: any space with an array observation; ``Dict`` is not supported
    :param action_space: ``Box`` (scaled to [-1, 1] by SB3), ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``
    :param device: where the storage lives; assigning ``buffer.device`` moves it
    :param n_envs: number of environments that fill the buffer together
    :param optimize_memory_usage: not supported, kept for SB3's signature
    :param handle_timeout_termination: do not treat a time limit (``info["TimeLimit.truncated"]``) as terminal
    :raises ValueError: on Dict observations or ``optimize_memory_usage=True``
    """

    observations: th.Tensor  # type: ignore[assignment]
    next_observations: th.Tensor  # type: ignore[assignment]
    actions: th.Tensor  # type: ignore[assignment]
    rewards: th.Tensor  # type: ignore[assignment]
    dones: th.Tensor  # type: ignore[assignment]
    timeouts: th.Tensor  # type: ignore[assignment]

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ):
        if isinstance(observation_space, spaces.Dict):
            raise ValueError("TensorReplayBuffer stores array observations; for Dict observations use SB3's DictReplayBuffer.")
        if optimize_memory_usage:
            raise ValueError("TensorReplayBuffer does not support optimize_memory_usage=True; leave it at False.")
        # ReplayBuffer.__init__ would allocate numpy storage: start one class above it.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.optimize_memory_usage = False
        self.handle_timeout_termination = handle_timeout_termination
        self._allocate()
        # SB3 seeds torch before it builds the buffer; reading the seed does not advance any generator.
        self.generator = th.Generator(self.device).manual_seed(th.initial_seed() % 2**63)

    def _allocate(self) -> None:
        assert self.observation_space.dtype is not None and isinstance(self.obs_shape, tuple)
        rows, device = (self.buffer_size, self.n_envs), self.device
        obs_dtype = th.float32
        if not np.issubdtype(self.observation_space.dtype, np.floating):
            obs_dtype = th.as_tensor(np.zeros(0, self.observation_space.dtype)).dtype
        action_dtype = th.float32 if isinstance(self.action_space, spaces.Box) else th.int64
        self.observations = _zeros((*rows, *self.obs_shape), obs_dtype, device)
        self.next_observations = _zeros((*rows, *self.obs_shape), obs_dtype, device)
        self.actions = _zeros((*rows, self.action_dim), action_dtype, device)
        self.rewards, self.dones, self.timeouts = (_zeros(rows, th.float32, device) for _ in range(3))

    @property
    def device(self) -> th.device:
        return self._device

    @device.setter
    def device(self, device: th.device | str) -> None:
        device = th.device(device)
        moved = getattr(self, "_device", device) != device
        self._device = device
        if moved:
            for name in _STORAGE:
                setattr(self, name, getattr(self, name).to(device))
            # A generator's state does not travel between kinds of device: continue from a seed it draws.
            seed = int(th.randint(2**62, (1,), generator=self.generator, device=self.generator.device))
            self.generator = th.Generator(device).manual_seed(seed)

    def add(
        self,
        obs: np.ndarray,
        next_obs: np.ndarray,
        action: np.ndarray,
        reward: np.ndarray,
        done: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one transition of each environment; arrays have shape ``(n_envs, ...)``."""
        rows: dict[str, Any] = dict(observations=obs, next_observations=next_obs, actions=action, rewards=reward, dones=done)
        if self.handle_timeout_termination:
            rows["timeouts"] = [info.get("TimeLimit.truncated", False) for info in infos]
        for name, value in rows.items():
            target = getattr(self, name)[self.pos]
            target.copy_(th.as_tensor(np.asarray(value)).reshape(target.shape))
        self.pos += 1
        if self.pos == self.buffer_size:
            self.full = True
            self.pos = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw ``batch_size`` rows uniformly, with replacement.

        :param batch_size: number of rows
        :param env: normalises observations and rewards with its current statistics
        :return: tensors of shape ``(batch_size, ...)``; rewards and dones ``(batch_size, 1)``
        """
        return self._get_samples(np.random.randint(0, self.size(), size=batch_size), env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> ReplayBufferSamples:
        env_inds = np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        return self._rows(th.as_tensor(batch_inds * self.n_envs + env_inds, device=self.device), env)

    def sample_block(self, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """
        Draw the batches of a whole series of updates in one gather.

        :return: tensors of shape ``(gradient_steps, batch_size, ...)``
        """
        n_rows = self.size() * self.n_envs
        index = th.randint(n_rows, (gradient_steps, batch_size), generator=self.generator, device=self.device)
        return self._rows(index, env)

    def _rows(self, index: th.Tensor, env: VecNormalize | None) -> ReplayBufferSamples:
        """Gather rows; ``index`` counts ``time * n_envs + environment`` and may have any shape."""

        def gather(storage: th.Tensor) -> th.Tensor:
            rows = storage.flatten(0, 1)
            return rows.index_select(0, index.flatten()).reshape(*index.shape, *rows.shape[1:])

        return ReplayBufferSamples(
            observations=_normalize_obs(gather(self.observations), env),
            actions=gather(self.actions),
            next_observations=_normalize_obs(gather(self.next_observations), env),
            # Only a true end of the episode stops the bootstrap (a time limit does not).
            dones=(gather(self.dones) * (1 - gather(self.timeouts))).unsqueeze(-1),
            rewards=_normalize_reward(gather(self.rewards), env).unsqueeze(-1),
        )

    def __getstate__(self) -> dict[str, Any]:
        """Only the filled rows travel, as CPU tensors: a file's size follows the content, not the capacity."""
        state = self.__dict__.copy()
        for name in _STORAGE:
            # clone: a view would carry the whole storage along
            state[name] = state[name][: self.size()].cpu().clone()
        state["generator"] = self.generator.get_state()
        state["_device"] = str(self._device)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        device = th.device(state.pop("_device"))
        if device.type == "cuda" and not th.cuda.is_available():
            device = th.device("cpu")
        filled = {name: state.pop(name) for name in _STORAGE}
        generator_state = state.pop("generator")
        self.__dict__.update(state)
        self._device = device
        self._allocate()
        for name, rows in filled.items():
            getattr(self, name)[: len(rows)] = rows.to(device)
        self.generator = th.Generator(device)
        if len(generator_state) == len(self.generator.get_state()):
            self.generator.set_state(generator_state)


def sample_block(
    buffer: ReplayBuffer, gradient_steps: int, batch_size: int, env: VecNormalize | None = None
) -> ReplayBufferSamples:
    """
    A block ``(gradient_steps, batch_size, ...)`` from any SB3 replay buffer: in one gather where the buffer can,
    otherwise by stacking ``gradient_steps`` calls of its ``sample``.
    """
    if isinstance(buffer, TensorReplayBuffer):
        return buffer.sample_block(gradient_steps, batch_size, env)
    batches = [buffer.sample(batch_size, env=env) for _ in range(gradient_steps)]

    def stack(values: tuple[Any, ...]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], dict):
            return {key: th.stack([value[key] for value in values]) for key in values[0]}
        return th.stack(values)

    return type(batches[0])(*(stack(field) for field in zip(*batches, strict=True)))


def _zeros(shape: tuple[int, ...], dtype: th.dtype, device: th.device) -> th.Tensor:
    """On the CPU through numpy, whose zeros take no memory before they are written."""
    if device.type == "cpu":
        return th.from_numpy(np.zeros(shape, th.empty(0, dtype=dtype).numpy().dtype))
    return th.zeros(shape, dtype=dtype, device=device)


def _normalize_obs(obs: th.Tensor, env: VecNormalize | None) -> th.Tensor:
    """VecNormalize.normalize_obs for an array observation, on the tensor's device."""
    if env is None or not env.norm_obs:
        return obs
    assert not isinstance(env.obs_rms, dict)
    # In float64, as VecNormalize does.
    mean = th.as_tensor(env.obs_rms.mean, device=obs.device)
    std = th.as_tensor(np.sqrt(env.obs_rms.var + env.epsilon), device=obs.device)
    return ((obs.double() - mean) / std).clamp(-env.clip_obs, env.clip_obs).float()


def _normalize_reward(reward: th.Tensor, env: VecNormalize | None) -> th.Tensor:
    """VecNormalize.normalize_reward, on the tensor's device."""
    if env is None or not env.norm_reward:
        return reward
    scale = float(np.sqrt(env.ret_rms.var + env.epsilon))
    return (reward.double() / scale).clamp(-env.clip_reward, env.clip_reward).float()
