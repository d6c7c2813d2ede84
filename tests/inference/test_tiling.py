"""Tiles against the scan at once: which norms tile, what is warned of, what a scan that memory cannot hold gives."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import medcycle.inference.sliding as sliding
import medcycle.inference.tiling as tiling
from medcycle.errors import ConfigError, ModelError
from medcycle.inference import check_tiling
from medcycle.inference.sliding import translate_at_once, translate_patches
from medcycle.io import write_volume
from medcycle.model import DomainInfo, Model, save_model
from medcycle.networks import build_generator
from medcycle.prepare import Preparation
from medcycle.volume import Volume

Make = Callable[..., Any]
TILE = (16, 16, 16)
FP32: dict[str, Any] = {"device": "cpu", "precision": "fp32"}


class Narrow(nn.Module):
    """Contrast by a norm over the window, between convolutions that reach two voxels: what differs is the norm."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.in_channels = self.out_channels = 1
        self.layers = nn.Sequential(
            nn.Conv3d(1, 4, 3, padding=1, padding_mode="replicate"), norm, nn.ReLU(), nn.Conv3d(4, 1, 1), nn.Tanh()
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layers(x)
        return y


def narrow(kind: str) -> Narrow:
    made = {"instance": nn.InstanceNorm3d(4), "group": nn.GroupNorm(2, 4), "batch": nn.BatchNorm3d(4)}
    return Narrow(made.get(kind, nn.Identity())).eval()


@pytest.mark.parametrize("kind", ["instance", "group", "batch", "none"])
def test_norms_of_the_window_do_not_tile_and_held_ones_do(kind: str, translator: Make, make_ball: Make) -> None:
    made = translator(network=narrow(kind), size=TILE)
    found = check_tiling(made, make_ball((36, 32, 28)))
    figures = {difference.statistics: difference for difference in found.differences}
    assert found.unit == "HU"
    assert found.limit == tiling.LIMIT_HU == 10
    assert found.part == found.scan == (36, 32, 28)
    if kind in ("batch", "none"):
        assert found.norms == ()
        assert list(figures) == ["tile"]
        assert figures["tile"].mean < 2  # the borders of tiles alone
        assert found.advice() == ""
        return
    assert found.norms == (kind,)
    assert figures["tile"].mean > 10 * figures["scan"].mean
    assert figures["scan"].mean < 2
    assert figures["tile"].mean <= figures["tile"].p95 <= figures["tile"].max
    assert figures["tile"].mean > found.limit
    assert found.advice() == ""  # translate holds the scan's


def test_the_figures_are_those_of_the_two_outputs(translator: Make, make_ball: Make) -> None:
    network, volume = narrow("instance"), make_ball((24, 20, 16), np.diag([-2.0, 2.0, 3.0, 1.0]))
    found = check_tiling(translator(network=network, size=TILE, overlap=0.25), volume)
    prepared = Preparation(modality="ct", foreground=True)(volume)
    with torch.no_grad():
        whole = network(torch.from_numpy(prepared.array)[None])[0].numpy()
    tiles = translate_patches(network, prepared.array, TILE, overlap=0.25, **FP32)
    hu = abs(whole - tiles)[:, prepared.foreground] * 4095 / 2
    (own, _) = found.differences
    np.testing.assert_allclose((own.mean, own.p95, own.max), (hu.mean(), np.percentile(hu, 95), hu.max()), rtol=1e-3)
    assert found.tiles == 4  # two along the first two axes


def test_tiles_lie_in_phase_with_what_the_network_halves() -> None:
    class Coarse(nn.Module):
        """The mean of each 4 x 4 x 4 voxels."""

        def __init__(self, **attributes: int) -> None:
            super().__init__()
            vars(self).update(attributes)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            padded = F.pad(x, [w for n in reversed(x.shape[2:]) for w in (0, -n % 4)], mode="replicate")
            coarse = F.interpolate(F.avg_pool3d(padded, 4), scale_factor=4)
            return coarse[:, :, : x.shape[2], : x.shape[3], : x.shape[4]]

    array = np.random.default_rng(0).uniform(-0.9, 1, (1, 51, 32, 35)).astype(np.float32)
    network = Coarse(multiple=4)
    tiles = translate_patches(network, array, (32, 32, 32), overlap=0.6, **FP32)
    whole = translate_at_once(network, array, (32, 32, 32), overlap=0.6, **FP32)
    assert whole.shape == array.shape
    np.testing.assert_allclose(tiles, whole, atol=1e-5)  # steps of 12, not 13, and 52 voxels, not 51
    assert abs(translate_patches(Coarse(), array, (32, 32, 32), overlap=0.6, **FP32) - whole).mean() > 0.02


@pytest.mark.parametrize(
    ("patch", "overlap", "multiple", "places"),
    [
        (64, 0.5, 4, (4, 32)),
        (64, 0.7, 4, (4, 16)),
        (64, 0.5, 64, (8, 32)),
        (30, 0.5, 4, (2, 14)),
        (8, 0.5, 4, (1, 4)),
        (64, 0.98, 4, (1, 1)),
    ],
)
def test_places_of_tiles(patch: int, overlap: float, multiple: int, places: tuple[int, int]) -> None:
    network = nn.Identity()
    network.multiple = multiple  # type: ignore[assignment]
    assert sliding._step(network, patch, overlap) == places
    assert sliding._step(nn.Identity(), patch, overlap) == (1, max(1, int(patch * (1 - overlap))))


def test_other_units_have_a_share_of_the_range_as_limit(translator: Make, make_ball: Make) -> None:
    found = check_tiling(translator("ct", "mr", network=narrow("none"), size=TILE), make_ball((20, 20, 20)))
    assert found.unit == "a.u."
    assert found.limit == pytest.approx(8)  # of 0 to 800


def test_a_2d_model_tiles_nothing(translator: Make, make_ball: Make) -> None:
    made = translator(
        network=build_generator("resnet", in_channels=1, out_channels=1, filters=2, blocks=1), axes="coronal"
    )
    found = check_tiling(made, make_ball((12, 20, 6)))
    assert (found.tiles, found.differences, found.advice()) == (0, (), "")
    (line,) = found.lines()
    assert "planes of 12 x 6 pass through the network whole: nothing is tiled" in line
    assert "trained on pieces of 8 x 8, smaller" in line


def test_a_scan_of_one_tile(translator: Make, make_ball: Make) -> None:
    found = check_tiling(translator(network=narrow("instance"), size=TILE), make_ball((16, 15, 12)))
    assert found.tiles == 0
    assert "fits one tile (16 x 16 x 16): nothing is tiled" in found.lines()[0]


def test_the_largest_part_that_memory_holds(translator: Make, make_ball: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    made, volume = translator(network=narrow("instance"), size=TILE), make_ball((36, 32, 28))
    needed = tiling._bytes(made, (1, 36, 32, 28))
    assert needed is not None
    assert needed > 36 * 32 * 28 * 4 * 4  # at least the inner layer
    for share, smallest in ((1.5, 36), (0.6, 24)):
        monkeypatch.setattr(tiling, "free_memory", lambda _, share=share: share * needed)
        found = check_tiling(made, volume)
        assert smallest <= found.part[0] <= 36
        assert (found.part == found.scan) == (share > 1)
        assert ("as much as fits" in found.lines()[0]) == (share < 1)
        assert found.differences[0].mean > found.limit
    monkeypatch.setattr(tiling, "free_memory", lambda _: 1000)
    with pytest.raises(ModelError, match="cpu has not enough memory for more than one tile of 16 x 16 x 16"):
        check_tiling(made, volume)


def test_a_network_that_cannot_run_without_content_is_tried_whole(translator: Make, make_ball: Make) -> None:
    class Asks(Narrow):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if float(x.max()) > -2 else x

    made = translator(network=Asks(nn.InstanceNorm3d(4)).eval(), size=TILE)
    assert tiling._bytes(made, (1, 20, 20, 20)) is None
    assert check_tiling(made, make_ball((20, 20, 20))).part == (20, 20, 20)
    # It may take only sizes that it can halve as often as the tile's.
    assert check_tiling(made, make_ball((20, 38, 33))).part == (16, 32, 32)


@pytest.mark.parametrize(
    ("tile", "scan", "says"),
    [
        (9.0, 1.0, ""),
        (20.0, 1.0, ""),
        (40.0, 20.0, "by 20 HU on average (limit 10): the same tissue depends on where a tile lies. Take more overlap"),
        (20.0, 25.0, "Take --statistics tile (20 HU), more overlap (--overlap 0.75), or train on larger patches"),
        (20.0, None, "by 20 HU on average (limit 10): the same tissue depends on where a tile lies. Take more overlap"),
    ],
)
def test_what_to_do(tile: float, scan: float | None, says: str) -> None:
    means = {"tile": tile} | ({} if scan is None else {"scan": scan})
    found = tuple(tiling.Difference(name, mean, mean, mean) for name, mean in means.items())
    advice = tiling.TilingCheck("", (), TILE, 0.5, 8, (20,) * 3, (20,) * 3, "HU", 10, found).advice()
    assert says in advice
    assert bool(says) == bool(advice)


# -- translation ------------------------------------------------------------------------------------------------------


def said(make: Callable[[], object]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make()
    return [str(one.message) for one in found]


def test_tiles_of_a_norm_of_the_window_are_warned_of_once(translator: Make, make_ball: Make) -> None:
    volume = make_ball((20, 20, 20))
    made = translator(network=narrow("instance"), size=TILE, statistics="tile")
    (warning,) = said(lambda: [made(volume), made(volume)])
    assert "ball: is translated in tiles of 16 x 16 x 16 voxels, and instance norm takes its statistics from" in warning
    assert "check-tiling" in warning
    assert "--statistics scan" in warning
    assert len(said(lambda: translator(network=narrow("group"), size=TILE, statistics="tile")(volume))) == 1
    for quiet in (
        translator(network=narrow("batch"), size=TILE, statistics="tile"),
        translator(network=narrow("none"), size=TILE, statistics="tile"),
        translator(network=narrow("instance"), size=TILE),
        translator(network=narrow("instance"), size=(20, 20, 20), statistics="tile"),
    ):
        assert said(lambda quiet=quiet: quiet(volume)) == []


def test_translation_with_the_scans_statistics(translator: Make, make_ball: Make) -> None:
    volume, network = make_ball((32, 32, 32)), narrow("instance")
    scan = [translator(network=network, size=TILE, overlap=o)(volume) for o in (0.25, 0.5)]
    body = volume.array > -500
    with pytest.warns(UserWarning, match="tiles"):
        own = [translator(network=network, size=TILE, statistics="tile", overlap=o)(volume) for o in (0.25, 0.5)]
    apart = [abs(first.array - second.array)[body].mean() for first, second in (scan, own)]
    assert apart[0] < 0.1 * apart[1]  # where the tiles lie is of no matter
    assert translator(size=(8, 8)).statistics == "scan"
    with pytest.raises(ConfigError, match="statistics 'all': allowed are scan, tile"):
        translator(statistics="all")


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, make_ball: Make) -> Path:
    """A folder with run/ct_to_mr.safetensors, a 3D model, run/flat.safetensors, and head.nii.gz."""
    torch.manual_seed(0)
    domains = [DomainInfo(n, Preparation(modality=n, foreground=True, scale=(0.0, 800.0))) for n in ("mr", "ct")]
    for name, ndim in (("deep", 3), ("flat", 2)):
        arguments = {"kind": "resnet", "in_channels": 1, "out_channels": 1, "ndim": ndim, "filters": 2, "blocks": 1}
        network = build_generator(**arguments)
        sample = {"axes": "axial", "size": [16] * ndim}
        save_model(tmp_path / "run" / f"{name}.safetensors", Model(network, arguments, *domains, sample))
    write_volume(make_ball((28, 24, 20), unit="a.u."), tmp_path / "head.nii.gz")
    return tmp_path


def test_the_command(run: Path, medcycle: Make) -> None:
    model, scan = run / "run" / "deep.safetensors", run / "head.nii.gz"
    plain = ("check-tiling", model, scan, "--device", "cpu", "--precision", "fp32")
    ran = medcycle(*plain, "--out", run / "tiles.json")
    assert ran.code == 0, ran.err
    first, own, held = ran.out.splitlines()
    assert "mr to ct, instance norm: " in first
    assert "tiles of 16 x 16 x 16 voxels, overlap 0.5, against the whole scan (28 x 24 x 20) at once" in first
    assert own.startswith("  statistics of the tile: mean ")
    assert held.startswith("  statistics of the scan: mean ")
    assert ran.err.startswith("warning: tiles of 16 x 16 x 16 voxels differ from the scan at once by ")
    found = json.loads((run / "tiles.json").read_text())
    assert found["unit"] == "HU"
    assert found["norms"] == ["instance"]
    assert [one["statistics"] for one in found["differences"]] == ["tile", "scan"]
    assert found["warning"] == ran.err.removeprefix("warning: ").strip()
    assert medcycle(*plain, "--strict").code == 1
    flat = medcycle("check-tiling", run / "run" / "flat.safetensors", scan, "--device", "cpu", "--strict")
    assert (flat.code, flat.err) == (0, "")
    assert "nothing is tiled" in flat.out


def test_the_commands_errors(run: Path, medcycle: Make) -> None:
    model = run / "run" / "deep.safetensors"
    for arguments, message in (
        ((model, run / "none.nii.gz"), "none.nii.gz: no such file"),
        ((run / "none.safetensors", run / "head.nii.gz"), "none.safetensors: missing"),
        ((model, run / "head.nii.gz", "--to", "pet"), "a model to 'pet' was asked for"),
        ((model, run / "head.nii.gz", "--out", "tiles.csv"), "the figures are written as .json"),
        ((model, run / "head.nii.gz", "--overlap", "1"), "Invalid value for '--overlap'"),
    ):
        ran = medcycle("check-tiling", *arguments)
        assert ran.code == 2
        assert message in ran.err
    ran = medcycle("translate", "--model", model, run / "head.nii.gz", run / "out.nii.gz", "--statistics", "all")
    assert ran.code == 2
    assert "statistics 'all': allowed are scan, tile" in ran.err
    assert not (run / "out.nii.gz").exists()


def test_a_picture_does_not_fit_a_3d_model(run: Path, medcycle: Make) -> None:
    write_volume(Volume(np.zeros((1, 20, 20), np.float32), np.eye(4), "uint8"), run / "a.png")
    ran = medcycle("check-tiling", run / "run" / "deep.safetensors", run / "a.png")
    assert ran.code == 2
    assert "a.png" in ran.err


def test_a_scan_of_the_wrong_domain_is_warned_of(translator: Make, make_ball: Make) -> None:
    ball = make_ball((20, 20, 20))
    with pytest.warns(UserWarning, match="Are the domains swapped"):
        check_tiling(translator(network=narrow("none"), size=TILE), ball.replace(array=np.abs(ball.array)))


def test_planes_cannot_be_asked_of_a_model_of_patches(translator: Make) -> None:
    for axes in ("axial", "coronal"):
        with pytest.raises(ConfigError, match="translates 3D patches, not planes"):
            translator(size=TILE, only=axes)
