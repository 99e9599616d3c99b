"""`edit`: pictures or codes, moved along directions, drawn and pasted back into their photographs; each PNG has its recipe."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lia_adapter.codes import given
from lia_adapter.data import none_readable, paste_back
from lia_adapter.editing import Directions, join_directions, read_directions
from lia_adapter.editing.directions import SPACES_OF_EDITS, check_owner
from lia_adapter.editing.edits import check_layers
from lia_adapter.errors import ConfigError, LIAError, argument
from lia_adapter.files import make_folder, sha256_file
from lia_adapter.generators import fingerprint, is_script
from lia_adapter.generators.labels import Label
from lia_adapter.jobs.drawing import Drawing, Drawn, is_part, open_drawing
from lia_adapter.jobs.edit_plan import Edited, EditPlan
from lia_adapter.jobs.edit_recipe import RECIPE, edit_recipe, tells_of_one, wrong_in
from lia_adapter.jobs.reconstruct import GRID, picture_stems, refuse_others
from lia_adapter.jobs.run import check_inputs_kept, report_paths, write_json, write_results
from lia_adapter.lia import LIA
from lia_adapter.metrics.scorers import load_scorer
from lia_adapter.pictures import image_grid, paired_grid, png_bytes, save_png
from lia_adapter.progress import Progress
from lia_adapter.resize import resize

__all__ = ["edit_again", "edit_images", "open_directions"]

_SHOWN = 64  # images in the grid, at most
_LARGEST = 1e6  # of a strength or a value
_IMPROBABLE = 0.01  # p of a code that the generator's mapping hardly makes


def open_directions(lia: LIA, files: Sequence[str | Path], space: str | None = None) -> Directions:
    """Files of directions of one generator as one.

    Args:
        lia: Whose they must be.
        files: One or more.
        space: y, ys, z or s: those of that space alone.

    Raises:
        LIAError: A file cannot be read, is of another generator, or there are none of that space.
    """
    if not files:
        raise ConfigError(f"give a file of directions by {argument('directions')}; lia-adapt directions find makes one.")
    if space is not None and space not in SPACES_OF_EDITS:
        raise ConfigError(f"{argument('space')} is {space!r}; expected one of {', '.join(SPACES_OF_EDITS)}.")
    parts = [read_directions(file) for file in files]
    owner = fingerprint(lia.generator)
    for file, part in zip(files, parts, strict=True):
        check_owner(part, owner, Path(file).name, lia.provenance.get("source"))
    found = join_directions(parts)
    if space is not None and not len(found := found.of_space(space)):
        raise ConfigError(
            f"none of the directions is of {space}. Find some with space={space}, or leave {argument('space')} out."
        )
    return found


def plan_edit(
    lia: LIA,
    directions: Sequence[str | Path],
    *,
    move: Mapping[str, float] | None = None,
    to: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    space: str | None = None,
    scorer: str | Path | None = None,
    psi: float = 1.0,
) -> EditPlan:
    """What `edit_images` is to do to each code, or why it can't: see there."""
    known = open_directions(lia, directions, space)
    amounts, targets = dict(move or {}), dict(to or {})
    if not amounts and not targets:
        raise ConfigError(f"nothing is to change. Give {argument('move')} NAME=STRENGTH or {argument('to')} NAME=VALUE.")
    if both := amounts.keys() & targets.keys():
        raise ConfigError(f"{min(both)!r} has a strength and a value to reach; give one of the two.")
    if both := (amounts.keys() | targets.keys()) & set(keep):
        raise ConfigError(f"{min(both)!r} is to move and to stay; leave it out of one of the two.")
    for name, value in (amounts | targets).items():
        if not abs(value) <= _LARGEST:  # nor NaN
            raise ConfigError(f"{name!r} is to change by or to {value}; expected a number of at most {_LARGEST:g} in size.")
    if not abs(psi) <= _LARGEST:
        raise ConfigError(f"{argument('psi')} is {psi}; expected a number of at most {_LARGEST:g} in size.")
    if layers is not None:
        check_layers(lia.generator, [known[name] for name in (*amounts, *targets)], layers)
    judge = None if scorer is None else load_scorer(scorer)
    return EditPlan(lia, known, amounts, targets, keep=keep, layers=layers, judge=judge, psi=psi)


def edit_images(
    lia: LIA,
    source: str | Path,
    out: str | Path,
    *,
    directions: Sequence[str | Path],
    move: Mapping[str, float] | None = None,
    to: Mapping[str, float] | None = None,
    keep: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    space: str | None = None,
    scorer: str | Path | None = None,
    only: str | None = None,
    resize_mode: str | None = None,
    split: str | None = None,
    label: Label | None = None,
    bits: int | None = None,
    align: str | None = None,
    landmarks: str | Path | None = None,
    trust_codes: bool = False,
    psi: float = 1.0,
    paste: bool = True,
    batch: int | None = None,
    lia_file: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Encodes pictures, moves their codes, and draws a PNG of each, pasted back as `reconstruct_images` does.

    What a method of inversion found beside codes is drawn with, so that edits begin at its reconstruction.

    Args:
        lia: With an encoder, if the source are images.
        source: Images, or codes of `encode` or `invert`.
        out: Folder, made where there is none; files of an earlier run of the same arguments are kept, so that one that was
            stopped goes on.
        directions: Files of directions.
        move: How far along which, in standard deviations.
        to: What an attribute shall become: of the scorer where one is given, else of the direction's own reader of codes.
        keep: Directions whose attributes are to stay.
        layers: Which ys move, from 0, of directions of s which style layers; None: as the directions say, or all.
        space: Directions of y, ys, z or s alone, where several have one name.
        scorer: See `load_scorer`; the direction's name is that of its attribute, where it has several.
        only: The name of the one image to edit.
        resize_mode: Of images; see `reconstruct_images`, also for those that follow.
        split: Of images: which.
        label: The class of all images, or the numbers of their label.
        bits: Of integer images of more than 8 bits.
        align: Of images: "ffhq" cuts faces out by their landmarks.
        landmarks: The file that tells where faces are.
        trust_codes: Whether codes of another program are this generator's.
        psi: Truncation; 1 is none.
        paste: Whether to paste back.
        batch: Images a pass, at most; None: what memory and speed allow.
        lia_file: The path of the LIA file, for the recipe in each PNG.
        progress: Is told what is done.

    Returns:
        What grid.json says: files and strengths by image, which edits left what the prior has, and what could not be read.

    Raises:
        LIAError: See `reconstruct_images`; no such direction, nothing to do, or an attribute that nothing reads.
    """
    source, out = Path(source), Path(out)
    plan = plan_edit(lia, directions, move=move, to=to, keep=keep, layers=layers, space=space, scorer=scorer, psi=psi)
    opened = open_drawing(
        lia, source, resize_mode=resize_mode, split=split, label=label, bits=bits, align=align, landmarks=landmarks,
        trust_codes=trust_codes,
    )  # fmt: skip
    names, images = opened.names, opened.images
    if only is not None and only not in names:
        raise LIAError(f"{source} holds no image {only!r}.")
    stems = picture_stems(names)
    options = {
        "move": dict(move or {}), "to": dict(to or {}), "keep": list(keep),
        "layers": None if layers is None else list(layers), "space": space,
        "scorer": _place(scorer), "resize_mode": resize_mode, "split": split, "psi": psi,
        "trust_codes": trust_codes, "paste": paste, **given(label, bits, align, _place(landmarks)),
    }  # fmt: skip
    recipe = {
        "command": "edit", "lia": _place(lia_file), **_marks(lia), "source": _place(source),
        "directions": [_place(file) for file in directions],
        "directions_sha256": [sha256_file(file) for file in directions], "options": options,
        **({} if plan.judge is None else {"scorer_sha256": sha256_file(plan.judge.path)}),
    }  # fmt: skip
    run, identity = {**recipe, "source": str(source), "only": only}, _identity(opened)
    make_folder(out)
    outputs = [out / f"{stem}{ending}" for stem in stems for ending in (".png", ".pasted.png")]
    check_inputs_kept([*outputs, *report_paths(out / GRID).values()], opened.data, names)
    refuse_others(out, stems, run)
    same = _said_before(out) == identity  # else these are other images than those of an earlier run
    write_json(out / GRID, {"run": run, "identity": identity})
    wanted = [i for i in range(len(names)) if only is None or names[i] == only]
    kept = {i: told for i in wanted if same and (told := _kept(out / f"{stems[i]}.png", recipe, names[i])) is not None}
    # What is there and not needed for the picture of them all, is not even drawn again.
    spare = [i for i in wanted[_SHOWN:] if i in kept]
    files: dict[str, dict[str, Any]] = {names[i]: kept[i] for i in spare}
    todo = [i for i in wanted if names[i] not in files]
    shown: list[list[Tensor]] = []

    def each() -> Iterator[Drawn[Edited]]:
        yield from opened.each(plan, batch, todo)
        if not shown:  # as the first could not be read
            yield from opened.each(plan, batch, spare[:_SHOWN])

    for drawn in each():
        name, stem, made = names[drawn.number], stems[drawn.number], drawn.made
        if made.before is not None and len(shown) < _SHOWN:
            shown.append([resize(x[None]) for x in (drawn.x, made.before, made.after) if x is not None])
        plan.look = len(shown) < _SHOWN
        if drawn.number in kept:
            files[name] = kept[drawn.number]
            continue
        written = [f"{stem}.png"]
        pasted = paste and images is not None and drawn.x is not None and is_part(drawn.placement, lia.generator.resolution)
        written += [f"{stem}.pasted.png"] if pasted else []
        # Rounded, as the last digits depend on how many are drawn at once.
        strengths = {key: round(value, 4) for key, value in made.strengths.items()}
        p = [None if one is None else round(one, 4) for one in made.p]
        files[name] = {"files": written, "strengths": strengths, "reached": made.reached, "prior_p": p}
        text = {RECIPE: json.dumps({**recipe, "image": name, "image_sha256": _sha256(opened, drawn), "made": files[name]})}
        make_folder((out / stem).parent)
        if pasted and images is not None:
            original = images.original(opened.original(drawn.number))
            save_png(out / written[1], paste_back(original, made.after, drawn.placement), text)
        save_png(out / written[0], image_grid(made.after[None]), text)  # the last: what there is, is whole
        if progress:
            progress("edit", len(files), len(wanted))
    if progress:
        progress("edit", len(wanted), len(wanted))
    if images is not None and not files:
        raise none_readable(images)
    files = {name: files[name] for name in names if name in files}
    rows = min(len(row) for row in shown)
    figures = {
        "run": run, "identity": identity, "source": str(source), "lia": lia.provenance.get("source"),
        "count": len(files), "images": files,
        "improbable": [name for name, one in files.items() if _left_prior(one["prior_p"])],
        "unreached": [name for name, one in files.items() if not one["reached"]], "originals": opened.problem or None,
        "unreadable": {} if images is None else images.unreadable, "shown": {"count": len(shown), "rows": rows},
    }  # fmt: skip
    columns = zip(*(row[-rows:] for row in shown), strict=True)
    write_results(out / GRID, png_bytes(paired_grid(*map(torch.cat, columns))), figures)
    return figures


def edit_again(
    path: str | Path,
    out: str | Path,
    load: Callable[[str], LIA],
    progress: Progress | None = None,
    *,
    lia_file: str | None = None,
    scorer: str | None = None,
) -> dict[str, Any]:
    """Makes a picture of `edit` once more, by the recipe in it.

    Anybody may have written the recipe: what it names is read, but no Python file runs and nothing is fetched for its sake.

    Args:
        path: The PNG.
        out: Folder, see `edit_images`.
        load: Opens a LIA file.
        progress: Is told what is done.
        lia_file: The LIA file; None: the one that the recipe names.
        scorer: What reads attributes; None: what the recipe names.

    Raises:
        LIAError: There is no recipe, or it is of no use; what it names is not there any more, has changed, or would run.
    """
    recipe = edit_recipe(path)
    named = recipe.get("lia") if lia_file is None else lia_file
    if named is None:
        raise LIAError(f"{path} was made from Python by a LIA that was in no file. Give the file beside {argument('again')}.")
    if wrong := wrong_in(recipe):
        raise LIAError(f"the recipe in {path} is damaged, or of a later version: {wrong}. Give the edit itself again.")
    options, files = dict(recipe["options"]), recipe["directions"]
    options |= {} if scorer is None else {"scorer": scorer}
    if lia_file is None and (is_script(named) or "://" in named):
        raise LIAError(
            f"{path} asks for {named!r:.200}, and no picture may say what is run or fetched. If you trust that, give it as LIA "
            f"beside {argument('again')}."
        )
    if scorer is None and is_script(asked := options.get("scorer") or ""):
        raise LIAError(
            f"{path} asks for {asked!r:.200}, and no picture may say what is run. If you trust that, give it by "
            f"{argument('scorer')}."
        )
    lia = load(named)
    if [sha256_file(file) for file in files] != recipe.get("directions_sha256"):
        raise LIAError(f"{', '.join(files)} has changed since {path} was made.")
    if any(recipe.get(key) != mark for key, mark in _marks(lia).items()):
        raise LIAError(f"{named} is another than {path} was made by, or has changed since.")
    figures = edit_images(
        lia, recipe["source"], out, directions=files, only=recipe["image"], lia_file=named, progress=progress, **options
    )
    made = edit_recipe(Path(out) / figures["images"][recipe["image"]]["files"][0])
    for key, what in {"image_sha256": recipe["image"], "scorer_sha256": options.get("scorer")}.items():
        if key in recipe and made.get(key) != recipe[key]:
            raise LIAError(f"{what} has changed since {path} was made: in {out} is the edit of what it is now.")
    return figures


def _marks(lia: LIA) -> dict[str, str | None]:
    """What a LIA is known by, as far as edits depend on it."""
    parts = {"generator": lia.generator, "encoder": lia.encoder, "mapping": lia.mapping}
    return {f"{name}_sha256": None if part is None else fingerprint(part) for name, part in parts.items()}


def _place(path: str | Path | None) -> str | None:
    """A path that is the same from everywhere; addresses stay."""
    return None if path is None else str(path) if "://" in str(path) else str(Path(path).absolute())


def _sha256(opened: Drawing, drawn: Drawn[Edited]) -> str:
    """Of one picture as the encoder sees it, or of its code with all that was found beside it."""
    if opened.codes is None:
        assert drawn.x is not None  # noqa: S101  (it has just been encoded)
        parts = {"x": drawn.x}
    else:
        parts = {name: tensor[drawn.number] for name, tensor in sorted(opened.codes.tensors.items())}
    digest = hashlib.sha256()
    for name, tensor in parts.items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _identity(opened: Drawing) -> str:
    """SHA-256 over what the images or codes are."""
    if opened.codes is None:
        assert opened.images is not None  # noqa: S101  (one of the two was opened)
        return opened.images.identity()
    digest = hashlib.sha256(json.dumps(opened.codes.names).encode())
    for name, tensor in sorted(opened.codes.tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _said_before(out: Path) -> str | None:
    """The identity of the images of an earlier run in the folder."""
    try:
        found = json.loads((out / GRID).read_text()).get("identity")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return found if isinstance(found, str) else None


def _kept(path: Path, recipe: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """What is known of a picture that an earlier run of the same recipe finished."""
    if not path.exists():
        return None
    try:
        found = edit_recipe(path)
    except LIAError:
        return None
    made = found.pop("made", None)
    found.pop("image_sha256", None)  # the identity of all images is known to be the same
    if found != json.loads(json.dumps({**recipe, "image": name})) or not isinstance(made, dict):
        return None
    whole = tells_of_one(made) and all((path.parent / Path(file).name).exists() for file in made["files"])
    return made if whole else None


def _left_prior(p: Sequence[float | None]) -> bool:
    """Whether an edit made a code improbable that was not."""
    before, after = p
    return before is not None and after is not None and after < _IMPROBABLE <= before
