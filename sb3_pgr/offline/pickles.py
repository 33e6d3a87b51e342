"""Pickled demonstrations of HIL-SERL and its relatives, read without running anything they might hold."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pgr.offline.dataset import DatasetError

_NUMPY = {
    (f"numpy.{core}.{module}", name)
    for core in ("core", "_core")
    for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
}
_ALLOWED = _NUMPY | {("numpy", "ndarray"), ("numpy", "dtype"), ("collections", "OrderedDict"), ("_codecs", "encode")}


class _NumpyOnly(pickle.Unpickler):
    """Refuses every name but those that numpy arrays are made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not run")
        return super().find_class(module, name)


def read_pickle(path: str | Path) -> Any:
    """
    What a pickle holds, if that is nothing but numpy arrays and numbers in lists, tuples and dicts.

    :raises DatasetError: if it holds anything else (nothing of it is run), or is damaged
    """
    try:
        with open(path, "rb") as file:
            return _NumpyOnly(file).load()
    except OSError as error:
        raise DatasetError(f"{path} cannot be read: {error}") from None
    except Exception as error:  # a damaged pickle raises whatever comes first
        raise DatasetError(f"{path} is refused: {error}.") from None


def transitions_of(records: Any, source: str, labels_only: bool = False) -> dict[str, Any]:
    """
    Arrays under this library's names, from a list of transition dicts as HIL-SERL records them.

    A leading axis of one frame is taken away, images with channels first are turned, images of floats in [0, 1] are made
    uint8. ``masks`` (1 - done) tell true ends; ``dones`` without a mask of 0 are time limits.

    :param records: ``observations`` (a dict or an array), ``actions``, ``next_observations``, ``rewards``, ``dones`` and / or
        ``masks``, ``grasp_penalty`` (there or in ``infos``)
    :param labels_only: observations are enough
    :raises DatasetError: if it is no such list, or a key is missing
    """
    if not isinstance(records, Sequence) or not records or not all(isinstance(record, Mapping) for record in records):
        raise DatasetError(f"{source} holds no list of transitions.")
    wanted = ["observations"] if labels_only else ["observations", "actions", "next_observations", "rewards"]
    missing = [name for name in wanted if any(name not in record for record in records)]
    if missing:
        raise DatasetError(f"{source}: transitions lack {', '.join(missing)}; the first holds {sorted(map(str, records[0]))}.")
    arrays = {"observations": _stacked([record["observations"] for record in records], "observations", source)}
    if labels_only:
        return arrays
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
    arrays["grasp_penalty"] = np.array([_penalty(record) for record in records], np.float32)
    return arrays


def _penalty(record: Mapping[str, Any]) -> float:
    inner = record.get("infos")
    value = record.get("grasp_penalty", inner.get("grasp_penalty", 0.0) if isinstance(inner, Mapping) else 0.0)
    return float(np.asarray(value).reshape(-1)[0])


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
        return {key: _observation(_stack([value[key] for value in values], f"{name}/{key}", source)) for key in values[0]}
    return _observation(_stack(values, name, source))


def _observation(value: np.ndarray) -> np.ndarray:
    """A state ``(n, d)`` float32, or images ``(n, height, width, channels)`` uint8."""
    is_image = value.ndim >= 4 and (value.shape[-1] in (1, 3) or value.shape[-3] in (1, 3))
    if not is_image:
        return _squeezed(value, 2).astype(np.float32)
    value = _squeezed(value, 4)
    if value.shape[-1] not in (1, 3):
        value = value.transpose(0, 2, 3, 1)
    if value.dtype != np.uint8:
        value = np.round(value * (255 if value.max() <= 1 else 1)).clip(0, 255).astype(np.uint8)
    return value


def _squeezed(value: np.ndarray, dims: int) -> np.ndarray:
    """Without a frame axis of one, behind the row's."""
    return value[:, 0] if value.ndim == dims + 1 and value.shape[1] == 1 else value
