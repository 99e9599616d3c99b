"""`lia-adapt export`: a generator for programs that are not ours."""

from pathlib import Path

import click

from lia_adapter.cli.options import Job, generator_file
from lia_adapter.cli.terminal import ProgressLine

__all__ = ["export"]


@click.command(cls=Job)
@click.argument("file")
@click.option(
    "--to", "target", type=click.Choice(["nvlabs", "rosinality", "torch", "onnx"]), required=True,
    help="Weights for NVlabs/stylegan3 or rosinality/stylegan2-pytorch, or graphs for torch.export or ONNX.",
)  # fmt: skip
@click.option("-o", "--out", type=Path, help="Default <stem>-<target>.safetensors, or for graphs the folder <stem>-<target>.")
@generator_file
def export(file: str, target: str, out: Path | None, generator: str | None) -> None:
    """Write FILE, a LIA file or a plain checkpoint, in the form of another program.

    Weights are those of the generator with its ORIGINAL mapping, and of the discriminator, in the shapes of that program.
    Graphs are all directions that FILE has: synthesis, mapping, inverse and encoder. They need no code of lia-adapter. A note
    on how to load what was written is written beside it.
    """
    from lia_adapter.download import source_stem
    from lia_adapter.export import WEIGHTS, export_graphs, export_weights
    from lia_adapter.loading import load

    lia = load(file, generator=generator, device="cpu")
    left: tuple[str, ...] = ()
    name = f"{source_stem(file)}-{target}"
    if target in WEIGHTS:
        exported = export_weights(lia, target, out or Path(f"{name}.safetensors"))
        files, left = exported.files, exported.left
    else:
        files = export_graphs(lia, target, out or Path(name), progress=ProgressLine())
    for path in files:
        click.echo(f"wrote {path}")
    for sentence in left:
        click.echo(f"note  {sentence}")
