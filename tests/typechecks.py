"""Calls as a user makes them, without the run-time type checks of the tests."""

from contextlib import contextmanager

from jaxtyping import config


@contextmanager
def without_type_checks():
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)
