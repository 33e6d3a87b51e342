"""From spaces or bare shapes to the fields of a record."""

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces

Shape = tuple[int, ...]
Shapes = int | Shape | Mapping[str, Any]
FieldType = tuple[Shape, np.dtype[Any]]


def observation_keys(obs_shape: Shape | Mapping[str, Shape]) -> tuple[Any, ...]:
    """The keys of Dict observations; one ``None`` for array observations."""
    return tuple(obs_shape) if isinstance(obs_shape, Mapping) else (None,)


def check_keys(keys: tuple[Any, ...], **arguments: Any) -> None:
    """
    :raises ValueError: naming an argument that is given for keys that the observations do not have
    """
    for name, argument in arguments.items():
        unknown = set(argument) - set(keys) if isinstance(argument, Mapping) else set()
        if unknown:
            raise ValueError(f"{name} is given for {sorted(map(str, unknown))}, but observations have {list(keys)}.")


def of_key(argument: Any, key: str | None) -> Any:
    """What an argument says about one key: it may be a mapping or hold for all."""
    return argument.get(key) if isinstance(argument, Mapping) else argument


def field_name(part: str, key: str | None) -> str:
    """Name of the field that holds one key of ``part``."""
    return part if key is None else f"{part}.{key}"


def observation_field(space: spaces.Space, obs_shape: Shape | Mapping[str, Shape], key: str | None, dtype: Any) -> FieldType:
    """
    Shape and type of a stored observation: floats as float32, others in the space's own type.

    :param dtype: to store it in another numpy type; a type, a mapping from key to type, or None
    """
    wanted = of_key(dtype, key)
    if wanted is None:
        wanted = space.dtype if key is None else space[key].dtype  # type: ignore[index]
        wanted = np.float32 if np.issubdtype(wanted, np.floating) else wanted
    return of_key(obs_shape, key), _numpy_type(wanted)


def space_from_shape(shape: Shapes, dtype: Any = np.float32) -> spaces.Space:
    """
    A space for arrays of a shape, or for a dict of them; unbounded in a floating type.

    :param shape: without the batch axis (a number for one axis), or a mapping of such
    :param dtype: numpy type (bool becomes uint8), or a mapping of such (float32 where it says nothing)
    """
    if isinstance(shape, Mapping):
        types: dict[str, Any] = dict.fromkeys(shape, np.float32 if isinstance(dtype, Mapping) else dtype)
        types.update(dtype if isinstance(dtype, Mapping) else {})
        check_keys(tuple(shape), obs_dtype=types)
        return spaces.Dict({key: space_from_shape(item, types[key]) for key, item in shape.items()})
    if isinstance(shape, int):
        shape = (shape,)
    if np.issubdtype(dtype, np.bool_):
        return spaces.Box(0, 1, tuple(shape), np.uint8)
    if np.issubdtype(dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, tuple(shape), dtype)
    limits = np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, tuple(shape), dtype)


def action_field(space: spaces.Space, action_dim: int, dtype: Any = None) -> FieldType:
    """Shape and type of a stored action: those of a ``Box``, which are scaled to [-1, 1], as float32, others as int64."""
    return (action_dim,), _numpy_type(dtype or (np.float32 if isinstance(space, spaces.Box) else np.int64))


def _numpy_type(wanted: Any) -> np.dtype[Any]:
    try:
        th.from_numpy(np.zeros(0, wanted))
    except TypeError:
        raise ValueError(f"{wanted!r} is not a numpy type that torch knows.") from None
    return np.dtype(wanted)


def scaled_actions(actions: np.ndarray, space: spaces.Space) -> np.ndarray:
    """Actions in units of a ``Box`` as SB3 stores them, in [-1, 1]; those of other spaces as they are."""
    if not isinstance(space, spaces.Box):
        return actions
    return np.clip(2 * (actions - space.low) / (space.high - space.low) - 1, -1, 1)


def as_array(value: Any) -> np.ndarray:
    """An array of what may be a tensor on any device."""
    return value.detach().cpu().numpy() if isinstance(value, th.Tensor) else np.asarray(value)


def as_tensor(value: Any) -> th.Tensor:
    """A tensor of what may be an array or a list; tensors stay where they are."""
    if isinstance(value, th.Tensor):
        return value
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # it is only read
        return th.as_tensor(np.asarray(value))


def infos_by_step(infos: Any) -> list[Any]:
    """Infos per step, per environment, of those of ``extend``: the axis of a single environment may have been left out."""
    return [[step] if isinstance(step, Mapping) else step for step in infos or ()]


class FromShapes:
    """Lets a buffer be built without spaces."""

    @classmethod
    def from_shapes(
        cls,
        buffer_size: int,
        obs_shape: Shapes,
        action_shape: int | Shape,
        obs_dtype: Any = np.float32,
        action_dtype: Any = np.float32,
        **kwargs: Any,
    ) -> Self:
        """
        Build the buffer from shapes and numpy types instead of spaces.

        :param obs_shape: of one observation, or a mapping of such for Dict observations
        :param action_shape: of one action
        :param kwargs: further arguments of the constructor
        """
        action_space = space_from_shape(action_shape, action_dtype)
        known = {name for kind in cls.__mro__ if "__init__" in vars(kind) for name in inspect.signature(kind).parameters}
        for name, dtype in (("obs_dtype", obs_dtype), ("action_dtype", action_dtype)):
            if dtype is not np.float32 and name in known:
                kwargs.setdefault(name, dtype)
            elif dtype is not np.float32 and "online_kwargs" in known:  # a mixture's
                kwargs["online_kwargs"] = {name: dtype, **(kwargs.get("online_kwargs") or {})}
        return cls(buffer_size, space_from_shape(obs_shape, obs_dtype), action_space, **kwargs)  # type: ignore[call-arg]
