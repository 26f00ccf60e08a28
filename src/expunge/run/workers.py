"""Jobs side by side on one machine: each in a fresh process with one thread, so that results do not depend on the company."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any


def run_jobs(
    jobs: Mapping[str, tuple[Callable[..., Any], tuple[Any, ...]]], workers: int
) -> Iterator[tuple[str, Any]]:
    """(name, result) of each job as it ends. A job that raises ends them all with its exception.

    Functions and arguments must be picklable. With one worker everything runs in this process.
    """
    if workers <= 1 or len(jobs) == 1:
        single_threaded()
        for name, (function, arguments) in jobs.items():
            yield name, function(*arguments)
        return
    pool = ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=single_threaded
    )
    try:
        futures = {pool.submit(function, *arguments): name for name, (function, arguments) in jobs.items()}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BaseException:
        for process in list(pool._processes.values()):  # they hold nothing that a rename has not made whole
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def single_threaded() -> None:
    """One thread, deterministic kernels: the same bytes on every run."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def free_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
