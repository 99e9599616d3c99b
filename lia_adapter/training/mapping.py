"""Fits an invertible mapping to a generator's own mapping, on unlimited samples of the latter.

Flows are fitted by likelihood; `dense` by pairs, followed by `calibrate`, which gives its samples the mean and the covariance
of the original's y.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.errors import ConfigError
from lia_adapter.generators import Generator, MappingSampler, dense_stack, in_chunks
from lia_adapter.linalg import covariance_root, symmetric_root
from lia_adapter.loop import Average, History, Job, Microbatch, adam, cosine, run_loop, step_generator
from lia_adapter.mapping import DenseCore, InvertibleMapping
from lia_adapter.progress import Progress
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.flow import FlowFit

__all__ = ["calibrate", "fit_mapping", "pick_coupling"]

_STATISTICS = 2**31  # numbers of random streams that no step has
_SHIFT_WEIGHT, _SPREAD_WEIGHT = 0.1, 0.3  # of the mean and of the covariance in the loss "moments"
_PART = 8192  # samples worked on at once where all would take too much memory
_FIRST_CALIBRATION = 32_768  # samples for the calibration that a dense fit starts with


def pick_coupling(generator: Generator, coupling: str) -> str:
    """Resolves "auto", which is flow.

    Raises:
        ConfigError: dense was asked for and cannot be had.
    """
    if coupling == "auto":
        return "flow"
    if coupling == "dense" and dense_stack(generator) is None:
        raise ConfigError(
            "coupling dense needs a mapping network whose layers all have the width of z and y and leaky ReLUs between them; "
            "this generator's is different. Use coupling=flow (or auto)."
        )
    return coupling


def fit_mapping(
    generator: Generator,
    config: ConvertConfig,
    *,
    device: torch.device,
    state_path: Path | None = None,
    identity: str = "",
    progress: Progress | None = None,
) -> tuple[InvertibleMapping, History]:
    """Fits an invertible mapping.

    Args:
        generator: On `device`; its weights are not changed.
        config: The recipe.
        device: Where to train.
        state_path: See `run_loop`.
        identity: See `run_loop`.
        progress: See `run_loop`.

    Returns:
        The mapping, and its losses a step.
    """
    original, coupling = MappingSampler(generator), pick_coupling(generator, config.coupling)
    fit = _Dense(original, config, device) if coupling == "dense" else FlowFit(coupling, original, config, device)
    steps = config.fit_steps(coupling)
    history = run_loop(
        Job(
            f"fit {coupling}",
            fit.module,
            fit.step,
            fit.optimizer(),
            steps=steps,
            batch=config.batch,
            rate=cosine(steps),
            clip=1.0,
            averages=fit.averages,
        ),
        state_path=state_path,
        identity=identity,
        save_seconds=config.save_seconds,
        progress=progress,
    )
    return fit.finish().requires_grad_(False).eval(), history


class _Dense:
    """Trains the mapping network itself, made invertible by raising its singular values.

    Three losses, all on whitened y. Seeds: the squared error to the original's y for the same z. Moments: the mean and the
    covariance of a batch must be those of the original's batch; a squared error alone would shrink the samples and, worse,
    shift them a little, which `calibrate` would then undo at the price of the third. Reach: the original's y, with a little
    noise, must have a z that the prior knows, log(1 + |φ(y)|² / D). That is what raised singular values alone miss: samples
    lie on a thin sheet, and the original's codes, a little off that sheet, would be thousands of standard deviations away.
    """

    averages: Sequence[Average] = ()

    def __init__(self, original: MappingSampler, config: ConvertConfig, device: torch.device) -> None:
        stack, dim = dense_stack(original.generator), original.dim
        assert stack is not None  # noqa: S101  (pick_coupling saw to it)
        label = {"label_features": stack.label["embed_bias"].shape[0]} if stack.label else {}
        self.original, self.config = original, config
        mapping = InvertibleMapping("dense", dim, original.c_dim, layers=len(stack.weights), alpha=stack.alpha, **label)
        self.mapping = self.module = mapping.to(device)
        self.samples = original.pairs(config.kept_samples, self._random(_STATISTICS))
        y = self.samples[1]
        assert isinstance(mapping.core, DenseCore)  # noqa: S101
        self.core: DenseCore = mapping.core
        core = self.core
        with torch.no_grad():
            for i, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
                core.weights[i].copy_(_raised(weight, config.least_singular))
                core.biases[i].copy_(bias)
            for name, value in stack.label.items():
                getattr(core, name).copy_(value)
            mean, root = covariance_root(y)
            self.mapping.y_mean.copy_(mean)
            self.root, self.whiten = root.to(y), torch.linalg.inv(root).to(y)
        self.base = _Base(_raised(stack.matrix, 1e-6), stack.offset)

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """The losses of one step."""
        if part.step == 0:
            calibrate(self.mapping, self.base, *self.original.pairs(_FIRST_CALIBRATION, self._random(_STATISTICS - 1)))
        random, core, mean = self._random(part.step), self.core, self.mapping.y_mean
        z, y, c = self.original.pairs(self.config.batch, random)
        noise = torch.randn(z.shape, generator=random, device=z.device) * self.config.reach_noise
        drawn = self.mapping.from_core(core.run(z, c)[0], c)
        a, b = (drawn - mean) @ self.whiten, (y - mean) @ self.whiten
        seeds = (a - b).square().mean()
        shift = (a - b).mean(dim=0).square().sum()
        spread = ((a.t() @ a - b.t() @ b) / len(a)).square().sum() / a.shape[1]
        moments = _SHIFT_WEIGHT * shift + _SPREAD_WEIGHT * spread
        found, _ = core.undo(self.mapping.to_core(y + noise @ self.root, c), c)
        reach = (1 + found.square().mean(dim=1)).log().mean()
        loss = seeds + moments + self.config.reach_weight * reach
        return {"loss": loss, "seeds": seeds, "moments": moments, "reach": reach}

    def optimizer(self) -> torch.optim.Adam:
        """Of the weights of the layers."""
        return adam(self.mapping, self.config.dense_learning_rate)

    def finish(self) -> InvertibleMapping:
        """The mapping, calibrated."""
        calibrate(self.mapping, self.base, *self.samples)
        return self.mapping

    def _random(self, number: int) -> torch.Generator:
        return step_generator(self.config.seed, number, self.mapping.offset.device)


def _raised(matrix: Tensor, least: float) -> Tensor:
    """The matrix with singular values of at least `least`, float64."""
    u, s, vt = torch.linalg.svd(matrix.double())
    raised: Tensor = u @ torch.diag(s.clamp(min=least)) @ vt
    return raised


@dataclass(frozen=True)
class _Base:
    """The affine map from the core's u to y that a fit starts with, float64: y = u @ matrix.T + offset + c @ class_shift."""

    matrix: Tensor
    offset: Tensor


@torch.no_grad()
def calibrate(mapping: InvertibleMapping, base: _Base, z: Tensor, y: Tensor, c: Tensor | None) -> None:
    """Measures the steps behind the core, so that samples get the mean, the covariance and the radii of y.

    In three moves: the affine one that is the optimal transport between the two Gaussians (Dowson & Landau 1982), a power
    of the distance from the mean in whitened y, and the affine one again for what the second changed. Each is the smallest
    move that does its work, so that seeds suffer least. The same z on both sides makes most of the sampling error cancel.

    Args:
        mapping: Changed in place; its core and class_shift are kept.
        base: Where the affine moves start from.
        z: Codes of the prior [n, y_dim].
        y: What the original mapping makes of them [n, y_dim].
        c: Labels [n, c_dim], or None.
    """
    u = in_chunks(lambda part, label: mapping.core.to_u(part, label)[0], z, c)
    if c is not None:
        y = y - c @ mapping.class_shift.to(c)
    mean, root = covariance_root(y)
    inverse = torch.linalg.inv(root)

    move, shift = _gaussian_move(u, base.matrix, base.offset, mean, root)
    white = inverse @ move @ base.matrix
    centre = torch.linalg.solve(white, inverse @ (mean - shift - move @ base.offset))
    w = u.sub_(centre.to(u)) @ white.t().to(u)  # v of the mapping, before its radius is changed
    del u

    radii = w.norm(dim=1).double().log()
    wanted = torch.cat([((part - mean.to(y)) @ inverse.to(y)).norm(dim=1) for part in y.split(_PART)]).double().log()
    power = wanted.std() / radii.std()
    scale = (wanted.mean() - power * radii.mean()).exp()
    w.mul_((scale * radii.exp() ** (power - 1)).to(w)[:, None])

    move, shift = _gaussian_move(w, root, mean, mean, root)
    for name, value in (
        ("white", white), ("centre", centre), ("power", power), ("scale", scale),
        ("colour", move @ root), ("offset", move @ mean + shift),
    ):  # fmt: skip
        getattr(mapping, name).copy_(value)


def _gaussian_move(x: Tensor, matrix: Tensor, offset: Tensor, mean: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """The symmetric M and the shift that give y = x @ matrix.T + offset the mean and root of covariance: y @ M + shift."""
    x_mean, x_root = covariance_root(x)
    my_mean, mine = x_mean @ matrix.t() + offset, symmetric_root(matrix @ x_root @ x_root @ matrix.t())
    inverse = torch.linalg.inv(mine)
    move = inverse @ symmetric_root(mine @ root @ root @ mine) @ inverse
    return move, mean - move @ my_mean
