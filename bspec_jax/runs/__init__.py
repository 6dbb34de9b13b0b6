"""A run of an experiment: its flags, its command line and its folder."""

from bspec_jax.runs.command_line import command_line, parse_flags, progress_bar
from bspec_jax.runs.config import (
    FlagError,
    RunConfig,
    check_components,
    check_flag,
    check_memory,
)
from bspec_jax.runs.folder import (
    SCHEMA,
    UNFINISHED,
    check_data,
    check_experiment,
    conclude,
    environment,
    load_results,
    new_folder,
    redraw,
    save_figures,
    save_results,
    start,
)

__all__ = [
    "SCHEMA",
    "UNFINISHED",
    "FlagError",
    "RunConfig",
    "check_components",
    "check_data",
    "check_experiment",
    "check_flag",
    "check_memory",
    "command_line",
    "conclude",
    "environment",
    "load_results",
    "new_folder",
    "parse_flags",
    "progress_bar",
    "redraw",
    "save_figures",
    "save_results",
    "start",
]
