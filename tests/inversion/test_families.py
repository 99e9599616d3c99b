"""Methods of inversion on networks that other programs wrote: images of their own codes are found, from their mean."""

from pathlib import Path

import pytest
import torch

from lia_adapter.generators import broadcast
from lia_adapter.inversion import IMAGE_LOSS, METHODS, Problem, redraw
from lia_adapter.loading import load
from lia_adapter.mapping import InvertibleMapping


@pytest.mark.parametrize("method", ["features", "tune", "multi-code", "ladder"])
@pytest.mark.parametrize(
    "name", ["sg1_tf_cond_fused.pkl", "sg2ada_cond.pkl", "sg3r_uncond.pkl", "sgxl_stem_cond.pkl", "lia_tf.pkl", "eps_rect.pkl"]
)
def test_every_family_is_inverted(shared: Path, name: str, method: str) -> None:
    generator = load(shared / "checkpoints" / name).generator
    mapping = generator.learnt_mapping or InvertibleMapping("flow", generator.y_dim, generator.c_dim)
    c = torch.eye(generator.c_dim)[:2] if generator.c_dim else None
    with torch.no_grad():
        y = generator.mapping(torch.randn(2, generator.z_dim, generator=torch.Generator().manual_seed(0)), c)
        ys = broadcast(y, generator.num_ws, generator.y_dim)
        x, mean = generator.synthesis(ys), ys.mean(dim=0, keepdim=True).expand_as(ys).contiguous()
    task = Problem(
        generator, mapping, x, c, IMAGE_LOSS, mean, 20, [0, 1], codes=3, faithful=True,
        coordinates=0.1 * torch.eye(generator.y_dim),
    )  # fmt: skip
    found = METHODS[method](task)
    before = IMAGE_LOSS(generator.synthesis(mean), x).mean()
    assert float(found.loss.mean()) < 0.7 * float(before)
    torch.testing.assert_close(redraw(generator, found.ys, found.kept), found.images, atol=1e-4, rtol=1e-4)
