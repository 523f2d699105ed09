"""Runs as Prometheus metrics. Every label has few values: never a scene, a source or a shard."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    SummaryMetricFamily,
)

from dynamicverse import __version__
from dynamicverse.telemetry import figures
from dynamicverse.telemetry.progress import Progress, StageProgress

RUN = ("dataset", "run")
STAGE = (*RUN, "stage")
PENDING = "pending"


def build_info() -> Metric:
    """The version, as a gauge of 1."""
    found = GaugeMetricFamily(
        "dynamicverse_build_info", "Version of the program", labels=("version", "python")
    )
    found.add_metric((__version__, platform.python_version()), 1)
    return found


def of_runs(runs: Iterable[Progress]) -> Iterator[Metric]:
    """All metrics of some runs."""
    runs = tuple(runs)
    yield from _of_runs(runs)
    stages = [((p.dataset, p.run, s.stage), p, s) for p in runs for s in p.stages]
    for metrics in (_counts, _work, _durations, _resources):
        yield from metrics(stages)


Stages = list[tuple[tuple[str, str, str], Progress, StageProgress]]


def _of_runs(runs: tuple[Progress, ...]) -> Iterator[Metric]:
    def gauge(name: str, text: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(f"dynamicverse_run_{name}", text, labels=RUN)

    sources = gauge("sources", "Inputs of the run")
    shards = gauge("shards", "Shards that the run is cut into")
    ratio = gauge("progress_ratio", "Share of the run's work that has ended, 0 to 1")
    complete = gauge("complete", "1 when every scene has ended at every stage")
    eta = gauge("eta_seconds", "Seconds left at the pace of the whole run so far")
    first = gauge("first_event_timestamp_seconds", "Time of the first event in the ledger")
    last = gauge("last_event_timestamp_seconds", "Time of the last event in the ledger")
    for run in runs:
        labels = (run.dataset, run.run)
        sources.add_metric(labels, run.sources)
        shards.add_metric(labels, run.shards)
        ratio.add_metric(labels, run.ratio)
        complete.add_metric(labels, float(run.complete))
        if run.last:
            first.add_metric(labels, run.first)
            last.add_metric(labels, run.last)
        if (left := run.eta_seconds) is not None:
            eta.add_metric(labels, left)
    yield from (sources, shards, ratio, complete, eta, first, last)


def _counts(stages: Stages) -> Iterator[Metric]:
    scenes = GaugeMetricFamily(
        "dynamicverse_scenes",
        "Scenes (for ingest: sources) by their last outcome at a stage",
        labels=(*STAGE, "state"),
    )
    processed = CounterMetricFamily(
        "dynamicverse_scenes_processed",
        "Times that a stage ended for a scene, each attempt counted",
        labels=(*STAGE, "outcome"),
    )
    failures = CounterMetricFamily(
        "dynamicverse_scene_failures",
        "Times that a scene went into quarantine",
        labels=(*STAGE, "reason"),
    )
    retries = CounterMetricFamily(
        "dynamicverse_scene_retries", "Tries of scenes beyond the first", labels=STAGE
    )
    for labels, _, stage in stages:
        for state, count in zip(figures.OUTCOMES, stage.row[figures.ENDED], strict=True):
            scenes.add_metric((*labels, state), count)
        scenes.add_metric((*labels, PENDING), max(stage.expected - stage.finished, 0))
        for outcome, count in zip(figures.OUTCOMES, stage.row[figures.EVENTS], strict=True):
            processed.add_metric((*labels, outcome), count)
        for reason, count in zip(figures.REASONS, stage.row[figures.FAILED], strict=True):
            failures.add_metric((*labels, reason), count)  # zeros too: `increase` needs them
        retries.add_metric(labels, stage.row[figures.RETRIES])
    yield from (scenes, processed, failures, retries)


def _work(stages: Stages) -> Iterator[Metric]:
    frames = CounterMetricFamily(
        "dynamicverse_frames", "Frames that a stage has processed", labels=STAGE
    )
    moved = CounterMetricFamily(
        "dynamicverse_bytes",
        "Bytes brought from a remote root (in) and to it (out)",
        labels=(*STAGE, "direction"),
    )
    for labels, _, stage in stages:
        frames.add_metric(labels, stage.row[figures.FRAMES])
        moved.add_metric((*labels, "in"), stage.row[figures.BYTES_IN])
        moved.add_metric((*labels, "out"), stage.row[figures.BYTES_OUT])
    yield from (frames, moved)


def _durations(stages: Stages) -> Iterator[Metric]:
    durations = HistogramMetricFamily(
        "dynamicverse_stage_duration_seconds",
        "Compute time of a stage for one scene",
        labels=STAGE,
    )
    loads = SummaryMetricFamily(
        "dynamicverse_model_load_seconds",
        "Time to load a stage's model, once a shard",
        labels=STAGE,
    )
    bounds = [*map(str, figures.BUCKETS), "+Inf"]
    for labels, _, stage in stages:
        cumulated = stage.row[figures.DURATIONS].cumsum()
        buckets = list(zip(bounds, cumulated.tolist(), strict=True))
        durations.add_metric(labels, buckets, sum_value=stage.row[figures.SECONDS])
        loads.add_metric(
            labels,
            count_value=stage.row[figures.LOADS],
            sum_value=stage.row[figures.LOAD_SECONDS],
        )
    yield from (durations, loads)


def _resources(stages: Stages) -> Iterator[Metric]:
    pooled = (*STAGE, "pool")
    spent = CounterMetricFamily(
        "dynamicverse_pool_seconds",
        "Seconds of compute and model load of pods, by pool (a type of GPU, or cpu)",
        labels=pooled,
    )
    gpu = CounterMetricFamily(
        "dynamicverse_gpu_seconds",
        "Seconds of compute and model load on a GPU",
        labels=pooled,
    )
    cost = CounterMetricFamily(
        "dynamicverse_cost_usd",
        "Pool seconds at the prices of the run's configuration (cluster.prices)",
        labels=pooled,
    )
    peak = GaugeMetricFamily(
        "dynamicverse_stage_peak_memory_bytes", "Most resident memory of any scene", labels=STAGE
    )
    for labels, run, stage in stages:
        for pool, seconds in stage.pools.items():
            spent.add_metric((*labels, pool), seconds)
            if pool != figures.CPU:
                gpu.add_metric((*labels, pool), seconds)
            if pool in run.prices:
                cost.add_metric((*labels, pool), seconds / 3600 * run.prices[pool])
        peak.add_metric(labels, stage.peak)
    yield from (spent, gpu, cost, peak)
