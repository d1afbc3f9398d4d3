"""The typed configuration: every option documented and in range, all faults in one report."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stfm_ros.config import AppConfig, MatcherConfig, from_mapping, settings
from stfm_ros.errors import ConfigError


@pytest.mark.parametrize("setting", settings(AppConfig), ids=lambda s: s.name)
def test_every_option_is_described_and_its_default_allowed(setting):
    assert setting.about.description.endswith(".")
    assert setting.about.fault(setting.default) == ""
    assert type(setting.default) is setting.type
    if setting.type in (int, float):
        assert setting.about.minimum is not None and setting.about.maximum is not None


def test_a_section_may_have_other_defaults_in_the_config_that_holds_it():
    @dataclass(frozen=True)
    class Other(AppConfig):
        matcher: MatcherConfig = field(default_factory=lambda: MatcherConfig(threshold=0.5))

    assert {s.name: s.default for s in settings(Other)}["matcher.threshold"] == 0.5
    assert from_mapping(Other, {"matcher.threads": 2}).matcher == MatcherConfig(threshold=0.5, threads=2)


def test_nested_and_dotted_names_are_the_same():
    nested = AppConfig.from_mapping({"matcher": {"threshold": 0.5}, "pose": {"inlier_px": 2}})
    assert nested == AppConfig.from_mapping({"matcher.threshold": 0.5, "pose.inlier_px": 2.0})
    assert (nested.matcher.threshold, nested.pose.inlier_px) == (0.5, 2.0)
    assert AppConfig.from_mapping({}) == AppConfig()


def test_all_faults_are_reported_at_once():
    faults = {
        "matcher": {"treshold": 0.3, "threads": -1, "runtime": "tpu"},
        "pose.inlier_px": "a",
        "node.compressed": 1,
    }
    with pytest.raises(ConfigError) as caught:
        AppConfig.from_mapping(faults)
    text = str(caught.value)
    assert "matcher.treshold: unknown setting; did you mean matcher.threshold?" in text
    assert "matcher.threads: -1 is below the minimum 0" in text
    assert "matcher.runtime: 'tpu' is not one of auto, tensorrt" in text
    assert "pose.inlier_px: expected float, got str 'a'" in text
    assert "node.compressed: expected bool, got int 1" in text
    assert len(text.splitlines()) == 6


@given(st.floats(allow_nan=True))
def test_a_number_is_taken_exactly_when_it_is_in_range(value):
    try:
        config = AppConfig.from_mapping({"matcher.threshold": value})
    except ConfigError:
        assert not 0.0 <= value <= 1.0
    else:
        assert 0.0 <= value <= 1.0 and config.matcher.threshold == value
