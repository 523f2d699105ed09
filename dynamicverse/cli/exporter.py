"""`exporter`: a root's runs as Prometheus metrics."""

from __future__ import annotations

import signal
import sys
import threading
from typing import Annotated

import typer


def exporter(
    root: Annotated[str, typer.Option(help="The output root: a folder or an fsspec URL.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9464,
    address: Annotated[str, typer.Option(help="Where to listen.")] = "0.0.0.0",  # noqa: S104
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between readings.")] = 15.0,
    max_runs: Annotated[int, typer.Option(min=1, help="Show so many of the latest runs.")] = 50,
    once: Annotated[bool, typer.Option("--once", help="Print the metrics and end.")] = False,
) -> None:
    """Serve progress, throughput, failures and cost of all runs of a root to Prometheus.

    Everything is read from the runs' ledgers, so the figures outlive the pods that made them.
    """
    from prometheus_client.exposition import generate_latest

    from dynamicverse.errors import StorageError
    from dynamicverse.runner.store import Store
    from dynamicverse.telemetry.exporter import Exporter, keep_fresh
    from dynamicverse.telemetry.http import serve

    found = Exporter(Store(root), max_runs)
    if once:
        found.refresh()
        if not found.ready:
            raise StorageError(f"{root}: the ledgers cannot be read")
        sys.stdout.write(generate_latest(found.registry()).decode())
        return
    stop = threading.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, lambda *_: stop.set())
    with serve(found.registry(), address, port, lambda: found.ready) as chosen:
        print(f"metrics of {root} on http://{address}:{chosen}/metrics", flush=True)
        keep_fresh(found, interval, stop)
