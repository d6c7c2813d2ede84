"""The original's state dicts in our networks and back, against plain networks with its keys (original.py)."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from medcycle.errors import ModelError
from medcycle.networks import build_discriminator, build_generator, upstream
from medcycle.networks.layers import InstanceNorm

NORMS = ["instance", "batch", "none"]
GENERATORS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("resnet", {"blocks": 9, "filters": 4}, (64, 64)),
    ("resnet", {"blocks": 6, "filters": 3, "channels": 1, "out_channels": 2}, (96, 64)),
    ("resnet", {"blocks": 1, "filters": 2, "dropout": True}, (32, 40)),
    ("unet", {"downs": 7, "filters": 2, "channels": 1}, (128, 256)),
    ("unet", {"downs": 8, "filters": 2, "dropout": True}, (256, 512)),
    ("unet", {"downs": 5, "filters": 3, "channels": 2, "out_channels": 1}, (32, 64)),
]
DISCRIMINATORS: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("patchgan", {"filters": 4}, (64, 96)),
    ("patchgan", {"filters": 2, "layers": 1, "channels": 1}, (32, 24)),
    ("patchgan", {"filters": 2, "layers": 5, "channels": 2}, (160, 128)),
    ("pixel", {"filters": 4, "channels": 2}, (16, 24)),
]
ALL = [*GENERATORS, *DISCRIMINATORS]
NAMES = [f"{kind}-{'-'.join(f'{k}{v}' for k, v in settings.items())}" for kind, settings, _ in ALL]


def images(channels: int, size: tuple[int, int]) -> Tensor:
    return torch.randn((2, channels, *size), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def load(kind: str, source: Any) -> Any:
    return (upstream.load_generator if kind in ("resnet", "unet") else upstream.load_discriminator)(source)


def state_of(network: nn.Module) -> OrderedDict[str, Tensor]:
    """Our network in the original's keys."""
    generator = hasattr(network, "out_channels")
    return (upstream.generator_state if generator else upstream.discriminator_state)(network)


@pytest.fixture
def resnet_state(original: ModuleType) -> dict[str, Tensor]:
    return original.weighted(original.resnet(filters=2, blocks=1)).state_dict()


# -- the same pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("kind", "settings", "size"), ALL, ids=NAMES)
def test_a_file_gives_the_originals_output_and_goes_back_as_it_was(
    original: ModuleType, tmp_path: Path, kind: str, settings: dict[str, Any], size: tuple[int, int], norm: str
) -> None:
    plain = original.weighted(getattr(original, kind)(**settings, norm=norm)).eval()
    path = tmp_path / "latest_net_G_A.pth"
    torch.save(plain.state_dict(), path)
    ours = load(kind, path)
    assert not ours.training
    assert all(p.requires_grad for p in ours.parameters())
    x = images(settings.get("channels", 3), size)
    with torch.no_grad():
        expected = plain(x.clone())
        assert expected.std() > 0.02
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=1e-5)

    back, dropped = state_of(ours), original.cancelled(plain) if norm == "instance" else set()
    before = plain.state_dict()
    assert list(back) == list(before)
    for key, value in back.items():
        assert value.dtype == before[key].dtype
        wanted = torch.zeros_like(value) if key in dropped else before[key]
        assert torch.equal(value, wanted), key
    again = getattr(original, kind)(**settings, norm=norm).eval()
    again.load_state_dict(back, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(again(x.clone()), expected, rtol=0, atol=1e-5)


def test_the_published_generator_at_full_size(original: ModuleType) -> None:
    plain = original.weighted(original.resnet())
    ours = upstream.load_generator(plain.state_dict())
    x = images(3, (256, 256))[:1]
    with torch.no_grad():
        torch.testing.assert_close(ours(x), plain(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("count", "tensors", "network"),
    [
        (11_378_179, 48, ("resnet", {"blocks": 9})),
        (7_837_699, 36, ("resnet", {"blocks": 6})),
        (2_764_737, 10, ("patchgan", {"layers": 3})),
    ],
)
def test_exported_files_have_the_originals_number_of_parameters(
    count: int, tensors: int, network: tuple[str, dict[str, Any]]
) -> None:
    kind, settings = network
    if kind == "resnet":
        state = upstream.generator_state(build_generator(kind, in_channels=3, out_channels=3, **settings))
    else:
        state = upstream.discriminator_state(build_discriminator(kind, channels=3, **settings))
    assert sum(value.numel() for value in state.values()) == count
    assert len(state) == tensors
    assert type(state) is OrderedDict
    assert not hasattr(state, "_metadata")


# -- what the file tells ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("blocks", [1, 2, 6, 9, 12])
def test_arguments_of_a_resnet(original: ModuleType, norm: str, dropout: bool, blocks: int) -> None:
    plain = original.resnet(5, blocks, 2, out_channels=4, norm=norm, dropout=dropout)
    expected = {"kind": "resnet", "in_channels": 2, "out_channels": 4, "ndim": 2, "filters": 5, "blocks": blocks}
    expected |= {"norm": norm, "dropout": 0.5 if dropout else 0.0}
    assert upstream.generator_arguments(plain.state_dict()) == expected
    ours = upstream.load_generator(plain.state_dict())
    assert sum(isinstance(m, nn.Dropout) for m in ours.modules()) == blocks * dropout


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("downs", [5, 7, 8, 9])
def test_arguments_of_a_unet(original: ModuleType, norm: str, downs: int) -> None:
    plain = original.unet(2, downs, 1, out_channels=3, norm=norm, dropout=True)
    expected = {"kind": "unet", "in_channels": 1, "out_channels": 3, "ndim": 2, "filters": 2, "downs": downs}
    assert upstream.generator_arguments(plain.state_dict()) == expected | {"norm": norm, "dropout": 0.0}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [1, 2, 3, 6])
def test_arguments_of_a_discriminator(original: ModuleType, norm: str, layers: int) -> None:
    shared = {"channels": 4, "ndim": 2, "filters": 3, "norm": norm}
    patch, pixel = original.patchgan(3, 4, layers=layers, norm=norm), original.pixel(3, 4, norm=norm)
    assert upstream.discriminator_arguments(patch.state_dict()) == shared | {"kind": "patchgan", "layers": layers}
    assert upstream.discriminator_arguments(pixel.state_dict()) == shared | {"kind": "pixel"}


# -- files of all ages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("resnet", {"filters": 2, "blocks": 2}), ("unet", {"filters": 2, "downs": 5}), ("patchgan", {"filters": 2})],
)
def test_running_statistics_of_instance_norms_are_stripped(
    original: ModuleType, kind: str, settings: dict[str, Any]
) -> None:
    plain = original.weighted(getattr(original, kind)(**settings, old=True))
    state = plain.state_dict()
    assert any(key.endswith("running_mean") for key in state)
    ours = load(kind, state)
    assert any(isinstance(m, InstanceNorm) for m in ours.modules())
    x = images(3, (32, 32))
    with torch.no_grad():  # in training mode the old norm takes the image's own statistics, as the old program did
        torch.testing.assert_close(ours(x), plain(x.clone()), rtol=0, atol=1e-5)


def test_batch_norm_files_without_counts_and_with_cancelled_biases(original: ModuleType) -> None:
    plain = original.weighted(original.resnet(filters=3, blocks=2, norm="batch")).eval()
    state = {k: v for k, v in plain.state_dict().items() if not k.endswith("num_batches_tracked")}
    x = images(3, (24, 32))
    with torch.no_grad():
        expected = plain(x)
        torch.testing.assert_close(upstream.load_generator(state)(x), expected, rtol=0, atol=1e-5)
        bias = torch.tensor([0.5, -1.0, 2.0])
        biased = state | {"model.1.bias": bias, "model.2.running_mean": state["model.2.running_mean"] + bias}
        torch.testing.assert_close(upstream.load_generator(biased)(x), expected, rtol=0, atol=1e-5)


def test_data_parallel_half_precision_and_the_old_file_format(
    original: ModuleType, tmp_path: Path, resnet_state: dict[str, Tensor]
) -> None:
    x = images(3, (16, 16))
    with torch.no_grad():
        expected = upstream.load_generator(resnet_state)(x)
        path = tmp_path / "parallel.pth"
        parallel = OrderedDict((f"module.{key}", value) for key, value in resnet_state.items())
        torch.save(parallel, path, _use_new_zipfile_serialization=False)
        assert set(upstream.read_state(path)) == set(resnet_state)
        assert torch.equal(upstream.load_generator(path)(x), expected)
        halved = upstream.load_generator({key: value.half() for key, value in resnet_state.items()})
        assert all(p.dtype == torch.float32 for p in halved.parameters())
        assert (halved(x) - expected).abs().max() < 0.02


def test_the_network_is_free_of_the_state_it_came_from(resnet_state: dict[str, Tensor]) -> None:
    ours = upstream.load_generator(resnet_state)
    before = upstream.generator_state(ours)
    for value in resnet_state.values():
        value.zero_()
    for key, value in upstream.generator_state(ours).items():
        assert torch.equal(value, before[key])
        value.fill_(9)
    assert torch.equal(upstream.generator_state(ours)["model.1.weight"], before["model.1.weight"])


# -- files of another kind -------------------------------------------------------------------------------------------


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_pickle_is_never_executed(tmp_path: Path) -> None:
    target, path = tmp_path / "executed", tmp_path / "evil.pth"
    for protocol, save in (
        (2, lambda f: pickle.dump(Hostile(target), f, 2)),
        (4, lambda f: torch.save(Hostile(target), f)),
    ):
        with path.open("wb") as file:
            save(file)
        with pytest.raises(ModelError, match=r"evil\.pth: cannot be read as weights"):
            upstream.read_state(path)
        assert not target.exists(), protocol
    pickle.loads(pickle.dumps(Hostile(target)))  # it would have
    assert target.exists()


def make_foreign(kind: str, path: Path, state: dict[str, Tensor]) -> None:
    if kind == "safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    elif kind == "module":
        torch.save(nn.Conv2d(1, 1, 1), path)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-300])
    elif kind == "text":
        path.write_text("<html>404 Not Found</html>")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("horse.txt", "neigh")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize("kind", ["safetensors", "module", "empty", "truncated", "text", "zip", "folder", "missing"])
def test_files_of_another_kind(tmp_path: Path, kind: str, resnet_state: dict[str, Tensor]) -> None:
    path = tmp_path / "x.pth"
    make_foreign(kind, path, resnet_state)
    words = {
        "folder": "a folder; expected",
        "missing": "missing; expected",
        "module": r"it holds pickled Python objects \([a-z_.]+\.Conv2d\), which are never loaded\. Expected a state",
    }
    expected = words.get(kind, r"it is not a file that torch\.save wrote, or not a whole one\. Expected a state dict")
    for function in (upstream.read_state, upstream.load_generator, upstream.load_discriminator):
        with pytest.raises(ModelError, match=rf"x\.pth: .*{expected}") as caught:
            function(path)
        assert "weights_only" not in str(caught.value)  # torch's advice, which contradicts ours
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"holds a list; expected tensors under keys such as model\.1\.weight"),
        ({}, "found none"),
        ({"state_dict": {"a": torch.ones(1)}, "epoch": 3}, r"found state_dict, epoch \(state_dict is a dict\)"),
        ({1: torch.ones(1)}, r"found 1 \(1 is a Tensor\)"),
        (
            {f"{n}.weight": torch.ones(1) for n in range(9)},
            r"no generator .* expected keys such as model\.1\.weight .*"
            r"found 0\.weight, 1\.weight, 2\.weight, 3\.weight and 5 more",
        ),
    ],
)
def test_contents_of_another_kind(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(ModelError, match=rf"x\.pth: .*{message}"):
        upstream.load_generator(path)


def test_generators_and_discriminators_are_told_apart(original: ModuleType) -> None:
    for critic in (original.patchgan(2), original.pixel(2)):
        with pytest.raises(ModelError, match=r"looks like a discriminator: .* latest_net_G_A\.pth"):
            upstream.load_generator(critic.state_dict())
    for generator in (original.resnet(2, 1), original.unet(2, 5)):
        with pytest.raises(ModelError, match=r"looks like a generator: .* latest_net_D_A\.pth"):
            upstream.load_discriminator(generator.state_dict())


def change(state: dict[str, Tensor], **changes: Any) -> dict[str, Tensor]:
    changed = state | {key.replace("__", "."): value for key, value in changes.items()}
    return {key: value for key, value in changed.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__4__weight": None}, r"1 expected keys missing, such as model\.4\.weight"),
        ({"model__99__weight": torch.ones(1)}, r"1 unexpected keys found, such as model\.99\.weight"),
        (
            {"model__4__weight": torch.ones(4, 2, 5, 5)},
            r"1 tensors of another shape, such as model\.4\.weight is \(4, 2, 5, 5\) instead of \(4, 2, 3, 3\)",
        ),
        ({"model__1__weight": torch.ones(2)}, r"expected a convolution under model\.1\.weight, found .*shape \(2,\)"),
        ({"model__18__weight": None}, r"expected a convolution under model\.18\.weight, found model\.1\.weight"),
        ({"model__2__weight": torch.ones(2)}, r"Expected keys such as model\.1\.weight, .*found model\.1\.weight, "),
        ({"model__1__weight": torch.ones(0, 3, 7, 7)}, "filters 0 is not possible"),
    ],
)
def test_a_network_that_is_nearly_the_originals(
    resnet_state: dict[str, Tensor], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        upstream.load_generator(change(resnet_state, **changes))
    assert str(caught.value).startswith("the state dict: ")


def test_a_unet_that_is_not_deep_enough(original: ModuleType) -> None:
    state = upstream.generator_state(build_generator("unet", in_channels=1, out_channels=1, filters=2, downs=5))
    deepest = "model.model.1.model" + ".3.model" * 3
    with pytest.raises(ModelError, match="4 downs"):
        upstream.load_generator({key: value for key, value in state.items() if not key.startswith(deepest)})


# -- out -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "resnet", "ndim": 3}, "3D networks"),
        ({"kind": "resnet", "norm": "group"}, "group norm"),
        ({"kind": "resnet", "upsample": "resize"}, "upsample=resize"),
        ({"kind": "unet", "downs": 4}, "U-Net of 4 downs; it has 5 or more"),
    ],
)
def test_what_the_original_cannot_hold(settings: dict[str, Any], message: str) -> None:
    network = build_generator(**{"in_channels": 1, "out_channels": 1, "filters": 2} | settings)
    with pytest.raises(ModelError, match=message):
        upstream.generator_state(network)


def test_custom_networks_are_refused_even_where_they_look_alike() -> None:
    class Mine(type(build_generator("resnet", in_channels=1, out_channels=1, filters=2, blocks=1))):  # type: ignore[misc]
        pass

    for network in (nn.Conv2d(1, 1, 1), Mine(1, 1, filters=2, blocks=1)):
        with pytest.raises(ModelError, match=rf"a {type(network).__name__}; it has ResNet"):
            upstream.generator_state(network)
        with pytest.raises(ModelError, match=rf"a {type(network).__name__}; it has PatchGAN"):
            upstream.discriminator_state(network)


@pytest.mark.parametrize(("kind", "name"), [("resnet", "head.1.bias"), ("unet", "head.bias")])
def test_biases_that_the_original_lacks_must_be_zero(kind: str, name: str) -> None:
    network = build_generator(kind, in_channels=1, out_channels=1, filters=2, norm="none")
    upstream.generator_state(network)  # fresh ones are
    network.get_parameter(name).data.fill_(0.1)
    with pytest.raises(ModelError, match=rf"the bias {name}, which is not zero"):
        upstream.generator_state(network)


# -- rows and columns ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "settings", "size"), ALL, ids=NAMES)
def test_transposed_networks_see_rows_where_the_first_saw_columns(
    original: ModuleType, kind: str, settings: dict[str, Any], size: tuple[int, int]
) -> None:
    ours = load(kind, original.weighted(getattr(original, kind)(**settings)).state_dict())
    x = images(settings.get("channels", 3), size)
    with torch.no_grad():
        expected = ours(x)
        turned = upstream.transposed(ours)
        torch.testing.assert_close(turned(x.mT), expected.mT, rtol=0, atol=1e-5)
        assert not torch.allclose(turned(x), expected, atol=1e-2) or kind == "pixel"
        assert torch.equal(ours(x), expected)  # the first is as it was


# -- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("horse2zebra.pth", ("horse", "zebra")),
        ("checkpoints/horse2zebra_pretrained/latest_net_G.pth", ("horse", "zebra")),
        ("winter2summer_yosemite.pth", ("winter", "summer")),
        ("cityscapes_photo2label_pretrained/latest_net_G.pth", ("photo", "label")),
        ("horse2zebra/latest_net_G_A.pth", ("a", "b")),
        ("200_net_G_B.pth", ("b", "a")),
        ("style_monet_pretrained/latest_net_G.pth", ("input", "output")),
        ("weights.pth", ("input", "output")),
        ("horse2zebra/weights.pth", ("input", "output")),
    ],
)
def test_domains_are_named_by_the_file(path: str, names: tuple[str, str]) -> None:
    assert upstream.domain_names(path) == names
