"""First hits of rays on triangles: Embree through the package embreex."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import numpy.typing as npt

from dynamicverse.errors import MissingModelError
from dynamicverse.geometry.lie import Array

Integers = npt.NDArray[np.int32]


class Tracer:
    """Triangles that can be asked which of them a ray meets first.

    Embree computes in single precision, so only the index of the triangle is taken from it;
    the caller intersects with the triangle's plane in double precision.
    Raises MissingModelError where embreex is not installed.
    """

    def __init__(self, vertices_V3: Array, faces_T3: Integers) -> None:
        require_embree()
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        self._scene = EmbreeScene(robust=True)
        vertices = np.ascontiguousarray(vertices_V3, np.float32)
        self._mesh = TriangleMesh(self._scene, vertices, np.ascontiguousarray(faces_T3, np.int32))

    def first(self, origin_3: Array, directions_N3: Array) -> Integers:
        """Index of the first triangle along each ray, -1 where there is none."""
        directions = np.ascontiguousarray(directions_N3, np.float32)
        origins = np.empty_like(directions)
        origins[:] = origin_3
        return np.asarray(self._scene.run(origins, directions, output=True)["primID"], np.int32)


def require_embree() -> None:
    """Raise MissingModelError where embreex is not installed."""
    if find_spec("embreex") is None:
        raise MissingModelError(
            "rendering needs the package embreex: pip install 'dynamicverse[synth]'"
        )
