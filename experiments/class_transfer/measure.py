"""What `results.json` holds of a trained generator."""

from functools import partial

from bspec_jax import generator
from bspec_jax.analysis import observations
from bspec_jax.data import Selection
from bspec_jax.generator import evaluation
from bspec_jax.generator.network import GeneratorSpec
from bspec_jax.generator.recogniser import Recogniser
from bspec_jax.generator.training import TrainState
from bspec_jax.storage import checkpoints, files
from experiments.class_transfer import fid
from experiments.class_transfer.config import Config
from experiments.class_transfer.pictures import save_held_out
from experiments.class_transfer.training import unreadable


def measure(
    config: Config,
    data: Selection,
    spec: GeneratorSpec,
    recogniser: Recogniser,
    state: TrainState,
) -> dict:
    """The results of a run; also saves the pictures that its figures show."""
    model = generator.build(spec)
    folder = config.workdir / "checkpoints" / generator.MAIN
    (initial,) = checkpoints.restore(folder, 0, model=state.average)
    save_held_out(config, data, model, state.average)
    weights = config.inception_weights
    measured = evaluation.analyse(
        model,
        state.average,
        initial,
        data,
        recogniser,
        config.diffusion_step,
        partial(fid.fid, weights=weights) if weights else None,
    )
    records = measured.pop("observations")
    return {
        "classes": data.class_names,
        **measured,
        "sigma": spec.sigma if spec.residual == "gaussian" else None,
        "parameters": evaluation.count_parameters(state.average, state.discriminator),
        "unreadable": unreadable(config, data),
        "curves": files.read_metrics(config.workdir),
        "findings": observations.findings("generator", setting(config), records),
    }


def setting(config: Config) -> str:
    """The data, the residual and the number of networks, in words."""
    return f"{config.dataset} with {config.residual} R, M = {config.branches}, x 1"
