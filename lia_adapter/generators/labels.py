"""A label that the user gives: a class, or numbers where labels are continuous."""

from collections.abc import Sequence

from lia_adapter.errors import ConfigError

__all__ = ["Label", "check_given_label", "label_words"]

Label = int | Sequence[float]
"""A class number, or the c_dim numbers of a label c."""

_CAMERA = 25


def label_words(c_dim: int) -> str:
    """What labels of so many entries may be, in words."""
    if c_dim == _CAMERA:
        return "25 numbers, those of a camera if it is EG3D's: 16 of its place (4x4), row by row, and 9 of its lens (3x3)"
    return f"{c_dim} numbers"


def check_given_label(label: Label | None, c_dim: int) -> None:
    """Finds out whether a label fits a generator whose labels have c_dim entries, 0 where it takes none.

    Raises:
        ConfigError: It does not.
    """
    if label is None:
        return
    if isinstance(label, int):
        if not 0 <= label < c_dim:
            expected = f"0 to {c_dim - 1}" if c_dim else "none: this generator is unconditional"
            raise ConfigError(f"the class of the images is {label}; expected {expected}.")
    elif len(label) != c_dim:
        expected = f"{label_words(c_dim)}, which may be any" if c_dim else "none: this generator is unconditional"
        numbers = f"{len(label)} number{'' if len(label) == 1 else 's'}"
        raise ConfigError(f"the label of the images has {numbers}; expected {expected}.")
