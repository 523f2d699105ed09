"""What the neural backends share: the device, batches that fit its memory, reading ahead."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt
import torch

from dynamicverse.errors import MissingModelError

Item = TypeVar("Item")
Result = TypeVar("Result")
Rgb = npt.NDArray[np.uint8]

_END: Any = object()
_AS_THEY_ARE = (torch.bool, torch.uint8)


def package(module: str, backend: str, install: str) -> ModuleType:
    """Import a package that a backend needs; raises MissingModelError with how to install it."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingModelError(
            f"backend '{backend}' needs the package {module} ({error}); install it: {install}"
        ) from error


def device() -> torch.device:
    """The CUDA device where there is one, else the CPU: the same results, far slower.

    On CUDA, products of single precision use TF32: 10 bits of mantissa, as convolutions do.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cuda.matmul.allow_tf32 = True
    return torch.device("cuda")


def half(where: torch.device) -> torch.autocast:
    """Half precision where the model's authors use it too; on the CPU nothing changes."""
    return torch.autocast(where.type, torch.float16, enabled=where.type == "cuda")


@cache
def fused(kind: str) -> ModuleType | None:
    """The fused kernels for a kind of device; None where they cannot run, PyTorch's own do then.

    They need a GPU, Triton, a C compiler and Python's headers.
    """
    if kind != "cuda" or find_spec("triton") is None:
        return None
    kernels = import_module("dynamicverse.backends.kernels")
    return kernels if kernels.usable() else None


def fuse_norms(network: torch.nn.Module) -> None:
    """Let a network's layer norms give the half precision in which they are read; GPUs only."""
    first = next(network.parameters(), None)
    kernels = None if first is None else fused(first.device.type)
    if kernels is None:
        return
    for layer in network.modules():
        if type(layer) is torch.nn.LayerNorm:
            layer.forward = partial(_normalised, kernels, layer)  # type: ignore[method-assign]


def _normalised(kernels: Any, layer: Any, values: torch.Tensor) -> torch.Tensor:
    kind = torch.float16 if values.dtype == torch.float32 else values.dtype
    found: torch.Tensor = kernels.normalised(values, layer.weight, layer.bias, layer.eps, kind)
    return found


def upload(frames: Sequence[Rgb], where: torch.device) -> torch.Tensor:
    """Frames (H,W,3) as one uint8 tensor (B,3,H,W) on the device."""
    stacked_BHW3 = torch.from_numpy(np.stack(frames))
    if where.type == "cuda":
        stacked_BHW3 = stacked_BHW3.pin_memory()
    return stacked_BHW3.to(where, non_blocking=True).permute(0, 3, 1, 2)


class Coming:
    """Tensors on their way from the device, as arrays of bytes, booleans or single precision.

    From a GPU they come through pinned memory, which is several times as fast, and which the
    arrays keep. Made where the tensors were computed; the next may be launched meanwhile.
    """

    def __init__(self, *values: torch.Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        self._host = [
            self._sent(one if one.dtype in _AS_THEY_ARE else one.float()) for one in values
        ]
        if any(one.is_cuda for one in values):
            self._ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._ready.record()

    def arrived(self) -> list[npt.NDArray[Any]]:
        """The arrays; waits for them."""
        if self._ready is not None:
            self._ready.synchronize()
        return [host.numpy() for host in self._host]

    def rows(self) -> Iterator[Any]:
        """A tuple of the first rows of all, then one of the second ones, …

        Waits for them when the first is read.
        """
        yield from zip(*self.arrived(), strict=True)

    def _sent(self, values: torch.Tensor) -> torch.Tensor:
        values = values.detach()
        if not values.is_cuda:
            return values
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        return host.copy_(values, non_blocking=True)


def download(values: torch.Tensor) -> npt.NDArray[np.float32]:
    """A tensor as a float32 array; see `Coming`."""
    return cast("npt.NDArray[np.float32]", Coming(values.float()).arrived()[0])


def ahead(
    items: Iterable[Item], worker: ThreadPoolExecutor | None = None
) -> Generator[Item, None, None]:
    """The same items; the next one is made in a thread while this one is used.

    To be closed, also after an error: left to the garbage collector, which may run in a thread
    that is just starting, its end waits for a lock that this thread holds.

    worker: an executor with one thread, for work that is dearer in a new one; None: a thread of
    its own.
    """
    iterator = iter(items)
    with ExitStack() as held:
        if worker is None:
            worker = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="ahead"))
        coming = worker.submit(next, iterator, _END)
        held.callback(lambda: coming.cancel() or wait([coming]))
        while (item := coming.result()) is not _END:
            coming = worker.submit(next, iterator, _END)
            yield item


class Batches:
    """Runs a model on batches: reads ahead of it, and hands results on while it runs.

    When the device is out of memory, the batch is halved for good and said in `notes`. worker:
    see `ahead`.
    """

    def __init__(
        self, size: int, notes: list[str], worker: ThreadPoolExecutor | None = None
    ) -> None:
        self.size = size
        self._notes, self._worker = notes, worker

    def run(
        self, items: Iterable[Item], compute: Callable[[list[Item]], Iterable[Result]]
    ) -> Iterator[Result]:
        """One result an item, in order; `compute` gives the results of a list of items.

        They are read here while the next are computed: if they are still on their way from the
        device (`Coming.rows`), it does not wait for that. Raises torch.OutOfMemoryError when a
        single item does not fit.
        """
        with (
            closing(ahead(_batched(items, self.size))) as batches,
            closing(ahead(self._computed(batches, compute), self._worker)) as computed,
        ):
            for results in computed:
                yield from results

    def _computed(
        self, batches: Iterable[list[Item]], compute: Callable[[list[Item]], Iterable[Result]]
    ) -> Iterator[Iterable[Result]]:
        for batch in batches:
            yield from self.parts(batch, compute)

    def parts(
        self, items: Sequence[Item], compute: Callable[[list[Item]], Iterable[Result]]
    ) -> Iterator[Iterable[Result]]:
        """`compute` on parts of the items that fit, in order."""
        start = 0
        while start < len(items):
            part = list(items[start : start + self.size])
            results = _attempt(part, compute)
            if results is None:
                torch.cuda.empty_cache()
                self.size = len(part) // 2
                self._notes.append(f"out of memory with a batch of {len(part)}: now {self.size}")
                continue
            start += len(part)
            yield results


class Network:
    """What every backend with a network has: its device, its batches, and notes for the user.

    Its thread stays, from clip to clip: cuDNN and cuBLAS prepare for each thread anew, which
    takes longer than some clips.
    """

    def __init__(self, batch: int, kernels: bool = False) -> None:
        """kernels: the network has a use for fused ones."""
        self.notes: list[str] = []
        self._where = device()
        self.device = str(self._where)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._batches = Batches(batch, self.notes, self._thread)
        if kernels and self._where.type == "cuda" and fused("cuda") is None:
            self.notes.append(
                "slower than it could be: no Triton, or no C compiler and Python headers for it"
            )


def _attempt(
    items: list[Item], compute: Callable[[list[Item]], Iterable[Result]]
) -> Iterable[Result] | None:
    """The results, or None when memory ran out; then nothing holds on to the tensors."""
    try:
        with torch.inference_mode():
            return compute(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
        return None


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
