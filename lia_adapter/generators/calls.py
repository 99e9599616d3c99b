"""How public programs call the two halves of their generators: names of parts, and arguments beside the code.

Recognised by names and signatures, not by classes, as these programs have hundreds of forks:

| program | parts | beside the code |
|---|---|---|
| NVlabs' StyleGAN 2 and 3, StyleGAN-XL, -T, projected GAN, StudioGAN | mapping, synthesis | c, noise_mode |
| EG3D | mapping, synthesis | c (the camera, also in synthesis), noise_mode; a dict with "image" |
| genforce, Hammer | mapping, synthesis | label, randomize_noise or noise_mode; dicts with "w" and "image" |
| huangzh13 and other StyleGAN 1 | g_mapping, g_synthesis | depth or step, alpha |
| ALAE | mapping_f (or mapping_fl), decoder | lod, blend, noise |
| lucidrains | SE, GE (or S, G) | input_noise |
| rosinality, BasicSR, GFPGAN | style or style_mlp, the whole | a list of styles, input_is_latent, randomize_noise |
| CIPS | style, the whole | coords, a list, input_is_latent |
| StyleMapGAN | mapping_z, the whole | input_is_stylecode, a map |
| StyleSwin | style, the whole | nothing: what `style` answers is replaced |
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from lia_adapter.errors import WrapError
from lia_adapter.generators.guest import bare

__all__ = ["Call", "Replaced", "find_parts", "mapping_call", "synthesis_call"]

Part = Callable[..., Any]

_PAIRS = (
    ("mapping", "synthesis"), ("g_mapping", "g_synthesis"), ("mapping_f", "decoder"), ("mapping_fl", "decoder"),
    ("SE", "GE"), ("S", "G"),
)  # fmt: skip
_STYLES = ("style", "style_mlp", "mapping_z", "mapping", "mapping_network")  # of modules that are called as a whole
_SWITCHES = ("input_is_latent", "input_is_stylecode", "input_is_w")  # say that the code is y
_LABELS = ("c", "label", "labels", "labels_in", "class_labels", "class_label")
_STAGES = ("depth", "step", "lod", "level", "stage")  # of generators that grow: which resolution to draw
_BLENDS = ("alpha", "blend", "blend_factor")  # how far the last resolution is faded in
_NEUTRAL: dict[str, Any] = {"truncation_psi": 1.0, "truncation": 1.0, "psi": 1.0, "truncation_latent": None}


@dataclass(frozen=True)
class Call:
    """A part with all that it takes beside the code.

    Attributes:
        part: What is called.
        code: Name of the code's argument where it is not the first.
        as_list: Whether the code comes in a list.
        spatial: Side of a map that a flat code is folded into; 0 for none.
        fixed: Arguments that are always the same.
        noise: The argument for noise, noise_mode or randomize_noise.
        label: The argument for the label.
        label_vector: A label that all codes get [c_dim], in place of one of each.
        as_index: Whether the label is the number of a class rather than one-hot.
        stage: The argument that says which resolution to draw.
        coords: Size of a grid of coordinates to draw at, for the argument coords.
        input_noise: Size of the picture of noise, for the argument input_noise.
        unknown: Arguments that have no default and that nobody here knows.
    """

    part: Part
    code: str | None = None
    as_list: bool = False
    spatial: int = 0
    fixed: dict[str, Any] = field(default_factory=dict)
    noise: str | None = None
    label: str | None = None
    label_vector: Tensor | None = None
    as_index: bool = False
    stage: str | None = None
    coords: int = 0
    input_noise: int = 0
    unknown: tuple[str, ...] = ()

    def __call__(self, code: Tensor, *, c: Tensor | None = None, noise_mode: str = "const") -> Any:
        """Calls the part with codes, labels c [N, c_dim] where it takes them, and a mode of noise."""
        n, given = code.shape[0], dict(self.fixed)  # len() would fix it in a recorded graph
        if self.noise is not None:
            given[self.noise] = noise_mode if self.noise == "noise_mode" else noise_mode == "random"
        if self.label is not None:
            given[self.label] = self._label(c, n, code)
        if self.coords:
            line = torch.linspace(-1, 1, self.coords, device=code.device, dtype=code.dtype)
            across, down = line[None, :].expand(self.coords, -1), line[:, None].expand(-1, self.coords)
            given["coords"] = torch.stack([across, down]).expand(n, -1, -1, -1)
        if self.input_noise:
            given["input_noise"] = torch.rand(n, self.input_noise, self.input_noise, 1, device=code.device, dtype=code.dtype)
        given_code: Any = code.reshape(n, -1, self.spatial, self.spatial) if self.spatial else code
        given_code = [given_code] if self.as_list else given_code
        if self.code is not None:
            return self.part(**{self.code: given_code}, **given)
        return self.part(given_code, **given)

    def _label(self, c: Tensor | None, n: int, like: Tensor) -> Tensor | None:
        if self.label_vector is not None:
            c = self.label_vector.to(like.device)[None].expand(n, -1)
        if c is None:
            return None
        return c.argmax(dim=1) if self.as_index else c.to(like)

    def at_stage(self, number: int) -> "Call":
        """The same at a resolution, fully faded in."""
        assert self.stage is not None  # noqa: S101
        return replace(self, fixed=self.fixed | {self.stage: number})


def find_parts(module: nn.Module | None, mapping: str | Part | None, synthesis: str | Part | None) -> tuple[Part, Part]:
    """The two halves of a generator, as its own program would call them.

    Args:
        module: The generator.
        mapping: A dotted name, a callable, or None for one that is known.
        synthesis: Likewise.

    Raises:
        WrapError: There is no such part.
    """
    if module is not None and mapping is None and synthesis is None:
        for names in _PAIRS:
            if all(callable(getattr(module, name, None)) for name in names):
                return getattr(module, names[0]), getattr(module, names[1])
    if mapping is None:
        styles = [name for name in _STYLES if callable(getattr(module, name, None))]
        mapping = styles[0] if styles else "mapping"
    to_y = mapping if callable(mapping) else _named(module, mapping, "mapping")
    if synthesis is None and module is not None and isinstance(to_y, nn.Module) and not hasattr(module, "synthesis"):
        return to_y, module if _switch(module) else Replaced(module, to_y)
    synthesis = "synthesis" if synthesis is None else synthesis
    return to_y, synthesis if callable(synthesis) else _named(module, synthesis, "synthesis")


def _named(module: nn.Module | None, part: str, what: str) -> Part:
    found: object = module
    for name in part.split("."):
        if not hasattr(found, name):
            has = ", ".join(name for name, _ in module.named_children()) if module is not None else "nothing (no module given)"
            whole = ""
            if module is not None and part == "mapping":
                whole = " A generator without a mapping has y = z: mapping=lambda z: z, synthesis=the generator, z_dim=…"
            raise WrapError(
                f"the generator has no part {part!r} for {what}; it has: {has}. Pass {what}='dotted.name' or a callable.{whole}"
            )
        found = getattr(found, name)
    if not callable(found):
        raise WrapError(f"{part!r}, given for {what}, is a {type(found).__name__} and cannot be called.")
    return found


class Replaced:
    """A whole generator whose mapping answers y, whatever it is asked: for those that cannot be given a y."""

    def __init__(self, module: nn.Module, mapping: nn.Module) -> None:
        self.module, self.mapping = module, mapping
        self.z_dim = 0  # found out later

    def __call__(self, ys: Tensor) -> Any:
        """What the generator draws where its mapping answers ys [N, num_ws, y_dim]."""
        asked = False

        def answer(*_: object) -> Tensor:
            nonlocal asked
            asked = True
            return ys

        hook = self.mapping.register_forward_hook(answer)
        try:
            drawn = self.module(ys.new_ones(ys.shape[0], self.z_dim))
        finally:
            hook.remove()
        if not asked:
            raise TypeError("the generator did not run its mapping, so that y has no way in")
        return drawn


def _parameters(part: object) -> list[inspect.Parameter]:
    """The arguments of a part; none where they can't be known."""
    function = bare(part).forward if isinstance(part, nn.Module) else part
    if not callable(function):
        return []
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _switch(part: object) -> str | None:
    return next((p.name for p in _parameters(part) if p.name in _SWITCHES), None)


def _is_needed(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


def mapping_call(part: Part, label: Tensor | None, c_dim: int) -> Call:
    """How a mapping is called.

    Args:
        part: The mapping.
        label: The label of all codes [c_dim], or None.
        c_dim: Entries of labels that the generator says it takes.
    """
    parameters = _parameters(part)[1:]
    found = next((p for p in parameters if p.name in _LABELS), None)
    takes = found is not None and (_is_needed(found) or label is not None or c_dim > 0)
    unknown = [p.name for p in parameters if _is_needed(p) and p is not found and p.name not in _NEUTRAL]
    return Call(
        part, label=found.name if found is not None and takes else None, label_vector=label,
        fixed={p.name: _NEUTRAL[p.name] for p in parameters if _is_needed(p) and p.name in _NEUTRAL}, unknown=tuple(unknown),
    )  # fmt: skip


def synthesis_call(part: Part, owners: Sequence[object], label: Tensor | None) -> Call:
    """How a synthesis, or a whole generator that takes y, is called.

    Args:
        part: The synthesis.
        owners: Modules whose attributes tell sizes, the nearest first.
        label: The label of all codes [c_dim], or None.
    """
    parameters = _parameters(part)
    code = next((p for p in parameters if p.name != "coords"), None)
    others = {p.name: p for p in parameters if p is not code and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    switch = _switch(part)
    call = Call(part)
    if switch:
        listed = code is not None and (code.name == "styles" or "coords" in others)
        side = _attribute(owners, "latent_spatial_size") if switch == "input_is_stylecode" else 0
        call = replace(call, as_list=listed, spatial=side, fixed={switch: True})
    if code is not None and code is not parameters[0]:
        call = replace(call, code=code.name)
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        call = replace(call, noise="noise_mode")
    needed = {name for name, p in others.items() if _is_needed(p)}
    stage = next((p.name for p in others.values() if p.name in _STAGES and p.default is not None), None)
    fixed: dict[str, Any] = dict(call.fixed)
    known: set[str] = set()
    for name in others:
        if name in ("noise_mode", "randomize_noise"):
            call = replace(call, noise=name)
        elif name in _LABELS and (name in needed or label is not None):
            call = replace(call, label=name, label_vector=label)
        elif name == "coords" and name in needed:
            call = replace(call, coords=_attribute(owners, "size", "resolution", "img_resolution", "image_size"))
        elif name == "input_noise" and name in needed:
            call = replace(call, input_noise=_attribute(owners, "image_size", "size", "resolution"))
        elif name == stage:
            call = replace(call, stage=name)
        elif name in _BLENDS and stage:
            fixed[name] = 1
        elif name == "noise" and name in needed:
            fixed[name] = True
        elif name in _NEUTRAL and name in needed:
            fixed[name] = _NEUTRAL[name]
        else:
            continue
        known.add(name)
    return replace(call, fixed=fixed, unknown=tuple(sorted(needed - known)))


def _attribute(owners: Sequence[object], *names: str) -> int:
    """The first of some attributes that is a size, or 0."""
    for owner in owners:
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return 0
