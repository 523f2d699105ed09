"""No depth model: the reconstruction finds depth from parallax alone."""

from __future__ import annotations

from collections.abc import Iterator

from dynamicverse.backends import BackendInfo
from dynamicverse.backends.depth import Depth, Rgb
from dynamicverse.config import DepthConfig
from dynamicverse.formats.intrinsics import PriorIntrinsics


class NoDepth:
    """Gives no prior."""

    info = BackendInfo(name="none", licence="Apache-2.0")

    def __init__(self, settings: DepthConfig) -> None:
        pass

    def intrinsics(self, frames: Iterator[Rgb]) -> PriorIntrinsics | None:
        """None: there is no prior."""
        return None

    def stream(
        self, frames: Iterator[Rgb], camera: PriorIntrinsics
    ) -> Iterator[tuple[Depth, Depth]]:
        """Nothing."""
        return iter(())
