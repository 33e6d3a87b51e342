"""Pickled demonstrations of HIL-SERL and its relatives, read without running anything they might hold."""

import pickle
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pgr.offline.dataset import DatasetError

_DTYPE = re.compile(r"[biufc]\d{1,2}")


class _Callable:
    """Stands in for a name in a pickle: may be called, and nothing else can be done to it."""

    __slots__ = ("_make",)

    def __init__(self, make: Any):
        self._make = make

    def __call__(self, *args: Any) -> Any:
        return self._make(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes what it should only call")


class _DType:
    """A type of plain numbers; numpy's own would take states that make it read memory which is not its."""

    __slots__ = ("_code", "_order")

    def __init__(self, code: Any, *_: Any):
        if not (isinstance(code, str) and _DTYPE.fullmatch(code)):
            raise pickle.UnpicklingError(f"it holds arrays of type {code!r}")
        self._code, self._order = code, "="

    def __setstate__(self, state: Any) -> None:
        version, order, *rest = state[:5]
        if version != 3 or order not in ("<", ">", "|", "=") or any(part is not None for part in rest):
            raise pickle.UnpicklingError("it holds arrays of more than plain numbers")
        self._order = order

    @property
    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self._order + self._code)


class _Array:
    """What will be an array, put together from its bytes alone."""

    __slots__ = ("value",)

    def __init__(self, *_: Any):
        self.value = np.zeros(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, in_columns, raw = state
        self.value = _array(raw, dtype, shape, "F" if in_columns else "C")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
        raise pickle.UnpicklingError("it holds arrays of objects")
    return np.frombuffer(bytes(raw), dtype.numpy).reshape(tuple(map(int, shape)), order=order).copy()


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> _Array:
    array = _Array()
    array.value = _array(raw, dtype, shape, order)
    return array


def _latin1(text: str, encoding: str) -> bytes:
    """How old protocols write bytes."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds text in {encoding!r}")
    return text.encode("latin1")


_KNOWN = {
    ("numpy", "ndarray"): _Callable(None),
    ("numpy", "dtype"): _Callable(_DType),
    ("collections", "OrderedDict"): _Callable(dict),
    ("_codecs", "encode"): _Callable(_latin1),
}
for _core in ("core", "_core"):
    _KNOWN |= {
        (f"numpy.{_core}.multiarray", "_reconstruct"): _Callable(_Array),
        (f"numpy.{_core}.multiarray", "scalar"): _Callable(lambda dtype, raw: _array(raw, dtype, (1,), "C")[0]),
        (f"numpy.{_core}.numeric", "_frombuffer"): _Callable(_from_buffer),
    }


class _NumpyOnly(pickle.Unpickler):
    """Knows what numpy arrays are made of, by stand-ins, and refuses every other name."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            remedy = ""
            if name.endswith("Buffer"):
                remedy = "; if you trust the file, load it with SB3's load_from_pkl and give the buffer itself"
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run{remedy}")
        return _KNOWN[module, name]


def _finished(value: Any, seen: dict[int, Any]) -> Any:
    """With arrays in place of what stood in for them; what is in several places stays one."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Callable | _DType):
        raise pickle.UnpicklingError("it holds more than arrays")
    if not isinstance(value, dict | list | tuple):
        return value
    if id(value) not in seen:
        if isinstance(value, dict):
            seen[id(value)] = {key: _finished(part, seen) for key, part in value.items()}
        else:
            seen[id(value)] = type(value)(_finished(part, seen) for part in value)
    return seen[id(value)]


def read_pickle(path: str | Path) -> Any:
    """
    What a pickle holds, if that is nothing but numpy arrays and numbers in lists, tuples and dicts.

    :raises DatasetError: if it holds anything else (nothing of it is run), or is damaged
    """
    try:
        with open(path, "rb") as file:
            return _finished(_NumpyOnly(file).load(), {})
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever comes first
        raise DatasetError(f"{path} is refused: {error}.") from None


def transitions_of(records: Any, source: str, labels_only: bool = False) -> dict[str, Any]:
    """
    Arrays under this library's names, from a list of transition dicts as HIL-SERL records them.

    A leading axis of one frame is taken away, images with channels first are turned, images of numbers in [0, 1] or [0, 255]
    are made uint8. ``masks`` (1 - done) tell true ends; ``dones`` without a mask of 0 are time limits.

    :param records: ``observations`` (a dict or an array), ``actions``, ``next_observations``, ``rewards``, ``dones`` and / or
        ``masks``, ``grasp_penalty`` (there or in ``infos``; 0, with a warning, where only some lack it)
    :param labels_only: observations are enough; ``labels`` are read with them, if there are any
    :raises DatasetError: if it is no such list, a key is missing, only some records have labels, or values make no sense
    """
    try:
        return _transitions_of(records, source, labels_only)
    except (ValueError, TypeError, IndexError) as error:
        raise error if isinstance(error, DatasetError) else DatasetError(f"{source}: {error}") from None


def _transitions_of(records: Any, source: str, labels_only: bool) -> dict[str, Any]:
    if not isinstance(records, Sequence) or not records or not all(isinstance(record, Mapping) for record in records):
        raise DatasetError(f"{source} holds no list of transitions.")
    wanted = ["observations"] if labels_only else ["observations", "actions", "next_observations", "rewards"]
    missing = [name for name in wanted if any(name not in record for record in records)]
    if missing:
        raise DatasetError(f"{source}: transitions lack {', '.join(missing)}; the first holds {sorted(map(str, records[0]))}.")
    arrays = {"observations": _stacked([record["observations"] for record in records], "observations", source)}
    if labels_only:
        with_label = sum("labels" in record for record in records)
        if 0 < with_label < len(records):
            raise DatasetError(f"{source}: only {with_label} of {len(records)} records have labels.")
        labels = _flags(records, "labels", source)
        return arrays if labels is None else arrays | {"labels": labels}
    arrays["next_observations"] = _stacked([record["next_observations"] for record in records], "next_observations", source)
    arrays["actions"] = _squeezed(_stack([record["actions"] for record in records], "actions", source), 2).astype(np.float32)
    arrays["rewards"] = _stack([record["rewards"] for record in records], "rewards", source).reshape(-1).astype(np.float32)
    ends = _flags(records, "dones", source)
    masks = _flags(records, "masks", source)
    if ends is None and masks is None:
        raise DatasetError(f"{source}: transitions have neither dones nor masks.")
    terminals = ends if masks is None else ~masks
    assert terminals is not None
    arrays["terminals"] = terminals
    arrays["timeouts"] = np.zeros(len(records), bool) if ends is None else ends & ~terminals
    arrays["timeouts"][-1] |= not terminals[-1]
    penalties = [_penalty(record) for record in records]
    n_missing = penalties.count(None)
    if 0 < n_missing < len(records):
        warnings.warn(
            f"{source}: {n_missing:,} of {len(records):,} transitions have no grasp_penalty; theirs is 0.", stacklevel=2
        )
    if n_missing < len(records):
        arrays["grasp_penalty"] = np.array([penalty or 0.0 for penalty in penalties], np.float32)
    return arrays


def _penalty(record: Mapping[str, Any]) -> float | None:
    inner = record.get("infos")
    value = record.get("grasp_penalty", inner.get("grasp_penalty") if isinstance(inner, Mapping) else None)
    return None if value is None else float(np.asarray(value).reshape(-1)[0])


def _flags(records: Sequence[Mapping[str, Any]], name: str, source: str) -> np.ndarray | None:
    if any(name not in record for record in records):
        return None
    return _stack([record[name] for record in records], name, source).reshape(-1).astype(bool)


def _stack(values: Sequence[Any], name: str, source: str) -> np.ndarray:
    arrays = [np.asarray(value) for value in values]
    if len({array.shape for array in arrays}) > 1 or arrays[0].dtype == object:
        raise DatasetError(f"{source}: {name} must be arrays of one shape, not {sorted({array.shape for array in arrays})}.")
    return np.stack(arrays)


def _stacked(values: Sequence[Any], name: str, source: str) -> Any:
    if isinstance(values[0], Mapping):
        keys = set(values[0])
        if any(not isinstance(value, Mapping) or set(value) != keys for value in values):
            raise DatasetError(f"{source}: {name} do not all have the keys {sorted(keys)}.")
        return {key: _observation([value[key] for value in values], f"{name}/{key}", source) for key in values[0]}
    return _observation(values, name, source)


def _observation(values: Sequence[Any], name: str, source: str) -> np.ndarray:
    """A state ``(n, d)`` float32, or images ``(n, height, width, channels)`` uint8."""
    value = _stack(values, name, source)
    is_image = value.ndim >= 4 and (value.shape[-1] in (1, 3) or value.shape[-3] in (1, 3))
    if not is_image:
        return _squeezed(value, 2).astype(np.float32)
    value = _squeezed(value, 4)
    if value.shape[-1] not in (1, 3):
        value = value.transpose(0, 2, 3, 1)
    if value.dtype != np.uint8:
        if not (0 <= value.min() and value.max() <= 255):
            raise DatasetError(f"{source}: {name} are images from {value.min()} to {value.max()}, not in [0, 1] or [0, 255].")
        value = np.round(value * (255 if value.max() <= 1 else 1)).clip(0, 255).astype(np.uint8)
    return value


def _squeezed(value: np.ndarray, dims: int) -> np.ndarray:
    """Without a frame axis of one, behind the row's."""
    return value[:, 0] if value.ndim == dims + 1 and value.shape[1] == 1 else value
