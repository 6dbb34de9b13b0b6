"""Tiny runs of the Hessian experiment, as a user starts them."""

import dataclasses

import jax
import numpy as np
import pytest
from helpers import check_refused, run_here, stop_training_at, without_timing
from numpy.testing import assert_allclose
from PIL import Image
from scipy import stats

from bspec_jax import classifier, runs
from bspec_jax.storage import files
from bspec_jax.storage.errors import UserError
from bspec_jax.toys import sweeps
from experiments.hessian import __main__ as experiment
from experiments.hessian import checkpoint, toys
from experiments.keep import keep

pytestmark = pytest.mark.usefixtures("optimised")

TINY = {"branches": (6, 2), "trials": 30, "at_steps": (10, 200), "steps": 3000}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("hessian") / "run"
    experiment.main(experiment.Config(workdir=workdir, **TINY))
    return workdir


def by_hand(task, m, step, trials=30):
    """H = J J^T of each network in NumPy, `[T, M, 2, M, 2]`, and the networks."""
    table = sweeps.settings(
        task=task, num_branches=m, learning_rate=0.02, trial=range(trials)
    )
    networks = sweeps.init_trials(jax.random.key(0), table)
    for steps in {0: (), 10: (10,), 200: (10, 190)}[step]:
        networks = sweeps.train(networks, steps=steps)
    z = networks.w[:m, None] * networks.x + networks.b[:m, None]
    slope = np.where(z >= 0, 1, 0.01).astype(np.float64)
    j = np.stack([slope, slope * networks.x], 1)  # [M, P, N, T], in the order b, w
    return np.einsum("kpnt,lqnt->tkplq", j, j), networks


@pytest.mark.parametrize(("task", "m", "stage"), [("toy1", 6, 2), ("toy2", 2, 0)])
def test_measures_equal_those_by_hand(finished, task, m, stage):
    data = without_timing(finished)["tasks"][task]
    record = data["stages"][stage]
    h, networks = by_hand(task, m, record["step"])
    squares = np.sum(h**2, (2, 4))
    own = np.trace(squares, axis1=1, axis2=2)
    ratio = np.sqrt((squares.sum((1, 2)) - own) / own)
    measures, place = record["measures"], data["branches"].index(m)
    mean = measures["offdiagonal_ratio"]["mean"][place]
    assert_allclose(mean, ratio.mean(), rtol=1e-4)
    spread = stats.t.ppf(0.975, len(ratio) - 1) * ratio.std(ddof=1) / len(ratio) ** 0.5
    interval = measures["offdiagonal_ratio"]["interval"][place]
    assert_allclose(interval, ratio.mean() + np.array([-spread, spread]), rtol=1e-3)
    largest = np.linalg.eigvalsh(h.reshape(len(h), 2 * m, 2 * m))[:, -1]
    mean = measures["largest_eigenvalue"]["mean"][place]
    assert_allclose(mean, largest.mean(), rtol=1e-4)
    # The index of the branches that are active without their mean.
    v = responses(networks)[:m]
    size = np.linalg.norm(v - v.mean(1, keepdims=True), axis=1)
    active = (size >= 0.1 * size.max(0)).T.astype(float)
    pairs = active[:, :, None] * active[:, None]
    own = np.trace(squares * pairs, axis1=1, axis2=2)
    other = (squares * pairs).sum((1, 2)) - own
    several = active.sum(1) > 1
    index = 1 - (other / own)[several] / (active.sum(1)[several] - 1)
    found = measures["block_index"]
    assert_allclose(found["mean"][place], index.mean(), rtol=1e-3)
    assert found["networks"][place] == several.sum()
    if stage:
        control = data["observations"]["7"]["control"]
        assert control == data["control"]["block_index"]["mean"][-1]
        assert control < index.mean()


def responses(networks):
    v = networks.w[:, None] * networks.x + networks.b[:, None]
    return np.where(v >= 0, v, 0.01 * v)


def test_results_have_the_specified_keys_for_the_largest_m(finished):
    results = without_timing(finished)
    assert results["config"]["trials"] == 30
    for data in results["tasks"].values():
        assert data["branches"] == [2, 6]
        assert [s["step"] for s in data["stages"]] == [0, 10, 200, 3000]
        for stage in data["stages"]:
            assert np.array(stage["block_norms"], float).shape == (6, 6)
            own = np.diagonal(stage["block_norms"])
            assert (np.diff(own) <= 1e-6).all()  # ordered by their own block
            assert stage["offdiagonal_ratio"] == pytest.approx(
                stage["measures"]["offdiagonal_ratio"]["mean"][-1]
            )
            spectra = stage["spectra"]
            assert spectra["limit"] == 100
            assert np.array(spectra["branches"]).shape == (6, 2)
            assert spectra["whole"][-1] == pytest.approx(
                stage["measures"]["largest_eigenvalue"]["mean"][-1]
            )
        first, last = data["stages"][0], data["stages"][-1]
        assert last["offdiagonal_ratio"] < 0.85 * first["offdiagonal_ratio"]
        assert last["measures"]["gradient_norm"]["mean"][-1] < 0.01
        assert data["observations"]["7"]["holds"] is False
        assert data["observations"]["7"]["beside"]["step_effect"]["value"] > 0.1
        conjecture = data["observations"]["section8"]
        assert (conjecture["holds"], conjecture["branches"]) == (False, 2)
        assert 5 < conjecture["networks"] < 25
        assert data["control"]["block_index"]["networks"][-1] <= 500


def test_findings_are_the_observations_of_both_tasks(finished):
    results = without_timing(finished)
    found = results["findings"]
    assert [f["observation"] for f in found] == [7, "section8"] * 2
    setting = "step 0.02, slope 0.01, normal init of scale 1, x 30"
    settings = [f"Toy {i}, {setting}" for i in (1, 1, 2, 2)]
    assert [(f["level"], f["setting"]) for f in found] == [("toy", s) for s in settings]
    for finding, task in zip(found, ("toy1", "toy1", "toy2", "toy2"), strict=True):
        record = results["tasks"][task]["observations"][str(finding["observation"])]
        assert record.items() <= finding.items()


def test_the_findings_of_a_checkpoint_are_of_one_network():
    def stage(step, index, share):
        shares = {"distributive": [0, share, 1], "gradient": [0, 0.6, 1]}
        shares["orthogonal"] = [0, 0.1, 0]
        factors = {"thresholds": [1e-2, 5e-2, 1e-1], **shares}
        numbers = {"block_index": index, "step_effect": 0.2}
        return {"step": step, "factors": factors} | numbers

    stages = [stage(0, 0.25, 0.3), stage(50, 0.4, 0.4), stage(100, 0.95, 0.85)]
    task = {"clamp": "none", "stages": stages, "control": {"block_index": 0.1}}
    spec = classifier.ClassifierSpec(
        branch="mlp",
        widths=(8, 4),
        normalisation="none",
        branches=16,
        classes=("a", "b"),
        image_shape=(14, 14, 1),
        mean=(0.5,),
        std=(0.25,),
        data={"dataset": "faces"},
    )
    found = files.to_json(checkpoint.findings(spec, 12.34, {"classify": task}))
    seventh, eighth = found
    assert seventh["setting"] == (
        "faces, 14 px, mlp 8 4, unnormalised, decay budget 12.3, M = 16, no clamp, x 1"
    )
    assert seventh["regime"] is None
    unknown = checkpoint.findings(spec, None, {"classify": task})[0]
    assert unknown["regime"].endswith("(it is undefined)")
    assert "decay budget unknown" in unknown["setting"]
    assert (seventh["observation"], seventh["level"]) == (7, "classifier")
    numbers = [seventh[key] for key in ("value", "initial", "control")]
    assert_allclose(numbers, [0.95, 0.25, 0.1])
    assert_allclose(seventh["beside"]["step_effect"]["value"], 0.2)
    assert eighth["observation"] == "section8"
    assert_allclose(eighth["value"], 0.55 / 0.7)
    beside = {name: found["value"] for name, found in eighth["beside"].items()}
    assert beside == {
        "vanishing_share": 0.85,
        "vanishing_gradient": 0.6,
        "orthogonal": 0.1,
    }
    for finding in (seventh, eighth):
        assert finding["interval"] == [None, None]
        assert (finding["holds"], finding["networks"]) == (None, 1)
    alone = checkpoint.findings(spec, 12.34, {"a": task | {"control": None}})
    assert alone[0]["control"] != 0.1
    del stages[0]  # without its start nothing can be compared
    assert checkpoint.findings(spec, 12.34, {"classify": task}) == []


def test_equilibria_are_split_by_success(finished):
    data = without_timing(finished)["tasks"]["toy1"]["equilibria"]
    converged, stuck = data["converged"], data["stuck"]
    assert np.array(converged["trials"]) + stuck["trials"] == pytest.approx([30, 30])
    assert 5 < stuck["trials"][0] < 25
    # Both factors vanish where the points are fitted; elsewhere one of them only.
    assert converged["collaborative"]["mean"][0][1] > 0.7
    assert stuck["collaborative"]["mean"][0][0] == 0
    assert converged["distributive"]["networks"][0] == [0, 0, 0]
    assert stuck["distributive"]["networks"][0][1] > 5
    assert stuck["distributive"]["mean"][0][0] < 0.01  # below the leak of 0.01
    assert stuck["distributive"]["mean"][0][1] > 0.2


def test_figures(finished):
    assert {path.stem for path in (finished / "figures").iterdir()} == {
        "hessian_toy1",
        "hessian_toy2",
        "hessian_block_index",
        "hessian_eigenvalues",
        "hessian_index",
        "section8_factors",
    }
    path = finished / "figures" / "hessian_block_index.png"
    before = path.read_bytes()
    path.unlink()
    experiment.main(experiment.Config(workdir=finished, figures_only=True))
    assert path.read_bytes() == before


def test_double_precision_agrees_and_a_resumed_run_is_the_same(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "draw", lambda *_: {})  # for speed
    experiment.main(experiment.Config(workdir=tmp_path / "x64", float64=True, **TINY))
    expected = without_timing(finished)["tasks"]
    for task, data in without_timing(tmp_path / "x64")["tasks"].items():
        for stage, other in zip(data["stages"], expected[task]["stages"], strict=True):
            assert_allclose(
                stage["measures"]["offdiagonal_ratio"]["mean"],
                other["measures"]["offdiagonal_ratio"]["mean"],
                rtol=1e-5,
            )
    assert not jax.config.jax_enable_x64

    stop_training_at(monkeypatch, call=2)
    with pytest.raises(KeyboardInterrupt):
        experiment.main(experiment.Config(workdir=tmp_path / "run", **TINY))
    assert len(list((tmp_path / "run" / "unfinished").iterdir())) == 1
    experiment.main(experiment.Config(workdir=tmp_path / "run", resume=True, **TINY))
    assert without_timing(tmp_path / "run")["tasks"] == expected


@pytest.mark.slow
def test_the_hessian_of_one_leaf(tmp_path):
    config = experiment.Config(
        workdir=tmp_path / "run",
        tasks=("toy1",),
        branches=(6,),
        trials=30,
        at_steps=(10,),
        steps=20,
        leaves=("w",),
    )
    experiment.main(config)
    data = without_timing(tmp_path / "run")["tasks"]["toy1"]
    h = by_hand("toy1", 6, 10)[0][:, :, 1, :, 1]  # [T, M, M] of w
    own = np.trace(h**2, axis1=1, axis2=2)
    ratio = np.sqrt((np.sum(h**2, (1, 2)) - own) / own).mean()
    assert_allclose(data["stages"][1]["offdiagonal_ratio"], ratio, rtol=1e-4)
    assert np.array(data["example"][0]["hessian"]).shape == (6, 6)


@pytest.mark.slow
def test_networks_that_diverge_are_left_out(tmp_path, capsys):
    experiment.main(
        experiment.Config(
            workdir=tmp_path / "run",
            tasks=("toy2",),
            branches=(1, 3),
            trials=4,
            at_steps=(500,),
            steps=1000,
            learning_rate=9.0,
            negative_slope=0.5,
        )
    )
    data = without_timing(tmp_path / "run")["tasks"]["toy2"]
    assert data["diverged"] == [4, 4]
    last = data["stages"][-1]
    assert last["offdiagonal_ratio"] is None
    assert last["measures"]["largest_eigenvalue"]["mean"] == [None, None]
    assert data["stages"][0]["measures"]["offdiagonal_ratio"]["mean"][0] == 0  # M = 1
    assert "undecided" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--at-steps", 0], 2, "--at-steps must be at least 1, got 0"),
        (["--at-steps", 50, "--steps", 10], 2, "--at-steps must be at most --steps"),
        (["--branches"], 2, "--branches needs at least one value"),
        (["--branches", -2], 2, "--branches must be at least 1, got -2"),
        (["--trials", 0], 2, "--trials must be at least 1, got 0"),
        (["--trials", "many"], 2, "--trials"),
        (["--steps", 0], 2, "--steps must be in 1..2^31-1"),
        (["--learning-rate", "inf"], 2, "--learning-rate must be positive"),
        (["--init-scale", 1e-300], 2, "(single precision)"),
        (["--negative-slope", "inf"], 2, "--negative-slope must be finite"),
        (["--leaves", "Conv_0"], 2, "no leaf matches 'Conv_0'; the leaves are b, w"),
        (["--leaves"], 2, "--leaves needs at least one value"),
        (["--tasks", "toy3"], 2, "--tasks"),
        # memory
        (["--branches", 10**7], 2, "of memory"),
        (["--branches", 10**5, "--trials", 1], 2, "of memory"),
        (["--trials", 10**9], 2, "of memory"),
        (["--branches", 4000, "--trials", 1, "--at-steps", *range(1, 99)], 2, "memory"),
        # paths
        (["--workdir", __file__], 1, f"cannot write to {__file__}"),
        (["--figures-only", "--workdir", "/nowhere"], 1, "no run at /nowhere"),
        (["--resume", "--workdir", "/nowhere"], 1, "no run at /nowhere"),
        # combinations
        (["--examples", 5], 2, "--examples does not apply without --checkpoint"),
        (["--resume"], 2, "--resume needs --workdir"),
        (["--seed", 1, "--seed", 1], 2, "--seed is given twice"),
    ],
)
def test_invalid_flags_get_a_one_line_answer(flags, status, words, monkeypatch, capsys):
    check_refused(experiment, flags, status, words, monkeypatch, capsys)


def test_exactly_the_flags_that_toys_do_not_read_are_refused(tmp_path):
    read = set()

    class Recording(experiment.Config):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    tiny = {"tasks": ("toy1",), "branches": (2,), "trials": 2, "steps": 2}
    toys.measure(Recording(**tiny), tmp_path)
    flags = {field.name for field in dataclasses.fields(experiment.Config)}
    flags -= {"checkpoint", "workdir", "resume", "figures_only"}
    assert flags - read == set(experiment.Config().unused())


def test_one_network_decides_nothing_and_large_ones_are_not_drawn(tmp_path):
    flags = ("--trials", 1, "--steps", 2, "--tasks", "toy1")
    printed = run_here(
        experiment, *flags, "--branches", 101, "--workdir", tmp_path / "run"
    )
    assert "undecided" not in printed
    assert "holds" not in printed
    assert "(intervals and verdicts need several trials)" in printed
    assert "no heat map is drawn" in printed
    assert without_timing(tmp_path / "run")["tasks"]["toy1"]["example"] == []
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert "hessian_block_index" in drawn
    assert "hessian_toy1" not in drawn


def test_a_checkpoint_of_another_kind_and_damaged_results(finished, tmp_path):
    with pytest.raises(UserError, match=r"no checkpoint in .*checkpoints/main"):
        experiment.main(experiment.Config(checkpoint=finished))
    schema = {"schema": runs.SCHEMA}
    files.write_json(tmp_path / "config.json", schema | {"experiment": "hessian"})
    files.write_json(tmp_path / "results.json", schema | {"tasks": {"toy1": {}}})
    with pytest.raises(UserError, match=r"results.json is damaged"):
        experiment.main(experiment.Config(workdir=tmp_path, figures_only=True))


def test_a_kept_run_draws_the_same_from_fewer_numbers(finished, tmp_path):
    kept = tmp_path / "kept"
    keep(finished, kept)
    whole, few = runs.load_results(finished), runs.load_results(kept)
    task, small = (results["tasks"]["toy1"] for results in (whole, few))
    assert [e["step"] for e in task["example"]] == [0, 10, 200, 3000]
    assert [e["step"] for e in small["example"]] == [0, 200, 3000]
    kept_indices = ["indices" in stage["index"] for stage in small["stages"]]
    assert kept_indices == [True, False, False, True]
    middle = small["stages"][1]["index"]["rank_correlation"]
    assert_allclose(middle, task["stages"][1]["index"]["rank_correlation"], rtol=1e-4)
    names = {path.name for path in (kept / "figures").iterdir()}
    experiment.main(experiment.Config(workdir=kept, figures_only=True))
    assert {path.name for path in (kept / "figures").iterdir()} == names
    drawn, before = (
        np.asarray(Image.open(folder / "figures" / "hessian_toy1.png").convert("RGB"))
        for folder in (kept, finished)
    )
    assert np.abs(drawn.astype(int) - before).mean() < 0.1
