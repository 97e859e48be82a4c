"""Checks of constructor arguments and of image sizes."""

from collections.abc import Iterable
from math import inf, isfinite


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
    name: str, value: float, *, at_least: float = -inf, above: float = -inf, at_most: float = inf, below: float = inf
) -> None:
    """Check that an argument lies in its range, which holds neither infinity nor NaN.

    Raises:
        ValueError: If it does not; names the argument, its value and the range.
    """
    if not (at_least <= value <= at_most and above < value < below):
        limits = {">=": at_least, ">": above, "<=": at_most, "<": below}
        allowed = " and ".join(f"{sign} {limit}" for sign, limit in limits.items() if isfinite(limit))
        msg = f"{name} {value} must be a finite number {allowed}"
        raise ValueError(msg)


def check_own_size(height: int, width: int, own: tuple[int, int]) -> None:
    """Check that images have the one size that a model takes.

    Raises:
        ValueError: If they have another.
    """
    if (height, width) != tuple(own):
        msg = f"image of {height}x{width} pixels: this model takes {'x'.join(map(str, own))} (image_size)"
        raise ValueError(msg)


def check_sides(height: int, width: int, divisor: int, network: str) -> None:
    """Check that a network that halves images several times can take one of this size.

    Raises:
        ValueError: If ``divisor`` does not divide both sides; names the network.
    """
    if height % divisor or width % divisor:
        msg = (
            f"image of {height}x{width} pixels: the {network} takes sides that are multiples of {divisor} (image_size)"
        )
        raise ValueError(msg)
