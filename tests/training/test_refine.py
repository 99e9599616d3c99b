"""Adversarial refinement: each loss against its formula in float64, who learns from what, and that all else stays as it was."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lia_adapter.config import load_recipe
from lia_adapter.data import ImageSet, Stream, open_images
from lia_adapter.generators import MappingSampler, fingerprint
from lia_adapter.lia import LIA
from lia_adapter.loop import History, Job, Microbatch
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.training import refine
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.refine import refine_mapping
from tests import toys

N = 16  # samples a step


def config(**changes: Any) -> ConvertConfig:
    return load_recipe(ConvertConfig, "convert", toys.QUICK | {"refine_steps": 3, "refine_learning_rate": 1e-3} | changes)


@pytest.fixture
def lia() -> LIA:
    return toys.with_encoder(toys.stylegan())


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    return open_images(toys.pictures(tmp_path_factory.mktemp("data"), 20), (8, 8), 3)


def refined(lia: LIA, images: ImageSet, **changes: Any) -> History:
    assert lia.mapping is not None and lia.discriminator is not None
    return refine_mapping(lia.generator, lia.discriminator, lia.mapping, images, config(**changes))


class Seen:
    """The job of a refinement, and what went through its networks."""

    job: Job

    def __init__(self, lia: LIA, images: ImageSet, patch: pytest.MonkeyPatch) -> None:
        self.z, self.pixels, self.y = list[Tensor](), list[Tensor](), list[Tensor]()
        self.lia = lia

        def keep(kept: list[Tensor], owner: type, name: str, which: Callable[[Any, Any], Tensor]) -> None:
            whole = getattr(owner, name)

            def spy(*args: Any, **kwargs: Any) -> Any:
                answer = whole(*args, **kwargs)
                kept.append(which(args, answer).detach().clone())
                return answer

            patch.setattr(owner, name, spy)

        def run_loop(job: Job, **_: Any) -> History:
            self.job = job
            assert all(parameter.requires_grad for parameter in job.module.parameters())
            return {}

        keep(self.z, InvertibleMapping, "to_y", lambda args, answer: args[1])
        keep(self.pixels, Stream, "batch", lambda args, answer: answer[0])
        keep(self.y, MappingSampler, "pairs", lambda args, answer: answer[1])
        patch.setattr(refine, "run_loop", run_loop)
        refined(lia, images)
        self.job.module.requires_grad_(True)  # which ends with the run

    def step(self, number: int, numbers: range | None = None) -> dict[str, Tensor]:
        """The losses of a step, whose networks get no gradient yet; what it used is the last that was seen."""
        self.z.clear()
        numbers = range(number * N, (number + 1) * N) if numbers is None else numbers
        with torch.enable_grad():
            return dict(self.job.step(Microbatch(number, numbers)))

    def move(self) -> None:
        """Moves the mapping that learns away from where it was."""
        random = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in self.job.module.get_submodule("mapping").parameters():
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=random))


@pytest.fixture
def seen(lia: LIA, images: ImageSet, monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(lia, images, monkeypatch)


def softplus(x: Tensor) -> Tensor:
    return torch.log(1 + x.exp())


def reference(seen: Seen, before: InvertibleMapping) -> tuple[dict[str, Tensor], InvertibleMapping, nn.Module]:
    """The losses in float64, from the formulas; and the mapping and the discriminator whose gradients they have."""
    lia = seen.lia
    assert lia.mapping is not None
    mapping = copy.deepcopy(lia.mapping).double()
    mapping.core.requires_grad_(True)
    judge = copy.deepcopy(seen.job.module.get_submodule("discriminator")).double().requires_grad_(True)
    synthesis = copy.deepcopy(lia.generator).double().synthesis
    z, real = seen.z[0].double(), (seen.pixels[-1].double() / 127.5 - 1).requires_grad_(True)
    with torch.enable_grad():
        y = mapping.to_y(z)
        fake = synthesis(y[:, None].expand(-1, lia.generator.num_ws, -1))
        on_fake, on_real = judge(fake), judge(real)
        (slope,) = torch.autograd.grad(on_real.sum(), real, create_graph=True)
        # Whitened with the covariance of the original's codes: the distance of Mahalanobis.
        codes = seen.y[0].double()
        centred = codes - codes.mean(dim=0)
        precision = torch.linalg.inv(centred.T @ centred / len(codes))
        moved = y - before.double().to_y(z)
        stay = torch.einsum("ni,ij,nj->n", moved, precision, moved).mean() / y.shape[1]
        losses = {
            "fool": softplus(-on_fake).mean(), "tell": softplus(judge(fake.detach())).mean() + softplus(-on_real).mean(),
            "stay": stay, "r1": 5 * (slope**2).sum(dim=(1, 2, 3)).mean(),
        }  # fmt: skip
    return losses, mapping, judge


@pytest.mark.parametrize("number", [0, 2])
def test_losses_are_their_formulas(seen: Seen, number: int) -> None:
    """Non-saturating logistic losses, R1 with gamma 10, and how far whitened codes have moved."""
    before = copy.deepcopy(seen.lia.mapping)
    assert before is not None
    assert seen.step(number)["refine/moved"] == 0
    seen.move()
    found = seen.step(number)
    expected, mapping, judge = reference(seen, before)
    for name, key in (("refine/G", "fool"), ("refine/D", "tell"), ("refine/moved", "stay")):
        assert found[name].item() == pytest.approx(expected[key].item(), rel=1e-3), name
    assert expected["stay"] > 1e-4
    assert found["loss"].item() == pytest.approx(sum(value.item() for value in expected.values()), rel=1e-3)
    # The mapping learns from two of them, the discriminator from the other two.
    found["loss"].backward()
    (expected["fool"] + expected["stay"]).backward(retain_graph=True)
    compare(seen.job.module.get_submodule("mapping"), mapping.get_submodule("core"))
    judge.zero_grad()
    (expected["tell"] + expected["r1"]).backward()
    compare(seen.job.module.get_submodule("discriminator"), judge)


def compare(found: nn.Module, expected: nn.Module) -> None:
    gradients = []
    for module in (found, expected):
        gradients.append(torch.cat([p.grad.double().flatten() for p in module.parameters() if p.grad is not None]))
    assert gradients[0].shape == gradients[1].shape and gradients[1].norm() > 0
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[1].norm()


def test_a_step_is_a_function_of_its_number(seen: Seen) -> None:
    """So that a run that is resumed sees what one from the start sees."""
    seen.move()
    whole = seen.step(2)
    z, pixels = seen.z[0], seen.pixels[-1]
    assert not torch.equal(z, (seen.step(1), seen.z[0])[1])
    assert {name: value.item() for name, value in seen.step(2).items()} == {name: value.item() for name, value in whole.items()}
    # Parts have their shares of the same z and images.
    parts = [seen.step(2, numbers) | {"z": seen.z[0], "x": seen.pixels[-1]} for numbers in (range(32, 40), range(40, 48))]
    assert torch.equal(torch.cat([part["z"] for part in parts]), z)
    assert torch.equal(torch.cat([part["x"] for part in parts]), pixels)
    moved = sum(part["refine/moved"].item() for part in parts) / 2
    assert moved == pytest.approx(whole["refine/moved"].item(), rel=1e-5)


def test_what_does_not_learn_stays_as_it_was(lia: LIA, images: ImageSet) -> None:
    assert lia.mapping is not None and lia.discriminator is not None
    networks = (lia.generator, lia.discriminator)
    before = [fingerprint(network) for network in networks]
    mapping = {name: tensor.clone() for name, tensor in lia.mapping.state_dict().items()}
    told: list[tuple[str, int, int]] = []
    history = refine_mapping(*networks, lia.mapping, images, config(), progress=lambda *what: told.append(what))
    assert [fingerprint(network) for network in networks] == before
    assert not any(p.requires_grad or p.grad is not None for network in networks for p in network.parameters())
    assert not any(p.requires_grad for p in lia.mapping.parameters())
    changed = {name for name, tensor in lia.mapping.state_dict().items() if not torch.equal(tensor, mapping[name])}
    assert changed and all(name.startswith("core.") for name in changed)
    assert set(history) == {"refine/G", "refine/D", "refine/moved"}
    assert all(len(values) == 3 for values in history.values())
    assert history["refine/moved"][0] == 0 < history["refine/moved"][2]
    assert (told[0], told[-1]) == (("refine", 0, 3 * N), ("refine", 3 * N, 3 * N))


def test_a_seed_gives_the_same_bits_and_another_seed_others(images: ImageSet) -> None:
    made = []
    for seed in (0, 0, 1):
        lia = toys.with_encoder(toys.stylegan())
        made.append((refined(lia, images, seed=seed), fingerprint(lia.get_submodule("mapping"))))
    assert made[0] == made[1] != made[2]


def test_no_steps_change_nothing(lia: LIA, images: ImageSet) -> None:
    assert lia.mapping is not None
    before = fingerprint(lia.mapping)
    assert refined(lia, images, refine_steps=0) == {} and fingerprint(lia.mapping) == before
