"""Training of a table of trials, in chunks that a resumed run reuses."""

from pathlib import Path
from typing import NamedTuple

import jax

from bspec_jax import runs
from bspec_jax.storage import files
from bspec_jax.toys import sweeps
from experiments.toy.config import Config

CHUNK = 80_000  # trials between two checkpoints


class Networks(NamedTuple):
    """The trials of a table before and after training, in the table's order."""

    initial: sweeps.Trials
    trained: sweeps.Trials


def train_table(config: Config, workdir: Path, table: sweeps.Settings) -> Networks:
    """Trains every row of the table; chunks already on disk are reused.

    Each chunk is a pure function of the flags, so a resumed run gives exactly what an
    uninterrupted one does.
    """
    folder = workdir / runs.UNFINISHED
    folder.mkdir(exist_ok=True)
    initial = sweeps.init_trials(jax.random.key(config.seed), table, init=config.init)
    total = table.trial.size
    chunks = []
    with runs.progress_bar(total, "trials") as advance:
        for start in range(0, total, CHUNK):
            chunk = initial.select(slice(start, start + CHUNK))
            path = folder / f"trials_{start:09d}.npz"
            if path.exists():
                trained = sweeps.Trials(**files.load_arrays(path, chunk._asdict()))
                advance(trained.error.size)
            else:
                trained = sweeps.train(chunk, steps=config.steps, progress=advance)
                files.save_arrays(path, trained._asdict())
                metrics = {"trials": start + trained.error.size, "of": total}
                metrics["converged"] = int(trained.converged.sum())
                files.append_metrics(workdir, metrics)
            chunks.append(trained)
    return Networks(initial, sweeps.stack(chunks))
