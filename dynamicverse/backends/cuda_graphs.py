"""Functions that launch many small kernels, replayed as CUDA graphs.

A network that works frame by frame and object by object keeps the CPU busier than the GPU:
launching its kernels takes longer than running them. A graph launches them all at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils import _pytree as pytree

MOST = 64  # graphs of one function: further shapes run as they are
SCARCE = 8  # of the device's memory less than this part is free
AFTER = 8  # runs of a shape; a capture takes as long as a few of them


class Graphed:
    """A function of tensors without data-dependent control flow; the same results, faster.

    Every combination of shapes and other arguments runs as it is AFTER times, is captured then,
    and is replayed from then on. Not safe for several threads. Without CUDA tensors among its
    arguments it is the function itself.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._seen: Counter[Any] = Counter()
        self._graphs: dict[Any, tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]] = {}
        self._pool: Any = None
        self._aside: Any = None  # one stream for all captures: the pool's blocks are bound to it

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        leaves, form = pytree.tree_flatten((arguments, named))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not any(tensor.is_cuda for tensor in tensors):
            return self._function(*arguments, **named)
        key = tuple(
            (leaf.shape, leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves
        )
        if key not in self._graphs:
            self._seen[key] += 1
            if self._seen[key] <= AFTER or len(self._graphs) == MOST:
                return self._function(*arguments, **named)
            self._graphs[key] = self._captured(leaves, form)
        graph, inputs, output = self._graphs[key]
        for held, given in zip(inputs, tensors, strict=True):
            held.copy_(given)
        graph.replay()
        # the next replay writes over the graph's own tensors
        return pytree.tree_map_only(torch.Tensor, torch.clone, output)

    def _captured(
        self, leaves: list[Any], form: Any
    ) -> tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]:
        held = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        arguments, named = pytree.tree_unflatten(held, form)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
            self._aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        graph = torch.cuda.CUDAGraph()
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # a graph must not read what autocast drops
        try:
            # not `torch.cuda.graph`: it empties the allocator's cache and collects garbage, which
            # takes longer than the capture
            torch.cuda.synchronize()
            free, total = torch.cuda.mem_get_info()
            if free < total // SCARCE:  # while it captures, the allocator cannot free its cache
                torch.cuda.empty_cache()
            with torch.cuda.stream(self._aside):
                # other threads go on decoding and copying meanwhile
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                try:
                    output = self._function(*arguments, **named)
                finally:
                    graph.capture_end()
            torch.cuda.synchronize()
        finally:
            torch.set_autocast_cache_enabled(cached)
        return graph, [leaf for leaf in held if isinstance(leaf, torch.Tensor)], output
