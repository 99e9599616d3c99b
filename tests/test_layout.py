"""The rules of the house: what imports what, what is where, and what is nowhere."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "lia_adapter"
MODULES = sorted(PACKAGE.rglob("*.py"))

ROOMS = [
    "errors",
    "progress",
    "linalg",
    "notes",
    "config",
    "keys",
    "direction_keys",
    "budget",
    "files",
    "models",
    "download",
    "ranks",
    "devices",
    "ops",
    "resize",
    "canonical",
    "checkpoints",
    "tensorfile",
    "loop",
    "mapping",
    "generators",
    "encoder",
    "data",
    "metrics",
    "inversion",
    "editing",
    "lia_file",
    "lia",
    "loading",
    "projected",
    "codes",
    "pictures",
    "export",
    "training",
    "jobs",
    "reports",
    "cli",
    "__init__",
    "__main__",
]
THIRD_PARTY = {"torch", "numpy", "click", "ninja", "requests", "PIL", "torchvision", "safetensors"}
EXECUTES = re.compile(
    r"((pickle|_pickle|marshal|shelve|dill|cloudpickle|joblib)\.(load|loads|open|Unpickler)"
    r"|torch\.(load|jit\.load|hub(\..*)?|package(\..*)?|serialization\.load)"
    r"|(builtins\.)?(eval|exec|compile|__import__))"
)


def trees() -> Iterator[tuple[str, ast.Module]]:
    for path in MODULES:
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def room_of(path: str) -> str:
    return Path(path).relative_to("lia_adapter").parts[0].removesuffix(".py")


def imported(path: str, tree: ast.Module) -> Iterator[str]:
    """Dotted names of what a module imports; `from . import x` counts as the import of x."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = Path(path).parent.parts[: 1 - node.level or None] if node.level else ()
            module = ".".join([*package, *([node.module] if node.module else [])])
            names = [alias.name for alias in node.names]
            whole = module == "lia_adapter" or (node.level and not node.module)
            yield from (f"{module}.{name}" for name in names) if whole else [module]


def offences_of_import(path: str, tree: ast.Module) -> list[str]:
    room = room_of(path)
    if room not in ROOMS:
        return [f"{path}: {room} is a new room; give it a place in ROOMS"]
    found = []
    for name in imported(path, tree):
        top, _, rest = name.partition(".")
        target = rest.split(".")[0]
        if top != "lia_adapter":
            if top not in THIRD_PARTY | sys.stdlib_module_names:
                found.append(f"{path} imports {top}, which is not a dependency")
        elif target not in ROOMS[: ROOMS.index(room) + 1] and room != "__main__":
            found.append(f"{path} imports {name}, which is not above it")
    return found


def test_a_room_imports_only_from_rooms_above_it() -> None:
    assert [offence for path, tree in trees() for offence in offences_of_import(path, tree)] == []


@pytest.mark.parametrize(
    ("path", "code", "offends"),
    [
        ("config.py", "from lia_adapter.errors import A", False),
        ("config.py", "from .errors import A", False),
        ("config.py", "from . import errors", False),
        ("config.py", "from lia_adapter.lia import A", True),
        ("config.py", "from .lia import A", True),
        ("config.py", "from . import lia", True),
        ("config.py", "def f():\n    from . import cli", True),
        ("cli/main.py", "from lia_adapter import load", True),
        ("cli/main.py", "import lia_adapter", True),
        ("cli/main.py", "from .. import load", True),
        ("cli/main.py", "from ..lia import LIA", False),
        ("metrics/a.py", "from . import b", False),
        ("metrics/a.py", "from ..mapping import b", False),
        ("metrics/a.py", "from .. import lia", True),
        ("metrics/a.py", "from ..training.loop import b", True),
        ("__init__.py", "from lia_adapter.cli import main", False),
        ("__main__.py", "from lia_adapter import load", False),
        ("cli/main.py", "import scipy.linalg", True),
        ("cli/main.py", "import torch.nn, os.path", False),
        ("surprise.py", "", True),
    ],
)
def test_the_import_rule_itself(path: str, code: str, offends: bool) -> None:
    assert bool(offences_of_import(f"lia_adapter/{path}", ast.parse(code))) == offends


def executed(tree: ast.Module) -> list[str]:
    """Dotted names that execute what a file says, whatever they were imported as."""
    aliases: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            aliases |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    used = [dotted(node, aliases) for node in ast.walk(tree) if isinstance(node, ast.Name | ast.Attribute)]
    return [name for name in [*used, *aliases.values()] if EXECUTES.fullmatch(name)]


def dotted(node: ast.expr, aliases: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, aliases)}.{node.attr}"
    return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "()"


def test_nothing_executes_what_a_file_says() -> None:
    assert [(path, executed(tree)) for path, tree in trees() if executed(tree)] == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("import torch\ntorch.load(p)", "torch.load"),
        ("import torch as t\nload = t.load", "torch.load"),
        ("from pickle import loads as f\nf(b)", "pickle.loads"),
        ("class A(pickle.Unpickler): pass", "pickle.Unpickler"),
        ("eval(s)", "eval"),
        ("model.eval(); torch.compile(model); re.compile(s); pickle.dumps(a)", ""),
    ],
)
def test_the_rule_about_execution_itself(code: str, name: str) -> None:
    assert (executed(ast.parse(code)) or [""])[0] == name


def test_no_file_is_long() -> None:
    """But the tables of the decoder: what does not fit on a few screens holds more than one idea."""
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text().splitlines()) for path in MODULES}
    assert {path: count for path, count in lines.items() if count > 400} == {
        "checkpoints/decoder.py": lines["checkpoints/decoder.py"]
    }


def test_errors_name_arguments_and_no_flags() -> None:
    """By `errors.argument`, so that each front says its own name; but for a command that is to be run."""
    flag = re.compile(r"(?<!lia-adapt export) (--[a-z]|-[on]\b)")
    found = []
    for path, tree in trees():
        if path.startswith(("lia_adapter/cli/", "lia_adapter/ops/")):
            continue
        said = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)]
        words = [(node, str(node.value)) for node in ast.walk(tree) if isinstance(node, ast.Constant)]
        found += [f"{path}: {text}" for node, text in words if node not in said and flag.search(f" {text}")]
    assert found == []


def test_the_top_level() -> None:
    names = "lia_adapter ops recipes tests pyproject.toml CHANGELOG.md README.md LICENSE Makefile .ci/run".split()
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("folder", ["ops", "recipes"])
def test_folders_that_hold_no_python(folder: str) -> None:
    (module,) = (ROOT / folder).rglob("*.py")
    (statement,) = ast.parse(module.read_text()).body
    assert module == ROOT / folder / "__init__.py"
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Constant)


def test_every_package_is_listed_for_packaging() -> None:
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for path in MODULES}
    assert {".".join(folder.relative_to(ROOT).parts) for folder in folders} <= set(setuptools["packages"])
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").rglob("*.toml")), ids=lambda path: path.name)
def test_a_recipe_opens_with_the_command_that_runs_it(path: Path) -> None:
    lines = path.read_text().splitlines()
    head = lines[: next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    assert "lia-adapt " in " ".join(head)
    assert 5 <= len(lines) <= 60


def test_nothing_names_a_path_of_one_machine() -> None:
    path_of_one_machine = re.compile(r"(?<![\w.])/(work|root|home)/")
    folders = ["lia_adapter", "ops", "recipes", "tests", "benchmarks"]
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.suffix != ".pyc"]
    files += [ROOT / name for name in ("README.md", "CHANGELOG.md", "Makefile", "pyproject.toml", ".ci/run")]
    texts = {path: path.read_bytes().decode(errors="replace") for path in files if path.is_file()}
    assert [str(path.relative_to(ROOT)) for path, text in texts.items() if path_of_one_machine.search(text)] == []
