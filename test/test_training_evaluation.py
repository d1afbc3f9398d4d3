"""Networks measured while they are made: the same code as on the robot, on pairs that no training sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from stfm_ros.config import MatcherConfig
from stfm_ros.errors import DatasetError, ImageError
from stfm_ros.evaluate import WithDepth, evaluate_pairs, match_pair
from stfm_ros.matcher import Matcher
from stfm_ros.model.network import StfmNet
from stfm_ros.model.presets import preset
from stfm_ros.pairs import DEFAULTS, Pair, two_way_overlap
from stfm_training.evaluation import (
    TwoViews,
    as_method,
    evaluate_networks,
    matcher_of,
    rendered_pairs,
    truth_scores,
)
from stfm_training.sources.rendered import Rendered

SHIPPED = Path(__file__).parents[1] / "stfm_ros" / "weights" / "default" / "weights.safetensors"
HEIGHT, WIDTH = 192, 256


def teacher() -> StfmNet:
    torch.manual_seed(0)
    return StfmNet(preset("small", 4)).eval()


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return rendered_pairs(4, [], HEIGHT, WIDTH, seed=1, difficulty=0.3)


def test_rendered_pairs_are_functions_of_their_seed_and_number(pairs: list[Pair]) -> None:
    again = rendered_pairs(2, [], HEIGHT, WIDTH, seed=1, difficulty=0.3)
    other = rendered_pairs(1, [], HEIGHT, WIDTH, seed=2, difficulty=0.3)
    for pair, same in zip(pairs, again):
        np.testing.assert_array_equal(pair.images[0], same.images[0])
        np.testing.assert_array_equal(pair.depths[1], same.depths[1])
        np.testing.assert_array_equal(pair.T_0to1, same.T_0to1)
    assert not np.array_equal(pairs[0].images[0], other[0].images[0])


def test_the_pose_of_a_rendered_pair_carries_its_depth_over(pairs: list[Pair]) -> None:
    """What is seen at a pixel of one view is seen where pose and depth say in the other, as the overlap tells."""
    for pair in pairs:
        assert DEFAULTS.min_overlap <= pair.overlap <= DEFAULTS.max_overlap
        depth0, depth1 = pair.depths
        assert depth0 is not None and depth1 is not None and depth0.shape == (HEIGHT, WIDTH)
        seen = two_way_overlap(depth0, depth1, pair.cameras[0], pair.T_0to1)
        crossed = two_way_overlap(depth0, depth1, pair.cameras[0], np.linalg.inv(pair.T_0to1))
        assert seen > 0.3 * pair.overlap and seen > crossed  # the sensor has holes


def test_shipped_weights_beat_an_untrained_network(pairs: list[Pair]) -> None:
    torch.manual_seed(0)
    untrained = StfmNet(preset("small"))
    scores = evaluate_networks(
        {"shipped": SHIPPED, "untrained": untrained, "teacher": teacher()}, pairs, HEIGHT, WIDTH, "opencv"
    )
    assert list(scores) == ["shipped", "untrained", "teacher"]
    assert scores["shipped"].auc["20"] > 0.3 > scores["untrained"].auc["20"]
    assert scores["shipped"].precision["0.0005"] > 0.5
    assert untrained.training  # left as it was


def test_a_method_is_the_matcher_of_the_robot_and_encodes_an_image_once(pairs: list[Pair]) -> None:
    matcher, plain = (matcher_of(SHIPPED, HEIGHT, WIDTH) for _ in range(2))
    assert isinstance(plain, Matcher) and plain.config.threshold == MatcherConfig().threshold
    encoded = []
    features = matcher.features
    matcher.features = lambda image, depth=None: encoded.append(1) or features(image, depth)  # type: ignore[method-assign]
    method = as_method(matcher)
    assert not isinstance(method, WithDepth)
    image0, image1 = pairs[0].images
    ours, theirs = method(image0, image1), plain.match(image0, image1)
    np.testing.assert_array_equal(ours.keypoints0, theirs.keypoints0)
    np.testing.assert_allclose(ours.confidence, theirs.confidence, atol=1e-6)
    backwards = method(image1, image0)
    assert len(encoded) == 2 and len(backwards) > 0
    method(image0.copy(), image1)
    assert len(encoded) == 3


def test_a_teacher_is_given_the_depth_and_refuses_pairs_without(pairs: list[Pair]) -> None:
    given = []
    looking = WithDepth(lambda a, b, depth0, depth1: given.append((depth0, depth1)) or match_pair(method, pairs[0]))
    method = as_method(matcher_of(teacher(), HEIGHT, WIDTH))
    assert isinstance(method, WithDepth)
    evaluate_pairs({"teacher": looking}, pairs[:1], "opencv")
    np.testing.assert_array_equal(given[0][1], pairs[0].depths[1])

    class Blind(TwoViews):
        def depth(self, index: int, /) -> None:  # type: ignore[override]
            return None

    source = pairs[0].source
    assert isinstance(source, TwoViews)
    blind = Pair(Blind(source.camera, source.poses, source.images, source.depths, source.stamps), 0, 1, 0.5)
    with pytest.raises(ImageError, match="model teacher takes colour and depth .* but no depth was given"):
        evaluate_networks({"teacher": teacher()}, [blind], HEIGHT, WIDTH, "opencv")


def test_exact_truth_tells_a_trained_network_from_another(pairs: list[Pair]) -> None:
    scores = truth_scores({"shipped": SHIPPED, "teacher": teacher()}, Rendered([]), 2, 5, HEIGHT, WIDTH, 0.3)
    shipped = scores["shipped"]
    assert shipped.right > 0.6
    assert scores["teacher"].found < 0.01  # by chance
    assert 0.02 < shipped.found < 1 and shipped.median_px is not None and shipped.median_px < 1.5
    assert (shipped.source, shipped.pairs, shipped.threshold) == ("Rendered", 2, 0.2)


def test_scenes_that_give_no_pairs_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stfm_training.evaluation._rendered_pair", lambda *_: None)
    with pytest.raises(DatasetError, match=r"60 scenes of difficulty 0.6 gave 0 pairs of overlap 0.2-0.97, 3 are"):
        rendered_pairs(3, [], HEIGHT, WIDTH)
