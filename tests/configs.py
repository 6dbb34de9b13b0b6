"""A small config for tests of runs."""

import dataclasses

from bspec_jax import runs


@dataclasses.dataclass(frozen=True)
class Config(runs.RunConfig):
    size: int = 3
    rates: tuple[float, ...] = (0.1,)

    def check(self):
        super().check()
        runs.check_flag(self, "size", lambda v: v > 0, "positive")
        runs.check_flag(self, "rates", lambda v: v > 0, "positive")
