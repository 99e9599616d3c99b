"""The fit of a flow: what it keeps, and what its samples' moments are told by."""

import pytest
import torch

from lia_adapter.config import load_recipe
from lia_adapter.generators import MappingSampler
from lia_adapter.training import flow
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.flow import FlowFit
from lia_adapter.training.loop import Microbatch
from tests import toys

CONFIG = load_recipe(ConvertConfig, "convert", toys.QUICK | {"coupling_learning_rate": 2e-3})


def trained(monkeypatch: pytest.MonkeyPatch, farther: bool) -> FlowFit:
    fit = FlowFit("flow", MappingSampler(toys.stylegan().generator), CONFIG, torch.device("cpu"))
    adam = fit.optimizer()
    for step in range(80):
        adam.zero_grad()
        fit.step(Microbatch(step, range(64)))["loss"].backward()
        adam.step()
    fit.average.load_state_dict(fit.core.state_dict())
    distances = iter([2.0, 1.0] if farther else [1.0, 1.0])
    monkeypatch.setattr(flow, "sliced_wasserstein", lambda *_: next(distances))
    monkeypatch.setattr(flow, "_HELD_OUT_CODES", 1000)
    fit.finish()
    return fit


def test_samples_that_are_farther_from_y_are_not_taken_whatever_their_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    start = {name: value.clone() for name, value in trained(monkeypatch, farther=True).start.items() if name != "rotation"}
    kept, taken = (trained(monkeypatch, farther).average.state_dict() for farther in (True, False))
    assert all(torch.equal(kept[name], value) for name, value in start.items())
    assert any(not torch.equal(taken[name], value) for name, value in start.items())


def test_large_components_learn_three_times_as_fast() -> None:
    fit = FlowFit("flow", MappingSampler(toys.stylegan().generator), CONFIG, torch.device("cpu"))
    small, large = fit.optimizer().param_groups
    assert large["lr"] == pytest.approx(3 * small["lr"])
    assert len(small["params"]) + len(large["params"]) == len(list(fit.core.parameters()))


def test_moving_moments_point_from_where_samples_are_to_where_they_should_be() -> None:
    drawn = flow._Drawn(4)
    random = torch.Generator().manual_seed(0)
    scale = torch.tensor([1.3, 1.0, 0.8, 1.0], requires_grad=True)
    shift = torch.tensor([0.0, 0.5, 0.0, 0.0], requires_grad=True)
    for _ in range(300):
        far, towards = drawn.apart(torch.randn(512, 4, generator=random) * scale + shift)
    expected = (0.5**2 + (1.69 - 1) ** 2 + (0.64 - 1) ** 2 + 0.5**4) / 4  # second moments are about 0
    assert float(far) == pytest.approx(expected, abs=0.03)
    of_scale, of_shift = torch.autograd.grad(towards, [scale, shift])
    assert of_scale[0] > 0.1 and of_scale[2] < -0.1 and of_scale[3].abs() < 0.1
    assert of_shift[1] > 0.1 and of_shift[[0, 2, 3]].abs().max() < 0.1
