"""Benchmarks, a module each; every speed quoted anywhere comes from one of them."""
