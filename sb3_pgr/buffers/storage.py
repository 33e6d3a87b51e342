"""Rows of mixed types, side by side in memory: one gather fetches whole transitions."""

import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch as th
from torch.utils._pytree import tree_map_only

KINDS = ("device", "memory", "pinned", "disk")
_FIRST_ROWS = 1024
_STAGED_ROWS = 256

Fields = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class RecordStorage:
    """
    Storage of ``rows x n_envs`` records. All fields of a record lie next to each other, so drawing a batch costs one
    gather and few cache misses, whatever the number of fields.

    On the CPU nothing is touched before it is written (the operating system hands out zero pages on first use), so a
    large buffer costs nothing until it is filled. On a GPU the storage grows by doubling; single rows are collected on
    the host and copied over together, when they are first read.

    :param fields: shape and numpy type of each field
    :param rows: capacity per environment
    :param n_envs: records per row
    :param device: where the records live
    :param kind: ``"device"`` or ``"memory"`` (both simply where ``device`` says), ``"pinned"`` (page-locked) or
        ``"disk"`` (memory-mapped temporary file)
    :param folder: where the file of ``"disk"`` goes; the system's temporary folder by default
    :raises ValueError: if the kind does not exist or needs a GPU that there is not
    :raises FileNotFoundError: if there is no such folder
    :raises MemoryError: if that much memory, or room on the disk, cannot be had
    """

    def __init__(
        self,
        fields: Fields,
        rows: int,
        n_envs: int,
        device: th.device,
        kind: str = "device",
        folder: str | Path | None = None,
    ):
        if kind not in KINDS:
            raise ValueError(f"storage={kind!r} is not known; choose one of {', '.join(KINDS)}.")
        if kind == "pinned" and not th.cuda.is_available():
            raise ValueError("storage='pinned' is of page-locked memory for a GPU, but there is none.")
        if kind == "disk" and folder is not None and not Path(folder).is_dir():
            raise FileNotFoundError(f"storage_dir={str(folder)!r} is no folder on this machine.")
        self.arguments: dict[str, Any] = dict(fields=dict(fields), rows=rows, n_envs=n_envs, kind=kind, folder=folder)
        self.fields = dict(fields)
        self.rows, self.n_envs = rows, n_envs
        self.device, self.kind, self.folder = device, kind, folder
        self._on_host = lives_on_host(device)
        self._layout = _layout(self.fields)
        self._groups = _groups(self._layout, self.fields)
        self._shaped = [(name, shape) for name, (shape, _) in self.fields.items() if len(shape) > 1]
        self._staged: list[int] = []
        self._n_filled = 0
        self._allocate(rows if self._on_host else min(rows, _FIRST_ROWS))

    def _allocate(self, rows: int) -> None:
        if self._on_host:
            self._host = self._new_host_array(rows)
            data = th.from_numpy(self._host.view(np.int64).reshape(rows, self.n_envs, -1))
        else:
            staged = th.zeros(_STAGED_ROWS, self.n_envs, self._layout.itemsize, dtype=th.uint8)
            staged = staged.pin_memory() if self.device.type == "cuda" else staged
            self._host = staged.numpy().view(self._layout)[..., 0]
            data = self._zeros(rows)
        self._set_data(data)
        self._columns = [self._host[name] for name in self.fields]

    def _zeros(self, rows: int) -> th.Tensor:
        try:
            return th.zeros(rows, self.n_envs, self._layout.itemsize // 8, dtype=th.int64, device=self.device)
        except th.OutOfMemoryError as error:
            raise self._too_large(rows, error) from error

    def _too_large(self, rows: int, error: Exception) -> MemoryError:
        gigabytes = rows * self.n_envs * self._layout.itemsize / 1e9
        return MemoryError(
            f"A buffer of {rows} x {self.n_envs} transitions needs {gigabytes:.1f} GB of {self.kind} storage, which cannot be "
            f"had ({error}). Use a smaller buffer_size, another storage, or optimize_memory_usage=True for images."
        )

    def _set_data(self, data: th.Tensor) -> None:
        self._data, self._flat = data, data.flatten(0, 1)

    def _new_host_array(self, rows: int) -> np.ndarray:
        shape = (rows, self.n_envs)
        try:
            if self.kind == "disk":
                with tempfile.TemporaryFile(dir=self.folder) as file:  # its space is freed with the mapping
                    reserve(file, rows * self.n_envs * self._layout.itemsize)
                    return np.memmap(file, dtype=self._layout, mode="w+", shape=shape)
            if self.kind == "pinned":
                size = rows * self.n_envs * self._layout.itemsize
                return th.zeros(size, dtype=th.uint8, pin_memory=True).numpy().view(self._layout).reshape(shape)
            return np.zeros(shape, self._layout)
        except (MemoryError, OSError, RuntimeError) as error:
            raise self._too_large(rows, error) from error

    @property
    def nbytes(self) -> int:
        """Bytes reserved, written or not."""
        return self._data.numel() * 8

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return self._layout.itemsize

    def write_row(self, row: int, values: Sequence[Any]) -> None:
        """Write one row, one array ``(n_envs, *shape)`` a field, in the fields' order."""
        if row >= self._n_filled:
            self._n_filled = row + 1
        if self._on_host:
            for column, value in zip(self._columns, values):
                column[row] = value
            return
        if len(self._staged) == min(_STAGED_ROWS, self.rows):  # no row may be there twice
            self.flush()
        for column, value in zip(self._columns, values):
            column[len(self._staged)] = value
        self._staged.append(row)

    def clear(self) -> None:
        """Forget all rows."""
        self._staged, self._n_filled = [], 0

    def flush(self) -> None:
        """Bring rows that were collected on the host to the device."""
        if not self._staged:
            return
        rows, self._staged = self._staged, []
        self._grow(max(rows) + 1)
        block = th.from_numpy(self._host.view(np.int64).reshape(_STAGED_ROWS, self.n_envs, -1)[: len(rows)])
        # Not asynchronous: the host rows are about to be written again.
        self._data.index_copy_(0, th.tensor(rows, device=self.device), block.to(self.device))

    def _grow(self, rows: int) -> None:
        if rows > len(self._data):
            new_rows = min(self.rows, max(rows, 2 * len(self._data)))
            grown = self._zeros(new_rows)
            grown[: len(self._data)] = self._data
            self._set_data(grown)

    def field(self, name: str) -> th.Tensor:
        """View ``(rows so far, n_envs, *shape)`` of one field."""
        self.flush()
        return self._field(self._data, name)

    def write(self, row: int, values: Mapping[str, Any]) -> None:
        """Write ``N`` whole rows from ``row`` on; arrays or tensors ``(N, n_envs, *shape)``."""
        count = len(next(iter(values.values())))
        self.flush()
        self._grow(row + count)
        for name, value in values.items():
            target = self._field(self._data[row : row + count], name)
            target.copy_(th.as_tensor(value).reshape(target.shape))
        self._n_filled = max(self._n_filled, row + count)

    def gather(self, index: th.Tensor) -> dict[str, th.Tensor]:
        """
        Records at ``index`` (flat: ``row * n_envs + environment``), as views ``(len(index), *shape)`` of one new tensor;
        scalars as ``(len(index), 1)``.
        """
        self.flush()
        records = self._flat.index_select(0, index)
        batch: dict[str, th.Tensor] = {}
        for dtype, widths, names in self._groups:
            batch.update(zip(names, records.view(dtype).split_with_sizes(widths, 1)))
        for name, shape in self._shaped:
            batch[name] = batch[name].unflatten(1, shape)
        batch.pop("", None)
        return batch

    def _field(self, records: th.Tensor, name: str) -> th.Tensor:
        shape, dtype = self.fields[name]
        start = _offset(self._layout, name) // dtype.itemsize
        columns = records.view(torch_dtype(dtype))[..., start : start + int(np.prod(shape))]
        return columns.unflatten(-1, shape) if shape else columns.squeeze(-1)

    def state_dict(self) -> dict[str, Any]:
        """
        The filled rows as raw ``int64`` lanes on the CPU (not copied if they are there, and no more than them in a
        file), and what they are made of.
        """
        self.flush()
        rows = self._data[: self._n_filled]
        lanes = th.from_numpy(rows.numpy()) if self._on_host else rows.cpu()
        return {"lanes": lanes, "fields": self._description()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Put back what ``state_dict`` returned, from whatever device it came.

        :raises ValueError: if it is of other fields or does not fit
        """
        lanes, fields = state["lanes"], state["fields"]
        if fields != self._description():
            raise ValueError(f"the saved records hold {fields}, this buffer's {self._description()}")
        if lanes.shape[1:] != self._data.shape[1:] or len(lanes) > self.rows:
            raise ValueError(f"{len(lanes)} x {lanes.shape[1]} saved rows do not fit into {self.rows} x {self.n_envs}")
        self.clear()
        self._grow(len(lanes))
        self._data[: len(lanes)] = lanes.to(self.device)
        self._n_filled = len(lanes)

    def _description(self) -> dict[str, str]:
        return {name: f"{dtype}{list(shape)}" for name, (shape, dtype) in self.fields.items()}

    def to(self, device: th.device) -> "RecordStorage":
        """The same content in a new storage on another device."""
        moved = RecordStorage(**self.arguments, device=device)
        moved.load_state_dict(self.state_dict())
        return moved

    def __getstate__(self) -> dict[str, Any]:
        """Arrays, which pickle writes to a file without a copy of its own."""
        content = tree_map_only(th.Tensor, th.Tensor.numpy, self.state_dict())
        return {"arguments": self.arguments, "device": str(self.device), "content": content}

    def __setstate__(self, state: dict[str, Any]) -> None:
        arguments = dict(state["arguments"])
        if arguments["kind"] == "pinned" and not th.cuda.is_available():
            arguments["kind"] = "memory"
        if arguments["folder"] is not None and not Path(arguments["folder"]).is_dir():
            arguments["folder"] = None
        self.__init__(**arguments, device=usable_device(state["device"]))  # type: ignore[misc]
        content = tree_map_only(np.ndarray, th.from_numpy, state["content"])
        lanes = content["lanes"]
        if self._on_host and arguments["kind"] != "disk" and lanes.shape == self._data.shape:
            self._host = lanes.numpy().view(self._layout)[..., 0]  # full: no second copy
            self._set_data(lanes)
            self._columns = [self._host[name] for name in self.fields]
            self._n_filled = self.rows
        else:
            self.load_state_dict(content)


def reserve(file: IO[bytes], size: int) -> None:
    """
    Take the room of a whole file: where a mapping finds none later on, the process dies without a word.

    :param file: an open and empty one
    :param size: in bytes
    :raises OSError: if there is not as much
    """
    disk = os.fstatvfs(file.fileno())
    free = disk.f_bavail * disk.f_frsize
    if size > free:
        raise OSError(errno.ENOSPC, f"{free / 1e9:.1f} GB are free")
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)


def lives_on_host(device: th.device) -> bool:
    """Whether a device's memory is that of numpy."""
    return device.type == "cpu"


def usable_device(device: th.device | str) -> th.device:
    """The device on which something lived, or what this machine has in its place."""
    device = th.device(device)
    if device.type == "mps" and not th.backends.mps.is_available():
        return th.device("cpu")
    if device.type == "cuda":
        if not th.cuda.is_available():
            return th.device("cpu")
        if device.index is not None and device.index >= th.cuda.device_count():
            return th.device("cuda")
    return device


def _layout(fields: Fields) -> np.dtype[Any]:
    """A record type in which every field is aligned to its own size and the whole to 8 bytes."""
    offset, offsets = 0, []
    for shape, dtype in fields.values():
        offset = -(-offset // dtype.itemsize) * dtype.itemsize
        offsets.append(offset)
        offset += int(np.prod(shape)) * dtype.itemsize
    return np.dtype(
        {
            "names": list(fields),
            "formats": [(dtype, shape) for shape, dtype in fields.values()],
            "offsets": offsets,
            "itemsize": max(8, -(-offset // 8) * 8),
        }
    )


def _offset(layout: np.dtype[Any], name: str) -> int:
    assert layout.fields is not None
    return layout.fields[name][1]


def _groups(layout: np.dtype[Any], fields: Fields) -> list[tuple[th.dtype, list[int], list[str]]]:
    """Per type, how a whole record of that type splits into fields ("": what is of other types)."""
    groups = []
    for dtype in {dtype for _, dtype in fields.values()}:
        widths: list[int] = []
        names: list[str] = []
        position = 0
        total = layout.itemsize // dtype.itemsize
        own = sorted((_offset(layout, name) // dtype.itemsize, name) for name in fields if fields[name][1] == dtype)
        for start, name in [*own, (total, "")]:
            if start > position:
                widths.append(start - position)
                names.append("")
            if name:
                widths.append(int(np.prod(fields[name][0])))
                names.append(name)
                position = start + widths[-1]
        groups.append((torch_dtype(dtype), widths, names))
    return groups


def torch_dtype(dtype: np.dtype[Any]) -> th.dtype:
    """The torch type of a numpy type."""
    return th.from_numpy(np.zeros(0, dtype)).dtype
