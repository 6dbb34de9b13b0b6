import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from typechecks import without_type_checks

from bspec_jax.analysis import specialization as sp
from bspec_jax.analysis.measured import Measured

# Three branches at four points, by hand. Branch norms: 5, 0.5 (a tie with the threshold
# 0.1 * 5), 0.
TABLE = jnp.array(
    [
        [3.0, 0.0, 0.0, 4.0],
        [0.0, 0.5, 0.0, 0.0],
        [0.0, 0.0, 0.0, 0.0],
    ]
)
KEY = jax.random.key(0)


def test_response_matrix_flattens_outputs_branch_by_branch():
    v = jnp.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
    assert_array_equal(sp.response_matrix(v), [np.arange(12.0), np.arange(12.0, 24)])


def test_norms_of_the_table():
    assert_allclose(sp.response_norms(TABLE), [5, 0.5, 0])


def test_active_by_the_norm_rule_with_a_tie():
    assert_array_equal(sp.active_branches(TABLE), [True, True, False])
    above = sp.active_branches(TABLE, threshold=0.1001)
    assert_array_equal(above, [True, False, False])


def test_active_by_the_variance_rule():
    # Branch 0 is large but constant: active by norm, silent by variance.
    v = jnp.array([[9.0, 9.0, 9.0], [1.0, -1.0, 0.0], [0.4, -0.2, -0.2]])
    assert_array_equal(sp.active_branches(v, threshold=0.2), [True, False, False])
    # Variances 0, 2/3 and 0.08: the last is 12 % of the largest.
    assert_array_equal(sp.active_branches(v, rule="variance"), [False, True, True])
    assert_array_equal(
        sp.active_branches(v, rule="variance", threshold=0.13), [False, True, False]
    )


def test_active_by_the_centred_rule():
    # Two outputs: constant, constant over examples, and centred norms 2 and 0.15.
    v = jnp.array(
        [
            [[9.0, 9.0], [9.0, 9.0]],
            [[9.0, 0.3], [9.0, 0.3]],
            [[1.0, 0.0], [1.0 - 8**0.5, 0.0]],
            [[0.0, 0.0], [0.0, 0.15 * 2**0.5]],
        ]
    )
    assert_allclose(sp.response_norms(sp.centred(v)), [0, 0, 2, 0.15], atol=1e-6)
    rule = {"rule": "centred"}
    assert_array_equal(sp.active_branches(v, **rule), [False, False, True, False])
    half = sp.active_branches(v, threshold=0.07, **rule)
    assert_array_equal(half, [False, False, True, True])
    assert_array_equal(sp.activity(v, **rule), [0, 0, 1, 0])
    # By variance a constant counts, unless it is the same in all outputs.
    by_variance = sp.active_branches(v, rule="variance")
    assert_array_equal(by_variance, [False, True, False, False])
    assert np.isnan(sp.activity(v.at[0, 0, 0].set(jnp.inf), **rule)).all()


def test_constant_branches_are_centred_to_zero_exactly():
    # 0.1 is not the mean of seven times 0.1 in float32.
    v = jnp.full((2, 7, 3), 0.1, jnp.float32).at[1, 0, 1].add(1e-3)
    assert np.mean(np.full(7, 0.1, np.float32)) != np.float32(0.1)
    assert not sp.centred(v)[0].any()
    assert_array_equal(sp.active_branches(v, rule="centred"), [False, True])
    assert_array_equal(sp.active_branches(v), [True, True])
    assert_allclose(sp.centred(v)[1, :, 1].sum(), 0, atol=1e-9)
    one = sp.measure(v[:, :1], rule="centred")  # a single example
    assert (one.num_active, one.entropy, one.silent_fraction) == (0, 1, 1)


def test_no_branch_is_active_where_all_are_zero():
    for rule in ("norm", "centred", "variance"):
        assert not sp.active_branches(jnp.zeros((3, 4)), rule=rule).any()


def test_unknown_rule():
    with pytest.raises((ValueError, TypeError), match="rule"):
        sp.active_branches(TABLE, rule="median")


def test_covariance_is_uncentred_by_default():
    v = jnp.array([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0]])
    assert_allclose(sp.covariance(v), [[14, 1], [1, 1]])
    # Centred rows: (-1, 0, 1) and (2, -1, -1) / 3.
    of_centred = sp.covariance(sp.centred(v))
    assert_allclose(of_centred, [[2, -1], [-1, 2 / 3]], rtol=1e-6, atol=1e-6)


def test_correlation_by_hand_and_of_a_silent_branch():
    v = jnp.array([[3.0, 4.0], [4.0, 3.0], [-3.0, -4.0], [0.0, 0.0]])
    rho = sp.correlation(sp.covariance(v))
    expected = [[1, 0.96, -1, 0], [0.96, 1, -0.96, 0], [-1, -0.96, 1, 0], [0, 0, 0, 0]]
    assert_allclose(rho, expected, rtol=1e-6)


def test_correlation_of_responses_whose_variances_multiply_to_less_than_float32():
    v = 1e-12 * jnp.array([[3.0, 4.0], [4.0, 3.0]])
    assert_allclose(sp.correlation(sp.covariance(v))[0, 1], 0.96, rtol=1e-5)


def test_mean_correlation_counts_pairs_of_active_branches_only():
    rho = jnp.array([[1, 0.5, -0.25, 0.9], [0.5, 1, 0.75, 0.9], [-0.25, 0.75, 1, 0.9]])
    rho = jnp.concatenate([rho, jnp.full((1, 4), 0.9)])
    mean, pairs = sp.mean_correlation(rho, jnp.array([True, True, True, False]))
    assert (int(pairs), float(mean)) == (3, 0.5)
    mean, pairs = sp.mean_correlation(rho, jnp.array([True, False, False, False]))
    assert (int(pairs), float(mean)) == (0, 0)


def test_index_by_hand():
    # sum c_ij^2 = 4 + 1 + 2 * 0.25 = 5.5, sum c_ii^2 = 5: S = (2 - 1.1) / 1.
    c = jnp.array([[2.0, 0.5], [0.5, 1.0]])
    assert_allclose(sp.specialization_index(c), 0.9, rtol=1e-6)
    assert_allclose(sp.specialization_index(1e-25 * c), 0.9, rtol=1e-6)


def test_index_is_1_for_a_diagonal_covariance_and_0_for_identical_branches():
    assert_allclose(sp.specialization_index(jnp.diag(jnp.array([1.0, 2, 3]))), 1)
    same = jnp.tile(jnp.array([[1.0, -2.0, 0.5]]), (4, 1))
    assert_allclose(sp.specialization_index(sp.covariance(same)), 0, atol=1e-6)


def test_index_is_0_where_it_is_undefined():
    assert sp.specialization_index(jnp.zeros((3, 3))) == 0
    assert sp.specialization_index(jnp.array([[2.0]])) == 0


def test_index_alone_misleads_for_independent_noise():
    """S is near 1 for noise, but the other measures are at their control values."""
    m, n = 8, 4096
    noise = jax.random.normal(jax.random.key(0), (m, n))
    measured = sp.measure(noise)
    # E sum_(k != l) c_kl^2 / sum c_kk^2 is about (m - 1) / n = 0.002.
    assert measured.index > 0.99
    assert measured.num_active == m
    assert measured.silent_fraction == 0
    # Energy of one branch is chi-square over 4096 points: entropy close to uniform.
    assert measured.entropy > 0.9
    assert measured.active_per_region > 0.7


def test_example_and_region_energy():
    v = jnp.array([[[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]], [[0.0, 0.0]] * 3])
    assert_allclose(sp.example_energy(v), [[5, 9, 2], [0, 0, 0]])
    energy = sp.region_energy(v, jnp.array([1, 0, 1]), 2)
    assert_allclose(energy, [[9, 3.5], [0, 0]])


def test_active_in_regions_with_a_tie_and_an_empty_region():
    energy = jnp.array([[100.0, 0.0, 1.0], [1.0, 0.0, 4.0], [0.99, 0.0, 100.0]])
    expected = [[True, False, True], [True, False, True], [False, False, True]]
    assert_array_equal(sp.active_in_regions(energy), expected)


def test_region_entropy_by_hand():
    energy = jnp.array([[1.0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    assert_allclose(sp.region_entropy(energy), [1, 0, 0.5, 1], atol=1e-6)
    assert_array_equal(sp.region_entropy(jnp.array([[3.0], [0.0]])), [1, 1])


def test_measure_of_the_table():
    measured = sp.measure(TABLE)
    # Energies: branch 0 (9, 0, 0, 16), branch 1 (0, .25, 0, 0), branch 2 none.
    p = np.array([9, 16]) / 25
    entropy = -(p * np.log(p)).sum() / np.log(4)
    assert (measured.num_active, measured.num_silent) == (2, 1)
    assert_allclose(measured.silent_fraction, 1 / 3, rtol=1e-6)
    assert_allclose(measured.entropy, entropy / 2, rtol=1e-6)
    # Active: branch 0 at points 0 and 3, branch 1 at point 1, nobody at point 2.
    assert_allclose(measured.active_per_region, 3 / 12, rtol=1e-6)
    assert_allclose(measured.silent_share, 5 / 8, rtol=1e-6)
    assert (measured.correlation, measured.active_pairs) == (0, 1)
    assert_allclose(measured.index, 1)


def test_everything_is_measured_on_centred_responses():
    rng = np.random.default_rng(0)
    v = rng.normal(size=(4, 6, 2)).astype(np.float32) * [[[3]], [[1]], [[0.01]], [[2]]]
    moved = (v + rng.normal(size=(4, 1, 2)) * 20).astype(np.float32)
    mean = moved.astype(float).mean(1, keepdims=True)
    expected = sp.measure(jnp.asarray((moved - mean).astype(np.float32)))
    measured = sp.measure(moved, rule="centred")
    assert expected.num_active == 3
    assert sp.measure(moved).num_active == 4  # the constant hides a silent branch
    median = np.median(moved.astype(float), 1, keepdims=True)
    about = sp.measure(jnp.asarray((moved - median).astype(np.float32)))
    for name, value in expected._asdict().items():
        by_region = name in ("entropy", "active_per_region", "silent_share")
        value = getattr(about, name) if by_region else value
        assert_allclose(getattr(measured, name), value, rtol=1e-3, err_msg=name)
    assert_allclose(measured.branches.norm, expected.branches.norm, rtol=1e-3)
    regions = np.array([0, 1, 0, 1, 1, 0])
    energy = sp.region_energy(sp.regional(moved, "centred"), regions, 2)
    expected = sp.region_energy(moved - median, regions, 2)
    assert_allclose(energy, expected, rtol=1e-4)
    by_region = sp.measure(moved, energy=energy, rule="centred")
    again = sp.measure(sp.centred(moved), energy=energy)
    assert_allclose(by_region.entropy, again.entropy, rtol=1e-5)


@pytest.mark.parametrize("regions", [3, 4, 10, 12])
def test_branches_of_one_region_each_stay_so_if_a_constant_is_added(regions):
    v = 3 * jnp.eye(regions)
    moved = v + jnp.linspace(-7, 5, regions)[:, None]
    for measured in (sp.measure(v), sp.measure(moved, rule="centred")):
        assert_allclose(measured.active_per_region, 1 / regions, rtol=1e-6)
        assert_allclose(measured.silent_share, 1 - 1 / regions, rtol=1e-6)
        assert_allclose(measured.entropy, 0, atol=1e-6)
    assert_allclose(measured.correlation, 1 / (regions - 1), rtol=1e-4)
    # Of two regions none is the usual one: the constant may be either or neither.
    assert sp.measure(v[:2, :2], rule="centred").entropy == 1


def test_the_null_correlation_is_that_of_independent_branches():
    rng = np.random.default_rng(0)
    common = rng.normal(size=(1, 2000, 2))
    v = common + 0.5 * rng.normal(size=(3, 2000, 2))
    v = np.concatenate([v, 1e-3 * v[:1]]).astype(np.float32)  # the last is silent
    key = jax.random.key(0)
    assert sp.measure(v).correlation > 0.7
    null = float(sp.null_correlation(v, key, permutations=40))
    # |rho| of 4,000 independent numbers: E |z| / sqrt(4000), a half normal.
    expected = np.sqrt(2 / np.pi / 4000)
    error = expected * np.sqrt(np.pi / 2 - 1) / np.sqrt(40 * 3)
    assert abs(null - expected) < 4 * error
    assert sp.null_correlation(v, key) != sp.null_correlation(v, jax.random.key(1))
    assert sp.null_correlation(v, key) == sp.null_correlation(v, key)
    assert sp.null_correlation(v[:1], key) == 0  # no pair
    # A constant is permuted into itself, and removed by centring.
    constant = np.ones((2, 5, 1), np.float32) + 0.01 * rng.normal(size=(2, 5, 1))
    assert sp.null_correlation(constant, key) > 0.9
    assert sp.null_correlation(constant, key, rule="centred") < 0.9


def test_examples_with_equal_inputs_are_one_region():
    points = np.array([-1.0, 0.0, 0.0, 1.0])
    assert_array_equal(sp.input_regions(points), [0, 1, 1, 2])
    images = np.zeros((4, 2, 2))
    images[1, 0, 1] = images[3, 0, 1] = 5
    images[2, 1, 0] = 5
    regions = sp.input_regions(images)
    assert regions[1] == regions[3]
    assert len(set(regions.tolist())) == 3
    # Energies are means, so that the point at 0 does not count twice.
    v = jnp.array([[0.0, 2.0, 2.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    energy = sp.region_energy(v, sp.input_regions(points), 3)
    assert_allclose(energy, [[0, 4, 0], [1, 0, 1]])
    measured = sp.measure(v, energy=energy)
    assert_allclose(measured.entropy, np.log(2) / np.log(3) / 2, rtol=1e-6)
    assert_allclose(measured.silent_share, 0.5, rtol=1e-6)


def test_measure_by_classes_instead_of_examples():
    energy = sp.region_energy(TABLE, jnp.array([0, 1, 1, 0]), 2)
    measured = sp.measure(TABLE, energy=energy)
    assert_allclose(measured.entropy, 0, atol=1e-7)  # each branch has one class
    assert_allclose(measured.active_per_region, 2 / 6, rtol=1e-6)


def test_all_branches_silent_has_a_defined_answer():
    measured = sp.measure(jnp.zeros((3, 4)))
    assert (measured.num_active, measured.num_silent) == (0, 3)
    expected = {"index": 0, "entropy": 1, "active_per_region": 0, "silent_share": 0}
    expected["silent_fraction"] = 1
    for name, value in expected.items():
        assert getattr(measured, name) == value
    assert (measured.correlation, measured.active_pairs) == (0, 0)


def test_a_single_branch_is_active_everywhere_and_has_no_pairs():
    measured = sp.measure(jnp.array([[1.0, 1.0, 2.0]]))
    assert (measured.num_active, measured.num_silent) == (1, 0)
    assert (measured.index, measured.active_pairs) == (0, 0)
    assert measured.active_per_region == 1
    assert measured.silent_fraction == 0


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(
    m=st.sampled_from([1, 3, 6]),
    n=st.sampled_from([1, 4]),
    extra=st.sampled_from([1, 4]),
    seed=st.integers(0, 99),
    scale=st.sampled_from([1e-6, 1.0, 1e6]),
)
def test_padding_with_zero_branches_changes_nothing(m, n, extra, seed, scale):
    v = scale * np.random.default_rng(seed).normal(size=(m, n)).astype(np.float32)
    v[seed % m] *= 0.01  # one is silent, mostly
    measure = jax.jit(sp.measure)
    alone = measure(jnp.asarray(v))
    padded = measure(
        jnp.asarray(np.pad(v, ((0, extra), (0, 0)))), num_branches=jnp.int32(m)
    )
    for name, value in alone._asdict().items():
        assert_allclose(getattr(padded, name), value, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [(np.float32, 3e19), (np.float32, 1e-25), (np.float16, 300)],
)
def test_measures_do_not_depend_on_the_scale_of_the_responses(dtype, scale):
    v = np.array([[3, 0, 1, 2], [0, -2, 2, 1], [0, 0, 0, 0]], np.float32)
    expected = sp.measure(jnp.asarray(v))
    measured = sp.measure(jnp.asarray((scale * v).astype(dtype)))
    for name, value in expected._asdict().items():
        assert_allclose(getattr(measured, name), value, rtol=1e-5, err_msg=name)


def test_gradients_are_finite_beside_a_silent_branch():
    v = jax.random.normal(jax.random.key(0), (3, 5)).at[1].set(0)
    for name in ("correlation", "index", "entropy"):
        gradient = jax.grad(lambda v, n=name: getattr(sp.measure(v), n))(v)
        assert np.isfinite(gradient).all(), name


def test_a_zero_branch_is_silent_at_any_threshold():
    assert_array_equal(sp.active_branches(TABLE, threshold=0.0), [True, True, False])


def test_measure_is_jittable_and_mappable_without_nan():
    v = jax.random.normal(jax.random.key(0), (20, 5, 4, 2))
    v = v.at[0].set(0).at[1, 1:].set(0).at[2, :, 2:].set(0)
    mapped = jax.jit(jax.vmap(sp.measure))(v)
    alone = [sp.measure(one) for one in v[:5]]
    for name, values in mapped._asdict().items():
        assert np.isfinite(np.asarray(values, float)).all(), name
        each = [getattr(one, name) for one in alone]
        assert_allclose(values[:5], each, rtol=1e-5, atol=1e-6)


def test_branches_of_the_table():
    branches = sp.measure(TABLE).branches
    assert_array_equal(branches.active, [1, 1, 0])
    assert_allclose(branches.norm, [1, 0.1, 0], rtol=1e-6)
    assert_allclose(branches.active_share, [0.5, 0.25, 0])
    p = np.array([9, 16]) / 25
    entropy = -(p * np.log(p)).sum() / np.log(4)
    assert_allclose(branches.entropy, [entropy, 0, 1], rtol=1e-6, atol=1e-7)


def test_measures_print_as_a_table():
    expected = """\
branch  responds  relative norm  active in regions  entropy over regions
     0    active          1.000               50 %                 0.471
     1    active          0.100               25 %                 0.000
     2    silent          0.000                0 %                 1.000
2 of 3 branches active, on average 25 % in a region; specialization index S = 1.000
Means over active branches: entropy 0.236, silent in 62 % of the regions, \
|correlation| 0.000"""
    measured = sp.measure(TABLE)
    assert str(measured) == repr(measured) == expected
    padded = jnp.concatenate([TABLE, jnp.zeros((2, 4))])
    assert str(jax.jit(sp.measure)(padded, num_branches=3)) == expected
    assert "0 of 2 branches active" in str(sp.measure(jnp.zeros((2, 3))))
    assert "Means" not in str(sp.measure(jnp.zeros((2, 3))))
    broken = str(sp.measure(TABLE.at[1, 1].set(jnp.nan)))
    assert broken.count("unknown") == 3
    assert broken.endswith("The responses are not finite: nothing can be measured.")


def test_measures_are_a_pytree_and_a_tuple_of_the_network_s():
    shown = []

    @jax.jit
    def doubled(v):
        measured = sp.measure(v)
        shown.append(repr(measured))
        return jax.tree.map(lambda leaf: 2 * leaf, measured)

    measured = doubled(TABLE)
    assert isinstance(measured, Measured)
    assert "num_active=" in shown[0]
    assert_allclose(measured.branches.norm, [2, 0.2, 0], rtol=1e-6)
    assert list(measured._asdict()) == list(sp.Specialization._fields)
    many = jax.vmap(sp.measure)(jnp.stack([TABLE, 0 * TABLE]))
    assert_array_equal(many.num_active, [2, 0])
    assert "num_active=" in repr(many)
    assert many.branches.active.shape == (2, 3)


def test_a_mask_of_what_is_not_finite_is_refused():
    for value in (jnp.nan, jnp.inf):
        v = TABLE.at[2, 1].set(value)
        for mask in (sp.active_branches, sp.active_in_regions):
            with pytest.raises(ValueError, match="not finite, so that no branch"):
                mask(v)
        assert not jax.jit(sp.active_branches)(v).any()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda v: sp.measure({"a": v, "b": v}), r"are a dict.*v\['a'\], v\['b'\], or"),
        (lambda v: sp.measure((v, v)), r"are a tuple.*one of v\[0\], v\[1\], or each"),
        (lambda v: sp.measure(v.astype(int)), "must be floats, got int32"),
        (lambda v: sp.measure(v[0]), r"\[M, N, ...\].*they have shape \(4,\)"),
        (lambda v: sp.measure(v[:, :0]), r"one example; they have shape \(3, 0\)"),
        (
            lambda v: sp.measure(v, num_branches=True),
            "must be a whole number, got True",
        ),
        (lambda v: sp.measure(v, num_branches=4), "is 4, but there are 3 rows"),
        (lambda v: sp.measure(v, energy=v[:2]), "of 2 branches, `responses` of 3"),
        (lambda v: sp.measure(v, energy=v[0]), r"must be \[M, R\], and have shape"),
        (lambda v: sp.measure(v, threshold=10.0), "share in 0..1, got 10.0"),
        (lambda v: sp.active_branches(v, rule="median"), "rule must be one of"),
        (lambda v: sp.null_correlation(v, KEY, permutations=0), "at least 1, got 0"),
        (lambda _: sp.input_regions(3.0), r"must be \[N, ...\], and have shape \(\)"),
        (lambda v: sp.specialization_index(v), r"matrix \[M, M\], got .*\(3, 4\)"),
        (lambda v: sp.correlation(v), r"matrix \[M, M\], got .*\(3, 4\)"),
        (
            lambda v: sp.mean_correlation(jnp.eye(3), jnp.array([True, False])),
            r"has shape \(2,\), but there are 3",
        ),
        (
            lambda v: sp.region_energy(v, jax.nn.one_hot(jnp.arange(4), 4), 4),
            r"not float32\[4, 4\]; of one-hot rows take argmax",
        ),
        (
            lambda v: sp.region_energy(v, jnp.array([True, False] * 2), 2),
            "an integer for each of the 4 examples, not bool",
        ),
        (lambda v: sp.region_energy(v, jnp.arange(3), 3), "each of the 4 examples"),
        (lambda v: sp.region_energy(v, jnp.arange(4), 3), r"must be in 0\.\.2"),
        (lambda v: sp.region_energy(v, -jnp.arange(4), 4), r"must be in 0\.\.3"),
    ],
)
def test_arguments_that_are_mistaken(call, words):
    with without_type_checks(), pytest.raises((ValueError, TypeError), match=words):
        call(TABLE)


def test_regions_outside_are_nan_where_they_cannot_be_refused():
    energy = jax.jit(lambda r: sp.region_energy(TABLE, r, 3))(jnp.array([0, 1, 3, 0]))
    assert np.isnan(energy).all()
    within = sp.region_energy(TABLE, jnp.array([0, 2, 2, 0]), 3)
    assert_allclose(within[0], [12.5, np.nan, 0])  # no example in region 1


def test_norms_and_activity_of_very_large_and_very_small_responses():
    for scale in (3e19, 1e-25):
        v = jnp.float32(scale) * TABLE
        assert_allclose(sp.response_norms(v), scale * np.array([5, 0.5, 0]), rtol=1e-5)
        assert_array_equal(sp.active_branches(v, threshold=0.09), [True, True, False])
        energy = (1e-3 * TABLE) ** 2 * jnp.float32(scale)
        expected = sp.region_entropy(TABLE**2)
        assert_allclose(sp.region_entropy(energy), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("entry", [np.nan, np.inf])
@pytest.mark.parametrize("shape", [(1, 1), (1, 3, 2)])
def test_a_single_branch_that_is_not_finite_has_no_number(shape, entry):
    """It is in no pair, whose mean and number would be 0."""
    v = jnp.ones(shape).at[(0,) * len(shape)].set(entry)
    for measure in (sp.measure, jax.jit(sp.measure)):
        assert np.isnan(np.stack(measure(v))).all()
