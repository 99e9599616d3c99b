"""The LIA file and what can be done with it: seeds, saving, loading, binding an adapter to its generator."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from safetensors.torch import save, save_file
from torch import Tensor

from lia_adapter.checkpoints import read_checkpoint
from lia_adapter.checkpoints.safetensor import read_tensors, write_tensors
from lia_adapter.errors import CheckpointError, LIAError
from lia_adapter.generators import fingerprint, seed_to_z, wrap
from lia_adapter.keys import SEED_MAPPINGS
from lia_adapter.lia import LIA
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping
from tests import toys

ROOT = Path(__file__).parents[1]


def converted(lia: LIA | None = None) -> LIA:
    """A LIA with some invertible mapping, not fitted."""
    lia = lia or toys.stylegan()
    torch.manual_seed(1)
    mapping = InvertibleMapping("affine", lia.generator.y_dim, lia.generator.c_dim)
    for parameter in mapping.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return LIA(
        lia.generator, mapping, lia.discriminator,
        family=lia.family, config=lia.config, provenance=lia.provenance, metrics={"seen": 1},
    )  # fmt: skip


def by_both(lia: LIA, seeds: Sequence[int], c: Tensor | None = None) -> Tensor:
    """Pictures of seeds by the original mapping, and behind them those by the invertible one."""
    return torch.cat([lia.sample(seeds, c=c, mapping=mapping) for mapping in SEED_MAPPINGS])


def test_a_seed_means_what_it_means_to_nvlabs() -> None:
    z = seed_to_z([42, 7], 512)
    assert np.array_equal(z[0].numpy(), np.random.RandomState(42).randn(1, 512)[0].astype(np.float32))
    assert torch.equal(seed_to_z([7], 512)[0], z[1])
    assert torch.equal(seed_to_z([7], 16)[0], z[1, :16])  # a shorter z is the beginning of the longer


def test_pictures_do_not_depend_on_the_batch() -> None:
    lia = converted()
    together = by_both(lia, list(range(40))).reshape(2, 40, 3, 8, 8)
    for seed in (0, 31, 39):
        assert (by_both(lia, [seed]) - together[:, seed]).abs().max() < 1e-5


def test_no_seeds_give_no_pictures() -> None:
    assert converted().sample([]).shape == (0, 3, 8, 8)


def test_truncation_moves_towards_the_mean() -> None:
    lia = converted()
    y = lia.to_y(seed_to_z([0, 1], 16))
    mean = lia.y_mean
    assert torch.allclose(lia.synthesize(y, psi=0.3), lia.synthesize(mean + 0.3 * (y - mean)), atol=1e-5)


def test_file_keeps_everything(tmp_path: Path) -> None:
    lia = converted()
    lia.save(tmp_path / "f.safetensors")
    again = load(tmp_path / "f.safetensors")
    for part, other in (
        (lia.generator, again.generator),
        (lia.mapping, again.mapping),
        (lia.discriminator, again.discriminator),
    ):
        assert isinstance(part, torch.nn.Module)
        assert isinstance(other, torch.nn.Module)
        state = other.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in part.state_dict().items())
    assert torch.equal(by_both(again, [3]), by_both(lia, [3]))
    assert (again.metrics, again.provenance, again.config) == (lia.metrics, lia.provenance, lia.config)


def test_a_file_is_what_safetensors_would_write(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 2).t(), "a": torch.zeros([]), "ä.\"": torch.zeros(0, 3), "h": torch.randn(5).half(),
        "d": torch.randn(2).double(), "t": torch.tensor([True]),
    }  # fmt: skip
    write_tensors(tmp_path / "x.safetensors", tensors, {"lia-adapter": '{"a": "é\\n"}'})
    expected = save({name: tensor.contiguous() for name, tensor in tensors.items()}, {"lia-adapter": '{"a": "é\\n"}'})
    assert (tmp_path / "x.safetensors").read_bytes() == expected
    again = read_tensors(tmp_path / "x.safetensors")
    assert {name: tensor.dtype for name, tensor in again.items()} == {name: tensor.dtype for name, tensor in tensors.items()}
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in again.items())


def test_a_saved_file_is_as_any_other_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    toys.stylegan().save(tmp_path / "f.safetensors")
    assert (tmp_path / "f.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_write_that_fails_half_way_is_told(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from tests import toys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))\n"
        "toys.stylegan().save(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "f.safetensors"], cwd=ROOT, capture_output=True, text=True)
    assert "LIAError: cannot write" in done.stderr and "file too large" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_loaded_does_not_change_with_its_file(tmp_path: Path) -> None:
    lia, path = converted(), tmp_path / "f.safetensors"
    lia.save(path)
    again = load(path)
    path.write_bytes(bytes(path.stat().st_size))  # in place
    assert torch.equal(by_both(again, [3]), by_both(lia, [3]))


def test_a_new_process_draws_the_same(tmp_path: Path) -> None:
    lia = converted()
    lia.save(tmp_path / "f.safetensors")
    code = (
        "import sys, torch, lia_adapter; from safetensors.torch import save_file; torch.set_num_threads(1);"
        "lia = lia_adapter.load(sys.argv[1]); save_file({'x': lia.sample([5, 6], mapping='invertible')}, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "f.safetensors", tmp_path / "x.safetensors"], check=True)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert (file.get_tensor("x") - lia.sample([4, 5, 6], mapping="invertible")[1:]).abs().max() < 1e-5


def test_conditional_generators_round_trip(tmp_path: Path) -> None:
    lia = converted(toys.stylegan(c_dim=3))
    lia.save(tmp_path / "f.safetensors")
    c = torch.eye(3)[[0, 2]]
    assert torch.equal(by_both(load(tmp_path / "f.safetensors"), [1, 2], c), by_both(lia, [1, 2], c))


def test_adapter_only_is_bound_to_its_generator(tmp_path: Path) -> None:
    lia, path = converted(), tmp_path / "f.safetensors"
    lia.save(path, adapter_only=True)
    with safetensors.safe_open(path, framework="pt") as file:
        assert all(name.startswith("mapping.") for name in file.keys())  # noqa: SIM118
    with pytest.raises(LIAError, match=r"holds the adapter alone, made for toy\.pkl"):
        load(path)
    assert torch.equal(by_both(load(path, generator=lia.generator), [3]), by_both(lia, [3]))
    with pytest.raises(LIAError, match="their weights differ"):
        load(path, generator=toys.stylegan(seed=1).generator)


def test_adapter_only_joins_a_checkpoint_file(tmp_path: Path) -> None:
    source = toys.checkpoint(tmp_path / "toy.pkl")
    lia, path = converted(load(source)), tmp_path / "f.safetensors"
    lia.save(path, adapter_only=True)
    again = load(path, generator=source)
    assert torch.equal(by_both(again, [3]), by_both(lia, [3]))
    assert again.discriminator is not None


def test_a_wrapped_generator_is_always_saved_apart(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sprites = toys.Sprites()
    generator = wrap(sprites, mapping="style", synthesis="draw")
    lia, path = converted(LIA(generator)), tmp_path / "f.safetensors"
    lia.save(path)
    assert torch.equal(by_both(load(path, generator=generator), [3]), by_both(lia, [3]))
    with pytest.raises(LIAError, match="the wrapped module"):
        load(path, generator=wrap(toys.Sprites(), mapping="style", synthesis="draw"))


def test_fingerprint_knows_values_names_and_shapes() -> None:
    a, b = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
    b.load_state_dict(a.state_dict())
    assert fingerprint(a) == fingerprint(b)
    b.weight.data[0, 0] += 1e-6
    assert fingerprint(a) != fingerprint(b)


def test_a_plain_checkpoint_has_no_inverse(tmp_path: Path) -> None:
    lia = load(toys.checkpoint(tmp_path / "toy.pkl"))
    with pytest.raises(LIAError, match="Run lia-adapt convert"):
        lia.to_z(torch.zeros(1, 8))
    with pytest.raises(LIAError, match="Run lia-adapt convert"):
        lia.save(tmp_path / "f.safetensors", adapter_only=True)
    lia.save(tmp_path / "plain.safetensors")  # a checkpoint as any other
    assert torch.equal(load(tmp_path / "plain.safetensors").sample([7]), lia.sample([7]))


def test_damaged_files_are_told(tmp_path: Path) -> None:
    path = tmp_path / "f.safetensors"
    converted().save(path)
    whole = path.read_bytes()
    for cut in (9, 200, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(CheckpointError, match="damaged"):
            load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "pip install -U"),
        ({"mapping": {"coupling": "affine", "y_dim": 5}}, "does not fit its config"),
        ({"mapping": {"coupling": "affine", "y_dim": 16, "rude": 1}}, "does not fit its config"),
        ({"metrics": 3}, "metrics in its header"),
        ({"family": "stylegan9"}, "has no generator here"),
    ],
)
def test_headers_that_do_not_fit_are_told(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "f.safetensors"
    converted().save(path)
    with safetensors.safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["lia-adapter"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file(tensors, path, {"lia-adapter": json.dumps(header | change)})
    with pytest.raises(CheckpointError, match=message):
        load(path)


def test_another_safetensors_file_is_told(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="no known generator in it"):
        load(tmp_path / "x.safetensors")


def test_a_mapping_of_another_size_is_refused() -> None:
    with pytest.raises(LIAError, match="makes y of 4 entries"):
        LIA(toys.stylegan().generator, InvertibleMapping("affine", 4))


def test_a_network_that_draws_bgr_is_turned_round(tmp_path: Path) -> None:
    path = toys.checkpoint(tmp_path / "c.pkl")
    plain, turned = load(path), load(path, channel_order="bgr")
    x = plain.sample(range(3))
    torch.testing.assert_close(turned.sample(range(3)), x.flip(1))
    assert plain.discriminator is not None and turned.discriminator is not None
    torch.testing.assert_close(turned.discriminator(x.flip(1)), plain.discriminator(x))
    with pytest.raises(LIAError, match="expected rgb or bgr"):
        load(path, channel_order="grb")
    with pytest.raises(CheckpointError, match="three channels"):
        dataclasses.replace(read_checkpoint(path), tensors={}).from_bgr()


def test_an_adapter_of_a_network_that_draws_bgr_finds_it_again(tmp_path: Path) -> None:
    path, out = toys.checkpoint(tmp_path / "c.pkl"), tmp_path / "a.safetensors"
    converted(load(path, channel_order="bgr")).save(out, adapter_only=True)
    again = load(out, generator=path)
    y = torch.randn(2, again.generator.y_dim)
    torch.testing.assert_close(again.synthesize(y), load(path).synthesize(y).flip(1))


def test_seeds_and_labels_go_together() -> None:
    lia = toys.stylegan(c_dim=3)
    c = torch.eye(3)
    assert len(lia.sample(range(3), c=c)) == 3
    with pytest.raises(LIAError, match="labels for 3 images; there are 64 seeds"):
        lia.sample(range(64), c=c)
    with pytest.raises(LIAError, match=r"expected a sequence of numbers, such as range\(16\) or \[42\]"):
        lia.sample(42)  # type: ignore[arg-type]


def test_a_name_that_promises_another_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LIAError, match=r"x\.pt must end in \.safetensors"):
        toys.stylegan().save(tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())
