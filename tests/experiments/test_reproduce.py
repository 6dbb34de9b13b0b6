"""The reproduction's command: its plan, its stages, and how it goes on."""

import json
import re
import shlex
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import finish, start, wait_for
from PIL import Image

from bspec_jax import classifier, data, runs
from bspec_jax.classifier.branches import WIDTHS
from bspec_jax.storage.errors import UserError
from experiments.classify import __main__ as classify
from experiments.hessian import __main__ as hessian
from experiments.hessian import checkpoint
from experiments.reproduce import __main__ as experiment
from experiments.reproduce import stages
from experiments.reproduce.stages import REPRODUCTIONS, words_of

SMALL = (
    *("--dataset", "faces", "--image-size", 8, "--widths", "tiny", "--epochs", 2),
    *("--train-examples", 40, "--validation-examples", 8, "--test-examples", 24),
    *("--branches", 2, "--sweep-branches", 3, "--batch-size", 16),
    *("--crop-padding", 1),
)
STAGES = ("classify", "classify_hessian", "classify_report")


@pytest.fixture
def planned(monkeypatch):
    """40 images that are read already, and branches of 10^9 operations on each."""
    none = data.Split(np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, np.int32))
    train = data.Split(np.zeros((40, 8, 8, 3), np.uint8), np.zeros(40, np.int32))
    mean, std = np.zeros(3), np.ones(3)
    dataset = data.Dataset("faces", train, none, none, ("cat", "dog"), mean, std, None)
    monkeypatch.setattr(stages, "load_data", lambda config: dataset)
    monkeypatch.setattr(classifier, "forward_flops", lambda spec: 1e9)


@pytest.fixture
def call(monkeypatch, capsys):
    """The command in this process: its exit status, and what it prints."""

    def call(*flags):
        capsys.readouterr()
        words = ("--what", "classify", *flags)
        monkeypatch.setattr(sys, "argv", ["reproduce", *map(str, words)])
        status = 0
        try:
            experiment.main()
        except SystemExit as end:
            status = end.code
        return status, *capsys.readouterr()

    return call


def states(printed):
    """The state of each stage in a plan, without its hours."""
    return dict(re.findall(r"^(\w+): (finished|unfinished|not started)", printed, re.M))


def test_the_plan_has_hours_and_commands_and_writes_nothing(planned, call, tmp_path):
    workdir = tmp_path / "run"
    flags = ("--workdir", workdir, "--plan", "--tera-flops", 1e-4, *SMALL)
    status, out, err = call(*flags)
    assert (status, err) == (0, "")
    assert not workdir.exists()
    # 3 passes x 16 images x 4 steps x (2 + 3 branches, and 3 of the control)
    training = 3e9 * 16 * 4 * 8 / 1e8 / 3600
    # 2 gradients of 3 passes x 2 branches x 128 images x 2 clamps x 4 Hessians
    hessians = 6e9 * 2 * 128 * 2 * 4 * (3 * 3 * 3 * WIDTHS["tiny"][0]) / 1e8 / 3600
    assert out.splitlines()[::2] == [
        f"classify: not started, about {training:.1f} hours",
        f"classify_hessian: not started, about {hessians:,.1f} hours",
        "classify_report: not started, minutes",
        f"together about {training + hessians:,.1f} hours at 0.0001e12 operations per "
        "second (--tera-flops)",
    ]
    of_classify, of_hessian, of_report = out.splitlines()[1::2]
    folders = [str(workdir / name) for name in STAGES]
    words = shlex.split(of_classify)
    assert words[:3] == ["python", "-m", "experiments.classify"]
    parsed = runs.parse_flags(classify.Config, "", "", args=words[3:])
    given = [*map(str, SMALL), "--workdir", folders[0]]
    assert parsed == runs.parse_flags(classify.Config, "", "", args=given)
    assert shlex.split(of_hessian) == [
        *("python", "-m", "experiments.hessian", "--workdir", folders[1]),
        *("--checkpoint", folders[0]),
    ]
    assert shlex.split(of_report) == [
        *("python", "-m", "experiments.report", *folders[:2], "--workdir", folders[2]),
    ]


def test_hours_are_those_of_the_steps_that_are_left(planned, call, tmp_path):
    for step in ("main/0", "main/3", "branches_3/1"):  # of 2, 2 and 3 branches
        (tmp_path / "checkpoints" / step).mkdir(parents=True)
    config = classify.Config(
        workdir=tmp_path,
        branches=2,
        sweep_branches=(3,),
        widths=("tiny",),
        batch_size=16,
        epochs=2,
    )
    costs = stages.Costs.of(config.resolved())
    assert costs.steps == 4
    assert costs.training() == 3e9 * 16 * (2 * 1 + 3 * 3 + 3 * 4)


def test_the_setting_is_the_paper_s():
    config = REPRODUCTIONS["classify"].default.resolved()
    assert config.dataset == "cifar10"
    assert config.branches_list == [2, 4, 8, 16, 32]
    assert (config.branches, config.widths, config.epochs) == (16, ("paper",), 200)
    assert (config.learning_rate, config.weight_decay) == (0.1, 5e-4)
    assert not config.skip_control
    assert config.repeats == 1


def test_words_give_the_config_again():
    config = classify.Config(
        seed=3,
        workdir=Path("a b"),
        data_dir=Path("c"),
        branches=5,
        sweep_branches=(2, 30),
        learning_rate=1e-3,
        weight_decay=0.0,
        skip_control=True,
        clamp="tanh",
    )
    words = [*words_of(config)]
    assert "--repeats" not in words
    assert runs.parse_flags(classify.Config, "", "", args=words) == config


class FakeExperiments:
    """In place of the experiments: which were called how, and where to fail next."""

    def __init__(self, monkeypatch):
        self.calls, self.failing = [], None
        for module in (classify, hessian):
            monkeypatch.setattr(module, "main", self.main_of(module.NAME))
        monkeypatch.setattr(stages.report, "report", self.report)

    def main_of(self, name):
        def main(config):
            mode = [m for m in ("resume", "figures_only") if getattr(config, m)]
            self.calls.append((name, *mode))
            if config.figures_only:
                return
            runs.start(config, name)
            if self.failing == name:
                raise UserError("the loss is nan at step 3")
            runs.save_results(config.workdir, config, {}, 0.0)
            if self.failing == f"{name} figures":
                raise UserError("no space")

        return main

    def report(self, folders, workdir):
        self.calls.append(("report",))
        assert not workdir.exists()  # `report` takes a new or empty folder only
        workdir.mkdir()
        if self.failing != "report":
            (workdir / "report.json").write_text("{}")
        (workdir / "report.md").write_text("half")
        if self.failing == "report":
            raise UserError("damaged")


def test_what_is_finished_is_skipped_and_what_is_not_goes_on(
    planned, call, tmp_path, monkeypatch
):
    fake = FakeExperiments(monkeypatch)
    workdir = tmp_path / "run"

    def check(failing, calls, *flags):
        fake.failing, fake.calls = failing, []
        answer = call("--workdir", workdir, *flags)
        assert fake.calls == calls
        return answer

    def planned_states():
        _, out, _ = check(None, [], "--plan")
        return tuple(states(out)[name] for name in STAGES)

    status, _, err = check("classify", [("classify",)], *SMALL, "--skip-control")
    message = "python -m experiments.reproduce: classify: the loss is nan at step 3\n"
    assert (status, err) == (1, message)
    unfinished, new = "unfinished", "not started"
    assert planned_states() == (unfinished, new, new)
    _, out, _ = call("--workdir", workdir, "--plan")
    resuming = f"python -m experiments.classify --workdir {workdir}/classify --resume"
    assert f"    {resuming}\n" in out

    # Its flags are those of the first call. Results without all figures come next.
    status, _, _ = check("classify figures", [("classify", "resume")])
    assert status == 1
    saved = json.loads((workdir / "classify" / "config.json").read_text())
    assert (saved["epochs"], saved["skip_control"]) == (2, True)
    assert planned_states() == (unfinished, new, new)

    calls = [("classify", "figures_only"), ("hessian",)]
    status, _, err = check("hessian", calls)
    assert (status, err.count("\n")) == (1, 1)
    assert planned_states() == ("finished", unfinished, new)

    check("report", [("hessian", "resume"), ("report",)])
    assert planned_states() == ("finished", "finished", new)

    # What cannot be resumed begins anew.
    status, out, err = check(None, [("report",)])
    assert (status, err) == (0, "")
    assert planned_states() == ("finished",) * 3
    assert out.endswith(f"the report is in {workdir / 'classify_report'}\n")

    # The same command, or its folder alone.
    for flags in ((*SMALL, "--skip-control"), ()):
        status, out, _ = check(None, [], *flags)
        assert status == 0
        assert "hours" not in out

    # A run that was deleted is not finished.
    (workdir / "classify_hessian" / "results.json").unlink()
    check(None, [("hessian", "resume")])


def test_all_is_finished_without_the_data(planned, call, tmp_path, monkeypatch):
    FakeExperiments(monkeypatch)
    call("--workdir", tmp_path / "run", *SMALL)

    def gone(config):
        raise UserError("no data")

    monkeypatch.setattr(stages, "load_data", gone)
    status, out, _ = call("--workdir", tmp_path / "run", "--plan")
    assert status == 0
    assert set(states(out).values()) == {"finished"}


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (("--what", "toys"), 2, "--what is given twice"),
        (("--tera-flops", -1), 2, "--tera-flops must be positive and finite, got -1.0"),
        (("--tera-flops", 0), 2, "--tera-flops must be positive and finite, got 0.0"),
        (("--tera-flops", "nan"), 2, "--tera-flops must be positive and finite"),
        (("--tera-flops", "fast"), 2, "--tera-flops"),
        (("--tera-flop", 2), 2, "Unrecognized options: --tera-flop"),
        (("--epochs", 0), 2, "--epochs must be at least 1, got 0"),
        (("--sweep-branches",), 2, "--sweep-branches needs at least one value"),
        (("--depth", 3), 2, "--depth does not apply with --branch resnet"),
        (("--resume",), 2, "--resume does not apply to a reproduction"),
        (("--figures-only",), 2, "--figures-only does not apply to a reproduction"),
        (("--figure-classes", 1), 2, "--figure-classes does not apply to a reprod"),
        (("--images", "a.png"), 2, "--images does not apply to a reproduction"),
        (("--branches", 152), 2, "first layer of 152 branches has 8,208 parameters"),
        (("--workdir", __file__), 1, "is a file; choose another --workdir"),
        (("--workdir", "~nobody-at-all/run"), 1, "no such home folder"),
    ],
)
def test_wrong_input_is_one_line(
    planned, call, tmp_path, monkeypatch, flags, status, message
):
    fake = FakeExperiments(monkeypatch)
    pairs = dict(zip(SMALL[::2], SMALL[1::2], strict=True))
    pairs |= {"--workdir": tmp_path / "run"}
    kept = [word for pair in pairs.items() if pair[0] not in flags for word in pair]
    found, out, err = call(*kept, *flags)
    assert (found, out) == (status, "")
    assert err.count("\n") == 1, err
    assert err.startswith("python -m experiments.reproduce: ")
    assert message in err
    assert fake.calls == []
    assert not (tmp_path / "run").exists()


def test_what_must_be_named_and_known(call, monkeypatch, capsys):
    for words in ([], ["--what", "toys"]):
        monkeypatch.setattr(sys, "argv", ["reproduce", *words])
        with pytest.raises(SystemExit) as end:
            experiment.main()
        out, err = capsys.readouterr()
        assert (end.value.code, out, err.count("\n")) == (2, "", 1)
        assert "--what" in err
        assert "classify" in err


@pytest.mark.parametrize("plan", [("--plan",), ()])
def test_missing_data_are_named_before_any_hours(call, tmp_path, plan):
    folders = ("--data-dir", tmp_path, "--workdir", tmp_path / "run")
    status, out, err = call(*folders, *plan)
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert "cifar10 is not prepared in" in err
    assert "python -m bspec_jax.data.prepare cifar10" in err
    assert not (tmp_path / "run").exists()


def test_a_folder_of_other_flags_or_files_is_refused(
    planned, call, tmp_path, monkeypatch
):
    fake = FakeExperiments(monkeypatch)
    workdir = tmp_path / "run"
    call("--workdir", workdir, *SMALL)
    fake.calls = []
    for flags, words in (
        (("--epochs", 3), "begun with --epochs 2, not 3: leave the flag out, or"),
        (("--sweep-branches", 3, 4), "begun with --sweep-branches 3, not 3 4:"),
        (("--learning-rate", 0.5), "begun with --learning-rate at its default, not"),
        (("--skip-control",), "begun with --skip-control False, not True"),
    ):
        status, out, err = call("--workdir", workdir, *flags)
        assert (status, out, err.count("\n")) == (2, "", 1)
        assert words in err
    assert call("--workdir", workdir, "--epochs", 2)[0] == 0
    assert fake.calls == []

    record = workdir / "classify.json"
    saved = json.loads(record.read_text())
    for damage, words in (
        ({"schema": 99}, "a newer bspec_jax wrote it"),
        ({"config": None}, "classify.json is damaged: choose another --workdir"),
        ({"config": saved["config"] | {"epochs": "many"}}, "--epochs is 'many'"),
    ):
        record.write_text(json.dumps(saved | damage))
        status, out, err = call("--workdir", workdir)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert words in err

    record.unlink()  # now the folders may be of anything
    status, out, err = call("--workdir", workdir, *SMALL)
    assert (status, out) == (1, "")
    assert f"{workdir / 'classify'} exists already: choose another --workdir" in err
    assert fake.calls == []


class Diagonal:
    """In place of the Hessian, whose compilation takes long."""

    def __init__(self, objective, params, **options):
        flat = params["stem"]["kernel"].reshape(2, -1)
        self.matrix = np.einsum("kp,kq,kl->kplq", flat, flat, np.eye(2))

    def full(self):
        return self.matrix


def write_images(folder):
    """Pictures of 8 pixels, of which those of one class are darker."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for name, brightest in (("ant", 128), ("bee", 256)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, brightest, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")


@pytest.mark.slow
def test_a_stopped_reproduction_goes_on_to_its_report(call, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    write_images(tmp_path / "images")
    flags = (
        *("--dataset", "folder", "--data-dir", tmp_path / "images"),
        *("--image-size", 8, "--branch", "mlp", "--depth", 2, "--widths", 4),
        *("--branches", 2, "--sweep-branches", 2, "--batch-size", 32, "--epochs", 1),
        *("--validation-examples", 8, "--crop-padding", 1, "--skip-control"),
        *("--clamp", "none"),  # one Hessian for each stage
    )
    process = start("reproduce", "--what", "classify", "--workdir", workdir, *flags)
    wait_for(workdir / "classify" / "config.json", "epochs", process)
    process.send_signal(signal.SIGTERM)
    _, err = finish(process, 143)
    way_on = f"python -m experiments.reproduce --what classify --workdir {workdir}\n"
    assert err.endswith(f"experiments.reproduce: stopped; to go on:\n{way_on}")
    assert not (workdir / "classify" / "results.json").exists()

    monkeypatch.setattr(checkpoint.hessian, "blocks", Diagonal)
    status, out, _ = call(*shlex.split(way_on)[5:])
    assert status == 0
    assert states(out)["classify"] == "unfinished"
    reported = json.loads((workdir / "classify_report" / "report.json").read_text())
    assert set(reported["runs"]) == {"classify", "classify_hessian"}
    assert not reported["left_out"]
    at = runs.load_results(workdir / "classify_hessian")["tasks"]["classify"]["stages"]
    assert [stage["step"] for stage in at] == [0, 1]
