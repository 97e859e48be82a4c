"""A data-dependent loop that also exports."""

from collections.abc import Callable

import torch

State = tuple[torch.Tensor, ...]


def while_loop(condition: Callable[..., torch.Tensor], body: Callable[..., State], state: State) -> State:
    """Repeat ``state = body(*state)`` while ``condition(*state)``.

    A Python loop when run; a Loop node, with its data-dependent end, when exported.

    Args:
        condition: Maps the state to a boolean scalar tensor.
        body: Maps the state to a state of the same shapes and types, sharing no memory with it.
        state: Initial state.
    """
    if torch.compiler.is_exporting():
        # the operator has no public name yet
        from torch._higher_order_ops.while_loop import while_loop as exported_loop  # noqa: PLC0415

        def contiguous_body(*state: torch.Tensor) -> State:
            return tuple(value.contiguous() for value in body(*state))  # strides may not change either

        return exported_loop(condition, contiguous_body, tuple(value.contiguous() for value in state))
    while bool(condition(*state)):
        state = body(*state)
    return state
