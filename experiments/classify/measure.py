"""What results.json holds of the trained networks, and the pruned one."""

import shutil

import jax
import numpy as np
from jaxtyping import Float

from bspec_jax import classifier, data
from bspec_jax.analysis import specialization
from bspec_jax.analysis.observations import findings
from bspec_jax.analysis.verdicts import missing_regime
from bspec_jax.classifier import branches, contributions
from bspec_jax.classifier.evaluation import analyse
from bspec_jax.classifier.pruning import prune
from bspec_jax.classifier.recipe import count_steps, decay_budget
from bspec_jax.storage import checkpoints, files
from experiments.classify.config import Config
from experiments.classify.saved import load_responses, save_examples
from experiments.classify.train import jobs, recipe_of
from experiments.tables import branch_in_words

PRUNED = "pruned"  # the network that measuring exports


def measure(config: Config, dataset: data.Dataset) -> dict:
    """All that results.json holds; also saves the test images and exports `PRUNED`."""
    labels, num_classes = dataset.test.labels, len(dataset.class_names)
    responses = {
        job.name: load_responses(config.workdir, job, len(labels), num_classes)
        for job in jobs(config)
    }
    save_examples(config.workdir, dataset.test)
    main = responses[classifier.MAIN].trained
    length = describe_length(config, len(dataset.train.labels))
    regime = missing_regime(
        length["decay_budget"],
        branches.depth(config.branch, config.widths_list),
        steps=length["steps"],
        accuracy=contributions.accuracy(main.sum(0), labels),
    )
    analysis = analyse(
        jobs(config),
        responses,
        labels,
        num_classes,
        seed=config.seed,
        regime=regime,
    )
    networks = [network | length for network in analysis["networks"]]
    setting = describe_setting(config, length, analysis["sweep"])
    return {
        "classes": dataset.class_names,
        **analysis,
        **length,
        "networks": networks,
        "findings": findings("classifier", setting, analysis["observations"]),
        "pruned": export_pruned(config, main, dataset),
        "curves": files.read_metrics(config.workdir),
    }


def describe_length(config: Config, num_examples: int) -> dict:
    """How long each network was trained: epochs, steps and decay budget."""
    recipe = recipe_of(config)
    steps = count_steps(recipe, num_examples)
    return {
        "epochs": config.epochs,
        "steps": steps,
        "decay_budget": decay_budget(recipe, steps),
    }


def describe_setting(config: Config, length: dict, sweep: dict) -> str:
    """Data, branch, recipe and number of networks behind the observations."""
    size = f"{config.image_size} px" if config.image_size else "full size"
    branch = branch_in_words(config.branch, config.widths, config.normalisation)
    return (
        f"{config.dataset}, {size}, {config.train_examples or 'all'} images, "
        f"{branch}, {config.epochs} epochs, decay budget {length['decay_budget']:.3g}, "
        f"M = {max(sweep['branches'])}, x {sweep['repeats']}"
    )


def export_pruned(
    config: Config, responses: Float[np.ndarray, "M N C"], dataset: data.Dataset
) -> dict:
    """Saves the main network without its silent branches; returns what that saves.

    Silent by the centred rule. Saves none if no branch is active or, as for responses
    that are not finite, known to be.

    Args:
      responses: of the main network to the test images.
    """
    main = classifier.load(config.workdir / "checkpoints" / classifier.MAIN)
    folder = config.workdir / "checkpoints" / PRUNED
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted analysis may leave one
    activity = np.asarray(specialization.activity(responses, rule="centred"))
    known, active = not np.isnan(activity).any(), activity == 1
    count, accuracy = int(active.sum()), None
    if count:
        pruned = prune(main, active, dataset.train.images)
        checkpoints.write_spec(folder, pruned.spec)
        model = {"params": pruned.params, "batch_stats": pruned.batch_stats}
        checkpoints.save(folder, pruned.step, model=model)
        images, labels = dataset.test
        accuracy = contributions.accuracy(pruned.responses(images).sum(0), labels)
    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(main.params))
    flops = classifier.forward_flops(main.spec)
    return {
        "branches": count if known else None,
        "test_accuracy": accuracy,
        "parameters": count * parameters if known else None,
        "parameters_before": len(active) * parameters,
        "flops": count * flops if known else None,
        "flops_before": len(active) * flops,
    }
