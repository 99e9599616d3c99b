"""The order of training samples, and the threads that load them."""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lia_adapter.data import ImageSet, Stream, in_order, open_images
from lia_adapter.data.order import Order, is_mirrored
from lia_adapter.errors import LIAError


def firsts(order: Order, numbers: range) -> list[int]:
    return [next(order.candidates(g)) for g in numbers]


# -- order


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**31 - 1), st.integers(0, 10**9))
def test_an_epoch_is_every_image_once(n: int, seed: int, epoch: int) -> None:
    numbers = range(epoch * n, (epoch + 1) * n)
    found = firsts(Order(n, seed), numbers)
    assert sorted(found) == list(range(n))
    assert [firsts(Order(n, seed), range(g, g + 1))[0] for g in reversed(numbers)] == found[::-1]  # no matter what came before
    start = n // 2
    assert list(Order(n, seed).candidates(numbers[start])) == found[start:] + found[:start]


def test_epochs_and_seeds_differ() -> None:
    # Among them seeds that agree in their lowest 32 bits, which is all that torch's generator looks at.
    orders = [tuple(firsts(Order(1000, seed), range(1000))) for seed in (0, 1, 2, 2**16, 2**31 - 1, 2**32, 2**33)]
    orders += [tuple(firsts(Order(1000, 0), range(e * 1000, (e + 1) * 1000))) for e in range(1, 6)]
    assert len(set(orders)) == 12
    for order in orders[1:]:  # and are no shifted copies: about one image in a permutation is where another has it
        assert sum(a == b for a, b in zip(orders[0], order, strict=True)) < 10


def test_half_of_the_samples_are_mirrored() -> None:
    flips = np.array([[is_mirrored(seed, g) for g in range(4000)] for seed in range(3)])
    assert (abs(flips.mean(axis=1) - 0.5) < 0.03).all()
    assert (abs(np.corrcoef(np.concatenate([flips, flips[:, ::-1]]))[np.triu_indices(6, 1)]) < 0.07).all()


# -- stream


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """13 images: image i is of gray i on the left and 100 + i on the right; 3, 7 and 8 are broken."""
    path = tmp_path_factory.mktemp("numbered")
    for i in range(13):
        pixels = np.full((2, 2, 3), i, dtype=np.uint8)
        pixels[:, 1] += 100
        Image.fromarray(pixels).save(path / f"{i:02}.png")
        if i in (3, 7, 8):
            (path / f"{i:02}.png").write_bytes(b"broken")
    labels = ", ".join(f'["{i:02}.png", {i}]' for i in range(13))
    (path / "dataset.json").write_text(f'{{"labels": [{labels}]}}')
    return path


def opened(path: Path) -> ImageSet:
    return open_images(path, (2, 2), 3, c_dim=13)


def shown(stream: Stream, numbers: range, then: range | None = None) -> list[tuple[int, bool, int]]:
    """Of every sample, which image it shows, whether mirrored, and its class."""
    x, c = stream.batch(numbers, then)
    assert x.shape == (len(numbers), 3, 2, 2) and x.dtype == torch.uint8 and c is not None
    left, right = (x[:, 0, 1, i] for i in (0, 1))
    return [
        (round(min(a, b)), a > b, k) for a, b, k in zip(left.tolist(), right.tolist(), c.argmax(dim=1).tolist(), strict=True)
    ]


def expected(seed: int, g: int) -> tuple[int, bool, int]:
    """By the rule as it is written down, an image at a time."""
    image = next(i for i in Order(13, seed).candidates(g) if i not in (3, 7, 8))
    return image, is_mirrored(seed, g), image


def test_samples_are_what_the_rule_says(numbered: Path) -> None:
    images = opened(numbered)
    assert shown(Stream(images, 5, mirror=True), range(200)) == [expected(5, g) for g in range(200)]
    assert list(images.unreadable) == ["03.png", "07.png", "08.png"]
    plain = shown(Stream(images, 5), range(200))
    assert plain == [(image, False, label) for image, _, label in (expected(5, g) for g in range(200))]


cuts = st.lists(st.integers(0, 60), max_size=12).map(lambda cut: sorted({0, 60, *cut}))


@settings(max_examples=60, deadline=None)
@given(cuts, st.sampled_from([1, 4]), st.sampled_from(["right", "none", "wrong"]), st.integers(1, 3))
def test_neither_batches_nor_workers_nor_processes_change_a_sample(
    numbered: Path, cut: list[int], workers: int, announced: str, processes: int
) -> None:
    found: dict[int, tuple[int, bool, int]] = {}
    for rank in range(processes):  # each with images of its own, which find out by themselves what is broken
        stream = Stream(opened(numbered), 1, mirror=True, workers=workers)
        shares = [range(a + rank, b, processes) for a, b in zip(cut, cut[1:], strict=False) if a + rank < b]
        for share, following in zip(shares, [*shares[1:], None], strict=True):
            then = {"right": following, "none": None, "wrong": range(500, 505)}[announced]
            found |= dict(zip(share, shown(stream, share, then), strict=True))
    assert [found[g] for g in range(60)] == [expected(1, g) for g in range(60)]


def test_the_next_batch_loads_while_nobody_asks(numbered: Path) -> None:
    images, loaded = opened(numbered), threading.Semaphore(0)
    load = images.load
    images.load = lambda index: (load(index), loaded.release())[0]  # type: ignore[method-assign, func-returns-value]
    stream = Stream(images, 0)
    stream.batch(range(3), then=range(3, 9))
    assert all(loaded.acquire(timeout=60) for _ in range(9))
    images.load = load  # type: ignore[method-assign]
    assert shown(stream, range(3, 9)) == [(image, False, image) for image, _, _ in (expected(0, g) for g in range(3, 9))]


def test_nothing_but_broken_images(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(b"")
    stream = Stream(open_images(tmp_path, (8, 8), 3), 0)
    for g in (0, 7):
        with pytest.raises(LIAError, match=r"none of the 3 images of .* can be read; '0\.png': it is empty\."):
            stream.batch(range(g, g + 2), then=range(g + 2, g + 4))


def test_the_usual_random_numbers_are_left_alone(numbered: Path) -> None:
    before = torch.get_rng_state()
    Stream(opened(numbered), 0, mirror=True).batch(range(40))
    assert torch.equal(torch.get_rng_state(), before)


def test_real_faces_in_any_batches(shared: Path) -> None:
    path = shared / "data" / "faces64.zip"
    one, many = (Stream(open_images(path, (32, 32), 1, c_dim=2), 0, mirror=True, workers=w) for w in (1, 3))
    whole, c = one.batch(range(12_100, 12_300))  # over the end of an epoch
    parts = [many.batch(range(g, g + 50), then=range(g + 50, g + 100)) for g in range(12_100, 12_300, 50)]
    assert torch.equal(torch.cat([x for x, _ in parts]), whole)
    assert c is not None and torch.equal(torch.cat([k for _, k in parts if k is not None]), c)


# -- in_order


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 50), st.integers(1, 5), st.integers(1, 20))
def test_results_come_in_order(n: int, workers: int, ahead: int) -> None:
    assert list(in_order(lambda i: i * i, range(n), workers=workers, ahead=ahead)) == [i * i for i in range(n)]


def test_no_more_is_taken_than_may_wait() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = in_order(lambda i: i, items(), workers=3, ahead=5)
    for i in range(1, 20):
        assert next(results) == i
        assert taken <= i + 5
    threads = threading.active_count()
    results.close()  # type: ignore[attr-defined]
    assert threading.active_count() < threads


def test_an_error_comes_where_its_result_would() -> None:
    results = in_order(lambda i: 1 // (3 - i), range(9), workers=2)
    assert [next(results) for _ in range(3)] == [0, 0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
