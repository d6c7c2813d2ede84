from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from medcycle.errors import ConfigError, ModelError, ScanError
from medcycle.inference import Translator, plan_outputs, translate_paths
from medcycle.inference.video import translate_video
from medcycle.io.video import read_frames, video_info
from medcycle.io.video_write import VideoWriter
from medcycle.prepare import Preparation

pytest.importorskip("av")
Make = Callable[..., Any]
NTSC = Fraction(24000, 1001)


class Invert(nn.Module):
    """Bright becomes dark; remembers the batches it was given."""

    def __init__(self, channels: int | None = None) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []
        if channels is not None:
            self.in_channels = channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(tuple(x.shape))
        return -x


@pytest.fixture
def photo(translator: Make) -> Make:
    """A translator of pictures that inverts them."""
    return lambda **settings: translator("photo", "photo", **({"network": Invert()} | settings))


def pixels(number: int, size: tuple[int, int] = (35, 26)) -> Any:
    """(C, W, H): a gradient, on which a square moves."""
    x, y = np.mgrid[: size[0], : size[1]]
    picture = np.stack([x * 7 % 256, y * 9 % 256, np.full_like(x, 60)]).astype(np.uint8)
    picture[:, number : number + 8, 4:12] = np.array([220, 30, 90])[:, None, None]
    return picture


def test_a_video_of_another_scale_than_the_training_is_warned_of(photo: Make, tmp_path: Path) -> None:
    made = photo()
    made.model.sample["resize"] = [20, 20]
    with pytest.warns(UserWarning, match=r"in\.mkv, frame 1: 35 x 26 pixels; .* resized to 20 x 20") as warned:
        translate_video(made, clip(tmp_path / "in.mkv"), tmp_path / "out.mkv")
    assert len(warned) == 1


def clip(path: Path, count: int = 11, size: tuple[int, int] = (35, 26), rate: Fraction = Fraction(25)) -> Path:
    path.parent.mkdir(exist_ok=True)
    with VideoWriter(path, rate=rate) as writer:
        for number in range(count):
            writer.write(pixels(number % 20, size), number / rate)
    return path


def folder(path: Path, count: int = 11) -> Path:
    """Pictures whose names are in order only if numbers count as numbers."""
    path.mkdir()
    for number in range(count):
        Image.fromarray(pixels(number).transpose(2, 1, 0)).save(path / f"frame{number + 1}.png")
    return path


def frames_of(path: Path) -> list[Any]:
    return [frame.picture for frame in read_frames(path)]


# -- what becomes what -----------------------------------------------------------------------------------------------


def test_a_video_becomes_a_video(photo: Make, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv")
    steps: list[tuple[int, int]] = []
    made = photo(batch_size=4)
    assert translate_paths(made, source, tmp_path / "b.mkv", steps=lambda *at: steps.append(at)) == [tmp_path / "b.mkv"]
    for number, picture in enumerate(frames_of(tmp_path / "b.mkv")):
        np.testing.assert_array_equal(picture, 255 - pixels(number))
    assert made.model.network.batches == [(4, 3, 35, 26), (4, 3, 35, 26), (3, 3, 35, 26)]
    assert steps == [(4, 11), (8, 11), (11, 11), (11, 11)]
    assert [f.time for f in read_frames(tmp_path / "b.mkv")] == [f.time for f in read_frames(source)]


def test_h264_from_the_rate_of_films(photo: Make, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mp4", rate=NTSC)
    translate_paths(photo(), source, tmp_path / "b.mp4")
    assert [f.time for f in read_frames(tmp_path / "b.mp4")] == [n / NTSC for n in range(11)]
    assert video_info(tmp_path / "b.mp4").rate == NTSC
    for number, picture in enumerate(frames_of(tmp_path / "b.mp4")):
        assert np.abs(picture.astype(int) - (255 - pixels(number))).mean() < 5


def test_a_folder_of_pictures_becomes_a_video(photo: Make, tmp_path: Path) -> None:
    source = folder(tmp_path / "in")
    for name, rate, expected in (("b.mkv", None, Fraction(25)), ("c.mkv", 12.5, Fraction(25, 2))):
        assert translate_paths(photo(), source, tmp_path / name, rate=rate) == [tmp_path / name]
        for number, frame in enumerate(read_frames(tmp_path / name)):
            np.testing.assert_array_equal(frame.picture, 255 - pixels(number))
            assert frame.time == number / expected
        assert number == 10
    translate_paths(photo(), f"{source}/frame1?.png", tmp_path / "d.mkv")
    np.testing.assert_array_equal(frames_of(tmp_path / "d.mkv"), [255 - pixels(n) for n in (9, 10)])


def test_a_folder_of_pictures_becomes_a_folder_of_pictures(photo: Make, tmp_path: Path) -> None:
    assert len(translate_paths(photo(), folder(tmp_path / "in"), tmp_path / "out")) == 11
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / "frame3.png")).T, 255 - pixels(2))


@pytest.mark.parametrize(
    ("out", "kind", "where", "ending"),
    [
        ("out", None, "out", "png"),
        ("out/", None, "out", "png"),
        ("out", "png", "out/a", "png"),
        ("out", "tif", "out/a", "tif"),
    ],
)
def test_a_video_becomes_a_folder_of_pictures(
    photo: Make, tmp_path: Path, out: str, kind: str | None, where: str, ending: str
) -> None:
    source = clip(tmp_path / "a.mkv")
    for overwrite in (False, True):  # a folder of ours is replaced
        written = translate_paths(photo(), source, f"{tmp_path}/{out}", format=kind, overwrite=overwrite)
        assert written == [tmp_path / where]
        names = sorted(path.name for path in (tmp_path / where).iterdir())
        assert names == [f"{n:06d}.{ending}" for n in range(1, 12)]
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / where / names[4])).T, 255 - pixels(4))
    (tmp_path / where / "thesis.txt").write_text("precious")
    with pytest.raises(ScanError, match=r"holds other files than numbered frames \(thesis\.txt\)"):
        translate_paths(photo(), source, f"{tmp_path}/{out}", format=kind, overwrite=True)
    assert (tmp_path / where / "thesis.txt").read_text() == "precious"


def test_many_videos_each_become_one(photo: Make, tmp_path: Path) -> None:
    clip(tmp_path / "in" / "a.mkv", 3)
    clip(tmp_path / "in" / "b.mp4", 4)
    Image.fromarray(pixels(0).transpose(2, 1, 0)).save(tmp_path / "in" / "c.jpg")
    written = translate_paths(photo(), tmp_path / "in", tmp_path / "out")
    assert [path.name for path in written] == ["a.mkv", "b.mp4", "c.png"]
    assert [len(frames_of(path)) for path in written[:2]] == [3, 4]
    written = translate_paths(
        photo(), [tmp_path / "in" / "a.mkv", tmp_path / "in" / "b.mp4"], tmp_path / "o", format="avi"
    )
    assert [path.name for path in written] == ["a.avi", "b.avi"]
    planned = plan_outputs(tmp_path / "in", tmp_path / "out2", "png")
    assert [out for _, out in planned] == [f"{tmp_path}/out2/{name}" for name in ("a/", "b/", "c.png")]
    (tmp_path / "in" / "d.gif").write_bytes(b"x")
    assert plan_outputs([tmp_path / "in" / "d.gif"] * 2, tmp_path / "out")[0][1] == f"{tmp_path}/out/d.mp4"


def test_a_grey_model_takes_the_luma(photo: Make, tmp_path: Path) -> None:
    made = photo(network=Invert(channels=1))
    translate_paths(made, clip(tmp_path / "a.mkv"), tmp_path / "b.mkv")
    assert {batch[1] for batch in made.model.network.batches} == {1}
    for number, picture in enumerate(frames_of(tmp_path / "b.mkv")):
        luma = np.einsum("cwh,c->wh", pixels(number).astype(float), (0.299, 0.587, 0.114))
        assert np.abs(picture - (255 - luma)).max() <= 2


def test_resized_frames(photo: Make, tmp_path: Path) -> None:
    translate_paths(photo(resize=(20, 16)), clip(tmp_path / "a.mkv"), tmp_path / "b.mkv")
    assert {picture.shape for picture in frames_of(tmp_path / "b.mkv")} == {(3, 20, 16)}


# -- long and broken -------------------------------------------------------------------------------------------------


def test_memory_does_not_grow_with_the_length(photo: Make, tmp_path: Path) -> None:
    peaks = []
    for count in (12, 12, 120):  # the first also imports
        source = clip(tmp_path / f"{count}.mkv", count, (128, 96))
        tracemalloc.start()
        translate_paths(photo(), source, tmp_path / "b.mkv", overwrite=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < peaks[1] * 1.3


def test_no_more_than_a_batch_is_read_ahead(photo: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import medcycle.inference.video as room

    out = [0, 0]  # frames read, frames written
    most = 0

    def counted(*args: Any, **settings: Any) -> Any:
        nonlocal most
        for frame in read_frames(*args, **settings):
            out[0] += 1
            most = max(most, out[0] - out[1])
            yield frame

    class Counting(VideoWriter):
        def write(self, *args: Any) -> None:
            out[1] += 1
            super().write(*args)

    monkeypatch.setattr(room, "read_frames", counted)
    monkeypatch.setattr(room, "VideoWriter", Counting)
    translate_paths(photo(batch_size=3), clip(tmp_path / "a.mkv", 20), tmp_path / "b.mkv")
    assert out == [20, 20]
    assert most == 3


@pytest.mark.parametrize("out", ["b.mp4", "b"])
def test_stopped_in_the_middle_nothing_is_left(photo: Make, tmp_path: Path, out: str) -> None:
    source = clip(tmp_path / "a.mkv")

    def stop(done: int, total: int) -> None:
        if done > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        translate_paths(photo(batch_size=2), source, tmp_path / out, steps=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize("out", ["b.mp4", "b"])
def test_a_damaged_video_leaves_nothing(photo: Make, tmp_path: Path, out: str) -> None:
    source = clip(tmp_path / "a.mkv", 40)
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 2])
    with pytest.raises(ScanError, match=r"a\.mkv: damaged or truncated at frame \d\d "):
        translate_paths(photo(), source, tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_frames_of_different_sizes_are_named(photo: Make, tmp_path: Path) -> None:
    source = folder(tmp_path / "in", 3)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(source / "frame2.png")
    with pytest.raises(ScanError, match=r"frame2\.png: \(9, 9\), but"):
        translate_paths(photo(), source, tmp_path / "b.mkv")
    with pytest.raises(ScanError, match="frame 2 is"):
        translate_paths(photo(batch_size=1), source, tmp_path / "b.mkv")
    assert not (tmp_path / "b.mkv").exists()


def test_a_network_that_fails_names_the_frames(photo: Make, tmp_path: Path) -> None:
    class Breaks(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / 0

    with pytest.raises(ModelError, match=r"a\.mkv, frame 1 to 3: the network's output is not finite"):
        translate_paths(photo(network=Breaks(), batch_size=3), clip(tmp_path / "a.mkv"), tmp_path / "b.mkv")


# -- refusals --------------------------------------------------------------------------------------------------------


def test_models_that_are_not_of_pictures(translator: Make, photo: Make, tmp_path: Path) -> None:
    source = clip(tmp_path / "a.mkv", 2)
    with pytest.raises(ModelError, match="this model translates CT"):
        translate_paths(translator(), source, tmp_path / "b.mkv")
    with pytest.raises(ModelError, match="this model translates 3D patches"):
        translate_paths(photo(size=(4, 4, 4)), source, tmp_path / "b.mkv")
    deep = {"deep": Preparation("image", range=(0, 65535))}
    with pytest.raises(ScanError, match=r"8-bit pictures.*uint16.*--format tif"):
        translate_paths(translator("photo", "deep", preparations=deep), source, tmp_path / "b.mkv")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


@pytest.mark.parametrize(
    ("source", "out", "kind", "error", "message"),
    [
        ("a.mkv", "b.nii.gz", None, ScanError, "a video file, or a folder for its frames"),
        ("a.mkv", "b.webm", None, ScanError, r"can be written as \.mp4"),
        ("a.mkv", "b.png", None, ScanError, "a video file, or a folder for its frames"),
        ("a.mkv", "b", "nii.gz", ConfigError, "a video becomes mp4, mkv, mov, avi, png, tif"),
        ("a.mkv", "b.mp4", "mkv", ConfigError, "another format"),
        ("in", "b", "mp4", ConfigError, "it is no video.*out.mp4"),
        ("scan.nii", "b.mp4", None, ScanError, "a file that holds scans"),
        ("many", "b.mp4", None, ScanError, "2 inputs from .* need a folder"),
        ("a.mkv", "a.mkv", None, ScanError, "the scan itself"),
        ("text.mp4", "b.mp4", None, ScanError, "cannot be read as a video"),
    ],
)
def test_plans_that_make_no_sense(
    photo: Make, tmp_path: Path, source: str, out: str, kind: str | None, error: type, message: str
) -> None:
    clip(tmp_path / "a.mkv", 2)
    folder(tmp_path / "in", 2)
    clip(tmp_path / "many" / "a.mkv", 2)
    clip(tmp_path / "many" / "b.mkv", 2)
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "scan.nii").write_text("no video")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(error, match=message):
        translate_paths(photo(), tmp_path / source, tmp_path / out, format=kind)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("rate", [0, -1, 1e9, float("nan")])
def test_rates_that_cannot_be(photo: Make, tmp_path: Path, rate: float) -> None:
    with pytest.raises(ScanError, match="frames per second"):
        translate_video(photo(), folder(tmp_path / "in", 2), tmp_path / "b.mkv", rate=rate)


def test_a_real_generator_and_odd_sizes(translator: Make, tmp_path: Path) -> None:
    from medcycle.networks import build_generator

    network = build_generator("resnet", in_channels=3, out_channels=3, filters=4, blocks=1)
    made: Translator = translator("photo", "photo", network=network, size=(16, 16))
    translate_paths(made, clip(tmp_path / "a.mkv", 3, (37, 29)), tmp_path / "b.mp4")
    assert {picture.shape for picture in frames_of(tmp_path / "b.mp4")} == {(3, 37, 29)}
