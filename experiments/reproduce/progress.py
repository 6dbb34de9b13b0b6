"""How far a reproduction is, as its folder says.

WHAT.json   the flags, and which stages are finished
STAGE/      the run of each stage
"""

import shlex
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from bspec_jax import runs
from bspec_jax.runs.folder import check_schema
from bspec_jax.storage.errors import UserError, flag
from bspec_jax.storage.files import read_json, write_json
from experiments.reproduce.stages import Stage

HOUR = 3600  # seconds
TERA = 1e12


class Progress(NamedTuple):
    """What is known of a reproduction.

    record: path of its file.
    settings: flags, as JSON.
    finished: names of stages.
    """

    record: Path
    settings: dict[str, Any]
    finished: tuple[str, ...] = ()

    @classmethod
    def read(cls, record: Path) -> "Progress | None":
        """What the file says; None if there is none, as nothing has begun.

        Raises:
          UserError: if it is damaged, or of another schema.
        """
        if not record.exists():
            return None
        saved = read_json(record, "reproduction")
        check_schema(record, saved)
        settings, finished = (saved.get(name) for name in ("config", "finished"))
        if not isinstance(settings, dict) or not isinstance(finished, list):
            raise UserError(f"{record} is damaged: choose another --workdir")
        return cls(record, settings, tuple(finished))

    def write(self) -> None:
        about = {"schema": runs.SCHEMA, "config": self.settings}
        write_json(self.record, about | {"finished": self.finished})

    def has_finished(self, stage: Stage) -> bool:
        # A run has results before its figures are drawn.
        return stage.name in self.finished and (stage.folder / stage.result).exists()

    def finish(self, stage: Stage) -> "Progress":
        """Runs a stage from where it stopped; what is known then, also in the file.

        Raises:
          UserError: if the stage cannot be finished.
        """
        try:
            with runs.naming(stage.folder):
                mode = _mode(stage)
                if not mode:  # without its flags, what was begun is of no use
                    shutil.rmtree(stage.folder, ignore_errors=True)
                stage.run(**mode)
        except UserError as error:
            raise UserError(f"{stage.name}: {error}", error.status) from None
        done = self._replace(finished=(*self.finished, stage.name))
        done.write()
        return done


def _mode(stage: Stage) -> dict[str, bool]:
    """How an unfinished stage goes on; empty if it begins."""
    if not (stage.folder / "config.json").exists():
        return {}
    has_results = (stage.folder / stage.result).exists()
    return {"figures_only" if has_results else "resume": True}


def check_free(stage: Stage) -> None:
    """Raises UserError if there are files in the folder of a stage."""
    folder = stage.folder
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UserError(f"{folder} exists already: choose another --workdir")


def plan(progress: Progress, stages: list[Stage], tera_flops: float) -> str:
    """Each stage with its state, the hours that are left, and its command.

    Raises:
      UserError: if a stage cannot run.
    """
    lines, total = [], 0.0
    for stage in stages:
        words = stage.words
        if progress.has_finished(stage):
            state = "finished"
        else:
            hours = stage.flops() / (TERA * tera_flops * HOUR)
            total += hours
            state = "not started"
            if mode := _mode(stage):
                state = "unfinished, will be resumed"
                words = ["--workdir", str(stage.folder), *map(flag, mode)]
            state += f", {shown_hours(hours)}"
        lines += [f"{stage.name}: {state}", f"    {stage.program} {shlex.join(words)}"]
    if total:
        at = f"{tera_flops:g}e12 operations per second (--tera-flops)"
        lines.append(f"together {shown_hours(total)} at {at}")
    return "\n".join(lines)


def shown_hours(hours: float) -> str:
    """Hours in words; compiling, which they leave out, takes minutes."""
    if hours < 0.1:
        return "minutes"
    return f"about {hours:,.1f} hours" if hours < 1e6 else f"about {hours:.0e} hours"
