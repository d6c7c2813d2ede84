from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medcycle.errors import ScanError
from medcycle.io import find_scans, read_volume, scan_name
from medcycle.io.video import is_video, read_frames, video_info
from medcycle.io.video_write import VideoWriter

av = pytest.importorskip("av")
NTSC = Fraction(24000, 1001)


def pixels(number: int, width: int, height: int) -> Any:
    """A gradient with a red square that moves to the right: (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    picture = np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 60)], axis=-1)
    picture[8:24, 4 + number : 20 + number] = (220, 30, 30)
    return picture.astype(np.uint8)


def clip(
    path: Path,
    size: tuple[int, int] = (64, 48),
    count: int = 12,
    *,
    rate: Fraction = NTSC,
    base: Fraction = Fraction(1, 24000),
    times: Sequence[int] | None = None,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    audio: str | None = None,
    **options: str,
) -> Path:
    """A video made with PyAV alone; `times` in units of `base`."""
    times = times or [round(n / rate / base) for n in range(count)]
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate, options={"crf": "10", "g": "5"} if codec == "libx264" else {})
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        sound = container.add_stream(audio, rate=48000) if audio else None
        packets = []
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(pixels(number, *size), "rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = time, base
            packets += stream.encode(frame)
        packets += stream.encode()
        if sound is not None:
            tone = np.sin(np.arange(1024) * 0.05).astype(np.float32)[None]
            for number in range(round(float(times[-1] * base) * 48000 / 1024) + 10):  # longer than the pictures
                frame = av.AudioFrame.from_ndarray(tone, "fltp", "mono")
                frame.sample_rate, frame.pts = 48000, number * 1024
                packets += sound.encode(frame)
            packets += sound.encode()
        for packet in packets:
            container.mux(packet)
    return path


def times_of(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def packets_of(path: Path) -> list[tuple[Fraction, bytes]]:
    """The audio packets, with their times."""
    with av.open(str(path)) as container:
        return [(p.pts * p.time_base, bytes(p)) for p in container.demux(audio=0) if p.pts is not None]


def copy(source: Path, target: Path) -> Path:
    """Through our reader and writer."""
    info = video_info(source)
    sound = source if info.audio else None
    with VideoWriter(target, rate=info.rate, time_base=info.time_base, pixel=info.pixel, audio_from=sound) as writer:
        for frame in read_frames(source):
            writer.write(frame.picture, frame.time)
    return target


# -- reading ---------------------------------------------------------------------------------------------------------


def test_pictures_and_times(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", (65, 49), codec="ffv1", pix_fmt="bgr0")
    frames = list(read_frames(path))
    assert len(frames) == 12
    for number, frame in enumerate(frames):
        assert frame.picture.dtype == np.uint8
        assert frame.picture.shape == (3, 65, 49)
        np.testing.assert_array_equal(frame.picture.transpose(2, 1, 0), pixels(number, 65, 49))
        assert abs(frame.time - number / NTSC) < Fraction(1, 1000)
    info = video_info(path)
    assert (info.width, info.height, info.frames, info.audio, info.pixel) == (65, 49, 12, False, 1)
    assert abs(info.rate - NTSC) < 0.01


@pytest.mark.parametrize(
    ("pix_fmt", "codec"), [("gray", "ffv1"), ("gray10le", "ffv1"), ("yuv420p10le", "libx264"), ("yuvj420p", "mjpeg")]
)
def test_other_pixel_formats_give_8_bit_rgb_or_grey(tmp_path: Path, pix_fmt: str, codec: str) -> None:
    path = clip(tmp_path / "a.mkv", codec=codec, pix_fmt=pix_fmt, count=3)
    luma = pixels(2, 64, 48) @ (0.299, 0.587, 0.114)
    *_, colour = read_frames(path)
    *_, grey = read_frames(path, grey=True)
    assert colour.picture.shape == (3, 64, 48)
    assert grey.picture.shape == (1, 64, 48)
    assert np.abs(grey.picture[0].T - luma).mean() < 4
    if pix_fmt.startswith("gray"):
        np.testing.assert_array_equal(np.ptp(colour.picture.astype(int), axis=0), 0)
        assert np.abs(colour.picture[0].T - luma).mean() < 4


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((0, 1, -1, 0), lambda a: np.rot90(a, -1)),  # x' = -y, y' = x: clockwise, as telephones write it
        ((0, -1, 1, 0), lambda a: np.rot90(a, 1)),
        ((-1, 0, 0, -1), lambda a: np.rot90(a, 2)),
    ],
)
def test_turned_as_the_file_says(tmp_path: Path, matrix: tuple[int, ...], turn: Any) -> None:
    path = clip(tmp_path / "a.mp4", count=3)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40  # ISO/IEC 14496-12: the matrix in a track header of version 0
    a, b, c, d = (value * 65536 for value in matrix)
    content[at : at + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    path.write_bytes(content)
    first = next(read_frames(path)).picture.transpose(2, 1, 0)
    expected = turn(pixels(0, 64, 48))
    assert first.shape == expected.shape
    assert np.abs(first.astype(int) - expected).mean() < 4
    assert (video_info(path).width, video_info(path).height) == (expected.shape[1], expected.shape[0])


def test_gif(tmp_path: Path) -> None:
    from PIL import Image

    first, *others = [Image.fromarray(np.full((20, 30, 3), 40 * n, np.uint8)) for n in range(4)]
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=[100, 200, 50, 400])
    frames = list(read_frames(tmp_path / "a.gif"))
    assert [frame.time for frame in frames] == [0, Fraction(1, 10), Fraction(3, 10), Fraction(35, 100)]
    assert [int(frame.picture.mean()) for frame in frames] == [0, 40, 80, 120]


def test_reading_holds_few_frames(tmp_path: Path) -> None:
    path = clip(tmp_path / "a.mkv", (256, 192), count=60, codec="ffv1", pix_fmt="bgr0")
    tracemalloc.start()
    assert sum(1 for _ in read_frames(path)) == 60
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 256 * 192 * 3


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_a_truncated_file_is_refused_with_the_frame(tmp_path: Path, ending: str) -> None:
    path = clip(tmp_path / f"a.{ending}", (160, 120), count=60, movflags="faststart")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10])
    seen = 0
    with pytest.raises(ScanError, match=rf"a\.{ending}: damaged or truncated at frame \d+ ") as caught:  # noqa: PT012
        for _ in read_frames(path):
            seen += 1
    assert 10 < seen < 55
    with av.open(str(path)) as container:  # every whole picture before that was given
        assert seen == sum(bool(packet.size) and not packet.is_corrupt for packet in container.demux(video=0))
    assert f"at frame {seen + 1} " in str(caught.value)


@pytest.mark.parametrize("ending", ["mp4", "mkv"])
def test_damage_in_the_middle_is_refused_with_the_frame(tmp_path: Path, ending: str) -> None:
    path = clip(tmp_path / f"a.{ending}", (160, 120), count=60)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 300] = bytes(300)
    path.write_bytes(content)
    with pytest.raises(ScanError, match=r"damaged or truncated at frame \d+ "):
        list(read_frames(path))


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("hello, I am no video")
    (tmp_path / "empty.mkv").write_bytes(b"")
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 48000
        container.mux([*stream.encode(frame), *stream.encode()])
    for name in ("text.mp4", "empty.mkv", "sound.mp4", "missing.mp4"):
        for read in (video_info, lambda path: list(read_frames(path))):
            with pytest.raises(ScanError, match=name):
                read(tmp_path / name)
    with pytest.raises(ScanError, match="no video stream"):
        video_info(tmp_path / "sound.mp4")


def test_without_pyav_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = clip(tmp_path / "a.mp4", count=2)
    monkeypatch.setitem(sys.modules, "av", None)
    for use in (
        lambda: video_info(path),
        lambda: list(read_frames(path)),
        lambda: VideoWriter(tmp_path / "b.mp4", rate=NTSC),
    ):
        with pytest.raises(ScanError, match=r"pip install 'medcycle\[video\]'"):
            use()


# -- writing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64, 48), (65, 49), (64, 49)])
@pytest.mark.parametrize("ending", ["mp4", "mov", "m4v", "mkv", "avi"])
def test_a_copy_has_the_size_the_times_and_the_pictures(tmp_path: Path, ending: str, size: tuple[int, int]) -> None:
    source = clip(
        tmp_path / "source.mkv", size, codec="ffv1", pix_fmt="bgr0", rate=Fraction(25), base=Fraction(1, 1000)
    )
    target = copy(source, tmp_path / f"copy.{ending}")
    with av.open(str(target)) as container:
        stream = container.streams.video[0]
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert stream.average_rate == 25
        assert stream.codec_context.name == ("ffv1" if ending in ("mkv", "avi") else "h264")
    assert times_of(target) == [Fraction(n, 25) for n in range(12)]
    for number, picture in enumerate(decoded):
        error = np.abs(picture.astype(int) - pixels(number, *size))
        assert error.shape == (size[1], size[0], 3)
        # 4:2:0 halves the colours' resolution: the square's rim is off.
        assert error.mean() < (0.01 if ending in ("mkv", "avi") else 3.5)
        assert np.median(error) <= 2


def test_flat_colours_survive(tmp_path: Path) -> None:
    """A wrong or untold colour matrix would shift them by tens."""
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255), (120, 130, 140)]
    with VideoWriter(tmp_path / "a.mp4", rate=Fraction(10)) as writer:
        for number, colour in enumerate(colours):
            writer.write(np.broadcast_to(np.array(colour, np.uint8)[:, None, None], (3, 32, 16)), Fraction(number, 10))
    for frame, colour in zip(read_frames(tmp_path / "a.mp4"), colours, strict=True):
        np.testing.assert_allclose(frame.picture.mean(axis=(1, 2)), colour, atol=3)
    assert [int(f.picture.mean()) for f in itertools.islice(read_frames(tmp_path / "a.mp4", grey=True), 3, 5)] == [
        0,
        255,
    ]


@pytest.mark.parametrize(
    ("rate", "base", "times"),
    [
        (NTSC, Fraction(1, 24000), [n * 1001 for n in range(12)]),
        (NTSC, Fraction(1, 24000), [5005 + n * 1001 for n in range(12)]),  # not from zero
        (Fraction(20), Fraction(1, 90000), [0, 3003, 9000, 9001, 30000, 30500, 90000, 90011]),  # varying
    ],
)
def test_times_are_exact(tmp_path: Path, rate: Fraction, base: Fraction, times: list[int]) -> None:
    source = clip(tmp_path / "source.mp4", rate=rate, base=base, times=times, movie_timescale=str(base.denominator))
    assert times_of(source) == [time * base for time in times]
    assert times_of(copy(source, tmp_path / "copy.mp4")) == times_of(source)
    assert [frame.time for frame in read_frames(source)] == times_of(source)
    rounded = times_of(copy(source, tmp_path / "copy.mkv"))
    assert len(rounded) == len(times)
    assert all(abs(a - b) <= Fraction(1, 1000) for a, b in zip(rounded, times_of(source), strict=True))
    assert len(times_of(copy(source, tmp_path / "copy.avi"))) == len(times)


def test_grey_pictures(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], (1, 64, 48))
    for ending, error in (("mkv", 0), ("mp4", 6)):
        path = tmp_path / f"a.{ending}"
        with VideoWriter(path, rate=Fraction(5)) as writer:
            for number in range(3):
                writer.write(ramp, Fraction(number, 5))
        for frame in read_frames(path, grey=True):
            assert np.abs(frame.picture.astype(int) - ramp).max() <= error
        for frame in read_frames(path):
            assert np.abs(frame.picture.astype(int) - ramp).max() <= error + 2


@pytest.mark.parametrize(
    ("audio", "source", "target"), [("aac", "mp4", "mp4"), ("aac", "mp4", "mkv"), ("aac", "mkv", "mov")]
)
def test_sound_is_copied(tmp_path: Path, audio: str, source: str, target: str) -> None:
    made = clip(tmp_path / f"a.{source}", count=30, audio=audio)
    assert video_info(made).audio
    done = copy(made, tmp_path / f"b.{target}")
    before, after = packets_of(made), packets_of(done)
    assert [content for _, content in after] == [content for _, content in before]
    assert len(before) > 40
    # Matroska has no times below 0, where AAC begins: all is then later by as much.
    late = after[0][0] - before[0][0]
    assert late <= (Fraction(22, 1000) if target == "mkv" else 0)
    was, now = [t for t, _ in before] + times_of(made), [t for t, _ in after] + times_of(done)
    assert all(abs(b - a - late) <= Fraction(1, 1000) for a, b in zip(was, now, strict=True))
    assert len(times_of(done)) == 30


def test_sound_that_does_not_fit_is_left_out_with_a_note(tmp_path: Path) -> None:
    frames = {"codec": "ffv1", "pix_fmt": "bgr0", "rate": Fraction(25), "base": Fraction(1, 25)}
    made = clip(tmp_path / "a.avi", count=30, audio="pcm_mulaw", **frames)
    with pytest.warns(UserWarning, match=r"a\.avi: its sound \(pcm_mulaw\) does not fit"):
        copy(made, tmp_path / "b.mp4")
    assert not video_info(tmp_path / "b.mp4").audio
    assert len(times_of(tmp_path / "b.mp4")) == 30


def test_without_x264_it_is_mpeg4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = av.Codec

    def codec(name: str, mode: str = "r") -> Any:
        if name == "libx264":
            raise ValueError(name)
        return real(name, mode)

    source = clip(tmp_path / "source.mkv", (65, 49), rate=Fraction(25), codec="ffv1", pix_fmt="bgr0")
    monkeypatch.setattr(av, "Codec", codec)
    target = copy(source, tmp_path / "copy.mp4")
    with av.open(str(target)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    assert times_of(target) == [Fraction(n, 25) for n in range(12)]
    for number, frame in enumerate(read_frames(target)):
        assert np.abs(frame.picture.transpose(2, 1, 0).astype(int) - pixels(number, 65, 49)).mean() < 6


def test_pixels_that_are_not_square_stay_so(tmp_path: Path) -> None:
    frame = np.zeros((3, 64, 48), np.uint8)
    with VideoWriter(tmp_path / "a.mp4", rate=Fraction(5), pixel=Fraction(16, 11)) as writer:
        writer.write(frame, Fraction(0))
        writer.write(frame, Fraction(1, 5))
    assert video_info(tmp_path / "a.mp4").pixel == Fraction(16, 11)


@pytest.mark.parametrize("error", [KeyboardInterrupt, ScanError])
def test_stopped_in_the_middle_nothing_is_left(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "old.mp4").write_bytes(b"precious")
    for name in ("new.mp4", "old.mp4"):
        with pytest.raises(error), VideoWriter(tmp_path / name, rate=NTSC) as writer:  # noqa: PT012
            for number in range(40):
                writer.write(np.zeros((3, 64, 48), np.uint8), number / NTSC)
            raise error
    assert [path.name for path in tmp_path.iterdir()] == ["old.mp4"]
    assert (tmp_path / "old.mp4").read_bytes() == b"precious"


def test_refused(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"a\.webm: videos can be written as \.mp4"):
        VideoWriter(tmp_path / "a.webm", rate=NTSC)
    with pytest.raises(ScanError, match="no frames"), VideoWriter(tmp_path / "a.mp4", rate=NTSC):
        pass
    with (  # noqa: PT012
        pytest.raises(ScanError, match=r"frame 2 is \(3, 8, 4\)"),
        VideoWriter(tmp_path / "a.mp4", rate=NTSC) as writer,
    ):
        writer.write(np.zeros((3, 8, 8), np.uint8), Fraction(0))
        writer.write(np.zeros((3, 8, 4), np.uint8), Fraction(1))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ScanError, match="is a file, not a folder"), VideoWriter(tmp_path / "file" / "a.mp4", rate=NTSC):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# -- among scans -----------------------------------------------------------------------------------------------------


def test_videos_are_found_where_they_are_asked_for(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [p.name for p in find_scans(tmp_path, videos=True)] == ["a.MKV", "b.mp4"]
    assert [p.name for p in find_scans(f"{tmp_path}/*", videos=True)] == ["a.MKV", "b.mp4"]
    for where in (tmp_path, f"{tmp_path}/*"):
        with pytest.raises(ScanError, match="no"):
            find_scans(where)
    assert is_video(tmp_path / "a.MKV")
    assert not is_video(tmp_path / "notes.txt")
    assert scan_name(tmp_path / "b.mp4") == "b"
    with pytest.raises(ScanError, match=r"b\.mp4: a video is no scan. `medcycle translate` takes it"):
        read_volume(tmp_path / "b.mp4")
