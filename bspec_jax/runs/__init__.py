"""A run of an experiment: its flags, its command line and its folder."""

from bspec_jax.runs.command_line import (
    check_backend,
    check_given,
    command_line,
    naming,
    one_line_when_stopped,
    parse_flags,
    progress_bar,
)
from bspec_jax.runs.config import (
    FlagError,
    RunConfig,
    check_components,
    check_flag,
    check_memory,
    with_paths_expanded,
)
from bspec_jax.runs.folder import (
    SCHEMA,
    UNFINISHED,
    check_data,
    check_experiment,
    check_trained_on,
    conclude,
    load_results,
    new_folder,
    redraw,
    save_figures,
    save_results,
    start,
)
from bspec_jax.runs.provenance import environment

__all__ = [
    "SCHEMA",
    "UNFINISHED",
    "FlagError",
    "RunConfig",
    "check_backend",
    "check_components",
    "check_data",
    "check_experiment",
    "check_flag",
    "check_given",
    "check_memory",
    "check_trained_on",
    "command_line",
    "conclude",
    "environment",
    "load_results",
    "naming",
    "new_folder",
    "one_line_when_stopped",
    "parse_flags",
    "progress_bar",
    "redraw",
    "save_figures",
    "save_results",
    "start",
    "with_paths_expanded",
]
