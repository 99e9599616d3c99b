"""Files of every family whose trees say odd things: damage that no byte of the container betrays."""

import math
import random
import time
from pathlib import Path
from typing import Any

import pytest

from lia_adapter import checkpoints
from lia_adapter.checkpoints import read_checkpoint
from lia_adapter.checkpoints.decoder import Call
from lia_adapter.checkpoints.document import Document
from lia_adapter.checkpoints.files import CheckpointFile, read_document
from lia_adapter.errors import CheckpointError
from lia_adapter.generators import build

ODD: tuple[Any, ...] = (
    None, True, 0, 1, -1, 2, 3, 7, 2**20, 2**40, 0.5, 1e300, math.nan, math.inf, "", "x", "linear", "resnet", "concat", b"abc",
    [], {}, (), (1,), [1, 2, 3, 4],
)  # fmt: skip
PLACES = "args", "state", "entries"


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every dict, list and call of a tree, with each key, index or attribute that it has."""
    found: list[tuple[Any, Any]] = []
    waiting, seen = [tree], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, (dict, list)):
            keys = list(node) if isinstance(node, dict) else range(len(node))
            found += [(node, key) for key in keys]
            waiting += [node[key] for key in keys]
        elif isinstance(node, Call):
            found += [(node, place) for place in PLACES]
            waiting += [getattr(node, place) for place in PLACES]
        elif isinstance(node, tuple):
            waiting += node
    return found


def spoil(document: Document, random_: random.Random) -> Document:
    """Changes one to three values, or drops, renames or swaps entries."""
    found = places(document.tree)

    def odd(value: Any) -> Any:
        if isinstance(value, tuple) and value and random_.random() < 0.6:
            i = random_.randrange(len(value))
            return (*value[:i], odd(value[i]), *value[i + 1 :])
        return random_.choice(ODD) if random_.random() < 0.6 else at(*random_.choice(found))

    def at(node: Any, key: Any) -> Any:
        return getattr(node, key) if isinstance(node, Call) else node[key] if key in node or isinstance(key, int) else None

    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        node, key = random_.choice(found)
        if isinstance(node, Call):
            kind = type(getattr(node, key))
            value = odd(getattr(node, key))
            if key == "state" or isinstance(value, kind):
                setattr(node, key, value)
        elif isinstance(node, list):
            if key < len(node):
                node[key] = odd(node[key])
        elif key in node:
            value = node[key]
            match random_.randrange(4):
                case 0:
                    del node[key]
                case 1:
                    node[random_.choice(("x", "0.weight", f"{key}x", f"module.{key}", 5))] = node.pop(key)
                case 2:
                    other = random_.choice(list(node))
                    node[key], node[other] = node[other], value
                case 3:
                    node[key] = odd(value)
    return document


def survive(path: Path) -> bool:
    """Reads and builds what is there, or is told why not."""
    try:
        checkpoint = read_checkpoint(path)
        build(checkpoint.family, checkpoint.config, checkpoint.tensors)
    except CheckpointError as error:
        assert str(error).isprintable() and path.name in str(error)
        return False
    return True


@pytest.mark.parametrize(("each", "seed"), [(5, 1), pytest.param(500, int(time.time()), marks=pytest.mark.slow, id="many")])
@pytest.mark.timeout(3600)
def test_every_family_reads_it_or_says_why_not(shared: Path, monkeypatch: pytest.MonkeyPatch, each: int, seed: int) -> None:
    files = sorted(shared.glob("checkpoints/*.p*t*")) + sorted(shared.glob("checkpoints/*.pkl"))
    files = [path for path in files if path.stat().st_size < 2**20]
    random_ = random.Random(seed)

    def odd_document(file: CheckpointFile) -> Document:
        return spoil(read_document(file), random_)

    monkeypatch.setattr(checkpoints, "read_document", odd_document)
    outcomes = [survive(path) for path in files for _ in range(each)]
    assert 0.2 < sum(outcomes) / len(outcomes) < 0.95
