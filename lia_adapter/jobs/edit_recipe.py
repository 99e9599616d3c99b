"""The recipe in each PNG that `edit` wrote. Whoever reads one can't know who wrote it: all that it says is looked at first."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from PIL import Image

from lia_adapter.errors import LIAError

__all__ = ["RECIPE", "edit_recipe", "tells_of_one", "wrong_in"]

RECIPE = "lia-adapter"
"""Under this key each PNG has the recipe that made it, as JSON."""
_LARGEST = 1e9


def edit_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe in a PNG that `edit` wrote.

    Raises:
        LIAError: It cannot be read, or has none.
    """
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            text = picture.info.get(RECIPE)
        found = json.loads(text) if isinstance(text, str) else None
    except FileNotFoundError:
        raise LIAError(f"there is no {path}. Check the path.") from None
    except (OSError, ValueError, SyntaxError, RecursionError, Image.DecompressionBombError) as error:
        raise LIAError(f"cannot read {path}: {' '.join(str(error).split())[:200].rstrip('.')}.") from error
    if not isinstance(found, dict) or found.get("command") != "edit":
        raise LIAError(
            f"{path} does not say how it was made: lia-adapt edit did not write it, or a program has saved it since."
        )
    return found


def _are_texts(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST  # nor NaN


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str)


def _are_numbers(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


_KINDS: dict[str, Callable[[Any], bool]] = {
    "move": _are_numbers, "to": _are_numbers, "keep": _are_texts, "psi": _is_number, "space": _is_text, "scorer": _is_text,
    "layers": lambda value: value is None or (isinstance(value, list) and all(type(one) is int for one in value)),
    "label": lambda value: value is None or type(value) is int or (isinstance(value, list) and all(map(_is_number, value))),
    "bits": lambda value: value is None or (type(value) is int and 1 <= value <= 32),
    "resize_mode": _is_text, "split": _is_text, "align": _is_text, "landmarks": _is_text,
    "trust_codes": lambda value: isinstance(value, bool), "paste": lambda value: isinstance(value, bool),
}  # fmt: skip
"""What a recipe may say to `edit_images`, and what each must look like."""


def wrong_in(recipe: Mapping[str, Any]) -> str:
    """What a recipe lacks, or says in another way than `edit_images` takes it; empty: nothing."""
    texts = (key for key in ("source", "image") if not isinstance(recipe.get(key), str))
    options = recipe.get("options")
    if not isinstance(options, dict) or not _are_texts(recipe.get("directions")) or not _is_text(recipe.get("lia")):
        return "it lacks options, or files"
    wrong = (key for key, value in options.items() if key not in _KINDS or not _KINDS[key](value))
    return next((f"it says nothing of use of {key!r:.40}" for key in (*texts, *wrong)), "")


def tells_of_one(made: Mapping[str, Any]) -> bool:
    """Whether all is there that a PNG says of itself: files, strengths, whether they were reached, how probable codes are."""
    files, strengths, p = (made.get(key) for key in ("files", "strengths", "prior_p"))
    return (
        _are_texts(files)
        and _are_numbers(strengths)
        and isinstance(made.get("reached"), bool)
        and isinstance(p, list)
        and len(p) == 2
        and all(one is None or _is_number(one) for one in p)
    )
