"""TensorRT engines on disk: found by all that they depend on, written whole or not at all.

An engine fits one graph, one TensorRT and one kind of GPU. All of that is its key; a hash of the key is in its name,
and the key itself in the sidecar beside it:

<folder>/<model>-<graph>-<precision>-<flavour>-<sm..>-<hash>.engine
<folder>/<the same>.json   the key, size and SHA-256 of the engine, when and how it was built
<folder>/build.lock        held while an engine is built: one build a folder at a time

The engine is renamed into its place first and the sidecar last, so an engine without a fitting sidecar is one whose
writing was interrupted. Engines that no longer fit are named and left where they are.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stfm_ros.errors import EngineError
from stfm_ros.runtimes.store import sha256

log = logging.getLogger(__name__)

#: between two looks at a lock that another process holds, and between two lines about it, s
LOCK_POLL_S, LOCK_SAY_S = 0.2, 15.0

ENGINE, SIDECAR, PART = ".engine", ".json", ".part"


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on.

    Attributes:
        model, graph: name of the model, and which of its graphs.
        graph_hash: SHA-256 of the graph's file.
        precision, shape: of the graph, e.g. fp16 and 3x480x640.
        flavour, version: tensorrt or tensorrt_rtx, and its version.
        gpu: name of the GPU whose kernels were timed; empty where any of the compute capability will do.
        compute_capability: e.g. sm87.
        platform: operating system and processor.
        flags: of the builder.
    """

    model: str
    graph: str
    graph_hash: str
    precision: str
    shape: str
    flavour: str
    version: str
    gpu: str
    compute_capability: str
    platform: str
    flags: str

    @property
    def stem(self) -> str:
        """Of the file names."""
        digest = hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:12]
        words = (self.model, self.graph, self.precision, self.flavour, self.compute_capability)
        safe = ("".join(c if c.isalnum() or c in "._" else "_" for c in word) for word in words)
        return "-".join((*safe, digest))

    @property
    def title(self) -> str:
        """What is built, for messages."""
        return (
            f"the {self.graph} engine of model {self.model} in {self.precision} for {self.flavour} {self.version} on "
            f"{' '.join(filter(None, (self.gpu, self.compute_capability)))}"
        )

    def differences(self, built: EngineKey) -> dict[str, str]:
        """What of an engine that was ``built`` is not as asked for here: by field, in words."""
        names = [item.name for item in fields(self) if getattr(self, item.name) != getattr(built, item.name)]
        implied = {_IMPLIED[name] for name in names if name in _IMPLIED}
        return {name: _DIFFERENCE[name].format(built=built, here=self) for name in names if name not in implied}


#: fields of the key by another that they come with
_IMPLIED = {"precision": "graph_hash", "compute_capability": "flags"}
#: by field of the key
_DIFFERENCE = {
    "model": "it was built of model {built.model}, here is {here.model}",
    "graph": "it was built of graph {built.graph}, here is {here.graph}",
    "graph_hash": "it was built of a graph with SHA-256 {built.graph_hash:.12}, the model's has {here.graph_hash:.12}",
    "precision": "it was built in {built.precision}, {here.precision} is needed",
    "shape": "it was built for images of {built.shape}, the model takes {here.shape}",
    "flavour": "it was built with {built.flavour}, here is {here.flavour}",
    "version": "it was built with {built.flavour} {built.version}, here is {here.version}",
    "gpu": "it was built on the GPU {built.gpu!r}, here is {here.gpu!r}",
    "compute_capability": "it was built for {built.compute_capability}, {here.compute_capability} is needed",
    "platform": "it was built on {built.platform}, here is {here.platform}",
    "flags": "it was built with the flags {built.flags!r}, here they are {here.flags!r}",
}


@dataclass(frozen=True)
class Engine:
    """An engine of the cache, and what its sidecar says of it."""

    path: Path
    key: EngineKey
    bytes: int
    sha256: str
    build_s: float
    built: str  #: ISO 8601, UTC
    facts: Mapping[str, Any]  #: of the build: layers, workspace, ...
    reused: bool = True  #: whether it was there already


@dataclass(frozen=True)
class Found:
    """What a look for an engine found: the engine that fits, or ``None`` and why there is none, in words.

    ``level`` is of the line in the log: an engine that is stale or damaged is worth a warning.
    """

    engine: Engine | None
    reason: str
    level: int = logging.WARNING


@dataclass(frozen=True)
class Built:
    """What a builder gives."""

    data: Any  #: of the buffer protocol
    facts: Mapping[str, Any]


class EngineCache:
    """A folder of engines.

    Args:
        folder: made when the first engine is built; the user's cache folder where it is empty.
    """

    def __init__(self, folder: Path | str = "") -> None:
        self.folder = Path(folder).expanduser().absolute() if str(folder) else default_folder()

    def find(self, key: EngineKey) -> Found:
        """The engine of this key, or why none can be used: each engine is checked against its sidecar."""
        engine, sidecar = self._path(key, ENGINE), self._path(key, SIDECAR)
        if not engine.is_file() and not sidecar.is_file():
            return self._nearest(key)
        if not engine.is_file():
            return Found(None, f"{sidecar} is there, but the engine beside it is not")
        if not sidecar.is_file():
            return Found(None, f"{engine} has no {sidecar.name} beside it: its writing was interrupted")
        try:
            found = _read_sidecar(sidecar)
        except ValueError as fault:
            return Found(None, f"{engine} cannot be trusted: {fault}")
        size = engine.stat().st_size
        if size != found.bytes:
            return Found(None, f"{engine} is damaged: it has {size} bytes, {sidecar.name} says {found.bytes}")
        digest = sha256(engine)
        if digest != found.sha256:
            return Found(
                None, f"{engine} is damaged: it has SHA-256 {digest:.12}, {sidecar.name} says {found.sha256:.12}"
            )
        if found.key != key:
            return Found(None, f"{engine} is not what its name says: {'; '.join(key.differences(found.key).values())}")
        return Found(found, f"{engine} fits")

    def obtain(self, key: EngineKey, build: Callable[[], Built], rebuild: bool = False) -> Engine:
        """The engine of this key, built where none fits.

        Args:
            build: makes the engine; an error or interruption of it leaves nothing behind.
            rebuild: build even where one fits.

        Raises:
            EngineError: the folder cannot be written to, which is found out before anything is built; or the disk is
                full.
        """
        found = self.find(key)
        if found.engine and not rebuild:
            return found.engine
        self.check_writable()
        with self._lock() as waited:
            if waited:
                found = self.find(key)
                if found.engine:
                    log.info("%s was built by another process: %s", key.title, found.engine.path)
                    return found.engine
            for part in self.folder.glob(f"*{PART}"):  # of builds that were killed: the lock says that none is running
                part.unlink(missing_ok=True)
            log.log(found.level, "%s; building %s", found.reason, key.title)
            began = time.monotonic()
            built = build()
            return self._store(key, built, time.monotonic() - began)

    def write(self, name: str, data: Any) -> None:
        """Write a file of the folder, whole or not at all.

        Raises:
            EngineError: it cannot be written.
        """
        path = self.folder / name
        part = self.folder / f"{name}.{os.getpid()}{PART}"
        size = memoryview(data).nbytes
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # robots lose power
            os.replace(part, path)
        except OSError as fault:
            raise EngineError(
                f"{path} ({_mib(size)}) cannot be written: {fault.strerror}; {self._free()} are free there: make room, "
                "or name another folder with matcher.engines (--cache)"
            ) from fault
        finally:
            with contextlib.suppress(OSError):  # gone where it was renamed
                part.unlink(missing_ok=True)

    def check_writable(self) -> None:
        """Make the folder and write a file into it.

        Raises:
            EngineError: that is not possible.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder) as file:
                file.write(b"?")
        except OSError as fault:
            raise EngineError(
                f"engines cannot be kept in {self.folder}: {fault.strerror}; let this user write there, or name "
                "another folder with matcher.engines (--cache)"
            ) from fault

    def _store(self, key: EngineKey, built: Built, build_s: float) -> Engine:
        path, data = self._path(key, ENGINE), memoryview(built.data)
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        digest = hashlib.sha256(data).hexdigest()
        engine = Engine(path, key, data.nbytes, digest, round(build_s, 2), now, dict(built.facts), reused=False)
        record = {
            item.name: getattr(engine, item.name) for item in fields(Engine) if item.name not in ("path", "reused")
        }
        self.write(path.name, data)
        self.write(self._path(key, SIDECAR).name, json.dumps(record | {"key": asdict(key)}, indent=2).encode() + b"\n")
        return engine

    def _nearest(self, key: EngineKey) -> Found:
        """Why nothing fits: what is different about the engine of the same graph that differs least."""
        others = []
        for sidecar in sorted(self.folder.glob(f"*{SIDECAR}")):
            with contextlib.suppress(ValueError):  # something else that lies in the folder
                other = _read_sidecar(sidecar)
                if (other.key.model, other.key.graph) == (key.model, key.graph):
                    others.append(other)
        if not others:
            reason = f"there is no engine of the {key.graph} graph of model {key.model} in {self.folder}"
            return Found(None, reason, logging.INFO)
        nearest = min(reversed(others), key=lambda other: len(key.differences(other.key)))
        differences = key.differences(nearest.key)
        other_purpose = differences.keys() <= {"precision", "compute_capability"}  # and as good for that as ever
        reason = f"{nearest.path} does not fit: {'; '.join(differences.values())}"
        return Found(None, reason, logging.INFO if other_purpose else logging.WARNING)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[bool]:
        """Held by one process at a time, and set free by its end, however it ends; whether another one had it."""
        path = self.folder / "build.lock"
        with path.open("ab") as file:
            began, said, waited = time.monotonic(), -LOCK_SAY_S, False
            while not _try_lock(file.fileno()):
                passed = time.monotonic() - began
                if passed - said >= LOCK_SAY_S:
                    log.warning("another process builds an engine in %s: waiting (%.0f s)", self.folder, passed)
                    said = passed
                waited = True
                time.sleep(LOCK_POLL_S)
            yield waited

    def _path(self, key: EngineKey, suffix: str) -> Path:
        return self.folder / f"{key.stem}{suffix}"

    def _free(self) -> str:
        try:
            return _mib(shutil.disk_usage(self.folder).free)
        except OSError:
            return "an unknown number of MiB"


def default_folder() -> Path:
    """``stfm_ros/engines`` in the user's cache folder (XDG base directories)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "stfm_ros" / "engines"


def _read_sidecar(path: Path) -> Engine:
    """Raises ValueError, saying that the file is no sidecar."""
    try:
        record = json.loads(path.read_bytes())
        record["key"] = EngineKey(**record["key"])
        return Engine(path=path.with_suffix(ENGINE), **record)
    except (OSError, ValueError, TypeError, KeyError) as fault:
        raise ValueError(f"{path.name} cannot be read ({fault})") from fault


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
