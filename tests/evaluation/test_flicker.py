"""Steadiness of clips: known changes, known motion, constant memory."""

from __future__ import annotations

import json
import math
import weakref

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medcycle.errors import ScanError
from medcycle.evaluation.flicker import flicker, motion, score_flicker, trusted, warped_difference


def texture(size, seed=0):
    """A smooth random texture from 0 to 1."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((size, size)), 2)
    return (noise - noise.min()) / np.ptp(noise)


def moving(count=4, size=64, step=(1, 2)):
    """A texture that moves by `step` pixels a frame, (1, size, size)."""
    large = texture(size + 40)
    at = [(20 - step[0] * t, 20 - step[1] * t) for t in range(count)]
    return [large[None, i : i + size, j : j + size] for i, j in at]


def test_noise_on_a_still_clip_has_a_known_change():
    """|difference of two normals| has the mean 2 sigma / sqrt(pi)."""
    rng = np.random.default_rng(1)
    still = np.tile(np.linspace(0, 1, 100), (1, 100, 1))
    noisy = [still + 0.01 * rng.standard_normal(still.shape) for _ in range(12)]
    span = max(f.max() for f in noisy) - min(f.min() for f in noisy)
    figures = flicker((frame, still) for frame in noisy)
    assert figures["change"] == pytest.approx(100 * 0.02 / math.sqrt(math.pi) / span, rel=0.01)
    assert figures["change_input"] == 0.0
    assert figures["change_ratio"] == math.inf
    # Nothing moves, so nothing is warped: the mean square of that difference is 2 sigma^2.
    assert figures["warping_error"] == pytest.approx(2 * 0.01**2 / span**2, rel=0.02)
    assert figures["warping_error_input"] == 0.0
    assert math.isnan(flicker([(still, still)] * 3)["change_ratio"])


def test_change_by_hand_in_any_unit():
    source = [np.array([[[0.0, 10.0]]]), np.array([[[2.0, 10.0]]]), np.array([[[2.0, 6.0]]])]
    output = [1000 * frame**2 - 7 for frame in source]
    figures = flicker(zip(output, source, strict=True))
    assert figures["change_input"] == pytest.approx(100 * (2 + 4) / 4 / 10)
    assert figures["change"] == pytest.approx(100 * (4 + 64) / 4 / 100)
    assert figures["change_ratio"] == pytest.approx(figures["change"] / figures["change_input"])
    assert math.isnan(figures["warping_error"])  # too small to see a motion
    backwards = flicker(zip(output[::-1], source[::-1], strict=True))
    assert backwards["change_ratio"] == pytest.approx(figures["change_ratio"])


def test_motion_is_found_and_undone():
    before, now = moving(2, step=(2, -3))
    flow, certain = motion(before, now)
    inner = (slice(10, -10), slice(10, -10))
    assert np.abs(flow[0][inner] - 2).max() < 0.05
    assert np.abs(flow[1][inner] + 3).max() < 0.05
    assert certain[inner].mean() > 0.95
    assert not certain[-1].any()  # moved out of the picture below
    exact = np.broadcast_to(np.array([2.0, -3.0])[:, None, None], (2, 64, 64))
    there = np.zeros((64, 64), bool)
    there[:62, 3:] = True
    assert warped_difference(before, now, exact, there) == pytest.approx(0, abs=1e-12)
    assert warped_difference(before, now + 0.5, exact, there) == pytest.approx(0.25)
    assert warped_difference(before, now, 0 * exact, there) == pytest.approx(
        np.square(now - before)[:, there].mean(), rel=1e-9
    )


def test_what_is_trusted():
    """Whole-picture flows with one fault each."""
    shape = (2, 12, 12)
    there = np.broadcast_to(np.array([1.0, -2.0])[:, None, None], shape).copy()
    home = trusted(there, -there)
    inside = np.zeros((12, 12), bool)
    inside[:11, 2:] = True
    assert (home == inside).all()
    # 0.8 of a pixel off after the way back: 0.64 > 0.01 * (5 + 4.04...) + 0.5; 0.7 is still home.
    for off, expected in ((0.7, True), (0.8, False)):
        assert trusted(there, -there + [[[off]], [[0]]])[5, 5] == expected
    # A hidden place: the way back from where (5, 5) leads, (6, 3), goes elsewhere.
    hidden = -there
    hidden[:, 6, 3] += 3
    assert not trusted(there, hidden)[5, 5]
    assert trusted(there, hidden)[3, 5]
    # A boundary of two motions in columns 7 and 8, each of which leads home everywhere.
    apart = np.zeros(shape)
    apart[1, :, 8:] = 0.4
    calm = trusted(apart, np.zeros(shape))
    assert not calm[5, [7, 8]].any()
    assert calm[5, [5, 10]].all()


def test_the_mask_leaves_out_what_appears():
    """A block that was not there before has no motion that leads home."""
    before, now = moving(2, step=(1, 1))
    now = now.copy()
    now[:, 20:40, 20:40] = texture(20, seed=9)
    _, certain = motion(before, now)
    _, undisturbed = motion(*moving(2, step=(1, 1)))
    assert certain[25:35, 25:35].mean() < 0.6
    assert undisturbed[25:35, 25:35].all()


def test_flicker_shows_in_the_warping_error():
    """A translation pixel by pixel of a moving texture is as steady as its input; the same with flicker is not."""
    source = moving(5)
    steady = [np.sqrt(frame) for frame in source]
    unsteady = [np.clip(frame * (1.05 if t % 2 else 0.95), 0, 1) for t, frame in enumerate(steady)]
    plain = flicker(zip(steady, source, strict=True))
    shaken = flicker(zip(unsteady, source, strict=True))
    assert plain["warping_error"] < 3e-4
    assert plain["warping_error_input"] < 3e-4
    assert shaken["warping_error"] > 10 * plain["warping_error"]
    assert shaken["warping_error_input"] == plain["warping_error_input"]
    # Motion alone is a large change: that is what the warping takes away.
    assert plain["change"] > 2
    scaled = flicker((300 * frame - 50, f) for frame, f in zip(steady, source, strict=True))
    assert scaled["warping_error"] == pytest.approx(plain["warping_error"], rel=1e-6)


def test_frames_are_not_kept():
    alive = []

    class Counted(np.ndarray):
        pass

    def frames():
        for t in range(30):
            frame = np.full((1, 4, 4, 4), float(t)).view(Counted)
            alive.append(weakref.ref(frame))
            yield frame, frame
            assert sum(reference() is not None for reference in alive) <= 3

    figures = flicker(frames())
    assert figures["change_ratio"] == 1.0
    assert math.isnan(figures["warping_error"])  # volumes


def test_clips_that_do_not_fit_are_refused():
    with pytest.raises(ScanError, match=r"1 frame\(s\)"):
        flicker([(np.zeros((1, 3, 3)), np.zeros((1, 3, 3)))])
    with pytest.raises(ScanError, match=r"frame 2: \(1, 3, 3\) made from \(1, 3, 4\)"):
        flicker([(np.zeros((1, 3, 3)),) * 2, (np.zeros((1, 3, 3)), np.zeros((1, 3, 4)))])


def write_frames(folder, frames):
    folder.mkdir()
    for t, frame in enumerate(frames):
        Image.fromarray(np.rint(255 * frame[0]).astype(np.uint8)).save(folder / f"f{t}.png")
    return folder


def test_folders_of_frames_in_natural_order(tmp_path):
    source = moving(11, size=40, step=(1, 0))  # f10 comes after f9
    inputs = write_frames(tmp_path / "in", source)
    outputs = write_frames(tmp_path / "out", [frame**2 for frame in source])
    seen = []
    result = score_flicker(outputs, inputs, tmp_path / "scores", lambda *told: seen.append(told))
    figures = result.cases["out"]
    assert figures["change_input"] < 8
    assert figures["warping_error"] < 1e-3
    assert seen[-1] == (11, 11, "frame 11")
    assert result.settings["frames"] == "11"
    assert result.header()[1] == "change (% of range)"
    assert json.loads((tmp_path / "scores" / "metrics.json").read_text())["cases"]["out"] == figures
    (inputs / "f10.png").unlink()
    with pytest.raises(ScanError, match=r"^\S+out: more frames than \S+in, which ends after 10"):
        score_flicker(outputs, inputs)


def test_4d_scans(tmp_path):
    rng = np.random.default_rng(3)
    scan = rng.integers(0, 1000, (5, 6, 7, 4)).astype(np.int16)
    nib.save(nib.Nifti1Image(scan, np.eye(4)), tmp_path / "in.nii.gz")
    nib.save(nib.Nifti1Image(scan * 2, np.eye(4)), tmp_path / "out.nii")
    figures = score_flicker(tmp_path / "out.nii", tmp_path / "in.nii.gz").cases["out.nii"]
    expected = np.abs(np.diff(scan.astype(float), axis=3)).mean() / np.ptp(scan)
    assert figures["change"] == pytest.approx(100 * expected)
    assert figures["change_ratio"] == pytest.approx(1.0)
    cine = np.stack([255 * frame[0] for frame in moving(3)], -1)[:, :, None].astype(np.float32)
    nib.save(nib.Nifti1Image(cine, np.eye(4)), tmp_path / "cine.nii")
    figures = score_flicker(tmp_path / "cine.nii", tmp_path / "cine.nii").cases["cine.nii"]
    assert figures["warping_error"] == figures["warping_error_input"] < 3e-4
    nib.save(nib.Nifti1Image(scan[..., 0], np.eye(4)), tmp_path / "single.nii")
    with pytest.raises(ScanError, match=r"single\.nii.*1 frame"):
        score_flicker(tmp_path / "single.nii", tmp_path / "single.nii")


def test_videos(tmp_path):
    av = pytest.importorskip("av")
    from fractions import Fraction

    from medcycle.io.video_write import VideoWriter

    assert av
    for name, turn in (("in.mkv", False), ("out.mkv", True)):
        with VideoWriter(tmp_path / name, rate=Fraction(25)) as writer:
            for t, frame in enumerate(moving(4)):
                picture = np.rint(255 * np.broadcast_to(frame, (3, 64, 64))).astype(np.uint8)
                writer.write(255 - picture if turn else picture, Fraction(t, 25))
    figures = score_flicker(tmp_path / "out.mkv", tmp_path / "in.mkv").cases["out.mkv"]
    assert figures["change_ratio"] == pytest.approx(1.0)
    assert figures["warping_error"] == pytest.approx(figures["warping_error_input"], rel=1e-6)
