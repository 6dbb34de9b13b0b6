"""What a reproduction consists of, as data: its stages, and what they cost."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from bspec_jax import classifier, runs
from bspec_jax.classifier.curvature import FIRST_LAYER
from bspec_jax.classifier.recipe import count_steps
from bspec_jax.storage import checkpoints
from bspec_jax.storage.errors import flag
from bspec_jax.trees import leaf_paths
from experiments.classify import __main__ as classify
from experiments.classify.train import jobs, load_data, recipe_of, specify
from experiments.hessian import __main__ as hessian
from experiments.hessian import checkpoint
from experiments.report import __main__ as report

What = Literal["classify"]
PASSES = 3  # a gradient costs as much as three responses
CONTROL_AND_STAGES = 4  # Hessians of a clamp: at the start, half-way, at the end


class Stage(NamedTuple):
    """An experiment of a reproduction.

    folder: of its run, whose name is the stage's.
    program, words: of the command that begins the same by hand.
    result: what the folder holds once the stage is finished.
    flops: `() -> float`, floating-point operations that are left. Raises UserError if
        the stage cannot run, as without its data.
    run: `(**mode) -> None`; `mode` is `resume=True` or `figures_only=True` where the
        folder holds a run.
    """

    folder: Path
    program: str
    words: list[str]
    result: str
    flops: Callable[[], float]
    run: Callable[..., None]

    @property
    def name(self) -> str:
        return self.folder.name


class Reproduction(NamedTuple):
    """A setting of the paper.

    default: the flags, unless others are given.
    stages: `(config, workdir) -> stages`, in their order.
    """

    default: runs.RunConfig
    stages: Callable[[runs.RunConfig, Path], list[Stage]]


def classify_stages(config: classify.Config, workdir: Path) -> list[Stage]:
    """Training for every M with its control, the Hessian, and the report."""
    folders = [workdir / name for name in ("classify", "classify_hessian")]
    config = dataclasses.replace(config, workdir=folders[0])
    of_hessian = hessian.Config(checkpoint=folders[0], workdir=folders[1])
    costs = functools.cache(functools.partial(Costs.of, config.resolved()))
    return [
        _stage(classify, config, lambda: costs().training()),
        _stage(hessian, of_hessian, lambda: costs().hessians()),
        _report(folders, workdir / "classify_report"),
    ]


REPRODUCTIONS: dict[What, Reproduction] = {
    "classify": Reproduction(
        classify.Config(sweep_branches=(2, 4, 8, 16, 32)), classify_stages
    ),
}


def _stage(experiment, config: runs.RunConfig, flops: Callable[[], float]) -> Stage:
    """The stage of an experiment's module `__main__`."""

    def run(**mode):
        experiment.main(dataclasses.replace(config, **mode))

    program, words = f"python -m experiments.{experiment.NAME}", [*words_of(config)]
    return Stage(config.workdir, program, words, "results.json", flops, run)


def _report(folders: list[Path], workdir: Path) -> Stage:
    """The stage of the report of runs, which takes seconds."""
    words = [*map(str, folders), "--workdir", str(workdir)]
    run = functools.partial(report.report, folders, workdir)
    return Stage(workdir, report.NAME, words, "report.json", lambda: 0.0, run)


def words_of(config: runs.RunConfig) -> Iterator[str]:
    """The words of a command line that give this config."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default:
            continue
        yield flag(field.name)
        if value is not True:
            yield from map(str, value if isinstance(value, tuple) else (value,))


class Costs(NamedTuple):
    """What the work of the classifier takes, in floating-point operations.

    config: resolved, with the folder of the run.
    forward: of one branch on one image.
    steps: of the training of a network.
    columns: parameters of a branch whose Hessian is taken.
    """

    config: classify.Config
    forward: float
    steps: int
    columns: int

    @classmethod
    def of(cls, config: classify.Config) -> "Costs":
        """Reads the data, and checks flags that would only be refused after hours.

        Raises:
          UserError: if there are no data, or a stage refuses the flags.
        """
        dataset = load_data(config)
        spec = specify(config, config.branches, dataset)
        image = jax.ShapeDtypeStruct((1, *spec.image_shape), "float32")
        network = classifier.build(spec)
        params, _ = jax.eval_shape(network.init, jax.random.key(0), image)
        leaves = zip(leaf_paths(params), jax.tree.leaves(params), strict=True)
        size = sum(
            math.prod(leaf.shape) for path, leaf in leaves if path in FIRST_LAYER
        )
        if not 0 < size <= checkpoint.MOST_PARAMETERS:
            raise runs.FlagError(
                f"the first layer of {config.branches} branches has {size:,} "
                f"parameters, and its Hessian takes 1 to {checkpoint.MOST_PARAMETERS:,}"
                ": choose other --branches, --branch or --widths"
            )
        steps = count_steps(recipe_of(config), len(dataset.train.labels))
        columns = size // config.branches
        return cls(config, classifier.forward_flops(spec), steps, columns)

    def training(self) -> float:
        """Of all steps that are left."""
        folder = self.config.workdir / "checkpoints"
        steps = sum(
            job.branches * (self.steps - checkpoints.last_step(folder / job.name))
            for job in jobs(self.config)
        )
        return PASSES * self.forward * self.config.batch_size * steps

    def hessians(self) -> float:
        """Of the exact Hessians, of which each column costs two gradients."""
        clamps = len({self.config.clamp, "none"})
        columns = clamps * CONTROL_AND_STAGES * self.columns
        images = self.config.branches * checkpoint.EXAMPLES
        return 2 * PASSES * self.forward * images * columns
