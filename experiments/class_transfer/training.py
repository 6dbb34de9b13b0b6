"""Training of a run's generator: resumed, logged, sampled."""

from functools import partial

import jax
from tqdm import tqdm

from bspec_jax import figures, generator, runs
from bspec_jax.data import Selection, Split, streaming
from bspec_jax.data.images import Part
from bspec_jax.generator import evaluation
from bspec_jax.generator.network import ClassTransfer, GeneratorSpec
from bspec_jax.generator.recogniser import Recogniser
from bspec_jax.generator.training import Schedule, TrainState, fit
from bspec_jax.storage import checkpoints, files
from experiments.class_transfer.config import Config

MONITORED = 96  # test images that each checkpoint is evaluated on


def train(
    config: Config, data: Selection, spec: GeneratorSpec, recogniser: Recogniser
) -> TrainState:
    """Trains the generator, or resumes its training, with a progress bar."""
    folder = config.workdir / "checkpoints" / generator.MAIN
    done = checkpoints.last_step(folder)
    if not done:
        checkpoints.write_spec(folder, spec)
    # The steps after the last checkpoint are taken, and logged, again.
    files.keep_metrics(config.workdir, lambda line: line["step"] <= done)
    model = generator.build(spec, sequential=config.sequential)
    skipped = SkippedExamples(data.train, unreadable(config, data))
    with runs.progress_bar(
        config.iterations * config.batch_size,
        f"{config.residual} R, M = {config.branches}",
        "image",
        done * config.batch_size,
    ) as advance:

        def on_log(state, step, log):
            record = {"step": step, **{k: v.mean() for k, v in log.items()}}
            if step % config.checkpoint_every == 0 or step == config.iterations:
                record |= monitor(config, data, model, state, recogniser)
            if skipped.new:
                record["skipped"] = skipped.take()
            files.append_metrics(config.workdir, record)
            advance(len(log["penalty"]) * config.batch_size)

        return fit(
            spec,
            config.recipe,
            partial(
                streaming.batches,
                data.train,
                config.batch_size,
                config.seed,
                workers=config.workers,
            ),
            jax.random.fold_in(jax.random.key(config.seed), 1),
            folder,
            Schedule(config.iterations, config.log_every, config.checkpoint_every),
            on_log,
            skipped.see,
            sequential=config.sequential,
        )


def monitor(
    config: Config,
    data: Selection,
    model: ClassTransfer,
    state: TrainState,
    recogniser: Recogniser,
) -> dict:
    """Evaluates on some test images, and draws the transfers of a few of them."""
    examples = Split(*(leaf[:MONITORED] for leaf in data.test))
    log, pictures = evaluation.monitor(model, state.average, examples, recogniser)
    figure = figures.transfers(data.class_names, pictures)
    runs.save_figures(config.workdir, {f"{int(state.step):07d}": figure}, "samples")
    return log


class SkippedExamples:
    """Reports each unreadable training example once.

    new: messages that no line of the log has yet.
    """

    def __init__(self, part: Part, known: list[str]):
        self.part, self.known, self.indices, self.new = part, set(known), set(), []

    def see(self, batch: streaming.Batch) -> None:
        """Prints what a batch skipped, unless an earlier one did."""
        for index in set(batch.skipped.tolist()) - {-1} - self.indices:
            self.indices.add(index)
            message = streaming.reason_unreadable(self.part, index)
            if message not in self.known:
                self.new.append(message)
                tqdm.write(f"skipped: {message}")

    def take(self) -> list[str]:
        """Returns the new messages, which count as logged from now on."""
        new, self.new = self.new, []
        return new


def unreadable(config: Config, data: Selection) -> list[str]:
    """Messages about all files that were skipped so far."""
    lines = files.read_metrics(config.workdir)
    logged = [message for line in lines for message in line.get("skipped", ())]
    return [*data.unreadable, *logged]
