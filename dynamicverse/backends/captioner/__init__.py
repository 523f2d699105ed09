"""Captioners: words for the objects, the scene and the camera, with the facts they rest on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dynamicverse.backends import BackendInfo
from dynamicverse.formats.captions import Captions
from dynamicverse.formats.fused import Fused
from dynamicverse.formats.labels import Instance
from dynamicverse.formats.objects import DynamicObjects
from dynamicverse.formats.poses import Poses
from dynamicverse.formats.reconstruction_info import ReconstructionInfo
from dynamicverse.formats.scene_info import SceneInfo
from dynamicverse.formats.tracks import Tracks


@dataclass(frozen=True)
class Evidence:
    """All that the earlier stages found out about a clip; None where a stage gave nothing.

    instances: the ids in the masks. mask(i): (H,W) ids of frame i. keyframes: 0-based, and
    key_frame(i) its picture, (H,W,3) RGB. fused comes without its small pictures. facts: a
    captioner writes here what the manifest should say of its work.
    """

    info: SceneInfo
    instances: list[Instance]
    mask: Callable[[int], NDArray[np.uint8]]
    keyframes: list[int]
    key_frame: Callable[[int], NDArray[np.uint8]]
    objects: DynamicObjects | None = None
    tracks: Tracks | None = None
    poses: Poses | None = None
    reconstruction: ReconstructionInfo | None = None
    fused: Fused | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Captioner(Protocol):
    """Captions a clip. Every caption says where it comes from and on which facts it rests."""

    info: BackendInfo

    def caption(self, evidence: Evidence, progress: Callable[[int, int], None]) -> Captions:
        """Captions of all instances, the scene and the camera; progress(done, total)."""
        ...
