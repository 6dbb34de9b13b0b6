"""What holds of every figure: names are drawn as they are, and nulls are drawn, too."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text

from bspec_jax import figures
from bspec_jax.components.pictures import Pictures

PLAIN = ("cat", "dog", "owl")
NASTY = ("Ba$$in", "$5-$10_{a}^b", r"b\$_$\frac{")
RNG = np.random.default_rng(0)
M, C, S = 4, 3, 3  # branches, classes, images


def pictures():
    components = RNG.normal(size=(M, S, 6, 6, 3))
    residual = RNG.uniform(-0.5, 0.5, (S, 6, 6, 3))
    return Pictures(
        images=RNG.uniform(-1, 1, (S, 6, 6, 3)),
        labels=np.arange(S),
        residual=residual,
        generated=residual + components.sum(0),
        transfers=RNG.uniform(-1, 1, (C, S, 6, 6, 3)),
        components=components,
        inputs=components / 2,
    )


def matrix(*shape):
    return RNG.normal(size=shape).tolist()


def network():
    return {
        "branches": M,
        "active": 3,
        "active_centred": 2,
        "silent": 1,
        "class_outputs": matrix(M, C),
        "class_norms": matrix(M, C),
        "covariance": matrix(M, M),
    }


def sweep():
    keys = ("active", "active_centred", "silent", "control_active")
    counts = {key: [1.0, 2.0] for key in keys}
    return {"branches": [1, 4], "repeats": 3, **counts}


def shares(points):
    return {
        "decay_budget": [5.0 * i for i in range(points)],
        "active_share": [0.5] * points,
        "active_share_interval": [[0.4, 0.6]] * points,
    }


def silence_example(branches=M):
    return {
        "degree": 3,
        "decay_budget": [0.1, 1.0],
        "centred_norms": [[1.0, 0.5]] * branches,
        "layer_norms": [[[1.0, 0.2], [0.5, 0.1]]] * branches,
        "is_silent": [False, True, True, False][:branches],
    }


def training_curves():
    return [
        {
            "network": "main",
            "step": 10 * epoch,
            "epoch": float(epoch),
            "decay_budget": 0.2 * epoch,
            "excess_loss": 0.1 * epoch,
            "accuracy": 0.5,
            "saturated": 0.2,
            "validation_accuracy": 0.4,
            "norms": [1.0, 2.0],
            "centred_norms": [0.5, 1e-9],
            "parameter_norms": [3.0, 0.0],
        }
        for epoch in (1, 2)
    ]


MEASURED = (
    *("generator_loss", "discriminator_loss", "real_accuracy", "fake_accuracy"),
    *("transfer_accuracy", "kept", "psnr", "residual_std", "image_std"),
)


def generator_curves():
    measured = dict.fromkeys(MEASURED, 0.5) | {"input_std": [0.1, 0.2]}
    return [{"step": step, **measured} for step in (1, 2)]


def generator_results(classes):
    return {
        "classes": classes,
        "rates": matrix(C, C),
        "rates_residual": matrix(C, C),
        "part_scores": {"eyes": {"mean": [3.5, 0.2]}, "fur": {"mean": [1.0, 2.0]}},
        "layer_scores": {"normal_x": {"mean": [-0.5, 0.25]}},
        "energy_share": [0.6, 0.4],
        "correlation": matrix(2, 2),
        "initial": {"correlation": matrix(2, 2)},
        "active": 2,
        "spectrum": [0.1, 0.2],
    }


def hessian_example():
    return {
        "branches": 2,
        "step": 3,
        "offdiagonal_ratio": 0.25,
        "hessian": matrix(4, 4),
    }


def hessian_own_blocks(silent=False):
    """Two stages of two branches; with `silent`, nothing is left of any."""
    names = ("size", "distributive", "lowest", "highest")
    values = [0.0, 0.0] if silent else [-0.5, 2.0]
    branches = dict.fromkeys(names, values)
    return [{"step": step, "branches": branches} for step in (0, 7)]


def hessian_tasks():
    def means():
        interval = [[0.0, 0.2], [0.1, 0.3]]
        return {"mean": [0.1, 0.2], "interval": interval, "networks": [5, 3]}

    def stage(step):
        names = ("block_index", "vanishing_distributive", "vanishing_share")
        names += ("vanishing_gradient", "orthogonal")
        return {
            "step": step,
            "measures": {name: means() for name in names},
            "block_index_quantiles": [0.1, 0.2, 0.3, 0.4, 0.5],
            "spectra": {
                "limit": 100,
                "largest_quantiles": [1.0, 2.0, 3.0, 8.0, 9.0],
                "whole": [1e-9, 0.5],
            },
            "index": {
                "ratios": [1.0, 2.0],
                "indices": [0.3, 0.4],
                "rank_correlation": 0.5,
            },
        }

    return {
        "toy1": {
            "branches": [2, 30],
            "stages": [stage(0), stage(10)],
            "control": {"block_index": means()},
            "observations": {
                "7": {"threshold": 0.9},
                "section8": {"threshold": 0.5},
            },
        }
    }


def segment_arrays():
    images = RNG.uniform(-1, 1, (S, 8, 8, 3))
    scalars = {
        key: RNG.uniform(size=(S, 8, 8)) for key in ("located", "surface", "segmented")
    }
    masks = {key: RNG.random((S, 8, 8)) < 0.3 for key in ("inside", "pairs", "truth")}
    return {"images": images, **scalars, **masks}


def segment_results(classes):
    score = {"iou": 0.5, "iou_interval": [0.4, 0.6]}
    by_class = dict.fromkeys(classes, score)
    return {
        "classes": classes,
        "part": "eyes",
        "methods": {"components": {"by_class": by_class}},
    }


def blocks():
    return [
        {
            "label": label,
            "branch": branch,
            "images": np.zeros((2, 4, 4, 1), np.uint8),
            "confidence": np.array([0.9, 0.8]),
            "shared": 1,
        }
        for label in (0, 1)
        for branch in (0, 2)
    ]


def enrichment():
    return {
        "count": [[8, 1, 0]] * 2,
        "log2_ratio": matrix(2, C),
        "significant": [[True, False, False]] * 2,
        "significant_pairs": {"trained": 1},
    }


def toy_tasks():
    both = [[0.1, 0.2], [0.3, 0.4]]
    return {
        "toy1": {
            "branches": [2, 4],
            "trials": 5,
            "success_rate": [0.5, 0.6],
            "success_interval": both,
            "mean_active": [1.5, 2.5],
            "mean_active_interval": both,
            "mean_silent": [0.5, 1.5],
        }
    }


# The arguments of each figure, for some classes.
ARGUMENTS = {
    "active_against_branches": lambda classes: (sweep(),),
    "architecture": lambda classes: (4,),
    "augmentation": lambda classes: (
        {"5": {"none": {"accuracies": [0.5, 0.6], "accuracy": 0.55}}},
        {"none": "none"},
    ),
    "branch_ablation": lambda classes: (RNG.normal(size=M), [0.5] * M, [0.4] * M, 2),
    "branch_confidence": lambda classes: (
        classes,
        RNG.normal(size=(M, 6)),
        np.array([0, 0, 1, 1, 2, 2]),
    ),
    "branch_covariances": lambda classes: ({"a": matrix(M, M), "b": matrix(M, M)},),
    "branch_enrichment": lambda classes: (enrichment(), classes),
    "branch_norms": lambda classes: (training_curves(),),
    "branch_outputs": lambda classes: (network(), classes),
    "branch_outputs_sweep": lambda classes: ([network(), network()], classes),
    "classifier_training": lambda classes: (training_curves(),),
    "component_energy": lambda classes: (generator_results(classes),),
    "component_scores": lambda classes: (generator_results(classes),),
    "component_subsets": lambda classes: (pictures(), [[0, 2], [1]]),
    "component_sweep": lambda classes: (pictures(), 1),
    "decompositions": lambda classes: (pictures(), [0, 1], classes[1]),
    "diffusion_spectrum": lambda classes: (generator_results(classes),),
    "edit_shares": lambda classes: (
        {
            "chance": 0.1,
            "responses": [{"everywhere": {"mean": 0.2}, "inside": {"mean": 0.3}}] * 2,
        },
        {"responses": "$v_k$"},
    ),
    "generator_training": lambda classes: (
        generator_curves(),
        RNG.uniform(size=(2, 3)),
    ),
    "vanishing_factors": lambda classes: (hessian_tasks(),),
    "hessian_eigenvalues": lambda classes: (hessian_tasks(),),
    "hessian_heat_maps": lambda classes: (", ".join(classes), [hessian_example()] * 2),
    "hessian_index": lambda classes: (hessian_tasks(),),
    "hessian_own_blocks": lambda classes: (classes[0], hessian_own_blocks()),
    "hessian_block_index": lambda classes: (hessian_tasks(),),
    "image_components": lambda classes: (pictures(), 1, [0, 3]),
    "most_confident_images": lambda classes: (classes, blocks(), np.float64(0.02)),
    "normal_errors": lambda classes: (
        {"image": {"mean": 20.0, "interval": [19.0, 21.0]}},
        {"image": "the image"},
    ),
    "own_contributions": lambda classes: (
        np.zeros((2, 4, 4, 1), np.uint8),
        (f"{classes[0]}.png", "b.png"),
        (classes[1], classes[2]),
        RNG.normal(size=(M, 2)),
    ),
    "pictures": lambda classes: ({"image $x$": pictures().images}, classes),
    "segmentation_scores": lambda classes: (
        segment_results(classes),
        {"components": "components"},
    ),
    "silence_against_branches": lambda classes: (
        {
            name: {
                "branches": [2, 8],
                "active": {"mean": [2.0, 4.0], "interval": [[2.0, 2.0], [3.0, 5.0]]},
                "silent": {"mean": [0.0, 4.0], "interval": [[0.0, 0.0], [3.0, 5.0]]},
            }
            for name in ("no weight decay", "weight decay 0.001")
        },
    ),
    "silence_against_budget": lambda classes: (
        {
            "degree 1": shares(4) | {"ends": shares(2), "earliest": None},
            "degree 3": shares(4) | {"ends": shares(2), "earliest": 0.77},
        },
    ),
    "silence_heat_map": lambda classes: (
        {
            "decays": [0.0, 0.001],
            "learning_rates": [0.1, 0.4],
            "active_share": matrix(2, 2),
            "accuracy": matrix(2, 2),
        },
    ),
    "silence_norms": lambda classes: (silence_example(),),
    "silence_threshold": lambda classes: (
        {
            "lambda_star": 0.5,
            "decays": [0.1, 1.0],
            "largest": {"mean": [1.0, 1e-9], "interval": [[0.9, 1.1], [0.0, 2e-9]]},
            "active_share": {"mean": [1.0, 0.0], "interval": [[1.0, 1.0], [0.0, 0.0]]},
        },
    ),
    "segmentation_steps": lambda classes: (segment_arrays(), classes),
    "segmentations": lambda classes: (
        segment_arrays()["images"],
        {"image": segment_arrays()["inside"]},
        classes,
        segment_arrays()["truth"],
    ),
    "toy_success": lambda classes: (toy_tasks(),),
    "transfer_rates": lambda classes: (generator_results(classes),),
    "transfers": lambda classes: (classes, pictures()),
}
OF_TOYS = {  # of trials that are always finite, or tested in test_toy.py
    *("toy_active", "toy_covariances", "toy_dynamics", "toy_phase", "toy_responses"),
}
NO_FIGURES = {"TASK_TITLES", "Figure", "heat_map_stages", "overlaid"}
SHOW_CLASSES = {
    *("branch_confidence", "branch_enrichment", "branch_outputs", "decompositions"),
    *("branch_outputs_sweep", "hessian_heat_maps", "most_confident_images"),
    *(
        "own_contributions",
        "pictures",
        "segmentation_scores",
        "segmentation_steps",
        "segmentations",
    ),
    *("transfer_rates", "transfers"),
}


def drawn(name, *arguments):
    """The texts of a figure that has been laid out and drawn."""
    figure = getattr(figures, name)(*arguments)
    figure.draw_without_rendering()
    return figure.findobj(Text)


def test_every_figure_is_tested():
    assert set(ARGUMENTS) | OF_TOYS | NO_FIGURES == set(figures.__all__)


@pytest.mark.parametrize("name", sorted(SHOW_CLASSES))
@pytest.mark.parametrize("classes", [PLAIN, NASTY])
def test_names_of_classes_are_drawn_as_they_are(name, classes):
    texts = [text for text in drawn(name, *ARGUMENTS[name](classes)) if text.get_text()]
    shown = {
        one: [t for t in texts if one in t.get_text() and not t.get_parse_math()]
        for one in classes
    }
    expected = {
        "decompositions": classes[1:2],
        "most_confident_images": classes[:2],
    }.get(name, classes)
    assert {one for one in classes if shown[one]} == set(expected)
    for text in texts:
        if text.get_parse_math():
            assert not any(one in text.get_text() for one in classes)


def test_names_that_cannot_be_printed_are_escaped():
    odd = ("a\nb", "\ud800\t", "x" * 300 + "y")
    (ax,) = figures.segmentation_scores(*ARGUMENTS["segmentation_scores"](odd)).axes
    labels = [text.get_text() for text in ax.get_xticklabels()]
    assert labels[:2] == ["a\\nb", "\\ud800\\t"]
    assert len(labels[2]) == 32
    assert labels[2].startswith("xxxx")
    assert labels[2].endswith("x…" + "x" * 14 + "y")
    drawn("segmentation_scores", *ARGUMENTS["segmentation_scores"](odd))


def test_a_missing_glyph_is_a_warning():
    with pytest.warns(UserWarning, match="missing from"):
        drawn("transfer_rates", generator_results(("猫", "犬", "虎")))


def test_the_user_s_latex_is_not_used():
    with mpl.rc_context({"text.usetex": True}):
        assert not any(
            text.get_usetex() for text in drawn("transfers", PLAIN, pictures())
        )


NULLABLE_COUNTS = ("active", "active_centred", "silent")
# Never null.
KEPT = {"threshold", "epoch", "decays", "learning_rates", "lambda_star"}


def nulls(value, key=None):
    """The arguments with null for every float and for numbers of active branches."""
    if isinstance(value, Pictures):
        return Pictures(*map(nulls, value))
    if isinstance(value, dict):
        return {key: nulls(item, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(nulls(item, key) for item in value)
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return np.full_like(value, np.nan)
    is_count = isinstance(value, int) and key in NULLABLE_COUNTS
    is_number = type(value) is float and key not in KEPT
    return None if is_number or is_count else value


@pytest.mark.parametrize("name", sorted(ARGUMENTS))
def test_nulls_are_drawn(name):
    drawn(name, *nulls(ARGUMENTS[name](PLAIN)))


@pytest.mark.parametrize("name", sorted(SHOW_CLASSES))
def test_long_names_leave_room_for_what_they_name(name):
    drawn(name, *ARGUMENTS[name](("a" * 50, "Long-haired, " * 4, "c" * 300)))


ONE_BRANCH = {
    **network(),
    "branches": 1,
    "active": 0,
    "active_centred": 0,
    "silent": 1,
    "class_outputs": [[0.0] * C],
    "class_norms": [[0.0] * C],
    "covariance": [[0.0]],
}
ONE_COMPONENT = {
    **generator_results(PLAIN[:1]),
    "rates": [[1.0]],
    "rates_residual": [[None]],
    "part_scores": {"eyes": {"mean": [None]}},
    "layer_scores": {"normal_x": {"mean": [0.0]}},
    "energy_share": [1.0],
    "correlation": [[1.0]],
    "initial": {"correlation": [[None]]},
    "spectrum": [0.0],
}
SINGLE_M = hessian_tasks()["toy1"]
SINGLE_M |= {"branches": [1], "stages": SINGLE_M["stages"][:1]}
for of_one_m in (SINGLE_M["control"], SINGLE_M["stages"][0]["measures"]):
    for undefined in of_one_m.values():
        undefined |= {"mean": [None], "interval": [[None, None]], "networks": [0]}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("active_against_branches", ({**sweep(), "branches": [1, 2], "repeats": 1},)),
        ("branch_ablation", ([0.0], [0.1], [0.1], 0)),
        ("branch_confidence", (PLAIN[:1], np.zeros((1, 1)), np.array([0]))),
        ("branch_covariances", ({"a": [[0.0]]},)),
        (
            "branch_enrichment",
            (
                {
                    "count": [[0]],
                    "log2_ratio": [[None]],
                    "significant": [[False]],
                    "significant_pairs": {},
                },
                PLAIN[:1],
            ),
        ),
        ("branch_norms", ([],)),
        ("branch_outputs", (ONE_BRANCH, PLAIN)),
        ("branch_outputs_sweep", ([ONE_BRANCH], PLAIN)),
        ("classifier_training", ([],)),
        ("component_energy", (ONE_COMPONENT,)),
        ("component_scores", (ONE_COMPONENT,)),
        ("diffusion_spectrum", (ONE_COMPONENT,)),
        ("generator_training", ([], np.zeros((0, 1)))),
        (
            "hessian_heat_maps",
            ("a", [{**hessian_example(), "branches": 1, "hessian": [[0.0]]}]),
        ),
        ("hessian_block_index", ({"toy1": SINGLE_M},)),
        ("vanishing_factors", ({"toy1": SINGLE_M},)),
        ("hessian_eigenvalues", ({"toy1": SINGLE_M},)),
        ("hessian_index", ({"toy1": SINGLE_M},)),
        ("hessian_own_blocks", (PLAIN[0], hessian_own_blocks(silent=True))),
        ("most_confident_images", (PLAIN, [], 0.02)),
        (
            "most_confident_images",
            (
                PLAIN,
                [{**blocks()[0], "images": np.zeros((0, 4, 4, 1), np.uint8)}],
                0.02,
            ),
        ),
        (
            "silence_against_budget",
            ({"degree 1": shares(1) | {"ends": shares(1), "earliest": None}},),
        ),
        ("silence_norms", (silence_example(1),)),
        ("transfer_rates", (ONE_COMPONENT,)),
        (
            "toy_covariances",
            (
                {
                    "task": "toy1",
                    "branches": 1,
                    "matrices": [[[None]]],
                    "converged": [False],
                },
            ),
        ),
    ],
)
def test_the_smallest_results_are_drawn(name, arguments):
    """One branch, or none that is active; one class, one network; or nothing at all."""
    drawn(name, *arguments)


WITHOUT_PICTURES = [
    name
    for name, make in ARGUMENTS.items()
    if not any(isinstance(given, Pictures) for given in make(PLAIN))
]


@pytest.mark.parametrize("name", WITHOUT_PICTURES)
def test_a_null_among_numbers_is_drawn(name):
    """Where a single network, point or score is undefined."""
    given = ARGUMENTS[name](PLAIN)
    for part in range(2):
        drawn(name, *every_other(given, [part]))


def every_other(value, counter, key=None):
    if isinstance(value, dict):
        return {k: every_other(item, counter, k) for k, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(every_other(item, counter, key) for item in value)
    if type(value) is float and key not in KEPT:
        counter[0] += 1
        return value if counter[0] % 2 else None
    return value
