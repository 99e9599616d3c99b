"""Draws the toy faces: flat shapes with exact edges, painted one over the other, and one light.

Every shape is a signed distance d(x, y), negative inside (Quilez 2008), and covers a pixel by clip(1/2 - d / pixel, 0, 1). The
shorter side of the image is 1.76 units, its centre the origin, x to the right and y down. What is on the front of the head is
drawn as on a ball that turns: a near cheek is wider than a far one.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_faces"]

Array = NDArray[np.floating]

_SIDE = 1.76  # of the image
_BALL = 0.66  # radius of the ball that the front of the head is drawn on
_TURN, _TILT = 0.40, 0.24  # radians at a factor of 1
_PIVOT = 0.55  # height of the point about which the head tilts
_SKINS, _HAIRS, _BACKDROPS = (
    np.array(palette, np.float32)
    for palette in (
        [(0.99, 0.87, 0.78), (0.94, 0.75, 0.60), (0.76, 0.54, 0.38), (0.53, 0.35, 0.24), (0.36, 0.23, 0.17)],
        [(0.11, 0.09, 0.10), (0.34, 0.20, 0.12), (0.63, 0.27, 0.12), (0.93, 0.74, 0.40), (0.86, 0.86, 0.89)],
        # The last is the first again: a circle.
        [
            (0.93, 0.60, 0.52),
            (0.96, 0.83, 0.52),
            (0.62, 0.80, 0.60),
            (0.52, 0.74, 0.84),
            (0.72, 0.62, 0.84),
            (0.93, 0.60, 0.52),
        ],
    )
)
_CLOTHES, _DARK, _WHITE, _LIP, _IRIS, _MOUTH = np.array(
    [(0.23, 0.34, 0.46), (0.13, 0.10, 0.12), (0.98, 0.98, 0.97), (0.78, 0.30, 0.32), (0.30, 0.24, 0.20), (0.32, 0.09, 0.11)],
    np.float32,
)


def draw_faces(factors: Array, names: tuple[str, ...], resolution: tuple[int, int]) -> NDArray[np.uint8]:
    """Draws one face a row.

    Args:
        factors: [N, F], continuous ones in [-1, 1] or [0, 1] as the table of `toyfaces` says, binary ones 0 or 1.
        names: Of the F factors.
        resolution: (H, W).

    Returns:
        [N, H, W, 3].
    """
    f = {name: factors[:, i, None, None].astype(np.float32) for i, name in enumerate(names)}
    picture = _Picture(len(factors), resolution)
    x, y = picture.x, picture.y
    skin, hair = _mix(_SKINS, f["skin"]), _mix(_HAIRS, f["hair_colour"])
    backdrop = _mix(_BACKDROPS, f["background"])
    picture.image[:] = backdrop * (1.04 - 0.14 * (y[..., None] + 1))

    # The head has coordinates of its own: tilted about the neck, and moved a little to where it looks.
    turn, angle = f["turn"], _TILT * f["tilt"]
    cos, sin = np.cos(angle), np.sin(angle)
    hx = cos * x + sin * (y - _PIVOT) - 0.04 * turn
    hy = cos * (y - _PIVOT) - sin * x + _PIVOT
    light = _light(hx, hy, f["light"])

    # Behind the head: hair down to the shoulders, the neck, clothes, ears.
    length = f["hair_length"]
    fall = _box(hx + 0.03 * turn, hy - (0.12 + 0.25 * length), 0.34 + 0.22 * length, 0.20 + 0.42 * length, 0.2 + 0.1 * length)
    picture.paint(fall + 4 * np.clip(0.12 - length, 0, 1), 0.78 * hair * light)
    picture.paint(_box(x - 0.5 * sin * 0.3, y - 0.62, 0.17, 0.3, 0.1), 0.84 * skin * light)
    picture.paint(_ellipse(x, y - 1.22, 0.80, 0.46), _CLOTHES * light)
    picture.paint(_ellipse(x, y - 0.74, 0.22, 0.13), 0.84 * skin * light)
    for side in (-1, 1):
        picture.paint(_ellipse(hx - side * 0.47 + 0.09 * turn, hy - 0.06, 0.10, 0.14), 0.93 * skin * light)
    head = np.minimum(_ellipse(hx, hy + 0.10, 0.49, 0.54), _ellipse(hx - 0.06 * turn, hy - 0.20, 0.385, 0.42))
    picture.paint(head, skin * light)

    # On the ball: a feature at u is seen at _BALL * sin(asin(u / _BALL) + turn).
    u = _BALL * np.sin(np.arcsin(np.clip(hx / _BALL, -0.98, 0.98)) - _TURN * turn)
    v = hy
    picture.within = head
    for side in (-1, 1):
        blush = np.clip(1 - np.hypot(u - side * 0.27, v - 0.25) / 0.15, 0, 1)[..., None]
        picture.image += 0.22 * blush * picture.cover(head) * (_LIP * light - picture.image)
    picture.paint(_ellipse(u, v - 0.17, 0.055, 0.035), 0.80 * skin * light)
    picture.paint(_ellipse(u + 0.004, v - 0.145, 0.055, 0.035), 1.06 * skin * light)
    for side in (-1, 1):
        _eye(picture, u - side * 0.205, v + 0.02, f["eye_opening"], skin * light)
        brow = v + 0.205 + 0.02 * f["eye_opening"] - 0.35 * (u - side * 0.205) ** 2 * 3
        picture.paint(np.maximum(np.abs(brow) - 0.026, np.abs(u - side * 0.205) - 0.115), 0.62 * hair * light)
    _mouth(picture, u, v - 0.375, f["smile"], f["mouth_opening"], 0.5 * _LIP * light + 0.5 * _LIP)
    picture.within = None
    on = 9 * (1 - f["glasses"])
    for side in (-1, 1):
        rim = np.abs(_box(u - side * 0.215, v + 0.01, 0.155, 0.125, 0.09)) - 0.024
        picture.paint(rim + on, _DARK)
        arm = np.maximum(np.abs(v + 0.03) - 0.022, np.abs(u - side * 0.44) - 0.08)
        picture.paint(np.maximum(arm, head) + on, _DARK)
    picture.paint(np.maximum(np.abs(v + 0.02) - 0.022, np.abs(u) - 0.06) + on, _DARK)

    # In front: a cap of hair, open where the face is; longer hair comes down at its sides.
    cap = _ellipse(hx, hy + 0.15, 0.55, 0.58)
    opening = np.minimum(
        _ellipse(u + 0.07, v - 0.14, 0.44, 0.40), np.maximum(_ellipse(u, v - 0.35, 0.45, 0.75), 0.02 - v + 0.03 * np.sign(u))
    )
    below = v - (0.02 + 0.5 * length)
    front = np.maximum(np.maximum(cap, -opening), below)
    sides = np.maximum(np.maximum(np.abs(hx) - 0.55, -_ellipse(hx, v - 0.12, 0.435, 0.62)), np.maximum(below, -v - 0.2))
    picture.paint(
        np.minimum(front, sides + 9 * (length < 0.15)), hair * light * (0.94 + 0.10 * np.cos(14 * u + 3 * v)[..., None])
    )
    return np.rint(np.clip(picture.image, 0, 1) * 255).astype(np.uint8)


class _Picture:
    """N images that shapes are painted on."""

    def __init__(self, n: int, resolution: tuple[int, int]) -> None:
        h, w = resolution
        self.pixel = np.float32(_SIDE / min(h, w))
        self.x = ((np.arange(w, dtype=np.float32) + 0.5 - w / 2) * self.pixel)[None, None, :]
        self.y = ((np.arange(h, dtype=np.float32) + 0.5 - h / 2) * self.pixel)[None, :, None]
        self.image = np.empty((n, h, w, 3), np.float32)
        self.within: Array | None = None  # where there is one, nothing is painted outside of it

    def cover(self, d: Array) -> Array:
        """How much of each pixel lies inside, [N, H, W, 1]."""
        covered: Array = np.clip(0.5 - d / self.pixel, 0, 1)[..., None]
        return covered

    def paint(self, d: Array, colour: Array) -> None:
        """Paints the inside of d [N, H, W] with a colour [..., 3] in 0 .. 1."""
        d = d if self.within is None else np.maximum(d, self.within)
        self.image += self.cover(d) * (colour - self.image)


def _mix(palette: Array, place: Array) -> Array:
    """A colour [N, 1, 1, 3] between those of a palette; place [N, 1, 1] from 0 to 1."""
    at = np.clip(place[:, 0, 0], 0, 1) * (len(palette) - 1)
    low = np.minimum(at.astype(int), len(palette) - 2)
    share = (at - low)[:, None]
    mixed: Array = (palette[low] * (1 - share) + palette[low + 1] * share)[:, None, None, :]
    return mixed


def _light(x: Array, y: Array, direction: Array) -> Array:
    """Brightness [N, H, W, 1] of a ball lit from the left (-1) to the right (1), and from a little above (Lambert)."""
    nx, ny = np.clip(x / 0.75, -1, 1), np.clip((y - 0.05) / 0.95, -1, 1)
    nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0.05, 1))
    along, up, ahead = 0.85 * direction, -0.35, 0.75
    shade: Array = 0.70 + 0.36 * np.clip((nx * along + ny * up + nz * ahead) / np.sqrt(along**2 + up**2 + ahead**2), -0.4, 1)
    return shade[..., None]


def _ellipse(x: Array, y: Array, rx: float, ry: float | Array) -> Array:
    """Nearly the signed distance of an axis-aligned ellipse about the origin: exact on its edge."""
    k = np.sqrt((x / rx) ** 2 + (y / ry) ** 2)
    gradient = np.sqrt((x / rx**2) ** 2 + (y / ry**2) ** 2)
    d: Array = k * (k - 1) / np.maximum(gradient, 1e-6)
    return d


def _box(x: Array, y: Array, half_w: float | Array, half_h: float | Array, radius: float | Array) -> Array:
    """Signed distance of a box with round corners about the origin."""
    qx, qy = np.abs(x) - half_w + radius, np.abs(y) - half_h + radius
    d: Array = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0)) + np.minimum(np.maximum(qx, qy), 0) - radius
    return d


def _eye(picture: _Picture, x: Array, y: Array, opening: Array, lid: Array) -> None:
    """An eye about the origin: white, iris, pupil and a gleam within the slit, and a line of lashes above."""
    height = 0.012 + 0.088 * opening
    slit = _ellipse(x, y, 0.115, height)
    picture.paint(_ellipse(x, y, 0.135, height + 0.022), 0.82 * lid)
    picture.paint(slit, _WHITE)
    picture.paint(np.maximum(np.hypot(x, y) - 0.066, slit), _IRIS)
    picture.paint(np.maximum(np.hypot(x, y) - 0.036, slit), _DARK)
    picture.paint(np.maximum(np.hypot(x - 0.025, y + 0.028) - 0.017, slit), _WHITE)
    lashes = np.abs(y + height * np.sqrt(np.clip(1 - (x / 0.14) ** 2, 0, 1))) - 0.017
    picture.paint(np.maximum(lashes, np.abs(x) - 0.125), _DARK)


def _mouth(picture: _Picture, x: Array, y: Array, smile: Array, opening: Array, lip: Array) -> None:
    """A mouth about the origin: the corners go up with a smile (down below 0), the lower lip goes down as it opens."""
    half = 0.155 + 0.045 * np.maximum(smile, 0) - 0.02 * opening
    across = np.clip(x / half, -1.2, 1.2)
    bend = 0.105 * smile * (0.45 - across**2)
    slope = np.sqrt(1 + (2 * 0.105 * smile * across / half) ** 2)
    arch = np.sqrt(np.clip(1 - across**2, 0, 1))
    gap = (0.012 + 0.13 * opening) * arch
    ends = np.abs(x) - half
    top, bottom = bend - 0.018 * arch, bend + gap
    inside = np.maximum(np.maximum(top - y, y - bottom) / slope, ends)
    picture.paint(
        np.maximum(np.maximum(top - 0.032 * arch - 0.012 - y, y - bottom - 0.042 * arch - 0.012) / slope, ends - 0.02), lip
    )
    picture.paint(inside, _MOUTH)
    teeth = np.maximum(inside, (y - top - 0.055) / slope)
    picture.paint(np.maximum(teeth, 0.035 - gap), _WHITE)
