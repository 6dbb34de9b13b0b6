import inspect

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from shapes import EYES, HEIGHT, NOSE, WIDTH
from skimage.color import rgb2hsv

from bspec_jax.components import segmentation
from bspec_jax.components.indices import component_indices
from bspec_jax.components.pairs import mean_pair_score, regions
from bspec_jax.components.segmentation import BORDER, Choice, segment
from bspec_jax.storage.errors import Notice


def components(noise: float = 0.02):
    """Three, of two images in colour: 0 shows eyes and nose, 1 the eyes, 2 noise.

    The second image is the first one reflected, and in component 1 eyes are dark.
    """
    rng = np.random.default_rng(0)
    found = rng.normal(size=(3, 2, HEIGHT, WIDTH, 3)) * noise
    for i, flip in enumerate((slice(None), slice(None, None, -1))):
        found[0, i] += (0.9 * EYES + 0.8 * NOSE)[:, flip, None] * [1.0, 0.2, 0.1]
        found[1, i] -= EYES[:, flip, None] * 0.7
    return found


def truth():
    return np.stack([EYES, EYES[:, ::-1]])


def test_scalars_are_the_value_of_hsv():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4, 3))
    found = segmentation.scalarise(x)
    image = x[1, 2]
    image = (image - image.min()) / (image.max() - image.min())
    assert_allclose(found[1, 2], rgb2hsv(image)[..., 2], rtol=1e-12)
    assert_array_equal(segmentation.scalarise(np.full((1, 1, 2, 2, 3), -4.0)), 0)


def test_a_combination_is_a_stretched_mean():
    scalars = np.random.default_rng(0).uniform(size=(3, 2, 4, 5))
    mean = (scalars[0, 1] + scalars[2, 1]) / 2
    expected = (mean - mean.min()) / (mean.max() - mean.min())
    assert_allclose(segmentation.combine(scalars, (0, 2))[1], expected)


def test_the_surface_is_positive_above_the_level():
    scalars = np.linspace(0, 1, 11).reshape(1, 1, 1, 11)
    bright = segmentation.initial_surface(scalars, Choice((0,), (0,), level=0.75))
    assert_allclose(bright[0, 0, [10, 9, 5]], [1, 0.6, -1])
    dark = segmentation.initial_surface(scalars, Choice((0,), (0,), True, 0.75))
    assert_allclose(dark, bright[..., ::-1], atol=1e-12)


@pytest.mark.parametrize(
    "choice",
    [
        Choice(surface=(0,), image=(1,)),
        Choice(surface=(1,), image=(1, 2), dark=True),
        Choice(surface=(1,), image=(1,), dark=True, level=0.5),
    ],
)
def test_eyes_are_found_and_the_nose_is_not(choice):
    found = segment(components(), choice)
    assert segmentation.iou(found, truth()).min() > 0.95
    assert not (found & np.stack([NOSE, NOSE[:, ::-1]])).any()


def test_the_wrong_side_finds_no_eyes():
    found = segment(components(), Choice(surface=(1,), image=(1,), dark=False))
    assert segmentation.iou(found, truth()).max() < 0.1


def test_without_a_second_region_the_mask_is_empty():
    flat = np.zeros((1, 2, 16, 16, 3))
    assert not segment(flat, Choice((0,), (0,))).any()
    assert not segment(flat, Choice((0,), (0,), dark=True)).any()
    # Nor if the surface shows a pair, and the image to segment is constant.
    eyes = components()
    eyes[2] = 0
    assert not segment(eyes, Choice((1,), (2,), dark=True)).any()
    half = flat.copy()
    half[..., :8, :, :] = 1  # a second region, but no pair
    assert not segment(half, Choice((0,), (0,))).any()


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ((), r"some of 0\.\.2, got"),
        ((3,), r"some of 0\.\.2, got"),
        ((-1,), r"some of 0\.\.2, got"),
        ((0, 7), r"some of 0\.\.2, got"),
        ((True,), "must be integers, got True"),
        ((np.True_, np.False_, np.True_), "must be integers"),  # a mask
        ((1.0,), "must be integers, got 1.0"),
        ((2, 2), r"must differ, got \[2, 2\]"),
    ],
)
def test_components_must_exist(chosen, message):
    with pytest.raises(ValueError, match=message):
        inspect.unwrap(component_indices)(chosen, 3)
    assert component_indices([np.int64(2), 0], 3) == [2, 0]


@pytest.mark.parametrize("chosen", [(), (3,), (-1,), (True,), (1, 1)])
def test_a_choice_is_of_components_that_exist(chosen):
    for choice in (Choice(chosen, (0,)), Choice((0,), chosen)):
        with pytest.raises(ValueError, match="components must"):
            segment(components(), choice)


def test_the_level_leaves_something_to_start_from():
    scalars = segmentation.scalarise(components())
    for level in (1.0, -0.1, np.nan):
        choice = Choice((0,), (0,), level=level)
        with pytest.raises(
            ValueError, match=r"`level` must be in 0\.\.1, below 1, got"
        ):
            segmentation.initial_surface(scalars, choice)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(value):
    broken = components()
    broken[1, 0, 3, 4, 2] = value
    with pytest.raises(ValueError, match="must be finite numbers"):
        segment(broken, Choice((0,), (1,)))
    images = segmentation.combine(segmentation.scalarise(components()), (0,))
    surfaces = images.copy()
    surfaces[0, 3, 4] = value
    with pytest.raises(ValueError, match="must be finite numbers"):
        segmentation.inside(images, surfaces)


def test_borders_that_have_not_converged_are_counted():
    scalars = segmentation.scalarise(components())
    choices = [Choice((0,), (1,)), Choice((1,), (1,), dark=True)]
    found = segmentation.segment_all(scalars, choices)
    assert found.converged.shape == (2, 2)
    assert found.converged.all()
    hasty = BORDER._replace(max_iterations=2)
    found = segmentation.segment_all(scalars, choices, hasty)
    assert found.converged.tolist() == [[False, False], [True, True]]
    with pytest.warns(Notice, match="^2 of 2 borders have not converged in 2 steps$"):
        segment(components(), choices[0], hasty)


def test_iou_counts_misses():
    masks = np.stack([EYES, np.zeros_like(EYES), NOSE, np.zeros_like(EYES)])
    right = np.stack([EYES, EYES, EYES, np.zeros_like(EYES)])
    assert_array_equal(segmentation.iou(masks, right), [1, 0, 0, 1])
    half = EYES & (np.arange(WIDTH) < 24)
    assert_allclose(
        segmentation.iou(half[None], EYES[None]), half.sum() / EYES.sum(), rtol=1e-12
    )


@pytest.mark.slow
def test_the_search_finds_eyes_without_labels(monkeypatch):
    scalars = segmentation.scalarise(components(noise=0.1))

    def overlap(masks):
        return segmentation.iou(masks, truth()).mean()

    values = (mean_pair_score, overlap)
    done = []
    monkeypatch.setattr(segmentation, "CHOICES_AT_ONCE", 5)  # of 36: one is left over
    found, best = segmentation.search(scalars, values, advance=done.append)
    expected = segmentation.search_size(len(scalars), len(values)) * scalars.shape[1]
    assert sum(done) == expected
    for ranking, value in zip((found, best), values, strict=True):
        assert [one.value for one in ranking] == sorted(
            (one.value for one in ranking), reverse=True
        )
        found = segmentation.segment_all(scalars, [ranking[0].choice])
        assert ranking[0].value == value(found.masks[0])
        assert ranking[0].converged == found.converged.mean()
        assert overlap(found.masks[0]) > 0.9
    # Of a plain image there is no other to refine by.
    (alone,) = segmentation.search(scalars[:1])
    assert len(alone) == segmentation.search_size(1) == 6
    assert {one.choice.image for one in alone} == {(0,)}


def test_masks_are_not_surfaces_nor_bytes():
    for wrong in (EYES[None].astype(np.uint8), EYES[None] * 2.0 - 1):
        with pytest.raises(ValueError, match="masks must be boolean"):
            inspect.unwrap(segmentation.iou)(wrong, EYES[None])
        with pytest.raises(ValueError, match="mask must be boolean"):
            inspect.unwrap(regions)(wrong[0])
    with pytest.raises(ValueError, match="of one shape"):
        inspect.unwrap(segmentation.iou)(EYES[None], np.stack([EYES, NOSE]))
