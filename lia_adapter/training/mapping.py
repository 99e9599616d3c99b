"""Fits an invertible mapping to a generator's own mapping, on unlimited samples of the latter.

Every fit is followed by `calibrate`, which gives the samples the exact mean and covariance of the original's y.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lia_adapter.errors import ConfigError
from lia_adapter.generators import Generator, MappingSampler, dense_stack, in_chunks
from lia_adapter.linalg import covariance_root, procrustes, symmetric_root
from lia_adapter.mapping import DenseCore, InvertibleMapping
from lia_adapter.metrics.distances import sliced_wasserstein
from lia_adapter.progress import Progress
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.loop import History, Job, Microbatch, adam, cosine, run_loop, step_generator

__all__ = ["calibrate", "fit_mapping", "pick_coupling"]

_STATISTICS = 2**31  # numbers of random streams that no step has
_SHIFT_WEIGHT, _SPREAD_WEIGHT = 0.1, 0.3  # of the mean and of the covariance in the loss "moments"
_PART = 8192  # samples worked on at once where all would take too much memory
_FIRST_CALIBRATION = 32_768  # samples for the calibration that a dense fit starts with


def pick_coupling(generator: Generator, coupling: str) -> str:
    """Resolves "auto": dense where the generator's mapping is a stack of square layers with a bijective activation.

    Raises:
        ConfigError: dense was asked for and cannot be had.
    """
    fits = dense_stack(generator) is not None
    if coupling == "auto":
        return "dense" if fits else "affine"
    if coupling == "dense" and not fits:
        raise ConfigError(
            "coupling dense needs a mapping network whose layers all have the width of z and y and leaky ReLUs between them; "
            "this generator's is different. Use coupling=affine (or auto)."
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
    original = MappingSampler(generator)
    z, y, c = original.pairs(config.statistics_samples, step_generator(config.seed, _STATISTICS, device))
    coupling = pick_coupling(generator, config.coupling)
    job = (_Dense if coupling == "dense" else _Likelihood)(coupling, original, config, z, y, c)
    history = run_loop(
        Job(
            f"fit {coupling}",
            job.mapping,
            job.step,
            adam(job.mapping, job.learning_rate),
            steps=config.steps,
            batch=config.batch,
            rate=cosine(config.steps),
            clip=1.0,
        ),
        state_path=state_path,
        identity=identity,
        save_seconds=config.save_seconds,
        progress=progress,
    )
    job.mapping.requires_grad_(False).eval()
    job.finish(z, y, c)
    calibrate(job.mapping, job.base, z, y, c)
    return job.mapping, history


class _Dense:
    """Trains the mapping network itself, made invertible by raising its singular values.

    Three losses, all on whitened y. Seeds: the squared error to the original's y for the same z. Moments: the mean and the
    covariance of a batch must be those of the original's batch; a squared error alone would shrink the samples and, worse,
    shift them a little, which `calibrate` would then undo at the price of the third. Reach: the original's y, with a little
    noise, must have a z that the prior knows, log(1 + |φ(y)|² / D). That is what raised singular values alone miss: samples
    lie on a thin sheet, and the original's codes, a little off that sheet, would be thousands of standard deviations away.
    """

    def __init__(
        self, coupling: str, original: MappingSampler, config: ConvertConfig, z: Tensor, y: Tensor, c: Tensor | None
    ) -> None:
        stack, dim = dense_stack(original.generator), original.dim
        assert stack is not None  # noqa: S101  (pick_coupling saw to it)
        label = {"label_features": stack.label["embed_bias"].shape[0]} if stack.label else {}
        self.original, self.config, self.learning_rate = original, config, config.dense_learning_rate
        mapping = InvertibleMapping(
            coupling, dim, original.c_dim, layers=len(stack.weights), alpha=stack.alpha, **label
        )  # fmt: skip
        self.mapping = mapping.to(y.device)
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

    def finish(self, z: Tensor, y: Tensor, c: Tensor | None) -> None:
        """Nothing is left to do."""

    def _random(self, number: int) -> torch.Generator:
        return step_generator(self.config.seed, number, self.root.device)


def _raised(matrix: Tensor, least: float) -> Tensor:
    """The matrix with singular values of at least `least`, float64."""
    u, s, vt = torch.linalg.svd(matrix.double())
    raised: Tensor = u @ torch.diag(s.clamp(min=least)) @ vt
    return raised


class _Likelihood:
    """Whitening with the Procrustes rotation, couplings that start as the identity, and maximum likelihood.

    A falling loss is no proof: y lies on a surface of one dimension less, where likelihood can grow for ever while the
    samples get worse. So `finish` looks at fresh samples and takes the couplings back if they made things worse.
    """

    def __init__(
        self, coupling: str, original: MappingSampler, config: ConvertConfig, z: Tensor, y: Tensor, c: Tensor | None
    ) -> None:
        self.original, self.config = original, config
        self.mapping = mapping = InvertibleMapping(coupling, original.dim, original.c_dim).to(y.device)
        self.learning_rate = config.coupling_learning_rate * mapping.core.weight_scale
        self.start = {name: tensor.clone() for name, tensor in mapping.core.state_dict().items()}
        mapping.y_mean.copy_(y.mean(dim=0))
        if c is not None:  # class means; for labels that are not one-hot, the linear regression of y on c
            mapping.class_shift.copy_(torch.linalg.pinv(c.double()) @ (y - mapping.y_mean).double())
            y = y - c @ mapping.class_shift
        mean, root = covariance_root(y)
        u = torch.linalg.solve(root, (y.double() - mean).t()).t()
        # y = mean + (z @ R) @ root for the rotation R that brings z nearest to whitened y.
        self.base = _Base((procrustes(z, u) @ root).t(), mean)
        mapping.colour.copy_(self.base.matrix)
        mapping.offset.copy_(mean)

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """The loss of one step: nats a dimension, up to what is constant."""
        _, y, c = self.original.pairs(self.config.batch, self._random(part.step))
        z, log_det = self.mapping.core.to_z(self.mapping.to_core(y, c), c)
        return {"loss": (0.5 * z.square().sum(dim=1) - log_det).mean() / self.original.dim}

    def finish(self, z: Tensor, y: Tensor, c: Tensor | None) -> None:
        """Takes couplings back that made the samples worse, and turns z towards the seeds: a Gaussian stays one.

        The rotation is found on the many samples that the first one was found on; few would turn it at random.
        """
        mapping, core = self.mapping, self.mapping.core
        assert not isinstance(core, DenseCore)  # noqa: S101
        reference = self.original.pairs(self.config.eval_samples, self._random(_STATISTICS - 1))
        again, _, c_again = self.original.pairs(self.config.eval_samples, self._random(_STATISTICS - 2))
        trained = {name: tensor.clone() for name, tensor in mapping.core.state_dict().items()}
        distances = []
        for state in (self.start, trained):
            mapping.core.load_state_dict(state)
            calibrate(mapping, self.base, *reference)
            distances.append(sliced_wasserstein(reference[1], in_chunks(mapping.to_y, again, c_again)))
        if distances[0] < distances[1]:
            mapping.core.load_state_dict(self.start)
        calibrate(mapping, self.base, z, y, c)
        rotation = procrustes(in_chunks(mapping.to_z, y, c), z)
        core.rotation.copy_(core.rotation.double() @ rotation)

    def _random(self, number: int) -> torch.Generator:
        return step_generator(self.config.seed, number, self.mapping.colour.device)


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
