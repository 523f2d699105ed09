"""Bad settings, bad inputs, a run that is cancelled."""

from __future__ import annotations

import subprocess
from pathlib import Path

from disturbed import STAGES, Disturbed
from harness import Kube, Measured
from program import dynamicverse
from s3_server import S3


def test_wrong_configuration_ends_at_once_with_one_clear_line(
    kube: Kube, source: str, root: str, measured: Measured
) -> None:
    name = kube.submit(source=source, root=root, settings="{trakcs: {grid_size: 30}}")
    done = kube.wait(name, 90)
    assert done.phase == "Failed"
    (plan,) = done.pods("plan")  # one try
    assert "exit code 65" in plan["message"]
    assert "unknown key 'trakcs'; did you mean 'tracks'?" in plan["message"]
    assert "Traceback" not in plan["message"]
    shown = subprocess.run(
        ["argo", "get", "-n", kube.namespace, name], capture_output=True, text=True, check=True
    ).stdout
    assert "did you mean 'tracks'?" in shown
    measured(f"wrong configuration: {done.seconds:.0f} s, {len(done.pods())} pods")


def test_poison_scene_is_quarantined_and_replayed(
    kube: Kube, s3: S3, source: str, root: str, clips: Path
) -> None:
    fs = s3.fs()
    folder = "clips/poison"
    for path in sorted(clips.iterdir())[:3]:
        fs.put_file(str(path), f"{folder}/{path.name}")
    good = sorted(clips.iterdir())[3]
    fs.pipe_file(f"{folder}/{good.name}", b"this is not a video" * 1000)
    name = kube.submit(source=f"s3://{folder}", root=root, shard_scenes=2, stages=",".join(STAGES))
    done = kube.wait(name, 900)
    assert done.phase == "Succeeded", done.explain()
    (record,) = dynamicverse("quarantine", "list", root, "--json").json()
    assert (record["name"], record["stage"]) == (good.stem, "ingest")
    assert record["reason"] in ("not_video", "unsupported", "truncated")

    fs.put_file(str(good), f"{folder}/{good.name}")  # the fix
    replayed = dynamicverse(
        "quarantine", "replay", root, "--namespace", kube.namespace, "--watch", "--json"
    )
    assert replayed.code == 0, replayed.out + replayed.err
    assert dynamicverse("quarantine", "list", root, "--json").json() == []
    valid = dynamicverse("validate", root)
    assert valid.code == 0, valid.out
    assert valid.out.startswith("4 scenes")


def test_cancel_and_resume(kube: Kube, disturbed: Disturbed, reference: dict[str, str]) -> None:
    disturbed.running("keyframes")
    assert dynamicverse("cancel", disturbed.name, "--namespace", kube.namespace).code == 0
    assert kube.wait(disturbed.name, 200).phase == "Failed"
    done = dynamicverse(
        "resume", disturbed.name, "--namespace", kube.namespace, "--watch", "--json"
    )
    assert done.code == 0, done.out + done.err
    disturbed.is_complete(reference)
