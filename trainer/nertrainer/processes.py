"""Several processes that train one model together, as `torchrun` starts them; alone, nothing here costs anything."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def join(device: torch.device) -> torch.device:
    """Meet the other processes of `torchrun`, if it started this one; the device that is this process's own."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def leave() -> None:
    """Part from the others."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; process 0 writes the files and speaks."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train."""
    return dist.get_world_size() if dist.is_initialized() else 1


@contextmanager
def _together() -> Iterator[None]:
    """Around what all processes must do; ValueError where one is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError("another process of this training ended; its message says why") from error


@_together()
def sum_gradients(dense: Sequence[Tensor], words: Tensor) -> None:
    """Replace the gradients of these weights, of which the last may be sparse, by their sums over all processes."""
    if world() == 1:
        return
    gradients = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in dense]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for weight, part in zip(dense, torch.split(flat, [weight.numel() for weight in dense]), strict=True):
        weight.grad = part.view_as(weight)
    if words.requires_grad:
        words.grad = _sum_sparse(words)


def _sum_sparse(words: Tensor) -> Tensor:
    """The sum of a sparse gradient; every process sends its rows and their values, padded to the longest."""
    rows = torch.zeros(0, dtype=torch.int64, device=words.device)
    values = words.new_zeros(0, words.shape[1])
    if words.grad is not None:
        gradient = words.grad.coalesce()
        rows, values = gradient.indices()[0], gradient.values()
    longest = torch.tensor([len(rows)], device=words.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX)
    missing = int(longest) - len(rows)
    rows = torch.cat([rows, rows.new_zeros(missing)])
    values = torch.cat([values, values.new_zeros(missing, words.shape[1])])
    all_rows = [torch.empty_like(rows) for _ in range(world())]
    all_values = [torch.empty_like(values) for _ in range(world())]
    dist.all_gather(all_rows, rows)
    dist.all_gather(all_values, values)
    # A row of padding is row 0 with a gradient of zero.
    indices = torch.cat(all_rows).unsqueeze(0)
    return torch.sparse_coo_tensor(indices, torch.cat(all_values), words.shape, check_invariants=False).coalesce()


@_together()
def sum_of(value: float) -> float:
    """The sum of a figure over all processes."""
    if world() == 1:
        return value
    total = torch.tensor([value], dtype=torch.float64)
    if dist.get_backend() == "nccl":
        total = total.cuda()
    dist.all_reduce(total)
    return total.item()


@contextmanager
def speaking_once() -> Iterator[None]:
    """Around what all processes do alike: where process 0 fails, it alone says why, and the others just end."""
    failure: Exception | None = None
    try:
        yield
    except (ValueError, OSError) as error:
        failure = error
    if shared(failure is not None) and rank():
        raise SystemExit(1)
    if failure is not None:
        raise failure


@_together()
def shared(value: Any) -> Any:
    """What process 0 gives, in every process."""
    if world() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
