"""Textures of rendered clips, drawn once: they cost more than the small pictures made of them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from dynamicverse.synthetic import scenes
from dynamicverse.synthetic.surfaces import Texture, texture

MOST = 24  # held at a time: 12 to 16 MB each, of tiny pictures a quarter

_known: OrderedDict[str, tuple[Texture, dict[str, Any]]] = OrderedDict()


def remembered(rng: np.random.Generator, *arguments: float) -> Texture:
    """As `texture`: the same picture, and the generator goes on from the same state."""
    key = f"{rng.bit_generator.state}{arguments}"
    if key not in _known:
        made = texture(rng, *arguments)  # type: ignore[arg-type]
        for level in made:
            level.flags.writeable = False
        _known[key] = made, rng.bit_generator.state
        if len(_known) > MOST:
            _known.popitem(last=False)
    _known.move_to_end(key)
    found, rng.bit_generator.state = _known[key]
    return found


def forget() -> None:
    """The next textures are drawn anew."""
    _known.clear()


def remember() -> None:
    """From now on in this process."""
    scenes.texture = remembered  # type: ignore[assignment]
