"""``stfm eval``: how good the matches are, beside SIFT and ORB in the same run.

Inputs are told apart by what they hold: ``H_1_k`` files (Oxford's affine data: homographies), intrinsics.yaml (a folder
of ``stfm import-rgbd``), else a bag with images, calibration and true poses. ``--suite`` runs the fixed benchmark of
``stfm_ros.cli.suite`` instead.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stfm_ros.cli import suite
from stfm_ros.cli.command import Command, Outcome, Screen, UsageError, table
from stfm_ros.cli.options import (
    MODEL_FIELDS,
    about_model,
    add_settings,
    at_least,
    baselines,
    given_options,
    load_matcher,
    model_line,
    read_config,
)
from stfm_ros.config import AppConfig, settings

if TYPE_CHECKING:
    from stfm_ros.evaluate import ColourMethod, HomographyScore, Method, PoseScore
    from stfm_ros.pairs import Pair, PosedImages

#: best and worst pairs that are drawn, each
PICTURES = 2
PAIRS = 200
METHODS = "sift,orb"
#: what the benchmark has fixed, by option
FIXED = (
    *("max_gap", "seed", "solver", "solver_px", "pictures"),
    *("image_topic", "camera_info_topic", "pose_topic", "depth_topic"),
)
#: and what belongs to it alone
OF_SUITE = ("models", "method", "datasets", "out", "times")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs", type=Path, nargs="*", metavar="BAG_OR_FOLDER", help="bags with true poses, RGB-D or Oxford folders"
    )
    parser.add_argument(
        "--pairs", type=at_least(1), metavar="N",
        help=f"pairs of an input (default {PAIRS}; of a data set of the benchmark all)",
    )  # fmt: skip
    parser.add_argument(
        "--max-gap", type=float, default=0.0, metavar="S",
        help="longest time between two images (default 0: no limit where there is depth, else 1 s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="another seed draws other pairs (default 0)")
    parser.add_argument(
        "--solver", choices=("auto", "poselib", "opencv"), default="auto",
        help="estimator of the pose; auto is poselib where it is installed",
    )  # fmt: skip
    parser.add_argument("--solver-px", type=float, metavar="PX", help="its inlier threshold (poselib 1, opencv 0.5)")
    parser.add_argument(
        "--methods", metavar="LIST",
        help=f"what stands beside the model: sift, orb, akaze, or none (default {METHODS}); in the benchmark xfeat, "
        "xfeat-star and xfeat+lighterglue too (default all six)",
    )  # fmt: skip
    parser.add_argument("--pictures", type=Path, metavar="FOLDER", help="draw the model's best and worst pairs here")
    for topic in ("image", "camera-info", "pose", "depth"):
        parser.add_argument(f"--{topic}-topic", default="", metavar="TOPIC", help="found where there is only one")
    suite.arguments(parser)
    add_settings(parser, "matcher")


def execute(options: argparse.Namespace, screen: Screen) -> Outcome:
    _check(options)
    if options.suite:
        found, negative = suite.execute(options, screen)
        return Outcome({"model": None, "inputs": [], "suite": found}, negative)
    return _measure(options, screen)


def _check(options: argparse.Namespace) -> None:
    """Refuse options that do not go together, and say what the benchmark has fixed."""
    parser = argparse.ArgumentParser(add_help=False)
    arguments(parser)
    fixed, of_suite = (
        [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != parser.get_default(name)]
        for names in (FIXED, OF_SUITE)
    )
    if options.suite and options.inputs:
        raise UsageError(
            f"{options.inputs[0]} beside --suite: the benchmark measures on its own data; run stfm eval twice"
        )
    if options.suite and fixed:
        raise UsageError(
            f"{', '.join(fixed)} beside --suite: the benchmark fixes that; leave it out, or measure single inputs"
        )
    if options.suite and "matcher.model" in given_options(options, settings(AppConfig)):
        raise UsageError("--model beside --suite: the benchmark measures a list of models, name it by --models")
    if not options.suite and not options.inputs:
        raise UsageError("nothing to evaluate: name bags or folders, or run the benchmark with --suite DATA")
    if not options.suite and of_suite:
        raise UsageError(f"{of_suite[0]} belongs to the benchmark: add --suite DATA, or leave it out")


def _measure(options: argparse.Namespace, screen: Screen) -> Outcome:
    """The model and its peers on the inputs."""
    from stfm_ros.evaluate import WithDepth

    config = read_config(options)
    beside: dict[str, ColourMethod] = {**baselines(METHODS if options.methods is None else options.methods)}
    solver = options.solver
    if solver == "auto":
        solver = "poselib" if importlib.util.find_spec("poselib") else "opencv"
    inputs: list[dict[str, Any]] = []
    with ExitStack() as stack:
        # all are opened first: what is wrong with the last one is told before the first one has taken its time
        sources = [_open(path, options, stack) for path in options.inputs]
        matcher = load_matcher(config)
        screen.show(model_line(matcher))
        model = f"stfm {matcher.model_name}"
        colour: dict[str, ColourMethod] = {model: matcher.match, **beside}
        any_turn = {f"{model}, search": partial(matcher.match, search=True)}
        methods: dict[str, Method] = {**colour}
        if matcher.takes_depth:
            _check_depth(model, options.inputs, sources)
            methods[model] = WithDepth(lambda rgb0, rgb1, d0, d1: matcher.match(rgb0, rgb1, depth0=d0, depth1=d1))
        for path, source in zip(options.inputs, sources):
            if source is None:
                inputs.append(_homographies(path, {**any_turn, **colour}, screen))
            else:
                inputs.append(_poses(path, source, methods, solver, options, screen))
    record = {"model": about_model(matcher) | {"method": model}, "inputs": inputs, "suite": None}
    return Outcome(record, negative=any(_nothing(one, model) for one in inputs))


def _check_depth(model: str, paths: list[Path], sources: list[PosedImages | None]) -> None:
    """Refuse inputs that lack what an RGB-D model sees."""
    from stfm_ros.errors import DatasetError

    for path, source in zip(paths, sources, strict=True):
        if source is None or source.depth(0) is None:
            raise DatasetError(
                f"{path} holds no depth, which {model} needs (it is an RGB-D model): give a recording with depth "
                "registered to the images (--depth-topic), or an RGB model"
            )


def _open(path: Path, options: argparse.Namespace, stack: ExitStack) -> PosedImages | None:
    """Images with poses; None for a folder of homographies."""
    from stfm_ros.errors import DatasetError
    from stfm_ros.posed_bag import PosedBag
    from stfm_ros.rgbd import RgbdFolder

    if any(path.glob("H_1_*")):
        return None
    if (path / "intrinsics.yaml").is_file():
        return RgbdFolder(path)
    if path.is_dir() and not any(file.suffix in (".yaml", ".mcap", ".db3") for file in path.iterdir()):
        raise DatasetError(
            f"{path} is nothing to evaluate: expected a rosbag2 folder (metadata.yaml), an RGB-D folder "
            "(intrinsics.yaml, poses.txt, rgb/, depth/) or an Oxford folder (H_1_2, 1.jpg, ...)"
        )
    topics = options.image_topic, options.camera_info_topic, options.pose_topic, options.depth_topic
    return stack.enter_context(PosedBag(path, *topics))


def _poses(
    path: Path,
    source: PosedImages,
    methods: Mapping[str, Method],
    solver: str,
    options: argparse.Namespace,
    screen: Screen,
) -> dict[str, Any]:
    from stfm_ros.evaluate import evaluate_pairs
    from stfm_ros.pairs import Sampling, sample_pairs

    sampling = Sampling(count=options.pairs or PAIRS, max_gap_s=options.max_gap, seed=options.seed)
    pairs = sample_pairs(source, sampling)
    with screen.progress(f"evaluating {path.name}") as step:
        scores = evaluate_pairs(methods, pairs, solver, options.solver_px, step)
    _show_poses(screen, path, scores, len(source))
    model = next(iter(methods))
    pictures = _draw(options.pictures, path, pairs, scores[model], methods[model]) if options.pictures else []
    for picture in pictures:
        screen.show(f"wrote {picture}")
    return {
        "input": path,
        "kind": "pose",
        "images": len(source),
        "left_out": int(getattr(source, "without_pose", 0)),
        "sampling": sampling.describe(),
        "scores": [score.to_dict(with_pairs=True) for score in scores.values()],
        "pictures": pictures,
    }


def _homographies(path: Path, methods: Mapping[str, ColourMethod], screen: Screen) -> dict[str, Any]:
    from stfm_ros.evaluate import evaluate_homographies

    scores = evaluate_homographies(methods, path)
    _show_homographies(screen, path, scores)
    return {"input": path, "kind": "homography", "scores": [score.to_dict() for score in scores.values()]}


def _nothing(one: dict[str, Any], model: str) -> bool:
    """Whether the model solved no pair of an input at all."""
    score = next(score for score in one["scores"] if score["method"] == model)
    return bool(score["failures"] == score["pairs"] if one["kind"] == "pose" else not any(score["mma"].values()))


def _show_poses(screen: Screen, path: Path, scores: Mapping[str, PoseScore], images: int) -> None:
    one = next(iter(scores.values()))
    fx, fy, cx, cy = one.K
    screen.show(
        f"\n{path}: {one.pairs} pairs of {images} images, {one.image_size}, K {fx:g} {fy:g} {cx:g} {cy:g}; "
        f"solver {one.solver} at {one.threshold_px:g} px; AUC and precision in %, [95 % interval]"
    )
    precise = [f"< {float(limit):.0e}".replace("e-0", "e-") for limit in one.precision]
    rows = table(
        "method", *(f"AUC@{name}" for name in one.auc), *precise, "median deg", "matches", "inliers", "failed", "ms"
    )
    for name, score in scores.items():
        areas = [
            f"{100 * area:.0f} [{100 * low:.0f}-{100 * high:.0f}]"
            for area, (low, high) in zip(score.auc.values(), score.auc_95.values())
        ]
        rows.add_row(
            name,
            *areas,
            *(f"{100 * share:.0f}" for share in score.precision.values()),
            f"{score.median_error_deg:.1f}",
            f"{score.median_matches:.0f}",
            f"{score.median_inliers:.0f}",
            str(score.failures),
            f"{score.median_ms:.0f}",
        )
    screen.show(rows)


def _show_homographies(screen: Screen, path: Path, scores: Mapping[str, HomographyScore]) -> None:
    one = next(iter(scores.values()))
    screen.show(f"\n{path}: {one.pairs} pairs (image 1 to k); corner error by MAGSAC at 3 px; MMA and AUC in %")
    rows = table(
        "method",
        *(f"MMA@{name}" for name in one.mma),
        *(f"AUC@{name} px" for name in one.corner_auc),
        "corner px",
        "matches",
        "MMA@3 of each pair",
    )
    for name, score in scores.items():
        rows.add_row(
            name,
            *(f"{100 * share:.0f}" for share in score.mma.values()),
            *(f"{100 * area:.0f}" for area in score.corner_auc.values()),
            f"{score.median_corner_px:.1f}",
            f"{score.median_matches:.0f}",
            " ".join(f"{100 * share:.0f}" for share in score.mma_by_pair),
        )
    screen.show(rows)


def _draw(folder: Path, path: Path, pairs: list[Pair], score: PoseScore, method: Method) -> list[Path]:
    """The model's best and worst pairs; green is what agrees with the true motion."""
    from stfm_ros.evaluate import agreeing, match_pair
    from stfm_ros.picture_files import write_picture
    from stfm_ros.visualise import draw_matches

    errors = np.array([pair.error_deg for pair in score.scores])
    order = np.argsort(errors, kind="stable")
    count = min(PICTURES, len(order) // 2) or 1
    written = []
    for rank, chosen in (("best", order[:count]), ("worst", order[::-1][:count])):
        for number, index in enumerate(chosen.tolist(), 1):
            pair, images = pairs[index], pairs[index].images
            matches = match_pair(method, pair)
            agree = agreeing(pair, matches)
            error = f"{errors[index]:.1f} deg" if np.isfinite(errors[index]) else "no pose"
            about = f"{rank} {number}: images {pair.index0} and {pair.index1}, overlap {pair.overlap:.2f}, {error}"
            title = f"{about}; green fits the true motion"
            file = folder / f"{path.stem}_{rank}_{number}.jpg"
            write_picture(file, draw_matches(images[0], images[1], matches, agree, title))
            written.append(file)
    return written


COMMAND = Command(
    name="eval",
    summary="measure the matches on bags or folders with ground truth, beside SIFT and ORB",
    description=(
        "Measure the model beside SIFT and ORB (4000 features, ratio test, mutual) on the same pairs. With true poses: "
        "AUC of the pose error at 5, 10 and 20 degrees (the larger of the angles of rotation and of direction of "
        "translation, a failed pair infinite) and the share of matches below 1e-4 and 5e-4 of squared epipolar "
        "distance in normalised coordinates. With homographies: the share of matches within 1, 3 and 5 px (MMA) and "
        "the AUC of the corner error at 3, 5 and 10 px, "
        "as one look and with the search over turns and zooms that stfm match uses. An RGB-D model (a teacher's "
        ".safetensors) is given the recorded depth as well.\n\n"
        "With --suite the fixed benchmark of docs/benchmark.md is run on a data folder instead: the same pairs for "
        "every method and every version; tables, JSON, and a page with the best and the worst pairs."
    ),
    example="stfm eval office.mcap --pairs 16 --pictures pictures",
    negative="the model solved no pair of an input, or of a data set of the benchmark",
    fields={
        **MODEL_FIELDS,
        "model.method": "its name in the scores",
        "inputs": "one object for each input:",
        "inputs[].input": "what was read",
        "inputs[].kind": "pose or homography",
        "inputs[].images": "(pose) images with a pose",
        "inputs[].left_out": "(pose) images of a bag that have no pose",
        "inputs[].sampling": "(pose) how the pairs were drawn; see stfm_ros.pairs.Sampling",
        "inputs[].scores": "one object for each method; see stfm_ros.evaluate.PoseScore and HomographyScore; shares "
        "and AUC are 0 to 1, what is infinite is null",
        "inputs[].pictures": "(pose) what --pictures wrote; green matches agree with the true motion",
        **suite.FIELDS,
    },
    arguments=arguments,
    execute=execute,
)
