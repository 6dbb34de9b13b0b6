"""The class-transfer generator (section 7): networks, training, evaluation."""

from bspec_jax.generator.network import (
    MAIN,
    ClassTransfer,
    Decomposition,
    GeneratorSpec,
    Trained,
    build,
    decompose,
    discriminator,
    load,
    shapes,
    to_all_classes,
    to_bytes,
    to_signed,
    transfer,
)

__all__ = [
    "MAIN",
    "ClassTransfer",
    "Decomposition",
    "GeneratorSpec",
    "Trained",
    "build",
    "decompose",
    "discriminator",
    "load",
    "shapes",
    "to_all_classes",
    "to_bytes",
    "to_signed",
    "transfer",
]
