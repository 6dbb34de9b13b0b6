"""Seconds and memory, measured alike in every benchmark."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bspec_jax import runs
from bspec_jax.storage.errors import flag


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work`, which must wait for its results."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def command_flags(config: runs.RunConfig, names: Iterable[str]) -> list[str]:
    """These flags with their values, for a process that is to have the same."""
    return [str(word) for name in names for word in (flag(name), getattr(config, name))]


def main_of_forms(
    config: runs.RunConfig,
    name: str,
    one: Callable[[runs.RunConfig], dict],
    compare: Callable[[runs.RunConfig], dict],
    report: Callable[[dict], None],
) -> None:
    """A benchmark of several forms: the one of `--form` alone, or all compared.

    Args:
      name: of the benchmark, as `run.start` has it.
      one, compare: what they find, given the config.
      report: prints what `compare` found.
    """
    started = time.perf_counter()
    workdir = runs.start(config, name)
    if config.form:
        runs.save_results(workdir, config, {config.form: one(config)}, started)
    else:
        report(runs.save_results(workdir, config, compare(config), started))
    print(f"results in {workdir}")


def process(module: str, *flags: str, **environment: str) -> tuple[dict, dict]:
    """Runs `python -m MODULE` in a new folder, as one process; Linux.

    `environment` is set in addition to this process's own.

    Returns its wall `seconds` and its `peak_gib` of memory, and the results it saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, "--workdir", f"{folder}/run", *flags]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        started = time.perf_counter()
        peak = 0.0
        with subprocess.Popen(command, env=os.environ | environment, **quiet) as child:
            while child.poll() is None:
                peak = max(peak, resident_peak(child.pid))
                time.sleep(0.02)
        seconds = time.perf_counter() - started
        if child.returncode:
            raise runs.UserError(f"python -m {module} {' '.join(flags)} failed")
        results = runs.load_results(Path(folder) / "run")
    return {"seconds": seconds, "peak_gib": peak}, results


def resident_peak(pid: int) -> float:
    """Peak resident memory of a running process so far, in GiB; 0 once it has ended.

    Not the peak that `wait` tells: it begins at that of the process which started it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 2**20 if lines else 0.0
