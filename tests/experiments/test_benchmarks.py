"""The benchmarks start without PyTorch, and their forms compute the same."""

import dataclasses
import subprocess
import sys
import time
from importlib import import_module
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import ROOT, check_refused
from numpy.testing import assert_allclose

from bspec_jax import classifier
from bspec_jax.runs import FlagError
from bspec_jax.runs.command_line import parse_run
from bspec_jax.storage.errors import UserError, flag
from experiments.benchmarks import hessian_blocks, measuring, pruning

NAMES = [
    path.stem
    for path in (ROOT / "experiments" / "benchmarks").glob("*.py")
    if path.stem not in ("__init__", "measuring")
]
PEERS = ("torch", "curvlinops", "skimage")
MANY = 10**9


def benchmark(name):
    return import_module(f"experiments.benchmarks.{name}")


@pytest.mark.parametrize("name", NAMES)
def test_counts_below_one_are_refused(name):
    config = benchmark(name).Config
    assert config.COUNTS
    for field in config.COUNTS:
        zero = (0,) if isinstance(getattr(config, field), tuple) else 0
        with pytest.raises(FlagError, match=f"{flag(field)} must be at least 1"):
            dataclasses.replace(config(), **{field: zero}).check()


def test_help_needs_no_peer():
    """In one process, in which importing a peer fails."""
    program = f"""
import contextlib, io, runpy, sys

class Absent:
    def find_spec(self, name, *where):
        if name.split(".")[0] in {PEERS}:
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Absent())
for name in {NAMES}:
    sys.argv = [name, "--help"]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            runpy.run_module(f"experiments.benchmarks.{{name}}", run_name="__main__")
    except SystemExit as end:
        assert not end.code, name
    assert "--workdir" in printed.getvalue(), name
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("branched_resnet", "torch"),
        ("generator", "torch"),
        ("hessian_blocks", "torch and curvlinops"),
        ("silence_sweep", "torch"),
        ("toy_sweep", "torch"),
        ("chan_vese", "skimage"),
    ],
)
def test_an_absent_peer_is_one_line_before_any_work(
    name, package, monkeypatch, capsys, tmp_path
):
    monkeypatch.setattr(measuring, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    flags = ("--workdir", tmp_path / "run")
    err = check_refused(benchmark(name), flags, 1, package, monkeypatch, capsys)
    assert "pip install" in err
    assert not (tmp_path / "run").exists()


FORM = ("--form", "here")


@pytest.mark.parametrize(
    ("name", "flags", "status", "words"),
    [
        ("branched_resnet", ["--branches", 10**5], 2, "of memory"),
        ("branched_resnet", ["--batch-size", MANY, *FORM], 2, "of memory"),
        ("branched_resnet", ["--image-size", 10**5], 2, "of memory"),
        ("branched_resnet", [*FORM, "--branches", 1, 4], 2, "--form times a single M"),
        ("branched_resnet", [*FORM, "--slow-batch-size", 4], 2, "does not apply with"),
        ("branched_resnet", ["--form", "theirs"], 2, "--form"),
        ("chan_vese", ["--images", MANY], 2, "of memory"),
        ("chan_vese", ["--image-size", 10**5], 2, "of memory"),
        ("chan_vese", ["--image-size", 1], 2, "--image-size must be at least 2"),
        ("chan_vese", ["--form", "outside"], 2, "--form"),
        ("chan_vese", ["--repeats", "x"], 2, "--repeats"),
        ("conv_forms", ["--branches", 10**5], 2, "of memory"),
        ("conv_forms", ["--batch-size", MANY], 2, "of memory"),
        ("conv_forms", ["--forms", "there"], 2, "--forms must be one of here, vmap"),
        ("conv_forms", ["--repeats", 1, "--repeats", 2], 2, "is given twice"),
        ("generator", ["--branches", 10**5], 2, "of memory"),
        ("generator", ["--batch-size", MANY, *FORM], 2, "of memory"),
        ("generator", ["--residual", "diffusion"], 2, "does not apply without --form"),
        ("generator", ["--form", "memory", "--repeats", 3], 2, "does not apply with"),
        ("generator", ["--form", "memory", "--seed", 3], 2, "does not apply with"),
        ("generator", ["--preset", "huge"], 2, "--preset"),
        ("hessian_blocks", ["--branches", 10**5], 2, "of memory"),
        ("hessian_blocks", ["--examples", MANY], 2, "of memory"),
        ("hessian_blocks", ["--columns", 2161], 2, "--columns must be at most 2,160"),
        ("hessian_blocks", ["--form", "products", "--columns", 3], 2, "does not apply"),
        ("silence_sweep", ["--branches", 10**6, *FORM], 2, "of memory"),
        ("silence_sweep", ["--seeds", 10**4], 2, "of memory"),
        ("silence_sweep", ["--loop-networks", 86], 2, "--loop-networks must be at mos"),
        ("silence_sweep", [*FORM, "--loop-networks", 2], 2, "does not apply with"),
        ("silence_sweep", ["--branch", "cnn"], 2, "--branch"),
        ("toy_sweep", ["--trials", MANY], 2, "of memory"),
        ("toy_sweep", ["--steps", 2**31], 2, "--steps must be below 2^31"),
        ("toy_sweep", ["--loop-trials", 10**6], 2, "--loop-trials must be at most"),
        ("toy_sweep", ["--seed", -1], 2, "--seed must be in"),
        *[(name, ["--resume"], 2, "--resume needs --workdir") for name in NAMES],
    ],
)
def test_invalid_flags_get_a_one_line_answer(
    name, flags, status, words, monkeypatch, capsys
):
    check_refused(benchmark(name), flags, status, words, monkeypatch, capsys)


def test_all_forms_of_chan_vese_segment_alike():
    chan_vese = benchmark("chan_vese")
    config = chan_vese.Config(images=3, image_size=16, repeats=1)
    masks = {}
    for form in ("inside", "in_turn", "one_loop", "scikit_image"):
        timed = chan_vese.time_form(dataclasses.replace(config, form=form))
        assert timed["seconds"] > 0
        masks[form] = np.frombuffer(bytes.fromhex(timed["masks"]), np.uint8)
    assert 0 < np.unpackbits(masks["inside"]).mean() < 1
    for form, mask in masks.items():
        differing = np.unpackbits(mask ^ masks["inside"]).mean()
        # Rounding differs between the loops, by a pixel of 768 at most, and
        # scikit-image's is that of float64.
        assert differing < (0.05 if form == "scikit_image" else 0.002), form


def test_a_benchmark_neither_resumes_nor_draws(tmp_path, monkeypatch, capsys):
    conv_forms = benchmark("conv_forms")
    conv_forms.runs.start(conv_forms.Config(workdir=tmp_path / "run"), conv_forms.NAME)
    for name in ("--resume", "--figures-only"):
        flags = ("--workdir", tmp_path / "run", name)
        words = f"{name} does not apply to a benchmark"
        check_refused(conv_forms, flags, 2, words, monkeypatch, capsys)


WITH_FORMS = [name for name in NAMES if hasattr(benchmark(name), "Form")]
FORMS = [(name, form) for name in WITH_FORMS for form in get_args(benchmark(name).Form)]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_the_command_that_times_a_form_is_valid(name, form, monkeypatch, tmp_path):
    module = benchmark(name)
    alone = dataclasses.replace(module.Config(), form=form)
    if name == "branched_resnet":
        alone = dataclasses.replace(alone, branches=(4,))
    applies = {"seed", "repeats"} - alone.unused().keys()
    alone = dataclasses.replace(alone, **dict.fromkeys(applies, 7))
    flags = ["--workdir", str(tmp_path / "run"), *measuring.command_flags(alone)]
    monkeypatch.setattr(sys, "argv", [name, *flags])
    parsed = parse_run(type(alone), module.NAME, name, "")
    assert parsed.settings() == alone.settings()


def test_a_failed_process_is_explained():
    with pytest.raises(UserError, match=r"--branches must be at least 1, got 0$"):
        measuring.process("experiments.toy", "--branches", "0")


def test_a_stopped_benchmark_leaves_no_process(monkeypatch):
    def stop(pid):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "peak_memory", stop)
    started = time.monotonic()
    sleeping = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(KeyboardInterrupt), subprocess.Popen(sleeping) as child:
        measuring._watch(child)
    assert time.monotonic() - started < 30
    assert child.returncode


def test_a_missing_peer_is_named():
    measuring.require("numpy")
    with pytest.raises(UserError, match="needs no_such_peer: pip install"):
        measuring.require("numpy", "no_such_peer")


def test_forms_of_the_hessian_agree():
    config = hessian_blocks.Config(branches=2, examples=1, columns=3, repeats=1)
    blocks = hessian_blocks.time_blocks(config)["columns"]
    assert blocks.shape == (3, 2 * 135)
    scale = abs(blocks).max()
    for linearised in (True, False):
        columns = hessian_blocks.time_columns(config, linearised)["columns"]
        assert_allclose(columns, blocks, atol=1e-5 * scale)


def test_pruning_compares_networks_of_its_own_sizes():
    networks = {}
    for name, branches in (("main", 4), ("pruned", 1)):
        spec = classifier.ClassifierSpec(
            widths=(3,),
            branches=branches,
            classes=("a", "b"),
            image_shape=(4, 4, 1),
            mean=(0.4,),
            std=(0.3,),
            branch="mlp",
            normalisation="none",
        )
        network = classifier.build(spec)
        images = jnp.zeros((1, 4, 4, 1))
        params, stats = network.init(jax.random.key(0), images)
        networks[name] = classifier.Classifier(network, params, stats, spec, 0)
    config = pruning.Config(batch_size=3, repeats=7)
    results = pruning.measure(networks, config)
    assert results["branches"] == 1 / 4
    assert results["main"]["branches"] == 4
    seconds = [results[name]["seconds"] for name in ("pruned", "main")]
    assert_allclose(results["time"], seconds[0] / seconds[1])


def small_silence_sweep(monkeypatch, **flags):
    """The benchmark, its data, and a config of 34 networks of 3 branches."""
    module = benchmark("silence_sweep")
    monkeypatch.setattr(module, "EXAMPLES", 300)
    config = module.Config(seeds=2, branches=3, steps=4, repeats=1, **flags)
    return module, config, *module.examples_of(config)


@pytest.fixture
def peer_sweep():
    """PyTorch's forms of the silence sweep, on one thread: the tests share cores."""
    torch = pytest.importorskip("torch")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield import_module("experiments.benchmarks.peers.silence_sweep")
    torch.set_num_threads(threads)


def test_forms_of_the_silence_sweep_train_alike(peer_sweep, monkeypatch):
    module, config, examples, index = small_silence_sweep(monkeypatch, loop_networks=5)
    step = module._jax_step(config, examples)
    ours = np.array([step(batch) for batch in index])
    assert ours.shape == (4, 2, 17)
    assert ours.std(0).min() > 1e-3  # networks learn, and
    assert ours[-1].std(1).min() > 1e-3  # settings differ
    problem = (
        module.initial_params(config),
        config.group.columns(),
        module.PIXELS,
        examples,
        config.total_steps,
    )
    for form in ("stacked", "einsum", "by_hand"):
        step = peer_sweep.training_step(*problem, form)
        theirs = np.array([step(batch) for batch in index])
        assert_allclose(theirs, ours, rtol=2e-6, err_msg=form)
    chosen = dataclasses.replace(config, form="loop").chosen
    assert chosen.tolist() == [0, 8, 16, 24, 33]
    step = peer_sweep.network_by_network(*problem, chosen)
    theirs = np.array([step(batch) for batch in index])
    assert_allclose(theirs, ours.reshape(4, 34)[:, chosen], rtol=2e-6)


def test_operations_of_the_silence_sweep_are_those_that_pytorch_counts(
    peer_sweep, monkeypatch
):
    counter = import_module("torch.utils.flop_counter")
    module, config, examples, index = small_silence_sweep(monkeypatch)
    columns = config.group.columns()
    problem = (module.initial_params(config), columns, module.PIXELS, examples, 9)
    step = peer_sweep.training_step(*problem, "by_hand")
    with counter.FlopCounterMode(display=False) as counted:
        step(index[0])
    assert counted.get_total_flops() == module.operations(config)


def test_the_silence_sweep_compares_what_each_form_trains(monkeypatch, capsys):
    module, config, *_ = small_silence_sweep(monkeypatch, loop_networks=3)
    monkeypatch.setenv("CXX", "no_such_compiler")
    losses = 1 + np.arange(68.0).reshape(2, 34)

    def alone(name, config, label):
        seconds = {"here": 0.5, "loop": 2.0}.get(config.form, 1.0)
        shown = losses[:, config.chosen] * (1.01 if config.form == "loop" else 1)
        timed = {"seconds": seconds, "losses": shown.tolist(), "peak_gib": 0.25}
        return timed | {"gflop_per_second": 8.0, "compilation_seconds": 0.0}

    monkeypatch.setattr(module, "time_alone", alone)
    results = module.compare(config)
    assert results["networks"] == 34
    forms = results["forms"]
    assert [*forms] == ["here", "stacked", "einsum", "by_hand", "loop"]
    assert forms["stacked"]["times_as_long"] == 2
    assert forms["loop"]["times_as_long"] == 4
    assert forms["by_hand"]["difference"] == 0
    assert_allclose(forms["loop"]["difference"], 0.01)
    capsys.readouterr()
    module.report(results)
    assert "loop            2000.0           4.00" in capsys.readouterr().out


def test_torch_compile_needs_a_compiler(monkeypatch, capsys, tmp_path):
    module = benchmark("silence_sweep")
    monkeypatch.setattr(module, "require", lambda *_: None)
    monkeypatch.setenv("CXX", "no_such_compiler")
    flags = ("--form", "compiled", "--workdir", tmp_path / "run")
    check_refused(module, flags, 1, "a C++ compiler", monkeypatch, capsys)
    assert not (tmp_path / "run").exists()
