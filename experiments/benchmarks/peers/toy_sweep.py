"""Gradient descent on the toys, batched by hand over trials and as modules."""

from collections.abc import Iterator

import numpy as np
import torch

from bspec_jax import toys
from bspec_jax.toys import sweeps

CHECK = 100  # steps between checks for convergence


def trials_by_size(trials: sweeps.Trials) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yields the trials of each M: w, b `[M, T]` and x, y `[N, T]`.

    Trials last is PyTorch's fastest layout, too: three times as fast as trials first.
    """
    for m in np.unique(trials.num_branches).tolist():
        of_m = trials.select(trials.num_branches == m)
        columns = (of_m.w[:m], of_m.b[:m], of_m.x, of_m.y)
        yield tuple(torch.from_numpy(np.ascontiguousarray(c)) for c in columns)


def residual(w, b, x, y, slope):
    """Pre-activations and the error of the sum, f - y."""
    z = torch.addcmul(b, w, x[:, None])
    return z, torch.nn.functional.leaky_relu(z, slope).sum(1) - y


def step(w, b, x, y, rate, slope):
    """Eq. 5 by hand, which is faster than autograd."""
    z, error = residual(w, b, x, y, slope)
    g = torch.where(z >= 0, error[:, None], (slope * error)[:, None])
    w.sub_((g * x[:, None]).sum(0), alpha=rate)
    b.sub_(g.sum(0), alpha=rate)


def squared_errors(w, b, x, y, slope):
    return (residual(w, b, x, y, slope)[1] ** 2).sum(0)


@torch.no_grad()
def all_steps(
    trials: sweeps.Trials, steps: int, rate: float, slope: float
) -> list[float]:
    """Success rate for each M; every trial takes all steps."""
    rates = []
    for batch in trials_by_size(trials):
        for _ in range(steps):
            step(*batch, rate, slope)
        converged = squared_errors(*batch, slope) < toys.TOLERANCE
        rates.append(float(converged.float().mean()))
    return rates


@torch.no_grad()
def stopping(
    trials: sweeps.Trials, steps: int, rate: float, slope: float
) -> list[float]:
    """Success rate for each M; converged trials are dropped at each check."""
    rates = []
    for batch in trials_by_size(trials):
        total = batch[0].shape[1]
        for _ in range(steps // CHECK):
            for _ in range(CHECK):
                step(*batch, rate, slope)
            left = squared_errors(*batch, slope) >= toys.TOLERANCE
            if not left.all():
                batch = tuple(column[:, left] for column in batch)
            if not left.any():
                break
        rates.append(1 - batch[0].shape[1] / total)
    return rates


class Toy(torch.nn.Module):
    """One network, as one would write it first."""

    def __init__(self, w, b, slope):
        super().__init__()
        self.w, self.b = torch.nn.Parameter(w), torch.nn.Parameter(b)
        self.slope = slope

    def forward(self, x):
        z = self.w[:, None] * x + self.b[:, None]
        return torch.nn.functional.leaky_relu(z, self.slope).sum(0)


def module_loop(
    trials: sweeps.Trials, count: int, steps: int, rate: float, slope: float
) -> None:
    """Trains `count` trials with autograd and SGD, evenly spaced over the table."""
    for t in np.linspace(0, trials.error.size - 1, count).astype(int):
        m = trials.num_branches[t]
        w, b, x, y = (
            torch.from_numpy(a.copy())
            for a in (trials.w[:m, t], trials.b[:m, t], trials.x[:, t], trials.y[:, t])
        )
        model = Toy(w, b, slope)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = 0.5 * ((model(x) - y) ** 2).sum()
            loss.backward()
            optimizer.step()


def version() -> str:
    return torch.__version__


def num_threads() -> int:
    return torch.get_num_threads()
