"""Tiny runs of the toy experiment, as a user starts them."""

import dataclasses
import json
import os
import signal
import subprocess
import time

import jax
import numpy as np
import pytest
from helpers import (
    ROOT,
    check_refused,
    command,
    refuse,
    run_here,
    stop_training_at,
    without_timing,
)

from bspec_jax import runs
from bspec_jax.storage import files
from bspec_jax.storage.errors import UserError
from bspec_jax.toys import sweeps
from experiments.toy import __main__ as experiment
from experiments.toy import phase as phase_mode
from experiments.toy import sweep as sweep_mode
from experiments.toy import training

pytestmark = pytest.mark.usefixtures("optimised")

PHASE = ("--mode", "phase")
TITLES = {"toy1": "Toy 1", "toy2": "Toy 2"}
TINY = {
    "branches": (10, 2, 3),
    "trials": 40,
    "overlay_trials": 10,
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toy") / "run"
    experiment.main(experiment.Config(workdir=workdir, **TINY))
    return workdir


def test_sweep_gives_the_specified_keys_and_numbers(sweep):
    results = without_timing(sweep)
    assert results["config"]["trials"] == 40
    for task in ("toy1", "toy2"):
        data = results["tasks"][task]
        assert data["branches"] == [2, 3, 10]
        for key in ("success_interval", "specialization_index", "diverged"):
            assert len(data[key]) == 3
        # Specification: .54 / .62 at M = 2 and about 1 at M = 10; 40 trials leave a
        # standard error of .08.
        assert 0.3 < data["success_rate"][0] < 0.85
        assert data["success_rate"][2] > 0.9
        assert data["mean_active"][0] < 2
        assert 2.5 < data["mean_active"][2] < 4.5
        for m, active, silent in zip(
            data["branches"], data["mean_active"], data["mean_silent"], strict=True
        ):
            assert active + silent == pytest.approx(m)
        assert data["mean_active_centred"][2] < 5
        assert data["mean_active_variance"][2] < data["mean_active"][2]
        for key, record in data["observations"].items():
            assert record["networks"] == 40 or key in "135"
            assert record["uncentred"]["agrees"] in (True, False)
        # By the paper's rule; with four points centring spreads a branch over all.
        assert data["observations"]["2"]["uncentred"]["holds"] is True
        assert data["observations"]["4"]["reason"] == "it says nothing of M below 16"
        assert "success differs by" in data["observations"]["6"]["reason"]
        beside = data["observations"]["5"]["beside"]
        assert 0.3 < beside["null"]["value"] < 0.7  # of three or four points
        value, initial = (data["observations"]["5"][k] for k in ("value", "initial"))
        assert beside["change"]["value"] == pytest.approx(value - initial, abs=0.02)
        found = [
            f for f in results["findings"] if f["setting"].startswith(TITLES[task])
        ]
        assert [f["observation"] for f in found] == [1, 2, 3, 4, 5, 6]
        for finding in found:
            assert finding["level"] == "toy"
            record = data["observations"][str(finding["observation"])]
            assert record.items() <= finding.items()
        control = data["measures"]["norm"]["control"]["correlation"]["mean"]
        assert min(control) > 0.7
    assert (
        results["findings"][0]["setting"]
        == "Toy 1, step 0.02, slope 0.01, normal init of scale 1, x 40"
    )


def test_sweep_draws_every_figure_of_the_paper(sweep):
    names = {path.stem for path in (sweep / "figures").iterdir()}
    assert names == {
        "fig02_typical",
        "fig02_rare_takeover",
        "fig02_rare_shared",
        "fig03_success",
        "fig03_covariance",
        "fig04_responses",
        "fig04_active",
    }
    assert not (sweep / "unfinished").exists()


def test_figure_4_shows_active_branches_and_exact_curves(sweep):
    data = without_timing(sweep)["responses"]
    for example in data["examples"]:
        norms = np.linalg.norm(example["responses"], axis=1)
        np.testing.assert_array_equal(example["active"], norms >= 0.1 * norms.max())
        assert sum(example["active"]) == example["num_active"]
        curves = example["curves"]
        for v, drawn in zip(example["responses"], curves["responses"], strict=True):
            at_points = np.interp(data["x"], curves["x"], drawn)
            np.testing.assert_allclose(at_points, v, atol=1e-5)
        total = np.interp(data["x"], curves["x"], curves["total"])
        np.testing.assert_allclose(total, data["y"], atol=0.011)  # converged


def test_figure_2_shows_what_its_title_says(sweep):
    examples = without_timing(sweep)["dynamics"]["examples"]
    shared = examples["rare_shared"]["responses"][-1]
    ratios = [
        min(abs(a), abs(b)) / max(abs(a), abs(b)) for a, b in zip(*shared, strict=True)
    ]
    assert max(ratios) >= 0.25
    typical = examples["typical"]["responses"][-1]
    for a, b in zip(*typical, strict=True):
        assert min(abs(a), abs(b)) < 0.1 * max(abs(a), abs(b))


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file_and_another_does_not(
    sweep, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "draw", lambda results: {})  # for speed
    experiment.main(experiment.Config(workdir=tmp_path / "same", **TINY))
    assert without_timing(tmp_path / "same") == without_timing(sweep)
    experiment.main(experiment.Config(workdir=tmp_path / "other", seed=1, **TINY))
    one, other = (without_timing(d) for d in (sweep, tmp_path / "other"))
    for task in ("toy1", "toy2"):
        for name in ("success_rate", "mean_active"):
            assert one["tasks"][task][name] != other["tasks"][task][name]
    assert one["covariances"] != other["covariances"]
    assert one["dynamics"] != other["dynamics"]


def test_figures_are_redrawn_from_the_results_alone(sweep, monkeypatch):
    path = sweep / "figures" / "fig03_success.png"
    before = path.read_bytes()
    path.unlink()
    monkeypatch.setattr(sweeps, "train", None)
    experiment.main(experiment.Config(workdir=sweep, figures_only=True))
    assert path.read_bytes() == before


@pytest.mark.slow
def test_a_resumed_run_ends_as_one_that_never_stopped(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "draw", lambda results: {})  # for speed
    monkeypatch.setattr(training, "CHUNK", 700)
    stop_training_at(monkeypatch, call=3)
    config = experiment.Config(workdir=tmp_path / "run", **TINY)
    with pytest.raises(KeyboardInterrupt):
        experiment.main(config)
    assert len(list((tmp_path / "run" / "unfinished").glob("*.npz"))) == 2
    experiment.main(experiment.Config(workdir=tmp_path / "run", resume=True, **TINY))
    assert without_timing(tmp_path / "run") == without_timing(sweep)


def test_a_damaged_checkpoint_is_named_and_its_way_out_works(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "draw", lambda results: {})  # for speed
    workdir = tmp_path / "run"
    tiny = {"tasks": ("toy1",), "branches": (2,), "trials": 3, "steps": 20}
    config = experiment.Config(workdir=workdir, overlay_learning_rate=0.0, **tiny)
    runs.start(config, "toy")
    path = workdir / "unfinished" / "trials_000000000.npz"
    path.parent.mkdir()
    few = sweeps.settings(task="toy1", num_branches=2, learning_rate=1, trial=0)
    few = sweeps.init_trials(jax.random.key(0), few)
    for damage in (
        lambda: path.write_bytes(b"PK not really"),
        lambda: np.savez(path, w=few.w),
        lambda: np.savez(path, **few._asdict()),  # of another table
    ):
        damage()
        with pytest.raises(UserError, match=r"0000.npz is damaged: move it away"):
            experiment.main(dataclasses.replace(config, resume=True))
    path.rename(tmp_path / "away")
    run_here(experiment, "--resume", "--workdir", workdir)
    assert without_timing(workdir)["tasks"]["toy1"]["trials"] == 3


def test_damaged_results_are_not_drawn(tmp_path):
    config = experiment.Config(workdir=tmp_path / "run", **TINY)
    runs.start(config, "toy")
    redraw = experiment.Config(workdir=tmp_path / "run", figures_only=True)
    schema = {"schema": runs.SCHEMA}
    for content in (schema, schema | {"config": {"mode": "sweep"}}):
        files.write_json(tmp_path / "run" / "results.json", content)
        with pytest.raises(UserError, match=r"results.json is damaged"):
            experiment.main(redraw)
    files.write_json(tmp_path / "run" / "config.json", {"experiment": "classify"})
    with pytest.raises(UserError, match="is a run of classify, not toy"):
        experiment.main(redraw)


def test_the_number_of_trials_is_known_before_the_run(sweep):
    last = (sweep / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(last)["of"] == experiment.Config(**TINY).num_trials


@pytest.mark.slow
def test_diverging_trials_are_failures_and_counted(tmp_path, capsys):
    experiment.main(
        experiment.Config(
            workdir=tmp_path / "run",
            tasks=("toy2",),
            branches=(2, 3),
            trials=5,
            learning_rate=9.0,
            negative_slope=0.5,
            overlay_learning_rate=0.0,
        )
    )
    data = without_timing(tmp_path / "run")["tasks"]["toy2"]
    assert data["diverged"] == [5, 5]
    assert data["success_rate"] == [0, 0]
    assert data["mean_active"] == [None, None]
    printed = capsys.readouterr().out
    assert "undecided" in printed
    assert "Figure 3 right is not drawn: every trial diverged" in printed
    assert "Figure 4 left is not drawn: no trial converged" in printed
    drawn = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert drawn == {"fig03_success"}  # nothing else has numbers to show


def test_figures_of_single_networks_follow_the_flags(tmp_path, monkeypatch):
    """They show networks of the sweep: its M, its trials, its task, its steps."""
    monkeypatch.setattr(experiment, "draw", lambda results: {})  # for speed
    config = experiment.Config(
        tasks=("toy2",),
        branches=(5,),
        trials=6,
        steps=1500,
        negative_slope=0.25,
        overlay_learning_rate=0.0,
    )
    experiment.main(dataclasses.replace(config, workdir=tmp_path / "run"))
    results = without_timing(tmp_path / "run")
    table = sweeps.settings(
        task="toy2",
        num_branches=5,
        negative_slope=0.25,
        learning_rate=0.02,
        trial=range(6),
    )
    trained = sweeps.train(sweeps.init_trials(jax.random.key(0), table), steps=1500)
    v = trained.w[:5, None] * trained.x + trained.b[:5, None]
    v = np.where(v >= 0, v, 0.25 * v)  # [M, N, T]
    covariances = results["covariances"]
    assert (covariances["task"], covariances["branches"]) == ("toy2", 5)
    expected = np.einsum("knt,lnt->tkl", v, v)
    np.testing.assert_allclose(covariances["matrices"], expected, rtol=1e-4, atol=1e-6)
    shown = results["responses"]
    assert (shown["task"], shown["branches"]) == ("toy2", 5)
    assert shown["examples"]
    for example in shown["examples"]:
        t = example["trial"]
        np.testing.assert_allclose(example["responses"], v[..., t], atol=1e-6)
    dynamics = results["dynamics"]
    assert (dynamics["task"], dynamics["searched"]) == ("toy2", 6)
    assert dynamics["steps"] == 1500
    assert "(--branches has no 2)" in experiment.summary(results)


def test_networks_too_large_to_show_are_not_kept():
    config = experiment.Config(branches=(101, 5000))
    assert config.shown_branches(10) is None
    assert experiment.Config().shown_branches(10) == 10  # the paper's M
    assert experiment.Config(branches=(3, 14)).shown_branches(10) == 14


def test_one_trial_and_one_m_decide_nothing(tmp_path):
    flags = ("--branches", 9, "--trials", 1, "--steps", 1, "--tasks", "toy1")
    printed = run_here(
        experiment, *flags, "--overlay-learning-rate", 0, "--workdir", tmp_path / "run"
    )
    assert "undecided" not in printed
    assert "holds" not in printed
    assert "hardly grow" not in printed  # observation 6 needs several M
    assert "(verdicts need several trials)" in printed
    assert "Figure 3 right shows Toy 1, M = 9" in printed


@pytest.mark.slow
def test_phase_covers_its_grid(tmp_path, capsys):
    experiment.main(
        experiment.Config(
            workdir=tmp_path / "run",
            mode="phase",
            tasks=("toy1",),
            branches=(4, 16),
            trials=20,
            phase_learning_rates=(0.01, 0.02),
            phase_init_scales=(0.1, 1.0, 2.0),
            phase_negative_slopes=(0.01, 0.3),
        )
    )
    results = without_timing(tmp_path / "run")
    assert results["findings"] == []
    data = results["tasks"]["toy1"]
    active = data["mean_active"]
    assert [len(active), len(active[0]), len(active[0][0])] == [2, 2, 3]
    # The claim of few active branches needs a small slope and a large initial scale.
    assert active[1][0][2][1] < 4
    assert active[1][0][0][1] > 6
    assert active[1][1][2][1] > 10
    growth = data["active_growth"]
    assert growth["branches"] == [4, 16]
    ratio = np.array(active[1]) / active[0]
    np.testing.assert_allclose(growth["ratio"], ratio)
    learns = np.array(data["success_rate"][1]) >= 0.95
    table = capsys.readouterr().out
    for i, slope in enumerate(("0.01 ", "0.3  ")):
        constant = (learns & (ratio <= 1.5))[i].sum()
        assert (
            f"slope {slope} success >= 0.95 in {learns[i].sum()} of 6 cells; "
            f"in {constant} of these observation 6 holds"
        ) in table
    assert {p.name for p in (tmp_path / "run" / "figures").iterdir()} == {
        "phase_toy1.png"
    }


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--branches", 0], 2, "--branches must be at least 1, got 0"),
        (["--branches", 2, 0], 2, "--branches must be at least 1, got 0"),
        (["--branches"], 2, "--branches needs at least one value"),
        (["--trials", -5], 2, "--trials must be at least 1, got -5"),
        (["--trials", 1.5], 2, "--trials"),
        (["--steps", -1], 2, "--steps must be in 1..2^31-1, got -1"),
        (["--steps", 2**31], 2, "--steps must be in 1..2^31-1"),
        (["--seed", -1], 2, "--seed must be in 0..2^32-1, got -1"),
        (["--learning-rate", "nan"], 2, "--learning-rate must be positive"),
        (["--learning-rate", "inf"], 2, "--learning-rate must be positive"),
        (["--learning-rate", 1e-300], 2, "(single precision), got 1e-300"),
        (["--init-scale", 1e300], 2, "(single precision), got 1e+300"),
        (["--init-scale", 0], 2, "--init-scale must be positive"),
        (["--negative-slope", "nan"], 2, "--negative-slope must be finite"),
        (["--overlay-learning-rate", -1], 2, "--overlay-learning-rate must be finite"),
        (["--weight-decay", -1], 2, "--weight-decay must be finite, >= 0"),
        (["--overlay-trials", 0], 2, "--overlay-trials must be at least 1"),
        ([*PHASE, "--phase-init-scales", 0], 2, "--phase-init-scales must be positive"),
        ([*PHASE, "--phase-learning-rates"], 2, "needs at least one value"),
        ([*PHASE, "--phase-negative-slopes", "nan"], 2, "must be finite"),
        (["--tasks", "--branches", 2], 2, "--tasks needs at least one value"),
        # memory
        (["--branches", 10**9], 2, "EiB of memory"),
        (["--branches", 10**5, "--trials", 1], 2, "of memory"),
        (["--trials", 10**9], 2, "TiB of memory"),
        (["--overlay-trials", 10**9], 2, "TiB of memory"),
        ([*PHASE, "--trials", 10**9], 2, "of memory"),
        ([*PHASE, "--branches", 10**5], 2, "of memory"),
        # paths
        (["--workdir", "/dev/null/run"], 1, "cannot write to /dev/null/run"),
        (["--workdir", __file__], 1, f"cannot write to {__file__}"),
        (["--figures-only", "--workdir", "/nowhere"], 1, "no run at /nowhere"),
        (["--resume", "--workdir", "/nowhere"], 1, "no run at /nowhere"),
        (["--workdir", "~nobody-here/run"], 2, "there is no such user"),
        # combinations
        (["--resume"], 2, "--resume needs --workdir"),
        (["--trials", 2, "--trials", 3], 2, "--trials is given twice"),
        ([*PHASE, "--learning-rate", 1], 2, "which has --phase-learning-rates"),
        ([*PHASE, "--init-scale", 1], 2, "--init-scale does not apply with"),
        ([*PHASE, "--negative-slope", 0], 2, "--negative-slope does not apply with"),
        ([*PHASE, "--overlay-trials", 5], 2, "--overlay-trials does not apply with"),
        ([*PHASE, "--overlay-learning-rate=1"], 2, "does not apply with --mode phase"),
        (["--phase-init-scales", 1], 2, "does not apply without --mode phase"),
        (
            ["--overlay-learning-rate", 0, "--overlay-trials", 5],
            2,
            "--overlay-trials does not apply with --overlay-learning-rate 0",
        ),
    ],
)
def test_invalid_flags_get_a_one_line_answer(flags, status, words, monkeypatch, capsys):
    check_refused(experiment, flags, status, words, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("compute", "mode"), [(sweep_mode.sweep, "sweep"), (phase_mode.phase, "phase")]
)
def test_exactly_the_flags_that_a_mode_does_not_read_are_refused(
    compute, mode, tmp_path
):
    read = set()

    class Recording(experiment.Config):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    compute(
        Recording(
            mode=mode,
            tasks=("toy1",),
            branches=(2,),
            trials=2,
            overlay_trials=2,
            steps=20,
            phase_learning_rates=(0.1,),
            phase_init_scales=(1.0,),
            phase_negative_slopes=(0.1,),
        ),
        tmp_path,
    )
    flags = {field.name for field in dataclasses.fields(experiment.Config)}
    flags -= {"mode", "workdir", "resume", "figures_only"}
    assert flags - read == set(experiment.Config(mode=mode).unused())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tasks", "toy3"], "toy3"),
        (["--no-such-flag", 1], "--no-such-flag"),
    ],
)
def test_unknown_flags_and_values_are_refused_without_a_traceback(flags, words):
    answer = refuse("toy", *flags)
    assert answer.returncode == 2
    assert words in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_folder_that_holds_a_run_is_refused(sweep):
    before = (sweep / "results.json").read_bytes()
    answer = refuse("toy", "--workdir", sweep)
    assert answer.returncode == 1
    assert "already holds a run" in answer.stderr
    assert (sweep / "results.json").read_bytes() == before


def test_ctrl_c_during_the_imports_ends_quietly():
    process = subprocess.Popen(
        command("toy"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(0.4)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == -signal.SIGINT  # a shell says 130


def test_ctrl_c_ends_quietly(tmp_path):
    process = subprocess.Popen(
        command("toy", "--workdir", tmp_path / "run"),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    while not (tmp_path / "run" / "unfinished").exists():
        time.sleep(0.05)
        assert process.poll() is None
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    resume = f"python -m experiments.toy --workdir {tmp_path / 'run'} --resume\n"
    assert err.endswith(resume)
    assert "Traceback" not in err
