"""The figures of a finished run."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from bspec_jax import classifier, figures
from bspec_jax.classifier import contributions
from bspec_jax.storage.errors import UserError
from experiments.classify.config import Config, check_selection
from experiments.classify.saved import load_examples

SAMPLES = 20  # random examples of each class in Figure 7
ENOUGH_LINES = 200  # of metrics.jsonl, for a figure of one network


def draw(config: Config, results: dict) -> dict[str, Figure]:
    """All figures, by file name."""
    classes = results["classes"]
    (main,) = (n for n in results["networks"] if n["name"] == classifier.MAIN)
    drawn = {
        "fig05_covariance": figures.branch_covariances(results["covariances"]),
        "fig06_outputs": figures.branch_outputs(main, classes),
        "classify_training": figures.classifier_training(results["curves"]),
        "classify_norms": figures.branch_norms(results["curves"]),
        "classify_ablation": draw_ablation(results),
        "classify_enrichment": draw_enrichment(results),
        **draw_examples(config, results),
    }
    if len(results["sweep"]["branches"]) > 1:
        drawn["fig05_active"] = figures.active_against_branches(results["sweep"])
        drawn["fig17_sweep"] = draw_sweep(results)
    return drawn


def needed(results: dict) -> dict:
    """The results with fewer lines of `curves`: no more than figures can show.

    Of the main network alone, some at equal distances of all, and some of those with a
    validation accuracy.
    """
    lines = [line for line in results["curves"] if line["network"] == classifier.MAIN]
    validated = [i for i, line in enumerate(lines) if "validation_accuracy" in line]
    shown = {*_spaced(range(len(lines))), *_spaced(validated)}
    return results | {"curves": [lines[i] for i in sorted(shown)]}


def _spaced(places: Sequence[int]) -> list[int]:
    """`ENOUGH_LINES` of them at most, with the first and the last."""
    count = min(len(places), ENOUGH_LINES)
    chosen = np.linspace(0, len(places) - 1, count).round().astype(int)
    return [places[i] for i in chosen.tolist()]


def draw_examples(config: Config, results: dict) -> dict[str, Figure]:
    """Figures 7, 8 and 16, of test images and the branches' confidence in them.

    None of them for a kept copy without test images.
    """
    examples = load_examples(config.workdir)
    if examples is None:
        refuse_selection(config)
        return {}
    images, labels, confidence = examples
    check_selection(config, results["config"]["branches"], labels)
    classes = results["classes"]
    sample = contributions.sample_of_each(labels, SAMPLES)
    drawn = {
        "fig07_confidence": figures.branch_confidence(
            classes, confidence[:, sample], labels[sample]
        )
    }
    branches = config.figure_branches or results["selection"]["branches"]
    selected = config.figure_classes or results["selection"]["classes"]
    for name, share, chosen in (
        ("fig08_confident", 0.02, selected),
        ("fig16_confident", 0.07, selected[:1]),
    ):
        tops = contributions.compare_most_confident(
            confidence, labels, branches, chosen, share
        )
        blocks = [top._asdict() | {"images": images[top.examples]} for top in tops]
        drawn[name] = figures.most_confident_images(classes, blocks, share)
    return drawn


def refuse_selection(config: Config) -> None:
    """Raises UserError for flags of Figures 8 and 16, which cannot be drawn."""
    for name in config.FIGURES_8_16:
        if getattr(config, name) is not None:
            raise UserError(f"`{name}`: {config.workdir} has no test images to show")


def draw_ablation(results: dict) -> Figure:
    ablation = contributions.Ablation(**results["ablation"])
    return figures.branch_ablation(
        ablation.points_lost,
        ablation.kept,
        ablation.alone_in_order,
        results["active_centred"],
    )


def draw_enrichment(results: dict) -> Figure:
    enrichment = results["enrichment"]
    ratio = contributions.log2_ratio(
        np.array(enrichment["count"]), np.array(enrichment["expected"])
    )
    return figures.branch_enrichment(
        enrichment | {"log2_ratio": ratio}, results["classes"]
    )


def draw_sweep(results: dict) -> Figure:
    """Figure 17, of the networks of the first seed."""
    networks = [
        network
        for network in results["networks"]
        if not network["repeat"] and not network["separate"]
    ]
    networks.sort(key=lambda network: network["branches"])
    return figures.branch_outputs_sweep(networks, results["classes"])
