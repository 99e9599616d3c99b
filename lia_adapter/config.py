"""Recipes: a TOML file, flat but for the table of a second stage, and `key=value` overrides become one frozen dataclass.

The dataclass is the only list of keys, types, defaults and of what is said of each (see `key`). What lies between the keys,
such as ranges, it checks itself in `__post_init__`, by raising `ConfigError`.
"""

import dataclasses
import difflib
import importlib.resources
import json
import math
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Protocol, TypeVar, get_args, get_origin, get_type_hints

from lia_adapter.errors import ConfigError
from lia_adapter.notes import say_once

__all__ = [
    "TABLES",
    "check_choices",
    "check_least",
    "check_rates",
    "check_seed",
    "has_table",
    "key",
    "key_help",
    "key_line",
    "load_recipe",
    "parse_overrides",
    "parse_seeds",
    "recipe_names",
    "stored",
    "to_toml",
]

TABLES = ("encoder",)
"""Tables that a recipe may have: the keys of a stage that follows the recipe's own."""

MAX_SEEDS = 100_000
"""More seeds than this in one list are a slip of the keyboard."""

_COLUMN = 25  # where comments begin, at the earliest

_EXPECTED = {int: "a whole number", float: "a finite number", str: "text in quotes", bool: "true or false"}
_LISTS = {int: "whole numbers", float: "numbers"}


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


T = TypeVar("T", bound=_Dataclass)


def key(said: str, default: Any = MISSING, *, was: str | None = None, none: Any = None, new: bool = False) -> Any:
    """A field of a config.

    Args:
        said: What it is, in one line: for recipes and help.
        default: Its value where a recipe does not name it; without one, each recipe must.
        was: Its name up to the last release, which recipes may use for one more, and by which files and saved runs know it.
        none: The value that said None up to the last release, likewise.
        new: Whether the last release did not know it: at its default it does not make another run of one saved before.
    """
    return dataclasses.field(default=default, metadata={"said": said, "was": was, "none": none, "new": new})


def load_recipe(cls: type[T], name: str, overrides: Mapping[str, Any] | None = None, *, table: str | None = None) -> T:
    """Read a recipe and apply overrides to it.

    Args:
        cls: A flat dataclass with fields of the types int, float, str, bool, one of these or None, tuple[int, ...]
            and tuple[float, ...]. Where None fits, "none" says it, as TOML cannot.
        name: The name of a recipe that ships with lia-adapter, such as `convert`, or a path that ends in `.toml`.
        overrides: Values that replace the recipe's. Keys that neither names keep the dataclass's default.
        table: The table of the recipe to read, such as "encoder"; None for what stands above all tables. See `has_table`.

    Raises:
        ConfigError: No such recipe, invalid TOML, an unknown or missing key, or a value that does not fit.
    """
    content = _parse(name, _read(name))
    if unknown := [key for key, value in content.items() if isinstance(value, dict) and key not in TABLES]:
        raise ConfigError(f"recipe {name} has a table [{unknown[0]}]; expected none but [{'], ['.join(TABLES)}].")
    plain = {key: value for key, value in content.items() if not isinstance(value, dict)}
    values = {**_renamed(cls, plain if table is None else content.get(table, {})), **_renamed(cls, overrides or {})}
    hints = get_type_hints(cls)
    known = {field.name: field for field in fields(cls)}
    for key in values:
        if key not in known:
            raise ConfigError(f"recipe {name} has no key {key!r};{_did_you_mean(key, known)} Known keys: {', '.join(known)}.")
    for field in known.values():
        if field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise ConfigError(
                f"recipe {name} does not set {field.name!r}, which has no default. "
                f"Add {field.name} = {_expected(hints[field.name])}."
            )
    return cls(**{key: _fit(name, known[key], value, hints[key]) for key, value in values.items()})


def has_table(name: str, table: str) -> bool:
    """Whether a recipe has a table, such as [encoder] for a second stage.

    Raises:
        ConfigError: No such recipe, or invalid TOML.
    """
    return isinstance(_parse(name, _read(name)).get(table), dict)


def check_choices(config: _Dataclass, choices: Mapping[str, Sequence[str]]) -> None:
    """Raises a ConfigError unless each of these keys has one of the values allowed."""
    for key, allowed in choices.items():
        if getattr(config, key) not in allowed:
            raise ConfigError(f"{key} is {getattr(config, key)!r}; expected one of {', '.join(allowed)}.")


def check_least(config: _Dataclass, least: Mapping[str, float]) -> None:
    """Raises a ConfigError if one of these keys is smaller than its least value."""
    for key, value in least.items():
        if (found := getattr(config, key)) is not None and found < value:
            raise ConfigError(f"{key} is {found}; expected at least {value}.")


def check_seed(config: _Dataclass) -> None:
    """Raises a ConfigError unless the key `seed` is 0 to 2**31 - 1: the random streams of a run have numbers beyond."""
    check_least(config, {"seed": 0})
    if (seed := getattr(config, "seed")) >= 2**31:  # noqa: B009  (of any config that has the key)
        raise ConfigError(f"seed is {seed}; expected less than 2**31.")


def check_rates(config: _Dataclass, *keys: str) -> None:
    """Raises a ConfigError unless each of these learning rates is more than 0 and at most 1."""
    for key in keys:
        if not 0 < getattr(config, key) <= 1:
            raise ConfigError(f"{key} is {getattr(config, key)}; expected more than 0 and at most 1.")


def key_help(cls: type[_Dataclass]) -> list[tuple[str, str]]:
    """Each key with its default as `key=value`, and what is said of it."""
    found = []
    for field in fields(cls):
        default = "" if field.default is MISSING else f"={'none' if field.default is None else _print(field.default)}"
        found.append((field.name + default.replace('"', ""), str(field.metadata.get("said", ""))))
    return found


def stored(config: _Dataclass) -> dict[str, Any]:
    """The keys as files hold them, and what saved runs are known by: as they were called when the first were written."""
    held = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.metadata.get("new") and value == field.default:
            continue
        held[field.metadata.get("was") or field.name] = field.metadata.get("none") if value is None else value
    return held


def recipe_names() -> list[str]:
    """Names of the recipes that ship with lia-adapter, sorted."""
    shipped = importlib.resources.files("lia_adapter._recipes").iterdir()
    return sorted(file.name.removesuffix(".toml") for file in shipped if file.name.endswith(".toml"))


def parse_overrides(pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` pairs; a value is TOML, or else plain text. The last of equal keys wins.

    >>> parse_overrides(["steps=200", "lr=1e-4", "device=cuda:0", "widths=[64, 128]"])
    {'steps': 200, 'lr': 0.0001, 'device': 'cuda:0', 'widths': [64, 128]}

    Raises:
        ConfigError: A pair has no `=`, or nothing before it.
    """
    overrides = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"cannot read the override {pair!r}; expected key=value, for example steps=200.")
        overrides[key.strip()] = _toml_value(text.strip())
    return overrides


def parse_seeds(text: str) -> list[int]:
    """Read StyleGAN's `--seeds` syntax: numbers and inclusive ranges, in the order given; repeated seeds stay.

    >>> parse_seeds("0-3,70,5")
    [0, 1, 2, 3, 70, 5]

    Returns:
        At most 100,000 seeds in 0..2**32-1, the range that `numpy.random.RandomState` takes.

    Raises:
        ConfigError: Not such a list, a range that runs backwards, a seed out of range, or too many seeds.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,20})(?:-([0-9]{1,20}))?\s*", part)
        if not match:
            raise ConfigError(f"cannot read the seeds {part!r}; expected numbers and ranges as in 0-63,70,5.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise ConfigError(f"the seeds {part.strip()} run backwards; write {last}-{first}.")
        if last >= 2**32:
            raise ConfigError(f"seed {last} is too large; seeds go from 0 to {2**32 - 1}.")
        if len(seeds) + last - first + 1 > MAX_SEEDS:
            raise ConfigError(f"{text!r} is more than {MAX_SEEDS:,} seeds; ask for fewer at a time.")
        seeds.extend(range(first, last + 1))
    return seeds


def to_toml(config: _Dataclass) -> str:
    """Print a config as a recipe that `load_recipe` reads back, each key with what is said of it.

    What is None where None is the default is a comment, as a key that is left out is None.
    """
    lines = []
    for field in fields(config):
        value = getattr(config, field.name)
        unset = "# " if value is None and field.default is None else ""
        lines.append(key_line(f"{unset}{field.name} = {_print(value)}", field))
    return "\n".join(lines) + "\n"


def key_line(text: str, field: Field[Any]) -> str:
    """A line of a recipe: `key = value`, and what is said of the key."""
    said = field.metadata.get("said")
    return f"{text:<{_COLUMN}}  # {said}" if said else text


def _read(name: str) -> bytes:
    if not name.endswith(".toml"):
        shipped = recipe_names()
        if name not in shipped:
            raise ConfigError(
                f"there is no recipe {name!r};{_did_you_mean(name, shipped)} Shipped recipes: {', '.join(shipped)}. "
                "A recipe of your own is a path that ends in .toml."
            )
        return importlib.resources.files("lia_adapter._recipes").joinpath(f"{name}.toml").read_bytes()
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the recipe {name}: {error.strerror}. Check the path.") from error


def _parse(name: str, content: bytes) -> dict[str, Any]:
    try:
        return tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:  # ValueError: bad TOML, bad UTF-8, a number of thousands of digits
        raise ConfigError(f"recipe {name} is not valid TOML: {error}. Correct the file.") from error


def _toml_value(text: str) -> Any:
    try:
        table = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return table["value"] if len(table) == 1 else text  # several keys: a line break in the text smuggled in another


def _renamed(cls: type[_Dataclass], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values under today's names of their keys."""
    today = {field.metadata["was"]: field.name for field in fields(cls) if field.metadata.get("was")}
    for key in today.keys() & values.keys():
        say_once(f"the key {key} is called {today[key]} now; its old name is read for one more release")
    return {today.get(key, key): value for key, value in values.items()}


def _fit(name: str, field: Field[Any], value: Any, hint: Any) -> Any:
    """The value as the field's type wants it: int to float, list to tuple, path to text, "none" to None, no more."""
    if NoneType in _kinds(hint) and any(type(value) is type(no) and value == no for no in ("none", field.metadata.get("none"))):
        return None
    for kind in _kinds(hint):
        if kind is str and isinstance(value, Path):
            return str(value)
        if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:  # false for nan, too
            return float(value)
        if get_origin(kind) is tuple and isinstance(value, list | tuple):
            if get_args(kind)[0] is float and all(type(item) in (int, float) and math.isfinite(item) for item in value):
                return tuple(map(float, value))
            if all(type(item) is int for item in value):
                return tuple(value)
        if kind in (int, str, bool, NoneType) and type(value) is kind:  # bool is a subclass of int: no isinstance
            return value
    raise ConfigError(f"recipe {name}: {field.name} = {value!r} does not fit; expected {_expected(hint)}.")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if isinstance(hint, UnionType) else (hint,)


def _expected(hint: Any) -> str:
    kinds = [kind for kind in _kinds(hint) if kind is not NoneType]
    return " or ".join(_EXPECTED.get(kind) or f"a list of {_LISTS[get_args(kind)[0]]}" for kind in kinds)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    nearest = difflib.get_close_matches(word, known, n=1)
    return f" did you mean {nearest[0]!r}?" if nearest else ""


def _print(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # TOML's escapes are JSON's, but TOML also wants DEL escaped and takes no surrogate pairs.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(list(value) if isinstance(value, tuple) else value)
