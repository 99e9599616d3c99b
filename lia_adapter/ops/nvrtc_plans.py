"""The structs that the CUDA kernels take, and how a call is laid over blocks and threads, for launches without C++.

They are those of kernels.h, cuda_plan.h, filtered.h and filtered_tile.h; tests hold the two together.
"""

import ctypes
from ctypes import c_bool, c_double, c_int, c_int64, c_uint, c_void_p

__all__ = [
    "PATHS",
    "TILES",
    "ActBackwardArgs",
    "ActBackwardPlan",
    "Activation",
    "EpilogueArgs",
    "EpiloguePlan",
    "FilterStage",
    "FilteredArgs",
    "FilteredPlan",
    "Tail",
    "UpfirdnArgs",
    "UpfirdnPlan",
    "is_fusible",
    "plan_act_backward",
    "plan_epilogue",
    "plan_filtered",
    "plan_upfirdn2d",
]

MAX_BLOCKS = 0x7FFFFFFF
THREADS = 128  # Of a block of all kernels but those of filtered_lrelu.


# -- kernels.h


class Activation(ctypes.Structure):
    """`Activation` of kernels.h."""

    _fields_ = [("act", c_int), ("alpha", c_double), ("gain", c_double), ("clamp", c_double)]


class Tail(ctypes.Structure):
    """`Tail` of kernels.h."""

    _fields_ = [
        ("scale", c_void_p), ("noise", c_void_p), ("bias", c_void_p), ("noise_stride", c_int64), ("activation", Activation),
    ]  # fmt: skip


class EpilogueArgs(ctypes.Structure):
    """`EpilogueArgs` of kernels.h."""

    _fields_ = [
        ("x", c_void_p), ("y", c_void_p), ("n", c_int64), ("c", c_int64), ("positions", c_int64), ("channels_last", c_bool),
        ("dtype", c_int), ("tail", Tail),
    ]  # fmt: skip


class ActBackwardArgs(ctypes.Structure):
    """`ActBackwardArgs` of kernels.h."""

    _fields_ = [
        ("dy", c_void_p), ("ref", c_void_p), ("dx", c_void_p), ("size", c_int64), ("dtype", c_int), ("activation", Activation),
    ]  # fmt: skip


class UpfirdnArgs(ctypes.Structure):
    """`UpfirdnArgs` of kernels.h."""

    _fields_ = [
        ("x", c_void_p), ("y", c_void_p), ("f", c_void_p), ("n", c_int64), ("c", c_int64),
        ("in_h", c_int64), ("in_w", c_int64), ("out_h", c_int64), ("out_w", c_int64), ("kh", c_int), ("kw", c_int),
        ("up_x", c_int), ("up_y", c_int), ("down_x", c_int), ("down_y", c_int), ("pad_x0", c_int), ("pad_y0", c_int),
        ("separable", c_bool), ("flip", c_bool), ("channels_last", c_bool), ("dtype", c_int), ("gain", c_double),
        ("has_tail", c_bool), ("tail", Tail),
    ]  # fmt: skip


# -- cuda_plan.h


class EpiloguePlan(ctypes.Structure):
    """`EpiloguePlan` of cuda_plan.h."""

    _fields_ = [
        ("n", c_int64), ("positions", c_int64), ("chunked", c_uint), ("across", c_uint), ("phases", c_uint), ("units", c_uint),
        ("image_blocks", c_uint), ("blocks", c_uint),
    ]  # fmt: skip


class ActBackwardPlan(ctypes.Structure):
    """`ActBackwardPlan` of cuda_plan.h."""

    _fields_ = [("chunked", c_uint), ("blocks", c_uint)]


class UpfirdnPlan(ctypes.Structure):
    """`UpfirdnPlan` of cuda_plan.h."""

    _fields_ = [
        ("path", c_uint), ("chunked", c_uint), ("log_channels", c_uint), ("channel_tiles", c_uint), ("columns", c_uint),
        ("steps", c_uint), ("rows", c_uint), ("strips", c_uint), ("units", c_uint), ("image_blocks", c_uint),
        ("blocks", c_uint),
    ]  # fmt: skip


PATHS = ("plain4", "up2", "down2", "generic")
_FAST = {(1, 1): 0, (2, 1): 1, (1, 2): 2}  # (up, down) -> index in PATHS
_GENERIC = 3
_MAX_UNITS = 0xFFFFFFFF - THREADS


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _aligned(*addresses: int | None) -> bool:
    return all((address or 0) % 16 == 0 for address in addresses)


def _lanes(dtype: int) -> int:
    return 4 if dtype == 0 else 8


def _fits(blocks: int, units: int = 0) -> int:
    return blocks if blocks <= MAX_BLOCKS and units <= _MAX_UNITS else 0


def is_fusible(a: Activation) -> bool:
    """Whether upfirdn2d takes the activation along: `is_fusible` of cuda_plan.h."""
    return bool(a.gain >= 0 and (a.act == 0 or (a.act == 2 and a.alpha <= 1)))


def plan_epilogue(a: EpilogueArgs) -> EpiloguePlan:
    """`plan_epilogue` of cuda_plan.h."""
    joined = a.channels_last and not a.tail.scale and not a.tail.noise
    n, positions = (1, a.n * a.positions) if joined else (a.n, a.positions)
    inner = a.c if a.channels_last else positions
    parts = (a.tail.scale, a.tail.bias) if a.channels_last else (a.tail.noise,)
    chunked = inner % _lanes(a.dtype) == 0 and _aligned(a.x, a.y, *parts)
    across, steps = (inner // _lanes(a.dtype), 4) if chunked else (inner, 8)
    phases = _ceil_div(positions if a.channels_last else across, steps)
    units = phases * (across if a.channels_last else a.c)
    image_blocks = _ceil_div(units, THREADS)
    blocks = _fits(n * image_blocks, max(units, across))
    return EpiloguePlan(n, positions, chunked, across, phases, units, image_blocks, blocks)


def plan_act_backward(a: ActBackwardArgs) -> ActBackwardPlan:
    """`plan_act_backward` of cuda_plan.h."""
    chunked = _aligned(a.dy, a.ref, a.dx)
    return ActBackwardPlan(chunked, _fits(_ceil_div(a.size, THREADS * (4 * _lanes(a.dtype) if chunked else 8))))


def plan_upfirdn2d(a: UpfirdnArgs) -> UpfirdnPlan:
    """`plan_upfirdn2d` of cuda_plan.h."""
    v = _lanes(a.dtype)
    square = a.kh == a.kw == 4 and a.up_x == a.up_y and a.down_x == a.down_y
    path = _FAST.get((a.up_x, a.down_x), _GENERIC) if square else _GENERIC
    chunked = _aligned(a.y) and ((a.c % v == 0 and _aligned(a.x)) if a.channels_last else a.out_w % v == 0)
    if a.channels_last and not chunked:
        path = _GENERIC
    if path == _GENERIC:
        units = a.c * a.out_h * a.out_w
        image_blocks = _ceil_div(units, THREADS)
        blocks = _fits(a.n * image_blocks, units)
        return UpfirdnPlan(path=path, chunked=chunked, units=units, image_blocks=image_blocks, blocks=blocks)
    up = 2 if PATHS[path] == "up2" else 1
    steps = (a.out_h + (a.pad_y0 % 2 == 0) + 1) // 2 if up == 2 else a.out_h
    log_channels = channel_tiles = 0
    if a.channels_last:
        while log_channels < 3 and (2 << log_channels) <= a.c // v:
            log_channels += 1
        channel_tiles = _ceil_div(a.c // v, 1 << log_channels)
        columns = _ceil_div(_ceil_div(a.out_w, up), THREADS >> log_channels)
        units = a.n * channel_tiles * columns * THREADS
    else:
        columns = _ceil_div(a.out_w, v)
        units = a.n * a.c * columns
    enough = min(max(_ceil_div(1 << 18, units), _ceil_div(steps, 32)), _ceil_div(steps, 4))
    rows = _ceil_div(steps, enough)
    strips = _ceil_div(steps, rows)
    blocks = _fits(_ceil_div(units * strips, THREADS), 0 if a.channels_last else units * strips)
    return UpfirdnPlan(path, chunked, log_channels, channel_tiles, columns, steps, rows, strips, units * strips, 0, blocks)


# -- filtered.h and filtered_tile.h


class FilterStage(ctypes.Structure):
    """`FilterStage` of filtered.h."""

    _fields_ = [
        ("f", c_void_p), ("kh", c_int), ("kw", c_int), ("separable", c_bool), ("factor", c_int), ("pad_x0", c_int),
        ("pad_y0", c_int),
    ]  # fmt: skip


class FilteredArgs(ctypes.Structure):
    """`FilteredArgs` of filtered.h."""

    _fields_ = [
        ("x", c_void_p), ("y", c_void_p), ("bias", c_void_p), ("mask_in", c_void_p), ("mask_out", c_void_p),
        ("planes", c_int64), ("channels", c_int64), ("in_h", c_int64), ("in_w", c_int64), ("high_h", c_int64),
        ("high_w", c_int64), ("out_h", c_int64), ("out_w", c_int64), ("up", FilterStage), ("down", FilterStage),
        ("flip", c_bool), ("dtype", c_int), ("gain", c_double), ("slope", c_double), ("clamp", c_double),
    ]  # fmt: skip


class FilteredPlan(ctypes.Structure):
    """`FilteredPlan` of filtered_tile.h."""

    _fields_ = [
        ("args", FilteredArgs), ("blocks", c_int64), ("tiles_x", c_int64), ("tiles_y", c_int64), ("tile_w", c_int),
        ("tile_h", c_int), ("high_w", c_int), ("high_h", c_int), ("in_w", c_int), ("in_h", c_int),
    ]  # fmt: skip


TILES = ("22", "42", "24", "any")
"""The kernels of filtered_lrelu, as in their names, in the order of `TileKind`: (up, down) of all but the last."""

_SHARED_FLOATS = 12 * 1024


def plan_filtered(args: FilteredArgs) -> tuple[FilteredPlan, int] | None:
    """`plan_filtered` of filtered_tile.h: the plan and an index in `TILES`; None where the filters are too long for it."""
    up, down = args.up, args.down
    is_fixed = f"{up.factor}{down.factor}" in TILES and up.separable and down.separable
    if is_fixed and up.kw <= 6 * up.factor and down.kw <= 6 * down.factor:
        size = 16 if down.factor > 2 else 32
        high = (size + 5) * down.factor
        read = (high + up.factor - 2) // up.factor + 7
        return _tiled(args, (size, size), (high, high), (read, read)), TILES.index(f"{up.factor}{down.factor}")
    for size in (32, 16, 8, 4, 2, 1):
        tile = max(size, 4), size
        high_w, high_h = ((t - 1) * down.factor + max(k, down.factor) for t, k in zip(tile, (down.kw, down.kh), strict=True))
        in_w, in_h = (
            (high - 1) // up.factor + (k - 1) // up.factor + 3 for high, k in ((high_w, up.kw), (high_h, up.kh))
        )  # fmt: skip
        plan = _tiled(args, tile, (high_w, high_h), (in_w, in_h))
        if _shared_floats(plan) <= _SHARED_FLOATS:
            return plan, TILES.index("any")
    return None


def _tiled(args: FilteredArgs, tile: tuple[int, int], high: tuple[int, int], read: tuple[int, int]) -> FilteredPlan:
    """`set_tiles` of filtered_tile.h; sizes are (width, height)."""
    counts = []
    for i, (out, samples) in enumerate(((args.out_w, args.high_w), (args.out_h, args.high_h))):
        step, count = tile[i] * args.down.factor, _ceil_div(out, tile[i])
        # Samples at the end that no output reaches still have a mask.
        counts.append(max(count, _ceil_div(samples - high[i], step) + 1) if args.mask_out else count)
    return FilteredPlan(args, args.planes * counts[0] * counts[1], *counts, *tile, *high, *read)


def _shared_floats(plan: FilteredPlan) -> int:
    """`AnyTile::layout` of filtered_tile.h: how much of shared memory a plan takes."""
    up, down, row = plan.args.up, plan.args.down, _ceil_div(plan.high_w, 4) * 4
    floats: int = _ceil_div(plan.in_h * plan.in_w, 4) * 4 + plan.high_h * row
    for stage, between in ((up, plan.in_h * row), (down, plan.high_h * plan.tile_w)):
        floats += (between + stage.kw) if stage.separable else stage.kw * stage.kh
    return floats
