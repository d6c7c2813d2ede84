"""The pages are self-contained, safe and show what they should."""

from __future__ import annotations

import base64
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from medcycle.errors import ScanError
from medcycle.evaluation.pictures import case_planes, curve_png, error_limit, error_png, grey_png, grey_window
from medcycle.evaluation.report import evaluation_page, write_training_report
from medcycle.evaluation.result import Result
from medcycle.io.files import write_file
from medcycle.volume import Volume

EVIL = '<script>alert("x")</script>'


def decoded(page):
    uris = re.findall(r'src="([^"]*)"', page)
    assert uris
    assert all(uri.startswith("data:image/png;base64,") for uri in uris)
    return [Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))) for uri in uris]


def planes(name="head1", shape=(10, 12, 14), unit="HU", source=True):
    rng = np.random.default_rng(0)
    reference = Volume(rng.normal(0, 300, (1, *shape)), np.diag([1.0, 1, 2, 1]), unit)
    inside = np.zeros(shape, bool)
    inside[tuple(slice(2, n - 2) for n in shape)] = True
    return case_planes(name, 5.0, reference, reference.array + 50, inside, reference.array * 2 if source else None)


def result(**changes):
    figures = {"mae": 50.0, "psnr": 30.0}
    given = {"metrics": "basic", "cases": {"head1": figures}, "mean": figures, "std": dict.fromkeys(figures, math.nan)}
    return Result(**(given | changes))


def test_the_page_reaches_for_nothing_outside():
    page = evaluation_page(result(), {"first": planes()})
    assert not re.search(r"https?://|<script|<link|@import|url\(", page)
    assert "default-src 'none'" in page
    # 3 directions of 4 panels, and 2 colour bars
    assert len(decoded(page)) == 14
    for heading in ("Input", "Prediction", "Reference", "Absolute error", "axial", "coronal", "sagittal", "HU"):
        assert heading in page


def test_names_never_become_markup(tmp_path):
    figures = {"mae": 1.0}
    page = evaluation_page(
        result(cases={EVIL: figures}, mean=figures, std=figures, notes=[EVIL], settings={"masks": EVIL}, unit=EVIL),
        {"first": planes(EVIL)},
    )
    assert "<script" not in page
    assert page.count("&lt;script&gt;") >= 5
    path = write_training_report(
        tmp_path / "r.html", EVIL, [(EVIL, _png())], {EVIL: ([0, 1], [1, 2])}, {EVIL: f'" onload="{EVIL}'}
    )
    page = path.read_text()
    assert "<script" not in page
    assert '" onload="' not in page


def test_the_best_and_the_worst_case_have_their_tabs():
    cases = {name: {"mae": 1.0} for name in ("a", "b", "c")}
    one = evaluation_page(result(), {"first": planes(), "best": planes(), "worst": planes()})
    assert one.count('type="radio"') == 1
    two = evaluation_page(
        result(cases=cases, mean={"mae": 1.0}, std={"mae": 0.0}),
        {"first": planes("a"), "best": planes("b"), "worst": planes("a")},
    )
    assert "first and worst: <b>a</b>" in two
    assert "best: <b>b</b>" in two


def test_a_picture_has_one_row_and_no_input_column():
    page = evaluation_page(result(unit="grey values"), {"first": planes(shape=(20, 30), unit="uint8", source=False)})
    assert len(decoded(page)) == 5
    assert "Input" not in page


def _png():
    return grey_png(np.zeros((4, 4), np.float32), (0, 1))


def test_planes_are_shown_upright_from_any_orientation():
    shape = (16, 20, 24)
    array = np.full((1, *shape), -1000, np.float32)
    array[0, :8] = 0  # the patient's left half (RAS: low i), so the right half of the picture
    array[0, :, :, 18:] = 900  # the head's top
    inside = np.ones(shape, bool)
    upright = case_planes("a", 1, Volume(array, np.eye(4), "HU"), array, inside, None)
    flip = np.diag([-1.0, -1, 1, 1])
    flip[:2, 3] = [15, 19]
    turned = np.ascontiguousarray(array[:, ::-1, ::-1])
    again = case_planes("a", 1, Volume(turned, flip, "HU"), turned, inside, None)
    for (direction, one), (same, other) in zip(upright.planes, again.planes, strict=True):
        assert direction == same
        np.testing.assert_array_equal(one["reference"], other["reference"])
    views = dict(upright.planes)
    axial, coronal = views["axial"]["reference"], views["coronal"]["reference"]
    assert axial.shape[0] > axial.shape[1]  # 20 voxels front to back, 16 across
    assert axial[:, :100].max() < -900  # air on the left of the picture: the patient's right
    assert axial[:, -100:].min() > -100
    assert coronal[:20].min() > 800  # the top of the head is up


def test_pixels_are_square_in_millimetres():
    volume = Volume(np.zeros((1, 10, 10, 10)), np.diag([1.0, 2, 4, 1]), "HU")
    views = dict(case_planes("a", 1, volume, volume.array, np.ones((10, 10, 10), bool), None).planes)
    assert views["axial"]["reference"].shape == (360, 180)
    assert views["coronal"]["reference"].shape == (360, 90)
    assert views["sagittal"]["reference"].shape == (360, 180)


def test_the_error_scale_is_round_and_shared():
    small, large = planes(), planes()
    for _, panels in large.planes:
        panels["error"] = panels["error"] * 10
    assert error_limit([small]) == 60
    assert error_limit([small, large]) == 600
    for _, panels in small.planes:
        panels["error"] = panels["error"] * 0
    assert error_limit([small]) >= 0
    assert "Absolute error" in evaluation_page(result(), {"first": small})


def test_colours_follow_the_error_and_grey_the_window():
    ramp = np.linspace(0, 100, 64, dtype=np.float32)[None].repeat(4, 0)
    pixels = np.asarray(Image.open(io.BytesIO(error_png(ramp, 100, np.ones_like(ramp)))), float).sum(-1)
    assert (np.diff(pixels[1, 1:-1]) >= 0).mean() > 0.95
    grey = np.asarray(Image.open(io.BytesIO(grey_png(ramp, (25, 75)))))
    assert (grey[0, 0], grey[0, 63]) == (0, 255)
    assert grey_window(planes(), "reference") == (-200, 1000)
    assert grey_window(planes(unit="uint8"), "prediction") == (0, 255)
    low, high = grey_window(planes(unit="a.u."), "prediction")
    assert -1500 < low < high < 1500


def test_a_training_report_shows_pictures_curves_and_facts(tmp_path):
    path = write_training_report(
        tmp_path / "run" / "report.html",
        "MR to CT",
        [("step 100", _png()), ("step 200", _png())],
        {"cycle loss": ([1, 2, 3], [1.0, math.nan, 0.5]), "one point $x": ([1], [2.0])},
        {"steps": "200", "device": "cpu"},
    )
    page = path.read_text()
    assert len(decoded(page)) == 4
    assert page.index("step 100") < page.index("cycle loss") < page.index("<dt>device")
    assert not re.search(r"https?://|<script|<link", page)
    bare = write_training_report(tmp_path / "empty.html", "Nothing yet", [], {}, {})
    assert "Curves" not in bare.read_text()


def test_a_curve_of_nothing_finite_is_still_a_picture():
    assert Image.open(io.BytesIO(curve_png("loss", [1, 2], [math.nan, math.inf]))).size[0] > 100


def test_a_name_that_is_no_unicode_can_be_written(tmp_path):
    write_file(tmp_path / "a.json", '{"\udc80": 1}')
    assert json.loads((tmp_path / "a.json").read_text()) == {"\udc80": 1}


def test_a_failed_write_leaves_the_old_page_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    write_file(path, "old")

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(ScanError, match="No space left"):
        write_file(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]
