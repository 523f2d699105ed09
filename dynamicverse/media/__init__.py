"""Video and image decode and encode (PyAV, OpenCV).

Everything here treats its input as foreign: sizes are checked before memory is taken, only
plain files of known container formats are opened, and whatever cannot be used is an
InputError with a reason. Frames are RGB uint8 (H,W,3), upright, with square pixels.
"""

from __future__ import annotations

from dynamicverse.media.folder import FrameFolder
from dynamicverse.media.source import Frame, Limits, MediaInfo, require_readable
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
