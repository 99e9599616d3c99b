"""The small model that ships with the package: toy faces at 32x32. `toyfaces32.md` is its card."""

from pathlib import Path

__all__ = ["TOYFACES32"]

TOYFACES32 = Path(__file__).with_name("toyfaces32.safetensors")
"""Generator, StyleGAN's own mapping and discriminator, in float16; `lia_adapter.load` opens it."""
