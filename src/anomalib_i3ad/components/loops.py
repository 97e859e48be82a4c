"""Loops that can be exported."""

import sys
from collections.abc import Callable

import torch
from tqdm import tqdm

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


def repeat(count: int, body: Callable[..., State], state: State, description: str | None = None) -> State:
    """Repeat ``state = body(i, *state)`` for i from 0 to ``count - 1``.

    A Python loop when run; one Loop node, whatever ``count``, when exported.

    Args:
        count: Number of repetitions.
        body: Maps the index, an integer scalar tensor, and the state to a state as in :func:`while_loop`.
        state: Initial state.
        description: Label of a progress bar, shown only on a terminal; ``None`` shows none.
    """
    if torch.compiler.is_exporting():
        start = torch.zeros((), dtype=torch.int64)
        return while_loop(lambda i, *_: i < count, lambda i, *s: (i + 1, *body(i, *s)), (start, *state))[1:]
    # on the line below the trainer's own bar, which redirects sys.stderr; disable=None: unless it is a terminal
    disable = True if description is None else None
    bar = tqdm(range(count), description, file=sys.__stderr__, disable=disable, leave=False, position=1)
    for i in bar:
        state = body(torch.tensor(i), *state)
    return state


def repeat_active(
    step: Callable[[State, State], tuple[State, torch.Tensor]],
    constants: State,
    state: State,
    active: torch.Tensor,
    limit: int,
) -> tuple[State, torch.Tensor]:
    """Repeat a step on the images that are not done yet; every image stops by itself.

    When run, images that are done are left out. When exported, they are computed until the last image of the batch is
    done, but keep their state.

    Args:
        step: Maps constants and state of some images to their next state and which of them go on, ``(n,)`` bool.
        constants: Tensors ``(N, ...)`` which the step only reads.
        state: Tensors ``(N, C, H, W)``.
        active: Which images are not done at the start, ``(N,)`` bool.
        limit: Most repetitions.

    Returns:
        The final state, and how often each image was updated, ``(N,)`` float.
    """
    iterations = torch.zeros_like(active, dtype=state[0].dtype)
    if torch.compiler.is_exporting():

        def unfinished(i: torch.Tensor, active: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return (i < limit) & (active > 0).any()

        def update(i: torch.Tensor, active: torch.Tensor, iterations: torch.Tensor, *state: torch.Tensor) -> State:
            after, goes_on = step(constants, state)
            moves = active[:, None, None, None] > 0
            kept = tuple(torch.where(moves, new, old) for new, old in zip(after, state, strict=True))
            return i + 1, active * goes_on.to(active.dtype), iterations + active, *kept

        start = torch.zeros((), dtype=torch.int64)
        _, _, iterations, *state_after = while_loop(
            unfinished, update, (start, active.to(iterations.dtype), iterations, *state)
        )
        return tuple(state_after), iterations
    final = tuple(value.clone() for value in state)
    index = active.nonzero()[:, 0]
    for _ in range(limit):
        if not len(index):
            break
        after, goes_on = step(tuple(value[index] for value in constants), tuple(value[index] for value in final))
        for value, new in zip(final, after, strict=True):
            value[index] = new
        iterations[index] += 1
        index = index[goes_on]
    return final, iterations
