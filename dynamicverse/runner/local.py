"""A whole run on this machine: worker processes that each take shards through all stages.

Decoders and numerical libraries meet untrusted input here, so the work is done in child
processes: one that dies takes no other scene with it, and a scene that kills its process
twice is put into quarantine.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from dynamicverse.cores import available
from dynamicverse.errors import ConfigError, DynamicVerseError, Reason, reason_of
from dynamicverse.runner import plan as planning
from dynamicverse.runner import quarantine
from dynamicverse.runner.events import Event, Observer
from dynamicverse.runner.execute import ShardWorker, one_line
from dynamicverse.runner.ledger import Ledger, Outcome
from dynamicverse.runner.plan import Run
from dynamicverse.runner.starts import MAX_CRASHES
from dynamicverse.runner.store import Store, Workspace, scratch_folder

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class _Child:
    """A worker process, the shard it works on and the scene it has in hand."""

    process: Any
    pipe: Connection
    shard: int | None = None
    busy: Event | None = None


@dataclass
class LocalRunner:
    """Runs all stages of a run for all its shards with `workers` processes.

    workers = 0 works in this process: for debugging, and for stores that only this process
    can see (`memory://`).
    """

    run: Run
    workers: int
    observer: Observer
    counts: Counter[Outcome] = field(default_factory=Counter)
    _crashes: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __call__(self) -> Counter[Outcome]:
        """Do the run; returns how the attempts ended.

        Raises the first error that stops a run: storage away, a model missing.
        """
        shards = range(self.run.plan.shards)
        with _lock(self.run), scratch_folder(self.run.store) as scratch:
            if self.workers == 0:
                worker = ShardWorker(
                    self.run, Workspace(self.run.store, _mine(scratch, 0)), self._observe
                )
                for shard in shards:
                    _all_stages(worker, shard)
            else:
                self._supervise(deque(shards), min(self.workers, len(shards)), scratch)
        return self.counts

    def _observe(self, event: Event) -> None:
        if event.outcome is not None:
            self.counts[event.outcome] += 1
        self.observer(event)

    def _supervise(self, todo: deque[int], count: int, scratch: Path | None) -> None:
        """Hand shards to children until all are done."""
        children = [self._spawn(i, count, _mine(scratch, i)) for i in range(count)]
        try:
            while todo or any(child.shard is not None for child in children):
                for child in children:
                    if child.shard is None and todo:
                        child.shard = todo.popleft()
                        child.pipe.send(child.shard)
                busy = {c.pipe: i for i, c in enumerate(children) if c.shard is not None}
                for pipe in wait(list(busy)):
                    index = busy[pipe]  # type: ignore[index]
                    if not self._receive(children[index]):
                        self._bury(children[index], todo)
                        children[index] = self._spawn(index, count, _mine(scratch, index))
        finally:
            for child in children:
                _stop(child)

    def _spawn(self, index: int, count: int, scratch: Path | None) -> _Child:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        threads = max(1, available() // count)
        with _environment({name: str(threads) for name in THREAD_VARIABLES}):
            process = context.Process(
                target=_child,
                args=(theirs, self.run.store.url, self.run.plan.run, scratch, threads),
                name=f"dynamicverse-{index}",
            )
            process.start()
        theirs.close()
        return _Child(process, ours)

    def _receive(self, child: _Child) -> bool:
        """Take one message; False if the child has died."""
        try:
            message = child.pipe.recv()
        except (EOFError, ConnectionResetError):
            return False
        if isinstance(message, Event):
            if message.kind == "start":
                child.busy = message
            elif message.kind == "finish" and child.busy and child.busy.name == message.name:
                child.busy = None
            self._observe(message)
        elif isinstance(message, tuple):
            text, reason = message
            raise DynamicVerseError(text, reason)
        else:
            child.shard = child.busy = None
        return True

    def _bury(self, child: _Child, todo: deque[int]) -> None:
        """A child died: count it against its scene and put its shard back."""
        child.process.join()
        assert child.shard is not None
        code = child.process.exitcode
        died = f"signal {-code}" if code < 0 else f"exit code {code}"
        todo.appendleft(child.shard)
        event = child.busy or Event("start", "", f"shard {child.shard}")
        self._crashes[event.stage, event.name] += 1
        crashes = self._crashes[event.stage, event.name]
        message = f"the process died ({died}) while it worked on this scene"
        if code == -signal.SIGKILL:
            message += "; perhaps the machine ran out of memory"
        self.observer(Event("warning", event.stage, event.name, message=message))
        if crashes >= MAX_CRASHES and not event.stage:
            raise DynamicVerseError(f"worker processes end ({died}) before they begin any work")
        if crashes >= MAX_CRASHES:
            self._quarantine(event, child.shard, message, crashes)

    def _quarantine(self, event: Event, shard: int, message: str, crashes: int) -> None:
        record = quarantine.Record(
            dataset=self.run.plan.dataset,
            name=event.name,
            source=event.source,
            stage=event.stage,
            reason=Reason.CRASHED,
            message=message,
            traceback="",
            attempt=crashes,
            key=event.key,
            run=self.run.plan.run,
            shard=shard,
            time=quarantine.now(),
        )
        quarantine.put(self.run.store, record)
        with Ledger(self.run.store, self.run.folder, event.stage, shard) as ledger:
            ledger.add(
                name=event.name,
                outcome=Outcome.QUARANTINED,
                reason=Reason.CRASHED,
                key=event.key,
            )


def _all_stages(worker: ShardWorker, shard: int) -> None:
    for stage in worker.run.plan.stages:
        worker.execute(stage, shard)
    worker.workspace.evict()


def _child(
    pipe: Connection, store_url: str, run_name: str, scratch: Path | None, threads: int
) -> None:
    """The worker process: receives shard indices, sends events, None after each shard."""
    _die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    sending = threading.Lock()

    def send(event: Event) -> None:
        with sending:
            pipe.send(event)

    try:
        import cv2

        cv2.setNumThreads(threads)
        store = Store(store_url)
        worker = ShardWorker(planning.open_named(store, run_name), Workspace(store, scratch), send)
        while True:
            _all_stages(worker, pipe.recv())
            with sending:
                pipe.send(None)
    except EOFError:
        return
    except DynamicVerseError as error:
        with sending:
            pipe.send((one_line(error), reason_of(error)))


def _die_with_parent() -> None:
    """End this process when its parent is killed, so that a new run finds the tree alone."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _stop(child: _Child) -> None:
    if child.shard is not None:
        child.process.terminate()
    child.pipe.close()
    child.process.join(timeout=10)
    if child.process.is_alive():
        child.process.kill()
        child.process.join()


@contextlib.contextmanager
def _lock(run: Run) -> Iterator[None]:
    """One local run at a time on a dataset; the system frees the lock however we end."""
    if run.store.local is None:
        yield
        return
    import fcntl

    path = run.store.local / run.plan.dataset / ".lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"another run is working on {path.parent}; wait for it, or use another --dataset"
            ) from error
        yield


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Variables for a child that is started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _mine(scratch: Path | None, index: int) -> Path | None:
    return None if scratch is None else scratch / f"worker-{index}"
