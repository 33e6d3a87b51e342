"""Replay memory held as torch tensors on the device that learns from it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.preprocessing import check_for_nested_spaces
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map, tree_map_only

from sb3_pgr.buffers.fields import FieldType, FromShapes, action_field, as_tensor, infos_by_step
from sb3_pgr.buffers.normalize import normalize_obs, normalize_reward
from sb3_pgr.buffers.observations import NEXT_OBS, OBS, ObservationLayout
from sb3_pgr.buffers.storage import RecordStorage, lives_on_host, usable_device
from sb3_pgr.common.checks import check_counts
from sb3_pgr.common.engine import keep_freed_memory
from sb3_pgr.common.state import seed_of_torch, set_generator_state


class TensorReplayBuffer(FromShapes, ReplayBuffer):
    """
    Drop-in for SB3's ``ReplayBuffer``, ``DictReplayBuffer`` and ``NStepReplayBuffer`` whose storage is torch tensors, so
    that nothing is copied from the host when a batch is drawn.

    ``sample(n)`` draws its indices exactly as SB3 does (numpy's global generator), so swapping the class leaves a
    seeded run unchanged; ``sample_block`` draws the rows of a whole series of updates in one gather, from a
    generator of its own.

    Storage has shape ``(buffer_size // n_envs, n_envs, ...)``. Observations and rewards are stored raw; normalisation
    happens on the way out. The attributes ``observations``, ``actions``, ... are views that may be written to.

    :param buffer_size: capacity in transitions, over all environments; at least ``n_steps`` of each are held
    :param observation_space: any space with array observations, or a ``Dict`` of such
    :param action_space: ``Box`` (scaled to [-1, 1] by SB3), ``Discrete``, ``MultiDiscrete`` or ``MultiBinary``
    :param device: where the storage lives; assigning ``buffer.device`` moves it
    :param n_envs: number of environments that fill the buffer together
    :param optimize_memory_usage: store each frame once: next observations and stacked frames are put together when
        they are sampled. Right for any data, across episode ends too; saves memory where observations overlap
    :param handle_timeout_termination: do not treat a time limit (``info["TimeLimit.truncated"]``) as terminal
    :param n_steps: length of n-step returns; batches then carry ``discounts``
    :param gamma: discount of n-step returns
    :param obs_dtype: numpy type of stored observations (or a mapping from key to type); by default float32 for
        floating observations and the space's own type for others (images stay uint8)
    :param action_dtype: numpy type of stored actions; by default float32 for floating ``Box``, otherwise int64
    :param frame_stack: with ``optimize_memory_usage``: number of frames that are stacked in an observation, along the
        channel axis (or a mapping from key to number; images only, if it is a number)
    :param storage: ``"device"``; or on the CPU, wherever the batches go: ``"memory"``, ``"pinned"`` (page-locked) or
        ``"disk"`` (memory-mapped; for buffers larger than memory)
    :param storage_dir: folder for ``storage="disk"``
    :raises ValueError: if an argument does not fit the others
    :raises MemoryError: if the storage does not fit into memory
    """

    _device: th.device

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        device: th.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
        obs_dtype: Any = None,
        action_dtype: Any = None,
        frame_stack: int | Mapping[str, int] = 1,
        storage: str = "device",
        storage_dir: str | Path | None = None,
    ):
        check_counts(buffer_size=buffer_size, n_envs=n_envs, n_steps=n_steps)
        check_for_nested_spaces(observation_space)
        # ReplayBuffer.__init__ would allocate numpy storage: start one class above it.
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs=n_envs)
        self.buffer_size = max(buffer_size // n_envs, n_steps)
        if optimize_memory_usage and storage not in ("device", "memory"):
            raise ValueError(f"optimize_memory_usage=True keeps frames in memory; storage={storage!r} cannot hold them.")
        # Where rows, indices and the random generator live; batches go to ``device``.
        self._storage_kind = storage
        self._home = self.device if storage == "device" else th.device("cpu")
        self.optimize_memory_usage = optimize_memory_usage
        self.handle_timeout_termination = handle_timeout_termination
        self.n_steps, self.gamma = n_steps, gamma
        self._layout = ObservationLayout(
            observation_space,
            self.obs_shape,
            self.buffer_size,
            n_envs,
            self._home,
            obs_dtype,
            optimize_memory_usage,
            frame_stack,
        )
        self._plain_row = self._layout.plain_row
        fields: dict[str, FieldType] = dict(self._layout.fields)
        self._action_row = (n_envs, self.action_dim)
        fields["actions"] = action_field(action_space, self.action_dim, action_dtype)
        for scalar in ("rewards", "dones", "timeouts"):
            fields[scalar] = ((), np.dtype(np.float32))
        self._extra = self._extra_fields()
        fields |= self._extra
        self._storage = RecordStorage(fields, self.buffer_size, n_envs, self._home, storage, storage_dir)
        if self._home.type == "cpu":
            keep_freed_memory()  # batches of images are large; a fresh mapping for each costs more than the copy
        self.generator = th.Generator(self._home).manual_seed(seed_of_torch())

    def _extra_fields(self) -> dict[str, FieldType]:
        """Fields of a record beyond a transition's; ``add`` and ``extend`` then take them in ``extra``."""
        return {}

    # Views (rows, n_envs, ...) of what is stored.

    @property
    def observations(self) -> Any:  # type: ignore[override]
        return self._layout.view(self._storage, OBS)

    @property
    def next_observations(self) -> Any:  # type: ignore[override]
        return self._layout.view(self._storage, NEXT_OBS)

    @property
    def actions(self) -> th.Tensor:  # type: ignore[override]
        return self._storage.field("actions")

    @property
    def rewards(self) -> th.Tensor:  # type: ignore[override]
        return self._storage.field("rewards")

    @property
    def dones(self) -> th.Tensor:  # type: ignore[override]
        return self._storage.field("dones")

    @property
    def timeouts(self) -> th.Tensor:  # type: ignore[override]
        return self._storage.field("timeouts")

    @property
    def device(self) -> th.device:
        return self._device

    @device.setter
    def device(self, device: th.device | str) -> None:
        device = th.device(device)
        if hasattr(self, "_storage") and self._storage_kind == "device" and self._home != device:
            self._move(device)
        self._device = device

    def _move(self, device: th.device) -> None:
        self._home = device
        self._storage = self._storage.to(device)
        for ring in self._layout.rings.values():
            ring.to(device)
        # A generator's state does not travel between kinds of device: continue from a seed it draws.
        seed = int(th.randint(2**62, (1,), generator=self.generator, device=self.generator.device))
        self.generator = th.Generator(device).manual_seed(seed)

    @property
    def nbytes(self) -> int:
        """Bytes reserved for the storage, written or not."""
        return self._storage.nbytes + sum(ring.nbytes for ring in self._layout.rings.values())

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: Any,
        reward: Any,
        done: Any,
        infos: list[dict[str, Any]] | None = None,
        timeouts: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Store one transition of each environment.

        :param obs: ``(n_envs, *obs_shape)``, or a dict of such; arrays, or tensors on the storage's device
        :param next_obs: as ``obs``; where an episode ends, its last observation
        :param action: ``(n_envs, *action_shape)``
        :param reward: ``(n_envs,)``
        :param done: ``(n_envs,)``: the episode ends here, for whatever reason
        :param infos: of each environment; ``info["TimeLimit.truncated"]`` says that the end is a time limit
        :param timeouts: ``(n_envs,)``, in place of ``infos``
        :param extra: for buffers with further fields, their values
        """
        if not self.handle_timeout_termination or (timeouts is None and infos is None):
            timeouts = 0
        elif timeouts is None:
            timeouts = [info.get("TimeLimit.truncated", False) for info in infos]  # type: ignore[union-attr]
            if len(timeouts) != self.n_envs:
                raise ValueError(f"{self.n_envs} environments need as many infos, got {len(timeouts)}.")
        from_device = isinstance(action, th.Tensor) or _on_device(obs) or _on_device(reward) or _on_device(extra)
        if from_device or type(action) is not np.ndarray:
            if from_device:  # do not go through the host
                timeouts = np.broadcast_to(timeouts, self.n_envs)
                step = [_one_row(value) for value in (obs, next_obs, action, reward, done, timeouts, extra)]
                self._extend(step[0], step[1], step[2], step[3], step[4], None, step[5], step[6])
                return
            action = np.asarray(action)
        try:
            action = action.reshape(self._action_row)
            if self._plain_row is not None and type(obs) is np.ndarray is type(next_obs):  # added most: added fastest
                row = [obs.reshape(self._plain_row), next_obs.reshape(self._plain_row), action, reward, done, timeouts]
            else:
                row = [*self._layout.row(obs, next_obs, self._oldest_kept), action, reward, done, timeouts]
            if self._extra or extra:
                row += self._extra_values(extra).values()
            self._storage.write_row(self.pos, row)
        except (ValueError, KeyError, IndexError) as error:
            given = dict(obs=obs, next_obs=next_obs, action=action, reward=reward, done=done)
            raise ValueError(self._explain(given, (self.n_envs,), error)) from error
        self._advance(1, done)

    def _explain(self, given: Mapping[str, Any], leading: tuple[int, ...], error: Exception) -> str:
        """Which shapes were given and which were expected."""
        shapes = {name: tree_map(np.shape, value) for name, value in given.items()}
        expected: dict[str, Any] = {"obs": tree_map(lambda size: size, self.obs_shape), "action": (self.action_dim,)}
        return f"Arrays do not fit ({error!r}). Expected {leading} and then {expected}, got shapes {shapes}."

    def _extra_values(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        given = given or {}
        if given.keys() != self._extra.keys():
            raise TypeError(f"Besides the transition, expected {sorted(self._extra)}, got {sorted(given)}.")
        return {name: given[name] for name in self._extra}

    def extend(
        self,
        obs: Any,
        next_obs: Any,
        action: Any,
        reward: Any,
        done: Any,
        infos: list[list[dict[str, Any]]] | None = None,
        timeouts: Any = None,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        """
        Store ``N`` steps of each environment at memory speed.

        :param obs: ``(N, n_envs, *obs_shape)``, or a dict of such; with one environment ``(N, *obs_shape)`` too
        :param next_obs: as ``obs``
        :param action: ``(N, n_envs, *action_shape)``
        :param reward: ``(N, n_envs)``
        :param done: ``(N, n_envs)``
        :param infos: per step, per environment
        :param timeouts: ``(N, n_envs)``, in place of ``infos``
        :param extra: for buffers with further fields, their values
        :raises ValueError: if the arrays are not of the same length
        """
        self._extend(obs, next_obs, action, reward, done, infos, timeouts, extra)

    def _extend(
        self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any, timeouts: Any, extra: Any
    ) -> None:
        count = len(reward)
        if not self.handle_timeout_termination or (timeouts is None and infos is None):
            timeouts = np.zeros((count, self.n_envs), bool)
        elif timeouts is None:
            timeouts = [[info.get("TimeLimit.truncated", False) for info in step] for step in infos_by_step(infos)]
        given = dict(obs=obs, next_obs=next_obs, action=action, reward=reward, done=done, timeouts=timeouts)
        lengths = {name: len(next(iter(part.values())) if isinstance(part, Mapping) else part) for name, part in given.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"extend() needs arrays of one length, got {lengths}.")
        if count == 0:
            return
        kept, leading = min(count, self.buffer_size), (count, self.n_envs)
        others = {"actions": action, "rewards": reward, "dones": done, "timeouts": timeouts} | self._extra_values(extra)
        try:
            for name, value in others.items():
                others[name] = as_tensor(value).reshape(*leading, *self._storage.fields[name][0])
            values = self._layout.rows(obs, next_obs, count, kept, self._oldest_kept) | others
        except (ValueError, RuntimeError, KeyError, IndexError) as error:
            raise ValueError(self._explain(given, leading, error)) from error
        start = (self.pos + count - kept) % self.buffer_size
        until_end = min(kept, self.buffer_size - start)
        for row, first, last in ((start, count - kept, count - kept + until_end), (0, count - kept + until_end, count)):
            if last > first:
                self._storage.write(row, {name: as_tensor(value)[first:last] for name, value in values.items()})
        self._advance(count, done)

    def _oldest_kept(self, name: str, added: int) -> np.ndarray | None:
        """Positions of the oldest observation that will still be there after ``added`` more rows."""
        overwritten = max(self.size() + added - self.buffer_size, 0)
        if overwritten >= self.size():
            return None
        oldest = (self.pos if self.full else 0) + overwritten
        return self._storage.field(name)[oldest % self.buffer_size, :, 0].cpu().numpy()

    def _advance(self, count: int, done: Any) -> None:
        """``count`` rows were written, with these ends of episodes."""
        self.pos += count
        if self.pos >= self.buffer_size:
            self.full, self.pos = True, self.pos % self.buffer_size

    def truncate_episodes(self) -> None:
        """Mark the newest row as cut off by a time limit: the episodes that run now will not be continued."""
        if self.size() > 0:
            newest = self.pos - 1
            if self.handle_timeout_termination:
                self.timeouts[newest] = 1 - self.dones[newest] * (1 - self.timeouts[newest])
            self.dones[newest] = 1

    def reset(self) -> None:
        """Forget all rows."""
        self.pos, self.full = 0, False
        self._storage.clear()

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw ``batch_size`` rows uniformly, with replacement.

        :param batch_size: number of rows
        :param env: normalises observations and rewards with its current statistics
        :return: tensors of shape ``(batch_size, ...)``; rewards and dones ``(batch_size, 1)``
        :raises ValueError: if the buffer is empty
        """
        self._check_can_sample(batch_size)
        return self._get_samples(np.random.randint(0, self.size(), size=batch_size), env)

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        if self.n_envs > 1:  # with one environment SB3's draw takes nothing from the generator
            batch_inds = batch_inds * self.n_envs + np.random.randint(0, high=self.n_envs, size=(len(batch_inds),))
        return self.rows(th.as_tensor(batch_inds, device=self._home), env)

    def sample_block(self, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> Any:
        """
        Draw the batches of a whole series of updates in one gather.

        :return: tensors of shape ``(gradient_steps, batch_size, ...)``
        :raises ValueError: if the buffer is empty
        """
        self._check_can_sample(gradient_steps, batch_size)
        shape = (gradient_steps, batch_size)
        return self.rows(th.randint(self.size() * self.n_envs, shape, generator=self.generator, device=self._home), env)

    def manual_seed(self, seed: int) -> None:
        """Draw from here on as a buffer that was built after ``torch.manual_seed(seed)``."""
        self.generator.manual_seed(seed % 2**63)

    def _check_can_sample(self, *counts: int) -> None:
        for count in counts:
            check_counts(batch_size=count)
        if self.size() == 0:
            raise ValueError("The buffer is empty: add transitions before you sample.")

    def rows(self, index: th.Tensor, env: VecNormalize | None = None, single_steps: bool = False) -> Any:
        """
        The transitions at given places.

        :param index: ``row * n_envs + environment``, of any shape
        :param env: normalises observations and rewards
        :param single_steps: one step each, whatever ``n_steps``
        :return: tensors of shape ``(*index.shape, ...)``
        """
        flat = index.flatten()
        first = self._storage.gather(flat)
        rewards, last, discounts = first["rewards"], first, None
        if self.n_steps > 1 and not single_steps:
            rewards, flat_last, discounts = self._n_step_returns(flat, env)
            last = self._storage.gather(flat_last)
        elif env is not None:
            rewards = normalize_reward(rewards, env)
        # Only a true end of the episode stops the bootstrap: dones * (1 - timeouts). Where the newest row cut the n
        # steps, that row is neither done nor a timeout.
        dones = th.addcmul(last["dones"], last["dones"], last["timeouts"], value=-1)
        obs, next_obs = self._layout.gather(first, last, flat)
        kind: Any = DictReplayBufferSamples if isinstance(obs, dict) else ReplayBufferSamples
        samples = kind(obs, first["actions"], next_obs, dones, rewards, discounts)
        if env is not None:
            samples = samples._replace(observations=normalize_obs(obs, env), next_observations=normalize_obs(next_obs, env))
        if index.dim() != 1:
            samples = tree_map_only(th.Tensor, lambda value: value.unflatten(0, index.shape), samples)
        if self._home != self._device:
            samples = tree_map_only(th.Tensor, lambda value: value.to(self._device), samples)
        return samples

    def _rows_after(self, row: th.Tensor, count: int) -> th.Tensor:
        """
        ``count`` rows from each of ``row`` ``(n, 1)`` on; behind the newest row, where memory holds another time or
        nothing, the newest again.
        """
        newest = (self.pos - 1) % self.buffer_size
        steps = th.arange(count, device=self._home).minimum((newest - row) % self.buffer_size)
        return (row + steps) % self.buffer_size

    def _n_step_returns(self, index: th.Tensor, env: VecNormalize | None) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Discounted sums of up to ``n_steps`` rewards, where they end, and the discount of the value there.

        Steps stop at the end of an episode and at the newest row, after which memory holds another time.
        """
        environment = index % self.n_envs
        steps = th.arange(self.n_steps, device=self._home)
        rows = self._rows_after(index[:, None] // self.n_envs, self.n_steps)
        at = (rows, environment[:, None].expand_as(rows))
        newest = (self.pos - 1) % self.buffer_size
        stops = (self.dones[at] + self.timeouts[at] + (rows == newest)) > 0
        alive = stops.cumsum(1) - stops.long() == 0  # up to the first stop, including it
        rewards = normalize_reward(self.rewards[at], env) * self.gamma**steps * alive
        length = alive.sum(1, keepdim=True)
        last = rows.gather(1, length - 1).squeeze(1)
        return rewards.sum(1, keepdim=True), last * self.n_envs + environment, self.gamma ** length.float()

    def state_dict(self) -> dict[str, Any]:
        """Everything the buffer holds, as CPU tensors and numbers; what is on the CPU is not copied."""
        return {
            "pos": self.pos,
            "full": self.full,
            "rows": self._storage.state_dict(),
            "frames": {name: ring.state() for name, ring in self._layout.rings.items()},
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Put back what ``state_dict`` returned, from whatever device it came.

        :raises ValueError: if it is of a buffer of other fields or more rows
        """
        if state["full"] and len(state["rows"]["lanes"]) != self.buffer_size:
            saved = len(state["rows"]["lanes"])
            raise ValueError(f"the saved buffer holds {saved} rows and is full, this one has room for {self.buffer_size}")
        self._storage.load_state_dict(state["rows"])
        for name, ring in self._layout.rings.items():
            ring.restore(state["frames"][name])
        filled = state["full"] or state["pos"] == self.buffer_size  # by a larger buffer, to the brim
        self.pos, self.full = state["pos"] % self.buffer_size, filled
        set_generator_state(self.generator, state["generator"])

    def __getstate__(self) -> dict[str, Any]:
        """Only the filled rows travel, as CPU arrays: a file's size follows the content, not the capacity."""
        return self.__dict__ | {"generator": self.generator.get_state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._home = self._storage.device
        self._device = usable_device(self._device)
        self.generator = th.Generator(self._home)
        set_generator_state(self.generator, state["generator"])


def _on_device(value: Any) -> bool:
    """Whether it is a tensor, or a dict of such, that numpy cannot read."""
    value = next(iter(value.values()), None) if isinstance(value, dict) else value
    return isinstance(value, th.Tensor) and not lives_on_host(value.device)


def _one_row(value: Any) -> Any:
    """With a first axis of one step."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {key: _one_row(item) for key, item in value.items()}
    return value[None] if isinstance(value, th.Tensor) else np.asarray(value)[None]
