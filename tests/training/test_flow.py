"""The fit of a flow: what it keeps, and what its samples' moments are told by."""

import pytest
import torch

from lia_adapter.config import load_recipe
from lia_adapter.generators import MappingSampler
from lia_adapter.loop import Microbatch
from lia_adapter.training import flow
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.flow import FlowFit
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
