"""Why FFmpeg gave no frame: its codes do not tell a size out of bounds from broken data."""

from __future__ import annotations

import re
from pathlib import Path

import av
import av.logging

_SIZE = re.compile(r"Picture size (\d+)x(\d+) (?:is invalid|exceeds)")
MAX_PACKETS = 50


def refused_size(path: Path, options: dict[str, str]) -> tuple[int, int] | None:
    """The size (width, height) that FFmpeg refused to allocate; None if that was not it.

    The file is opened once more with FFmpeg's messages on, in this thread only: they are off
    otherwise, because decoder threads that log can block one another.
    """
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)
    try:
        with av.logging.Capture(local=True) as messages:
            _try_to_decode(path, options)
    finally:
        av.logging.set_skip_repeated(True)
        av.logging.set_level(None)
    for _, _, text in messages:
        if found := _SIZE.search(text):
            return int(found[1]), int(found[2])
    return None


def _try_to_decode(path: Path, options: dict[str, str]) -> None:
    try:
        with av.open(str(path), options=options, metadata_errors="replace") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count = 1
            stream.codec_context.options = {"max_pixels": options["max_pixels"]}
            for count, packet in enumerate(container.demux(stream)):
                if count > MAX_PACKETS:
                    break
                packet.decode()
    except (av.FFmpegError, ValueError, IndexError):
        return  # it is known to fail: the messages count
