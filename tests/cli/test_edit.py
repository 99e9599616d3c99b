"""`directions` and `edit` as their users meet them: right and wrong words, one line for each fault, and no traceback."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from lia_adapter import ops
from lia_adapter.direction_keys import FIND_METHODS
from lia_adapter.jobs.edit_recipe import RECIPE
from lia_adapter.tensorfile import write_tensor_file
from tests import toys
from tests.cli.test_convert_sample_inspect import Result, refused, run

pytestmark = pytest.mark.usefixtures("reference_ops")
QUICK = ("samples=300", "count=3")


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LIA file, photographs, and directions that a command found."""
    folder = tmp_path_factory.mktemp("workshop")
    with ops.using("reference"):
        toys.with_encoder(toys.stylegan()).save(folder / "f.safetensors")
        toys.pictures(folder / "in", 3, (8, 12))
        (folder / "judge.py").write_text("def score(x):\n    return x.mean(dim=(1, 2, 3))\n")
        done = run("directions", "find", "pca", "f.safetensors", *QUICK, "--scorer", "judge.py:score", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


def wrong(workshop: Path, *args: object) -> str:
    """The one line of a refusal."""
    return refused(run(*args, cwd=workshop))


def right(workshop: Path, *args: object) -> Result:
    done = run(*args, cwd=workshop)
    assert done.returncode == 0, done.stderr
    return done


def test_find_writes_and_list_tells(workshop: Path) -> None:
    names = {f"directions.{ending}" for ending in ("safetensors", "png", "html", "json")}
    assert names <= {path.name for path in workshop.iterdir()} and not list(workshop.glob(".*"))
    told = right(workshop, "directions", "list", "directions.safetensors").stdout.splitlines()
    assert told[0] == "directions.safetensors: 3 directions of toy.pkl" and told[1].startswith("pca-1 ")
    assert "variance" in told[1] and "effect" in told[1]


def test_rename_export_and_import(workshop: Path) -> None:
    right(workshop, "directions", "find", "sefa", "f.safetensors", *QUICK, "-o", "s.safetensors")
    right(workshop, "directions", "rename", "s.safetensors", "sefa-1=smile", "sefa-2=age")
    for form in ("interfacegan", "psp", "ganspace"):
        of = ("--lia", "f.safetensors") if form == "ganspace" else ()
        right(workshop, "directions", "export", "s.safetensors", "--to", form, "-o", "exported", *of)
    assert "too: give --lia." in wrong(workshop, "directions", "export", "s.safetensors", "--to", "ganspace", "-o", "none")
    files = {path.name for path in (workshop / "exported").iterdir()}
    assert files == {"smile.npy", "age.npy", "sefa-3.npy", "smile.pt", "age.pt", "sefa-3.pt", "components.npz"}
    told = right(
        workshop, "directions", "import", "f.safetensors", "exported/smile.npy", "exported/age.pt", "-o", "i.safetensors"
    )
    assert "wrote 2 directions into i.safetensors: smile, age" in told.stdout
    right(workshop, "edit", "f.safetensors", "in", "--directions", "i.safetensors", "--move", "smile=1", "-o", "imported")
    right(workshop, "directions", "import", "f.safetensors", "exported/smile.npy", "--space", "z", "-o", "z.safetensors")
    right(workshop, "directions", "import", "f.safetensors", "exported/components.npz", "-o", "g.safetensors")


def test_edit_and_again(workshop: Path) -> None:
    told = right(
        workshop, "edit", "f.safetensors", "in", "--move", "pca-1=2", "--keep", "pca-2, pca-3", "--layers", "0-2", "-o", "out"
    )
    assert "wrote 3 edited pictures into out; open out/grid.html" in told.stdout
    assert {path.name for path in (workshop / "out").iterdir()} == {
        *(f"00{i}{end}.png" for i in range(3) for end in ("", ".pasted")), "grid.png", "grid.html", "grid.json",
    }  # fmt: skip
    assert "pca-1 by 2 " in (workshop / "out" / "grid.html").read_text()
    right(workshop, "edit", "--again", "out/001.png", "-o", "again")
    assert (workshop / "again" / "001.png").read_bytes() == (workshop / "out" / "001.png").read_bytes()
    with Image.open(workshop / "out" / "001.png") as picture:
        recipe = json.loads(picture.info[RECIPE])
    assert recipe["options"]["move"] == {"pca-1": 2.0} and recipe["options"]["layers"] == [0, 1, 2]


def test_styles_are_found_listed_moved_and_moved_again(workshop: Path) -> None:
    right(workshop, "directions", "find", "pca", "f.safetensors", *QUICK, "space=s", "-o", "styles.safetensors")
    told = right(workshop, "directions", "list", "styles.safetensors").stdout.splitlines()
    assert told[1].split()[:2] == ["pca-1", "s"] and told[-1].startswith("layers of s: 0 b4.conv1 (16), 1 b4.torgb (16)")
    files = ("--directions", "directions.safetensors", "--directions", "styles.safetensors")
    moves = ("--move", "pca-1=2", "--keep", "pca-2", "--layers", "0-3", "-o", "out-s")
    assert "Say which by --space" in wrong(workshop, "edit", "f.safetensors", "in", *files, *moves)
    right(workshop, "edit", "f.safetensors", "in", *files, "--space", "s", *moves)
    right(workshop, "edit", "--again", "out-s/001.png", "-o", "again-s")
    made = (workshop / "out-s" / "001.png").read_bytes()
    assert (workshop / "again-s" / "001.png").read_bytes() == made
    right(workshop, "edit", "f.safetensors", "in", *files, "--space", "y", *moves[:-1], "out-y")
    assert (workshop / "out-y" / "001.png").read_bytes() != made
    assert "is of s, styles" in wrong(workshop, "directions", "export", "styles.safetensors", "--to", "psp", "-o", "exported")
    assert "sefa finds directions of y" in wrong(workshop, "directions", "find", "sefa", "f.safetensors", "space=s")
    layers = ("--move", "pca-1=2", "--directions", "styles.safetensors", "--layers", "9", "-o", "none")
    assert "--layers is [9]; this generator's style layers are 0 to 4" in wrong(
        workshop, "edit", "f.safetensors", "in", *layers
    )


def test_a_scorer_is_reached_and_run_again_only_by_ones_own_word(workshop: Path) -> None:
    args = ("--to", "pca-1=0.0", "--scorer", "judge.py:score", "-o", "to")
    right(workshop, "edit", "f.safetensors", "in", *args)
    assert "no picture may say what is run" in wrong(workshop, "edit", "--again", "to/000.png", "-o", "to2")
    right(workshop, "edit", "--again", "to/000.png", "--scorer", "judge.py:score", "-o", "to2")
    assert (workshop / "to2" / "000.png").read_bytes() == (workshop / "to" / "000.png").read_bytes()


def test_dry_runs_write_nothing_and_know_names(workshop: Path) -> None:
    before = set(workshop.iterdir())
    right(workshop, "edit", "f.safetensors", "in", "--move", "pca-1=2", "-n", "-o", "dry")
    for method in FIND_METHODS:
        told = right(workshop, "directions", "find", method, "f.safetensors", "-n", "-o", "dry.safetensors").stdout
        assert f'method = "{method}"' in told
    assert "did you mean 'pca-1'" in wrong(workshop, "edit", "f.safetensors", "in", "--move", "pca1=2", "-n", "-o", "dry")
    assert set(workshop.iterdir()) == before


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--move pca-1=nan", "is no NAME=NUMBER"), ("--move pca-1=inf", "is no NAME=NUMBER"),
        ("--move pca-1", "is no NAME=NUMBER"), ("--move =2", "is no NAME=NUMBER"), ("--move pca-1=2e6", "is no NAME=NUMBER"),
        ("--move pca-1=1 --move pca-1=2", "given twice"), ("--move pca=2", "did you mean 'pca-"),
        ("--to pca-1=2", "give --scorer, or a strength, --move"),
        ("--move pca-1=1 --layers 0-9", "this generator's are 0 to 3"),
        ("--move pca-1=1 --layers -1", "are no layers"), ("--move pca-1=1 --layers 0-4000000000", "are no layers"),
        ("--move pca-1=1 --keep pca-1", "to move and to stay"), ("--move pca-1=1 --keep zz", "there is no direction 'zz'"),
        ("--move pca-1=1 --space z", "leave --space out"), ("", "nothing is to change. Give --move NAME=STRENGTH or --to"),
        ("--move pca-1=1 --trunc nan", "nan is no finite number"),
        ("--move pca-1=1 --directions missing", "no file of directions"),
        ("--move pca-1=1 --directions f.safetensors", "holds no directions"),
        ("--move pca-1=1 --directions in", "no readable file"),
        ("--to pca-1=0 --scorer in/000.png", "--scorer: "), ("--again in/000.png", "leave all but LIA, --scorer and -o"),
    ],
)  # fmt: skip
def test_edits_of_no_use(workshop: Path, args: str, words: str) -> None:
    assert words in wrong(workshop, "edit", "f.safetensors", "in", "-o", "none", *args.split())
    assert not (workshop / "none").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("edit f.safetensors", "give LIA and PHOTOS, or --again PNG"),
        ("edit --again in/000.png", "does not say how it was made"),
        ("edit --again in -o x", "cannot read in"),
        ("edit f.safetensors missing --move pca-1=1", "missing"),
        ("edit f.safetensors directions.safetensors --move pca-1=1", "holds no codes"),
        ("edit f.safetensors in --move pca-1=1 -o in", "would write over the picture"),
        ("edit f.safetensors in --move pca-1=1 -o judge.py", "cannot make the folder"),
        ("directions find pca f.safetensors count=99", "y has 16 entries"),
        ("directions find pca f.safetensors layers=[7]", "this generator's are 0 to 3"),
        ("directions find pca f.safetensors --data in", "leave --data out"),
        ("directions find boundary f.safetensors", "give --data with labels, or --scorer"),
        ("directions find boundary f.safetensors --data in", "Give a CSV by --labels, or a scorer by --scorer"),
        ("directions find regress f.safetensors --labels x.csv", "give these by --data"),
        ("directions find pca f.safetensors -o d.npz", "must end in .safetensors"),
        ("directions find nothing f.safetensors", "is not one of"),
        ("directions list missing", "there is no file of directions"),
        ("directions rename directions.safetensors pca-1", "is no OLD=NEW"),
        ("directions rename directions.safetensors zz=a", "there is no direction 'zz'"),
        ("directions rename directions.safetensors pca-1=pca-2", "two directions 'pca-2'"),
        ("directions export directions.safetensors --to psp -o judge.py", "cannot make the folder"),
        ("directions import f.safetensors in/000.png -o i2.safetensors", "000.png"),
        ("directions import f.safetensors missing.npz -o i2.safetensors", "there is no missing.npz"),
    ],
)
def test_commands_of_no_use(workshop: Path, args: str, words: str) -> None:
    before = (workshop / "directions.safetensors").read_bytes()
    assert words in wrong(workshop, *args.split())
    assert (workshop / "directions.safetensors").read_bytes() == before


@pytest.mark.parametrize("about", [{"r2": 10**4000}, {"r2": True}, {"r2": "x", "effect": [1]}, {"r2": None}])
def test_figures_that_anybody_may_have_written_are_listed(tmp_path: Path, about: dict[str, object]) -> None:
    entry = {"name": "a", "space": "y", "method": "m", "bias": 0.0, "about": about, "layers": None}
    header = {"version": 1, "generator_sha256": "0" * 64, "directions": [entry], "about": {"source": "\x1b[31mred\n"}}
    write_tensor_file(tmp_path / "d.safetensors", "lia-adapter-directions", header, {"step.0": torch.ones(4)})
    done = run("directions", "list", "d.safetensors", cwd=tmp_path)
    assert done.returncode == 0 and "\x1b" not in done.stdout and len(done.stdout.splitlines()) == 2
    assert len(done.stdout) < 500


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ("--move pca-1=1 --layers 99", "are 0 to 3"), ("", "nothing is to change"),
        ("--move pca-1=1 --to pca-1=2", "give one of"),
        ("--move pca-1=1 --keep pca-1", "to move and to stay"), ("--to pca-1=2", "nothing reads 'pca-1'"),
    ],
)  # fmt: skip
def test_a_dry_run_refuses_what_a_run_refuses(workshop: Path, args: str, words: str) -> None:
    assert words in wrong(workshop, "edit", "f.safetensors", "in", "-o", "none", "-n", *args.split())


def test_no_file_is_lost_to_one_of_another_kind(workshop: Path, tmp_path: Path) -> None:
    lia, photos = tmp_path / "g.safetensors", workshop / "in"
    lia.write_bytes((workshop / "f.safetensors").read_bytes())
    before = lia.read_bytes()
    assert "holds a LIA file, in whose place directions" in wrong(
        tmp_path, "directions", "find", "pca", lia, "samples=300", "count=1", "-o", lia
    )
    assert "holds a LIA file, in whose place codes" in wrong(tmp_path, "encode", lia, photos, "-o", lia)
    assert "holds a LIA file, in whose place codes" in wrong(tmp_path, "invert", lia, photos, "-o", lia)
    assert run("encode", lia, photos, "-o", "codes.safetensors", cwd=tmp_path).returncode == 0
    assert "holds codes, in whose place directions" in wrong(
        tmp_path, "directions", "find", "pca", lia, "samples=300", "count=1", "-o", "codes.safetensors"
    )
    assert "holds a LIA file, in whose place weights" in wrong(tmp_path, "export", lia, "--to", "nvlabs", "-o", lia)
    assert lia.read_bytes() == before
