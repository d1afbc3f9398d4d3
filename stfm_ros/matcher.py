"""Two images in, correspondences out.

    >>> from stfm_ros.matcher import Matcher
    >>> matches = Matcher.from_pretrained().match(image0, image1)   # uint8, RGB or grey, any size
    >>> matches.keypoints0, matches.keypoints1                      # pixels of the images given

An image that is matched more than once is encoded once: ``matcher.match_features(a, b)`` with
``a = matcher.features(image)``. An RGB-D model (the teacher) takes the depth of each image beside it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from stfm_ros.config import MatcherConfig
from stfm_ros.covisible import look_again
from stfm_ros.errors import ConfigError, ImageError
from stfm_ros.images import Fit, fit, fit_depth, input_of_shape, to_rgb
from stfm_ros.runtimes import Rows, Runtime, load_runtime
from stfm_ros.runtimes.store import find_model
from stfm_ros.search import search_views
from stfm_ros.spread import spread
from stfm_ros.types import BoolArray, ByteArray, Float32Array, Matches

CELL_PX = 8.0  #: of the coarse stage, in the fitted image
SEAM_PX = 2 * CELL_PX
#: pictures that fill less of the input than this are better off with an input of their shape: 16:9 fills .75 of 4:3
WELL_FILLED = 0.6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Features:
    """One encoded image: what the runtime keeps of it, how it was fitted, and the image itself for a second look."""

    data: Any
    fit: Fit
    image: ByteArray


class Matcher:
    """A model on one runtime: the RGB student, or the RGB-D teacher.

    Attributes:
        model_name, weights_hash: what is run; every message carries them.
        takes_depth: whether it is an RGB-D model, which needs the depth of every image.
        runtime_name, reason: what runs it, and why that.
        height, width: the size that images are fitted to.
    """

    def __init__(self, runtime: Runtime, config: MatcherConfig, runtime_name: str, reason: str) -> None:
        self.runtime = runtime
        self.config = config
        self.runtime_name = runtime_name
        self.reason = reason
        self.model_name = runtime.spec.name
        self.weights_hash = runtime.spec.weights_hash
        self.takes_depth = runtime.spec.channels == 4
        if self.takes_depth and config.looks > 1:
            raise ConfigError(
                f"matcher.looks is {config.looks}, and model {self.model_name} is an RGB-D one, which looks once: "
                "set it to 1, or name an RGB model"
            )
        self.height, self.width = runtime.spec.height, runtime.spec.width
        self._seen_shape = False

    @classmethod
    def from_pretrained(cls, config: MatcherConfig | None = None) -> Matcher:
        """Load the model that the config names on the runtime that it asks for.

        Raises:
            WeightsError, RuntimeNotAvailable: what is missing, and what to do.
        """
        config = config or MatcherConfig()
        runtime, name, reason = load_runtime(find_model(config.model), config)
        log.info("runtime %s in %s: %s", name, runtime.precision, reason)
        return cls(runtime, config, name, reason)

    def features(self, image: ByteArray, depth: Float32Array | None = None) -> Features:
        """Encode an image.

        Args:
            image: (H, W, 3) RGB or (H, W) grey, uint8.
            depth: (H, W) float32 metres, 0 where there is none; for an RGB-D model, and for no other.

        Raises:
            ImageError: the depth is missing, not wanted, or not of the image's size.
        """
        if self.takes_depth != (depth is not None):
            raise ImageError(
                f"model {self.model_name} takes colour and depth (RGB-D), but no depth was given: give each image's "
                "depth, (H, W) float32 metres with 0 where there is none, or name an RGB model"
                if self.takes_depth
                else f"model {self.model_name} takes colour alone, but depth was given: leave it out, or name an "
                "RGB-D model (a teacher)"
            )
        image = to_rgb(image)
        fitted, how = fit(image, self.height, self.width)
        if not self._seen_shape:
            self._seen_shape = True
            self._look_at_shape(image, how)
        if depth is not None:
            fitted = np.concatenate([fitted, fit_depth(depth, how, self.height, self.width)], axis=1)
        return Features(self.runtime.features(fitted), how, image)

    def match(
        self,
        image0: ByteArray,
        image1: ByteArray,
        search: bool = False,
        depth0: Float32Array | None = None,
        depth1: Float32Array | None = None,
    ) -> Matches:
        """Match two images (H, W, 3) RGB or (H, W) grey, uint8, each of any size.

        Args:
            search: for pictures that may be turned or zoomed against each other by any amount: where they
                have little in common as they are, try others (``stfm_ros.search``); up to 14 pairs instead of one.
            depth0, depth1: see :meth:`features`.

        Raises:
            ImageError: see :meth:`features`; or the search is asked of an RGB-D model.
        """
        if search and self.takes_depth:
            raise ImageError(
                f"the search over turns and zooms takes pictures alone, and model {self.model_name} is an RGB-D one: "
                "match without the search, or name an RGB model"
            )
        features0, features1 = self.features(image0, depth0), self.features(image1, depth1)
        found = self.look(features0, features1)
        if search:
            found = search_views(self, features0.image, features1.image, found)
        return self._look_again(features0, features1, found)

    def match_features(self, features0: Features, features1: Features) -> Matches:
        """Match two encoded images; see :class:`stfm_ros.types.Matches`."""
        return self._look_again(features0, features1, self.look(features0, features1))

    def look(self, features0: Features, features1: Features) -> Matches:
        """Match two encoded images once, whatever ``matcher.looks`` says."""
        return self.select(self.runtime.pair(features0.data, features1.data), features0.fit, features1.fit)

    def _look_again(self, features0: Features, features1: Features, found: Matches) -> Matches:
        if self.config.looks < 2:
            return found
        both = look_again(self, features0.image, features1.image, found, (self.width, self.height))
        return spread(both, self.config.max_matches, CELL_PX * features0.fit.scale)

    def select(self, rows: Rows, fit0: Fit, fit1: Fit) -> Matches:
        """Of the rows of a pair those above the threshold that lie on both pictures, in pixels of the images given."""
        keep = rows.confidence >= max(self.config.threshold, np.finfo(np.float32).tiny)
        keep &= self._shown(rows.keypoints0, fit0) & self._shown(rows.keypoints1, fit1)
        sigma = rows.sigma[keep] * np.float32(fit1.scale * self.runtime.spec.sigma_scale)
        found = Matches(
            fit0.to_original(rows.keypoints0[keep]),
            fit1.to_original(rows.keypoints1[keep]),
            rows.confidence[keep],
            sigma,
        )
        return spread(found, self.config.max_matches, CELL_PX * fit0.scale)

    def _look_at_shape(self, image: ByteArray, how: Fit) -> None:
        """Say where most of the input is padding: time without use, and a picture smaller than it need be."""
        filled = how.width * how.height / (self.width * self.height)
        if filled >= WELL_FILLED:
            return
        height, width = image.shape[:2]
        rows, columns = input_of_shape(height, width, self.width * self.height)
        log.warning(
            "pictures of %dx%d fill %.0f %% of the %dx%d that this model takes. One of their shape sees them larger in "
            "the same time: stfm export %s --width %d --height %d --out DIR, then matcher.model: DIR",
            *(width, height, 100 * filled, self.width, self.height),
            *(self.config.model, columns, rows),
        )

    def _shown(self, points: Float32Array, fit: Fit) -> BoolArray:
        """Whether points (n, 2) of the fitted image show the picture: not the padding, nor the seam, which looks
        the same in every picture."""
        limits = np.array([self.width, self.height], np.float32)
        seam = np.where(limits > (fit.width, fit.height), np.float32(SEAM_PX), 0)
        return np.asarray(fit.inside(points) & (points < (fit.width, fit.height) - seam).all(axis=1))
