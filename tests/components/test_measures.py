import numpy as np
import pytest
from numpy.testing import assert_allclose
from typechecks import without_type_checks

from bspec_jax.components import measures
from bspec_jax.storage.errors import ArgumentError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_psnr_of_a_known_error(rng):
    x = rng.uniform(-1, 1, (2, 8, 8, 3))
    y = x.copy()
    y[0] += 0.02
    assert_allclose(measures.psnr(x, y)[0], 40.0)  # 10 log10(4 / 4e-4)
    # Where they are equal the mean square counts as 1e-12.
    assert_allclose(measures.psnr(x, y)[1], 10 * np.log10(4e12))


def test_psnr_inside_counts_the_pixels_of_the_mask(rng):
    x = rng.uniform(-1, 1, (3, 8, 8, 3))
    masks = np.zeros((3, 8, 8), bool)
    masks[:2, 2:4, 5:] = True
    y = x + 0.5  # which must not count
    y[masks] = x[masks] + 0.02
    y[1, 2:4, 5:, 0] = x[1, 2:4, 5:, 0]  # one of three channels is equal
    found = measures.psnr_inside(x, y, masks)
    assert_allclose(found[:2], [40.0, 40 + 10 * np.log10(1.5)])
    assert np.isnan(found[2])
    assert_allclose(
        measures.psnr_inside(x, y, np.ones_like(masks)), measures.psnr(x, y)
    )


def test_ssim_is_the_formula_of_wang_et_al(rng):
    from scipy.ndimage import gaussian_filter

    x, y = rng.uniform(-1, 1, (2, 1, 24, 20, 1))

    def mean(a):
        return gaussian_filter(a, 1.5, truncate=3.5)

    a, b = x[0, ..., 0], y[0, ..., 0]
    va, vb = mean(a**2) - mean(a) ** 2, mean(b**2) - mean(b) ** 2
    cov = mean(a * b) - mean(a) * mean(b)
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    ratio = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    ratio = ratio * (2 * cov + c2) / (va + vb + c2)
    expected = ratio[5:-5, 5:-5].mean()  # of whole windows
    assert_allclose(measures.ssim(x, y), [expected], rtol=1e-6)
    assert_allclose(measures.ssim(x, x), [1.0])


def test_total_variation_and_roughness_of_simple_pictures():
    ramp = np.broadcast_to(np.arange(5.0)[:, None, None], (5, 4, 1))[None]
    assert_allclose(measures.total_variation(ramp), [16 / 20])
    in_colour = ramp * np.array([1.0, -2.0, 0.0])
    assert_allclose(measures.total_variation(in_colour), [16 / 20])
    board = np.indices((6, 6)).sum(0)[..., None] % 2 * 2.0 - 1
    flat = np.ones((6, 6, 1))
    parts = np.stack([board, flat, 0 * flat])[:, None]
    # 60 pairs of neighbours, each 2 apart, over 36 pixels of size 1
    assert_allclose(measures.roughness(parts), [60 * 4 / 36, 0, 0])
    smooth, rough = measures.default_subsets(parts)
    assert (smooth, rough) == ([1, 2], [0])


def test_part_enrichment_is_relative_to_the_area():
    mask = np.zeros((2, 4, 4), bool)
    mask[0, :2, :2] = True  # a quarter; the second image has no such part
    v = np.zeros((3, 2, 4, 4, 3))
    v[0, :, :2, :2] = 0.5  # only in the part
    v[1] = -0.3  # everywhere
    v[2, :, 2:, 2:, 1] = 1.0  # elsewhere
    v[2, 0, 0, 0, 0] = 2.0  # but for energy 4 of 8
    found = measures.part_enrichment(v, mask)
    assert_allclose(found[:, 0], [4, 1, 2])
    assert np.isnan(found[:, 1]).all()
    assert np.isnan(measures.part_enrichment(0 * v, mask)).all()


def test_energy_share_of_a_mask():
    masks = np.zeros((3, 4, 4), bool)
    masks[:, :2, :2] = True
    images = np.zeros((3, 4, 4, 2))
    images[0, 0, 0] = [1, -2]  # energy 5 inside, 15 outside
    images[0, 3, 2, 1] = np.sqrt(15)
    images[1] = 0.3
    assert_allclose(measures.energy_share(images, masks), [0.25, 0.25, 0])


def test_layer_correlation_is_pearsons(rng):
    v = rng.normal(size=(2, 3, 5, 6, 3))
    layer = rng.normal(size=(3, 5, 6, 1))
    found = measures.layer_correlation(v, layer)
    for k in range(2):
        for n in range(3):
            spread = np.repeat(layer[n], 3, -1).ravel()
            expected = np.corrcoef(v[k, n].ravel(), spread)[0, 1]
            assert_allclose(found[k, n], expected, rtol=1e-10)
    colour = rng.normal(size=(3, 5, 6, 3))
    expected = np.corrcoef(v[1, 2].ravel(), colour[2].ravel())[0, 1]
    assert_allclose(measures.layer_correlation(v, colour)[1, 2], expected)
    assert_allclose(measures.layer_correlation(-2 * colour[None], colour), -1)
    assert np.isnan(measures.layer_correlation(v, 0 * layer + 3)).all()


def test_frechet_distance_of_known_gaussians(rng):
    """With commuting covariances it is |m - n|^2 + sum (sqrt a - sqrt b)^2."""
    z = rng.normal(size=(4000, 3))
    z = (z - z.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(z.T))).T
    x, y = z * [1.0, 2.0, 3.0], z * [2.0, 2.0, 1.0] + [1.0, 0.0, -2.0]
    assert_allclose(measures.frechet_distance(x, y), 5 + 1 + 4, rtol=1e-6)
    assert abs(measures.frechet_distance(x, x)) < 1e-5


def test_frechet_distance_where_covariances_do_not_commute(rng):
    from scipy.linalg import sqrtm

    x, y = rng.normal(size=(50, 4)), rng.normal(size=(40, 4)) @ rng.normal(size=(4, 4))
    a, b = np.cov(x.T), np.cov(y.T)
    expected = ((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(
        a + b - 2 * sqrtm(a @ b).real
    )
    assert_allclose(measures.frechet_distance(x, y), expected, rtol=1e-8)


def test_measures_do_not_depend_on_the_scale_or_the_type_of_components(rng):
    v = rng.normal(size=(2, 3, 12, 12, 2)).astype(np.float32)
    layer = rng.normal(size=(3, 12, 12, 1)).astype(np.float32)
    masks = rng.random((3, 12, 12)) < 0.3
    for scaled in (v * np.float32(1e-9), (v * 300).astype(np.float16)):
        for function in (
            measures.roughness,
            lambda v: measures.part_enrichment(v, masks),
            lambda v: measures.layer_correlation(v, layer),
            lambda v: measures.energy_share(v[0], masks),
        ):
            assert_allclose(function(scaled), function(v), rtol=1e-2)


def test_distances_that_are_not_defined(rng):
    x = rng.normal(size=(5, 3))
    assert np.isnan(measures.frechet_distance(x[:1], x))
    assert np.isnan(measures.frechet_distance(x, 1e200 * x))  # squares overflow
    # Of two images each the covariances are singular, but there.
    assert np.isfinite(measures.frechet_distance(x[:2], x[2:4]))
    # In one dimension: (m - n)^2 + (s - t)^2.
    a, b = x[:, :1], 3 * x[:, :1] + 1
    expected = (a.mean() - b.mean()) ** 2 + (2 * a.std(ddof=1)) ** 2
    assert_allclose(measures.frechet_distance(a, b), expected, rtol=1e-8)


def test_what_is_outside_a_mask_does_not_count(rng):
    x = rng.uniform(-1, 1, (1, 8, 8, 3))
    masks = np.zeros((1, 8, 8), bool)
    masks[0, 2:5, 2:5] = True
    expected = measures.psnr_inside(x, 0 * x, masks)
    x[0, 0, 0] = np.nan
    assert_allclose(measures.psnr_inside(x, 0 * x, masks), expected)


X = np.zeros((2, 12, 12, 3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measures.psnr(X.astype(np.uint8), X), "must be floats .* not uint8"),
        (lambda: measures.psnr(X, X[:1]), "are no pairs"),
        (lambda: measures.psnr(X[0], X[0]), r"\['N', 'H', 'W', 'C'\], not of shape"),
        (lambda: measures.ssim(X + 200, X + 255), r"in -1..1; give .* x / 127.5 - 1"),
        (lambda: measures.psnr_inside(X, X, X[..., 0]), "masks must be booleans"),
        (lambda: measures.energy_share(X, X[:1, ..., 0] > 0), r"booleans of shape \(2"),
        (lambda: measures.roughness(X), "components must be"),
        (lambda: measures.layer_correlation(X[None], X[..., :2]), "does not belong to"),
        (lambda: measures.frechet_distance(X[0, 0], X[0, 0, :, :2]), "of 3 and of 2"),
        (lambda: measures.default_subsets(X[None] + np.nan), "have no smooth half"),
    ],
)
def test_images_that_are_mistaken(call, words):
    with without_type_checks(), pytest.raises(ArgumentError, match=words):
        call()
