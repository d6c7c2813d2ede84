from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from medcycle.errors import ModelError, ScanError
from medcycle.inference import Translator
from medcycle.io import read_volume
from medcycle.model import DomainInfo, Model, find_model, load_model, read_header, save_model
from medcycle.networks import build_generator
from medcycle.networks.calibrated import CalibratedGenerator
from medcycle.prepare import Preparation
from medcycle.volume import Volume

MR = DomainInfo("mr", Preparation(modality="mr", scale=(0.0, 900.0), spacing=(1.0, 1.0, None)))
CT = DomainInfo("ct", Preparation(modality="ct", window=(-1000.0, 2000.0)))
ARGUMENTS = {"kind": "resnet", "in_channels": 1, "out_channels": 1, "ndim": 2, "filters": 2, "blocks": 1}


def make(arguments: dict[str, Any] | None = None, **changes: Any) -> Model:
    arguments = arguments or ARGUMENTS
    network = changes.pop("network", None) or build_generator(**arguments)
    model = Model(network, dict(arguments), MR, CT, {"axes": "axial", "size": [16, 16]}, {"steps": 7})
    return dataclasses.replace(model, **changes)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_model(tmp_path / "mr_to_ct.safetensors", make())


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the header of a model file, leaving the weights."""
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["medcycle"])
    changed = change(header)
    save_file(load_file(path), path, metadata={"medcycle": json.dumps(header if changed is None else changed)})
    return path


class Custom(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean(1, keepdim=True)


# -- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ARGUMENTS,
        ARGUMENTS | {"norm": "batch", "upsample": "resize", "in_channels": 3, "out_channels": 3},
        {"kind": "unet", "in_channels": 1, "out_channels": 1, "ndim": 3, "filters": 2, "downs": 2},
    ],
)
def test_round_trip_gives_the_same_output_and_facts(tmp_path: Path, arguments: dict[str, Any]) -> None:
    size = [16] * arguments["ndim"]
    model = make(arguments, sample={"axes": "coronal", "size": size})
    x = torch.randn(2, arguments["in_channels"], *size)
    model.network(x)  # batch norm's running statistics move away from their start
    loaded = load_model(save_model(tmp_path / "m.safetensors", model))
    assert not loaded.network.training
    assert torch.equal(loaded.network(x), model.network.eval()(x))
    assert all(p.requires_grad for p in loaded.network.parameters())
    assert loaded.source == MR
    assert loaded.target == CT
    assert loaded.arguments == arguments
    assert loaded.sample == {"axes": "coronal", "size": size}
    assert loaded.ndim == arguments["ndim"]
    assert loaded.in_channels == arguments["in_channels"]


def test_provenance_gets_version_and_time_and_keeps_the_callers_facts(saved: Path) -> None:
    provenance = load_model(saved).provenance
    assert provenance["steps"] == 7
    assert provenance["medcycle"]
    assert provenance["created"].endswith("+00:00")
    again = load_model(save_model(saved, load_model(saved))).provenance
    assert again == provenance


def test_weights_are_copied_not_shared(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 1, bias=False))
    network[1].weight = network[0].weight  # tied: safetensors alone refuses it
    path = save_model(tmp_path / "m.safetensors", make(network=network, arguments={"kind": "custom"}))
    assert set(load_file(path)) == {"0.weight", "1.weight"}


@pytest.mark.parametrize("custom", [False, True])
def test_a_calibrated_generator_comes_back_with_its_curve(tmp_path: Path, custom: bool) -> None:
    inner = Custom() if custom else build_generator(**ARGUMENTS)
    network = CalibratedGenerator.fit(inner, ([-1, 0, 1], [-1, 0.5, 1]))
    arguments = ({"kind": "custom"} if custom else ARGUMENTS) | {"calibration": 3}
    path = save_model(tmp_path / "m.safetensors", make(network=network, arguments=arguments))
    loaded = load_model(path, Custom() if custom else None)
    images = torch.rand(1, 1, 16, 16) * 2 - 1
    assert torch.equal(loaded.network(images), network(images))
    assert not torch.equal(loaded.network(images), inner(images))
    rewrite(path, lambda header: header["network"].update(calibration=10**9))
    with pytest.raises(ModelError, match=r"10{9}.*a number from 2"):
        load_model(path, Custom() if custom else None)


def test_custom_network_is_passed_in(tmp_path: Path) -> None:
    network = Custom()
    path = save_model(tmp_path / "m.safetensors", make(network=network, arguments={"kind": "custom"}))
    with pytest.raises(ModelError, match=r"custom network.*network="):
        load_model(path)
    loaded = load_model(path, network=Custom())
    assert torch.equal(loaded.network.body.weight, network.body.weight)
    assert loaded.in_channels is None
    with pytest.raises(ModelError, match=r"body.*\(3, 1, 1, 1\) in the file and \(4, 1, 1, 1\) in the network"):
        load_model(path, network=Custom(4))
    with pytest.raises(ModelError, match=r"2 missing in the file, such as 0\.bias.*2 unknown to the network"):
        load_model(path, network=nn.Sequential(nn.Conv2d(1, 3, 1)))


# -- saving ----------------------------------------------------------------------------------------------------------


def test_save_needs_the_ending(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"\.safetensors"):
        save_model(tmp_path / "model.pth", make())
    assert not list(tmp_path.iterdir())


def test_save_refuses_state_that_is_no_tensor(tmp_path: Path) -> None:
    class Odd(Custom):
        def get_extra_state(self) -> str:
            return "text"

    with pytest.raises(ModelError, match=r"_extra_state.*str"):
        save_model(tmp_path / "m.safetensors", make(network=Odd(), arguments={"kind": "custom"}))


def test_a_failed_save_leaves_the_old_file_alone(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match=rf"{saved}.*No space left"):
        save_model(saved, make())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_a_new_file_takes_the_place_of_the_old_one_at_once(saved: Path) -> None:
    reader = saved.open("rb")  # someone is reading while training exports again
    before = saved.read_bytes()
    save_model(saved, make())
    assert reader.read() == before != saved.read_bytes()
    reader.close()


def test_save_where_a_file_stands_for_the_folder(saved: Path) -> None:
    with pytest.raises(ModelError, match="cannot be written"):
        save_model(saved / "m.safetensors", make())


# -- files that are not ours or not whole ----------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match=rf"{saved}: not a complete model file"):
        load_model(saved)


def test_one_flipped_bit_in_the_weights_is_noticed(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-3] ^= 4
    saved.write_bytes(content)
    with pytest.raises(ModelError, match="checksum"):
        load_model(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt", "author": "x"}])
def test_file_of_another_tool(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"x": torch.zeros(3)}, path, metadata=metadata)
    with pytest.raises(ModelError, match=rf"{path}: a safetensors file of another tool.*'medcycle'"):
        load_model(path)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    for name in ("best.pt", "last.ckpt", "model.pkl"):
        path = tmp_path / name
        torch.save({"a": 1}, path)
        for function in (load_model, find_model):
            with pytest.raises(ModelError, match=r"never unpickles \.pt, \.ckpt"):
                function(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no\.safetensors: missing"):
        load_model(tmp_path / "no.safetensors")
    with pytest.raises(ModelError, match="a folder; expected"):
        load_model(tmp_path)


def test_newer_format_names_both_versions(saved: Path) -> None:
    rewrite(saved, lambda h: h.update(format=2, provenance={"medcycle": "9.1"}))
    with pytest.raises(ModelError, match=r"format 2 \(medcycle 9\.1\).*formats up to 1\. Update"):
        load_model(saved)


def drop(key: str) -> Callable[[dict[str, Any]], Any]:
    return lambda header: {k: v for k, v in header.items() if k != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: [1], "no format number"),
        (drop("format"), "no format number"),
        (drop("network"), "lacks 'network'"),
        (drop("checksum"), "lacks 'checksum'"),
        (lambda h: h["source"].pop("preparation"), "'source' needs a name and a preparation"),
        (lambda h: h["target"]["preparation"].update(modality="pet"), "preparation of 'target'.*pet"),
        (lambda h: h["target"]["preparation"].update(magic=1), "preparation of 'target'.*magic"),
        (lambda h: h["target"]["preparation"].update(window=5), "preparation of 'target'"),
        (lambda h: h["sample"].update(axes="oblique"), "oblique.*axial"),
        (lambda h: h["sample"].update(context=-1), "context -1"),
        (lambda h: h["sample"].update(context="1"), "context '1'"),
        (lambda h: h["sample"].update(context=1, size=[16, 16, 16]), "only planes have those"),
        (lambda h: h["sample"].update(axes="all", size=[16, 16, 16]), "only planes have those"),
        (lambda h: h["sample"].update(size=[16, "x"]), "size"),
        (lambda h: h["sample"].update(size=[16, 16, 16]), "2 space axes with samples of size"),
        (lambda h: h["network"].update(kind="vit9000"), "vit9000.*resnet"),
        (lambda h: h["network"].update(wings=2), "wings"),
        (lambda h: h["network"].update(filters=-3), "cannot be built"),
        (lambda h: h["network"].update(filters=3), "of another shape"),
        (lambda h: h["network"].update(filters=10**7), "of another shape"),  # no memory is taken on a file's word
        (lambda h: h["network"].update(blocks=2), "missing in the file"),
    ],
)
def test_wrong_descriptions(saved: Path, change: Callable[[dict[str, Any]], Any], message: str) -> None:
    def apply(header: dict[str, Any]) -> Any:
        changed = change(header)
        return changed if isinstance(changed, list) or (isinstance(changed, dict) and "sample" in changed) else None

    rewrite(saved, apply)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(saved)
    assert str(saved) in str(caught.value)


def test_metadata_that_is_not_json(saved: Path) -> None:
    save_file(load_file(saved), saved, metadata={"medcycle": "{"})
    with pytest.raises(ModelError, match="not JSON"):
        load_model(saved)


# -- finding ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "mri2ct"
    save_model(folder / "mr_to_ct.safetensors", make())
    save_model(folder / "ct_to_mr.safetensors", make(source=CT, target=MR))
    return folder


def test_find_by_target(run: Path) -> None:
    assert find_model(run, "ct") == run / "mr_to_ct.safetensors"
    assert find_model(str(run), "mr") == run / "ct_to_mr.safetensors"
    assert find_model(run / "mr_to_ct.safetensors") == run / "mr_to_ct.safetensors"
    assert find_model(run / "mr_to_ct.safetensors", "ct") == run / "mr_to_ct.safetensors"


def test_find_lists_the_choices(run: Path) -> None:
    with pytest.raises(ModelError, match=r"ct_to_mr\.safetensors \(from 'ct' to 'mr'\); mr_to_ct"):
        find_model(run)
    with pytest.raises(ModelError, match=r"no models to 'pet'; the models here are ct_to_mr"):
        find_model(run, "pet")
    with pytest.raises(ModelError, match=r"mr_to_ct.*from 'mr' to 'ct'; a model to 'mr' was asked for"):
        find_model(run / "mr_to_ct.safetensors", "mr")


def test_find_without_a_target_takes_the_runs_direction(run: Path) -> None:
    save_model(run / "mr_to_ct.safetensors", make(provenance={"direction": "a_to_b"}))
    save_model(run / "ct_to_mr.safetensors", make(source=CT, target=MR, provenance={"direction": "b_to_a"}))
    assert find_model(run) == run / "mr_to_ct.safetensors"
    (run / "mr_to_ct.safetensors").unlink()
    assert find_model(run) == run / "ct_to_mr.safetensors"


def test_find_passes_over_what_is_not_ours_but_says_so(run: Path, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(3)}, run / "other.safetensors")
    (run / ".mr_to_ct.safetensors.12.tmp").write_bytes(b"")
    assert find_model(run, "ct") == run / "mr_to_ct.safetensors"
    with pytest.raises(ModelError, match="another tool"):
        find_model(run, "pet")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"empty: no exported model.*mr_to_ct\.safetensors"):
        find_model(empty)


def test_read_header_needs_no_weights(saved: Path) -> None:
    header = read_header(saved)
    assert header["source"]["name"] == "mr"
    assert header["sample"]["size"] == [16, 16]


# -- generators of the original program ------------------------------------------------------------------------------


def plain_networks() -> Any:
    """The original's networks (tests are no package, so they are loaded by their path)."""
    spec = importlib.util.spec_from_file_location("original", Path(__file__).parent / "networks" / "original.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def as_the_original(network: nn.Module, pixels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Pixels (H, W, C) of 0..255 through the network and back, not yet whole numbers."""
    x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255 * 2 - 1
    with torch.no_grad():
        y: np.ndarray[Any, Any] = network(x)[0].permute(1, 2, 0).numpy()
    return (y + 1) / 2 * 255


def test_an_authors_generator_is_a_model_of_pictures(tmp_path: Path) -> None:
    plain = plain_networks()
    folder = tmp_path / "horse2zebra_pretrained"
    folder.mkdir()
    torch.save(plain.weighted(plain.resnet(2, 2, norm="batch")).state_dict(), folder / "latest_net_G.pth")
    model = load_model(find_model(folder / "latest_net_G.pth", "zebra"))
    assert (model.source.name, model.target.name) == ("horse", "zebra")
    assert model.arguments == {
        "kind": "resnet", "in_channels": 3, "out_channels": 3, "ndim": 2, "filters": 2, "blocks": 2, "norm": "batch",
        "dropout": 0.0,
    }  # fmt: skip
    assert model.provenance["format"] == "upstream"
    assert (model.ndim, model.in_channels) == (2, 3)
    assert not model.network.training
    again = load_model(save_model(tmp_path / "horse_to_zebra.safetensors", model))  # medcycle's own file of it
    x = torch.randn(1, 3, 16, 24)
    assert torch.equal(again.network(x), model.network(x))
    with pytest.raises(ModelError, match=r"from 'horse' to 'zebra'; a model to 'cow' was asked for"):
        find_model(folder / "latest_net_G.pth", "cow")


@pytest.mark.parametrize(
    ("kind", "channels", "size"), [("resnet", 3, (28, 52)), ("resnet", 1, (64, 40)), ("unet", 3, (32, 64))]
)
def test_a_picture_comes_out_as_from_the_original(
    tmp_path: Path, kind: str, channels: int, size: tuple[int, int]
) -> None:
    plain = plain_networks()
    network = plain.resnet(4, 1, channels) if kind == "resnet" else plain.unet(4, 5, channels)
    torch.save(plain.weighted(network).eval().state_dict(), tmp_path / "latest_net_G_B.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (*size, channels), dtype=np.uint8)
    Image.fromarray(pixels if channels == 3 else pixels[..., 0]).save(tmp_path / "picture.png")

    translator = Translator.load(tmp_path / "latest_net_G_B.pth", device="cpu", precision="fp32")
    translator.file(tmp_path / "picture.png", tmp_path / "out.png")
    found = np.asarray(Image.open(tmp_path / "out.png")).reshape(pixels.shape)
    expected = as_the_original(network, pixels)
    assert np.ptp(expected) > 100
    different = found != expected.astype(np.uint8)  # as the original, which cuts the fraction off
    near_whole = np.abs(expected - np.rint(expected)) < 1e-3  # there the last bit decides
    assert not (different & ~near_whole).any()
    assert different.mean() < 0.01


def test_a_picture_of_16_bits_keeps_them(tmp_path: Path) -> None:
    plain = plain_networks()
    torch.save(plain.weighted(plain.resnet(4, 1, 1)).eval().state_dict(), tmp_path / "latest_net_G.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 28), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "8.png")
    Image.fromarray(pixels.astype(np.uint16) * 257).save(tmp_path / "16.png")  # the same to the network
    translator = Translator.load(tmp_path / "latest_net_G.pth", device="cpu")
    made = {}
    for depth in ("8", "16"):
        translator.file(tmp_path / f"{depth}.png", tmp_path / f"{depth}_out.png")
        made[depth] = read_volume(tmp_path / f"{depth}_out.png")
    assert (made["8"].unit, made["16"].unit) == ("uint8", "uint16")
    np.testing.assert_allclose(made["16"].array / 257, made["8"].array + 0.5, atol=0.6)  # 8 bits are cut off
    assert len(np.unique(made["16"].array)) > len(np.unique(made["8"].array))


def test_pictures_that_an_authors_generator_cannot_take(tmp_path: Path) -> None:
    plain = plain_networks()
    torch.save(plain.resnet(2, 1, 1).state_dict(), tmp_path / "grey.pth")
    translator = Translator.load(tmp_path / "grey.pth", device="cpu")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "colour.png")
    with pytest.raises(ModelError, match=r"colour\.png: 3 channel\(s\); the model from 'input' to 'output' takes 1"):
        translator(tmp_path / "colour.png")
    volume = Volume(np.zeros((1, 16, 16, 2), np.float32), np.eye(4), "HU", {"path": "head.nii.gz"})
    with pytest.raises(ScanError, match=r"head\.nii\.gz: modality image .* unit is HU"):
        translator(volume)


def test_files_that_are_no_authors_generator(tmp_path: Path) -> None:
    plain = plain_networks()
    torch.save(plain.patchgan(2).state_dict(), tmp_path / "latest_net_D_A.pth")
    torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
    for name, message in (
        ("latest_net_D_A.pth", r"looks like a discriminator: give the file of a generator"),
        ("checkpoint.pth", r"expected tensors under keys such as model\.1\.weight.* found epoch"),
    ):
        with pytest.raises(ModelError, match=rf"{name}: .*{message}"):
            load_model(find_model(tmp_path / name))
    for function in (load_model, find_model):
        with pytest.raises(ModelError, match=r"no\.pth: missing"):
            function(tmp_path / "no.pth")
    torch.save(plain.resnet(2, 1).state_dict(), tmp_path / "x.pth")
    with pytest.raises(ModelError, match=r"x\.pth: .* brings its own network"):
        load_model(tmp_path / "x.pth", network=Custom())
