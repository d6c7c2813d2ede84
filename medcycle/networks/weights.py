"""Whether weights fit a network, in words."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def misfits(
    found: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    *,
    missing: str,
    unknown: str,
    other: str,
    shapes: str = "{} instead of {}",
) -> list[str]:
    """What keeps weights from being loaded: how many names of each kind, and one of them; nothing if they fit.

    Args:
        found: the weights by name.
        expected: those of the network.
        missing, unknown, other: what is said of names that are not there, not known, or of tensors of another shape.
        shapes: how the shape found and the one expected are told.
    """
    wrong = [
        f"{name} is {shapes.format(tuple(found[name].shape), tuple(value.shape))}"
        for name, value in expected.items()
        if name in found and found[name].shape != value.shape
    ]
    kinds = {
        missing: sorted(expected.keys() - found.keys()),
        unknown: sorted(found.keys() - expected.keys()),
        other: wrong,
    }
    return [f"{len(names)} {what}, such as {names[0]}" for what, names in kinds.items() if names]
