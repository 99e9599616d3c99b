"""The options of commands that move codes along directions."""

from collections.abc import Sequence

import click

__all__ = ["directions_files", "keep", "layers", "move", "numbers"]


def numbers(context: click.Context, option: click.Parameter, values: Sequence[str]) -> dict[str, float]:
    """NAME=NUMBER, several times."""
    found: dict[str, float] = {}
    for value in values:
        name, equals, text = value.rpartition("=")
        try:
            found[name] = float(text)
        except ValueError:
            equals = ""
        if not equals or not name or found[name] != found[name] or abs(found[name]) > 1e6:
            raise click.BadParameter(f"{value!r} is no NAME=NUMBER, such as smile=2.", context, option)
    if len(found) < len(values):
        raise click.BadParameter("one name is given twice; say once how far to go.", context, option)
    return found


def _names(context: click.Context, option: click.Parameter, values: Sequence[str]) -> list[str]:
    """Names, several times or with commas between."""
    return [name.strip() for value in values for name in value.split(",") if name.strip()]


def _layers(context: click.Context, option: click.Parameter, value: str | None) -> list[int] | None:
    """Numbers and ranges, as in 0-3,7."""
    from lia_adapter.config import parse_seeds
    from lia_adapter.errors import ConfigError

    try:
        return None if value is None else parse_seeds(value)
    except ConfigError:
        raise click.BadParameter(f"{value!r} are no layers; expected numbers and ranges, as in 4-7.", context, option) from None


directions_files = click.option(
    "--directions", multiple=True, help="A file of directions; several times for several. Default directions.safetensors."
)
move = click.option(
    "--move", multiple=True, metavar="NAME=S", callback=numbers, help="Go so many standard deviations along a direction."
)
keep = click.option("--keep", multiple=True, metavar="NAMES", callback=_names, help="Directions whose attributes are to stay.")
layers = click.option(
    "--layers", metavar="RANGE", callback=_layers,
    help="Which layers move, of s which style layers, as in 4-7; default: as directions say.",
)  # fmt: skip
