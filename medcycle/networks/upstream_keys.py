"""What the original program calls the parts of its networks, and what its files tell of the network they hold.

Everything is found from keys and shapes, but for what leaves no trace there: dropout in a U-Net (it acts in training
only, so 0 is assumed) and a sigmoid behind a discriminator (never the case with LSGAN). Where an instance norm follows
a convolution, the original gives it a bias; with batch norm, or none, it has a bias only where no norm ever follows.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import layers as L
from medcycle.networks.patchgan import PatchDiscriminator
from medcycle.networks.resnet import ResnetGenerator
from medcycle.networks.unet import UnetGenerator

State = Mapping[str, Tensor]

STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
EXPECTED = {
    "generator": "model.1.weight (ResNet) or model.model.0.weight (U-Net)",
    "discriminator": "model.0.weight (PatchGAN) or net.0.weight (pixel)",
}


class Layer(NamedTuple):
    """A convolution's name in the original and in our network.

    Attributes:
        normed: whether a norm follows, under the next number in both.
        biased: whether the original gives it a bias whatever the norm; the others have one with instance norm only.
    """

    theirs: str
    ours: str
    normed: bool = True
    biased: bool = False


# -- what a file holds -------------------------------------------------------------------------------------------------


def generator_arguments(state: State, where: str = "the state dict") -> dict[str, Any]:
    """What :func:`medcycle.networks.build_generator` takes to build the network of a state dict.

    Raises:
        ModelError: if the keys are not a generator's.
    """
    if "model.1.weight" in state and "model.0.weight" not in state:
        filters, inputs = _kernel(state, "model.1.weight", where)[:2]
        blocks = _count(state, lambda n: f"model.{10 + n}.conv_block.1.weight")
        outputs = _kernel(state, f"model.{17 + blocks}.weight", where)[0]
        # Dropout stands before the second convolution, which it moves to where the batch norm's weight is without it.
        second = state.get("model.10.conv_block.6.weight")
        dropout = 0.5 if second is not None and second.ndim == 4 else 0.0
        found = {"blocks": blocks, "norm": _norm_in(state, "model.1", "model.2"), "dropout": dropout}
        kind = "resnet"
    elif "model.model.0.weight" in state:
        filters, inputs = _kernel(state, "model.model.0.weight", where)[:2]
        outputs = _kernel(state, "model.model.3.weight", where)[1]
        downs = 1 + _count(state, lambda n: f"{_unet_prefix(n + 1)}.1.weight")
        found = {"downs": downs, "norm": _norm_in(state, "model.model.0", "model.model.1.model.2"), "dropout": 0.0}
        kind = "unet"
    else:
        raise _unexpected(state, "generator", where)
    return {"kind": kind, "in_channels": inputs, "out_channels": outputs, "ndim": 2, "filters": filters} | found


def discriminator_arguments(state: State, where: str = "the state dict") -> dict[str, Any]:
    """What :func:`medcycle.networks.build_discriminator` takes to build the network of a state dict.

    Raises:
        ModelError: if the keys are not a discriminator's.
    """
    if "model.0.weight" in state:
        filters, channels = _kernel(state, "model.0.weight", where)[:2]
        convolutions = _count(state, lambda n: f"model.{2 + 3 * n}.weight")
        found = {"layers": convolutions - 1, "norm": _norm_in(state, "model.2", "model.3")}
        kind = "patchgan"
    elif "net.0.weight" in state:
        filters, channels = _kernel(state, "net.0.weight", where)[:2]
        found, kind = {"norm": _norm_in(state, "net.2", "net.3")}, "pixel"
    else:
        raise _unexpected(state, "discriminator", where)
    return {"kind": kind, "channels": channels, "ndim": 2, "filters": filters} | found


def _norm_in(state: State, convolution: str, norm: str) -> str:
    if f"{norm}.weight" in state:
        return "batch"
    return "instance" if f"{convolution}.bias" in state else "none"


def _count(state: State, key: Callable[[int], str]) -> int:
    return next(n for n in itertools.count() if key(n) not in state)


def _kernel(state: State, key: str, where: str) -> tuple[int, ...]:
    """The four numbers of a convolution's shape."""
    if key not in state or state[key].ndim != 4:
        found = f"{key} of shape {tuple(state[key].shape)}" if key in state else listing(state)
        raise ModelError(f"{where}: expected a convolution under {key}, found {found}")
    return tuple(state[key].shape)


def listing(keys: Mapping[Any, object]) -> str:
    """The first keys, and how many more there are."""
    names = [str(key) for key in itertools.islice(keys, 4)]
    return ", ".join(names) + (f" and {len(keys) - len(names)} more" if len(keys) > len(names) else "")


def _unexpected(state: State, role: str, where: str) -> ModelError:
    other = "discriminator" if role == "generator" else "generator"
    other_signs = re.findall(r"\S+\.weight", EXPECTED[other])
    hint = ""
    if any(sign in state for sign in other_signs):
        hint = f" It looks like a {other}: give the file of a {role}, such as latest_net_{role[0].upper()}_A.pth."
    return ModelError(
        f"{where}: no {role} of the original program: expected keys such as {EXPECTED[role]}, found {listing(state)}."
        f"{hint}"
    )


# -- the tables ------------------------------------------------------------------------------------------------------


def layers_of(network: nn.Module) -> list[Layer]:
    """The network's convolutions in the order of the original's state dict."""
    if isinstance(network, ResnetGenerator):
        return _resnet_layers(len(network.blocks), any(isinstance(m, nn.Dropout) for m in network.modules()))
    if isinstance(network, UnetGenerator):
        return _unet_layers(1 + len(network.encoder))
    if isinstance(network, PatchDiscriminator):
        last = len(network.body)
        middle = [Layer(f"model.{n}", f"body.{n}") for n in range(2, last, 3)]
        first, score = (
            Layer("model.0", "body.0", normed=False, biased=True),
            Layer(f"model.{last}", "score", False, True),
        )
        return [first, *middle, score]
    return [Layer("net.0", "body.0", False, True), Layer("net.2", "body.2"), Layer("net.5", "score", False)]


def _resnet_layers(blocks: int, dropout: bool) -> list[Layer]:
    second = 6 if dropout else 5
    body = [
        Layer(f"model.{10 + block}.conv_block.{n}", f"blocks.{block}.body.{n}")
        for block in range(blocks)
        for n in (1, second)
    ]
    up = [Layer(f"model.{10 + blocks + n}", f"up.{n}") for n in (0, 3)]
    tail = Layer(f"model.{17 + blocks}", "tail.1.conv", normed=False, biased=True)
    return [*(Layer(f"model.{n}", f"head.{n}") for n in (1, 4, 7)), *body, *up, tail]


def _unet_layers(downs: int) -> list[Layer]:
    """Each level lies inside the one above it: all that halves, from the outside in, then all that doubles."""
    last = downs - 1
    down = [Layer("model.model.0", "head", normed=False)]
    down += [Layer(f"{_unet_prefix(n)}.1", f"encoder.{n - 1}.1", normed=n < last) for n in range(1, downs)]
    up = [Layer(f"{_unet_prefix(last)}.3", "decoder.0.1")]
    up += [Layer(f"{_unet_prefix(n)}.5", f"decoder.{last - n}.1") for n in reversed(range(1, last))]
    return [*down, *up, Layer("model.model.3", "tail.1", normed=False, biased=True)]


def _unet_prefix(level: int) -> str:
    return "model.model" + (".1.model" + ".3.model" * (level - 1) if level else "")


def pairs(layers: list[Layer], norm: str) -> Iterator[tuple[str, str]]:
    """Every key of the original with ours, in the original's order; ours may lack a bias."""
    for layer in layers:
        names = ["weight", "bias"] if layer.biased or norm == "instance" else ["weight"]
        yield from ((f"{layer.theirs}.{name}", f"{layer.ours}.{name}") for name in names)
        if layer.normed and norm == "batch":
            theirs, ours = behind(layer.theirs), behind(layer.ours)
            yield from ((f"{theirs}.{name}", f"{ours}.{name}") for name in ("weight", "bias", *STATISTICS))


def behind(name: str) -> str:
    """The name of the layer after the one of that name."""
    prefix, _, number = name.rpartition(".")
    return f"{prefix}.{int(number) + 1}"


def norm_of(network: nn.Module) -> str:
    """The kind of norm in one of our networks."""
    kinds = {L.InstanceNorm: "instance", nn.BatchNorm2d: "batch", nn.GroupNorm: "group"}
    return next((kinds[type(m)] for m in network.modules() if type(m) in kinds), "none")
