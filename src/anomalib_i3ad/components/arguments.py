"""Checks of constructor arguments and of image sizes."""

from collections.abc import Iterable


def check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    """Check that an argument is one of its choices.

    Raises:
        ValueError: If it is not; names the argument and the choices.
    """
    choices = tuple(choices)
    if value not in choices:
        msg = f"{name} {value!r} must be one of {', '.join(map(repr, choices))}"
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
