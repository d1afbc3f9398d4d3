"""A folder that a robot takes its weights from by a name that stays: ``matcher.model: FOLDER/current``.

FOLDER/office-1a2b3c4d5e6f/   an export, whole or not there; named by model and weights
FOLDER/current                a link to the one that is used, turned in one step: there is no moment without weights
FOLDER/previous               a link to the one that was used before, to go back to

Nothing is ever deleted from it.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stfm_ros.errors import ConfigError, WeightsError
from stfm_ros.runtimes.store import SPEC, Model, find_model

CURRENT, PREVIOUS = "current", "previous"


@dataclass(frozen=True)
class Installed:
    """What was done.

    Attributes:
        model: what to set ``matcher.model`` to: the link.
        folder: what it leads to.
        previous: the folder that it led to before; None where there was none.
    """

    model: Path
    folder: Path
    previous: Path | None

    @property
    def way_back(self) -> str:
        """What to do where the new weights disappoint."""
        if self.previous is None:
            return "set matcher.model to what it was"
        return f"ln -sfn {self.previous.name} {self.model}"


def installed(folder: Path, link: str = CURRENT) -> Model | None:
    """The weights that are used, or that were before (:data:`PREVIOUS`); None where there are none yet.

    Raises:
        WeightsError: the link leads to no export.
        ConfigError: something else has that name.
    """
    path = folder / link
    if path.is_symlink():
        if not (path / SPEC).is_file():
            raise WeightsError(f"{path} leads to {os.readlink(path)}, which is no export: delete the link, or mend it")
        return find_model(str(path))
    if path.exists():
        raise ConfigError(f"{path} is there and is no link to an export: name another folder for the weights")
    return None


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot take weights, before hours of work; it is not made yet.

    Raises:
        ConfigError: it cannot be written, cannot hold links, or something else has the name of a link.
        WeightsError: what is installed there is no export.
    """
    installed(folder)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".check-") as temporary:
            os.symlink("nowhere", Path(temporary) / "link")
    except OSError as fault:
        raise ConfigError(
            f"weights cannot be installed in {folder} ({fault}): name a folder that you may write to, on a file system "
            "with symbolic links"
        ) from fault


def install(export: Path, folder: Path, beside: Sequence[Path] = ()) -> Installed:
    """Copy an export into a folder of weights and make it the one that is used.

    It is copied under a temporary name, every file is checked against the export's own SHA-256, then it is renamed, and
    the link is turned last: whenever this is interrupted, the old weights are used, or the new ones are, whole.

    Args:
        export: a folder of ``stfm export``.
        folder: made if missing.
        beside: further files to go along, e.g. the model card.

    Raises:
        WeightsError: the export is not whole.
        ConfigError: the folder cannot be written; the weights that were used still are.
    """
    model = find_model(str(export))
    if model.spec is None:
        raise WeightsError(f"{export} is no exported folder: export the weights first (stfm export)")
    check_folder(folder)
    before = installed(folder)
    name = f"{re.sub('[^A-Za-z0-9._-]+', '_', model.spec.name).lstrip('.')}-{model.spec.weights_hash}"
    place = folder / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _copy(model, place, beside)
        was = before.path.resolve() if before else None
        if was is not None and was != place.resolve():
            _link(was.name, folder / PREVIOUS)
        _link(name, folder / CURRENT)
    except OSError as fault:
        raise ConfigError(
            f"the weights cannot be installed in {folder} ({fault}); what was used before still is: make room, then "
            "give the same command again"
        ) from fault
    previous = installed(folder, PREVIOUS)
    return Installed(folder.absolute() / CURRENT, place, previous.path.resolve() if previous else None)


def _copy(model: Model, place: Path, beside: Sequence[Path]) -> None:
    """An export of the same weights that is there already is replaced: it may be of another size or precision."""
    assert model.spec is not None
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".new-") as temporary:
        copy = Path(temporary) / place.name
        copy.mkdir()
        for file in (*(model.path / name for name in (*model.spec.files, SPEC)), *beside):
            shutil.copyfile(file, copy / file.name)
        copied = find_model(str(copy))
        for name in model.spec.files:
            copied.file(name)
        if place.exists():
            os.replace(place, Path(temporary) / "old")
        os.replace(copy, place)


def _link(target: str, link: Path) -> None:
    """Turned in one step."""
    with tempfile.TemporaryDirectory(dir=link.parent, prefix=".link-") as temporary:
        new = Path(temporary) / link.name
        os.symlink(target, new)
        os.replace(new, link)
