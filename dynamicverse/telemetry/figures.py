"""What one ledger file says, as one row of figures that can be added to other rows.

A row is everything the exporter keeps of a shard at a stage: no name of a scene stays in
memory, so a run of any size costs some hundred bytes a shard and stage.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from dynamicverse.errors import Reason
from dynamicverse.runner.ledger import Outcome

BUCKETS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)
OUTCOMES = tuple(outcome.value for outcome in Outcome)
REASONS = tuple(reason.value for reason in Reason)
CPU = "cpu"

# The columns of a row. ENDED counts each scene once, as its last event says; the others
# count events.
ENDED = slice(0, len(OUTCOMES))
EVENTS = slice(ENDED.stop, ENDED.stop + len(OUTCOMES))
FAILED = slice(EVENTS.stop, EVENTS.stop + len(REASONS))
DURATIONS = slice(FAILED.stop, FAILED.stop + len(BUCKETS) + 1)  # the last: longer than all
FRAMES, SECONDS, LOADS, LOAD_SECONDS, BYTES_IN, BYTES_OUT, RETRIES, SCENES = range(
    DURATIONS.stop, DURATIONS.stop + 8
)
WIDTH = SCENES + 1

_NUMBERS = (
    "seconds", "pod_seconds", "load_seconds", "frames", "bytes_in", "bytes_out", "tries",
    "peak_memory",
)  # fmt: skip
_OUTCOME_INDEX = {outcome: i for i, outcome in enumerate(OUTCOMES)}
_REASON_INDEX = {reason: i for i, reason in enumerate(REASONS)}


@dataclass
class Figures:
    """One ledger file added up.

    row: WIDTH numbers, in the order of the columns above. pools: seconds of compute and model
    load by GPU pool. first, last: seconds since the epoch, 0 before any event. peak: bytes.
    """

    row: list[float] = field(default_factory=lambda: [0.0] * WIDTH)
    pools: dict[str, float] = field(default_factory=dict)
    first: float = 0.0
    last: float = 0.0
    peak: float = 0.0


def of_file(data: bytes) -> Figures:
    """Add up the events in a ledger file; a torn last line is passed over."""
    found = Figures()
    row = found.row
    ends: dict[str, int] = {}
    scenes: dict[str, int] = {}
    first, last = "", ""
    for event in _events(data):
        outcome = _OUTCOME_INDEX[event["outcome"]]
        ends[event["name"]] = outcome
        if "scenes" in event or event["name"] not in scenes:  # a cached source names none
            scenes[event["name"]] = len(event.get("scenes", ())) or 1
        row[EVENTS.start + outcome] += 1
        _add_work(found, event)
        if time := event.get("time", ""):
            first = min(first or time, time)
            last = max(last, time)
    for outcome in ends.values():
        row[ENDED.start + outcome] += 1
    row[SCENES] = sum(scenes.values())
    if last:
        found.first, found.last = _seconds(first), _seconds(last)
    return found


def _add_work(found: Figures, event: dict[str, Any]) -> None:
    """Add what an event says of time, frames, bytes and failures."""
    row = found.row
    seconds = float(event.get("seconds", 0.0))
    load = float(event.get("load_seconds", 0.0))
    if seconds or load:
        pool = str(event.get("pool", CPU))
        # a pod's time is shared by the scenes that it had in flight together
        spent = float(event.get("pod_seconds", seconds)) + load
        found.pools[pool] = found.pools.get(pool, 0.0) + spent
    if load:
        row[LOADS] += 1
        row[LOAD_SECONDS] += load
    row[BYTES_IN] += event.get("bytes_in", 0)
    row[BYTES_OUT] += event.get("bytes_out", 0)
    row[RETRIES] += max(int(event.get("tries", 1)) - 1, 0)
    found.peak = max(found.peak, float(event.get("peak_memory", 0)))
    if event["outcome"] == Outcome.DONE:
        row[FRAMES] += event.get("frames", 0)
        row[SECONDS] += seconds
        row[DURATIONS.start + bisect_left(BUCKETS, seconds)] += 1
    elif event["outcome"] == Outcome.QUARANTINED:
        # a reason that another version of the package wrote counts as ours
        reason = _REASON_INDEX.get(event.get("reason", ""), _REASON_INDEX[Reason.INTERNAL])
        row[FAILED.start + reason] += 1


def _events(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines():
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and _is_end(event):
            yield event


def _is_end(event: dict[str, Any]) -> bool:
    """True for the end of a scene with figures of the right types."""
    return (
        isinstance(event.get("name"), str)
        and isinstance(event.get("time", ""), str)
        and event.get("outcome") in OUTCOMES
        and all(isinstance(event.get(number, 0), int | float) for number in _NUMBERS)
    )


def _seconds(time: str) -> float:
    try:
        return datetime.fromisoformat(time).timestamp()
    except ValueError:
        return 0.0  # as of no event: a torn write can leave anything
