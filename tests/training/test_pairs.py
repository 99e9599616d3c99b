"""Images that the generator draws among photographs: of which codes they are, and in what units errors of codes are."""

import json
from pathlib import Path

import pytest
import torch

from lia_adapter.data import open_images, to_pixels
from lia_adapter.loop import Microbatch
from lia_adapter.training.encoder import EncoderTraining
from tests import toys
from tests.jobs.test_train_encoder import config, converted


@pytest.mark.parametrize("c_dim", [0, 3])
def test_a_share_of_each_part_is_drawn_by_codes_that_are_known(tmp_path: Path, c_dim: int) -> None:
    data, lia = toys.pictures(tmp_path, 12), converted(c_dim=c_dim)
    if c_dim:
        (data / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i % 3] for i in range(12)]}))
    images = open_images(data, (8, 8), 3, c_dim=c_dim)
    training = EncoderTraining(lia, images, config(generated=0.3), None)
    parts = [training.source.part(Microbatch(start // 8, range(start, start + 8)), torch.device("cpu")) for start in (0, 8, 0)]
    for part in parts:
        assert len(part.pixels) == 8 and len(part.y) == part.drawn.sum() == 2
        assert torch.equal(part.pixels[part.drawn], to_pixels(training.draw(part.y)))
        assert (part.c is None) if not c_dim else part.c is not None and part.c.shape == (8, 3)
    assert torch.equal(parts[0].pixels, parts[2].pixels) and not torch.equal(parts[0].y, parts[1].y)
    alone = EncoderTraining(lia, images, config(generated=0.0), None).source.part(Microbatch(0, range(8)), torch.device("cpu"))
    kept = ~parts[0].drawn
    assert torch.equal(alone.pixels[kept], parts[0].pixels[kept]) and not len(alone.y) and not alone.drawn.any()


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("cuts", [1, 2, 4])
def test_samples_do_not_depend_on_how_a_batch_is_shared_out(tmp_path: Path, processes: int, cuts: int) -> None:
    images = open_images(toys.pictures(tmp_path, 12), (8, 8), 3)
    training = EncoderTraining(converted(), images, config(generated=0.25, batch=64), None)
    cpu, size = torch.device("cpu"), 64 // cuts
    whole = training.source.part(Microbatch(3, range(192, 256)), cpu)
    codes = torch.full([64, 16], torch.nan)
    codes[whole.drawn] = whole.y
    assert len(whole.y) == 16
    for cut in range(cuts):
        for rank in range(processes):
            numbers = range(192 + cut * size + rank, 192 + (cut + 1) * size, processes)
            part, here = training.source.part(Microbatch(3, numbers), cpu), [g - 192 for g in numbers]
            assert torch.equal(part.drawn, whole.drawn[here]) and torch.equal(part.pixels, whole.pixels[here])
            assert torch.equal(part.y, codes[here][part.drawn])


@pytest.mark.parametrize("space", ["y", "ys"])
def test_the_error_of_known_codes(tmp_path: Path, space: str) -> None:
    """In whitened y, along directions as they weigh: 1 for an encoder that always answers the mean."""
    lia = converted()
    settings = config(space=space, precision="float64", prior_weight=0.0, batch=4000)
    training = EncoderTraining(lia, open_images(toys.pictures(tmp_path, 12), (8, 8), 3), settings, None)
    images = training.source.part(Microbatch(0, range(4000)), torch.device("cpu"))
    mean, root = training.encoder.mean, training.encoder.root
    directions = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0].double()
    weights = torch.arange(1.0, 17.0).double()
    training._measure_codes_by(weights, directions)
    answers = mean.expand(4000, -1) if space == "y" else mean.expand(4000, 4, -1)
    weight, error = training._of_codes(-1, answers, images)["loss/code"]
    assert weight == pytest.approx(0.1 * 0.25)
    assert float(error) == pytest.approx(1, abs=0.1)
    u = (images.y.double() - mean) @ torch.linalg.inv(root)
    expected = ((u @ directions.t()).square() * weights).sum(dim=1).mean() / weights.sum()
    torch.testing.assert_close(error, expected, rtol=5e-3, atol=0)


@pytest.mark.parametrize(
    ("batch", "share", "drawn"), [(1, 0.25, 0), (1, 0.9, 0), (2, 0.9, 1), (8, 0.25, 2), (64, 0.25, 16), (4, 0.0, 0)]
)
def test_the_share_is_that_of_the_batch_and_leaves_photographs(tmp_path: Path, batch: int, share: float, drawn: int) -> None:
    images = open_images(toys.pictures(tmp_path, 12), (8, 8), 3)
    source = EncoderTraining(converted(), images, config(generated=share, batch=batch), None).source
    part = source.part(Microbatch(1, range(batch, 2 * batch)), torch.device("cpu"))
    assert int(part.drawn.sum()) == drawn and source.share == drawn / batch


def test_a_part_without_photographs_and_what_a_discriminator_sees(tmp_path: Path) -> None:
    """Conditional, mirrored, one sample a part: losses are numbers; real images are photographs, with their own labels."""
    data = toys.pictures(tmp_path, 12)
    (data / "dataset.json").write_text(json.dumps({"labels": [[f"{i:03d}.png", i % 3] for i in range(12)]}))
    images = open_images(data, (8, 8), 3, c_dim=3)
    for adversarial in (0.0, 0.1):
        settings = config(generated=0.75, batch=4, mirror=True, adversarial_weight=adversarial)
        training = EncoderTraining(converted(c_dim=3), images, settings, None)
        training.encoder.eval()  # a batch of one has no statistics of its own
        photographs, labels = training.source.stream.batch(range(4))
        for number in range(4):
            part = training.source.part(Microbatch(0, range(number, number + 1)), torch.device("cpu"))
            losses = training.step(Microbatch(0, range(number, number + 1)))
            assert all(value.isfinite() for value in losses.values())
            assert {"loss/prior", "loss/code"} <= losses.keys()
            if part.real is not None and labels is not None and part.real[1] is not None:
                assert torch.equal(part.real[0][0], photographs[number]) and torch.equal(part.real[1][0], labels[number])
        assert (part.real is None) == (not adversarial)
