"""What a model fails at, as a picture for its card: ``python -m stfm_training.failures default --data DATA``.

Each cause of failure that the cards name is drawn ``--pairs`` times, from photographs that training holds out
(``DATA/photos/open``) and from rendered scenes, with exact truth. The picture shows the worst pair of each: the one
with the fewest right matches, so that nobody chooses. Everything follows from the seed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.progress import track

from stfm_ros.config import MatcherConfig
from stfm_ros.matcher import Matcher
from stfm_ros.pairs import Pair, two_way_overlap
from stfm_ros.types import BoolArray, ByteArray, Camera, Float32Array, FloatArray, Matches
from stfm_ros.visualise import BACKGROUND, LINES, TEXT, draw_matches
from stfm_training.degenerate.sequences import NOISE, motion
from stfm_training.evaluation import UNSEEN, TwoViews
from stfm_training.photometric import noisy
from stfm_training.raster import Face, Light, Raster, Rendering
from stfm_training.render import Scene, random_pair_views
from stfm_training.sources.homographies import Homographies
from stfm_training.supervision import SAME_SURFACE, View
from stfm_training.textures import Texture, procedural
from stfm_training.validate import RIGHT_PX
from stfm_training.weather import random_weathers

Generator = np.random.Generator
Drawn = Callable[[Generator, list[ByteArray], Camera], Pair]

TURN_DEG = 90.0, 180.0
ZOOM, TILT_DEG = 2.4, 70.0
BARE_OVERLAP = 0.2, 0.35
BARE_LEVELS = 4.0  #: median contrast of the blocks of a picture half of which is bare
DARK = 40  #: mean level of the darker picture of a night
BLUR = 0.04  #: of the image's width: 25 of 640 pixels

FOCAL = 0.82  #: of the image's width
DAYLIGHT = Light(np.array([0.0, 0.0, -1.0]), ambient=1.0, distant=0.0, near=0.0)

COLUMN, GAP = 584, 8  #: pixels: width of a pair in the picture, and the space round it
FONT, FONT_SIZE, LINE = cv2.FONT_HERSHEY_SIMPLEX, 0.46, 19
MOST_BYTES = 350_000


@dataclass(frozen=True)
class Cause:
    """One cause of failure.

    Attributes:
        title: what is shown; ASCII, as all captions.
        pair: draws a pair from a generator, photographs (H, W, 3) uint8 RGB and a camera.
        search: whether the search over turns and zooms is for this.
    """

    title: str
    pair: Drawn
    search: bool = False


@dataclass(frozen=True, eq=False)
class Look:
    """What a model matches on a pair.

    Attributes:
        right: (n,) which of the matches are.
        searched: the same with the search, (m,); None where there was none.
    """

    pair: Pair
    matches: Matches
    right: BoolArray
    searched: BoolArray | None = None


@dataclass(frozen=True, eq=False)
class Failure:
    """All looks at one cause."""

    cause: Cause
    looks: Sequence[Look]

    @property
    def worst(self) -> Look:
        """That with the fewest right matches; of several the one with the most that are wrong."""
        return min(self.looks, key=lambda look: (int(look.right.sum()), -len(look.right)))

    @property
    def caption(self) -> list[str]:
        """Title, figures of the worst pair, and medians of all."""
        worst, count = self.worst, len(self.looks)
        lines = [_of(worst.right) + " matches right", _median([look.right for look in self.looks])]
        searched = [look.searched for look in self.looks if look.searched is not None]
        if worst.searched is not None:
            lines[0] += f"; with the search {_of(worst.searched)}"
            lines[1] += f"; with the search {_median(searched)}"
        return [self.cause.title, f"Worst of {count}: {lines[0]}", f"Median of {count}: {lines[1]}"]


def right_matches(pair: Pair, matches: Matches) -> BoolArray:
    """(n,) bool: whether each match lies within RIGHT_PX of where the camera's motion takes its point.

    Points without exact depth, or hidden in the other image, have no right match.
    """
    depth0, depth1 = pair.depths
    assert depth0 is not None and depth1 is not None, "pairs drawn here have depth"
    view = View(pair.cameras[0])
    points = matches.keypoints0.astype(np.float64)
    z0 = _at(depth0, points)
    moved = (view.rays(points) * z0[:, None]) @ pair.T_0to1[:3, :3].T + pair.T_0to1[:3, 3]
    known = (z0 > 0) & (moved[:, 2] > 0)
    truth = view.project(np.where(known[:, None], moved, [0, 0, 1.0]))
    z1 = np.where(known, moved[:, 2], 1.0)
    seen = np.abs(_at(depth1, truth) - z1) < SAME_SURFACE * z1
    error = np.linalg.norm(matches.keypoints1 - truth, axis=1)
    return np.asarray(known & seen & (error < RIGHT_PX))


def look_at_pair(matcher: Matcher, pair: Pair, search: bool) -> Look:
    """One look, and the search where it is asked for."""
    images = pair.images
    depth0, depth1 = pair.depths if matcher.takes_depth else (None, None)
    matches = matcher.match(*images, depth0=depth0, depth1=depth1)
    right = right_matches(pair, matches)
    if not search or matcher.takes_depth:
        return Look(pair, matches, right)
    return Look(pair, matches, right, right_matches(pair, matcher.match(*images, search=True)))


def failures(
    matcher: Matcher, photos: list[ByteArray], pairs: int, seed: int, causes: Sequence[Cause] | None = None
) -> Iterator[Failure]:
    """Each of some of CAUSES (all if none are given) in turn, on ``pairs`` pairs at the model's own size."""
    height, width = matcher.height, matcher.width
    focal = FOCAL * width
    camera = Camera(width, height, np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]]))
    console = Console(stderr=True)
    for cause in causes or CAUSES:
        kind = CAUSES.index(cause)
        numbers = track(range(pairs), cause.title, console=console, transient=True, disable=not console.is_terminal)
        drawn = (cause.pair(np.random.default_rng([UNSEEN, seed, kind, k]), photos, camera) for k in numbers)
        yield Failure(cause, [look_at_pair(matcher, pair, cause.search) for pair in drawn])


# -- causes ----------------------------------------------------------------------------------------------------------


def _turned(rng: Generator, photos: list[ByteArray], camera: Camera) -> Pair:
    return _of_wall(rng, photos, camera, motion([0, 0, rng.choice([-1, 1]) * rng.uniform(*TURN_DEG)], _jitter(rng)))


def _zoomed(rng: Generator, photos: list[ByteArray], camera: Camera) -> Pair:
    T = motion([0, 0, rng.normal(0, 3)], _jitter(rng) + [0, 0, 1 - ZOOM])
    return _of_wall(rng, photos, camera, T, swap=rng.random() < 0.5)


def _tilted(rng: Generator, photos: list[ByteArray], camera: Camera) -> Pair:
    """On a circle round the middle of the photograph, a step aside in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    turn = TILT_DEG * np.array([np.cos(angle), np.sin(angle), 0])
    forward = np.asarray(cv2.Rodrigues(np.radians(turn))[0])[:, 2]
    return _of_wall(rng, photos, camera, motion(turn, np.array([0, 0, 1]) - forward), swap=rng.random() < 0.5)


def _repeated(rng: Generator, _: list[ByteArray], camera: Camera) -> Pair:
    """A wall whose pattern repeats exactly, and a step of 0.6 to 1.5 of its period."""
    period = rng.uniform(0.05, 0.14) / FOCAL  # at a distance of 1
    tile = procedural(rng, ("checkers", "bricks", "windows", "patches"), 64)
    R = np.asarray(cv2.Rodrigues(np.radians(rng.uniform(-15, 15, 3)))[0])
    u, v = R @ [6.0, 0, 0], R @ [0, 6.0, 0]
    texels = 6.0 / period * 64
    wall = Face([0, 0, 1] - (u + v) / 2, u, v, tile, np.diag([texels, texels, 1.0]), two_sided=True)
    angle, length = rng.uniform(0, 2 * np.pi), period * rng.uniform(0.6, 1.5)
    step = length * np.array([np.cos(angle), np.sin(angle), 0])
    return _of_raster(rng, Raster([wall]), camera, np.eye(4), motion(rng.normal(0, 0.5, 3), step))


def _bare(rng: Generator, _: list[ByteArray], camera: Camera) -> Pair:
    """Two views of a room without photographs, turned away from each other, with little to see in either."""
    small = Camera(160, 120, np.diag([160 / camera.width, 120 / camera.height, 1.0]) @ camera.K)
    while True:
        scene, views = _room(rng, [], camera, 0.3)
        turn = [0, rng.choice([-1, 1]) * rng.uniform(25, 45), rng.normal(0, 3)]
        T0, T1 = views[0], motion(turn, rng.normal(0, 0.15, 3)) @ views[0]
        overlap = two_way_overlap(scene.depth(small, T0), scene.depth(small, T1), small, T1 @ np.linalg.inv(T0))
        if not scene.is_free(-T1[:3, :3].T @ T1[:3, 3]) or not BARE_OVERLAP[0] <= overlap <= BARE_OVERLAP[1]:
            continue
        if all(_contrast(scene.render(small, T).image) < BARE_LEVELS for T in (T0, T1)):
            return _pair(rng, camera, (T0, T1), [scene.render(camera, T) for T in (T0, T1)])


def _night(rng: Generator, photos: list[ByteArray], camera: Camera) -> Pair:
    """Lamps alone, and the noise of a camera that has too little light; in one view or in both."""
    while True:
        scene, views = _room(rng, photos, camera, 0.3)
        weathers = random_weathers(scene, rng, views, 1.0)
        while not any(weather.grain for weather in weathers):  # no other weather has any
            weathers = random_weathers(scene, rng, views, 1.0)
        seen = [weather.over(scene.render(camera, T, weather.light)) for weather, T in zip(weathers, views)]
        if min(float(one.image.mean()) for one in seen) < DARK:
            dark = [replace(one, image=weather.grainy(one.image, rng)) for one, weather in zip(seen, weathers)]
            return _pair(rng, camera, views, dark)


def _blurred(rng: Generator, photos: list[ByteArray], camera: Camera) -> Pair:
    """The second image is smeared along its rows, as by a camera that pans."""
    scene, views = _room(rng, photos, camera, 0.3)
    first, second = (scene.render(camera, T) for T in views)
    length = 2 * round(BLUR * camera.width / 2) + 1  # odd, so that it moves nothing on average
    return _pair(rng, camera, views, [first, replace(second, image=np.asarray(cv2.blur(second.image, (length, 1))))])


def _moving(rng: Generator, photos: list[ByteArray], camera: Camera) -> Pair:
    """Nine tenths of the image show a wall of photographs that goes its own way; the camera walks through a room."""
    scene, views = _room(rng, photos, camera, 0.2)
    shift = np.array([-1.1 / FOCAL, 0, 0])  # its border is at nine tenths of the image's width
    screen = Raster([_wall(rng, photos, camera, shift)])
    own = motion(rng.normal(0, 1, 3), [0, 0.08 * rng.choice([-1, 1]), rng.normal(0, 0.04)])
    renderings = []
    for T, rival in zip(views, (np.eye(4), own)):
        behind, before = scene.render(camera, T), screen.render(camera, rival, DAYLIGHT)
        nearer = before.depth > 0
        image = np.where(nearer[:, :, None], before.image, behind.image)
        renderings.append(Rendering(image, np.where(nearer, before.depth, behind.depth)))
    return _pair(rng, camera, views, renderings)


CAUSES = (
    Cause(f"Turned by {TURN_DEG[0]:g} to {TURN_DEG[1]:g} degrees, one look", _turned, search=True),
    Cause(f"Zoomed by {ZOOM:g}, one look", _zoomed, search=True),
    Cause(f"Tilted by {TILT_DEG:g} degrees, one look", _tilted, search=True),
    Cause("A pattern that repeats", _repeated),
    Cause(f"Half of it bare or more, overlap {BARE_OVERLAP[0]:g} to {BARE_OVERLAP[1]:g}", _bare),
    Cause(f"Night: one image or both below level {DARK} of 255", _night),
    Cause(f"The second image smeared over {100 * BLUR:g} % of its width", _blurred),
    Cause("Nine tenths move by themselves (right: as the camera moved)", _moving),
)


def _jitter(rng: Generator) -> FloatArray:
    return rng.normal(0, 0.03, 3)


def _wall(rng: Generator, photos: list[ByteArray], camera: Camera, shift: FloatArray) -> Face:
    """Nine photographs side by side at a distance of 1, the one in the middle as large as the image."""
    size = camera.width, camera.height
    chosen = rng.choice(len(photos), 9, replace=len(photos) < 9)
    tiles = [cv2.resize(photos[int(i)], size, interpolation=cv2.INTER_AREA) for i in chosen]
    image = np.asarray(np.vstack([np.hstack(tiles[i : i + 3]) for i in (0, 3, 6)]), np.uint8)
    u = np.array([3 * camera.width / camera.K[0, 0], 0, 0])
    v = np.array([0, 3 * camera.height / camera.K[1, 1], 0])
    to_texel = np.diag([image.shape[1], image.shape[0], 1.0])
    return Face([0, 0, 1] - (u + v) / 2 + shift, u, v, Texture(image), to_texel, two_sided=True)


def _of_wall(rng: Generator, photos: list[ByteArray], camera: Camera, T: FloatArray, swap: bool = False) -> Pair:
    raster = Raster([_wall(rng, photos, camera, np.zeros(3))])
    return _of_raster(rng, raster, camera, *((T, np.eye(4)) if swap else (np.eye(4), T)))


def _of_raster(rng: Generator, raster: Raster, camera: Camera, *views: FloatArray) -> Pair:
    return _pair(rng, camera, views, [raster.render(camera, T, DAYLIGHT) for T in views])


def _room(
    rng: Generator, photos: list[ByteArray], camera: Camera, difficulty: float
) -> tuple[Scene, tuple[FloatArray, FloatArray]]:
    scene = Scene.random(rng, photos, "indoor")
    return scene, random_pair_views(scene, rng, camera, difficulty)


def _pair(rng: Generator, camera: Camera, views: Sequence[FloatArray], renderings: Sequence[Rendering]) -> Pair:
    """Pictures with the noise of a sensor, and their exact depth."""
    first, second = renderings
    poses = np.linalg.inv(np.stack(views))
    images = noisy(first.image, rng, NOISE, 0), noisy(second.image, rng, NOISE, 0)
    depths = first.depth, second.depth
    overlap = two_way_overlap(*depths, camera, views[1] @ np.linalg.inv(views[0]))
    return Pair(TwoViews(camera, poses, images, depths, np.arange(2.0)), 0, 1, overlap)


def _contrast(image: ByteArray) -> float:
    """Median deviation of the grey levels in blocks of a fortieth of the image's width."""
    side = image.shape[1] // 40
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    rows, columns = (length // side for length in grey.shape)
    blocks = grey[: rows * side, : columns * side].reshape(rows, side, columns, side)
    return float(np.median(blocks.std(axis=(1, 3))))


def _at(depth: Float32Array, points: FloatArray) -> FloatArray:
    """(n,) metres at the pixels nearest to (n, 2) points; 0 outside."""
    column, row = np.rint(points).T.clip(-1, 1e6).astype(int)
    inside = (column >= 0) & (row >= 0) & (column < depth.shape[1]) & (row < depth.shape[0])
    return np.where(inside, depth[np.where(inside, row, 0), np.where(inside, column, 0)], 0.0)


# -- the picture -----------------------------------------------------------------------------------------------------


def header(matcher: Matcher, seed: int) -> str:
    """What was run, and what the colours say."""
    legend = f"Green: within {RIGHT_PX:g} px of the truth; red: not (at most {LINES} lines a pair)."
    model = f"{matcher.model_name}, weights {matcher.weights_hash}, {matcher.width}x{matcher.height}"
    return f"{model}, seed {seed}. {legend}"


def picture(cells: Sequence[ByteArray], title: str) -> ByteArray:
    """Cells of one size in two columns below a line of title; (H, W, 3) uint8 RGB."""
    filled = [*cells, *[_empty(*cells[0].shape[:2])] * (len(cells) % 2)]
    rows = [np.hstack(filled[i : i + 2]) for i in range(0, len(filled), 2)]
    head = _framed(_lines([title], rows[0].shape[1] - 2 * GAP))
    return np.asarray(np.vstack([head, *rows]), np.uint8)


def cell(failure: Failure) -> ByteArray:
    """The worst pair below its caption, right matches green and the others red; (H, W, 3) uint8 RGB."""
    return _framed(np.vstack([_lines(failure.caption, COLUMN), _drawn(failure.worst)]))


def encoded(image: ByteArray) -> bytes:
    """A JPEG of at most MOST_BYTES where any quality from 90 down to 40 gives one."""
    data = b""
    for quality in range(90, 35, -10):
        _, jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
        data = jpeg.tobytes()
        if len(data) <= MOST_BYTES:
            break
    return data


def _lines(texts: Sequence[str], width: int) -> ByteArray:
    """A strip of text, the first line brighter."""
    strip = _empty(LINE * len(texts) + GAP, width)
    for i, text in enumerate(texts):
        colour = [level if i == 0 else 0.75 * level for level in TEXT]
        cv2.putText(strip, text, (0, LINE * (i + 1)), FONT, FONT_SIZE, colour, 1, cv2.LINE_AA)
    return strip


def _framed(part: ByteArray) -> ByteArray:
    return np.asarray(cv2.copyMakeBorder(part, GAP, GAP, GAP, GAP, cv2.BORDER_CONSTANT, value=BACKGROUND), np.uint8)


def _drawn(look: Look) -> ByteArray:
    """The pair without the caption that ``draw_matches`` puts below it, whose inliers are another thing."""
    drawn = draw_matches(*look.pair.images, look.matches, look.right, width=COLUMN)
    camera = look.pair.cameras[0]
    return drawn[: round(COLUMN / 2 * camera.height / camera.width)]


def _empty(height: int, width: int) -> ByteArray:
    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _of(right: BoolArray) -> str:
    return f"{right.sum()} of {len(right)}"


def _median(looks: Sequence[BoolArray]) -> str:
    count = np.median([right.sum() for right in looks])
    share = np.median([right.mean() if len(right) else 0.0 for right in looks])
    return f"{count:.0f} right, {100 * share:.0f} %"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a shipped name or an exported folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with photos/open, which may be shown")
    parser.add_argument("--out", type=Path, default=Path("failures.jpg"), help="the picture, a JPEG")
    parser.add_argument("--pairs", type=int, default=12, help="of each cause, of which the worst is shown")
    parser.add_argument("--seed", type=int, default=7, help="another one draws other pairs")
    parser.add_argument("--threads", type=int, default=0, help="of the network's runtime")
    options = parser.parse_args()
    if options.out.suffix.lower() not in (".jpg", ".jpeg"):
        parser.error(f"--out {options.out} is no name of a JPEG: give one that ends in .jpg")
    photos = Homographies(options.data / "photos" / "open", validation=True).photos
    matcher = Matcher.from_pretrained(MatcherConfig(model=options.model, threads=options.threads))
    cells = []
    for failure in failures(matcher, photos, options.pairs, options.seed):
        cells.append(cell(failure))
        print("\n  ".join(failure.caption), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(encoded(picture(cells, header(matcher, options.seed))))


if __name__ == "__main__":
    main()
