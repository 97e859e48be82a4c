"""Checks of constructor arguments and of image sizes."""

from collections.abc import Iterable, Sequence
from math import inf, isfinite
from numbers import Integral, Real
from typing import Any


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that an argument is one of its choices.

    Raises:
        ValueError: If it is not; names the argument and the choices.
    """
    choices = tuple(choices)
    if value not in choices:
        msg = f"{name} {value!r} must be one of {', '.join(map(repr, choices))}"
        raise ValueError(msg)


def check_range(
    name: str,
    value: Any,
    *,
    at_least: float = -inf,
    above: float = -inf,
    at_most: float = inf,
    below: float = inf,
    whole: bool = False,
) -> None:
    """Check that an argument is a number, or a ``whole`` one, in its range, which holds neither infinity nor NaN.

    Raises:
        ValueError: If it is not; names the argument, its value and the range.
    """
    number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
    if not (number and at_least <= value <= at_most and above < value < below):
        limits = {">=": at_least, ">": above, "<=": at_most, "<": below}
        allowed = " and ".join(f"{sign} {limit}" for sign, limit in limits.items() if isfinite(limit))
        msg = f"{name} {value!r} must be a {'whole' if whole else 'finite'} number {allowed}"
        raise ValueError(msg)


def check_count(name: str, value: Any, at_least: int = 1) -> None:
    """Check that an argument is a whole number from ``at_least`` on.

    Raises:
        ValueError: If it is not; names the argument, its value and the range.
    """
    check_range(name, value, at_least=at_least, whole=True)


def sides_of(name: str, size: Any) -> tuple[int, int]:
    """Height and width that an argument names: two numbers, or one for both.

    Raises:
        ValueError: If they are no whole numbers above 0; names the argument.
    """
    sides: Any = (size, size) if isinstance(size, Integral) else size
    if isinstance(sides, str) or not isinstance(sides, Sequence) or len(sides) != 2:
        msg = f"{name} {size!r} must be a number of pixels, or height and width"
        raise ValueError(msg)
    height, width = sides
    for side in (height, width):
        check_count(name, side)
    return int(height), int(width)  # of NumPy's, too


def check_own_size(height: int, width: int, own: tuple[int, int]) -> None:
    """Check that images have the one size that a model takes.

    Raises:
        ValueError: If they have another.
    """
    if (height, width) != tuple(own):
        msg = f"image of {height}x{width} pixels: this model takes {'x'.join(map(str, own))} (image_size)"
        raise ValueError(msg)


def check_sides(height: int, width: int, divisor: int, what: str) -> None:
    """Check that what divides images into equal parts can take one of this size.

    Raises:
        ValueError: If ``divisor`` does not divide both sides; says what needs that.
    """
    if height % divisor or width % divisor:
        msg = f"image of {height}x{width} pixels: the {what} takes sides that are multiples of {divisor} (image_size)"
        raise ValueError(msg)
