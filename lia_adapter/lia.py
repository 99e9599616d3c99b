"""`LIA`: a generator, its invertible mapping and its encoder, and all that goes between z, y, ys and images."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.budget import GRADIENT, allowance, at_once, in_parts, seconds_of
from lia_adapter.canonical import NetworksConfig
from lia_adapter.editing import CodeSpace, Directions, Edit, Metric, StyleSpace, edited, planned, style_shift
from lia_adapter.editing.directions import own_directions
from lia_adapter.encoder import Encoder, encoded, one_code
from lia_adapter.errors import LIAError, argument, check_choice
from lia_adapter.generators import (
    Generator,
    MappingSampler,
    PublishedEncoder,
    as_generator,
    broadcast,
    graphs_at_once,
    picture_bytes,
    sampled_mean,
    seed_to_z,
    shifted_styles,
    truncate,
)
from lia_adapter.inversion import IMAGE_LOSS, Inversion, ReconstructionLoss, check_prior_weight, search, search_coordinates
from lia_adapter.keys import SEARCH_SPACES, SEED_MAPPINGS, STARTS
from lia_adapter.lia_file import write_networks
from lia_adapter.linalg import covariance_root
from lia_adapter.mapping import InvertibleMapping
from lia_adapter.metrics.prior_p import PriorRank
from lia_adapter.metrics.typicality import Typicality
from lia_adapter.progress import Progress

__all__ = ["LIA"]


class LIA(nn.Module):
    """A generator, with an invertible mapping by `convert` and an encoder by `train_encoder`; `load` opens one.

    Attributes:
        generator: With the original mapping, which gives seeds their pictures; its weights never change.
        mapping: φ⁻¹ and φ, or None before conversion; that of a generator which was trained with one (`train`) is its own.
        discriminator: The checkpoint's, or None.
        encoder: x → y: one that train_encoder made, or the one of an official LIA's checkpoint; else None.
        typicality: Tells how usual the code of an image is; train_encoder measures it.
        coordinates: The matrix of the coordinates that `invert` searches y in, once it has found it.
        directions: What `edit` knows by name, where the user has set it: from `read_directions`, or `find_directions`.
        family, config: Of the generator, and the canonical config of both networks; None and {} for a wrapped one.
        provenance, metrics: Where the weights came from and what made the file; what was measured. Both as JSON.
    """

    def __init__(
        self, generator: Generator, mapping: InvertibleMapping | None = None, discriminator: nn.Module | None = None,
        encoder: Encoder | PublishedEncoder | None = None, typicality: Typicality | None = None, *,
        family: str | None = None, config: NetworksConfig | None = None, provenance: Mapping[str, Any] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        generator = as_generator(generator)
        mapping = generator.learnt_mapping if mapping is None else mapping
        if mapping is not None and mapping.y_dim != generator.y_dim:
            raise LIAError(f"the mapping makes y of {mapping.y_dim} entries; the generator takes {generator.y_dim}.")
        self.generator = generator
        self.mapping = mapping
        self.discriminator = discriminator
        self.encoder = encoder
        self.typicality = typicality
        self.coordinates: Tensor | None = None
        self.directions: Directions | None = None
        self._own_directions: Directions | None = None  # found to be of this generator
        self._bytes: dict[str, int] = {}
        self._sampled_mean: Tensor | None = None
        self._prior_rank: PriorRank | None = None
        self.family = family
        self.config: NetworksConfig = {**config} if config else {}
        self.provenance, self.metrics = dict(provenance or {}), dict(metrics or {})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for part in (self.generator, self) for p in part.parameters()), torch.device("cpu"))

    @property
    def mapping_is_own(self) -> bool:
        """Whether the mapping is the generator's own, with which it was trained: it was not converted, nor needs to be."""
        return self.mapping is not None and self.mapping is self.generator.learnt_mapping

    @property
    def z_dim(self) -> int:
        """Entries of a code's z: y_dim once converted, as a bijection keeps the number. A seed's z has `generator.z_dim`."""
        return self.generator.z_dim if self.mapping is None else self.mapping.y_dim

    def find_coordinates(self, seconds: float = math.inf, progress: Progress | None = None) -> Tensor:
        """The matrix of the coordinates to search y in; found once, as it takes up to thousands of gradients.

        Args:
            seconds: About how long it may take; fewer gradients tell less well which directions move pixels.
            progress: Is told what is done.
        """
        if self.coordinates is None or self.coordinates.device != self.device:
            self.coordinates = search_coordinates(self.generator, self.whitening()[1], seconds=seconds, progress=progress)
        return self.coordinates

    def at_once(self, work: str, most: int | None = None) -> int:
        """How many pictures this LIA should work on at once: for those who read them one batch after another.

        Args:
            work: "draw", or "reconstruct", which is to encode and draw.
            most: No more than this.

        Raises:
            LIAError: There is no memory for a single one.
        """
        if work not in self._bytes:  # measured once, as it takes longer than to draw a small picture
            use = None if work == "draw" else lambda x: self.synthesize(self.encode(x))
            self._bytes[work] = picture_bytes(self.generator, use)
        height, width = self.generator.resolution
        return at_once(self._bytes[work], self.device, most=most, what=f"picture of {width}x{height}")

    def whitening(self) -> tuple[Tensor, Tensor]:
        """Mean [y_dim] and root of the covariance [y_dim, y_dim] of the original mapping's y."""
        if isinstance(self.encoder, Encoder):
            return self.encoder.mean, self.encoder.root
        _, y, _ = MappingSampler(self.generator).pairs(20_000, torch.Generator(self.device).manual_seed(0))
        mean, root = covariance_root(y)
        return mean.to(y), root.to(y)

    @property
    def y_mean(self) -> Tensor:
        """Centre of truncation [y_dim]: the generator's average, else that of samples of its mapping; `convert` keeps it."""
        if self.generator.y_mean is not None:
            return self.generator.y_mean
        if self.generator.c_dim and self.mapping is not None:  # over all classes, as `convert` measured it
            return self.mapping.y_mean
        if self.generator.c_dim:
            raise LIAError(f"this conditional generator keeps no average y; sample it with {argument('psi')} 1.")
        if self._sampled_mean is None or self._sampled_mean.device != self.device:  # asked for with every batch of pictures
            self._sampled_mean = sampled_mean(self.generator, self.device)
        return self._sampled_mean

    def to_y(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """φ⁻¹: a code's z [N, z_dim] ~ N(0, I), c [N, c_dim] -> y [N, y_dim]. Before conversion, the original mapping."""
        z, c = z.to(self.device), None if c is None else c.to(self.device)
        return self.generator.mapping(z, c) if self.mapping is None else self.mapping.to_y(z, c)

    def to_z(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """φ: y [N, y_dim], c [N, c_dim] -> the code's z [N, y_dim], in float64, in which it gives the same y again.

        Raises:
            LIAError: The checkpoint was not converted: its own mapping has no inverse.
        """
        if self.mapping is None:
            raise LIAError("this checkpoint's mapping has no inverse. Run lia-adapt convert on it first.")
        return self.mapping.to_z(y.to(self.device), None if c is None else c.to(self.device))

    def centre(self, c: Tensor | None) -> Tensor:
        """Centre of truncation: y_mean, [N, 1, y_dim] where there is one for each class (StyleGAN-XL); one for each layer."""
        means = self.generator.y_means
        mean = self.y_mean if means is None or c is None else means[c.argmax(dim=1)][:, None]
        many = mean.shape[-1] != self.generator.y_dim
        return mean.reshape(self.generator.num_ws, self.generator.y_dim) if many else mean

    def synthesize(
        self, y_or_ys: Tensor, *, psi: float = 1.0, cutoff: int | None = None, noise_mode: str = "const",
        c: Tensor | None = None, styles: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Draws images from codes.

        Args:
            y_or_ys: y [N, y_dim] or ys [N, num_ws, y_dim].
            psi: Truncation; 1 is none.
            cutoff: Layers that are truncated, from the first on; None is all.
            noise_mode: none, const or random.
            c: Labels [N, c_dim], for truncation towards the mean of each class where the generator knows that.
            styles: What is added to the styles [1 or N, S], which truncation does not shrink: of `style_shift`.

        Returns:
            x [N, C, H, W], about in [-1, 1] (not clamped).
        """
        ys = broadcast(y_or_ys.to(self.device), self.generator.num_ws, self.generator.y_dim)
        if psi != 1:
            ys = truncate(ys, self.centre(c), psi, cutoff)
        with shifted_styles(self.generator, styles, len(ys)):
            return self.generator.synthesis(ys, noise_mode=noise_mode)

    @torch.no_grad()
    def sample(self, seeds: Sequence[int], *, psi: float = 1.0, c: Tensor | None = None, mapping: str = "original") -> Tensor:
        """Images of StyleGAN's seeds: seed 42 is picture 42.

        Args:
            seeds: N numbers in 0 .. 2³² - 1.
            psi: Truncation; 1 is none.
            c: Labels [N, c_dim] of a conditional generator.
            mapping: What makes y of a seed's z: original, with the very pictures of before `convert`; or invertible, which
                takes it for a code's. Of a generator that was trained with an invertible mapping both are that one.

        Returns:
            x [N, C, H, W], about in [-1, 1] (not clamped).

        Raises:
            LIAError: seeds are no sequence of numbers, there are not as many labels, or there is no such mapping.
        """
        images = list(self.pictures(seeds, psi=psi, c=c, mapping=mapping))
        return torch.cat(images) if images else torch.zeros(0, self.generator.channels, *self.generator.resolution)

    def pictures(
        self, seeds: Sequence[int], *, psi: float = 1.0, c: Tensor | None = None, mapping: str = "original"
    ) -> Iterator[Tensor]:
        """What `sample` gives, but no more at once than memory and speed allow: batches [n, C, H, W]."""
        if not hasattr(seeds, "__len__"):
            raise LIAError(f"seeds is {seeds!r:.40}; expected a sequence of numbers, such as range(16) or [42].")
        if c is not None and len(c) != len(seeds):
            raise LIAError(f"c has labels for {len(c)} images; there are {len(seeds)} seeds. Give one label for each.")
        check_choice("mapping", mapping, SEED_MAPPINGS)
        if mapping == "invertible" and self.mapping is None:
            raise LIAError("this checkpoint has no invertible mapping to sample by: run lia-adapt convert on it first.")
        original = mapping == "original"

        @torch.no_grad()
        def draw(part: range) -> Tensor:
            z = seed_to_z(seeds[part.start : part.stop], self.generator.z_dim if original else self.z_dim).to(self.device)
            label = None if c is None else c[part.start : part.stop].to(self.device)
            y = self.generator.mapping(z, label) if original else self.to_y(z, label)
            return self.synthesize(y, psi=psi, c=label)

        return in_parts(draw, range(len(seeds)), self.at_once("draw") if len(seeds) > 1 else 1)

    def encode(self, x: Tensor) -> Tensor:
        """f: images x [N, C, H, W] in [-1, 1] -> y [N, y_dim] in its passes; ys [N, num_ws, y_dim] of an encoder into ys.

        Args:
            x: At the generator's resolution; `lia_adapter.data.fit_image` fits a picture to it. A class needs not be told.

        Raises:
            LIAError: There is no encoder yet, or x has another shape.
        """
        if self.encoder is None:
            raise LIAError("this file has no encoder. Run lia-adapt train-encoder on it first.")
        return encoded(self.encoder, x.to(self.device), self.synthesize)

    def typicality_of(self, y: Tensor) -> Tensor:
        """How usual codes y [N, y_dim] are, [N] in 0 to 1 (`Typicality`); nan where train_encoder has not measured it."""
        return y.new_full([len(y)], torch.nan) if self.typicality is None else self.typicality(y)

    def prior_p(self, y: Tensor, c: Tensor | None = None) -> Tensor:
        """How likely codes y [N, y_dim] with labels c [N, c_dim] are, [N] in 0 to 1 (`PriorRank`); nan before conversion."""
        if self.mapping is None:
            return y.new_full([len(y)], torch.nan)
        if self._prior_rank is None or not self._prior_rank.fits(self.mapping, self.device):
            self._prior_rank = PriorRank(MappingSampler(self.generator), self.mapping, self.whitening()[1])
        return self._prior_rank(y.to(self.device), None if c is None else c.to(self.device))

    @torch.no_grad()
    def reconstruct(self, x: Tensor) -> Tensor:
        """g(f(x)): images [N, C, H, W] in [-1, 1] encoded and drawn again, the same shape."""
        n = self.at_once("reconstruct") if len(x) > 1 else 1
        parts = list(in_parts(lambda part: self.synthesize(self.encode(part.to(self.device))), x, n))
        return torch.cat(parts) if parts else x

    def code_space(self, space: str = "y") -> Metric:
        """What lengths and angles mean among codes of y, ys (each layer by itself), z or s."""
        if space == "z":
            return CodeSpace.standard(self.z_dim, self.device)
        mean, root = self.whitening()
        of_y = CodeSpace(mean, root.double() @ root.double())
        return StyleSpace(of_y, self.generator.affines()) if space == "s" else of_y

    def edit(
        self, codes: Tensor, moves: Mapping[str, float | Tensor], *, directions: Directions | None = None,
        keep: Sequence[str] = (), layers: Sequence[int] | None = None, c: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Codes moved along directions: ys [N, num_ws, y_dim].

        Args:
            codes: y [N, y_dim] or ys [N, num_ws, y_dim].
            moves: How far along which, in standard deviations of the prior: a number, or [N].
            directions: Where the names are; None: `self.directions`.
            keep: Directions whose attributes are to stay: what is moved along is made independent of them under the prior.
            layers: Which ys move, from 0; None: as the directions say, or all.
            c: Labels [N, c_dim] of a conditional generator, for directions of z.

        Raises:
            LIAError: There are no directions, none of a name, or they are not of this generator.
        """
        ys = broadcast(codes.to(self.device), self.generator.num_ws, self.generator.y_dim)
        return edited(ys, self._planned(moves, directions, keep), mapping=self.mapping, c=c, layers=layers)

    def style_shift(
        self, moves: Mapping[str, float | Tensor], *, directions: Directions | None = None,
        keep: Sequence[str] = (), layers: Sequence[int] | None = None,
    ) -> Tensor:  # fmt: skip
        """What moves along directions of s add to the styles of any code: [1 or N, S], for `synthesize`.

        See `edit` for the arguments; layers are style layers here.
        """
        return style_shift(self._planned(moves, directions, keep), self.generator, layers=layers)

    def _planned(self, moves: Mapping[str, float | Tensor], directions: Directions | None, keep: Sequence[str]) -> list[Edit]:
        found = self.directions if directions is None else directions
        if found is None or found is not self._own_directions:
            self._own_directions = found = own_directions(found, self.generator, self.provenance.get("source"))
        return planned(found, moves, keep, self.code_space)

    @torch.no_grad()
    def invert(
        self, x: Tensor, c: Tensor | None = None, *, steps: int = 0, space: str = "y", start: str = "encoder",
        loss: ReconstructionLoss | None = None, prior_weight: float = 0.0, seed: int | Sequence[int] = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> Inversion:  # fmt: skip
        """Codes of images by the encoder, by optimisation, or by the one and then the other.

        As many images are worked on at once as memory and speed allow; what one gets does not depend on the others.

        Args:
            x: [N, C, H, W] in [-1, 1].
            c: Labels [N, c_dim] of a conditional generator.
            steps: Of optimisation; 0 is none.
            space: Where to search: y, ys (a y of its own for every layer) or z.
            start: encoder, mean, or random.
            loss: What is minimised; None: pixels and their pyramid (`IMAGE_LOSS`).
            prior_weight: Of log(1 + |z|² / D) of the codes (`prior_loss`), which is added to the loss; 0: none.
            seed: Of the random start of each image (not StyleGAN's), or of the first, where the others have those that follow.
            progress: Is told the steps done and to do, over all images.

        Raises:
            LIAError: An unknown space or start, no mapping, no encoder to start from, or no labels for a conditional generator.
        """
        check_choice("space", space, SEARCH_SPACES)
        check_choice("start", start, STARTS)
        check_prior_weight(prior_weight, self.mapping)
        if (mapping := self.mapping) is None:
            raise LIAError("this checkpoint was not converted, so its codes have no z. Run lia-adapt convert on it first.")
        if mapping.c_dim and c is None:  # told before the search and not by what needs it first
            raise LIAError(f"this generator is class-conditional: found no labels, expected c [{len(x)}, {mapping.c_dim}].")
        seeds = range(seed, seed + len(x)) if isinstance(seed, int) else seed
        compare = loss or IMAGE_LOSS
        n, drawing = graphs_at_once(self.generator, lambda x: compare(x, x.detach())) if steps else (1, nullcontext)
        if steps and space != "z" and self.coordinates is None:
            self.find_coordinates(self.search_seconds(len(x) * steps))
        if not steps and len(x) > 1:
            n = self.at_once("reconstruct" if start == "encoder" else "draw")
        found: list[Inversion] = []

        def look(part: range) -> Inversion:
            before, here = sum(len(p.loss) for p in found), slice(part.start, part.stop)
            tell = None if progress is None else lambda step, _: progress(before * steps + step * len(part), len(x) * steps)
            images, label = x[here].to(self.device), None if c is None else c[here].to(self.device)
            first = self.first_codes(images, label, space, start, seeds[here])
            coordinates = None if space == "z" else self.find_coordinates() if steps else torch.eye(first.shape[-1]).to(first)
            return search(
                self.generator, mapping, first, images, label, compare,
                coordinates=coordinates, steps=steps, prior_weight=prior_weight, progress=tell,
            )  # fmt: skip

        with drawing():
            found.extend(in_parts(look, range(len(x)), n))
        return Inversion.joined(found)

    def search_seconds(self, passes: int) -> float:
        """How long finding the coordinates of a search may take that draws so many pictures and their gradients."""
        ys = self.y_mean.expand(1, self.generator.num_ws, -1)
        drawing = min(seconds_of(lambda: self.generator.synthesis(ys)) for _ in range(2))  # the first time is slower
        return allowance(passes * GRADIENT * drawing)

    def first_codes(self, x: Tensor, c: Tensor | None, space: str, start: str, seeds: Sequence[int]) -> Tensor:
        """Codes of a space that the search for images begins with."""
        if start == "encoder":
            first = self.encode(x)
        elif start == "random":
            randoms = [torch.Generator().manual_seed(seed) for seed in seeds]
            first = self.to_y(torch.stack([torch.randn(self.z_dim, generator=random) for random in randoms]).to(x), c)
        else:
            first = self.y_mean.expand(len(x), -1)
        if space == "ys":
            return broadcast(first, self.generator.num_ws)
        if space == "y":
            return one_code(first)
        z = self.to_z(one_code(first), c)
        return torch.zeros_like(z) if start == "mean" else z

    def save(self, path: str | Path, *, adapter_only: bool = False, half: bool = False) -> None:
        """Writes one .safetensors file, whole or not at all.

        Args:
            path: The file.
            adapter_only: Leave generator and discriminator out and bind the file to them by hash; always so for a
                wrapped third-party generator.
            half: Write the weights of generator and discriminator in float16. They are rounded; adapters made for the
                generator as it is now will not fit it any more.

        Raises:
            LIAError: There is nothing to save, the name ends in another way, or the file cannot be written.
        """
        write_networks(self, path, adapter_only=adapter_only, half=half)
