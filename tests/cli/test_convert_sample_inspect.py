"""The command line as its users meet it: in processes of their own, with right and wrong inputs."""

import contextlib
import functools
import io
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from lia_adapter.cli.main import main
from lia_adapter.generators import seed_to_z
from lia_adapter.loading import load
from lia_adapter.pictures import image_grid
from tests import toys

QUICK = [f"{key}={value}" for key, value in toys.QUICK.items()]


@dataclass
class Result:
    returncode: int
    stdout: str
    stderr: str


def run(*args: object, cwd: Path) -> Result:
    """Runs a command in this process, as importing torch anew takes seconds; signals and kills get a process of their own."""
    out, err = io.StringIO(), io.StringIO()
    terminate = signal.getsignal(signal.SIGTERM)
    try:
        with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main.main([str(arg) for arg in args], prog_name="lia-adapt")
    except SystemExit as end:
        return Result(end.code if isinstance(end.code, int) else 1, out.getvalue(), err.getvalue())
    finally:
        signal.signal(signal.SIGTERM, terminate)
    raise AssertionError("the command line must end the process")


def refused(result: Result) -> str:
    """The one line of an expected failure, before which only a file was opened."""
    assert result.returncode == 2, result.stderr
    *opened, line = result.stderr.strip().splitlines()
    assert all(text.startswith("open ") for text in opened), result.stderr
    assert line.startswith("lia-adapt: ")
    return line


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, and what convert made of it."""
    folder = tmp_path_factory.mktemp("workshop")
    toys.checkpoint(folder / "toy.pkl")
    result = run("convert", "toy.pkl", *QUICK, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "toy.lia.html" not in result.stderr
    return folder


def test_convert_writes_four_files_and_no_others(workshop: Path) -> None:
    assert sorted(p.name for p in workshop.iterdir() if p.name.startswith("toy.lia")) == [
        "toy.lia.html", "toy.lia.json", "toy.lia.png", "toy.lia.safetensors",
    ]  # fmt: skip
    assert not list(workshop.glob(".*"))


def test_converted_synthesis_is_the_checkpoints_bit_for_bit(workshop: Path) -> None:
    plain, converted = load(workshop / "toy.pkl"), load(workshop / "toy.lia.safetensors")
    state = converted.generator.synthesis.state_dict()  # type: ignore[attr-defined]
    for name, tensor in plain.generator.synthesis.state_dict().items():  # type: ignore[attr-defined]
        assert tensor.equal(state[name])


def test_progress_and_figures_are_told(workshop: Path, tmp_path: Path) -> None:
    result = run("convert", workshop / "toy.pkl", "-o", "f.safetensors", *QUICK, cwd=tmp_path)
    assert re.search(r"fit flow 30/30, \d+ s", result.stderr)
    assert "x its noise floor" in result.stdout
    assert "wrote f.safetensors" in result.stdout


def test_dry_run_writes_nothing(workshop: Path, tmp_path: Path) -> None:
    result = run("convert", workshop / "toy.pkl", "-n", "steps=7", cwd=tmp_path)
    assert result.returncode == 0
    assert "steps = 7" in result.stdout
    assert "would fit the mapping 'flow'" in result.stdout
    assert not list(tmp_path.iterdir())


def test_sample_draws_seeds_of_both_kinds_of_file(workshop: Path) -> None:
    for name in ("toy.pkl", "toy.lia.safetensors"):
        result = run("sample", name, "--seeds", "0-5,9", "--trunc", "0.7", "-o", "grid.png", cwd=workshop)
        assert result.returncode == 0, result.stderr
        with Image.open(workshop / "grid.png") as picture:
            assert picture.size == (3 * 8, 3 * 8)


def test_a_converted_file_draws_the_checkpoints_pictures_and_by_choice_others(workshop: Path, tmp_path: Path) -> None:
    args = ["--seeds", "3,0,42", "--trunc", "0.7", "-o"]
    for name, more in (("toy.pkl", []), ("toy.lia.safetensors", []), ("toy.lia.safetensors", ["--mapping", "invertible"])):
        result = run("sample", workshop / name, *args, tmp_path / f"{name}{len(more)}.png", *more, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    assert np.array_equal(pixels(tmp_path / "toy.pkl0.png"), pixels(tmp_path / "toy.lia.safetensors0.png"))
    lia = load(workshop / "toy.lia.safetensors")
    x = lia.synthesize(lia.to_y(seed_to_z([3, 0, 42], lia.z_dim)), psi=0.7)
    assert np.array_equal(pixels(tmp_path / "toy.lia.safetensors2.png"), grid(x))
    assert not np.array_equal(grid(x), pixels(tmp_path / "toy.pkl0.png"))


def test_a_converted_conditional_file_draws_the_checkpoints_pictures(tmp_path: Path) -> None:
    toys.checkpoint(tmp_path / "c.pkl", c_dim=3)
    assert run("convert", "c.pkl", *QUICK, cwd=tmp_path).returncode == 0
    for label in ("0", "2"):
        for name in ("c.pkl", "c.lia.safetensors"):
            args = ["--seeds", "0-4", "--trunc", "0.5", "--class", label, "-o", f"{name}.png"]
            assert run("sample", name, *args, cwd=tmp_path).returncode == 0
        assert np.array_equal(pixels(tmp_path / "c.pkl.png"), pixels(tmp_path / "c.lia.safetensors.png"))


def test_a_checkpoint_has_no_invertible_mapping_to_sample_by(workshop: Path, tmp_path: Path) -> None:
    expected = "lia-adapt: this checkpoint has no invertible mapping to sample by: run lia-adapt convert on it first."
    for more in ([], ["-n"]):
        args = ["--mapping", "invertible", "-o", "new/", *more]
        assert refused(run("sample", workshop / "toy.pkl", *args, cwd=tmp_path)) == expected
    assert not list(tmp_path.iterdir())


def test_many_seeds_come_on_several_sheets(workshop: Path, tmp_path: Path) -> None:
    source = workshop / "toy.pkl"
    result = run("sample", source, "--seeds", "0-65,7", "-o", "grid.png", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "wrote grid-00001-of-00002.png and 1 more: 67 pictures\n"
    assert result.stderr.startswith("open toy\npictures 0/67\n")
    assert re.search(r"pictures 67/67, \d+ s\n$", result.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid-00001-of-00002.png", "grid-00002-of-00002.png"]
    assert np.array_equal(pixels(tmp_path / "grid-00001-of-00002.png"), grid(load(source).sample(range(64))))
    assert np.array_equal(pixels(tmp_path / "grid-00002-of-00002.png"), grid(load(source).sample([64, 65, 7])))


@pytest.mark.parametrize("out", ["faces", "faces.old/", "there.old"])
def test_into_a_folder_each_seed_goes_by_its_number(workshop: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "there.old").mkdir()
    (tmp_path / "there.old" / "seed0007.png").write_text("of an earlier run")
    result = run("sample", workshop / "toy.pkl", "--seeds", "7-8,12345,7", "-o", out, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"wrote {out.rstrip('/')}/seed0007.png and 2 more: 3 pictures\n"
    assert sorted(path.name for path in (tmp_path / out).iterdir()) == ["seed0007.png", "seed0008.png", "seed12345.png"]
    drawn = load(workshop / "toy.pkl").sample([7, 8, 12345])
    for seed, x in zip(("0007", "0008", "12345"), drawn.split(1), strict=True):
        assert np.array_equal(pixels(tmp_path / out / f"seed{seed}.png"), grid(x))


def test_what_sample_cannot_write_is_said_before_the_file_is_opened(workshop: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    for out, message in (
        ("grid.jpg", "ends in .jpg; expected a picture or a folder. Name grid.png, or grid.jpg/."),
        ("absent/grid.png", "does not exist"),
        ("taken/grid.png", "is not a folder"),
    ):
        line = refused(result := run("sample", workshop / "toy.pkl", "-o", out, cwd=tmp_path))
        assert message in line and "\nopen " not in "\n" + result.stderr
    assert "cannot make the folder taken" in refused(run("sample", workshop / "toy.pkl", "-o", "taken", cwd=tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def pixels(path: Path) -> NDArray[np.uint8]:
    return np.asarray(Image.open(path))


def grid(x: Tensor) -> NDArray[np.uint8]:
    return np.asarray(image_grid(x))


def test_adapter_only_needs_its_checkpoint(workshop: Path, tmp_path: Path) -> None:
    source = workshop / "toy.pkl"
    assert run("convert", source, "-o", "a.safetensors", "--adapter-only", *QUICK, cwd=tmp_path).returncode == 0
    assert "made for toy.pkl" in refused(run("sample", "a.safetensors", "-o", "x.png", cwd=tmp_path))
    assert run("sample", "a.safetensors", "--generator", source, "-o", "x.png", cwd=tmp_path).returncode == 0


def test_inspect_tells_what_a_file_is(workshop: Path) -> None:
    plain = run("inspect", "toy.pkl", cwd=workshop).stdout
    assert "stylegan2" in plain
    assert "torch_utils.persistence._reconstruct_persistent_obj" in plain
    assert "can be converted" in plain
    assert "a LIA file" in run("inspect", "toy.lia.safetensors", cwd=workshop).stdout


def test_a_start_does_not_load_torchs_compiler() -> None:
    code = "import sys, lia_adapter.cli, lia_adapter; assert not {'torch._dynamo', 'sympy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inspect_is_safe_on_an_attack(tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(b"cposix\nsystem\n(S'touch PWNED'\ntR.")
    result = run("inspect", "bad.pkl", cwd=tmp_path)
    assert result.returncode == 0
    assert "posix.system" in result.stdout
    assert "refused" in result.stdout
    assert not (tmp_path / "PWNED").exists()


def test_conditional_sampling_wants_a_class(tmp_path: Path) -> None:
    toys.checkpoint(tmp_path / "c.pkl", c_dim=3)
    assert "--class 0 to 2" in refused(run("sample", "c.pkl", "-o", "x.png", cwd=tmp_path))
    assert "expected 0 to 2" in refused(run("sample", "c.pkl", "-o", "x.png", "--class", "3", cwd=tmp_path))
    assert run("sample", "c.pkl", "-o", "x.png", "--class", "1", cwd=tmp_path).returncode == 0


def test_doctor_tells_what_runs_where(tmp_path: Path) -> None:
    result = run("doctor", cwd=tmp_path)
    assert result.returncode == 0
    assert "torch 2." in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["missing.pkl"], "missing.pkl"),
        (["folder"], "folder"),
        (["page.pkl"], "HTML"),
        (["toy.pkl", "-o", "nowhere/f.safetensors"], "does not exist"),
        (["toy.pkl", "-o", "folder"], "must end in .safetensors"),
        (["toy.pkl", "step=3"], "did you mean 'steps'"),
        (["toy.pkl", "steps=many"], "steps"),
        (["toy.pkl", "steps"], "expected key=value"),
        (["toy.pkl", "--recipe", "convrt"], "convert"),
        (["toy.pkl", "--coupling", "cubic"], "expected one of auto, flow"),
        (["toy.pkl", "--coupling", "dense"], "coupling=flow"),
        (["toy.pkl", "--features", "page.pkl"], "page.pkl"),
        (["toy.pkl", "--data", "page.pkl"], "neither a folder, nor a zip"),
        (["toy.pkl", "--sha256", "0" * 64], "SHA-256"),
        (["toy.pkl", "--device", "abacus"], "abacus"),
        (["toy.pkl", "--rude"], "--rude"),
        (["ftp://example.com/x.pkl"], "ftp"),
    ],
)
def test_wrong_inputs_end_in_one_helpful_line(workshop: Path, tmp_path: Path, args: list[str], message: str) -> None:
    (tmp_path / "toy.pkl").write_bytes((workshop / "toy.pkl").read_bytes())
    (tmp_path / "folder").mkdir()
    (tmp_path / "page.pkl").write_text("<!DOCTYPE html><html>too many downloads</html>")
    before = sorted(tmp_path.rglob("*"))
    assert message in refused(run("convert", *args, cwd=tmp_path))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_told(workshop: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "permission denied" in refused(run("convert", workshop / "toy.pkl", *QUICK, cwd=tmp_path))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_says_so_and_goes_on(workshop: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [sys.executable, "-m", "lia_adapter", "convert", str(workshop / "toy.pkl"), "-o", "f.safetensors"]
    recipe = [*QUICK, "steps=100000"]
    # What a shell starts in the background inherits that ctrl-C is ignored; a user's command does not.
    listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen([*command, *recipe], cwd=tmp_path, stderr=subprocess.PIPE, text=True, preexec_fn=listen)
    assert process.stderr is not None
    while (line := process.stderr.readline()) and not line.startswith("fit "):
        pass  # compiling and sampling come first
    process.send_signal(number)
    errors = process.stderr.read()
    assert process.wait() == code
    assert errors.strip().splitlines()[-1].startswith("lia-adapt: ")
    assert not (tmp_path / "f.safetensors").exists()
    assert (tmp_path / ".f.safetensors.fit").exists()


@pytest.mark.slow
def test_kill_at_twenty_moments_leaves_no_half_file(workshop: Path, tmp_path: Path) -> None:
    """kill -9 at moments spread over the whole run: OUT is absent or whole, and the next run ends well."""
    command = [sys.executable, "-m", "lia_adapter", "convert", str(workshop / "toy.pkl"), "-o", "f.safetensors"]
    recipe = [*QUICK, "steps=300", "save_seconds=0.2"]
    start = time.monotonic()
    subprocess.run([*command, *recipe], cwd=tmp_path, check=True, capture_output=True)
    whole = time.monotonic() - start
    for i in range(20):
        for file in tmp_path.iterdir():
            if i % 2:  # every other time on top of what the last kill left
                file.unlink()
        process = subprocess.Popen([*command, *recipe], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(whole * (i + 1) / 20.5)
        process.kill()
        process.wait()
        if (tmp_path / "f.safetensors").exists():
            load(tmp_path / "f.safetensors")
        result = subprocess.run([*command, *recipe], cwd=tmp_path, capture_output=True, text=True)
        assert result.returncode == 0, result.stderr
        load(tmp_path / "f.safetensors")
        assert not list(tmp_path.glob(".*"))


def test_hostile_files_end_in_one_line_and_write_nothing(shared: Path, tmp_path: Path) -> None:
    for source in sorted((shared / "hostile").iterdir()):
        if source.name != "MANIFEST.json":
            refused(run("convert", source, cwd=tmp_path))
            assert not list(tmp_path.iterdir())
