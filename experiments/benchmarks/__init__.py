"""Benchmarks: every speed that is quoted anywhere comes from a module here."""
