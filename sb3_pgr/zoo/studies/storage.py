"""Where the runs of a study lie: a folder, or an object store that fsspec reaches (S3, GCS, ...)."""

import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

SECONDS_TO_ANSWER = 20.0
PAUSES = (1.0, 5.0, 25.0)  # seconds before a request that failed on the way is made again
F = TypeVar("F", bound=Callable[..., Any])


class StorageError(RuntimeError):
    """A place cannot be reached or written to."""


def _persistent(method: F) -> F:
    """Networks fail now and then; folders of this machine do not."""

    @functools.wraps(method)
    def call(self: "Storage", *args: Any) -> Any:
        for pause in () if self.is_local else PAUSES:
            try:
                return method(self, *args)
            except FileNotFoundError:
                raise
            except Exception:  # each library has errors of its own
                time.sleep(pause)
        try:
            return method(self, *args)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise StorageError(f"Storage {self.url}: {type(error).__name__}: {error}") from error

    return call  # type: ignore[return-value]


class Storage:
    """
    Files below one place. A file appears whole or not at all: local ones are renamed when they are complete, object
    stores work like that anyway.

    :param url: a path, or the address of an object store that fsspec understands
    :raises StorageError: if the address is of an unknown kind
    """

    def __init__(self, url: str):
        self.url = url
        try:
            self.fs, self.root = fsspec.core.url_to_fs(url)
        except (ValueError, ImportError) as error:
            raise StorageError(f"Storage {url}: {error}.") from None
        self.root = self.root.rstrip("/")

    @property
    def is_local(self) -> bool:
        """Whether it is a folder that this machine sees."""
        return isinstance(self.fs, LocalFileSystem)

    def check(self, seconds: float = SECONDS_TO_ANSWER) -> None:
        """
        Write, read and remove a small file.

        :param seconds: how long that may take
        :raises StorageError: if it fails, or takes longer
        """
        problem: list[str] = [f"no answer within {seconds:.0f} seconds"]

        def attempt() -> None:
            name, content = f".probe-{os.getpid()}", os.urandom(8)
            try:
                self._write(name, content)
                if self.fs.cat_file(self._path(name)) != content:
                    raise OSError("what was written is not what can be read")
                self.fs.rm(self._path(name))
                problem.clear()
            except Exception as error:  # of whatever library is behind the address
                problem[:] = [f"{type(error).__name__}: {error}"]

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(seconds)
        if problem:
            raise StorageError(f"Storage {self.url} cannot be used: {problem[0]}.")

    @_persistent
    def exists(self, name: str) -> bool:
        self.fs.invalidate_cache()
        return bool(self.fs.exists(self._path(name)))

    @_persistent
    def files(self, name: str = "") -> list[str]:
        """Files below ``name``, as names below the place."""
        self.fs.invalidate_cache()
        found = self.fs.find(self._path(name) if name else self.root)
        return sorted(os.path.relpath(path, self.root).replace(os.sep, "/") for path in found)

    @_persistent
    def read_json(self, name: str) -> Any:
        """What is in a file; None if there is none."""
        try:
            return json.loads(self.fs.cat_file(self._path(name)))
        except FileNotFoundError:
            return None

    @_persistent
    def write_json(self, name: str, content: Any) -> None:
        self._write(name, json.dumps(content, indent=1).encode())

    @_persistent
    def put(self, local: Path, name: str) -> None:
        """
        :raises FileNotFoundError: if there is no such local file (any more)
        """
        path = self._path(name)
        if not self.is_local:
            self.fs.put_file(str(local), path)
            return
        temporary = self._temporary(path)
        self.fs.put_file(str(local), temporary)
        os.replace(temporary, path)

    @_persistent
    def get(self, name: str, local: Path) -> None:
        local.parent.mkdir(parents=True, exist_ok=True)
        self.fs.get_file(self._path(name), str(local))

    @_persistent
    def remove(self, name: str) -> None:
        """A file, or everything below a name; nothing happens if it is not there."""
        self.fs.invalidate_cache()
        for path in self.fs.find(self._path(name)):  # ``rm`` would take brackets in names for patterns
            self.fs.rm_file(path)
        if self.is_local:
            shutil.rmtree(self._path(name), ignore_errors=True)

    def _write(self, name: str, content: bytes) -> None:
        path = self._path(name)
        if not self.is_local:
            self.fs.pipe_file(path, content)
            return
        temporary = self._temporary(path)
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _temporary(self, path: str) -> str:
        folder, name = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        return f"{folder}/.writing-{name}-{os.getpid()}"
