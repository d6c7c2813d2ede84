"""Runs exported for the original program: its keys, its orientation, and all files or none."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medcycle.errors import MedcycleError, ModelError, ScanError
from medcycle.inference.export import export_upstream
from medcycle.model import DomainInfo, Model, load_model, save_model
from medcycle.networks import build_discriminator, build_generator
from medcycle.networks.upstream import discriminator_state
from medcycle.prepare import Preparation
from medcycle.training.checkpoint import save_checkpoint
from medcycle.training.runtime import Processes
from medcycle.training.step import CycleGAN

GENERATOR: dict[str, Any] = {
    "kind": "resnet",
    "in_channels": 3,
    "out_channels": 1,
    "filters": 2,
    "blocks": 2,
    "ndim": 2,
}
BACK = GENERATOR | {"in_channels": 1, "out_channels": 3}
DISCRIMINATOR: dict[str, Any] = {"kind": "patchgan", "filters": 2, "layers": 2, "norm": "instance"}
FILES = ["latest_net_G_A.pth", "latest_net_G_B.pth", "latest_net_D_A.pth", "latest_net_D_B.pth"]

_spec = importlib.util.spec_from_file_location("original", Path(__file__).parents[1] / "networks" / "original.py")
assert _spec is not None
assert _spec.loader is not None
original: Any = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(original)


def images(channels: int) -> Tensor:
    return torch.randn((1, channels, 24, 36), generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def save(file: Path, network: nn.Module, arguments: dict[str, Any], direction: str) -> None:
    a, b = (DomainInfo(name, Preparation(modality="image", scale=(0.0, 255.0))) for name in ("horse", "zebra"))
    source, target = (a, b) if direction == "a_to_b" else (b, a)
    save_model(
        file,
        Model(network, arguments, source, target, {"axes": "axial", "size": [24, 36]}, {"direction": direction}),
    )


def make_run(folder: Path, *, discriminators: list[nn.Module] | None = None, steps: tuple[int, ...] = (4,)) -> CycleGAN:
    """A run folder as training leaves it, and its state."""
    torch.manual_seed(3)
    networks = [build_generator(**GENERATOR), build_generator(**BACK)]
    networks += discriminators or [build_discriminator(**DISCRIMINATOR, channels=n) for n in (3, 1)]
    for network in networks:
        original.weighted(network)
    gan = CycleGAN(*networks)
    config = {"model": {"discriminator": DISCRIMINATOR}, "sample": {"size": [24, 36]}}
    for step in steps:
        gan.step = step
        save_checkpoint(folder / "checkpoints", gan, config, "digest", Processes())
    save(folder / "horse_to_zebra.safetensors", gan.a_to_b, GENERATOR, "a_to_b")
    save(folder / "zebra_to_horse.safetensors", gan.b_to_a, BACK, "b_to_a")
    return gan


def test_the_original_program_takes_all_four_networks(tmp_path: Path) -> None:
    gan = make_run(tmp_path / "run")
    files = export_upstream(tmp_path / "run", tmp_path / "new" / "out")
    assert [file.name for file in files] == FILES
    assert sorted(file.name for file in (tmp_path / "new" / "out").iterdir()) == sorted(FILES)
    plain = [
        original.resnet(2, 2, 3, out_channels=1),
        original.resnet(2, 2, 1, out_channels=3),
        original.patchgan(2, 1, layers=2),
        original.patchgan(2, 3, layers=2),
    ]
    # The original's D_A judges what G_A makes: domain b.
    ours = [gan.a_to_b, gan.b_to_a, gan.discriminator_b, gan.discriminator_a]
    for file, theirs, network, channels in zip(files, plain, ours, (3, 1, 1, 3), strict=True):
        state = torch.load(file, weights_only=True)
        assert all(value.dtype == torch.float32 and value.is_contiguous() for value in state.values())
        assert list(state) == list(theirs.state_dict())
        theirs.load_state_dict(state, strict=True)
        x = images(channels)
        with torch.no_grad():  # rows there are columns here
            torch.testing.assert_close(theirs(x), network(x.mT).mT, rtol=0, atol=1e-5)


def test_an_exported_generator_opens_as_the_model_that_it_was(tmp_path: Path) -> None:
    gan = make_run(tmp_path / "run")
    file = export_upstream(tmp_path / "run", tmp_path / "out")[1]
    model = load_model(file)
    assert (model.source.name, model.target.name) == ("b", "a")
    with torch.no_grad():
        assert torch.equal(model.network(images(1)), gan.b_to_a(images(1)))


def test_one_model_file_gives_one_generator(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    files = export_upstream(tmp_path / "run" / "zebra_to_horse.safetensors", tmp_path)
    assert files == [tmp_path / "latest_net_G.pth"]
    both = export_upstream(tmp_path / "run", tmp_path)
    one, two = (torch.load(file, weights_only=True) for file in (files[0], both[1]))
    assert all(torch.equal(one[key], two[key]) for key in two)


def test_a_run_without_checkpoints_gives_its_generators(tmp_path: Path) -> None:
    make_run(tmp_path / "run", steps=())
    assert [file.name for file in export_upstream(tmp_path / "run", tmp_path / "out")] == FILES[:2]


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    gan = make_run(tmp_path / "run", steps=(4,))
    folder = tmp_path / "run" / "checkpoints"
    (folder / "step-00000004.rank1.pt").write_bytes(b"the other process's part")
    expected = export_upstream(tmp_path / "run", tmp_path / "one")[2].read_bytes()
    with torch.no_grad():
        gan.discriminator_b.body[0].weight.add_(1)
    gan.step = 11
    save_checkpoint(folder, gan, torch.load(folder / "step-00000004.pt")["config"], "digest", Processes())
    assert export_upstream(tmp_path / "run", tmp_path / "two")[2].read_bytes() != expected
    newest = folder / "step-00000011.pt"
    newest.write_bytes(newest.read_bytes()[:-500])
    with pytest.warns(UserWarning, match=r"step-00000011\.pt: cannot be read"):
        files = export_upstream(tmp_path / "run", tmp_path / "three")
    assert files[2].read_bytes() == expected


def test_files_in_the_way_are_kept_unless_told_otherwise(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "latest_net_D_B.pth").write_text("precious")
    with pytest.raises(ModelError, match=r"out: holds latest_net_D_B\.pth already\. Choose"):
        export_upstream(tmp_path / "run", out)
    assert [file.name for file in out.iterdir()] == ["latest_net_D_B.pth"]
    assert (out / "latest_net_D_B.pth").read_text() == "precious"
    export_upstream(tmp_path / "run", out, overwrite=True)
    assert len(list(out.iterdir())) == 4
    torch.load(out / "latest_net_D_B.pth", weights_only=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (GENERATOR | {"upsample": "resize"}, "upsample=resize"),
        (GENERATOR | {"norm": "group"}, "group norm"),
        (GENERATOR | {"attention": True}, "attention"),
        ({"kind": "unet", "in_channels": 1, "out_channels": 1, "filters": 2, "downs": 3}, "a U-Net of 3 downs"),
        ({"kind": "unet", "in_channels": 1, "out_channels": 1, "filters": 2, "upsample": "resize"}, "upsample=resize"),
        (
            {"kind": "vit", "in_channels": 1, "out_channels": 1, "filters": 2, "layers": 1},
            "a VitGenerator; it has ResNet",
        ),
        (
            {"kind": "masked", "in_channels": 1, "out_channels": 1, "filters": 2, "blocks": 1},
            "a MaskedGenerator; it has",
        ),
    ],
)
def test_what_the_original_lacks_is_refused_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    run = tmp_path / "run"
    save(run / "horse_to_zebra.safetensors", build_generator(**GENERATOR), GENERATOR, "a_to_b")
    save(run / "zebra_to_horse.safetensors", build_generator(**arguments), arguments, "b_to_a")
    with pytest.raises(ModelError, match=rf"zebra_to_horse\.safetensors: the original program cannot hold {message}"):
        export_upstream(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("settings", "message"), [({"spectral": True}, "spectral norm"), ({"scales": 2}, "a discriminator of 2 scales")]
)
def test_a_discriminator_that_the_original_lacks_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=f"the original program cannot hold {message}"):
        discriminator_state(build_discriminator(**DISCRIMINATOR | settings, channels=1))


def test_a_discriminator_of_the_users_own_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    own: list[nn.Module] = [nn.Conv2d(n, 1, 3) for n in (3, 1)]
    make_run(tmp_path / "run", discriminators=own)
    with pytest.raises(ModelError, match=r"step-00000004\.pt: its discriminator_b cannot be exported: it is not of"):
        export_upstream(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"expected one model from a to b.* found none"):
        export_upstream(tmp_path, tmp_path / "out")
    with pytest.raises(ModelError, match="missing"):
        export_upstream(tmp_path / "nothing", tmp_path / "out")
    make_run(tmp_path / "run")
    (tmp_path / "run" / "second.safetensors").write_bytes(
        (tmp_path / "run" / "horse_to_zebra.safetensors").read_bytes()
    )
    with pytest.raises(ModelError, match=r"found horse_to_zebra\.safetensors, second\.safetensors"):
        export_upstream(tmp_path / "run", tmp_path / "out")


def test_a_failed_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ScanError, match="is a file, not a folder"):
        export_upstream(tmp_path / "run", tmp_path / "file")
    written: list[Path] = []
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        if written:
            raise OSError(28, "No space left on device")
        written.append(self)
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MedcycleError, match="No space left"):
        export_upstream(tmp_path / "run", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_networks_that_take_neighbouring_planes_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    model = load_model(tmp_path / "run" / "horse_to_zebra.safetensors")
    model.sample["context"] = 1
    save_model(tmp_path / "run" / "horse_to_zebra.safetensors", model)
    with pytest.raises(ModelError, match=r"horse_to_zebra.*1 neighbour\(s\) on either side.*sample\.context 0"):
        export_upstream(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
