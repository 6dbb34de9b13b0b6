from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from bspec_jax import generator
from bspec_jax.data.streaming import Batch
from bspec_jax.generator import GeneratorSpec
from bspec_jax.generator import training as gt
from bspec_jax.generator.stargan import Discriminator
from bspec_jax.storage import checkpoints, resumable
from bspec_jax.storage.errors import UserError

pytestmark = pytest.mark.slow  # compiles for minutes

CLASSES = ("a", "b", "c")
PLAIN = gt.Recipe(learning_rate=1e-3, batch_size=4, r1_weight=0.5, flip=False, crop=0.0)


SPEC = GeneratorSpec(
    preset="tiny",
    branches=2,
    classes=CLASSES,
    image_shape=(16, 16, 1),
    residual="gaussian",
    sigma=1.0,
    diffusion_step=0.5,
    precision="float32",
)
MODEL = generator.build(SPEC)
JUDGE = Discriminator(2, 4, 3)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 16, 16, 1), np.uint8)
    return images, np.array([2, 0, 1, 0], np.int32)


@cache
def training_by(recipe):
    """Compiled once for all tests."""
    return gt.training(MODEL, JUDGE, recipe)


def made(batch, recipe):
    train = training_by(recipe)
    return train, train.init(jax.random.key(1), *(leaf[:1] for leaf in batch))


def oracle(recipe, state, key, images, labels):
    """Both losses as they are written down, of a step's own classes to aim at."""
    target_key = jax.random.split(jax.random.fold_in(key, state.step), 3)[2]
    targets = jax.random.randint(target_key, labels.shape, 0, 3)
    x, rows = generator.to_signed(jnp.asarray(images)), jnp.arange(len(labels))

    def logit(d, x, labels):
        return JUDGE.apply(d, x)[rows, labels]

    def discriminator_loss(d):
        fake = MODEL.apply(state.generator, x, targets)
        real_term = jnp.log1p(jnp.exp(-logit(d, x, labels))).mean()
        fake_term = jnp.log1p(jnp.exp(logit(d, fake, targets))).mean()
        slopes = [
            jax.grad(lambda one, i=i: JUDGE.apply(d, one[None])[0, labels[i]])(x[i])
            for i in range(len(labels))
        ]
        penalty = jnp.mean(jnp.array([(slope**2).sum() for slope in slopes]))
        return real_term + fake_term + recipe.r1_weight / 2 * penalty

    def generator_loss(g, d):
        fake = MODEL.apply(g, x, targets)
        loss = jnp.log1p(jnp.exp(-logit(d, fake, targets))).mean()
        again = MODEL.apply(g, x, jnp.asarray(labels))
        return loss + recipe.reconstruction_weight * jnp.abs(x - again).mean()

    assert len(set(targets.tolist())) > 1
    return discriminator_loss, generator_loss


def adam_first_step(params, gradient, rate):
    """Adam's first step with b1 = 0 is rate * g / (|g| + eps)."""
    return jax.tree.map(
        lambda p, g: p - rate * g / (jnp.abs(g) + 1e-8), params, gradient
    )


def share_off(tree, other):
    """Share of the parameters that differ after Adam's first step.

    It is the sign of the gradient alone, which noise decides where there is none, as
    for a bias before an instance norm.
    """
    off = jax.tree.map(lambda a, b: np.ravel(jnp.abs(a - b) > 2e-5), tree, other)
    return np.concatenate(jax.tree.leaves(off)).mean()


def test_a_step_is_adam_on_both_losses_at_once(batch):
    recipe = PLAIN._replace(reconstruction_weight=0.7)
    train, state = made(batch, recipe)
    # The average is not what is trained.
    state = state._replace(average=jax.tree.map(lambda a: 2 * a, state.average))
    key = jax.random.key(5)
    before = jax.tree.map(jnp.copy, state)
    of_d, of_g = oracle(recipe, before, key, *batch)
    after, log = train.step(state, key, *batch, True)
    d_loss, d = jax.jit(jax.value_and_grad(of_d))(before.discriminator)
    # The generator moves against the discriminator as it was.
    of_g_and_slope = jax.jit(jax.value_and_grad(of_g))
    g_loss, g = of_g_and_slope(before.generator, before.discriminator)
    moved_loss, _ = of_g_and_slope(before.generator, after.discriminator)
    assert abs(g_loss - moved_loss) > 1e-3
    assert_allclose(log["discriminator_loss"], d_loss, rtol=1e-5)
    assert_allclose(log["generator_loss"], g_loss, rtol=1e-5)
    assert_allclose(log["generator_gradient_norm"], optax.tree.norm(g), rtol=1e-4)
    assert_allclose(log["discriminator_gradient_norm"], optax.tree.norm(d), rtol=1e-4)
    for params, gradient, found in (
        (before.generator, g, after.generator),
        (before.discriminator, d, after.discriminator),
    ):
        assert share_off(adam_first_step(params, gradient, 1e-3), found) < 0.02


def test_the_penalty_can_be_left_out_or_weigh_more(batch):
    train, state = made(batch, PLAIN._replace(r1_every=3))
    _, log = train.step(state, jax.random.key(5), *batch, True)
    plain, state = made(batch, PLAIN)
    _, once = plain.step(state, jax.random.key(5), *batch, True)
    _, state = made(batch, PLAIN)
    _, without = plain.step(state, jax.random.key(5), *batch, False)
    assert_allclose(log["penalty"], 3 * once["penalty"], rtol=1e-5)
    assert without["penalty"] == 0
    penalty = float(once["penalty"])
    assert penalty > 1e-4
    for weighed, times in ((once, 1), (log, 3)):
        more = weighed["discriminator_loss"] - without["discriminator_loss"]
        assert_allclose(more, times * 0.5 / 2 * penalty, rtol=1e-3)
    norms = [entry["discriminator_gradient_norm"] for entry in (once, without)]
    assert norms[0] != norms[1]


def test_parts_of_a_batch_give_what_the_whole_gives(batch):
    recipe = PLAIN._replace(r1_every=3, flip=True, crop=1.0)
    key = jax.random.key(5)
    found = []
    for parts in (1, 2):
        train, state = made(batch, recipe._replace(accumulate=parts))
        found.append(train.step(state, key, *batch, True))
    (whole, log), (split, log_of_parts) = found
    jax.tree.map(partial(assert_allclose, rtol=1e-4), log, log_of_parts)
    for name in ("generator", "discriminator"):
        assert share_off(getattr(whole, name), getattr(split, name)) < 0.02


def test_the_average_follows_the_generator(batch):
    train, state = made(batch, PLAIN._replace(average=0.2))
    average = jax.tree.map(jnp.copy, state.average)
    for step in range(3):
        state, _ = train.step(state, jax.random.key(5), *batch, False)
        kept = min(0.2, (1 + step) / (10 + step))
        average = jax.tree.map(
            lambda a, g, kept=kept: kept * a + (1 - kept) * g, average, state.generator
        )
        jax.tree.map(
            partial(assert_allclose, rtol=1e-5, atol=1e-6), average, state.average
        )


def test_augmentation_draws_anew_in_each_step(batch):
    train, state = made(batch, PLAIN._replace(r1_every=3, flip=True, crop=1.0))
    still, same = made(batch, PLAIN)
    _, log = train.step(state, jax.random.key(5), *batch, False)
    _, plain = still.step(same, jax.random.key(5), *batch, False)
    assert log["discriminator_loss"] != plain["discriminator_loss"]


def endless(batch, start):
    step = start
    while True:
        order = np.random.default_rng(step).permutation(4)
        yield Batch(*(leaf[order] for leaf in batch), np.full(4, -1, np.int32))
        step += 1


def fitted(batch, folder, iterations, recipe=PLAIN, log=None):
    return gt.fit(
        SPEC,
        recipe,
        partial(endless, batch),
        jax.random.key(9),
        folder,
        gt.Schedule(iterations, log_every=2, checkpoint_every=3),
        on_log=lambda state, step, entry: None if log is None else log.append(step),
        on_batch=lambda batch: None,
    )


def test_a_stopped_training_goes_on_bit_for_bit(batch, tmp_path):
    recipe = PLAIN._replace(r1_every=3, flip=True, crop=1.0)
    log = []
    straight = fitted(batch, tmp_path / "a", 5, recipe, log)
    assert log == [2, 3, 4, 5]
    fitted(batch, tmp_path / "b", 3, recipe)
    resumed = fitted(batch, tmp_path / "b", 5, recipe)
    assert int(resumed.step) == 5
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)
    first = jax.tree.leaves(straight.generator)[0]
    assert (first != jax.tree.leaves(straight.average)[0]).any()


def test_a_training_that_diverges_stops_and_keeps_its_checkpoint(batch, tmp_path):
    recipe = PLAIN._replace(learning_rate=1e30)
    with pytest.raises(UserError, match=r"run: \w+ is not finite at step \d"):
        fitted(batch, tmp_path / "run", 20, recipe)
    discriminator = generator.discriminator(SPEC)
    train = gt.training(MODEL, discriminator, recipe)
    like = train.init(jax.random.key(0), *(leaf[:1] for leaf in batch))
    steps = checkpoints.steps(tmp_path / "run")
    assert steps
    for step in steps:
        kept = resumable.restore(tmp_path / "run", step, like)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept))


def test_a_step_is_compiled_once(batch):
    traces = []

    def apply(params, x, labels):
        traces.append(x.shape)
        return MODEL.apply(params, x, labels)

    counted = MODEL._replace(apply=apply)
    train = gt.training(counted, JUDGE, PLAIN)
    state = train.init(jax.random.key(1), *(leaf[:1] for leaf in batch))
    state, _ = train.step(state, jax.random.key(0), *batch, False)
    first = len(traces)
    assert first > 0
    for step in range(1, 4):
        state, _ = train.step(state, jax.random.key(step), *batch, False)
    assert len(traces) == first


def test_the_diffusion_moves_at_a_rate_of_its_own(batch):
    model = generator.build(replace(SPEC, residual="diffusion"))
    train = gt.training(model, JUDGE, PLAIN._replace(velocity_rate=0.2))
    state = train.init(jax.random.key(1), *(leaf[:1] for leaf in batch))
    before = jax.tree.map(jnp.copy, state.generator)
    state, _ = train.step(state, jax.random.key(5), *batch, False)
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b), state.generator, before)
    # Adam's first step is the rate itself, wherever there is a gradient.
    for name, rate in (("branches", 1e-3), ("velocity", 0.2e-3)):
        steps = np.concatenate(
            [np.ravel(leaf) for leaf in jax.tree.leaves(moved[name])]
        )
        assert_allclose(np.quantile(steps[steps > 0], [0.3, 0.9]), rate, rtol=0.05)
