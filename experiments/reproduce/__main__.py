r"""One of the paper's own settings in a single command, for an accelerator.

    python -m experiments.reproduce --what classify --plan   # stages and hours
    python -m experiments.reproduce --what classify          # the same to go on

classify: the paper's ResNet on CIFAR-10 (`python -m bspec_jax.data.prepare cifar10`
prepares it) by the customary recipe of `experiments.classify`, for M = 2, 4, 8, 16 and
32, with as many separately trained branches; the Hessian of the network of M = 16; and
the report of both. By default about 5 hours on a GPU that sustains 10^12 operations per
second. Ctrl-C and SIGTERM stop it; the same command goes on, bit for bit, and skips
what is finished.

Any other flag is handed to the experiment that trains, `experiments.classify`:
--repeats 5 for the intervals and verdicts of five seeds, or, to try it in five minutes
on 2 cores,

    python -m experiments.reproduce --what classify --workdir runs/trial \
        --dataset faces --image-size 8 --train-examples 200 --test-examples 60 \
        --widths tiny --branches 4 --sweep-branches 2 --epochs 3 --crop-padding 1
"""

import dataclasses
import shlex

from bspec_jax import runs
from bspec_jax.data.names import shown
from bspec_jax.storage.errors import in_one_line
from experiments.reproduce.flags import Flags, parse, parse_others
from experiments.reproduce.progress import Progress, check_free, plan
from experiments.reproduce.stages import REPRODUCTIONS, Stage

NAME = "python -m experiments.reproduce"


def reproduce(flags: Flags, others: list[str]) -> None:
    """Prints the plan, and runs all stages that are not finished.

    Args:
      others: words of flags for the experiment that trains.

    Raises:
      UserError: if a flag is invalid, a folder is taken, or a stage cannot run.
    """
    progress, stages = prepare(flags, others)
    print(plan(progress, stages, flags.tera_flops))
    if flags.plan:
        return
    flags.workdir.mkdir(parents=True, exist_ok=True)
    progress.write()
    for stage in stages:
        if not progress.has_finished(stage):
            print(f"\n{stage.name}", flush=True)
            progress = progress.finish(stage)
    print(f"\nall is finished; the report is in {shown(stages[-1].folder)}")


def prepare(flags: Flags, others: list[str]) -> tuple[Progress, list[Stage]]:
    """How far the reproduction is, and its stages.

    Raises:
      UserError: if a flag is invalid, or the folder of a stage is taken.
    """
    default, make_stages = REPRODUCTIONS[flags.what]
    record = flags.workdir / f"{flags.what}.json"
    progress = Progress.read(record)
    begun = progress is not None
    if begun:
        default = default.from_settings(progress.settings)
    config = parse_others(others, default, NAME, begun=begun)
    stages = make_stages(config, flags.workdir)
    if not begun:
        for stage in stages:
            check_free(stage)
    return progress or Progress(record, config.settings()), stages


def way_on(flags: Flags | None) -> str:
    """What Ctrl-C says: the command that goes on."""
    if flags is None or not (flags.workdir / f"{flags.what}.json").exists():
        return "stopped before anything began"
    words = ["--what", flags.what, "--workdir", str(flags.workdir)]
    return f"stopped; to go on:\n{NAME} {shlex.join(words)}"


def main() -> None:
    """Runs the command."""
    flags = None
    configs = [reproduction.default for reproduction in REPRODUCTIONS.values()]
    arguments = {
        field.name for config in configs for field in dataclasses.fields(config)
    }
    with (
        in_one_line(NAME, arguments),
        runs.one_line_when_stopped(NAME, lambda: way_on(flags)),
    ):
        flags, others = parse(NAME, __doc__)
        runs.check_backend()
        reproduce(flags, others)


if __name__ == "__main__":
    main()
