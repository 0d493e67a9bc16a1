"""Who trains together? The processes that ``torchrun`` started, and proof that they really do."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn

from hasten.core.errors import InputError, TrainingError
from hasten.train.settings import Settings

_PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


@contextmanager
def accelerated(settings: Settings) -> Iterator[Accelerator]:
    """An Accelerator for these settings, forgotten afterwards, so that the next training may differ.

    Raises InputError when the device or the precision is not there, TrainingError when not all
    processes that were announced train.
    """
    device = settings.device
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("there is no cuda device here; use device='cpu'")
    cpu = device == "cpu" or not torch.cuda.is_available()
    if cpu and settings.precision == "float16":
        raise InputError("float16 is trained on a GPU only; use bfloat16 or float32 on the CPU")
    own = not PartialState._shared_state
    threads = torch.get_num_threads()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        ddp = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
        accelerator = Accelerator(
            cpu=cpu, mixed_precision=_PRECISIONS[settings.precision], kwargs_handlers=[ddp]
        )
        check_world(accelerator)
        yield accelerator
    except ValueError as error:
        if "has already been initialized" not in str(error):
            raise
        raise InputError(f"another Accelerator of this program has other settings: {error}") from error
    finally:
        torch.set_num_threads(threads)
        if own:
            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()


def check_world(accelerator: Accelerator) -> None:
    """Compare the number of processes announced, accelerate's and torch's; raises TrainingError.

    A launcher that falls back to one process would train that many models side by side without a word.
    """
    announced = int(os.environ.get("WORLD_SIZE", "1"))
    joined = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if not announced == accelerator.num_processes == joined:
        raise TrainingError(
            f"{announced} processes were started (WORLD_SIZE), but accelerate trains with "
            f"{accelerator.num_processes} and torch.distributed with {joined}; start them with torchrun"
        )
    wrapped = "FSDP" in str(accelerator.distributed_type) or "DEEPSPEED" in str(accelerator.distributed_type)
    if wrapped:
        raise TrainingError(
            f"training is data parallel, not {accelerator.distributed_type}; start it with torchrun"
        )


def check_same(accelerator: Accelerator, model: nn.Module, when: str) -> None:
    """Compare the trained weights' bits on all processes; raises TrainingError when they are not the same.

    They begin the same and see different samples: they stay the same only if gradients are averaged.
    """
    if accelerator.num_processes == 1:
        return
    digest = hashlib.sha256()
    for weight in model.parameters():
        if weight.requires_grad:
            digest.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    mine = torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8).long().to(accelerator.device)
    everyone: Tensor = accelerator.gather(mine.unsqueeze(0))
    if not bool((everyone == everyone[0]).all()):
        raise TrainingError(
            f"the processes hold different weights {when}: gradients are not averaged between them; "
            "start them with torchrun"
        )


def share_statistics(accelerator: Accelerator, model: nn.Module) -> None:
    """Give every process the main process's buffers, such as statistics that each learned of its samples.

    What is judged, averaged, kept and returned is then the same model everywhere.
    """
    for buffer in model.buffers() if accelerator.num_processes > 1 else ():
        held = buffer.contiguous()
        # As bytes: gloo does not send every type that a graph's constants may have.
        torch.distributed.broadcast(held.view(-1).view(torch.uint8), src=0)
        if held is not buffer:
            buffer.copy_(held)


def agreed(accelerator: Accelerator, value: Any) -> Any:
    """The main process's value, on every process."""
    if accelerator.num_processes == 1:
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held, src=0)
    return held[0]


def rows_of_all(accelerator: Accelerator, counts: Sequence[int], mine: Tensor) -> tuple[Tensor, ...]:
    """The rows that every process holds, own ones with their gradient; ``counts``: how many each has."""
    if accelerator.num_processes == 1:
        return (mine,)
    most = max(counts)
    padded = mine.new_zeros((most, *mine.shape[1:]))
    padded[: len(mine)] = mine.detach()
    everyone = accelerator.gather(padded.contiguous()).split(most)
    pieces = [piece[:count] for piece, count in zip(everyone, counts, strict=True)]
    pieces[accelerator.process_index] = mine
    return tuple(pieces)
