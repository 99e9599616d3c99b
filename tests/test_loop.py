"""The training loop on a job of a few numbers: what it saves and resumes, averages, accumulates, tells and refuses."""

import copy
import dataclasses
import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lia_adapter.errors import ConfigError, LIAError
from lia_adapter.loop import Average, History, Job, Microbatch, adam, cosine, run_loop, step_generator
from lia_adapter.progress import Progress

STEPS, BATCH = 20, 8
X = torch.randn(STEPS * BATCH, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
CPU = torch.device("cpu")


class Toy(nn.Module):
    """A line that learns, and its moving average."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
        self.average = copy.deepcopy(self.net).requires_grad_(False)

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        """Two losses of the samples of these numbers, each a mean over them."""
        x = X[list(part.numbers)]
        y = self.net(x)
        pixel, size = (y - x[:, :2].sin()).square().mean(), y.abs().mean()
        return {"loss": pixel + 0.1 * size, "pixel": pixel, "size": size}


def job(toy: Toy, **changes: Any) -> Job:
    given: dict[str, Any] = {
        "name": "toy", "module": toy, "step": toy.step, "optimizer": adam(toy.net, 0.05), "steps": STEPS, "batch": BATCH,
        "rate": cosine(STEPS, warm_up=3), "averages": [Average(toy.net, toy.average, 40.0)], "tick_steps": 3,
    }  # fmt: skip
    return Job(**(given | changes))


def same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Killed(Exception):
    pass


def killer(at: int | None) -> Progress:
    def progress(name: str, done: int, total: int | None) -> None:
        if done == at:
            raise Killed

    return progress


# -- killed and resumed


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_killed_run_goes_on_to_the_same_bits(tmp_path: Path, accumulate: int) -> None:
    """Killed twice, within a tick: weights, averages, moments and losses end the same."""
    whole, changes = Toy(), {"accumulate": accumulate, "clip": 0.5}
    history = run_loop(job(whole, **changes), state_path=tmp_path / "whole", save_seconds=0.0)
    path, begun = tmp_path / "killed", list[int]()
    for at in (7, 13):
        with pytest.raises(Killed):
            run_loop(
                job(Toy(), **changes), state_path=path, save_seconds=0.0, progress=killer(at), resumed=begun.append
            )  # fmt: skip
    resumed = Toy()
    assert run_loop(job(resumed, **changes), state_path=path, save_seconds=0.0, resumed=begun.append) == history
    assert begun == [0, 7, 13]
    assert same(whole.state_dict(), resumed.state_dict())
    states = load_file(tmp_path / "whole"), load_file(path)
    assert same(*states) and any("exp_avg_sq" in name for name in states[0])
    # A run that is over is not trained any further.
    again = Toy()
    assert run_loop(job(again, **changes), state_path=path, progress=killer(0)) == history
    assert same(whole.state_dict(), again.state_dict())


def test_an_interrupt_waits_for_the_step_and_saves_it(tmp_path: Path) -> None:
    """Ctrl-C in the middle of step 5, long before a save is due: the run ends behind that step, and goes on from there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell lets what runs in the background ignore it
    whole, halted, resumed = Toy(), Toy(), Toy()
    history = run_loop(job(whole))
    ended: list[int] = []

    def step(part: Microbatch) -> dict[str, Tensor]:
        if part.step == 5:
            os.kill(os.getpid(), signal.SIGINT)
        losses = halted.step(part)
        ended.append(part.step)
        return losses

    with pytest.raises(KeyboardInterrupt):
        run_loop(job(halted, step=step), state_path=tmp_path / "state", save_seconds=1e9)
    assert ended == [0, 1, 2, 3, 4, 5]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    begun: list[int] = []
    assert run_loop(job(resumed), state_path=tmp_path / "state", resumed=begun.append) == history
    assert begun == [6] and same(whole.state_dict(), resumed.state_dict())


def test_saves_keep_their_distance_and_the_end_is_saved(tmp_path: Path) -> None:
    path, seen = tmp_path / "state", list[bool]()
    run_loop(job(Toy()), state_path=path, save_seconds=1e9, progress=lambda *_: seen.append(path.exists()))
    assert seen == [False] * STEPS + [True]


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state of a run that was killed after 7 steps."""
    path = tmp_path_factory.mktemp("begun") / "state.safetensors"
    with pytest.raises(Killed):
        run_loop(job(Toy()), state_path=path, identity="mine", save_seconds=0.0, progress=killer(7))
    return path


@pytest.fixture(scope="module")
def fresh() -> tuple[History, Mapping[str, Tensor]]:
    """What a run from the start gives."""
    toy = Toy()
    return run_loop(job(toy)), toy.state_dict()


def begins_anew(path: Path, fresh: tuple[History, Mapping[str, Tensor]], identity: str = "mine") -> bool:
    toy, begun = Toy(), list[int]()
    history = run_loop(job(toy), state_path=path, identity=identity, resumed=begun.append)
    assert begun in ([0], [7])
    assert (history, same(toy.state_dict(), fresh[1])) == (fresh[0], True)
    return begun == [0]


def test_a_state_of_another_identity_is_ignored(tmp_path: Path, begun: Path, fresh: Any) -> None:
    for identity in ("mine", "another's", ""):
        path = tmp_path / "state"
        path.write_bytes(begun.read_bytes())
        assert begins_anew(path, fresh, identity) == (identity != "mine")


def _parts(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
    return load_file(path), metadata


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _without_metadata(path: Path) -> None:
    save_file(_parts(path)[0], path)


def _with_half_a_header(path: Path) -> None:
    tensors, metadata = _parts(path)
    save_file(tensors, path, {name: text[: len(text) // 2] for name, text in metadata.items()})


def _without_sums(path: Path) -> None:
    tensors, metadata = _parts(path)
    del tensors["sums"]
    save_file(tensors, path, metadata)


def _without(kind: str) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        tensors, metadata = _parts(path)
        del tensors[next(name for name in tensors if name.startswith(kind))]
        save_file(tensors, path, metadata)

    return damage


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no safetensors": lambda path: path.write_bytes(b"\x93NUMPY" * 100),
    "a length of 2^63": lambda path: path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:]),
    "truncated": _truncated,
    "no metadata": _without_metadata,
    "half a header": _with_half_a_header,
    "no sums": _without_sums,
    "a weight is missing": _without("value."),
    "a moment is missing": _without("optimizer."),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_state_is_ignored(tmp_path: Path, begun: Path, fresh: Any, damage: str) -> None:
    path = tmp_path / "state"
    path.write_bytes(begun.read_bytes())
    DAMAGES[damage](path)
    assert begins_anew(path, fresh)


# -- the mathematics of a step


def test_parts_of_a_batch_give_what_the_whole_batch_gives() -> None:
    whole = Toy()
    history = run_loop(job(whole, clip=0.1))
    for accumulate in (2, 4, 8):
        parted = Toy()
        found = run_loop(job(parted, clip=0.1, accumulate=accumulate))
        for name, values in history.items():
            assert found[name] == pytest.approx(values, rel=1e-12)
        for name, tensor in whole.state_dict().items():
            torch.testing.assert_close(parted.state_dict()[name], tensor, rtol=1e-11, atol=1e-13)


def test_numbers_are_every_sample_once_and_what_follows_is_told() -> None:
    toy, parts = Toy(), list[Microbatch]()

    def step(part: Microbatch) -> Mapping[str, Tensor]:
        parts.append(part)
        return toy.step(part)

    run_loop(job(toy, step=step, accumulate=2))
    assert [n for part in parts for n in part.numbers] == list(range(STEPS * BATCH))
    assert [part.step for part in parts] == [i // 2 for i in range(2 * STEPS)]
    assert [part.following for part in parts] == [*(part.numbers for part in parts[1:]), None]


class Follows(nn.Module):
    """A number that goes up by one a step, as its optimizer makes it; a count; and an average of both."""

    def __init__(self) -> None:
        super().__init__()
        self.source, self.target = nn.BatchNorm1d(1).double(), nn.BatchNorm1d(1).double()

    def step(self, part: Microbatch) -> dict[str, Tensor]:
        self.source(torch.full([2, 1], 3.0, dtype=torch.float64))
        return {"loss": -self.source.bias.sum() + 0 * self.source.weight.sum()}


@pytest.mark.parametrize(("half_life", "batch"), [(6.0, 4), (1e9, 4), (1e-3, 2)])
def test_averages_are_their_closed_form(half_life: float, batch: int) -> None:
    """The bias is t after t steps; its average decays by half in half_life samples, and in a twentieth of those seen so far."""
    toy, steps = Follows(), 12
    run_loop(
        Job(
            "toy", toy, toy.step, torch.optim.SGD(toy.source.parameters(), lr=1.0), steps=steps, batch=batch,
            rate=lambda step: 1.0, averages=[Average(toy.source, toy.target, half_life)],
        )
    )  # fmt: skip
    beta = [2 ** -(batch / min(half_life, batch * t / 20)) for t in range(1, steps + 1)]
    expected = sum((1 - beta[t - 1]) * t * math.prod(beta[t:]) for t in range(1, steps + 1))
    assert toy.source.bias.item() == steps
    assert toy.target.bias.item() == pytest.approx(expected, rel=1e-12)
    # Buffers follow, too; a count is no mean of counts.
    running = [3 * (1 - 0.9**t) for t in range(1, steps + 1)]
    expected = sum((1 - beta[t]) * running[t] * math.prod(beta[t + 1 :]) for t in range(steps))
    assert toy.target.running_mean is not None and toy.target.num_batches_tracked is not None
    assert toy.target.running_mean.item() == pytest.approx(expected, rel=1e-12)
    assert toy.target.num_batches_tracked.item() == steps


def test_rates_act_on_every_group_and_gradients_are_clipped() -> None:
    """With SGD, what a parameter moves by is its rate times the gradient, whose norm over all is cut to 1."""
    a, b = nn.Parameter(torch.zeros(2, dtype=torch.float64)), nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 10.0}], lr=1.0)
    run_loop(
        Job(
            "toy", nn.ParameterList([a, b]), lambda part: {"loss": -(2 * a.sum() + b.sum())}, optimizer, steps=3, batch=1,
            rate=lambda step: [1.0, 0.5, 0.25][step], clip=1.0,
        )
    )  # fmt: skip
    torch.testing.assert_close(a.detach(), torch.full([2], 1.75 * 2 / 3, dtype=torch.float64), rtol=1e-5, atol=0)
    torch.testing.assert_close(b.detach(), torch.full([1], 17.5 / 3, dtype=torch.float64), rtol=1e-5, atol=0)


def test_the_cosine_warms_up_and_ends_at_zero() -> None:
    rate = cosine(200, warm_up=10)
    assert [rate(step) for step in (0, 4, 9)] == pytest.approx(
        [f * 0.5 * (1 + math.cos(math.pi * step / 200)) for f, step in ((0.1, 0), (0.5, 4), (1.0, 9))]
    )
    assert (rate(100), rate(200)) == pytest.approx((0.5, 0.0), abs=1e-12)
    assert cosine(1)(0) == pytest.approx(1 / 50)


def test_adam_is_the_papers_and_takes_what_is_trained() -> None:
    net = nn.Linear(2, 2)
    net.bias.requires_grad_(False)
    (group,) = adam(net, 0.1).param_groups
    assert (group["betas"], group["eps"], group["lr"]) == ((0.9, 0.99), 1e-8, 0.1)
    assert len(group["params"]) == 1 and group["params"][0] is net.weight


def test_random_numbers_depend_on_seed_and_step_alone() -> None:
    def numbers(seed: int, step: int) -> list[float]:
        return torch.randn(4, generator=step_generator(seed, step, CPU)).tolist()

    assert numbers(3, 4) == numbers(3, 4)
    # Also where the low 32 bits of a seed, or the digits of both together, are the same.
    pairs = [(3, 4), (4, 3), (3 + 2**32, 4), (3, 4 + 2**32), (34, 0), (3, 40), (1, 11), (11, 1)]
    assert len({tuple(numbers(*pair)) for pair in pairs}) == len(pairs)


# -- what is told


def test_a_tick_has_the_means_of_its_steps() -> None:
    toy, losses, ticks = Toy(), list[dict[str, float]](), list[tuple[int, dict[str, float]]]()

    def step(part: Microbatch) -> dict[str, Tensor]:
        found = toy.step(part)
        losses.append({name: value.item() for name, value in found.items()})
        return found

    history = run_loop(job(toy, step=step, tick=lambda done, means: ticks.append((done, dict(means)))))
    assert [done for done, _ in ticks] == [3, 6, 9, 12, 15, 18, 20]
    first = 0
    for i, (done, means) in enumerate(ticks):
        for name in ("loss", "pixel", "size"):
            expected = sum(values[name] for values in losses[first:done]) / (done - first)
            assert means[name] == history[name][i] == pytest.approx(expected, rel=1e-12)
        first = done
    assert set(history) == {"loss", "pixel", "size"}


def test_there_are_about_400_ticks() -> None:
    weight = nn.Parameter(torch.zeros(()))
    for steps in (0, 7, 900):
        history = run_loop(
            Job(
                "toy", nn.ParameterList([weight]), lambda part: {"loss": weight.square()}, torch.optim.SGD([weight], lr=0.1),
                steps=steps, batch=1, rate=lambda step: 1.0,
            )
        )  # fmt: skip
        assert len(history.get("loss", [])) == {0: 0, 7: 7, 900: 450}[steps]


def test_progress_counts_steps() -> None:
    told: list[tuple[str, int, int]] = []
    toy = Toy()

    def step(part: Microbatch) -> dict[str, Tensor]:
        part.tell(2)  # of samples, which nobody counts here
        return toy.step(part)

    run_loop(job(toy, step=step, accumulate=2), progress=lambda *what: told.append(what))
    assert told == [("toy", done, STEPS) for done in range(STEPS + 1)]


def test_progress_counts_samples_also_within_a_step() -> None:
    told: list[tuple[str, int, int]] = []
    toy = Toy()

    def step(part: Microbatch) -> dict[str, Tensor]:
        for done in (1, 3):
            part.tell(done)
        return toy.step(part)

    run_loop(job(toy, step=step, accumulate=2, in_samples=True), progress=lambda *what: told.append(what))
    within = [BATCH * i + done for i in range(STEPS) for done in (0, 1, 3, 5, 7)]
    assert [done for _, done, _ in told] == [*within, STEPS * BATCH]
    assert {(name, total) for name, _, total in told} == {("toy", STEPS * BATCH)}


def test_no_steps_are_no_training(tmp_path: Path) -> None:
    toy, told = Toy(), list[tuple[str, int, int]]()
    assert run_loop(job(toy, steps=0), state_path=tmp_path / "state", progress=lambda *what: told.append(what)) == {}
    assert told == [("toy", 0, 0)] and not (tmp_path / "state").exists() and same(toy.state_dict(), Toy().state_dict())


# -- what is refused


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["loss", "size"])
def test_a_loss_that_is_no_number_ends_the_run(tmp_path: Path, name: str, value: float) -> None:
    """In one error, at the end of the tick, before anything is saved."""
    toy, ticks = Toy(), list[int]()

    def step(part: Microbatch) -> dict[str, Tensor]:
        losses = toy.step(part)
        return losses | ({name: losses[name] * value} if part.step == 8 else {})

    bad = job(toy, step=step, tick=lambda done, _: ticks.append(done))
    with pytest.raises(LIAError, match=f"^toy: the loss '{name}' is {value} at step 9: the training diverged") as error:
        run_loop(bad, state_path=tmp_path / "state", save_seconds=1e9)
    assert error.value.__cause__ is None and "\n" not in str(error.value)
    assert ticks == [3, 6] and list(tmp_path.iterdir()) == []


def test_a_batch_that_cannot_be_shared_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch is 8; expected a multiple of 1 processes × accumulate 3"):
        run_loop(job(Toy(), accumulate=3))


def test_losses_that_an_older_build_saved_go_on_under_their_new_names(tmp_path: Path, begun: Path) -> None:
    whole, resumed, path = Toy(), Toy(), tmp_path / "state"
    history = run_loop(job(whole))
    tensors, metadata = _parts(begun)
    save_file(tensors, path, {name: text.replace('"pixel"', '"old pixel"') for name, text in metadata.items()})
    again = dataclasses.replace(job(resumed), renamed={"old pixel": "pixel"})
    assert run_loop(again, state_path=path, identity="mine") == history
    assert same(whole.state_dict(), resumed.state_dict())
