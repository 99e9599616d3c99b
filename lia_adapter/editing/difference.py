"""Two groups of photographs: the difference of their mean codes."""

from lia_adapter.editing.directions import Direction
from lia_adapter.editing.regress import examples_of
from lia_adapter.editing.task import Task
from lia_adapter.errors import LIAError

__all__ = ["difference"]


def difference(task: Task) -> list[Direction]:
    """One direction for each attribute of two values, from the mean code of its smaller value to that of its larger.

    Args:
        task: With examples; any number of images will do.

    Returns:
        "separation": how many standard deviations of the prior apart the means are.

    Raises:
        LIAError: An attribute of another number of values.
    """
    examples, space, found = examples_of(task), task.space, []
    for name, values in zip(examples.names, examples.values.t(), strict=True):
        there = values.isfinite()
        codes, values = examples.codes[there].double(), values[there]
        ends = values.unique()
        if len(ends) != 2:
            raise LIAError(f"{name!r} has {len(ends)} values; the difference is between two groups.")
        low, high = (codes[values == end].mean(dim=0) for end in ends)
        u = space.white(high - low)
        apart = float(u.norm())
        if apart == 0:
            raise LIAError(f"the two groups of {name!r} have the same mean code: are they the same images?")
        middle = space.white((high + low) / 2 - space.mean.to(high))
        about = {"separation": apart, "images": [int((values == end).sum()) for end in ends]}
        found.append(task.attribute(name, u / apart, about, bias=-float(middle @ u) / apart))
    return found
