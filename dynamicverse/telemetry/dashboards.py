"""The dashboards, written to helm/dynamicverse-monitoring/dashboards.

python -m dynamicverse.telemetry.dashboards            writes the files (in the repository's root)
python -m dynamicverse.telemetry.dashboards --check    fails when they are not what this says
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from dynamicverse.telemetry.grafana import Dashboard, Panel, Query, Variable

FOLDER = Path("helm") / "dynamicverse-monitoring" / "dashboards"

DATASET = Variable("dataset", "dynamicverse_run_sources", "dataset")
RUN = Variable("run", 'dynamicverse_run_sources{dataset=~"$dataset"}', "run")
STAGE = Variable("stage", 'dynamicverse_scenes{run=~"$run"}', "stage")
MODEL = Variable("model", "vllm:num_requests_running", "model_name")
NAMESPACE = Variable("namespace", "dynamicverse:gpus_allocated", "namespace")

R = 'dataset=~"$dataset",run=~"$run"'
S = f'{R},stage=~"$stage"'
M = 'model_name=~"$model"'
N = 'namespace=~"$namespace"'
SECONDS = "dynamicverse_stage_duration_seconds"
RATE = "$__rate_interval"
STATES = {
    "done": "green", "cached": "blue", "quarantined": "red", "blocked": "orange",
    "rejected": "purple", "pending": "gray",
}  # fmt: skip
BAD = ((1.0, "orange"),)


def _stat(title: str, expr: str, unit: str = "short", **more: object) -> Panel:
    return Panel(title, [Query(expr)], unit, "stat", width=4, height=4, **more)  # type: ignore[arg-type]


def _quantiles(metric: str, by: str, where: str, window: str = RATE) -> list[Query]:
    """The median and the 95th percentile of a histogram."""
    return [
        Query(
            f"histogram_quantile({q}, sum by ({by}{', ' if by else ''}le) "
            f"(rate({metric}_bucket{{{where}}}[{window}])))",
            f"p{round(100 * q)} {{{{{by}}}}}" if by else f"p{round(100 * q)}",
        )
        for q in (0.5, 0.95)
    ]


def _per(numerator: str, denominator: str) -> str:
    """A quotient, absent where nothing is counted yet."""
    return f"{numerator} / ({denominator} > 0)"


DONE = f'sum by (stage) (dynamicverse_scenes_processed_total{{{R},outcome="done"}})'

THROUGHPUT = Dashboard(
    "throughput",
    "Throughput",
    "All runs of the root: how fast they go, what fails, what it costs.",
    [
        ("Now", [
            _stat("Unfinished runs", f"count(dynamicverse_run_complete{{{R}}} == 0) or vector(0)"),
            _stat("Scenes per hour", f"3600 * sum(dynamicverse:run_scenes:rate30m{{{R}}})",
                  text="Through the whole pipeline, at the pace of half an hour."),
            _stat("Frames per second", f"sum(dynamicverse:stage_frames:rate15m{{{R}}})",
                  text="All stages together."),
            _stat("Failing share", f"max(dynamicverse:failure_ratio:30m{{{R}}}) or vector(0)",
                  "percentunit", steps=((0.02, "orange"), (0.1, "red")),
                  text="Of the worst stage, half an hour."),
            _stat("In quarantine", f"sum(dynamicverse:quarantined{{{R}}})", steps=BAD),
            _stat("Age of the figures",
                  "time() - max(dynamicverse_exporter_last_refresh_timestamp_seconds)", "s",
                  steps=((60.0, "orange"), (300.0, "red"))),
        ]),
        ("Runs", [
            Panel("Progress", [Query(f"dynamicverse_run_progress_ratio{{{R}}}", "{{run}}")],
                  "percentunit", "bargauge", width=12, largest=1.0),
            Panel("Time left", [
                Query(f"dynamicverse:run_eta_seconds:30m{{{R}}}", "{{run}}, pace of 30 min"),
                Query(f"dynamicverse_run_eta_seconds{{{R}}}", "{{run}}, pace of the whole run"),
            ], "s", width=12),
        ]),
        ("Stages", [
            Panel("Scenes per hour a stage",
                  [Query(f"sum by (stage) (3600 * dynamicverse:stage_scenes:rate15m{{{R}}})",
                         "{{stage}}")]),
            Panel("Frames per second a stage",
                  [Query(f"sum by (stage) (dynamicverse:stage_frames:rate15m{{{R}}})",
                         "{{stage}}")]),
            Panel("Seconds a scene, 95th percentile",
                  [Query(f"max by (stage) (dynamicverse:stage_duration_seconds:p95_1h{{{R}}})",
                         "{{stage}}")], "s"),
            Panel("Scenes that ended, by outcome",
                  [Query("sum by (outcome) (increase("
                         f"dynamicverse_scenes_processed_total{{{R}}}[{RATE}]))", "{{outcome}}")],
                  stacked=True, colours=STATES),
            Panel("Failures by reason",
                  [Query(f"sum by (reason) (increase(dynamicverse_scene_failures_total{{{R}}}"
                         f"[{RATE}]))", "{{reason}}")], stacked=True),
            Panel("Bytes from and to storage",
                  [Query(f"sum by (direction) (rate(dynamicverse_bytes_total{{{R}}}[{RATE}]))",
                         "{{direction}}")], "Bps"),
        ]),
    ],
    [DATASET, RUN],
)  # fmt: skip

ONE_RUN = Dashboard(
    "run",
    "A run",
    "One run: how far each stage is, when it will be done, what failed, what it cost.",
    [
        ("Now", [
            _stat("Progress", f"min(dynamicverse_run_progress_ratio{{{R}}})", "percentunit",
                  largest=1.0),
            _stat("Time left",
                  f"max(dynamicverse:run_eta_seconds:30m{{{R}}}) "
                  f"or max(dynamicverse_run_eta_seconds{{{R}}})", "s",
                  text="At the pace of half an hour; where that is nothing, of the whole run."),
            _stat("Inputs", f"sum(dynamicverse_run_sources{{{R}}})"),
            _stat("Scenes", f"sum(max by (dataset, run) (sum by (dataset, run, stage) "
                  f'(dynamicverse_scenes{{{R},stage!="ingest"}})))',
                  text="As far as is known: a source not yet ingested counts as one."),
            _stat("In quarantine", f"sum(dynamicverse:quarantined{{{R}}})", steps=BAD),
            _stat("Since the last event",
                  f"time() - max(dynamicverse_run_last_event_timestamp_seconds{{{R}}})", "s",
                  steps=((1800.0, "orange"),)),
        ]),
        ("Stages", [
            Panel("Done, by stage", [Query(
                f'1 - sum by (stage) (dynamicverse_scenes{{{R},state="pending"}}) '
                f"/ sum by (stage) (dynamicverse_scenes{{{R}}})", "{{stage}}", instant=True)],
                "percentunit", "bargauge", width=12, height=9, largest=1.0),
            Panel("Scenes by state",
                  [Query(f"sum by (state) (dynamicverse_scenes{{{R}}})", "{{state}}")],
                  stacked=True, width=12, height=9, colours=STATES,
                  text="Summed over the stages."),
            Panel("Progress over time",
                  [Query(f"dynamicverse_run_progress_ratio{{{R}}}", "{{run}}")], "percentunit",
                  largest=1.0),
            Panel("Scenes per hour a stage",
                  [Query(f"3600 * dynamicverse:stage_scenes:rate15m{{{R}}}", "{{stage}}")]),
            Panel("Seconds a scene, median and 95th percentile", [
                Query(f"dynamicverse:stage_duration_seconds:p50_1h{{{R}}}", "p50 {{stage}}"),
                Query(f"dynamicverse:stage_duration_seconds:p95_1h{{{R}}}", "p95 {{stage}}"),
            ], "s"),
        ]),
        ("Failures", [
            Panel("Failed so far, by stage and reason",
                  [Query(f"sum by (stage, reason) (dynamicverse_scene_failures_total{{{R}}}) > 0 "
                         "or on () vector(0)", "{{stage}} {{reason}}", instant=True)],
                  kind="bargauge", width=8),
            Panel("In quarantine",
                  [Query(f'sum by (stage) (dynamicverse_scenes{{{R},state="quarantined"}})',
                         "{{stage}}")], stacked=True),
            Panel("Tries beyond the first",
                  [Query(f"sum by (stage) (dynamicverse_scene_retries_total{{{R}}})",
                         "{{stage}}")], stacked=True),
        ]),
        ("Cost", [
            Panel("Spent so far",
                  [Query(f"sum by (pool) (dynamicverse_cost_usd_total{{{R}}})", "{{pool}}")],
                  "currencyUSD", stacked=True,
                  text="Compute and model load at the prices of cluster.prices; not the waiting."),
            Panel("Dollars a scene",
                  [Query(_per(f"sum by (stage) (dynamicverse_cost_usd_total{{{R}}})", DONE),
                         "{{stage}}", instant=True)], "currencyUSD", "bargauge"),
            Panel("GPU seconds a scene",
                  [Query(_per(f"sum by (stage) (dynamicverse_gpu_seconds_total{{{R}}})", DONE),
                         "{{stage}}", instant=True)], "s", "bargauge"),
        ]),
    ],
    [DATASET, RUN],
    "now-24h",
)  # fmt: skip

ONE_STAGE = Dashboard(
    "stage",
    "A stage",
    "One stage: how long scenes take, why they fail, and what its pods do at the moment.",
    [
        ("Ledger", [
            Panel("Seconds a scene", [Query(
                f"sum by (le) (increase({SECONDS}_bucket{{{S}}}[{RATE}]))", "{{le}}",
                heatmap=True)], "s", "heatmap", width=12),
            Panel("Seconds a scene, median and 95th percentile", [
                Query(f"max by (stage) (dynamicverse:stage_duration_seconds:p50_1h{{{S}}})",
                      "p50 {{stage}}"),
                Query(f"max by (stage) (dynamicverse:stage_duration_seconds:p95_1h{{{S}}})",
                      "p95 {{stage}}"),
            ], "s", width=12),
            Panel("Frames per second",
                  [Query(f"sum by (stage) (rate(dynamicverse_frames_total{{{S}}}[{RATE}]))",
                         "{{stage}}")]),
            Panel("Frames per second of compute",
                  [Query(_per(f"sum by (stage) (rate(dynamicverse_frames_total{{{S}}}[1h]))",
                              f"sum by (stage) (rate({SECONDS}_sum{{{S}}}[1h]))"), "{{stage}}")],
                  text="What one pod makes while it computes."),
            Panel("Failures by reason",
                  [Query(f"sum by (reason) (increase(dynamicverse_scene_failures_total{{{S}}}"
                         f"[{RATE}]))", "{{reason}}")], stacked=True),
            Panel("Share of the time that loads models",
                  [Query(_per(
                      f"sum by (stage) (dynamicverse_model_load_seconds_sum{{{S}}})",
                      f"sum by (stage) (dynamicverse_pool_seconds_total{{{S}}})"), "{{stage}}")],
                  "percentunit", text="Large: give shards more scenes (shard-scenes)."),
            Panel("Bytes from and to storage",
                  [Query(f"sum by (stage, direction) (rate(dynamicverse_bytes_total{{{S}}}"
                         f"[{RATE}]))", "{{stage}} {{direction}}")], "Bps"),
            Panel("Most memory of any scene",
                  [Query(f"max by (stage) (dynamicverse_stage_peak_memory_bytes{{{S}}})",
                         "{{stage}}")], "bytes"),
        ]),
        ("Pods at the moment", [
            Panel("Progress of the present scenes",
                  [Query('dynamicverse_pod_scene_progress_ratio{stage=~"$stage"}',
                         "{{stage}} {{pod}}")], "percentunit", largest=1.0),
            Panel("Age of the present scenes",
                  [Query("time() - (dynamicverse_pod_scene_start_timestamp_seconds"
                         '{stage=~"$stage"} > 0)', "{{stage}} {{pod}}")], "s"),
            Panel("Resident memory of the pods",
                  [Query("process_resident_memory_bytes * on (instance) group_left (stage) "
                         'dynamicverse_pod_scene_progress_ratio{stage=~"$stage"} ^ 0',
                         "{{stage}} {{pod}}")], "bytes"),
            Panel("Warnings",
                  [Query('sum by (stage) (rate(dynamicverse_pod_warnings_total{stage=~"$stage"}'
                         f"[{RATE}]))", "{{stage}}")]),
        ]),
    ],
    [DATASET, RUN, STAGE],
)  # fmt: skip

VLM = Dashboard(
    "vlm",
    "VLM service",
    "The vLLM servers: queue, latency, tokens, caches.",
    [
        ("Now", [
            _stat("Servers", f"count(vllm:num_requests_running{{{M}}}) or vector(0)"),
            _stat("Running", f"sum(vllm:num_requests_running{{{M}}})"),
            _stat("Waiting", f"sum(vllm:num_requests_waiting{{{M}}})",
                  steps=((8.0, "orange"), (32.0, "red"))),
            _stat("Tokens per second", f"sum(rate(vllm:generation_tokens_total{{{M}}}[{RATE}]))"),
            _stat("KV cache in use", f"max(vllm:kv_cache_usage_perc{{{M}}})", "percentunit",
                  largest=1.0),
            _stat("Answers per minute",
                  f"60 * sum(rate(vllm:request_success_total{{{M}}}[{RATE}]))"),
        ]),
        ("Requests", [
            Panel("Running and waiting", [
                Query(f"sum by (model_name) (vllm:num_requests_running{{{M}}})",
                      "running {{model_name}}"),
                Query(f"sum by (model_name) (vllm:num_requests_waiting{{{M}}})",
                      "waiting {{model_name}}"),
            ]),
            Panel("Time to the first token",
                  _quantiles("vllm:time_to_first_token_seconds", "model_name", M), "s"),
            Panel("Time of a request",
                  _quantiles("vllm:e2e_request_latency_seconds", "model_name", M), "s"),
            Panel("Time in the queue",
                  _quantiles("vllm:request_queue_time_seconds", "model_name", M), "s"),
            Panel("Answers by reason of their end",
                  [Query("sum by (finished_reason) "
                         f"(rate(vllm:request_success_total{{{M}}}[{RATE}]))",
                         "{{finished_reason}}")], "reqps", stacked=True,
                  text="length: cut off by the limit of tokens."),
            Panel("Preemptions",
                  [Query(f"sum by (model_name) (rate(vllm:num_preemptions_total{{{M}}}[{RATE}]))",
                         "{{model_name}}")], text="The KV cache is too small for the load."),
        ]),
        ("Tokens and caches", [
            Panel("Tokens per second", [
                Query(f"sum by (model_name) (rate(vllm:prompt_tokens_total{{{M}}}[{RATE}]))",
                      "prompt {{model_name}}"),
                Query(f"sum by (model_name) (rate(vllm:generation_tokens_total{{{M}}}[{RATE}]))",
                      "answer {{model_name}}"),
            ]),
            Panel("KV cache in use",
                  [Query(f"vllm:kv_cache_usage_perc{{{M}}}", "{{model_name}} {{pod}}")],
                  "percentunit", largest=1.0),
            Panel("Cache hits", [
                Query(_per(f"sum by (model_name) (vllm:prefix_cache_hits_total{{{M}}})",
                           f"sum by (model_name) (vllm:prefix_cache_queries_total{{{M}}})"),
                      "prefixes {{model_name}}"),
                Query(_per(f"sum by (model_name) (vllm:mm_cache_hits_total{{{M}}})",
                           f"sum by (model_name) (vllm:mm_cache_queries_total{{{M}}})"),
                      "pictures {{model_name}}"),
            ], "percentunit", largest=1.0),
        ]),
    ],
    [MODEL],
)  # fmt: skip

MACHINES = Dashboard(
    "gpus",
    "GPUs and cost",
    "What the GPUs do for their money: allocated against busy, seconds and dollars a scene.",
    [
        ("Now", [
            _stat("GPUs allocated", f"sum(dynamicverse:gpus_allocated{{{N}}})"),
            _stat("Busy", f"avg(dynamicverse:gpu_busy_percent{{{N}}})", "percent", largest=100.0),
            _stat("Pods pending", f"count(dynamicverse:pod_pending_seconds{{{N}}}) or vector(0)",
                  steps=BAD),
            _stat("Longest pending", f"max(dynamicverse:pod_pending_seconds{{{N}}}) or vector(0)",
                  "s", steps=((900.0, "orange"),)),
            _stat("Dollars an hour",
                  f"3600 * sum(rate(dynamicverse_cost_usd_total{{{R}}}[{RATE}]))", "currencyUSD"),
            _stat("Dollars a scene",
                  f"sum(sum by (stage) (dynamicverse_cost_usd_total{{{R}}}) / ({DONE} > 0))",
                  "currencyUSD", text="The stages' averages added up."),
        ]),
        ("GPUs", [
            Panel("Allocated and busy", [
                Query(f"sum(dynamicverse:gpus_allocated{{{N}}})", "allocated"),
                Query(f"sum(dynamicverse:gpu_busy_percent{{{N}}} * on (namespace, pod) "
                      "dynamicverse:gpus_allocated) / 100", "busy"),
            ], width=12),
            Panel("Busy, by pod",
                  [Query(f"dynamicverse:gpu_busy_percent{{{N}}}", "{{pod}}")], "percent",
                  width=12, largest=100.0),
            Panel("GPU memory in use",
                  [Query("sum by (Hostname, gpu) (DCGM_FI_DEV_FB_USED) * 1048576",
                         "{{Hostname}} {{gpu}}")], "bytes"),
            Panel("Power",
                  [Query("sum by (Hostname) (DCGM_FI_DEV_POWER_USAGE)", "{{Hostname}}")], "watt",
                  stacked=True),
            Panel("Waiting for a node",
                  [Query(f"dynamicverse:pod_pending_seconds{{{N}}}", "{{pod}}")], "s"),
        ]),
        ("Stages", [
            Panel("Pods at work, by stage",
                  [Query(f"sum by (stage) (rate(dynamicverse_pool_seconds_total{{{R}}}[{RATE}]))",
                         "{{stage}}")], stacked=True,
                  text="Compute seconds a second: pods that compute, on average."),
            Panel("GPU seconds a scene",
                  [Query(_per(f"sum by (stage) (dynamicverse_gpu_seconds_total{{{R}}})", DONE),
                         "{{stage}}", instant=True)], "s", "bargauge"),
            Panel("Dollars a scene",
                  [Query(_per(f"sum by (stage) (dynamicverse_cost_usd_total{{{R}}})", DONE),
                         "{{stage}}", instant=True)], "currencyUSD", "bargauge"),
            Panel("Dollars an hour, by pool",
                  [Query(f"3600 * sum by (pool) (rate(dynamicverse_cost_usd_total{{{R}}}[{RATE}]))",
                         "{{pool}}")], "currencyUSD", stacked=True),
            Panel("Share of the time that loads models",
                  [Query(_per(f"sum(dynamicverse_model_load_seconds_sum{{{R}}})",
                              f"sum(dynamicverse_pool_seconds_total{{{R}}})"), "all stages")],
                  "percentunit"),
        ]),
    ],
    [DATASET, RUN, NAMESPACE],
)  # fmt: skip

ALL = (THROUGHPUT, ONE_RUN, ONE_STAGE, VLM, MACHINES)


def render() -> dict[str, str]:
    """File name → content."""
    return {
        f"{one.uid}.json": json.dumps(one.to_json(), indent=2, ensure_ascii=False) + "\n"
        for one in ALL
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the files, or compare them; returns the exit code."""
    check = list(sys.argv[1:] if arguments is None else arguments) == ["--check"]
    drifted = []
    for name, text in render().items():
        path = FOLDER / name
        if path.is_file() and path.read_text("utf-8") == text:
            continue
        drifted.append(name)
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, "utf-8")
    if check and drifted:
        command = "python -m dynamicverse.telemetry.dashboards"
        print(f"out of date: {', '.join(drifted)}; run `{command}`", file=sys.stderr)
    return 1 if check and drifted else 0


if __name__ == "__main__":
    sys.exit(main())
