"""What scores pictures: functions of the user's, graphs in ONNX, classifiers of torchvision's; and wrong answers of theirs."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lia_adapter.errors import LIAError
from lia_adapter.metrics.scorers import Scorer, load_scorer

X = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def script(tmp_path: Path, body: str) -> Scorer:
    path = tmp_path / "judge.py"
    path.write_text(f"import torch\nimport numpy as np\n\n\ndef score(x):\n    {body}\n")
    return load_scorer(f"{path}:score")


@pytest.mark.parametrize(
    ("body", "names", "expected"),
    [
        ("return x.mean(dim=(1, 2, 3))", ("score-1",), X.mean(dim=(1, 2, 3))[:, None]),
        ("return x.mean(dim=(2, 3))", ("score-1", "score-2", "score-3"), X.mean(dim=(2, 3))),
        ("return x.mean(dim=(2, 3)).numpy()", ("score-1", "score-2", "score-3"), X.mean(dim=(2, 3))),
        ("return x.mean(dim=(1, 2, 3)).tolist()", ("score-1",), X.mean(dim=(1, 2, 3))[:, None]),
        ("return {'red': x[:, 0].mean(dim=(1, 2)), 'top': x[:, :, :1].mean(dim=(1, 2, 3))[:, None]}", ("red", "top"), None),
        ("return x[:, 0, 0, 0] > 0", ("score-1",), (X[:, 0, 0, :1] > 0).double()),
        ("return x[:, 0, 0, 0].half()", ("score-1",), X[:, 0, 0, :1].half()),
    ],
)
def test_functions(tmp_path: Path, body: str, names: tuple[str, ...], expected: Tensor | None) -> None:
    judge = script(tmp_path, body)
    values = judge(X)
    assert judge.names == names and values.dtype == torch.float64
    if expected is None:
        expected = torch.stack([X[:, 0].mean(dim=(1, 2)), X[:, :, 0].mean(dim=(1, 2))], dim=1)
    torch.testing.assert_close(values, expected.double(), check_dtype=False)
    assert len(judge(X[:1])) == 1


def test_pictures_come_in_range_and_nothing_is_recorded(tmp_path: Path) -> None:
    judge = script(tmp_path, "assert not torch.is_grad_enabled(); return x.abs().amax(dim=(1, 2, 3))")
    assert float(judge(3 * X.clone().requires_grad_()).max()) == 1


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return None", "answers with a NoneType; expected numbers"),
        ("return 'smile'", "answers with a str"),
        ("return ['a'] * len(x)", "answers with a list"),
        ("return object()", "answers with a object"),
        ("return 0.5", r"answers 4 pictures with \[\]"),
        ("return x.mean()", r"answers 4 pictures with \[\]"),
        ("return x.mean(dim=(2, 3))[:2]", r"answers 4 pictures with \[2, 3\]"),
        ("return x[:, :, 0]", r"answers 4 pictures with \[4, 3, 8\]"),
        ("return x.mean(dim=(1, 2, 3)) * 1j", "complex numbers"),
        ("return x.new_empty(len(x), 0)", "the attributes .none."),
        ("return {}", "the attributes .none."),
        ("return {'a': x.mean(dim=(2, 3))}", r"answers with a \[4, 3\]; expected one number for each picture, by name"),
        ("return {'a': x.mean(dim=(1, 2, 3)), 'b': 1.0}", r"answers 4 pictures with \[\]"),
        ("return {'a': 'b'}", "answers with a str"),
        ("raise ValueError('no\\nface')", r"judge.py, line 6: ValueError: no face"),
        ("exit()", "SystemExit"),
        ("return undefined", "NameError"),
    ],
)
def test_wrong_answers_are_told_in_one_line(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(LIAError, match=words) as caught:
        script(tmp_path, body)(X)
    assert "\n" not in str(caught.value)


def test_attributes_that_change_from_call_to_call(tmp_path: Path) -> None:
    judge = script(tmp_path, "return {f'n{len(x)}': x.mean(dim=(1, 2, 3))}")
    judge(X)
    with pytest.raises(LIAError, match="expected at least one, and the same at each call"):
        judge(X[:2])


def test_files_that_are_no_scorers(tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text("x = 1\n")
    (tmp_path / "junk.pth").write_bytes(b"junk")
    (tmp_path / "broken.py").write_text("def score(:\n")
    for source, words in {
        "judge.py:score": "has no function 'score'",
        "judge.py": "judge.py", "missing.py:score": "is not a file", "missing.pth": "missing.pth", "junk.pth": "junk.pth",
        "missing.safetensors": "missing.safetensors", "broken.py:score": "SyntaxError",
    }.items():  # fmt: skip
        with pytest.raises(LIAError, match=words) as caught:
            load_scorer(str(tmp_path / source))
        assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    from torchvision.models import squeezenet1_1

    path = tmp_path_factory.mktemp("net") / "squeezenet1_1.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = squeezenet1_1(num_classes=2).eval()
    save_file(network.state_dict(), path)
    return path, network


@torch.no_grad()
def test_a_classifier_of_two_classes(classifier: tuple[Path, Any]) -> None:
    path, network = classifier
    judge = load_scorer(path)
    x = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    expected = network((x * 0.5 + 0.5 - mean) / std)
    torch.testing.assert_close(judge(x), expected.double(), rtol=1e-4, atol=1e-5)
    assert judge.names == ("score-1", "score-2")
    assert judge(X).shape == (4, 2) and judge(X[:, :1]).shape == (4, 2)  # of any size, and gray


def test_classifiers_that_are_not_whole(classifier: tuple[Path, Any], tmp_path: Path) -> None:
    whole = load_file(classifier[0])
    head = [name for name in whole if name.startswith("classifier")]
    broken = {
        "without its classifier": {name: t for name, t in whole.items() if name not in head},
        "lacks classifier.1.weight": {name: t for name, t in whole.items() if name != "classifier.1.weight"},
        "has classifier.1": whole | {"classifier.1.bias": torch.zeros(3)},
        "without its classifier, which": whole
        | {"classifier.1.bias": torch.tensor(1.0), "classifier.1.weight": torch.zeros(0)},
    }
    for words, tensors in broken.items():
        save_file(tensors, tmp_path / "squeezenet1_1.safetensors")
        with pytest.raises(LIAError, match=f"scorer: .*{words}"):
            load_scorer(tmp_path / "squeezenet1_1.safetensors")


def test_a_graph_in_onnx(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    nodes = [helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=0)]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("m", kind, ["n", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    (tmp_path / "g.onnx").write_bytes(model.SerializeToString())
    judge = load_scorer(tmp_path / "g.onnx")
    torch.testing.assert_close(judge(X), X.mean(dim=(2, 3)).double(), rtol=1e-5, atol=1e-5)
    assert judge.names == ("score-1", "score-2", "score-3")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(LIAError, match="no ONNX graph"):
        load_scorer(tmp_path / "junk.onnx")
