"""Branched image classifiers (section 6): networks, training, what branches say."""

from bspec_jax.classifier.network import (
    MAIN,
    Classifier,
    ClassifierSpec,
    Pixels,
    build,
    calibrate,
    forward_flops,
    load,
    predict,
)

__all__ = [
    "MAIN",
    "Classifier",
    "ClassifierSpec",
    "Pixels",
    "build",
    "calibrate",
    "forward_flops",
    "load",
    "predict",
]
