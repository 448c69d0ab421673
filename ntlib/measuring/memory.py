"""Bytes that live tensors hold: while a function runs, and in a model's state."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Callable, Mapping

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def peak_bytes(fn: Callable[[], object], device: str | torch.device = "cpu") -> int:
    """Peak bytes of tensor storage allocated, and alive at the same time, while ``fn()`` runs.

    Memory that was alive before does not count: the result is what the call adds at its worst
    moment. A storage counts once however many views it has, from the operation that made it until
    its last owner dies. Backward passes inside ``fn`` are included.

    On the CPU every operation's outputs are followed. Not seen: workspaces inside a kernel (a
    matrix product's packed panels), NumPy or numba arrays that never pass through a torch
    operation, Python objects, and memory that the allocator keeps for later. On CUDA the caching
    allocator's own count is used, which does include workspaces that kernels take from it.
    """
    if torch.device(device).type == "cuda":
        return _peak_cuda(fn, torch.device(device))
    # Garbage in reference cycles would otherwise be freed at an arbitrary moment of the run.
    gc.collect()
    with _StorageFollower() as follower:
        fn()
    return follower.peak


def tensor_bytes(tree: object) -> int:
    """Bytes of all tensors in a nested structure: elements times element size.

    Walks tuples, lists, dicts and dataclasses. A view counts with its own elements, not with the
    storage behind it. None and plain numbers count nothing; other leaves raise ``ValueError``.
    """
    if isinstance(tree, torch.Tensor):
        return tree.nelement() * tree.element_size()
    if isinstance(tree, Mapping):
        return sum(tensor_bytes(value) for value in tree.values())
    if isinstance(tree, tuple | list):
        return sum(tensor_bytes(value) for value in tree)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return sum(tensor_bytes(getattr(tree, f.name)) for f in dataclasses.fields(tree))
    if tree is None or isinstance(tree, int | float | bool):
        return 0
    raise ValueError(
        f"tree holds a {type(tree).__name__}; tensors, tuples, lists, dicts, dataclasses, "
        "numbers and None can be counted"
    )


def _peak_cuda(fn: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    fn()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


class _StorageFollower(TorchDispatchMode):
    """Adds up the storages that operations make, and takes them off again when they die."""

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        # id -> bytes counted; None for a storage that was there before. Finalizers delete an entry
        # when its storage dies, so that a reused id is never mistaken for the old storage.
        self._bytes: dict[int, int | None] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        for leaf in tree_leaves((args, kwargs)):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf, made_here=False)
        result = func(*args, **kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._follow(leaf, made_here=True)
        return result

    def _follow(self, tensor: torch.Tensor, made_here: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key not in self._bytes:
            self._bytes[key] = 0 if made_here else None
            weakref.finalize(storage, self._forget, key)
        counted = self._bytes[key]
        if counted is None:
            return
        # The difference, since an operation such as resize_ may grow a storage it was given.
        self._bytes[key] = storage.nbytes()
        self.live += storage.nbytes() - counted
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._bytes.pop(key, None) or 0
