"""Training of the groups; `finish` resumes a group where it stopped."""

import shutil
from pathlib import Path

import jax
import numpy as np

from bspec_jax import data, runs
from bspec_jax.adapters import from_linen
from bspec_jax.analysis.silence import layer_norms
from bspec_jax.branching import BranchedNetwork, sum_of_branches
from bspec_jax.classifier import Pixels, branches, sweeps
from bspec_jax.classifier.recipe import Recipe
from bspec_jax.classifier.training import TrainState
from bspec_jax.storage import checkpoints, files
from bspec_jax.storage.errors import UserError
from bspec_jax.trees import select_leaves
from experiments.silence import memory
from experiments.silence.config import RECORDS, Config
from experiments.silence.grid import Group

TRAINED = "trained_"  # what begins the names of `sweeps.Measured` in a group's file


def group_path(workdir: Path, group: Group) -> Path:
    """The file of a trained group: its measures, and its records along training."""
    return workdir / "groups" / f"{group.name}.npz"


def load_data(config: Config) -> data.Dataset:
    """Reads the data set, and checks the flags that depend on it."""
    memory.check(config, (*[config.image_size or 1] * 2, 1), 2)
    try:
        dataset = data.load(**config.data_arguments())
    except UserError as error:
        if config.dataset == "faces":
            raise
        raise UserError(f"{error} (--dataset faces needs no files)") from None
    memory.check(config, dataset.train.images.shape[1:], len(dataset.class_names))
    if len(dataset.class_names) < 2:
        raise runs.FlagError(
            f"--dataset {config.dataset} has a single class: nothing to classify"
        )
    if config.batch_size > len(dataset.train.labels):
        raise runs.FlagError(
            f"--batch-size must be at most {len(dataset.train.labels):,}, the number "
            f"of training examples, got {config.batch_size:,}"
        )
    return dataset


def build(config: Config, group: Group, num_classes: int) -> BranchedNetwork:
    """The network of a group."""
    module = branches.make(
        group.branch,
        group.widths,
        num_classes,
        normalisation=group.normalisation,
        biases=not config.skip_biases,
    )
    return sum_of_branches(from_linen(module), group.branches)


def recipe_of(config: Config) -> Recipe:
    """The hyperparameters that all groups share."""
    return Recipe(
        epochs=1,  # which the number of steps replaces
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        schedule=config.schedule,
        clamp=config.clamp,
        crop_padding=0,
        flip=False,
    )


def finish(config: Config, group: Group, dataset: data.Dataset) -> None:
    """Trains a group, or resumes it, and saves its measures."""
    path = group_path(config.workdir, group)
    if path.exists():
        return
    network = build(config, group, len(dataset.class_names))
    pixels = Pixels(np.float32(dataset.mean), np.float32(dataset.std))
    folder = config.workdir / runs.UNFINISHED / group.name
    state, records = train(config, group, network, pixels, dataset.train, folder)
    model, _ = state.parts()
    measured = sweeps.measure(network, **model, examples=dataset.test, pixels=pixels)
    path.parent.mkdir(exist_ok=True)
    trained = {f"{TRAINED}{name}": v for name, v in measured._asdict().items()}
    files.save_arrays(path, trained | stacked(records))
    shutil.rmtree(folder)


def train(
    config: Config,
    group: Group,
    network: BranchedNetwork,
    pixels: Pixels,
    examples: data.Split,
    folder: Path,
) -> tuple[TrainState, list[dict[str, np.ndarray]]]:
    """Trains a group with a progress bar; returns its records, too."""
    networks = config.repeats * len(group.settings)
    every = max(1, config.steps // RECORDS)
    path = folder.with_suffix(".npz")
    done = checkpoints.last_step(folder)
    records = saved_records(path, done)
    files.keep_metrics(
        config.workdir, lambda line: line["group"] != group.name or line["step"] <= done
    )
    with runs.progress_bar(
        config.steps * networks,
        f"{group.name}, {networks} networks",
        "step",
        done * networks,
    ) as advance:

        def on_log(state, step, log):
            if not records:
                first = {name: values[:1] for name, values in log.items()}
                records.append(record(0, first, state))
            records.append(record(step, log, state))
            files.save_arrays(path, stacked(records))
            files.append_metrics(config.workdir, metrics(group, records[-1]))
            advance(len(log["loss"]) * networks)

        state = sweeps.fit(
            network,
            recipe_of(config),
            pixels,
            examples,
            jax.random.split(jax.random.key(config.seed), config.repeats),
            group.columns(),
            folder,
            steps=config.steps,
            log_every=every,
            checkpoint_every=every,
            on_log=on_log,
        )
    return state, records


def record(
    step: int, log: dict[str, np.ndarray], state: TrainState
) -> dict[str, np.ndarray]:
    """Means of a log over its steps, the last of which is `step`.

    Entries are `[S, K, ...]`. Energies become norms of responses, root mean squares
    over examples. Norms of the layers' weights, `[S, K, M, L]`, are those after the
    last step.
    """
    means = {name: values.mean(0) for name, values in log.items()}
    kernels, _ = select_leaves(state.params, "*kernel")
    layers = jax.vmap(jax.vmap(layer_norms))(kernels)
    return {
        "step": np.array(step),
        "loss": means["loss"],
        "train_accuracy": means["accuracy"],
        "norms": np.sqrt(means["energy"]),
        "centred_norms": np.sqrt(means["centred_energy"]),
        "growth": means["growth"],
        "squared_norm": (log["parameter_norm"] ** 2).mean(0),
        "layer_norms": np.stack([*layers.values()], -1),
    }


def saved_records(path: Path, done: int) -> list[dict[str, np.ndarray]]:
    """The records of a stopped training until its last checkpoint."""
    if not done:
        return []
    saved = files.load_arrays(path, None)
    return [
        {name: values[i] for name, values in saved.items()}
        for i, step in enumerate(saved["step"])
        if step <= done
    ]


def stacked(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The records as arrays, `[R, ...]`."""
    return {name: np.stack([r[name] for r in records]) for name in records[0]}


def metrics(group: Group, record: dict[str, np.ndarray]) -> dict:
    """A line of metrics.jsonl: of each setting, means over its networks."""
    active = sweeps.activity(record["centred_norms"]).sum(-1)
    return {
        "group": group.name,
        "step": int(record["step"]),
        "loss": record["loss"].mean(0),
        "train_accuracy": record["train_accuracy"].mean(0),
        "active_centred": active.mean(0),
    }
