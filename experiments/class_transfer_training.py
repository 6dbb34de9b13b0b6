"""How a class-transfer run trains its generator: resumes, shows and logs it.

`config` is that of the run.
"""

from functools import partial

import jax
from tqdm import tqdm

from bspec_jax import figures, generator, runs
from bspec_jax.data import streaming
from bspec_jax.data.images import Part, Split
from bspec_jax.generator import training as gt
from bspec_jax.generator.training import Schedule
from bspec_jax.storage import checkpoints, files
from experiments import class_transfer_analysis as analysis
from experiments.class_transfer_data import Data
from experiments.recogniser import Recogniser

MONITORED = 96  # test images that are looked at while training


def train(config, data: Data, about: dict, classifier: Recogniser) -> gt.TrainState:
    """Trains the generator, or goes on; shows the progress."""
    folder = config.workdir / "checkpoints" / generator.MAIN
    recipe = config.recipe()
    model = generator.build(about, sequential=config.sequential)
    training = gt.training(model, generator.discriminator(about), recipe)
    init_key, step_key = jax.random.split(
        jax.random.fold_in(jax.random.key(config.seed), 1)
    )
    state = training.init(init_key, data.test.images[:1], data.test.labels[:1])
    if saved := checkpoints.steps(folder):
        state = gt.restore(folder, saved[-1], state)
    else:
        checkpoints.describe(folder, about)
        gt.save(folder, state)
    done = int(state.step)
    files.keep_metrics(config.workdir, lambda line: line["step"] <= done)
    batches = partial(
        streaming.batches,
        data.train,
        config.batch_size,
        config.seed,
        workers=config.workers,
    )
    schedule = Schedule(config.iterations, config.log_every, config.checkpoint_every)
    skipped = Skipped(data.train, unreadable(config, data))
    with runs.progress_bar(
        config.iterations * config.batch_size,
        f"{config.residual} R, M = {config.branches}",
        "image",
        done * config.batch_size,
    ) as advance:

        def on_log(state, step, log):
            record = {"step": step, **{k: v.mean() for k, v in log.items()}}
            if step % config.checkpoint_every == 0 or step == config.iterations:
                record |= look(config, data, model, state, classifier)
            if skipped.new:
                record["skipped"] = skipped.take()
            files.append_metrics(config.workdir, record)
            advance(len(log["penalty"]) * config.batch_size)

        return gt.fit(
            training,
            recipe,
            batches,
            state,
            step_key,
            folder,
            schedule,
            on_log,
            skipped.see,
        )


def look(
    config,
    data: Data,
    model: generator.ClassTransfer,
    state: gt.TrainState,
    classifier: Recogniser,
) -> dict:
    """Evaluates on some test images, and draws what becomes of a few."""
    monitored = Split(*(leaf[:MONITORED] for leaf in data.test))
    found, samples = analysis.look(model, state.average, monitored, classifier)
    figure = figures.transfers(data.class_names, **samples)
    runs.save_figures(config.workdir, {f"{int(state.step):07d}": figure}, "samples")
    return found


class Skipped:
    """Tells once of each training image that cannot be read."""

    def __init__(self, part: Part, known: list[str]):
        self.part, self.known, self.indices, self.new = part, set(known), set(), []

    def see(self, batch: streaming.Batch) -> None:
        for index in set(batch.skipped.tolist()) - {-1} - self.indices:
            self.indices.add(index)
            complaint = streaming.complaint(self.part, index)
            if complaint not in self.known:
                self.new.append(complaint)
                tqdm.write(f"skipped: {complaint}")

    def take(self) -> list[str]:
        """What is new since the last call."""
        new, self.new = self.new, []
        return new


def unreadable(config, data: Data) -> list[str]:
    """Complaints about all files that were left out so far."""
    lines = files.read_metrics(config.workdir)
    later = [complaint for line in lines for complaint in line.get("skipped", ())]
    return [*data.unreadable, *later]
