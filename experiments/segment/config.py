"""Flags of `experiments.segment`."""

import dataclasses
from pathlib import Path
from typing import ClassVar, Literal

from bspec_jax.components.chan_vese import Border
from bspec_jax.components.segmentation import BORDER, Choice
from bspec_jax.runs import FlagError, RunConfig, check_flag
from bspec_jax.storage.errors import flag
from experiments.flags import DataConfig, check_not_negative, check_single

NAME = "segment"


@dataclasses.dataclass(frozen=True)
class Config(DataConfig):
    """Flags of the segmentation."""

    COUNTS: ClassVar = ("test_examples", "choose_examples", "largest")

    checkpoint: Path | None = None
    """Run of class_transfer, or checkpoints of its generator."""
    images: tuple[Path, ...] = ()
    """Image files, or folders of images, to segment. Default: held-out images of the
    generator's data set."""
    dataset: str | None = None
    """Another data set with the same classes. Default: the generator's, which must be
    as it was."""
    test_examples: int = 900
    """Number of held-out images to segment, balanced over the classes; fewer if there
    are fewer."""
    source: Literal["auto", "responses", "inputs"] = "auto"
    """Components to use: the branches' responses v_k, or their inputs phi_k. By default
    (auto) phi_k if the generator has a diffusion, else v_k."""
    surface_components: tuple[int, ...] = ()
    """Components that locate the parts, from 0. Default: found without labels."""
    image_components: tuple[int, ...] = ()
    """Components that are nearly constant inside the parts, from 0. Default: found
    without labels."""
    dark: bool = False
    """Parts are dark in the surface components, if these are given."""
    level: float = 0.7
    """Value of the surface components, 0..1, above which pixels start inside, if these
    are given."""
    choose_examples: int = 8
    """Number of training images per class to choose components on."""
    largest: int = 2
    """Maximum number of components that the search combines."""
    part: Literal["eyes", "ears"] = "eyes"
    """Part whose true masks score the segmentation, for data with a ground truth."""
    length: float = 0.02
    """Chan-Vese's mu, weight of the border's length."""
    inside: float = 4.0
    """Chan-Vese's lambda_1, weight of the variance inside; lambda_2 is 1."""

    def check(self) -> None:
        super().check()
        if self.checkpoint is None and not self.figures_only:
            raise FlagError("--checkpoint needs the folder of a class-transfer run")
        if bool(self.surface_components) != bool(self.image_components):
            raise FlagError(
                "--surface-components and --image-components need each other"
            )
        for name in ("surface_components", "image_components"):
            check_distinct(self, name)
        check_flag(self, "level", lambda v: 0 <= v < 1, "in 0..1, below 1")
        for name in ("length", "inside"):
            check_not_negative(self, name)
            check_single(self, name)

    def unused(self) -> dict[str, str]:
        names = {"resume": "to segment, which takes a few minutes"}
        if self.images:
            of_data = ("seed", "dataset", "data_dir", "test_share", "test_examples")
            names |= dict.fromkeys((*of_data, "part"), "to --images")
        if not self.surface_components:
            by_search = "to a search, which is made without --surface-components"
            names |= dict.fromkeys(("dark", "level"), by_search)
        return super().unused() | names

    @property
    def border(self) -> Border:
        return BORDER._replace(length=self.length, inside=self.inside)

    @property
    def given_choice(self) -> Choice | None:
        """The choice of components by hand, if there is one."""
        if not self.surface_components:
            return None
        return Choice(
            self.surface_components, self.image_components, self.dark, self.level
        )


def check_distinct(config: RunConfig, name: str) -> None:
    """Raises FlagError if a flag of several values has one twice."""
    values = getattr(config, name)
    if len(set(values)) < len(values):
        listed = " ".join(map(str, values))
        raise FlagError(f"{flag(name)} must have distinct values, got {listed}")
