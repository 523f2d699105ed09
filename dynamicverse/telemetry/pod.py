"""What one pod does now, at its own /metrics: the live view.

These counters die with the pod, so their names differ from the exporter's (`dynamicverse_pod_…`)
and nothing is counted twice: totals come from the ledger, the present moment from here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.registry import Collector

from dynamicverse.errors import ConfigError
from dynamicverse.runner.events import Event, Observer
from dynamicverse.runner.ledger import Outcome
from dynamicverse.telemetry import exposition
from dynamicverse.telemetry.figures import BUCKETS
from dynamicverse.telemetry.http import serve

PORT = "DYNAMICVERSE_METRICS_PORT"


class _BuildInfo(Collector):
    collect = staticmethod(lambda: [exposition.build_info()])


class PodMetrics:
    """Counts the events of one stage; an observer that passes them on."""

    def __init__(self, stage: str, observer: Observer) -> None:
        self._pass_on = observer
        self.registry = registry = CollectorRegistry()
        registry.register(_BuildInfo())
        ProcessCollector(registry=registry)
        prefix, labels = "dynamicverse_pod", ("stage",)
        self._processed = Counter(
            f"{prefix}_scenes_processed", "Scenes by outcome", (*labels, "outcome"),
            registry=registry,
        )  # fmt: skip
        self._failures = Counter(
            f"{prefix}_scene_failures", "Scenes put into quarantine", (*labels, "reason"),
            registry=registry,
        )  # fmt: skip
        self._durations = Histogram(
            f"{prefix}_stage_duration_seconds", "Compute time for one scene", labels,
            buckets=BUCKETS, registry=registry,
        ).labels(stage)  # fmt: skip
        self._frames = Counter(
            f"{prefix}_frames", "Frames processed", labels, registry=registry
        ).labels(stage)
        self._warnings = Counter(
            f"{prefix}_warnings", "Warnings of the stage", labels, registry=registry
        ).labels(stage)
        self._progress = Gauge(
            f"{prefix}_scene_progress_ratio", "Progress of the present scene, 0 to 1", labels,
            registry=registry,
        ).labels(stage)  # fmt: skip
        self._started = Gauge(
            f"{prefix}_scene_start_timestamp_seconds",
            "When the work on the present scene began; 0 between scenes", labels,
            registry=registry,
        ).labels(stage)  # fmt: skip
        self._stage = stage
        for outcome in Outcome:  # a rate needs the zero before the first event
            self._processed.labels(stage, outcome.value)

    def __call__(self, event: Event) -> None:
        """Count an event; called from several threads."""
        if event.kind == "start":
            self._started.set(time.time())
            self._progress.set(0)
        elif event.kind == "progress" and event.total:
            self._progress.set(event.done / event.total)
        elif event.kind == "warning":
            self._warnings.inc()
        elif event.kind == "finish":
            self._finish(event)
        self._pass_on(event)

    def _finish(self, event: Event) -> None:
        assert event.outcome is not None
        self._processed.labels(self._stage, event.outcome.value).inc()
        if event.outcome is Outcome.QUARANTINED:
            self._failures.labels(self._stage, event.reason).inc()
        if event.outcome is Outcome.DONE:
            self._durations.observe(event.seconds)
            self._frames.inc(event.frames)
        self._started.set(0)
        self._progress.set(0)


@contextmanager
def pod_metrics(stage: str, observer: Observer) -> Iterator[Observer]:
    """The observer to give to the worker; serves /metrics on `$DYNAMICVERSE_METRICS_PORT`.

    Without that variable it is the given observer and no port is opened.
    """
    text = os.environ.get(PORT, "")
    if not text:
        yield observer
        return
    if not text.isdigit() or int(text) > 65535:
        raise ConfigError(f"{PORT}={text}: not a port")
    metrics = PodMetrics(stage, observer)
    with serve(metrics.registry, "0.0.0.0", int(text)):  # noqa: S104 - Prometheus is outside
        yield metrics
