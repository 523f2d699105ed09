"""Video and image decode and encode (PyAV, OpenCV).

Everything here treats its input as foreign: sizes are checked before memory is taken, only
plain files of known container formats are opened, and whatever cannot be used is an
InputError with a reason. Frames are RGB uint8 (H,W,3), upright, with square pixels.

The names below are imported when they are first used: PyAV and OpenCV take a while.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamicverse.media.files import require_readable
    from dynamicverse.media.folder import FrameFolder
    from dynamicverse.media.source import Frame, Limits, MediaInfo
    from dynamicverse.media.video import VideoReader, probe
    from dynamicverse.media.writer import VideoWriter

__all__ = [
    "Frame",
    "FrameFolder",
    "Limits",
    "MediaInfo",
    "VideoReader",
    "VideoWriter",
    "probe",
    "require_readable",
]

_HOMES = {
    "Frame": "source",
    "FrameFolder": "folder",
    "Limits": "source",
    "MediaInfo": "source",
    "VideoReader": "video",
    "VideoWriter": "writer",
    "probe": "video",
    "require_readable": "files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
