"""Where a run's numbers come from: versions, device, settings of JAX and commit."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from bspec_jax.storage.errors import UserError
from bspec_jax.storage.files import read_json, to_json

ENVIRONMENT = "environment.json"
JAX_SETTINGS = (
    "jax_enable_x64",
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_threefry_partitionable",
    "jax_random_seed_offset",
)
PACKAGES = ("bspec_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict:
    """Versions, device, commit and command: where a number comes from."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    device = jax.devices()[0]
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": platform.platform(),
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cpus": os.cpu_count(),
        "jax_settings": _jax_settings(),
        "commit": _commit(),
        "command": _command(),
    }


def _command() -> list[str]:
    """The command as typed, without the path of this checkout."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return ["python", Path(sys.argv[0]).name, *sys.argv[1:]]
    return ["python", "-m", spec.name.removesuffix(".__main__"), *sys.argv[1:]]


def _jax_settings() -> dict[str, Any]:
    """The settings of JAX that change numbers."""
    return {name: to_json(getattr(jax.config, name, None)) for name in JAX_SETTINGS}


def _commit() -> str | None:
    """The checkout's commit, with "+changes" if its files differ.

    None for an installed copy, even inside the repository of another project.
    """
    here = Path(__file__).resolve()

    def ask(*words):
        call = [git, "-C", str(here.parent), *words]
        answer = subprocess.run(call, capture_output=True, text=True, check=False)
        return answer.stdout.strip()

    if not (git := shutil.which("git")) or not ask("ls-files", here.name):
        return None
    return ask("describe", "--always", "--abbrev=40", "--dirty=+changes") or None


def check_jax_settings(workdir: Path) -> None:
    """Raises UserError if settings of JAX that change numbers are not the run's.

    A run without a record of them passes.
    """
    path = workdir / ENVIRONMENT
    if not path.exists():
        return
    advice = "; move it away to go on without a comparison of the settings of JAX"
    settings = read_json(path, "environment", advice).get("jax_settings") or {}
    for key, now in _jax_settings().items():
        if settings.get(key, now) != now:
            raise UserError(
                f"the run in {workdir} was started with {key} = {settings[key]}, which "
                f"is {now} here and changes numbers: set {key.upper()}={settings[key]}"
            )
