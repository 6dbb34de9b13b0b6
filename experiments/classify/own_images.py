"""Images of the user's own: their class, how sure that is, and each branch's part.

Reads the run in `--workdir` and adds RUN/images/contributions.png to it; nothing else
of the run changes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from bspec_jax import classifier, figures, runs
from bspec_jax.classifier import Classifier, contributions
from bspec_jax.data.folder import read_images
from bspec_jax.data.names import shown
from bspec_jax.losses import Clamp
from bspec_jax.storage.errors import UserError, notify
from experiments.classify.config import NAME, Config

SUBFOLDER = "images"  # of the run
FIGURE = "contributions"
DRAWN = 20  # images in the figure
COLUMNS = 8  # images in a row of the table


class Answers(NamedTuple):
    """What a classifier says of N images.

    order: classes from the largest output to the smallest.
    probability: of each class; see `contributions.probabilities`.
    contribution: of each branch to the first class: `contributions.confidence`.
    """

    order: Int[np.ndarray, "N C"]
    probability: Float[np.ndarray, "N C"]
    contribution: Float[np.ndarray, "M N"]


def classify(config: Config) -> None:
    """Classifies `config.images` by the run in `config.workdir`."""
    trained = load(config.workdir)
    size, _, channels = trained.spec.image_shape
    images, paths = read_images(config.images, size, channels)
    answers = answer(trained.responses(images), trained.spec.clamp)
    print(*table(paths, answers, trained.spec.classes, trained.spec.clamp), sep="\n")
    first = slice(DRAWN)
    drawn = figures.own_contributions(
        images[first],
        [path.name for path in paths[first]],
        in_words(answers, trained.spec.classes)[first],
        answers.contribution[:, first],
    )
    runs.save_figures(config.workdir, {FIGURE: drawn}, SUBFOLDER)
    number = f", of the first {DRAWN} images" if len(paths) > DRAWN else ""
    print(f"figure in {config.workdir / SUBFOLDER / FIGURE}.png{number}")


def load(workdir: Path) -> Classifier:
    """The main network of a run, with a Notice if it is still being trained.

    Raises:
      UserError: if there is none, or it does not read square images.
    """
    runs.check_experiment(workdir, NAME)
    trained = classifier.load(workdir)
    height, width, _ = trained.spec.image_shape
    if height != width:
        raise UserError(
            f"the network of {workdir} reads {height} x {width} pixels, but images of "
            "your own become squares: train one with --image-size"
        )
    if not (workdir / "results.json").exists():
        notify(
            f"the run in {workdir} is not finished: its network has taken "
            f"{trained.step} steps"
        )
    return trained


def answer(v: Float[np.ndarray, "M N C"], clamp: Clamp) -> Answers:
    """The answers that follow from the responses.

    Raises:
      UserError: if these are not finite.
    """
    f = v.sum(0)
    if not np.isfinite(f).all():
        raise UserError("the network's responses are not finite: it classifies nothing")
    order = np.argsort(-f, axis=1, kind="stable")
    return Answers(
        order,
        contributions.probabilities(f, clamp),
        contributions.confidence(v, order[:, 0]),
    )


def in_words(answers: Answers, classes: Sequence[str]) -> list[str]:
    """The class of each image, and how sure."""
    return [
        f"{classes[c]}, {answers.probability[n, c]:.2f}"
        for n, c in enumerate(answers.order[:, 0])
    ]


def table(
    paths: Sequence[Path], answers: Answers, classes: Sequence[str], clamp: Clamp
) -> list[str]:
    """A line for each image, then one for each branch with a column for each image."""
    names = [shown(name) for name in classes]
    wide = max(len("class"), *map(len, names))
    lines = [f"  no.  {'class':{wide}}  sure  {'next':{wide}}  sure  image"]
    for n, path in enumerate(paths):
        best = (
            f"{names[c]:{wide}}  {answers.probability[n, c]:.2f}"
            for c in answers.order[n, :2]
        )
        lines.append(f"{n:5}  {'  '.join(best)}  {shown(path)}")
    surest = contributions.surest(len(classes), clamp)
    limit = "" if clamp == "none" else ", limited to -1..1 as in the loss"
    lines += [
        f"sure: softmax of the sum of the branches{limit}: at most {surest:.2f}, and "
        f"{1 / len(classes):.2f} by chance",
        "",
        "what each branch adds for the class: its output less its mean over classes",
    ]
    for start in range(0, len(paths), COLUMNS):
        index = range(start, min(start + COLUMNS, len(paths)))
        lines.append("branch" + "".join(f"{f'no. {n}':>9}" for n in index))
        rows = [*enumerate(answers.contribution), ("sum", answers.contribution.sum(0))]
        for k, row in rows:
            lines.append(f"{k:>6}" + "".join(f"{row[n]:+9.3f}" for n in index))
    return lines
