"""What recipes say of their keys, written from the configs, which say it: `python -m tests.recipe_comments` writes it anew."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from lia_adapter.config import key_line
from lia_adapter.direction_keys import FindConfig
from lia_adapter.jobs.invert_config import InvertConfig
from lia_adapter.training.convert_config import ConvertConfig
from lia_adapter.training.encoder_config import EncoderConfig
from lia_adapter.training.gan_config import TrainConfig

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.toml"))
_CONFIGS: dict[str, Any] = {
    "convert": ConvertConfig, "invert": InvertConfig, "directions": FindConfig, "encoder": EncoderConfig,
    "encoder-cpu": EncoderConfig,
}  # fmt: skip
_KEY = re.compile(r"((?:# )?(\w+) = [^#]*?) *(#.*)?")


def config_of(recipe: str) -> Any:
    """The dataclass of what stands above all tables of a recipe."""
    return _CONFIGS.get(next((kind for kind in ("invert", "directions") if recipe.startswith(f"{kind}-")), recipe), TrainConfig)


def commented(recipe: str, text: str) -> str:
    """A recipe whose lines of keys end in what is said of the key."""
    lines, keys = [], {field.name: field for field in fields(config_of(recipe))}
    for line in text.splitlines():
        if line.startswith("[encoder]"):
            keys = {field.name: field for field in fields(EncoderConfig)}
        found = _KEY.fullmatch(line)
        lines.append(key_line(found[1], keys[found[2]]) if found and found[2] in keys else line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path in RECIPES:
        path.write_text(commented(path.stem, path.read_text()))
