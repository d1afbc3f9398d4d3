"""The cache of engines: what fits, what is named and why not, and that nothing but whole engines is ever found.

No TensorRT is needed: a build here is a few bytes. Processes, kills, locks and full disks are real.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

from stfm_ros.errors import EngineError
from stfm_ros.runtimes.engine_cache import Built, EngineCache, EngineKey, default_folder

DATA = bytes(range(256)) * 256  #: an engine of 64 KiB
KEY = EngineKey(
    "medium-0.1", "pair", "ab" * 32, "fp16", "3x480x640", "tensorrt", "10.3.0", "Orin (nvgpu)", "sm87", "Linux aarch64",
    "strongly typed",
)  # fmt: skip

#: what a process of its own begins with
PRELUDE = f"""
import logging, os, sys, time
from pathlib import Path
from stfm_ros.runtimes import engine_cache
from stfm_ros.runtimes.engine_cache import Built, EngineCache, EngineKey
logging.basicConfig(level=logging.INFO, format="%(message)s")
folder = Path(sys.argv[1])
cache, key, data = EngineCache(folder), {KEY!r}, bytes(range(256)) * 256
def say(word):
    print(word, flush=True)
"""


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def build() -> Built:
    return Built(DATA, {"layers": 7, "workspace_mib": 512})


def not_built() -> Built:
    raise AssertionError("nothing was to be built")


def process(script: str, folder: Path) -> subprocess.Popen[str]:
    """Another process that uses the cache in ``folder``."""
    code = PRELUDE + textwrap.dedent(script)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for(word: str, other: subprocess.Popen[str]) -> None:
    assert other.stdout is not None
    line = other.stdout.readline().strip()
    assert line == word, (line, other.communicate()[1])


def names(folder: Path) -> set[str]:
    """Suffixes of what is in the folder, but for the lock."""
    return {path.suffix for path in folder.iterdir() if path.name != "build.lock"}


def test_an_engine_is_built_once_and_found_again(cache: EngineCache) -> None:
    assert cache.find(KEY).reason == f"there is no engine of the pair graph of model medium-0.1 in {cache.folder}"
    first = cache.obtain(KEY, build)
    assert not first.reused and first.path.read_bytes() == DATA
    again = EngineCache(cache.folder).obtain(KEY, not_built)
    assert again.reused and dataclasses.replace(again, reused=False) == first
    assert names(cache.folder) == {".engine", ".json"}
    replaced = cache.obtain(KEY, lambda: Built(DATA[::-1], {}), rebuild=True)
    assert replaced.path == first.path and cache.obtain(KEY, not_built).sha256 == replaced.sha256 != first.sha256


def test_the_sidecar_says_what_the_engine_is(cache: EngineCache) -> None:
    engine = cache.obtain(KEY, build)
    assert engine.path.name.startswith("medium_0.1-pair-fp16-tensorrt-sm87-")
    record = json.loads(engine.path.with_suffix(".json").read_text())
    assert record["key"] == dataclasses.asdict(KEY)
    assert record["bytes"] == len(DATA) and record["facts"] == {"layers": 7, "workspace_mib": 512}
    assert len(record["sha256"]) == 64 and record["build_s"] >= 0 and record["built"].endswith("+00:00")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "10.13.2"}, "was built with tensorrt 10.3.0, here is 10.13.2"),
        ({"flavour": "tensorrt_rtx"}, "was built with tensorrt, here is tensorrt_rtx"),
        ({"gpu": "Thor"}, "was built on the GPU 'Orin (nvgpu)', here is 'Thor'"),
        ({"compute_capability": "sm89"}, "was built for sm87, sm89 is needed"),
        ({"platform": "Linux x86_64"}, "was built on Linux aarch64, here is Linux x86_64"),
        ({"graph_hash": "cd" * 32}, "was built of a graph with SHA-256 abababababab, the model's has cdcdcdcdcdcd"),
        ({"precision": "fp32"}, "was built in fp16, fp32 is needed"),
        ({"shape": "4x480x640"}, "was built for images of 3x480x640, the model takes 4x480x640"),
        ({"flags": "none"}, "was built with the flags 'strongly typed', here they are 'none'"),
        (
            {"gpu": "Thor", "compute_capability": "sm110"},
            "was built on the GPU 'Orin (nvgpu)', here is 'Thor'; was built for sm87, sm110 is needed",
        ),
    ],
)
def test_a_stale_or_foreign_engine_is_named_and_left_alone(
    cache: EngineCache, caplog: pytest.LogCaptureFixture, change: dict[str, str], words: str
) -> None:
    old = cache.obtain(KEY, build)
    key = dataclasses.replace(KEY, **change)
    found = cache.find(key)
    assert found.engine is None and found.reason == f"{old.path} does not fit: it {words.replace('; was', '; it was')}"
    with caplog.at_level(logging.INFO):
        new = cache.obtain(key, lambda: Built(DATA[::-1], {}))
    assert found.reason in caplog.text and "building the pair engine of model medium-0.1" in caplog.text
    assert new.path != old.path and cache.obtain(KEY, not_built) == dataclasses.replace(old, reused=True)


def test_of_many_the_nearest_is_named(cache: EngineCache) -> None:
    cache.obtain(dataclasses.replace(KEY, version="8.6.1", gpu="Xavier", compute_capability="sm72"), build)
    near = cache.obtain(dataclasses.replace(KEY, version="10.2.0"), build)
    cache.obtain(dataclasses.replace(KEY, graph="features"), build)
    assert cache.find(KEY).reason == f"{near.path} does not fit: it was built with tensorrt 10.2.0, here is 10.3.0"
    other = dataclasses.replace(KEY, model="small")
    assert "there is no engine of the pair graph of model small" in cache.find(other).reason


def test_a_damaged_engine_is_named_and_built_again(cache: EngineCache, caplog: pytest.LogCaptureFixture) -> None:
    path = cache.obtain(KEY, build).path
    sidecar = path.with_suffix(".json")

    def damaged(words: str) -> None:
        found = cache.find(KEY)
        assert found.engine is None
        assert words in found.reason and str(cache.folder) in found.reason
        engine = cache.obtain(KEY, build)
        assert words in caplog.text and not engine.reused
        assert cache.obtain(KEY, not_built).path.read_bytes() == DATA

    path.write_bytes(DATA[:1000])
    damaged(f"is damaged: it has 1000 bytes, {sidecar.name} says 65536")
    path.write_bytes(DATA[:-1] + b"!")
    damaged("is damaged: it has SHA-256")
    sidecar.unlink()
    damaged(f"has no {sidecar.name} beside it: its writing was interrupted")
    sidecar.write_text(sidecar_text := '{"key": {}}')
    damaged(f"cannot be trusted: {sidecar.name} cannot be read")
    assert sidecar.read_text() != sidecar_text
    record = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps(record | {"key": record["key"] | {"version": "8.6.1"}}))
    damaged("is not what its name says: it was built with tensorrt 8.6.1, here is 10.3.0")
    path.unlink()
    damaged("is there, but the engine beside it is not")


def test_two_processes_build_once(tmp_path: Path) -> None:
    script = """
        def build():
            say("building")
            time.sleep(2)
            return Built(data, {})
        engine = cache.obtain(key, build)
        say("reused" if engine.reused else "built")
    """
    first = process(script, tmp_path)
    wait_for("building", first)
    second = process(script, tmp_path)
    out, said = second.communicate(timeout=60)
    assert out == "reused\n", said
    assert f"another process builds an engine in {tmp_path}: waiting" in said and "was built by another process" in said
    assert first.communicate(timeout=60)[0] == "built\n"
    assert names(tmp_path) == {".engine", ".json"}


def nowhere(tmp_path: Path) -> list[Path]:
    """Folders that cannot be written to, by root neither."""
    (tmp_path / "file").write_text("not a folder")
    return [tmp_path / "file", tmp_path / "file" / "engines", Path("/proc/engines")]


def test_a_folder_that_cannot_be_written_to_is_an_error_before_the_build(tmp_path: Path) -> None:
    folders = nowhere(tmp_path)
    if os.getuid():
        folders.append(tmp_path / "read_only")
        folders[-1].mkdir(mode=0o500)
    for folder in folders:
        with pytest.raises(EngineError, match=r"engines cannot be kept in .*; let this user write there, or name") as e:
            EngineCache(folder).obtain(KEY, not_built)
        assert str(folder) in str(e.value) and "matcher.engines (--cache)" in str(e.value)


def test_a_read_only_folder_serves_the_engines_that_it_has(cache: EngineCache) -> None:
    engine = cache.obtain(KEY, build)
    cache.folder.chmod(0o500)  # root may write nevertheless, but does not
    before = sorted(path.stat().st_mtime_ns for path in cache.folder.iterdir())
    assert cache.obtain(KEY, not_built).path == engine.path
    assert sorted(path.stat().st_mtime_ns for path in cache.folder.iterdir()) == before
    cache.folder.chmod(0o700)


FULL = """
    try:
        cache.obtain(key, lambda: Built(data, {}))
    except engine_cache.EngineError as fault:
        say(fault)
"""


def check_full(said: str, folder: Path) -> None:
    assert "(0.1 MiB) cannot be written: " in said, said
    assert "MiB are free there: make room, or name another folder with matcher.engines (--cache)" in said
    assert not names(folder)


def test_no_half_file_is_left_where_a_file_cannot_grow(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
    said = process(limit + textwrap.dedent(FULL), tmp_path).communicate(timeout=60)
    check_full(said[0], tmp_path)
    assert "File too large" in said[0]
    assert not EngineCache(tmp_path).obtain(KEY, build).reused


def test_no_half_file_is_left_on_a_full_disk(tmp_path: Path) -> None:
    code = PRELUDE + textwrap.dedent(FULL) + 'say(sorted(p.name for p in folder.iterdir() if p.name != "build.lock"))'
    mount = f'mount -t tmpfs -o size=40k none {tmp_path} && exec "$@"'
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("a small disk of its own cannot be mounted here (unshare -rm)")
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    said, left = done.stdout.splitlines() or ("", done.stderr)
    check_full(said, tmp_path)
    assert "No space left on device" in said and left == "[]"


@pytest.mark.parametrize(
    ("hang", "left", "reason"),
    [
        ("building", set(), "there is no engine of the pair graph"),
        ("writing", {".part"}, "there is no engine of the pair graph"),
        ("between", {".engine", ".part"}, "its writing was interrupted"),
    ],
)
def test_a_build_that_is_killed_leaves_nothing_that_is_taken_for_an_engine(
    tmp_path: Path, hang: str, left: set[str], reason: str
) -> None:
    script = f"""
        hang, synced = {hang!r}, []
        def build():
            if hang == "building":
                say("there")
                time.sleep(60)
            return Built(data, {{}})
        def fsync(file):  # after the bytes are written, before the rename
            synced.append(file)
            if (hang, len(synced)) in (("writing", 1), ("between", 2)):
                say("there")
                time.sleep(60)
        os.fsync = fsync
        cache.obtain(key, build)
    """
    other = process(script, tmp_path)
    wait_for("there", other)
    other.send_signal(signal.SIGKILL)
    other.communicate(timeout=60)
    cache = EngineCache(tmp_path)
    assert names(tmp_path) == left
    found = cache.find(KEY)
    assert found.engine is None and reason in found.reason
    began = time.monotonic()
    assert not cache.obtain(KEY, build).reused
    assert time.monotonic() - began < 10  # the lock went with the process
    assert names(tmp_path) == {".engine", ".json"}
    assert cache.obtain(KEY, not_built).path.read_bytes() == DATA


def test_an_interrupted_build_leaves_nothing(cache: EngineCache) -> None:
    def interrupted() -> Built:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.obtain(KEY, interrupted)
    assert not names(cache.folder)


def test_other_files_in_the_folder_do_no_harm(cache: EngineCache) -> None:
    cache.folder.mkdir()
    (cache.folder / "notes.json").write_text("[1, 2]")
    (cache.folder / "broken.json").write_bytes(b"\xff\xfe{")
    (cache.folder / "old.engine").write_bytes(b"an engine of another program")
    assert "there is no engine" in cache.find(KEY).reason
    assert not cache.obtain(KEY, build).reused
    assert len(list(cache.folder.iterdir())) == 6


def test_the_default_folder_is_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == EngineCache("").folder == tmp_path / "stfm_ros" / "engines"
    monkeypatch.setenv("XDG_CACHE_HOME", "not/absolute")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "stfm_ros" / "engines"
    assert EngineCache("~/here").folder == tmp_path / "here"


def test_a_key_is_its_fields() -> None:
    def changed(name: str) -> Any:
        return dataclasses.replace(KEY, **{name: getattr(KEY, name) + "x"})

    stems = {changed(item.name).stem for item in dataclasses.fields(KEY)} | {KEY.stem}
    assert len(stems) == len(dataclasses.fields(KEY)) + 1
    assert "/" not in dataclasses.replace(KEY, model="../a b").stem
