"""Replay of consecutive rows, for recurrent and sequence models."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.vec_env import VecNormalize
from torch.utils._pytree import tree_map_only

from sb3_pgr.buffers.fields import FieldType, Shape, as_array
from sb3_pgr.buffers.samples import SequenceSamples
from sb3_pgr.buffers.sum_tree import SumTree
from sb3_pgr.buffers.tensor_replay import TensorReplayBuffer
from sb3_pgr.common.checks import check_counts

_STARTS = "episode_starts"
_MAX_FOUND = 4096


class SequenceReplayBuffer(TensorReplayBuffer):
    """
    A replay buffer whose batches are windows of ``burn_in + sequence_length`` consecutive rows of one environment.

    Windows start, with equal probability, wherever a whole window fits into an episode; an episode that ended shorter
    than that has one window, masked behind its end. With ``cross_episodes`` windows start at any row and run across
    ends of episodes (``episode_starts`` in the batch tells where).

    :param args: positional arguments of ``TensorReplayBuffer``
    :param sequence_length: rows to learn from in a window
    :param burn_in: rows before them, from which a recurrent state is warmed up (Kapturowski et al. 2019, R2D2)
    :param cross_episodes: let windows run across ends of episodes
    :param state_shapes: shapes of recurrent states to store with each row (the states before its observation);
        ``add`` then takes ``states={name: (n_envs, *shape)}``
    :param kwargs: keyword arguments of ``TensorReplayBuffer``
    :raises ValueError: if a length does not fit the buffer
    """

    def __init__(
        self,
        *args: Any,
        sequence_length: int = 32,
        burn_in: int = 0,
        cross_episodes: bool = False,
        state_shapes: Mapping[str, Shape] | None = None,
        **kwargs: Any,
    ):
        check_counts(sequence_length=sequence_length)
        if burn_in < 0:
            raise ValueError(f"burn_in={burn_in} must not be negative.")
        self.sequence_length, self.burn_in, self.cross_episodes = sequence_length, burn_in, cross_episodes
        self.window = burn_in + sequence_length
        self.state_shapes = dict(state_shapes or {})
        super().__init__(*args, **kwargs)
        if self.window > self.buffer_size:
            raise ValueError(f"A window of {self.window} rows does not fit into a buffer of {self.buffer_size} rows.")
        self._clear()

    def _clear(self) -> None:
        self._tree = SumTree(self.buffer_size * self.n_envs, self._home)
        # Times count all rows that were ever written: the number of rows, per environment the start of its episode,
        # windows found since the tree was brought up to date, and how many rows it has not seen.
        self._time = 0
        self._episode_start = np.zeros(self.n_envs, np.int64)
        self._found: list[np.ndarray] = []
        self._n_fresh = 0
        self._has_windows = False

    def _extra_fields(self) -> dict[str, FieldType]:
        states = {f"states.{name}": (tuple(shape), np.dtype(np.float32)) for name, shape in self.state_shapes.items()}
        return {_STARTS: ((), np.dtype(np.float32)), **states}

    def add(self, *args: Any, states: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """As ``TensorReplayBuffer.add``; ``states`` holds the recurrent states before the observations."""
        kwargs["extra"] = {_STARTS: self._episode_start == self._time} | _prefixed(states)
        super().add(*args, **kwargs)

    def extend(self, *args: Any, states: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        """As ``TensorReplayBuffer.extend``; ``states`` are ``{name: (N, n_envs, *shape)}``."""
        done = as_array(kwargs["done"] if "done" in kwargs else args[4]).astype(bool).reshape(-1, self.n_envs)
        starts = np.concatenate([(self._episode_start == self._time)[None], done[:-1]])[: len(done)]
        kwargs["extra"] = {_STARTS: starts} | _prefixed(states)
        super().extend(*args, **kwargs)

    def _advance(self, count: int, done: Any) -> None:
        super()._advance(count, done)
        done = as_array(done).astype(bool).reshape(count, self.n_envs)
        time = self._time + np.arange(count)[:, None]
        # Start of the episode that a row belongs to: its predecessor's end, or else where it was.
        after_end = np.where(done[:-1], time[1:], 0)
        start = np.maximum.accumulate(np.concatenate([self._episode_start[None], after_end]))
        first = time - self.window + 1
        if self.cross_episodes:
            whole, short = np.broadcast_to(first >= 0, done.shape), np.zeros_like(done)
        else:
            whole, short = first >= start, done & (first < start)
        for rows, at in ((whole, np.broadcast_to(first, done.shape)), (short, start)):
            self._found.append(np.stack([at[rows], np.nonzero(rows)[1]]))
        self._has_windows |= bool(whole.any() or short.any())
        self._time += count
        self._episode_start = np.where(done[-1], self._time, start[-1])
        self._n_fresh = min(self._n_fresh + count, self.buffer_size)
        if len(self._found) > _MAX_FOUND:
            self._flush()

    def truncate_episodes(self) -> None:
        if self.size() > 0 and not self.cross_episodes:  # a shorter episode than the window has ended
            running = (self._episode_start < self._time) & (self._time - self._episode_start < self.window)
            self._found.append(np.stack([self._episode_start[running], np.nonzero(running)[0]]))
            self._has_windows |= bool(running.any())
        self._episode_start[:] = self._time
        super().truncate_episodes()

    def reset(self) -> None:
        super().reset()
        self._clear()

    def _flush(self) -> None:
        """Bring the tree of possible starts up to date: new rows are none, but some windows have become complete."""
        size, stop = self.buffer_size * self.n_envs, self.pos * self.n_envs
        start = stop - self._n_fresh * self.n_envs
        if start < 0:
            self._tree.fill(size + start, size, 0)
        self._tree.fill(max(start, 0), stop, 0)
        if self._found:
            time, env = np.concatenate(self._found, 1)
            alive = time >= self._time - self.buffer_size
            index = th.as_tensor(time[alive] % self.buffer_size * self.n_envs + env[alive], device=self._home)
            self._tree.update(index, th.ones(len(index), device=self._home))
        self._found, self._n_fresh = [], 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> SequenceSamples:  # type: ignore[override]
        """
        Draw windows.

        :param batch_size: number of windows
        :param env: normalises observations and rewards with its current statistics
        :return: tensors of shape ``(batch_size, burn_in + sequence_length, ...)``
        :raises ValueError: if there is no window yet
        """
        return self._windows((batch_size,), env)

    def sample_block(self, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> SequenceSamples:
        """As ``sample``, for a series of updates: ``(gradient_steps, batch_size, burn_in + sequence_length, ...)``."""
        return self._windows((gradient_steps, batch_size), env)

    def _windows(self, shape: tuple[int, ...], env: VecNormalize | None) -> SequenceSamples:
        self._check_can_sample(*shape)
        self._flush()
        # On a GPU to ask for the total would stall it.
        if not self._has_windows or (self._home.type != "cuda" and self._tree.total() == 0):
            raise ValueError(f"There is no window of {self.window} rows in the {self.size()} rows of the buffer yet.")
        start = self._tree.sample(shape[-1], self.generator, shape[0] if len(shape) > 1 else 1)
        start = start.clamp(max=self.buffer_size * self.n_envs - 1)  # of a tree of zeros, on a GPU, comes anything
        row = self._rows_after(start[:, None] // self.n_envs, self.window)
        index = row * self.n_envs + start[:, None] % self.n_envs
        if self.cross_episodes:
            masks = th.ones_like(index, dtype=th.bool)
        else:
            done = self.dones[row, index % self.n_envs]
            masks = done.cumsum(1) - done == 0
        samples = self.rows(index, env)
        first = self._storage.gather(start)
        fields = tree_map_only(th.Tensor, lambda value: _masked(value, masks.to(value.device)), samples)
        starts = self._storage.field(_STARTS)[row, index % self.n_envs].bool() & masks
        states = {name: first[f"states.{name}"] for name in self.state_shapes}
        return tree_map_only(
            th.Tensor,
            lambda value: value.unflatten(0, shape).to(self.device),
            SequenceSamples(**fields._asdict(), masks=masks, episode_starts=starts, states=states),
        )

    def _move(self, device: th.device) -> None:
        windows = self._window_state()
        super()._move(device)
        self._load_windows(windows)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._window_state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["starts"]) != len(self._tree.leaves):
            raise ValueError(
                f"the saved buffer has room for {len(state['starts'])} rows, this one for {len(self._tree.leaves)}"
            )
        super().load_state_dict(state)
        self._load_windows(state)

    def _window_state(self) -> dict[str, Any]:
        self._flush()
        return {
            "starts": self._tree.leaves.bool().cpu(),
            "time": self._time,
            "episode_start": th.from_numpy(self._episode_start.copy()),
            "has_windows": self._has_windows,
        }

    def _load_windows(self, state: dict[str, Any]) -> None:
        self._clear()
        self._tree.fill(0, len(state["starts"]), state["starts"].to(self._home).float())
        self._time, self._episode_start = state["time"], state["episode_start"].numpy().copy()
        self._has_windows = state["has_windows"]

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__() | {"_windows": self._window_state()}
        del state["_tree"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        windows = state.pop("_windows")
        super().__setstate__(state)
        self._load_windows(windows)


def _prefixed(states: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"states.{name}": value for name, value in (states or {}).items()}


def _masked(value: th.Tensor, masks: th.Tensor) -> th.Tensor:
    return value.masked_fill(~masks.reshape(*masks.shape, *[1] * (value.dim() - 2)), 0)
