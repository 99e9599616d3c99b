"""What the parts of other people's generators return, looked at: tensors, pairs, dicts, images of any layout and scale."""

from collections.abc import Mapping

from torch import Tensor

from lia_adapter.errors import WrapError

__all__ = ["Unreadable", "check_image", "code_in", "image_in", "is_channels_last"]

_CODES = ("w", "y", "wp", "ws", "latent", "latents", "style", "styles")
_IMAGES = ("image", "images", "img", "imgs", "rgb", "sample", "samples", "fake", "output", "x")
_CHANNELS = (1, 3, 4)  # of images as people store them


class Unreadable(TypeError):
    """A part ran, but what it returned holds nothing to go on with: another size would not change that."""


def code_in(answer: object) -> Tensor:
    """The code in what a mapping returned: a tensor, the first of a pair, or "w" of a dict.

    Raises:
        Unreadable: There is none; the text says what was returned.
    """
    if isinstance(answer, Mapping):
        for key in _CODES:
            if isinstance(found := answer.get(key), Tensor):
                return found
    if isinstance(answer, tuple):
        for value in answer:
            if isinstance(value, Tensor) and value.ndim in (2, 3):
                return value
    if isinstance(answer, Tensor):
        return answer
    raise Unreadable(f"it returned {_described(answer)}")


def image_in(answer: object) -> Tensor:
    """The images in what a synthesis returned: a tensor, the largest of a list, or "image" of a dict.

    Raises:
        Unreadable: There are none; the text says what was returned.
    """
    if isinstance(answer, Mapping):
        for key in _IMAGES:
            if isinstance(found := answer.get(key), Tensor):
                return found
        answer = tuple(answer.values())
    if isinstance(answer, (tuple, list)):
        images = [value for value in answer if isinstance(value, Tensor) and value.ndim == 4]
        if images:
            return max(images, key=lambda x: x.shape[2] * x.shape[3])  # the first of equals
    if isinstance(answer, Tensor):
        return answer
    raise Unreadable(f"it returned {_described(answer)}")


def _described(answer: object) -> str:
    if isinstance(answer, Mapping):
        held = ", ".join(map(str, answer))
    else:
        held = ", ".join(type(value).__name__ for value in answer[:4]) if isinstance(answer, (tuple, list)) else ""
    return f"a {type(answer).__name__}, not a tensor" + (f" (it holds {held})" if held else "")


def is_channels_last(x: Tensor) -> bool:
    """Whether images [N, H, W, C] have their channels last, as TensorFlow's and numpy's have."""
    return x.ndim == 4 and x.shape[3] in _CHANNELS and x.shape[1] not in _CHANNELS and min(x.shape[1:3]) > max(_CHANNELS)


def check_image(x: Tensor, n: int) -> None:
    """Refuses what can't be the images of n codes although it was drawn without an error.

    Raises:
        WrapError: It says what was returned, and the line that mends it.
    """
    problem, mend = "", ""
    if not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.")
        problem, mend = f"images of type {kind}, through which no gradient flows", "the floats before they are rounded"
    elif x.ndim == 5 and len(x) == n:
        problem, mend = f"video, a tensor of shape {list(x.shape)}", "one frame, such as synthesis=lambda ys: draw(ys)[:, :, 0]"
    elif not bool(x.isfinite().all()):
        problem, mend = "values that are not finite", "a generator without NaN or infinity in its weights, or a wider dtype"
    if problem:
        raise WrapError(f"synthesis returned {problem}; expected floats [N, C, H, W] in [-1, 1]. Pass {mend}.")
