"""A finished run's ledger, written once more in the order in which it came to be."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path


class Replay:
    """A root that has the plan of a finished run, and bit by bit its ledger."""

    def __init__(self, finished: Path, root: Path) -> None:
        self.root = root
        (run,) = (p for p in (finished / ".runs").iterdir() if p.name[0] != ".")
        self._target = root / ".runs" / run.name
        self._target.mkdir(parents=True)
        shutil.copy(run / "plan.json", self._target)
        lines = [
            (json.loads(line)["time"], path.relative_to(run), line)
            for path in sorted(run.glob("ledger/*/*.jsonl"))
            for line in path.read_text().splitlines(keepends=True)
        ]
        self._left = sorted(lines)

    @property
    def left(self) -> int:
        """How many lines are still to be written."""
        return len(self._left)

    @property
    def next_time(self) -> float:
        """When the next line was written; s since the epoch."""
        return datetime.fromisoformat(self._left[0][0]).timestamp()

    def write(self, count: int) -> None:
        """Write so many lines."""
        for _, relative, line in self._left[:count]:
            path = self._target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as file:
                file.write(line)
        self._left = self._left[count:]

    def plan_another(self) -> None:
        """A second run that has not begun."""
        plan = json.loads((self._target / "plan.json").read_text())
        plan["run"] = "another-0123456789"
        other = self._target.with_name(plan["run"])
        other.mkdir()
        (other / "plan.json").write_text(json.dumps(plan))
