"""Seconds and memory, measured alike in every benchmark."""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bspec_jax import run


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work`, which must wait for its results."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def process(module: str, *flags: str) -> tuple[dict, dict]:
    """Runs `python -m MODULE` in a new folder, as one process.

    Returns its wall `seconds` and its `peak_gib` of memory, and the results it saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["-m", module, "--workdir", f"{folder}/run", *flags]
        started = time.perf_counter()
        with Path(os.devnull).open("w") as nothing:
            child = os.posix_spawn(
                sys.executable,
                [sys.executable, *arguments],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, nothing.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, nothing.fileno(), 2),
                ],
            )
            _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - started
        if status:
            raise run.UserError(f"python {' '.join(arguments)} failed")
        results = run.load_results(Path(folder) / "run")
    peak = usage.ru_maxrss / 2**20  # KiB on Linux
    return {"seconds": seconds, "peak_gib": peak}, results
