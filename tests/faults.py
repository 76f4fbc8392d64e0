"""For tests: storage of which one file operation fails.

    survives(work, storage, monkeypatch)

runs `work(storage)` undisturbed, and then once for each kind of fault and each file operation below `storage`.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from advise_ray.storage import retry

FAULTS = ("away", "ENOENT", "EIO", "ESTALE", "done but EIO")
"""`away`: the storage is renamed, and comes back some operations later. An error code: one operation fails with it.
`done but EIO`: one operation is done, and fails nevertheless, as over a network that loses the answer."""
AWAY_OPERATIONS = 3
PATCHED = ("stat", "open", "mkdir", "rename", "replace", "unlink", "rmdir", "listdir", "scandir", "truncate", "fsync")
Same = Callable[[dict[str, bytes]], dict[str, bytes]]
OF_FILES = ("write", "read", "flush", "truncate", "close")


class Storage:
    """Counts the file operations below a folder. The operation with number `at`, from 0, gets the fault."""

    def __init__(self, root: Path, at: int = -1, fault: str = "away") -> None:
        self.root, self.away = root, root.with_name("away")
        self.at, self.fault = at, fault
        self.operations: list[str] = []

    @contextlib.contextmanager
    def faulty(self) -> Iterator[None]:
        real = {name: getattr(os, name) for name in PATCHED}
        self.rename = real["rename"]
        with pytest.MonkeyPatch.context() as patch:
            for name, function in {**real, "fsync": lambda _: None}.items():  # a real one takes long
                patch.setattr(os, name, self._counting(name, function))
            opened = self._counting("open file", io.open)
            for module in (io, builtins):
                patch.setattr(module, "open", lambda *args, **how: self._file(opened(*args, **how), args[0]))
            try:
                yield
            finally:
                self._come_back()

    def _counting(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **how: Any) -> Any:
            path = self._path(*args, **how)
            if not path or not f"{path}/".startswith((f"{self.root}/", f"{self.away}/")):
                return function(*args, **how)
            return self._operate(f"{name} {path}", lambda: function(*args, **how))

        return counted

    def _operate(self, operation: str, do: Callable[[], Any]) -> Any:
        number = len(self.operations)
        self.operations.append(operation)
        if number == self.at + AWAY_OPERATIONS:
            self._come_back()
        if number != self.at:
            return do()
        if self.fault == "away":
            if self.root.exists():
                self.rename(self.root, self.away)
            return do()
        # A file that cannot be unlinked because it is not there was unlinked by another client. `rmtree` relies on it.
        is_gone = self.fault == "ENOENT" and operation.startswith("unlink ")
        result = do() if self.fault == "done but EIO" or is_gone else None
        if isinstance(result, int) and operation.startswith("open "):
            os.close(result)
        code = getattr(errno, self.fault.split()[-1])
        raise OSError(code, os.strerror(code), operation)

    def _come_back(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.rename(self.away, self.root)

    def _path(self, path: Any = ".", *_: Any, dir_fd: int | None = None, src_dir_fd: Any = None, **__: Any) -> str:
        if isinstance(path, int):
            with contextlib.suppress(OSError):
                return str(Path(f"/proc/self/fd/{path}").readlink())
            return ""
        name = os.fspath(path)
        name = name.decode() if isinstance(name, bytes) else name
        return os.path.join(self._path(dir_fd), name) if dir_fd is not None else os.path.abspath(name)  # noqa: PTH100, PTH118

    def _file(self, file: Any, path: Any) -> Any:
        if isinstance(path, int) or not str(path).startswith(f"{self.root}/"):
            return file
        return _File(file, self, str(path))


class _File:
    def __init__(self, file: Any, storage: Storage, path: str) -> None:
        self.file, self.storage, self.path = file, storage, path

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.file, name)
        if name not in OF_FILES:
            return found
        return lambda *args: self.storage._operate(f"{name} {self.path}", lambda: found(*args))

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.close()
        finally:
            self.file.close()


def survives(
    work: Callable[[Path], Any],
    storage: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    every: int = 1,
    same: Same = dict,
) -> list[str]:
    """Assert that `work` gives the same result and the same files with any fault. Returns its file operations.

    Args:
        work: gets the folder `storage`, which is new each time.
        every: 1: disturb each operation, 3: each third one.
        same: maps the files (name → content) to what must be the same each time.
    """
    monkeypatch.setattr(retry, "PAUSE_S", 0.0)
    undisturbed = Storage(storage)
    expected = _done(work, undisturbed, same)
    assert not [path for path in storage.rglob("*") if path.suffix in (".partial", ".old")]
    problems = []
    for fault in FAULTS:
        for at in range(0, len(undisturbed.operations), every):
            where = f"{fault} at {at}, {undisturbed.operations[at]}"
            try:
                found = _done(work, Storage(storage, at, fault), same)
            except Exception as error:
                problems.append(f"{where}: {type(error).__name__}: {error}")
                continue
            differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
            problems += [f"{where}: {name}: {found.get(name)}, not {expected.get(name)}" for name in differing]
    assert not problems, "\n".join(problems)
    return undisturbed.operations


def _done(work: Callable[[Path], Any], storage: Storage, same: Same) -> dict[str, Any]:
    """The result of `work`, and each file that it leaves."""
    shutil.rmtree(storage.root, ignore_errors=True)
    storage.root.mkdir(parents=True)
    with storage.faulty():
        result = work(storage.root)
    paths = {str(path.relative_to(storage.root)): path for path in sorted(storage.root.rglob("*"))}
    return {"the result": result} | same({name: path.read_bytes() for name, path in paths.items() if path.is_file()})
