"""Checks of constructor arguments."""

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
