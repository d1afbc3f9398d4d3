"""The sources that the mix of a config names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from stfm_ros.rgbd import RgbdFolder
from stfm_training.config import SourceConfig, TrainingConfig
from stfm_training.recordings import Recording, prepare
from stfm_training.recordings.recording import RECORD
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Source
from stfm_training.sources.recorded import Recorded
from stfm_training.sources.rendered import Rendered

Mix = list[tuple[Source, float]]
Progress = Callable[[str, int, int], None]


class Opened:
    """A config's data, read: what is trained on, what is held out, and the recordings behind.

    Attributes:
        train, held_out: sources and weights; a source without anything held out is missing from the latter.
        recordings: bags that were prepared, by the path in the config.
    """

    def __init__(self, config: TrainingConfig, progress: Progress = lambda stage, done, total: None) -> None:
        self.root = Path(config.data.root)
        self.cache = Path(config.data.cache)
        self.progress = progress
        self.train: Mix = []
        self.held_out: Mix = []
        self.recordings: dict[str, Recording] = {}
        self._photos: dict[tuple[str, bool], Homographies] = {}
        for line in config.mix:
            if line.weight > 0:
                for sources, outside in ((self.train, False), (self.held_out, True)):
                    source = self._open(line, outside)
                    if source is not None:
                        sources.append((source, line.weight))

    def _open(self, line: SourceConfig, held_out: bool) -> Source | None:
        if line.source == "homographies":
            return self._photographs(line.path, held_out)
        if line.source == "rendered":
            return Rendered(self._photographs(line.path, held_out).photos if line.path else [])
        path = self.root / line.path
        if path.is_dir() and (path / "poses.txt").is_file():
            return None if held_out else Recorded(RgbdFolder(path), line.precise)
        recording = self._recording(line, path)
        return (
            Recorded(recording, line.precise, held_out=held_out)
            if not held_out or len(recording.held_out.index0)
            else None
        )

    def _photographs(self, path: str, held_out: bool) -> Homographies:
        """Read once, whether as scenes or as textures of others."""
        key = (path, held_out)
        if key not in self._photos:
            self._photos[key] = Homographies(self.root / path, held_out)
        return self._photos[key]

    def _recording(self, line: SourceConfig, path: Path) -> Recording:
        if line.path not in self.recordings:
            if (path / RECORD).is_file():
                self.recordings[line.path] = Recording(path)
            else:
                name = f"{path.stem}-{hashlib.sha256(str((path.resolve(), line.recording)).encode()).hexdigest()[:8]}"
                self.recordings[line.path] = prepare(path, self.cache / name, line.recording, progress=self.progress)
        return self.recordings[line.path]
