"""What results.json holds of the trained networks, and the pruned one."""

import dataclasses
import shutil

import jax
import numpy as np

from bspec_jax import classifier, data
from bspec_jax.analysis.observations import findings
from bspec_jax.classifier.evaluation import activity, analyse
from bspec_jax.storage import checkpoints, files
from experiments.classify.config import Config
from experiments.classify.saved import load_responses, save_examples
from experiments.classify.train import jobs

PRUNED = "pruned"  # the network that measuring exports


def measure(config: Config, dataset: data.Dataset) -> dict:
    """All that results.json holds; also saves the test images and exports `PRUNED`."""
    labels, num_classes = dataset.test.labels, len(dataset.class_names)
    responses = {
        job.name: load_responses(config.workdir, job, len(labels), num_classes)
        for job in jobs(config)
    }
    save_examples(config.workdir, dataset.test)
    active = activity(responses[classifier.MAIN].trained)
    analysis = analyse(jobs(config), responses, labels, num_classes)
    setting = describe_setting(config, analysis["sweep"])
    return {
        "classes": dataset.class_names,
        **analysis,
        "findings": findings("classifier", setting, analysis["observations"]),
        "pruned": export_pruned(config, active),
        "curves": files.read_metrics(config.workdir),
    }


def describe_setting(config: Config, sweep: dict) -> str:
    """Data, recipe and number of networks behind the observations."""
    size = f"{config.image_size} px" if config.image_size else "full size"
    return (
        f"{config.dataset}, {size}, {config.train_examples or 'all'} images, "
        f"{config.epochs} epochs, M = {max(sweep['branches'])}, x {sweep['repeats']}"
    )


def export_pruned(config: Config, activity: np.ndarray) -> dict:
    """Saves the main network without its silent branches; returns what that saves.

    Saves none if no branch is active or, as for responses that are not finite, known to
    be.

    Args:
      activity: of each branch, `[M]`: 1 if active, 0 if silent, NaN if not known.
    """
    main = classifier.load(config.workdir / "checkpoints" / classifier.MAIN)
    folder = config.workdir / "checkpoints" / PRUNED
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted analysis may leave one
    known, active = not np.isnan(activity).any(), activity == 1
    count = int(active.sum())
    if count:
        checkpoints.write_spec(folder, dataclasses.replace(main.spec, branches=count))
        model = {"params": main.params, "batch_stats": main.batch_stats}
        pruned = jax.tree.map(lambda leaf: leaf[active], model)
        checkpoints.save(folder, main.step, model=pruned)
    parameters = sum(leaf[0].size for leaf in jax.tree.leaves(main.params))
    flops = classifier.forward_flops(main.spec)
    return {
        "branches": count if known else None,
        "parameters": count * parameters if known else None,
        "parameters_before": len(active) * parameters,
        "flops": count * flops if known else None,
        "flops_before": len(active) * flops,
    }
