"""Walks through graphs."""

from collections.abc import Callable, Iterable

import openvino as ov


def sources_of(node: ov.Node) -> list[ov.Node]:
    """Nodes that a node reads."""
    return [value.get_node() for value in node.input_values()]


def takers_of(node: ov.Node) -> list[ov.Node]:
    """Nodes that read a node."""
    return [target.get_node() for output in node.outputs() for target in output.get_target_inputs()]


def reached(start: Iterable[ov.Node], onward: Callable[[ov.Node], Iterable[ov.Node]]) -> dict[int, ov.Node]:
    """Nodes to which steps lead from some, these included, by their identity."""
    nodes: dict[int, ov.Node] = {}
    front = list(start)
    while front:
        node = front.pop()
        if node.get_instance_id() not in nodes:
            nodes[node.get_instance_id()] = node
            front += onward(node)
    return nodes
