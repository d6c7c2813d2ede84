"""The state dicts of the original program (junyanz/pytorch-CycleGAN-and-pix2pix), in and out of our networks.

Both programs hold the same convolutions and batch norms under other names (upstream_keys.py pairs them), except for the
biases before an instance norm, which cancels them: dropped on the way in, zero on the way out. Images are (batch,
channel, height, width) as in the original; networks that medcycle trains, and the Translator's, see (batch, channel,
width, height): :func:`transposed` leads from one to the other.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import build_discriminator, build_generator
from medcycle.networks import layers as L
from medcycle.networks.patchgan import PatchDiscriminator, PixelDiscriminator
from medcycle.networks.resnet import ResnetGenerator
from medcycle.networks.spectral import SpectralConv
from medcycle.networks.unet import UnetGenerator
from medcycle.networks.upstream_keys import (
    EXPECTED,
    STATISTICS,
    Layer,
    State,
    behind,
    discriminator_arguments,
    generator_arguments,
    layers_of,
    listing,
    norm_of,
    pairs,
)
from medcycle.networks.weights import misfits

__all__ = [
    "SUFFIX",
    "discriminator_arguments",
    "discriminator_state",
    "domain_names",
    "generator_arguments",
    "generator_state",
    "load_discriminator",
    "load_generator",
    "read_state",
    "transposed",
]

SUFFIX = ".pth"


# -- files -----------------------------------------------------------------------------------------------------------


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a .pth file by name, on the CPU, without DataParallel's prefix "module.".

    Nothing in the file is executed: it is read with weights_only.

    Raises:
        ModelError: if the file is missing, damaged, or holds anything but named tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(
            f"{path}: {'a folder' if path.is_dir() else 'missing'}; expected a file such as latest_net_G.pth"
        )
    try:
        with warnings.catch_warnings():  # torch warns of archives that it then refuses
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever a file of another kind leads it to
        raise ModelError(
            f"{path}: cannot be read as weights of the original program: it {_reason(error)}. Expected a state dict "
            f"that torch.save wrote, with keys such as {EXPECTED['generator']} for a generator and "
            f"{EXPECTED['discriminator']} for a discriminator."
        ) from None
    return _checked(content, str(path))


def domain_names(path: str | Path) -> tuple[str, str]:
    """What a generator's file translates from and to, told by its name or its folder's, as the original names them.

    horse2zebra.pth, and latest_net_G.pth in horse2zebra_pretrained/: ("horse", "zebra"); latest_net_G_A.pth:
    ("a", "b"); latest_net_G_B.pth: ("b", "a"); otherwise ("input", "output").
    """
    path = Path(path)
    trained = re.search(r"_net_G(?:_([AB]))?$", path.stem)
    if trained and trained[1]:
        return ("a", "b") if trained[1] == "A" else ("b", "a")
    name = path.absolute().parent.name if trained else path.stem
    for word in re.split(r"[^A-Za-z0-9]+", name):
        named = re.fullmatch(r"([A-Za-z]+)2([A-Za-z]+)", word)
        if named:
            return named[1], named[2]
    return "input", "output"


# -- in --------------------------------------------------------------------------------------------------------------


def load_generator(source: str | Path | State, where: str = "the state dict") -> nn.Module:
    """Our generator with the weights of the original's, in evaluation mode (batch norm: with running statistics).

    Args:
        source: a .pth file or its state dict.
        where: what messages call the state dict.

    Raises:
        ModelError: if it is no generator of the original program; the message names keys.
    """
    state, where = _opened(source, where)
    return _load(state, generator_arguments(state, where), build_generator, where)


def load_discriminator(source: str | Path | State, where: str = "the state dict") -> nn.Module:
    """Our discriminator with the weights of the original's, in evaluation mode.

    Args:
        source: a .pth file or its state dict.
        where: what messages call the state dict.

    Raises:
        ModelError: if it is no discriminator of the original program; the message names keys.
    """
    state, where = _opened(source, where)
    return _load(state, discriminator_arguments(state, where), build_discriminator, where)


def _opened(source: str | Path | State, where: str) -> tuple[dict[str, Tensor], str]:
    if isinstance(source, str | Path):
        return read_state(source), str(source)
    return _checked(source, where), where


def _checked(content: object, where: str) -> dict[str, Tensor]:
    """Named tensors and nothing else, without DataParallel's prefix."""
    expected = f"expected tensors under keys such as {EXPECTED['generator']}"
    if not isinstance(content, Mapping):
        raise ModelError(f"{where}: holds a {type(content).__name__}; {expected}")
    odd = next(
        (key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))), None
    )
    if odd is not None or not content:
        found = f"found {listing(content)}" if content else "found none"
        kind = f" ({odd} is a {type(content[odd]).__name__})" if odd is not None else ""
        raise ModelError(f"{where}: not a state dict: {expected}, {found}{kind}")
    parallel = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if parallel else key: value for key, value in content.items()}


def _load(state: State, arguments: dict[str, Any], build: Callable[..., nn.Module], where: str) -> nn.Module:
    try:
        with torch.device("meta"):  # no memory is taken on the word of a file
            network = build(**arguments)
        expected = _to_theirs(network)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from None
    layers, norm = layers_of(network), str(arguments["norm"])
    found = dict(state) if norm == "batch" else {k: v for k, v in state.items() if not k.endswith(STATISTICS)}
    if norm == "batch":
        _complete_batch_norm(found, layers)
    _check(found, expected, network, where)
    weights = {name: torch.zeros(value.shape) for name, value in network.state_dict().items()}
    for theirs, ours in pairs(layers, norm):
        if (
            ours in weights
        ):  # the others are biases that a norm cancels; what stays zero, biases that the original lacks
            weights[ours] = _plain(found[theirs])
    network.load_state_dict(weights, assign=True)
    return network.eval()


def _complete_batch_norm(state: dict[str, Tensor], layers: list[Layer]) -> None:
    """Fold biases before a batch norm into its running mean; files before PyTorch 0.4.1 lack the count of batches."""
    for layer in layers:
        mean, bias = f"{behind(layer.theirs)}.running_mean", f"{layer.theirs}.bias"
        if layer.normed and mean in state:
            state.setdefault(f"{behind(layer.theirs)}.num_batches_tracked", torch.tensor(0))
            if bias in state and state[bias].shape == state[mean].shape:
                state[mean] = state[mean] - state.pop(bias)


def _check(found: State, expected: State, network: nn.Module, where: str) -> None:
    """Refuse keys or shapes that are not those of the network found from them."""
    parts = misfits(
        found,
        expected,
        missing="expected keys missing",
        unknown="unexpected keys found",
        other="tensors of another shape",
    )
    if parts:
        raise ModelError(
            f"{where}: looks like a {type(network).__name__} of the original program, but it is another: "
            f"{'; '.join(parts)}. Expected keys such as {listing(expected)}, found {listing(found)}."
        )


# -- out -------------------------------------------------------------------------------------------------------------


def generator_state(network: nn.Module) -> OrderedDict[str, Tensor]:
    """A generator of ours as the state dict that the original's ``load_state_dict`` takes: float32 on the CPU.

    Raises:
        ModelError: naming what the original cannot hold.
    """
    if type(network) not in (ResnetGenerator, UnetGenerator):
        raise _not_held(f"a {type(network).__name__}; it has ResNet and U-Net generators")
    return OrderedDict((key, _plain(value)) for key, value in _to_theirs(network).items())


def discriminator_state(network: nn.Module) -> OrderedDict[str, Tensor]:
    """A discriminator of ours as the state dict that the original's ``load_state_dict`` takes: float32 on the CPU.

    Raises:
        ModelError: naming what the original cannot hold.
    """
    if type(network) not in (PatchDiscriminator, PixelDiscriminator):
        raise _not_held(f"a {type(network).__name__}; it has PatchGAN and pixel discriminators")
    return OrderedDict((key, _plain(value)) for key, value in _to_theirs(network).items())


def transposed(network: nn.Module) -> nn.Module:
    """A copy of a 2D network that sees rows where the first sees columns: ``transposed(n)(x.mT)`` is ``n(x).mT``."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim == 4:
                parameter.copy_(parameter.mT.clone())
    return network


def _to_theirs(network: nn.Module) -> dict[str, Tensor]:
    """The network's tensors under the original's keys, in its order; zeros for the biases that ours lacks.

    Raises:
        ModelError: for what the original cannot hold.
    """
    norm = norm_of(network)
    if getattr(network, "ndim", 2) != 2:
        raise _not_held("3D networks")
    if norm == "group":
        raise _not_held("group norm; it has instance, batch and none")
    if any(isinstance(m, L.ResizeConv) for m in network.modules()):
        raise _not_held("upsample=resize; it has transposed convolutions")
    if isinstance(network, ResnetGenerator) and network.attention is not None:
        raise _not_held("attention")
    if getattr(network, "position", False):
        raise _not_held("position")
    if isinstance(network, PatchDiscriminator) and network.coarser:
        raise _not_held(f"a discriminator of {1 + len(network.coarser)} scales; it has one")
    if any(isinstance(m, SpectralConv) for m in network.modules()):
        raise _not_held("spectral norm")
    if isinstance(network, UnetGenerator) and len(network.encoder) < 4:
        raise _not_held(f"a U-Net of {len(network.encoder) + 1} downs; it has 5 or more")
    ours, result = network.state_dict(), {}
    for theirs, name in pairs(layers_of(network), norm):
        if name in ours:
            result[theirs] = ours.pop(name)
        else:
            convolution: Any = network.get_submodule(name.removesuffix(".bias"))
            result[theirs] = torch.zeros(convolution.out_channels, device=convolution.weight.device)
    for name, value in ours.items():  # biases that the original lacks; of a network on the meta device none is known
        if not value.is_meta and value.any():
            raise _not_held(f"the bias {name}, which is not zero; with norm {norm!r} its convolution there has none")
    return result


def _plain(value: Tensor) -> Tensor:
    value = value.detach().cpu()
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True).contiguous()


def _reason(error: BaseException) -> str:
    """What is wrong with the file, in our words: torch's advise to load it unsafely."""
    refused = re.search(r"\bGLOBAL ([\w.]+)", str(error))
    if refused is not None:
        return f"holds pickled Python objects ({refused[1]}), which are never loaded"
    return "is not a file that torch.save wrote, or not a whole one"


def _not_held(what: str) -> ModelError:
    return ModelError(f"the original program cannot hold {what}. Keep the .safetensors file for this network.")
