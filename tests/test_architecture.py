"""The arrows of the layout, read from the imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = {
    "batching",
    "branching",
    "chan_vese",
    "conv",
    "errors",
    "gradients",
    "hessian",
    "hessian_estimates",
    "hessian_measures",
    "leaves",
    "losses",
    "segmentation",
    "specialization",
    "statistics",
    "observations",
    "contributions",
    "recombination",
    "shading",
    "toy",
    "sweeps",
    "training",
}
EXTERNAL_OF_CORE = {"jax", "numpy", "jaxtyping", "scipy"}  # JAX itself needs SciPy
# What each other module may import besides the standard library and the core.
MAY_IMPORT = {
    "checkpoints": {"jax", "numpy", "orbax"},
    "classifier": {"jax", "jaxtyping", "numpy"},
    "classifier_training": {"jax", "jaxtyping", "numpy", "optax"},
    "adapters": {"flax", "jax"},
    "decomposition": {"jaxtyping", "numpy", "skimage"},
    "generator": {"jax", "jaxtyping", "numpy"},
    "generator_training": {"jax", "jaxtyping", "numpy", "optax"},
    "data": {
        "PIL",
        "absl",
        "grain",
        "jax",
        "jaxtyping",
        "numpy",
        "tensorflow_datasets",
        "tyro",
    },
    "figures": {"matplotlib", "numpy"},
    "models": {"flax", "jax", "jaxtyping", "numpy", "scipy"},
    "files": {"jax", "numpy"},
    "run": {"jax", "tyro", "tqdm"},
}
# What is not core and yet imported by what is not an experiment.
ABOVE = {
    "checkpoints": {"files"},
    "run": {"files"},
    "classifier": {"adapters", "checkpoints", "data", "models"},
    "classifier_training": {"checkpoints", "classifier", "data"},
    "generator": {"adapters", "checkpoints", "models"},
    "generator_training": {"checkpoints", "data", "generator", "models"},
}
# Inside the core, a module imports from rows above its own only.
ORDER = [
    {
        "batching",
        "branching",
        "chan_vese",
        "conv",
        "errors",
        "leaves",
        "losses",
        "recombination",
        "shading",
        "statistics",
        "specialization",
        "hessian_measures",
    },
    {
        "toy",
        "gradients",
        "observations",
        "contributions",
        "segmentation",
        "training",
    },
    {"sweeps", "hessian"},
    {"hessian_estimates"},
]


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module == "bspec_jax":
                yield from (f"bspec_jax.{alias.name}" for alias in node.names)
            else:
                yield node.module


def modules():
    """What each module imports, by dotted name; a package's `__init__` by its own."""
    found = {}
    for path in (ROOT / "bspec_jax").rglob("*.py"):
        parts = path.relative_to(ROOT / "bspec_jax").with_suffix("").parts
        name = ".".join(parts if parts[-1] != "__init__" else parts[:-1])
        found[name or "__init__"] = set(imports(path))
    return found


def external(names):
    import sys

    tops = {name.split(".")[0] for name in names}
    return tops - set(sys.stdlib_module_names) - {"bspec_jax"}


def internal(names):
    return {name.split(".")[1] for name in names if name.startswith("bspec_jax.")}


@pytest.mark.parametrize("module", sorted(set(modules()) - {"__init__"}))
def test_each_module_imports_only_what_its_place_allows(module):
    names = modules()[module]
    if module in CORE:
        assert external(names) <= EXTERNAL_OF_CORE
        row = next(i for i, row in enumerate(ORDER) if module in row)
        assert internal(names) <= set().union(*ORDER[:row])
    else:
        top = module.split(".")[0]
        assert external(names) <= MAY_IMPORT[top]
        assert internal(names) <= CORE | {top} | ABOVE.get(top, set())


def test_importing_the_package_needs_no_flax_and_no_matplotlib():
    names = modules()["__init__"]
    assert not external(names)
    assert internal(names) <= CORE


def test_the_library_never_imports_experiments():
    for names in modules().values():
        assert not any(name.startswith("experiments") for name in names)


def test_only_bspec_jax_is_installed():
    import configparser

    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.packages.find"]["include"].split()
    assert patterns == ["bspec_jax", "bspec_jax.*"]
    assert "cuda" not in setup["options"]["install_requires"]


def test_every_module_of_the_library_has_its_tests():
    for module in {name.split(".")[0] for name in modules()} - {"__init__"}:
        assert (ROOT / "tests" / f"test_{module}.py").exists(), module
