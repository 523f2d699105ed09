"""Small rendered clips as frame folders."""

from __future__ import annotations

from pathlib import Path

import cv2
import pytest
from program import ClipMaker
from rendered import render


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> ClipMaker:
    """Make a frame folder `<name>/rgb` of a rendered clip; made once a session each."""
    made: dict[str, Path] = {}
    top = tmp_path_factory.mktemp("rendered")

    def make(
        name: str,
        frames: int = 16,
        motion: str = "orbit",
        objects: int = 1,
        size: tuple[int, int] = (320, 192),
    ) -> Path:
        if name not in made:
            folder = top / name / "rgb"
            folder.mkdir(parents=True)
            rendered = render(frames, size, motion, objects)  # type: ignore[arg-type]
            for index, rgb in enumerate(rendered.rgb):
                cv2.imwrite(str(folder / f"{index:05d}.png"), rgb[..., ::-1])
            made[name] = top / name
        return made[name]

    return make
