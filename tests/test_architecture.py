"""The layout: packages import downwards only, and the tests mirror them."""

import ast
import configparser
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# From the bottom to the top; a package imports from those above it in this list only.
# The modules of bspec_jax that are in no package are the core.
PACKAGES = [
    "core",
    "storage",
    "analysis",
    "toys",
    "components",
    "data",
    "classifier",
    "generator",
    "runs",
    "figures",
    "experiments",
]
# What only some packages may import, besides the standard library.
RESERVED = {
    "flax": {"core", "classifier", "generator", "experiments"},  # core: adapters
    "matplotlib": {"figures", "experiments"},
    "optax": {"classifier", "generator", "experiments"},
    "orbax": {"storage"},
    "PIL": {"data", "experiments"},
    "scipy": {"analysis", "classifier", "components", "generator", "experiments"},
    "tqdm": {"runs", "experiments"},
    "tyro": {"runs", "data", "experiments"},
}
# Figures draw and compute nothing: of the library they know a type of pictures only.
FIGURES_IMPORT = {"figures", "components"}


def modules():
    """Path and imports of each module, by dotted name."""
    found = {}
    for folder in ("bspec_jax", "experiments"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return {name: (path, set(imports(path))) for name, path in found.items()}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


MODULES = modules()


def package_of(name):
    """The package of a module; None for `bspec_jax` itself and what is not ours."""
    top, *rest = name.split(".")
    if top == "experiments":
        return top
    if top != "bspec_jax" or not rest:
        return None
    return rest[0] if rest[0] in PACKAGES else "core"


def internal(names):
    """Of some imported names those of our packages."""
    return {package_of(name) for name in names} - {None}


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"bspec_jax"}))
def test_packages_import_downwards_only(module):
    _, names = MODULES[module]
    package = package_of(module)
    allowed = set(PACKAGES[: PACKAGES.index(package) + 1])
    if package == "figures":
        allowed = FIGURES_IMPORT
    assert internal(names) <= allowed
    assert "experiments" not in internal(names) or package == "experiments"
    for library, packages in RESERVED.items():
        if library in {name.split(".")[0] for name in names}:
            assert package in packages, f"{module} imports {library}"


def test_the_core_needs_jax_and_numpy_alone():
    ours = {"jax", "numpy", "jaxtyping", "bspec_jax"} | set(sys.stdlib_module_names)
    for module, (_, names) in MODULES.items():
        if package_of(module) == "core" and module != "bspec_jax.adapters":
            assert {name.split(".")[0] for name in names} <= ours, module


def test_modules_have_no_cycle():
    """Within a package too; a package's own `__init__` may collect its modules."""
    edges = {
        module: {name for name in names if name in MODULES and name != module}
        for module, (path, names) in MODULES.items()
        if path.name != "__init__.py"
    }
    done = set()

    def visit(module, above):
        assert module not in above, " -> ".join([*above, module])
        if module not in done:
            for other in edges.get(module, ()):
                visit(other, (*above, module))
            done.add(module)

    for module in edges:
        visit(module, ())


def test_importing_the_package_needs_no_flax_and_no_matplotlib():
    _, names = MODULES["bspec_jax"]
    assert internal(names) <= {"core", "analysis"}
    assert not [name for name in names if not name.startswith("bspec_jax")]


def test_only_bspec_jax_is_installed():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    patterns = setup["options.packages.find"]["include"].split()
    assert patterns == ["bspec_jax", "bspec_jax.*"]
    assert "cuda" not in setup["options"]["install_requires"]


def test_every_package_has_its_tests():
    tests = ROOT / "tests"
    for package in PACKAGES[1:]:
        assert list((tests / package).glob("test_*.py")), package
    for module in MODULES:
        if package_of(module) == "core":
            name = module.split(".")[1]
            assert (tests / f"test_{name}.py").exists(), module


def test_every_folder_of_modules_is_a_package():
    for folder in ("bspec_jax", "experiments"):
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path
