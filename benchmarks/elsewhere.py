"""A provider in a process of its own: for what holds for all of a process, as what malloc keeps.

It takes its turns as the others do: both processes run on the same cores, one of them waiting for the other.
"""

import io
import multiprocessing
import os
import weakref
from collections.abc import Callable
from multiprocessing.connection import Connection
from unittest.mock import patch

import torch
from torch import Tensor

from fusegrad import memory

from .harness import Step, sample_cpu
from .providers import Cannot

Build = Callable[[str, torch.dtype], Step]
KEPT = {f"{provider}, memory kept": provider for provider in ("stock", "fusegrad")}


def with_memory_kept(build: Build, provider: str, dtype: torch.dtype) -> Step:
    """The step of one of KEPT."""
    if reason := memory.obstacle():
        raise Cannot(reason)
    return elsewhere(build, KEPT[provider], dtype, FUSEGRAD_KEEP_MEMORY="1")


def elsewhere(build: Build, provider: str, dtype: torch.dtype, **environment: str) -> Step:
    """The step of a provider in a process that has these environment variables besides those that are here."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, build, provider, dtype), daemon=True)
    with patch.dict(os.environ, environment):
        process.start()
    there.close()

    def ask(repeat: int) -> bytes | float:
        here.send(repeat)
        answer = here.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run() -> tuple[Tensor, ...]:
        return torch.load(io.BytesIO(ask(0)))  # type: ignore[arg-type]  # bytes, of no repeat

    step = Step(run, (), ask)  # type: ignore[arg-type]  # seconds, of one
    weakref.finalize(step, here.close)
    return step


def _serve(pipe: Connection, build: Build, provider: str, dtype: torch.dtype) -> None:
    """Answer how long a run takes, of so many; what it gives, where none is asked for. Until the pipe is closed."""
    step = None
    while True:
        try:
            repeat = pipe.recv()
        except EOFError:
            return
        try:
            step = step or build(provider, dtype)
            if repeat:
                pipe.send(sample_cpu(step.run, repeat))
            else:
                file = io.BytesIO()
                torch.save(step.run(), file)
                pipe.send(file.getvalue())
        except Exception as e:
            pipe.send(e)
