"""What `experiments.segment` finds: choices of components, masks, and their scores."""

from collections.abc import Mapping, Sequence

import numpy as np

from bspec_jax import generator, segmentation
from bspec_jax.errors import FlagError
from bspec_jax.generator import Trained
from bspec_jax.segmentation import Choice, Found
from bspec_jax.statistics import mean_interval
from experiments.segment_data import Images

SHOWN = 3  # examples of each class in the figures
MAIN = "components"
# What each method segments: the components, or the plain image.
STACK = {MAIN: MAIN, "best": MAIN, "plain": "plain", "plain_best": "plain"}


def analyse(
    config, trained: Trained, chosen_on: Images, segmented: Images
) -> tuple[dict, dict]:
    """What results.json holds, with `masks`, and what the figures show.

    Methods: `components` (by hand or without labels), `plain` (Chan-Vese on the image,
    with the same search), and with a ground truth `best` and `plain_best`, whose choice
    is the best by the true masks of the same training images.
    """
    source = source_of(config, trained)
    classes = trained.description["classes"]
    few = scalars(config, trained, chosen_on, source)
    many = scalars(config, trained, segmented, source)
    present = [int(label) for label in np.unique(segmented.labels)]
    choices: dict[str, dict[int, Found]] = {}
    for label in present:
        of_class = np.flatnonzero(chosen_on.labels == label)
        for method, found in choose(config, few, chosen_on, of_class).items():
            choices.setdefault(method, {})[label] = found
        print(f"{classes[label]}: components chosen", flush=True)
    masks = {
        method: segment(config, many[STACK[method]], segmented.labels, found)
        for method, found in choices.items()
    }
    results = {
        "classes": [classes[label] for label in present],
        "source": source,
        "part": config.part,
        "examples": len(segmented.x),
        "methods": {
            method: {
                "choices": {
                    classes[label]: {"score": one.value, **one.choice._asdict()}
                    for label, one in found.items()
                },
                **scores(config, masks[method], segmented, classes),
            }
            for method, found in choices.items()
        },
        "iou": of_parts(masks[MAIN], segmented),
        "iou_plain": of_parts(masks["plain"], segmented),
        "masks": masks[MAIN],
    }
    return results, show(config, many[MAIN], choices[MAIN], masks, segmented)


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
    config, few: Mapping[str, np.ndarray], chosen_on: Images, index: np.ndarray
) -> dict[str, Found]:
    """Each method's choice for a class, of which `index` are the images."""
    values = [segmentation.mean_pair_score]
    if chosen_on.masks is not None:
        truth = chosen_on.masks[config.part][index]
        values.append(lambda masks: float(segmentation.iou(masks, truth).mean()))
    found = {}
    for kind, stack in few.items():
        rankings = segmentation.search(stack[:, index], values, config.border())
        names = [method for method, of in STACK.items() if of == kind]
        for name, ranking in zip(names, rankings, strict=False):
            found[name] = ranking[0]
    if config.surface_components:
        by_hand = Choice(
            config.surface_components,
            config.image_components,
            config.dark,
            config.level,
        )
        masks = segmentation.segment_all(
            few[MAIN][:, index], [by_hand], config.border()
        )
        found[MAIN] = Found(values[0](masks[0]), by_hand)
    return found


def segment(
    config, stack: np.ndarray, labels: np.ndarray, found: Mapping[int, Found]
) -> np.ndarray:
    """The masks of all images, each by the choice for its class."""
    masks = np.zeros(stack.shape[1:], bool)
    for label, one in found.items():
        index = np.flatnonzero(labels == label)
        masks[index] = segmentation.segment_all(
            stack[:, index], [one.choice], config.border()
        )[0]
    return masks


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
    choices: Mapping[int, Found],
    masks: Mapping[str, np.ndarray],
    segmented: Images,
) -> dict[str, np.ndarray]:
    """What the figures show of a few images of each class.

    With a ground truth they are the upper quartile, the median and the worst by IoU.
    """
    parts = []
    for i, (label, one) in enumerate(choices.items()):
        index = np.flatnonzero(segmented.labels == label)
        if segmented.masks is not None:
            truth = segmented.masks[config.part][index]
            order = index[np.argsort(segmentation.iou(masks[MAIN][index], truth))]
            index = order[[3 * len(order) // 4, len(order) // 2, 0]]
        index = index[:SHOWN]
        few = stack[:, index]
        images = segmentation.combine(few, one.choice.image)
        surface = segmentation.initial_surface(few, one.choice)
        part = {
            "classes": np.full(len(index), i),
            "images": segmented.x[index],
            "located": segmentation.combine(few, one.choice.surface),
            "surface": surface,
            "segmented": images,
            "inside": segmentation.inside(images, surface, config.border()),
            **{f"masks_{method}": found[index] for method, found in masks.items()},
        }
        if segmented.masks is not None:
            part["truth"] = segmented.masks[config.part][index]
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
