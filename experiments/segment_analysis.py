"""What `experiments.segment` finds: choices of components, masks, and their scores."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bspec_jax import generator, run, segmentation
from bspec_jax.errors import FlagError
from bspec_jax.generator import Trained
from bspec_jax.segmentation import Border, Choice, Found
from bspec_jax.statistics import mean_interval
from experiments.segment_data import Images

SHOWN = 3  # examples of each class in the figures
MAIN = "components"
# What each method segments: the components, or the plain image.
STACK = {MAIN: MAIN, "best": MAIN, "plain": "plain", "plain_best": "plain"}


def analyse(
    config, trained: Trained, source: str, chosen_on: Images, segmented: Images
) -> tuple[dict, dict]:
    """What results.json holds, with `masks`, and what the figures show.

    Methods: `components` (by hand or without labels), `plain` (Chan-Vese on the image,
    with the same search), and with a ground truth `best` and `plain_best`, whose choice
    is the best by the true masks of the images that components are chosen on.
    """
    classes = trained.description["classes"]
    few = scalars(config, trained, chosen_on, source)
    many = scalars(config, trained, segmented, source)
    choices = choose(config, few, chosen_on)
    masks = {
        method: segmentation.segment_all(
            many[STACK[method]], [one.choice], config.border()
        )[0]
        for method, one in choices.items()
    }
    results = {
        "classes": [classes[label] for label in np.unique(segmented.labels)],
        "source": source,
        "part": config.part,
        "examples": len(segmented.x),
        "methods": {
            method: {
                "choice": one.choice._asdict(),
                "value": one.value,
                **scores(config, masks[method], segmented, classes),
            }
            for method, one in choices.items()
        },
        "iou": of_parts(masks[MAIN], segmented),
        "iou_plain": of_parts(masks["plain"], segmented),
        "masks": masks[MAIN],
    }
    return results, show(config, many[MAIN], choices[MAIN].choice, masks, segmented)


def source_of(config, trained: Trained) -> str:
    """Which components they are, "responses" or "inputs".

    Raises:
      FlagError: if inputs are wanted, and all branches read the image.
    """
    learnt = trained.description["residual"] == "diffusion"
    if config.source == "inputs" and not learnt:
        raise FlagError(
            "--source inputs needs a generator with the diffusion; here all branches "
            "read the image"
        )
    if config.source == "auto":
        return "inputs" if learnt else "responses"
    return config.source


def scalars(
    config, trained: Trained, some: Images, source: str
) -> dict[str, np.ndarray]:
    """What is segmented, made scalar: the components, and the plain image as one."""
    found = generator.decompose(trained.model, trained.params, some.x, some.labels)
    components = found.inputs if source == "inputs" else found.components
    return {
        MAIN: segmentation.scalarise(components),
        "plain": segmentation.scalarise(some.x[None]),
    }


def choose(
    config, few: Mapping[str, np.ndarray], chosen_on: Images
) -> dict[str, Found]:
    """Each method's choice, with its value by that method's criterion."""
    values = {MAIN: segmentation.mean_pair_score, "plain": segmentation.mean_pair_score}
    if chosen_on.masks is not None:
        truth = chosen_on.masks[config.part]

        def overlap(masks):
            return float(segmentation.iou(masks, truth).mean())

        values |= {"best": overlap, "plain_best": overlap}
    found = {}
    if config.surface_components:
        choice = Choice(
            config.surface_components,
            config.image_components,
            config.dark,
            config.level,
        )
        (masks,) = segmentation.segment_all(few[MAIN], [choice], config.border())
        found[MAIN] = Found(values.pop(MAIN)(masks), choice)
    for kind, stack in few.items():
        methods = [method for method in values if STACK[method] == kind]
        if methods:
            criteria = [values[method] for method in methods]
            rankings = search(kind, stack, criteria, config.border(), config.largest)
            found |= {
                m: ranking[0] for m, ranking in zip(methods, rankings, strict=True)
            }
    return {method: found[method] for method in STACK if method in found}


def search(
    name: str,
    scalars: np.ndarray,
    values: Sequence[Callable[[np.ndarray], float]] = (segmentation.mean_pair_score,),
    border: Border = segmentation.BORDER,
    largest: int = 2,
) -> list[list[Found]]:
    """`segmentation.search`, with a progress bar."""
    size = segmentation.search_size(len(scalars), len(values), largest)
    total = size * scalars.shape[1]
    with run.progress_bar(total, f"choosing {name}", "image") as advance:
        return segmentation.search(scalars, values, border, largest, advance)


def scores(
    config, masks: np.ndarray, segmented: Images, classes: Sequence[str]
) -> dict[str, dict]:
    """The scores of a method, for each class and for all images."""
    truth = segmented.masks and segmented.masks[config.part]
    found = {
        classes[label]: score(masks, truth, segmented.labels == label)
        for label in np.unique(segmented.labels)
    }
    everything = np.ones(len(masks), bool)
    return {"by_class": found, "all": score(masks, truth, everything)}


def score(masks: np.ndarray, truth: np.ndarray | None, where: np.ndarray) -> dict:
    """Of some images: the share of empty masks, and what needs a truth, or null.

    `iou` is the mean over images, an empty mask counting 0; `precision` and `recall`
    are of the pixels of all of them.
    """
    masks = masks[where]
    found = {"empty": float((~masks.any((1, 2))).mean())}
    if truth is None:
        return found | dict.fromkeys(("iou", "iou_interval", "precision", "recall"))
    truth = truth[where]
    mean, interval = mean_interval(segmentation.iou(masks, truth))
    both = (masks & truth).sum()
    return found | {
        "iou": mean,
        "iou_interval": interval,
        "precision": both / masks.sum() if masks.any() else None,
        "recall": both / truth.sum() if truth.any() else None,
    }


def of_parts(masks: np.ndarray, segmented: Images) -> dict[str, float] | None:
    """Mean IoU of the masks with each part of the faces."""
    if segmented.masks is None:
        return None
    return {
        part: segmentation.iou(masks, truth).mean()
        for part, truth in segmented.masks.items()
    }


def show(
    config,
    stack: np.ndarray,
    choice: Choice,
    masks: Mapping[str, np.ndarray],
    segmented: Images,
) -> dict[str, np.ndarray]:
    """What the figures show of a few images of each class.

    With a ground truth they are the upper quartile, the median and the worst by IoU.
    """
    truth = segmented.masks and segmented.masks[config.part]
    index = []
    for label in np.unique(segmented.labels):
        of_class = np.flatnonzero(segmented.labels == label)
        if truth is not None:
            found = segmentation.iou(masks[MAIN][of_class], truth[of_class])
            order = of_class[np.argsort(found)]
            of_class = order[[3 * len(order) // 4, len(order) // 2, 0]]
        index += of_class[:SHOWN].tolist()
    few = stack[:, index]
    images = segmentation.combine(few, choice.image)
    surface = segmentation.initial_surface(few, choice)
    shown = {
        "labels": segmented.labels[index],
        "images": segmented.x[index],
        "located": segmentation.combine(few, choice.surface),
        "surface": surface,
        "segmented": images,
        "inside": segmentation.inside(images, surface, config.border()),
        **{f"masks_{method}": found[index] for method, found in masks.items()},
    }
    return shown if truth is None else shown | {"truth": truth[index]}
