"""How observations and next observations lie in the records of a replay buffer."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space_channels_first

from sb3_pgr.buffers.fields import (
    FieldType,
    as_array,
    as_tensor,
    check_keys,
    field_name,
    observation_field,
    observation_keys,
    of_key,
)
from sb3_pgr.buffers.frames import FrameRing
from sb3_pgr.buffers.storage import RecordStorage
from sb3_pgr.common.checks import check_counts

OBS, NEXT_OBS = "observations", "next_observations"
Oldest = Callable[[str, int], np.ndarray | None]


class ObservationLayout:
    """
    Array observations have one field for the observation and one for the next, Dict observations such a pair for each
    key. With shared frames the two are one field, which holds positions in a ring of frames.

    :param space: of the observations
    :param obs_shape: of the observations, or of each key
    :param rows: per environment
    :param n_envs: number of environments
    :param device: where frames live
    :param dtype: numpy type to store, or a mapping from key to type, or None
    :param shared: store each frame once
    :param frame_stack: frames in an observation of three axes, or a mapping from key to number
    :raises ValueError: if a type or a number is given for a key that there is not, or is not one
    """

    def __init__(
        self,
        space: spaces.Space,
        obs_shape: Any,
        rows: int,
        n_envs: int,
        device: th.device,
        dtype: Any,
        shared: bool,
        frame_stack: int | Mapping[str, int],
    ):
        self.n_envs = n_envs
        self.keys = observation_keys(obs_shape)  # one None for array observations
        check_keys(self.keys, obs_dtype=dtype, frame_stack=frame_stack)
        self.fields: dict[str, FieldType] = {}
        self.rings: dict[str, FrameRing] = {}
        # For each key: field of the observation, field of the next one, shape of one row.
        self.names: dict[str | None, tuple[str, str, tuple[int, ...]]] = {}
        if isinstance(frame_stack, Mapping) or frame_stack != 1:
            self._check_frame_stack(frame_stack, [of_key(obs_shape, key) for key in self.keys], shared)
        for key in self.keys:
            name, next_name = field_name(OBS, key), field_name(NEXT_OBS, key)
            field = observation_field(space, obs_shape, key, dtype)
            self.names[key] = (name, next_name, (n_envs, *field[0]))
            if shared:
                stack = of_key(frame_stack, key) if isinstance(frame_stack, Mapping) or len(field[0]) == 3 else 1
                self.rings[name] = _frame_ring(*field, rows, n_envs, device, 1 if stack is None else stack)
                self.fields[name] = ((2,), np.dtype(np.int64))
            else:
                self.fields[name] = self.fields[next_name] = field
        # Shape of a row of array observations that lie in their record as they come.
        is_plain = not shared and None in self.keys and len(self.names[None][2]) != 4  # images are looked at first
        self.plain_row = self.names[None][2] if is_plain else None

    @staticmethod
    def _check_frame_stack(frame_stack: Any, shapes: list[tuple[int, ...]], shared: bool) -> None:
        if not shared:
            raise ValueError(f"frame_stack={frame_stack!r} is for optimize_memory_usage=True, which stores each frame once.")
        if not isinstance(frame_stack, Mapping) and not any(len(shape) == 3 for shape in shapes):
            raise ValueError(f"frame_stack={frame_stack!r} needs an observation with three axes; shapes are {shapes}.")

    def row(self, obs: Any, next_obs: Any, oldest: Oldest) -> list[np.ndarray]:
        """
        What the fields hold of one row, in their order.

        :param oldest: see ``FrameRing.extend``, of a field and a number of new rows
        """
        row: list[np.ndarray] = []
        for key, (name, _, shape) in self.names.items():
            own, following = (np.asarray(part if key is None else part[key]) for part in (obs, next_obs))
            _check_images(shape, own, following)
            own, following = own.reshape(shape), following.reshape(shape)
            if self.rings:
                ring = self.rings[name]
                own, following = (part.astype(ring.dtype, copy=False) for part in (own, following))
                row.append(ring.push(own, following, partial(oldest, name, 1)))
            else:
                row += [own, following]
        return row

    def rows(self, obs: Any, next_obs: Any, count: int, kept: int, oldest: Oldest) -> dict[str, Any]:
        """What the fields hold of ``count`` rows, of which the newest ``kept`` stay."""
        rows: dict[str, Any] = {}
        for key, (name, next_name, shape) in self.names.items():
            own, following = (as_tensor(part if key is None else part[key]) for part in (obs, next_obs))
            _check_images(shape, own, following)
            own, following = own.reshape(count, *shape), following.reshape(count, *shape)
            if self.rings:
                ring = self.rings[name]
                pair = [as_array(part).astype(ring.dtype, copy=False) for part in (own, following)]
                rows[name] = ring.extend(pair[0], pair[1], partial(oldest, name, count), kept)
            else:
                rows[name], rows[next_name] = own, following
        return rows

    def gather(self, first: dict[str, th.Tensor], last: dict[str, th.Tensor], index: th.Tensor) -> tuple[Any, Any]:
        """
        Observations of the ``first`` records and next observations of the ``last``.

        :param index: where the records are, ``row * n_envs + environment``
        """
        pairs = {key: self._gather(*names[:2], first, last, index) for key, names in self.names.items()}
        if None in pairs:
            return pairs[None]
        return {key: pair[0] for key, pair in pairs.items()}, {key: pair[1] for key, pair in pairs.items()}

    def _gather(
        self, name: str, next_name: str, first: dict[str, th.Tensor], last: dict[str, th.Tensor], index: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        if not self.rings:
            return first[name], last[next_name]
        ring, environment = self.rings[name], index % self.n_envs
        if last is first:
            return ring.gather_pair(first[name], environment)
        return ring.gather(first[name][:, 0], environment), ring.gather(last[name][:, 1], environment)

    def view(self, storage: RecordStorage, part: str) -> Any:
        """
        The stored (next) observations ``(rows, n_envs, ...)``.

        :raises AttributeError: if frames are shared, so that there is no such array
        """
        if self.rings:
            raise AttributeError(f"With optimize_memory_usage=True there is no array of {part}; use sample().")
        views = {key: storage.field(field_name(part, key)) for key in self.keys}
        return views[None] if None in views else views


def _check_images(row: tuple[int, ...], *parts: Any) -> None:
    """Images with their axes in another order (SB3's VecNormalize remembers them as they were) must not pass as a reshape."""
    for part in parts:
        if len(row) == 4 and tuple(part.shape[-3:]) != row[1:]:
            raise ValueError(f"images of shape {tuple(part.shape[-3:])} do not fit {row[1:]}: check the order of their axes")


def _frame_ring(
    shape: tuple[int, ...], dtype: np.dtype[Any], rows: int, n_envs: int, device: th.device, frame_stack: int
) -> FrameRing:
    check_counts(frame_stack=frame_stack)
    axis = len(shape) - 1
    if len(shape) == 3 and is_image_space_channels_first(spaces.Box(0, 255, shape, np.uint8)):
        axis = 0
    return FrameRing(shape, dtype, rows, n_envs, device, frame_stack, axis)
