import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from bspec_jax import generator
from bspec_jax.components import measures
from bspec_jax.data import Selection, Split, faces, streaming
from bspec_jax.data.selection import balanced
from bspec_jax.generator import ClassTransfer, Decomposition, evaluation
from bspec_jax.generator.recogniser import Recogniser
from bspec_jax.generator.transfers import Transfers, transfer_scores


def test_parts_and_layers_are_those_of_the_test_images():
    """A component that is a rendered layer is found to be it; so is one in the eyes."""
    source = faces.find(32)
    chosen = balanced(source.test.labels(), 12, 3)
    test = source.test.read(chosen)
    data = Selection(
        "faces", faces.CLASSES, source.train, test, chosen, source.test, []
    )
    truth = data.ground_truth()
    assert_array_equal(np.round(255 * truth.image).astype(np.uint8), test.images)
    eyes = truth.masks["eyes"][..., None] * np.ones(3)
    shading = np.broadcast_to(truth.diffuse, eyes.shape)
    v = np.stack([eyes, -2 * shading, truth.albedo]).astype(np.float32)
    parts = evaluation.part_scores(v, truth)
    layers = evaluation.layer_scores(v, truth)
    area = truth.masks["eyes"].mean((1, 2))
    assert_allclose(parts["eyes"]["mean"][0], (1 / area).mean(), rtol=1e-4)
    assert parts["fur"]["mean"][0] == 0
    assert_allclose(layers["diffuse"]["mean"][1], -1, atol=1e-4)
    assert_allclose(layers["albedo"]["mean"][2], 1, atol=1e-4)
    assert abs(layers["albedo"]["mean"][1]) < 0.9


def parts_of(*rows):
    """Masks `[2, 2, 3]` from the pixels (image, row, column) of each part."""
    masks = {}
    for name, pixels in rows:
        masks[name] = np.zeros((2, 2, 3), bool)
        for pixel in pixels:
            masks[name][pixel] = True
    return masks


def test_part_energy_is_the_mean_over_all_pixels_of_a_part():
    v = np.random.default_rng(0).normal(size=(3, 2, 2, 3, 2)).astype(np.float32)
    # One pixel in the first image, three in the second: not a mean of means.
    eyes = [(0, 1, 2), (1, 0, 0), (1, 0, 1), (1, 1, 0)]
    fur = [(1, 1, 1), (1, 1, 2)]
    masks = parts_of(("eyes", eyes), ("whiskers", []), ("fur", fur))
    expected = np.zeros((3, 2))
    for k in range(3):
        for part, pixels in enumerate((eyes, fur)):
            for n, i, j in pixels:
                for channel in range(2):
                    energy = float(v[k, n, i, j, channel]) ** 2
                    expected[k, part] += energy / len(pixels)
    assert_allclose(evaluation.part_energy(v, masks), expected, rtol=1e-5)


def test_observations_of_branches_that_were_made_by_hand():
    """Branch 0 has the eyes, branch 1 the fur, branch 2 half of its energy in each."""
    eyes = [(0, 0, 0), (1, 1, 1)]
    fur = [(0, 1, 0), (0, 1, 1), (1, 0, 2), (1, 0, 0)]
    masks = parts_of(("eyes", eyes), ("fur", fur))
    v = np.zeros((4, 2, 2, 3, 1), np.float32)
    v[0][masks["eyes"]] = 2
    v[1][masks["fur"]] = 3
    v[2][masks["eyes"] | masks["fur"]] = 1
    # Branch 3 answers nowhere.
    same = np.ones_like(v)  # before training: all branches alike
    blank = np.zeros((2, 2, 3, 3), np.float32)
    light, height = blank[..., :1], blank[..., 0]
    truth = faces.Face(blank, blank, light, light, height, blank, masks)
    records = evaluation.observations(v, same, truth)
    assert list(records) == [1, 2, 3, 4, 5]  # growth needs several M
    values = {n: record["uncentred"]["value"] for n, record in records.items()}
    # Entropies 0, 0 and 1 of the three active branches.
    assert_allclose(values[1], 1 / 3, rtol=1e-5)
    # In the eyes 0 and 2 are active, in the fur 1 and 2: two of four in each.
    assert_allclose(values[2], 0.5)
    assert_allclose(values[3], 1 / 3, rtol=1e-6)  # half of the parts for 0 and 1
    assert values[4] == 0.25
    # By hand: <v0, v2> = 2 * 2, <v1, v2> = 3 * 4; squares 8, 36 and 6.
    rho = (4 / np.sqrt(8 * 6) + 12 / np.sqrt(36 * 6) + 0) / 3
    assert_allclose(values[5], rho, rtol=1e-5)
    # Before training all are constant: none is active without its mean.
    assert np.isnan([records[n]["initial"] for n in range(1, 6)]).all()
    assert np.isnan(records[5]["beside"]["change"]["value"])
    centred = v - v.mean(1, keepdims=True)
    energy = (centred**2).sum(-1)
    mean = np.stack([energy[:3, mask].mean(1) for mask in masks.values()], 1)
    p = mean / mean.sum(1, keepdims=True)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(1).mean() / np.log(2)
    assert_allclose(records[1]["value"], entropy, rtol=1e-5)
    assert records[4]["value"] == 0.25
    assert {record["holds"] for record in records.values()} == {None}
    assert {record["networks"] for record in records.values()} == {1}
    assert evaluation.observations(v, same, None) == {}


def test_shares_of_energy_add_up_for_each_row():
    norms = np.array([[3.0, 4.0], [1.0, 1.0]])
    shares = evaluation.energy_share(norms)
    assert_allclose(shares, [[9 / 25, 16 / 25], [0.5, 0.5]])


class Brightness(Recogniser):
    """Recognises images by their mean, dark (0) or bright (1)."""

    classes = ("dark", "bright")

    def recognise(self, x):
        return (x.mean((1, 2, 3)) > 0).astype(int)

    def features(self, x):
        return np.stack([x.mean((1, 2, 3)), x.std((1, 2, 3))], 1)


@pytest.fixture
def transfers():
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 4)
    level = np.where(labels, 0.5, -0.5)[:, None, None, None]
    x = (level + 0.1 * rng.normal(size=(8, 4, 4, 1))).astype(np.float32)
    to_dark, to_bright = np.abs(x) * -1, np.abs(x)
    to_bright[0] *= -1  # one dark image stays dark
    residual = np.full_like(x, 0.1)  # R alone is bright
    residual += 0.01 * rng.normal(size=x.shape)
    return Transfers(x, labels, residual, np.stack([to_dark, to_bright]))


def test_transfer_scores_count_images(transfers):
    fids = []

    def fid(real, fake):
        fids.append((real, fake))
        return float(len(fids))

    scores = transfer_scores(transfers, Brightness(None), fid)
    assert scores["recogniser_accuracy"] == 1
    assert_allclose(scores["rates"], [[1, 0.75], [1, 1]])
    assert_allclose(scores["rates_residual"], [[0, 1], [0, 1]])
    assert_allclose(scores["transfer_accuracy"], 0.875)
    assert_allclose(scores["kept"], 1)
    assert_allclose(scores["transfer_accuracy_residual"], 0.5)
    assert_allclose(scores["kept_residual"], 0.5)
    features, (x, labels) = Brightness(None).features, transfers[:2]
    expected = [
        measures.frechet_distance(
            features(x[labels == y]), features(transfers.to_class[y][labels != y])
        )
        for y in (0, 1)
    ]
    assert_allclose(scores["frechet"], np.mean(expected))
    # The FID is asked for transfers and for R, class by class, in bytes.
    assert (scores["fid"], scores["fid_residual"]) == (2, 3)
    assert_array_equal(fids[2][0], generator.to_bytes(x[labels == 1]))
    bright = transfers.to_class[1][labels == 0]
    assert_array_equal(fids[2][1], generator.to_bytes(bright))
    assert_array_equal(fids[3][1], generator.to_bytes(transfers.residual[labels == 0]))
    without = transfer_scores(transfers, Brightness(None), None)
    assert (without["fid"], without["fid_residual"]) == (None, None)


def flipping(with_inputs):
    """A generator of two branches, which for class 1 adds and for 0 subtracts."""

    def decompose(params, x, labels):
        sign = 2.0 * labels[:, None, None, None] - 1
        components = params * sign[None] * abs(x)[None].repeat(2, 0)
        residual = 0.5 * x
        inputs = 0.25 * x[None].repeat(2, 0) if with_inputs else None
        return Decomposition(residual + components.sum(0), residual, components, inputs)

    return ClassTransfer(None, lambda *args: decompose(*args).image, decompose)


@pytest.mark.parametrize("with_inputs", [True, False])
def test_pictures_are_what_the_generator_makes(with_inputs):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 4, 4, 1), np.uint8)
    examples = Split(images, np.array([1, 0, 1], np.int32))
    model, scale = flipping(with_inputs), np.float32(0.3)
    pictures = evaluation.make_pictures(model, scale, examples, 2)
    x = generator.to_signed(images)
    assert_allclose(pictures.images, x)
    sign = np.array([1, -1, 1]).reshape(3, 1, 1, 1)
    assert_allclose(pictures.components[1], 0.3 * sign * np.abs(x), rtol=1e-5)
    assert_allclose(pictures.residual, 0.5 * x)
    assert_allclose(pictures.generated, 0.5 * x + 0.6 * sign * np.abs(x), atol=1e-6)
    assert_allclose(pictures.transfers[1], 0.5 * x + 0.6 * np.abs(x), atol=1e-6)
    assert len(pictures.inputs) == (2 if with_inputs else 0)
    if with_inputs:
        assert_allclose(pictures.inputs[0], 0.25 * x)


def test_of_three_images_of_a_class_there_is_no_frechet_distance(transfers):
    x, labels, residual, to_class = transfers
    few = Transfers(x[:-1], labels[:-1], residual[:-1], to_class[:, :-1])
    scores = transfer_scores(few, Brightness(None), None)
    assert_allclose(scores["rates"], [[1, 0.75], [1, 1]])
    for name in ("frechet", "frechet_residual", "frechet_real"):
        assert np.isnan(scores[name])
    scores = transfer_scores(
        few._replace(labels=np.zeros(7, int)), Brightness(None), None
    )
    assert_array_equal(np.isnan(scores["rates"]), [[False, False], [True, True]])
    assert np.isnan(scores["transfer_accuracy"])


def test_transfers_that_are_not_finite_are_not_scored(transfers):
    class OfFinite(Brightness):
        def recognise(self, x):
            return np.where(np.isfinite(x).all((1, 2, 3)), super().recognise(x), -1)

    transfers.to_class[1, 2, 0, 0] = np.nan  # a dark image to bright
    scores = transfer_scores(transfers, OfFinite(None), lambda real, fake: 1.0)
    assert_array_equal(np.isnan(scores["rates"]), [[False, True], [False, False]])
    for name in ("transfer_accuracy", "frechet", "fid"):
        assert np.isnan(scores[name]), name
    assert scores["kept"] == 1


def test_scores_of_branches_that_are_silent_single_or_not_finite():
    v = np.random.default_rng(0).normal(size=(3, 2, 4, 4, 1)).astype(np.float32)
    silent = evaluation.branch_scores(0 * v)
    assert (silent["active"], silent["silent"]) == (0, 3)
    assert_array_equal(silent["energy_share"], [0, 0, 0])
    assert silent["mean_correlation"] is None
    single = evaluation.branch_scores(v[:1])
    assert (single["active"], single["silent"]) == (1, 0)
    assert_array_equal(single["energy_share"], [1])
    assert single["mean_correlation"] is None
    v[1, 0, 2, 2] = np.inf
    unknown = evaluation.branch_scores(v)
    for name in ("active", "silent", "mean_correlation", "specialization_index"):
        assert np.isnan(unknown[name]), name
    assert np.isnan(unknown["energy_share"]).all()


def test_parts_of_components_that_are_not_finite_are_unknown():
    truth = faces.find(32).test.ground_truth(np.arange(3))
    v = np.ones((2, 3, 32, 32, 3), np.float32)
    v[1, 0, 5, 5] = np.nan
    scores = evaluation.part_scores(v, truth)
    for part in scores.values():
        assert_allclose(part["mean"], [1, np.nan], rtol=1e-5)


@pytest.mark.slow
def test_what_is_monitored_is_what_is_measured_at_the_end():
    """On the same images, under the same names."""
    spec = generator.GeneratorSpec(
        "tiny", 2, ("dark", "bright"), (16, 16, 1), "gaussian", 2.0, 1.0, "float32"
    )
    model = generator.build(spec)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 16, 16, 1), np.uint8)
    test = Split(images, np.array([0, 1, 0, 1, 0, 1, 0, 1, 0], np.int32))
    x = generator.to_signed(images)
    params = jax.jit(model.init)(jax.random.key(0), x, test.labels)
    part = streaming.from_split(test)
    data = Selection("own", spec.classes, part, test, np.arange(9), part, [])
    recogniser = Brightness(None)
    log, _ = evaluation.monitor(model, params, test, recogniser)
    final = evaluation.analyse(model, params, params, data, recogniser, 1.0)
    for name in ("transfer_accuracy", "kept", "frechet", "psnr", "ssim", "active"):
        assert_allclose(log[name], final[name], rtol=1e-6, err_msg=name)
