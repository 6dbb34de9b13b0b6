"""Training of the run's networks; `finish` resumes a network where it stopped."""

from functools import partial
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Float

from bspec_jax import classifier, data, runs
from bspec_jax.analysis.specialization import activity
from bspec_jax.branching import BranchedNetwork
from bspec_jax.classifier import contributions
from bspec_jax.classifier.evaluation import CONTROL, Job, Responses, whole
from bspec_jax.classifier.network import Pixels
from bspec_jax.classifier.recipe import Recipe, count_steps, decay_budget
from bspec_jax.classifier.training import Schedule, TrainState, fit
from bspec_jax.data.names import shown
from bspec_jax.losses import classification_floor
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import notify
from experiments.classify import memory
from experiments.classify.config import Config, check_selection
from experiments.classify.saved import responses_path, save_responses


def load_data(config: Config) -> data.Dataset:
    """Reads the data set, and checks the flags that depend on it."""
    memory.check_before_reading(config)
    source = data.find(**config.source_arguments())
    memory.check_before_reading(config, source)
    dataset = data.read(source, **config.example_arguments())
    check_data(config, dataset)
    return dataset


def check_data(config: Config, dataset: data.Dataset) -> None:
    """Raises FlagError for flags that these data do not allow."""
    classes, labels = dataset.class_names, dataset.test.labels
    if len(classes) < 2:
        raise runs.FlagError(
            f"--dataset {config.dataset} has a single class: nothing to classify"
        )
    shape = dataset.train.images.shape[1:]
    if config.crop_padding >= min(shape[:2]):
        raise runs.FlagError(
            f"--crop-padding {config.crop_padding} shifts images of {shape[0]} x "
            f"{shape[1]} pixels out of sight: give less"
        )
    count_steps(recipe_of(config), len(dataset.train.labels))
    check_selection(config, config.branches, labels)
    size = memory.Size(shape, len(dataset.train.labels), len(labels), len(classes))
    memory.check(config, size)
    absent = [shown(name) for i, name in enumerate(classes) if i not in labels]
    if absent:
        names = ", ".join([*absent[:5], *["..."][: len(absent[5:])]])
        notify(
            f"no test image of {len(absent)} of {len(classes)} classes ({names}): what "
            "is measured of them will be null"
        )


def jobs(config: Config) -> list[Job]:
    """The networks to train, the main one first."""
    networks = []
    sizes = sorted(config.branches_list, key=lambda m: (m != config.branches, m))
    for repeat in range(config.repeats):
        suffix = f"_repeat_{repeat}" if repeat else ""
        for m in sizes:
            name = classifier.MAIN if m == config.branches else f"branches_{m}"
            networks.append(Job(name + suffix, m, repeat, separate=False))
        if not config.skip_control:
            networks.append(Job(CONTROL + suffix, max(sizes), repeat, separate=True))
    return networks


def finish(config: Config, job: Job, dataset: data.Dataset) -> None:
    """Trains a network, or resumes it, and saves its responses to the test images."""
    if responses_path(config.workdir, job.name).exists():
        return
    spec = specify(config, job.branches, dataset)
    network = classifier.build(spec, config.last_scale)
    folder = config.workdir / "checkpoints" / job.name
    checkpoints.write_spec(folder, spec)
    state = train(config, job, network, spec.pixels, dataset, folder)
    model, _ = state.parts()
    (initial,) = checkpoints.restore(folder, 0, model=model)
    initial["batch_stats"] = classifier.calibrate(
        network, **initial, images=dataset.train.images, pixels=spec.pixels
    )
    respond = partial(
        classifier.predict, network, images=dataset.test.images, pixels=spec.pixels
    )
    responses = Responses(trained=respond(**model), initial=respond(**initial))
    save_responses(config.workdir, job.name, responses)


def specify(
    config: Config, branches: int, dataset: data.Dataset
) -> classifier.ClassifierSpec:
    """The specification of a network of so many branches."""
    return classifier.ClassifierSpec(
        widths=config.widths_list,
        branches=branches,
        classes=dataset.class_names,
        image_shape=dataset.train.images.shape[1:],
        mean=tuple(np.float32(dataset.mean).tolist()),
        std=tuple(np.float32(dataset.std).tolist()),
        clamp=config.clamp,
        data=config.data_arguments(),
        steps=count_steps(recipe_of(config), len(dataset.train.labels)),
        branch=config.branch,
        normalisation=config.normalisation,
        biases=not config.skip_biases,
    )


def train(
    config: Config,
    job: Job,
    network: BranchedNetwork,
    pixels: Pixels,
    dataset: data.Dataset,
    folder: Path,
) -> TrainState:
    """Trains a network with a progress bar, and logs to metrics.jsonl."""
    key = jax.random.fold_in(jax.random.key(config.seed), job.repeat)
    recipe = recipe_of(config, separate=job.separate)
    total = count_steps(recipe, len(dataset.train.labels))
    steps_per_epoch = len(dataset.train.labels) // config.batch_size
    done = checkpoints.last_step(folder)
    files.keep_metrics(
        config.workdir, lambda line: line["network"] != job.name or line["step"] <= done
    )
    with runs.progress_bar(
        total * config.batch_size,
        f"{job.name} (M = {job.branches})",
        "image",
        done * config.batch_size,
    ) as advance:

        def on_log(state, step, epoch, log):
            record = {"network": job.name, "step": step, "epoch": epoch}
            record["decay_budget"] = decay_budget(recipe, total, step)
            record |= means(log, len(dataset.class_names))
            images, labels = dataset.validation
            if step % steps_per_epoch == 0 and len(labels):
                model, _ = state.parts()
                v = classifier.predict(network, **model, images=images, pixels=pixels)
                record["validation_accuracy"] = contributions.accuracy(v.sum(0), labels)
            files.append_metrics(config.workdir, record)
            advance(len(log["loss"]) * config.batch_size)

        schedule = Schedule(config.log_every, config.checkpoint_every)
        return fit(
            network, recipe, pixels, dataset.train, key, folder, schedule, on_log
        )


def recipe_of(config: Config, *, separate: bool = False) -> Recipe:
    """The hyperparameters of a network's training."""
    return Recipe(
        epochs=config.epochs,
        batch_size=config.batch_size,
        optimizer=config.optimizer,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        decay_biases=not config.skip_bias_decay,
        clamp=config.clamp,
        crop_padding=config.crop_padding,
        flip=not config.skip_flip,
        separate=separate,
    )


def means(log: dict[str, np.ndarray], num_classes: int) -> dict:
    """A line of metrics.jsonl: means over the steps since the last line.

    `norms` and `centred_norms` are root mean squares over examples of ||v_k||, the
    latter without the branch's mean output over the batch; `parameter_norms` are those
    after the last step.

    Args:
      log: of each step, stacked `[K, ...]`; see `classifier.training.Training`.
    """
    rms = np.sqrt(log["energy"].mean(0))
    centred = np.sqrt(log["centred_energy"].mean(0))
    return {
        "loss": log["loss"].mean(),
        "excess_loss": log["loss"].mean() - classification_floor(num_classes),
        "accuracy": log["accuracy"].mean(),
        "saturated": log["saturated"].mean(),
        "gradient_norm": log["gradient_norm"].mean(),
        "norms": rms,
        "centred_norms": centred,
        "parameter_norms": log["parameter_norm"][-1],
        "active": count_active(rms),
        "active_centred": count_active(centred),
    }


def count_active(norms: Float[np.ndarray, " M"]) -> int | float:
    """The number of branches whose norm is a tenth of the largest one or more."""
    return whole(np.asarray(activity(norms[:, None])).sum())
