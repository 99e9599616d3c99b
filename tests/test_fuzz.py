"""Every entry point under damage that knows its format. `make fuzz` does it a million times, guided by what is reached."""

import io
import json
import random
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from lia_adapter.errors import LIAError
from tests.fuzz import worker
from tests.fuzz.mutators import plain
from tests.fuzz.targets import TARGETS, Target, attempt
from tests.fuzz.worker import Watch
from tests.generators import test_stylegan3

pytestmark = pytest.mark.usefixtures("reference_ops")

ROOT = Path(__file__).parents[1]
DEEP = "[" * 20_000


def scrambled(data: bytes, rng: random.Random) -> bytes:
    """In place of libFuzzer's own mutator: some bytes are changed, dropped or doubled."""
    content = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(3):
            case 0:
                content[at : at + 1] = rng.randbytes(1)
            case 1:
                del content[at : at + rng.randint(1, 8)]
            case 2:
                content[at:at] = content[at : at + rng.randint(1, 8)]
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_and_damaged_ones_raise_nothing_else(name: str, tmp_path: Path) -> None:
    target, rng = TARGETS[name], random.Random(name)
    seeds, folder = target.seeds(), tmp_path / "input"
    folder.mkdir()
    read = [attempt(target, seed, folder) for seed in seeds]
    whole = [seed for seed, is_read in zip(seeds, read, strict=True) if is_read] or seeds
    assert any(read) or name == "other-files"  # from files that nobody reads, fuzzing would go nowhere
    damaged = [target.mutate(rng.choice(whole), rng, lambda part: scrambled(part, rng)) for _ in range(100)]
    outcomes = {attempt(target, content, folder) for content in damaged}
    # Neither is all damage harmless nor is it all so gross that it is seen at once.
    assert outcomes == {False, True} or name == "other-files"


def header(table: object, body: bytes = b"") -> bytes:
    """A file of safetensors with any header."""
    text = json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + body


def nameless() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x", b"")
    content = bytearray(file.getvalue())
    entry = content.index(b"PK\1\2")
    content[entry + 28 : entry + 30] = bytes(2)  # the length of its name
    content[entry + 30 : entry + 32] = (1).to_bytes(2, "little")  # which is now its extra field
    return bytes(content)


def of_config(*path: str | int, value: object) -> Callable[[], bytes]:
    """A LIA file whose config says something else at one place."""

    def make() -> bytes:
        content = TARGETS["lia-file"].seeds()[0]
        size = int.from_bytes(content[:8], "little")
        table = json.loads(content[8 : 8 + size])
        node = own = json.loads(table["__metadata__"]["lia-adapter"])
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
        table["__metadata__"]["lia-adapter"] = json.dumps(own)
        return header(table, content[8 + size :])

    return make


def clearing() -> bytes:
    """Weights of a StyleGAN3 with a tensor that is no float, and whose name would clear the terminal."""
    return save(test_stylegan3.bare() | {"synthesis.L0_20_4\x1b[2J.weight": torch.zeros(4, dtype=torch.int64)})


FOUND: dict[str, tuple[str, Callable[[], bytes]]] = {
    "a header of codes that nests without end": ("codes", lambda: save({}, metadata={"lia-adapter-codes": DEEP})),
    "a header of a LIA file that nests without end": ("lia-file", lambda: save({}, metadata={"lia-adapter": DEEP})),
    # torch's message about that has many lines
    "a mapping wider than its weights": ("lia-file", of_config("mapping", "width", value=300)),
    "a mapping of a billion layers": ("lia-file", of_config("mapping", "depth", value=10**9)),
    "a mapping of a hundred thousand entries": ("lia-file", of_config("mapping", "y_dim", value=10**5)),
    "a block without a size": ("lia-file", of_config("config", "generator", "blocks", 0, "size", value=[])),
    "a mapping that does not learn": ("lia-file", of_config("config", "generator", "mapping", "lr_multiplier", value=0)),
    "an encoder of no size": ("lia-file", of_config("encoder", "resolution", value=[0, 8])),
    "a family that is missing": ("lia-file", of_config("family", value=None)),
    "a data set with an entry without a name": ("data-set-zip", nameless),
    "a name of a tensor that clears the terminal": ("safetensors", clearing),
    "metadata that are a number": ("lia-file", lambda: header({"__metadata__": 5})),
}
"""What fuzzing has found: the entry point, and the input that raised another error than one of ours."""


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_is_refused(name: str, tmp_path: Path) -> None:
    target, make = FOUND[name]
    assert not attempt(TARGETS[target], make(), tmp_path)


# -- the fuzzer itself


def crash(content: bytes, folder: Path) -> None:
    torch.zeros(1)[len(content)]


def fill(content: bytes, folder: Path) -> None:
    np.ones(400 * 10**6, np.uint8)


def wait(content: bytes, folder: Path) -> None:
    while True:
        time.process_time()


def shout(content: bytes, folder: Path) -> None:
    raise LIAError("it holds \x1b[2J")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="measures memory as Linux tells it")
@pytest.mark.parametrize(
    ("use", "said"),
    [(crash, "IndexError at"), (fill, "took more than 300 MB"), (wait, "_Hang at"), (shout, "AssertionError at")],
)
def test_failures_are_seen(
    use: Callable[[bytes, Path], object], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if use is wait:
        monkeypatch.setattr(worker, "_HANG", 0.1)
    watch = Watch(Target(use, list, plain), tmp_path, tmp_path, 1)
    watch(b"abc")
    (failure,) = json.loads((tmp_path / "facts.json").read_text())["failures"].items()
    assert failure[0].startswith(said) and (tmp_path / failure[1]).read_bytes() == b"abc"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_guided_by_coverage(tmp_path: Path) -> None:
    pytest.importorskip("atheris", reason="needs the extra fuzz")
    command = [sys.executable, "-m", "tests.fuzz", "--runs", "20000", "--corpus", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
