"""Six short videos to process: real ones where they are at hand, rendered ones else."""

from __future__ import annotations

import os
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from rendered import Motion, render

FRAMES = 8
SIZE = (320, 192)
REAL = {
    "blackswan": "davis/blackswan/rgb",
    "camel": "davis/camel/rgb",
    "walk": "hololens/rgb",
}
RENDERED: dict[str, tuple[Motion, int]] = {
    "orbit": ("orbit", 1),
    "handheld": ("handheld", 2),
    "still": ("static", 1),
    "dolly": ("dolly", 0),
    "turn": ("rotation", 1),
    "second-orbit": ("orbit", 2),
}


def real_data() -> Path | None:
    """The folder of real clips, if it is there."""
    default = Path(__file__).parents[3] / "shared" / "data"
    folder = Path(os.environ.get("DYNAMICVERSE_TEST_DATA", default))
    return folder if folder.is_dir() else None


def make_clips(folder: Path, data: Path | None) -> list[str]:
    """Write six videos; returns their names, sorted."""
    names = []
    for name, relative in REAL.items() if data is not None else ():
        assert data is not None
        encode(folder / f"{name}.mp4", _pictures(data / relative))
        names.append(name)
    for seed, name in enumerate(islice(RENDERED, 6 - len(names))):
        motion, objects = RENDERED[name]
        encode(folder / f"{name}.mp4", render(FRAMES, SIZE, motion, objects, seed).rgb)
        names.append(name)
    return sorted(names)


def _pictures(folder: Path) -> Iterable[np.ndarray]:
    files = sorted(p for p in folder.iterdir() if p.suffix in (".jpg", ".png"))
    assert len(files) >= FRAMES, folder
    for path in files[:FRAMES]:
        picture = cv2.imread(str(path))
        assert picture is not None, path
        yield cv2.resize(picture, SIZE, interpolation=cv2.INTER_AREA)[..., ::-1]


def encode(path: Path, pictures: Iterable[np.ndarray]) -> None:
    """H.264 at a quality that leaves texture to track. pictures: (H,W,3) uint8 RGB."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "12"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
