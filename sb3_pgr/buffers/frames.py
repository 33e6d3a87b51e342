"""Image observations of which every frame is stored once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch as th
from torch.utils._pytree import tree_map_only

from sb3_pgr.buffers.storage import lives_on_host, torch_dtype, usable_device

_FIRST_FRAMES = 1024  # on a GPU, where memory is taken at once; it grows by doubling
_SLACK = 16  # spare frames: one in 16, for the frames that episode ends add: episodes of 16 steps or more never grow the ring


class FrameRing:
    """
    Observations in which consecutive ones overlap: the next observation of a step is the observation of the following
    step, and a stack of frames repeats all frames but the newest.

    Each environment has a ring of frames. A transition is a pair of positions (of the newest frame of its observation
    and of its next observation); an observation is the ``frame_stack`` frames that end at its position. What is shared
    is decided by comparing contents, so any sequence of transitions comes back exactly, across episode ends too; data
    that does not overlap merely takes more room, and the ring grows for it.

    :param shape: of one observation, its frames stacked along ``stack_axis``
    :param dtype: numpy type of the observations
    :param rows: transitions per environment that will be held
    :param n_envs: number of environments
    :param device: where the frames live
    :param frame_stack: frames in an observation
    :param stack_axis: axis of ``shape`` along which frames are stacked
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        rows: int,
        n_envs: int,
        device: th.device,
        frame_stack: int = 1,
        stack_axis: int = 0,
    ):
        if shape[stack_axis] % frame_stack:
            raise ValueError(f"frame_stack={frame_stack} does not divide axis {stack_axis} of observations of shape {shape}.")
        self.arguments: dict[str, Any] = dict(
            shape=shape, dtype=dtype, rows=rows, n_envs=n_envs, frame_stack=frame_stack, stack_axis=stack_axis
        )
        self.shape, self.dtype, self.n_envs, self.device = shape, dtype, n_envs, device
        self.frame_stack, self.stack_axis = frame_stack, stack_axis
        per_frame = shape[stack_axis] // frame_stack
        self.frame_shape = (*shape[:stack_axis], per_frame, *shape[stack_axis + 1 :])
        # Positions count all frames that ever were; they lie in the ring at position % capacity.
        self.heads = np.zeros(n_envs, np.int64)
        self._last = np.zeros((n_envs, *shape), dtype)
        # In one step's observations: the newest frame, all but the oldest, all but the newest.
        axis = (slice(None),) * (stack_axis + 1)
        self._newest, self._later = (*axis, slice(-per_frame, None)), (*axis, slice(per_frame, None))
        self._earlier = (*axis, slice(-per_frame))
        self._room = 0  # frames that surely fit without looking at what is still needed
        self.has_broken_stacks = False
        self._usual = rows + rows // _SLACK + 2 * frame_stack
        self._allocate(self._usual if lives_on_host(device) else min(self._usual, _FIRST_FRAMES))

    def _allocate(self, capacity: int) -> None:
        shape = (capacity, self.n_envs, *self.frame_shape)
        try:
            if lives_on_host(self.device):
                self._set_frames(th.from_numpy(np.zeros(shape, self.dtype)))
            else:
                self._set_frames(th.zeros(shape, dtype=torch_dtype(self.dtype), device=self.device))
        except (MemoryError, th.OutOfMemoryError) as error:
            gigabytes = np.prod(shape, dtype=float) * self.dtype.itemsize / 1e9
            raise MemoryError(
                f"{capacity} x {self.n_envs} frames of {self.frame_shape} need {gigabytes:.1f} GB on {self.device}, which "
                f"cannot be had ({error}). Use a smaller buffer_size."
            ) from error

    def _set_frames(self, frames: th.Tensor) -> None:
        self._frames, self._capacity, self._envs = frames, len(frames), np.arange(self.n_envs)
        self._host = frames.numpy() if lives_on_host(frames.device) else None

    @property
    def nbytes(self) -> int:
        """Bytes reserved, written or not."""
        return self._frames.numel() * self._frames.element_size()

    def push(self, obs: np.ndarray, next_obs: np.ndarray, oldest: Callable[[], np.ndarray | None]) -> np.ndarray:
        """
        Append one transition of each environment: ``extend`` with its usual case (an episode goes on) made short.

        :param obs: ``(n_envs, *shape)``
        :param next_obs: ``(n_envs, *shape)``
        :param oldest: see ``extend``
        :return: positions ``(n_envs, 2)``
        """
        if self._room > 0 and _same(obs, self._last) and self._is_shifted(obs, next_obs):
            heads, self.heads, self._room = self.heads, self.heads + 1, self._room - 1
            self._put(next_obs[self._newest], heads)
            self._last[...] = next_obs
            return np.array((heads - 1, heads)).T
        return self.extend(obs[None], next_obs[None], oldest, keep=1)[0]

    def extend(self, obs: np.ndarray, next_obs: np.ndarray, oldest: Callable[[], np.ndarray | None], keep: int) -> np.ndarray:
        """
        Append transitions.

        :param obs: ``(N, n_envs, *shape)``
        :param next_obs: ``(N, n_envs, *shape)``
        :param oldest: says, per environment, the observation's position in the oldest earlier transition that stays;
            None if none stays
        :param keep: how many of the new transitions stay (the newest)
        :return: positions ``(N, n_envs, 2)`` of observations and next observations
        """
        n, dropped = self.frame_stack, len(obs) - keep
        stacks, next_stacks = self._split(obs), self._split(next_obs)
        previous = np.concatenate([self._split(self._last[None]), next_stacks[:-1]])
        fresh = ~_equal(stacks, previous)
        fresh[0] |= self.heads == 0
        broken = ~_equal(stacks[:, :, 1:], next_stacks[:, :, :-1]) if n > 1 else np.zeros_like(fresh)
        added = np.stack([np.where(fresh, n, 0), np.where(broken, n, 1)], -1)  # frames by observation, next observation
        next_positions = self.heads + added.sum(-1).cumsum(0) - 1
        positions = np.stack([next_positions - added[..., 1], next_positions], -1)

        lowest = oldest()
        lowest = (positions[dropped, :, 0] if lowest is None else lowest) - n + 1
        self._reserve(lowest, next_positions[-1] + 1)
        if dropped:
            fresh[dropped] = True  # what this observation shares with a dropped one must be written here
        self._put(next_stacks[dropped:, :, -1], next_positions[dropped:])
        for changed, content, position in ((fresh, stacks, positions[..., 0]), (broken, next_stacks, next_positions)):
            if changed.any():
                for k in range(n):
                    self._put(content[dropped:, :, k], position[dropped:] - (n - 1 - k), changed[dropped:])
        self.heads, self._last = next_positions[-1] + 1, next_obs[-1].copy()
        self._room = self._capacity - int((self.heads - lowest).max())
        self.has_broken_stacks |= bool(broken.any())
        return positions

    def gather(self, position: th.Tensor, env: th.Tensor, count: int = 0) -> th.Tensor:
        """
        Observations that end at ``position`` of an environment's ring; tensors ``(B,)``.

        :param count: frames to take instead of ``frame_stack``
        :return: ``(B, *shape)``, with ``count`` frames along the stack axis
        """
        count = count or self.frame_stack
        row = (position[:, None] + th.arange(1 - count, 1, device=self.device)) % self._capacity
        index = (row * self.n_envs + env[:, None]).flatten()
        picked = _lanes(self._frames).index_select(0, index).view(self._frames.dtype)
        axis = self.stack_axis + 1
        return picked.view(len(position), count, *self.frame_shape).movedim(1, axis).flatten(axis, axis + 1)

    def gather_pair(self, positions: th.Tensor, env: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Observations and next observations at ``positions`` ``(B, 2)``; views of one tensor where they overlap."""
        if self.has_broken_stacks:
            return self.gather(positions[:, 0], env), self.gather(positions[:, 1], env)
        both = self.gather(positions[:, 1], env, self.frame_stack + 1)
        axis, size = self.stack_axis + 1, self.shape[self.stack_axis]
        return both.narrow(axis, 0, size), both.narrow(axis, both.shape[axis] - size, size)

    def state(self) -> dict[str, Any]:
        """Frames so far and positions, as CPU tensors; frames on the CPU are not copied."""
        used = min(int(self.heads.max()), self._capacity)
        frames = self._frames[:used].cpu().numpy() if self._host is None else self._host[:used]
        return {
            "frames": th.from_numpy(frames),
            "capacity": self._capacity,
            "heads": th.from_numpy(self.heads),
            "last": th.from_numpy(self._last),
            "has_broken_stacks": self.has_broken_stacks,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """
        Put back what ``state`` returned.

        :raises ValueError: if it is of other frames
        """
        frames, last = state["frames"], state["last"]
        same = frames.shape[1:] == self._frames.shape[1:] and tuple(last.shape) == self._last.shape
        if not same or frames.dtype != self._frames.dtype:
            raise ValueError(
                f"its frames are {frames.dtype} {tuple(frames.shape[1:])}, stacked to {tuple(last.shape)}; "
                f"here they are {self._frames.dtype} {tuple(self._frames.shape[1:])}, stacked to {self._last.shape}"
            )
        self._allocate(state["capacity"])
        self._frames[: len(state["frames"])] = state["frames"].to(self.device)
        self.heads, self._last = state["heads"].numpy().copy(), state["last"].numpy().copy()
        self.has_broken_stacks, self._room = state["has_broken_stacks"], 0

    def __getstate__(self) -> dict[str, Any]:
        content = tree_map_only(th.Tensor, th.Tensor.numpy, self.state())
        return {"arguments": self.arguments, "device": str(self.device), "content": content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state["arguments"], device=usable_device(state["device"]))  # type: ignore[misc]
        self.restore(tree_map_only(np.ndarray, th.from_numpy, state["content"]))

    def to(self, device: th.device) -> None:
        """Move to another device."""
        self.device = device
        self._set_frames(self._frames.to(device))

    def _is_shifted(self, obs: np.ndarray, next_obs: np.ndarray) -> bool:
        """Whether all frames of ``next_obs`` but the newest are those of ``obs`` but the oldest."""
        return self.frame_stack == 1 or _same(obs[self._later], next_obs[self._earlier])

    def _split(self, obs: np.ndarray) -> np.ndarray:
        """``(N, n_envs, *shape)`` to ``(N, n_envs, frame_stack, *frame_shape)``."""
        axis = self.stack_axis + 2
        return np.moveaxis(obs.reshape(*obs.shape[:axis], self.frame_stack, -1, *obs.shape[axis + 1 :]), axis, 2)

    def _put(self, frames: np.ndarray, position: np.ndarray, mask: np.ndarray | None = None) -> None:
        row, env = position % self._capacity, self._envs
        if mask is not None:
            frames, row, env = frames[mask], row[mask], np.broadcast_to(env, mask.shape)[mask]
        if self._host is not None:
            self._host[row, env] = frames
        else:
            index = th.from_numpy((row * self.n_envs + env).flatten()).to(self.device)
            new = th.from_numpy(np.ascontiguousarray(frames)).to(self.device)
            _lanes(self._frames)[index] = _lanes(new.reshape(-1, 1, *self.frame_shape))

    def _reserve(self, lowest: np.ndarray, heads: np.ndarray) -> None:
        """Make room for the positions from ``lowest`` to ``heads`` of each environment."""
        needed, capacity = int((heads - lowest).max()), self._capacity
        if needed <= capacity:
            return
        old, old_heads = self._frames, self.heads
        enough = needed + needed // _SLACK
        self._allocate(enough if capacity >= self._usual else max(enough, min(2 * capacity, self._usual)))
        for env in range(self.n_envs):
            head = int(old_heads[env])
            position = th.arange(min(max(int(lowest[env]), head - capacity, 0), head), head, device=self.device)
            source, target = (position % size * self.n_envs + env for size in (capacity, self._capacity))
            _lanes(self._frames)[target] = _lanes(old)[source]


def _lanes(frames: th.Tensor) -> th.Tensor:
    """
    Frames ``(rows, n_envs, *shape)`` as ``(rows * n_envs, lanes)``: a view of integers as wide as can be, which are copied
    faster, and which torch can index (it cannot index uint16, uint32 and uint64).
    """
    flat = frames.flatten(0, 1).flatten(1)
    size = flat.element_size()
    return flat.view(th.int64 if flat.shape[1] * size % 8 == 0 else {1: th.uint8, 2: th.int16, 4: th.int32}[size])


def _equal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Whether the items ``a[i, j]`` and ``b[i, j]`` are the same, bit by bit."""
    return (_words(a, 2) == _words(b, 2)).all(-1)


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays of one shape are the same, bit by bit."""
    return bool((_words(a, 0) == _words(b, 0)).all())


def _words(array: np.ndarray, axes: int) -> np.ndarray:
    """The bytes behind the first ``axes`` axes, as integers that are as wide as they can be."""
    words = np.ascontiguousarray(array).reshape(*array.shape[:axes], -1)
    return words.view(np.int64 if words.shape[-1] * words.itemsize % 8 == 0 else np.uint8)
