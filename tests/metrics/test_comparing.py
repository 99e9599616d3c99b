"""What `compare` measures by: bootstrap, kernel distance, LPIPS and identity, against closed forms and other programs."""

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.metrics import lpips as lpips_module
from lia_adapter.metrics.bootstrap import LEAST, bootstrap_means, share_outside
from lia_adapter.metrics.identity import identity_similarity, load_identity
from lia_adapter.metrics.kernel import kernel_distance, kernel_of_rows
from lia_adapter.metrics.lpips import load_lpips
from lia_adapter.metrics.networks import FeatureNetwork, load_network


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_kernel_distance_is_that_of_a_double_loop() -> None:
    a, b = (torch.randn(7, 5, generator=random(i)) for i in range(2))

    def k(x: Tensor, y: Tensor) -> float:
        return float((x.double() @ y.double() / 5 + 1) ** 3)

    total = 0.0
    for i in range(7):
        for j in range(7):
            if i != j:
                total += k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(b[i], a[j])
    assert kernel_distance(a, b) == pytest.approx(total / 42, rel=1e-12)
    rows = torch.tensor([1, 4, 6])
    assert kernel_of_rows(a, b)(rows) == pytest.approx(kernel_distance(a[rows], b[rows]), rel=1e-12)


def test_kernel_distance_of_equal_sets_is_zero_and_of_independent_ones_so_on_the_mean() -> None:
    a = torch.randn(6, 4, generator=random())
    assert kernel_distance(a, a) == 0
    found = torch.tensor([kernel_distance(*torch.randn(2, 20, 4, generator=random(i))) for i in range(300)])
    assert abs(float(found.mean())) < 4 * float(found.std()) / math.sqrt(300)


@pytest.mark.parametrize("n", [6, 12, 60])
def test_the_interval_covers_a_known_mean(n: int) -> None:
    values = torch.randn(n, 400, generator=random(n), dtype=torch.float64)  # 400 sets of n, of mean 0
    found = bootstrap_means(values, resamples=4000)
    assert found is not None
    covered = float(((found[0] <= 0) & (found[1] >= 0)).double().mean())
    assert 0.92 <= covered <= 0.985


def test_the_interval_of_many_is_that_of_the_normal_distribution() -> None:
    values = torch.randn(4000, 1, generator=random(), dtype=torch.float64)
    found = bootstrap_means(values)
    assert found is not None
    reach = 1.96 * float(values.std()) / math.sqrt(4000)
    assert (found[:, 0] - values.mean()).tolist() == pytest.approx([-reach, reach], rel=0.05)
    assert share_outside(10**6) == pytest.approx(0.025, rel=1e-4)


def test_the_bootstrap_is_seeded_paired_and_honest() -> None:
    values = torch.rand(9, 1, generator=random())
    columns = torch.cat([values, values + 0.25, torch.full([9, 1], 0.3), values.clone().fill_(math.inf)], dim=1)
    found, again = bootstrap_means(columns), bootstrap_means(columns)
    assert found is not None and again is not None
    assert torch.equal(found[:, :3], again[:, :3])
    assert found[:, 1].tolist() == pytest.approx((found[:, 0] + 0.25).tolist(), abs=1e-6)  # the same draws
    assert found[0, 2] == found[1, 2] == columns[0, 2].double()
    assert found[:, 3].isnan().all()
    assert bootstrap_means(values[: LEAST - 1]) is None


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory: pytest.TempPathFactory) -> FeatureNetwork:
    return network(tmp_path_factory.mktemp("networks"), "squeezenet1_1")


def network(folder: Path, name: str) -> FeatureNetwork:
    """With random weights."""
    from torchvision import models

    path = folder / f"{name}.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(models.get_model(name).state_dict(), path)
    return load_network(path)


@pytest.mark.parametrize("name", ["squeezenet1_1", "alexnet", "vgg16"])
def test_lpips_is_the_packages(tmp_path: Path, name: str) -> None:
    package: Any = pytest.importorskip("lpips", reason="needs the lpips package, to compare with")
    net, short = network(tmp_path, name), {"squeezenet1_1": "squeeze", "alexnet": "alex", "vgg16": "vgg"}[name]
    theirs = package.LPIPS(net=short, pnet_rand=True, verbose=False)
    weights = {key.removeprefix("features."): t for key, t in net.trunk.state_dict().items()}
    own = {key: weights[key.partition(".")[2]] for key in theirs.net.state_dict()}  # slice2.3.weight -> 3.weight
    theirs.net.load_state_dict(own)
    a, b = (torch.rand(2, 3, 72, 80, generator=random(i)) * 2 - 1 for i in range(2))
    with torch.no_grad():
        assert load_lpips(net)(a, b).tolist() == pytest.approx(theirs(a, b).flatten().tolist(), rel=1e-4)


def test_lpips_from_a_package_that_is_not_executed(
    squeezenet: FeatureNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With weights of 1 it is the sum of the distances of its seven layers."""
    from torchvision import models

    channels = (64, 128, 256, 384, 384, 512, 512)
    (tmp_path / "weights" / "v0.1").mkdir(parents=True)
    weights = {f"lin{i}.model.1.weight": torch.ones(1, n, 1, 1) for i, n in enumerate(channels)}
    torch.save(weights, tmp_path / "weights" / "v0.1" / "squeeze.pth")
    (tmp_path / "__init__.py").write_text("raise SystemExit('executed')")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(lpips_module, "find_spec", lambda name: spec)
    a, b = (torch.rand(2, 3, 64, 64, generator=random(i)) * 2 - 1 for i in range(2))
    plain = models.squeezenet1_1().eval()
    plain.load_state_dict(squeezenet.trunk.state_dict(), strict=False)
    with torch.no_grad():
        distance = load_lpips(squeezenet)
        assert distance(a, a).tolist() == [0, 0]
        x, y = (squeezenet.prepared(image) for image in (a, b))
        total = torch.zeros(2)
        for i in range(13):
            x, y = (plain.get_submodule(f"features.{i}")(t.clone()) for t in (x, y))
            if i in (1, 4, 7, 9, 10, 11, 12):
                u, v = (t / t.norm(dim=1, keepdim=True).clamp(min=1e-10) for t in (x, y))
                total += (u - v).square().sum(dim=1).mean(dim=(1, 2))
        assert distance(a, b).tolist() == pytest.approx(total.tolist(), rel=1e-4)
    assert "squeezenet1_1" in distance.name


def test_lpips_says_what_it_needs(squeezenet: FeatureNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips_module, "find_spec", lambda name: None)
    with pytest.raises(LIAError, match=r"pip install lia-adapter\[lpips\]"):
        load_lpips(squeezenet)
    with pytest.raises(LIAError, match="no learned weights for ResNet 18"):
        load_lpips(network(tmp_path, "resnet18"))


def graph(path: Path, shape: list[int | str]) -> Path:
    """A graph of the mean over positions."""
    node = helper.make_node("ReduceMean", ["x"], ["v"], axes=[2, 3], keepdims=0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    v = helper.make_tensor_value_info("v", TensorProto.FLOAT, [shape[0], shape[1]])
    model = helper.make_model(helper.make_graph([node], "g", [x], [v]), opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("many", ["n", 1])
def test_identity_by_a_graph(tmp_path: Path, many: int | str) -> None:
    features = load_identity(graph(tmp_path / "who.onnx", [many, 3, 16, 16]))
    a, b = (torch.rand(3, 3, 16, 16, generator=random(i)) * 2 - 1 for i in range(2))
    expected = torch.nn.functional.cosine_similarity(a.mean(dim=(2, 3)), b.mean(dim=(2, 3)))
    assert identity_similarity(features, a, b).tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert identity_similarity(features, a, a).tolist() == pytest.approx([1, 1, 1])
    assert features(a[:, :1]).shape == (3, 3) and "16x16" in features.name


def test_identity_by_a_network_and_wrong_files(
    squeezenet: FeatureNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network(tmp_path, "squeezenet1_1")
    features = load_identity(tmp_path / "squeezenet1_1.safetensors")
    x = torch.rand(2, 3, 32, 32, generator=random())
    assert identity_similarity(features, x, x).tolist() == pytest.approx([1, 1])
    (tmp_path / "torn.onnx").write_bytes(b"no graph")
    for file, message in {
        "torn.onnx": "no ONNX graph", "missing.onnx": "cannot read", "missing.pth": "identity: missing.pth does not exist"
    }.items():  # fmt: skip
        with pytest.raises(LIAError, match=message) as told:
            load_identity(tmp_path / file)
        assert "\n" not in str(told.value)
    with pytest.raises(LIAError, match=r"expected images \[N, 3, H, W\]"):
        load_identity(graph(tmp_path / "gray.onnx", ["n", 1, 16, 16]))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(LIAError, match=r"pip install lia-adapter\[identity\]"):
        load_identity(tmp_path / "torn.onnx")
