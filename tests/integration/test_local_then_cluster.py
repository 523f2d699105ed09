"""A run that one machine has done is done for a cluster too, and the other way round."""

from __future__ import annotations

import shutil
from pathlib import Path

from program import ClipMaker, within

from dynamicverse.cluster import planning
from dynamicverse.cluster.planning import Request

STAGES = "ingest,keyframes"


def test_what_was_run_here_costs_no_pods(tmp_path: Path, clip: ClipMaker) -> None:
    clips, root = tmp_path / "clips", str(tmp_path / "out")
    for name in ("one", "two"):
        shutil.copytree(clip("tiny", frames=4, size=(160, 96)), clips / name)
    done = within("run", str(clips), "--out", root, "--stages", STAGES, "--workers", "0", "--json")
    assert done.code == 0, done.err

    request = Request(root, str(clips), stages=STAGES, shard_scenes=64)
    work = planning.plan(request, wave_shards=500)
    assert work.run.plan.run == done.json()["run"]
    assert work.shards == []

    picture = next((clips / "two" / "rgb").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    (shard,) = planning.plan(request, wave_shards=500).shards
    assert [s.name for s in work.run.shard(shard).sources] == ["two"]
    url = f"{root}/{work.run.folder}"
    for stage in STAGES.split(","):
        pod = within("stage", stage, "--run", url, "--shard", str(shard), "--json")
        assert pod.json()["counts"] == {"done": 1}
    assert planning.plan(request, wave_shards=500).shards == []
