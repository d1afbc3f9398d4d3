"""The sources that the mix of a config names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stfm_ros.rgbd import RgbdFolder
from stfm_ros.types import ByteArray
from stfm_training.config import SourceConfig, TrainingConfig
from stfm_training.recordings.config import RecordingConfig
from stfm_training.recordings.prepare import prepare
from stfm_training.recordings.recording import RECORD, Recording
from stfm_training.sources.homographies import Homographies
from stfm_training.sources.pair import Source
from stfm_training.sources.recorded import Recorded
from stfm_training.sources.rendered import Rendered

Mix = list[tuple[Source, float]]
Progress = Callable[[str, int, int], None]


#: images of a bag that are seen as photographs
BAG_PHOTOGRAPHS = 100


def images(recording: Recording, held_out: bool) -> list[ByteArray]:
    """Frames on one side of a recording, spread over time, (H, W, 3) uint8 RGB."""
    frames = np.flatnonzero(recording.held_out_frames == held_out)
    chosen = frames[np.linspace(0, len(frames) - 1, min(BAG_PHOTOGRAPHS, len(frames))).astype(int)]
    return [recording.image(int(i)) for i in chosen]


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
        lines = [line for line in config.mix if line.weight > 0]
        for line in lines:
            if line.source == "recorded" and not self._is_folder(line):  # bags first: other lines use their images
                self._recording(line)
        for line in lines:
            for sources, held_out in ((self.train, False), (self.held_out, True)):
                source = self._open(line, held_out)
                if source is not None:
                    sources.append((source, line.weight))

    def _open(self, line: SourceConfig, held_out: bool) -> Source | None:
        if line.source == "homographies":
            return self._photographs(line.path, held_out)
        if line.source == "rendered":
            photos = self._photographs(line.path, held_out).photos if line.path else []
            return Rendered(photos, device="auto")
        if self._is_folder(line):
            return None if held_out else Recorded(RgbdFolder(self.root / line.path), line.precise)
        recording = self._recording(line)
        if held_out and not len(recording.held_out.index0):
            return None
        return Recorded(recording, line.precise, held_out=held_out)

    def _is_folder(self, line: SourceConfig) -> bool:
        """Whether it is images, depth and poses in files, not a bag."""
        return (self.root / line.path / "poses.txt").is_file()

    def _photographs(self, path: str, held_out: bool) -> Homographies:
        """Read once, whether as scenes or as textures of others; of a bag, some of its images."""
        key = (path, held_out)
        if key not in self._photos:
            recording = self.recordings.get(path)
            self._photos[key] = Homographies(
                self.root / path if recording is None else images(recording, held_out), held_out
            )
        return self._photos[key]

    def _recording(self, line: SourceConfig) -> Recording:
        path = self.root / line.path
        if line.path not in self.recordings:
            prepared = (path / RECORD).is_file()
            self.recordings[line.path] = Recording(path) if prepared else self.prepared(path, line.recording)
        return self.recordings[line.path]

    def prepared(self, bag: Path, config: RecordingConfig) -> Recording:
        """A bag, read now or before; each way of reading it has a folder of its own."""
        name = f"{bag.stem}-{hashlib.sha256(repr((str(bag.resolve()), config)).encode()).hexdigest()[:8]}"
        return prepare(bag, self.cache / name, config, progress=self.progress)
