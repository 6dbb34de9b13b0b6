"""Time and memory, measured in the same way by all benchmarks."""

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from bspec_jax import runs
from bspec_jax.storage.errors import UserError, flag


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig(runs.RunConfig):
    """Flags of every benchmark."""

    def unused(self) -> dict[str, str]:
        names = ("resume", "figures_only")
        return super().unused() | dict.fromkeys(names, "to a benchmark")


def require(*packages: str) -> None:
    """Raises UserError unless these packages are installed; imports none of them."""
    missing = [package for package in packages if not find_spec(package)]
    if missing:
        raise UserError(
            f'the comparison needs {" and ".join(missing)}: pip install -e ".[bench]"'
        )


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of `work`, which must block until its results are there."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def command_flags(config: runs.RunConfig) -> list[str]:
    """The flags that give a subprocess the settings of this config.

    Without those that do not apply to it, which it would refuse.
    """
    words = []
    for name in config.settings():
        value = getattr(config, name)
        values = value if isinstance(value, tuple) else (value,)
        if name not in config.unused() and values not in ((), (None,)):
            words += [flag(name), *map(str, values)]
    return words


def run_forms(
    config: runs.RunConfig,
    name: str,
    time_form: Callable[[runs.RunConfig], dict],
    compare: Callable[[runs.RunConfig], dict],
    report: Callable[[dict], None],
) -> None:
    """The `main` of a benchmark of several forms of one computation.

    Args:
      config: its `form` is the form to time alone; None to compare all forms.
      name: of the benchmark, as for `runs.start`.
      time_form, compare: return the results of one form, and of all.
      report: prints the results of `compare`.
    """
    started = time.perf_counter()
    workdir = runs.start(config, name)
    if config.form:
        runs.save_results(workdir, config, {config.form: time_form(config)}, started)
    else:
        report(runs.save_results(workdir, config, compare(config), started))
    print(f"results in {workdir}")


def time_alone(name: str, config: runs.RunConfig, label: str) -> dict:
    """The results of a benchmark's `config.form`, in a process of its own.

    With the process's `peak_gib`. Prints the label and the seconds that it took.
    """
    usage, results = process(f"experiments.{name}", *command_flags(config))
    print(f"{label} {usage['seconds']:6.0f} s in all", flush=True)
    return {**results[config.form], "peak_gib": usage["peak_gib"]}


def process(module: str, *flags: str, **environment: str) -> tuple[dict, dict]:
    """Runs `python -m MODULE` in a subprocess with a temporary run folder; Linux only.

    Args:
      environment: variables set in addition to this process's own.

    Returns:
      Its wall time `seconds` and peak memory `peak_gib`; and the results it saved.

    Raises:
      UserError: if it fails, with the last line that it wrote to stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", module, "--workdir", f"{folder}/run", *flags]
        errors = Path(folder) / "stderr"
        started = time.perf_counter()
        with (
            errors.open("w") as file,
            subprocess.Popen(
                command,
                env=os.environ | environment,
                stdout=subprocess.DEVNULL,
                stderr=file,
            ) as child,
        ):
            peak = _watch(child)
        seconds = time.perf_counter() - started
        if child.returncode:
            reason = errors.read_text().strip().split("\n")[-1]
            raise UserError(f"python -m {module} {' '.join(flags)} failed: {reason}")
        results = runs.load_results(Path(folder) / "run")
    return {"seconds": seconds, "peak_gib": peak}, results


def _watch(child: subprocess.Popen) -> float:
    """Waits for a process, and returns its peak memory in GiB; it never outlives us."""
    peak = 0.0
    try:
        while child.poll() is None:
            peak = max(peak, peak_memory(child.pid))
            time.sleep(0.02)
    finally:
        child.kill()
    return peak


def peak_memory(pid: int) -> float:
    """Peak resident memory of a running process so far, in GiB; 0 once it has ended.

    Not the peak that `wait4` reports, which starts at that of the parent process.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    lines = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(lines[0].split()[1]) / 2**20 if lines else 0.0
