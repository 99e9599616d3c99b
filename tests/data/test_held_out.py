"""The images that a training leaves out where nobody says which."""

from pathlib import Path

import pytest

from lia_adapter.data import open_images
from lia_adapter.data.open import held_out_numbers
from lia_adapter.errors import ConfigError
from tests import toys


def names(n: int) -> list[str]:
    return [f"{i // 1000:05d}/img{i:08d}.png" for i in range(n)]


def kept(of: list[str]) -> set[str]:
    return {of[i] for i in held_out_numbers(of)}


@pytest.mark.parametrize(
    ("images", "expected"),
    [(1, 0), (5, 0), (99, 0), (100, 10), (200, 10), (240, 12), (1000, 50), (20_001, 1000), (30_000, 1000)],
)
def test_how_many(images: int, expected: int) -> None:
    assert len(held_out_numbers(names(images))) == expected


def test_they_lie_all_over_the_set_and_not_at_its_end() -> None:
    """30 classes in order of their names, as of a sorted folder of persons: a uniform draw leaves none of them out."""
    numbers = held_out_numbers(names(30_000))
    classes = [sum(number // 1000 == k for number in numbers) for k in range(30)]
    assert min(classes) > 33 - 5 * 5.7 and max(classes) < 33 + 5 * 5.7  # five binomial deviations


def test_which_ones_is_a_matter_of_names_alone() -> None:
    """Neither order nor other files move them: one that comes or goes changes two at most."""
    some = names(2000)
    first = kept(some)
    assert kept(some[::-1]) == first
    for more in ("0.png", "zzz.png", "00001/new.png", "ünï/\udcff.png"):
        changed = kept(sorted([*some, more])) ^ first
        assert len(changed) <= 2
    less = kept(some[:700] + some[701:])
    assert len(less ^ first) <= 2


def test_the_two_splits_are_disjoint_and_whole(tmp_path: Path) -> None:
    data = toys.pictures(tmp_path / "d", 120, (4, 4))
    train, test, whole = (open_images(data, (4, 4), 3, split=split).names for split in ("not held out", "held out", "all"))
    assert len(test) == 10 and not set(train) & set(test) and sorted([*train, *test]) == list(whole)
    toy_train, toy_test = (
        open_images("toyfaces:300", (32, 32), 3, split=split).names for split in ("not held out", "held out")
    )
    assert len(toy_test) == 15 and not set(toy_train) & set(toy_test)


def test_of_few_images_none_are_held_out(tmp_path: Path) -> None:
    data = toys.pictures(tmp_path / "d", 5, (4, 4))
    assert len(open_images(data, (4, 4), 3, split="not held out")) == 5
    with pytest.raises(ConfigError, match="leaves none of the 5 images .*of fewer than 100, none are held out"):
        open_images(data, (4, 4), 3, split="held out")
