"""Folders in, figures and files out."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image

from medcycle.errors import ConfigError, ScanError
from medcycle.evaluation import ct_baselines, evaluate, synthrad2023, synthrad2025
from medcycle.io import write_volume
from medcycle.volume import Volume

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])
SHAPE = (20, 22, 18)


def ball(radius=0.36):
    grid = np.ogrid[tuple(slice(0, n) for n in SHAPE)]
    return sum(((g - n / 2 + 0.5) / n) ** 2 for g, n in zip(grid, SHAPE, strict=True)) < radius**2


@pytest.fixture
def cohort(tmp_path):
    """Three cases: truth, predictions that get worse (and one streak in the air), masks, inputs."""
    rng = np.random.default_rng(0)
    for number, noise in enumerate((30, 10, 90)):
        inside = ball()
        truth = np.rint(np.where(inside, rng.normal(40, 200, SHAPE), -1000))
        guess = np.rint(truth + np.where(inside, rng.normal(0, noise, SHAPE), 0))
        guess[0, 0, :] = 500
        for kind, array, unit in (
            ("truth", truth, "HU"),
            ("guess", guess, "HU"),
            ("mask", inside, "uint8"),
            ("input", np.where(inside, truth + 1000, 0), "a.u."),
        ):
            write_volume(Volume(array[None], AFFINE, unit), tmp_path / kind / f"head{number}.nii.gz")
    return tmp_path


def arrays(cohort, name):
    import nibabel as nib

    return [np.asarray(nib.load(cohort / kind / f"{name}.nii.gz").dataobj) for kind in ("guess", "truth", "mask")]


@pytest.mark.parametrize("metrics", ["synthrad2023", "synthrad2025"])
def test_a_folder_is_scored_case_by_case(cohort, metrics):
    seen = []
    result = evaluate(
        cohort / "guess",
        cohort / "truth",
        cohort / "mask",
        metrics,
        cohort / "out",
        cohort / "input",
        lambda *step: seen.append(step),
    )
    protocol = {"synthrad2023": synthrad2023, "synthrad2025": synthrad2025}[metrics]
    assert seen == [(1, 3, "head0"), (2, 3, "head1"), (3, 3, "head2")]
    assert list(result.cases) == ["head0", "head1", "head2"]
    for name, figures in result.cases.items():
        guess, truth, mask = arrays(cohort, name)
        expected = protocol(guess, truth, mask)
        assert {key: figures[key] for key in expected} == pytest.approx(expected)
        assert figures["mae_outside"] == pytest.approx(np.abs(guess - truth)[mask == 0].mean())
        assert figures["mae_outside"] > 0
    maes = [figures["mae"] for figures in result.cases.values()]
    assert result.mean["mae"] == pytest.approx(np.mean(maes))
    assert result.std["mae"] == pytest.approx(np.std(maes, ddof=1))
    assert result.notes == []


def test_the_files_hold_the_figures(cohort):
    out = cohort / "deep" / "out"
    result = evaluate(cohort / "guess", cohort / "truth", cohort / "mask", out=out)
    assert [path.name for path in result.files] == ["metrics.csv", "metrics.json", "report.html"]
    assert sorted(path.name for path in out.iterdir()) == ["metrics.csv", "metrics.json", "report.html"]
    written = json.loads((out / "metrics.json").read_text())
    assert written["metrics"] == "synthrad2023"
    assert written["cases"]["head1"] == pytest.approx(result.cases["head1"])
    assert {"mae", "psnr", "ssim"} <= set(written["mean"])
    with (out / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["head0", "head1", "head2"]
    assert float(rows[2]["psnr"]) == pytest.approx(result.cases["head2"]["psnr"])
    page = (out / "report.html").read_text()
    assert "first" in page
    assert "best: <b>head1</b>" in page
    assert "worst: <b>head2</b>" in page
    assert f"{result.mean['mae']:.1f} ± {result.std['mae']:.1f}" in page


def test_baselines_are_scored_on_the_same_cases(cohort):
    baselines = ct_baselines(sorted((cohort / "truth").iterdir()))
    result = evaluate(cohort / "guess", cohort / "truth", cohort / "mask", inputs=cohort / "input", baselines=baselines)
    guess = []
    for name in result.cases:
        _, truth, mask = arrays(cohort, name)
        guess.append(synthrad2023(np.full(SHAPE, 40.0), truth, mask)["mae"])
    assert result.baselines["constant 40 HU"]["mae"] == pytest.approx(np.mean(guess))
    # The input is the truth plus 1000: intensity order is all there is to know, so matching is nearly right.
    assert result.baselines["histogram matching"]["mae"] < 25
    assert [row[0] for row in result.rows()][-3:] == ["mean ± sd", "constant 40 HU", "histogram matching"]
    assert all(len(row) == len(result.header()) for row in result.rows())
    with pytest.raises(ConfigError, match="inputs"):
        evaluate(cohort / "guess", cohort / "truth", baselines=baselines)


def test_without_masks_the_body_is_found_and_the_notes_say_so(cohort):
    result = evaluate(cohort / "guess", cohort / "truth", out=cohort / "out")
    assert "body found in each reference CT (head0, head1, head2)" in result.notes[0]
    assert "body found in each reference CT" in (cohort / "out" / "report.html").read_text()
    given = evaluate(cohort / "guess", cohort / "truth", cohort / "mask")
    assert result.mean["mae"] == pytest.approx(given.mean["mae"], rel=0.5)
    whole = evaluate(cohort / "guess", cohort / "truth", metrics="basic")
    assert any("whole images" in note for note in whole.notes)
    wrong = evaluate(cohort / "guess", cohort / "truth", cohort / "truth", metrics="basic")
    assert any("looks like an image" in note for note in wrong.notes)
    assert math.isnan(whole.cases["head0"]["mae_outside"])
    assert whole.to_dict()["mean"]["mae_outside"] is None
    assert not any("outside" in title for title in whole.header())


def test_a_dicom_prediction_meets_a_nifti_reference(cohort):
    from medcycle.io import read_volume

    for path in sorted((cohort / "guess").iterdir()):
        name = path.name.split(".")[0]
        write_volume(read_volume(path, unit="HU"), cohort / "dicom" / name)
    as_dicom = evaluate(cohort / "dicom", cohort / "truth", cohort / "mask")
    as_nifti = evaluate(cohort / "guess", cohort / "truth", cohort / "mask")
    for name, figures in as_nifti.cases.items():
        assert as_dicom.cases[name] == pytest.approx(figures, rel=1e-6)


def test_a_series_with_gaps_is_scored_if_asked(cohort):
    from medcycle.io import read_volume

    for kind in ("guess", "truth", "mask"):
        scan = read_volume(cohort / kind / "head0.nii.gz", unit="HU" if kind != "mask" else "a.u.")
        write_volume(scan, cohort / "dicom" / kind / "head0")
    whole = evaluate(*(cohort / "dicom" / kind for kind in ("guess", "truth", "mask")))
    for kind in ("guess", "truth", "mask"):
        (cohort / "dicom" / kind / "head0" / "0001.dcm").with_name("0007.dcm").unlink()
    with pytest.raises(ScanError, match=r"1 missing slice.*--resample-gaps"):
        evaluate(*(cohort / "dicom" / kind for kind in ("guess", "truth", "mask")))
    with pytest.warns(UserWarning, match="1 of 18 slices"):
        gapped = evaluate(*(cohort / "dicom" / kind for kind in ("guess", "truth", "mask")), resample_gaps=True)
    assert gapped.mean["mae"] == pytest.approx(whole.mean["mae"], rel=0.1)
    assert gapped.mean["mae"] != whole.mean["mae"]


def test_pictures_are_scored_with_their_own_range(tmp_path):
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 256, (30, 40, 3), dtype=np.uint8)
    guess = np.clip(truth.astype(int) + rng.integers(-9, 9, truth.shape), 0, 255).astype(np.uint8)
    for kind, array in (("truth", truth), ("guess", guess)):
        (tmp_path / kind).mkdir()
        Image.fromarray(array).save(tmp_path / kind / "a.png")
    result = evaluate(tmp_path / "guess", tmp_path / "truth", metrics="basic", out=tmp_path / "out")
    error = np.square(guess.astype(float) - truth).mean()
    assert result.cases["a"]["psnr"] == pytest.approx(10 * np.log10(255**2 / error))
    assert result.unit == "grey values"
    assert "Absolute error of a, picture" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(ScanError, match="image"):
        evaluate(tmp_path / "guess", tmp_path / "truth", metrics="synthrad2023")


def test_equal_images_and_thin_masks_leave_notes_and_valid_json(cohort):
    border = np.zeros(SHAPE)
    border[:2] = 1
    for path in (cohort / "mask").iterdir():
        write_volume(Volume(border[None], AFFINE, "uint8"), path)
    result = evaluate(cohort / "truth", cohort / "truth", cohort / "mask", out=cohort / "out")
    assert any("SSIM is not defined for head0, head1, head2" in note for note in result.notes)
    assert any("PSNR is infinite" in note for note in result.notes)
    written = json.loads((cohort / "out" / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert written["cases"]["head0"]["psnr"] is None
    assert result.rows()[0][1:4] == ["0.0", "∞", "n/a"]


def test_an_input_on_another_grid_is_not_shown(cohort):
    write_volume(Volume(np.ones((1, 9, 9, 9)), AFFINE), cohort / "input" / "head1.nii.gz")
    result = evaluate(cohort / "guess", cohort / "truth", cohort / "mask", out=cohort / "out", inputs=cohort / "input")
    assert "another grid" in result.notes[0]
    assert "(head1)" in result.notes[0]
    with pytest.raises(ScanError, match=r"head1\.nii\.gz.*baseline"):
        evaluate(
            cohort / "guess",
            cohort / "truth",
            cohort / "mask",
            inputs=cohort / "input",
            baselines=ct_baselines([cohort / "truth" / "head0.nii.gz"]),
        )


def test_bad_input_is_named(cohort):
    with pytest.raises(ConfigError, match=r"synthrad2024.*synthrad2023"):
        evaluate(cohort / "guess", cohort / "truth", metrics="synthrad2024")
    write_volume(Volume(np.zeros((1, *SHAPE)), AFFINE, "uint8"), cohort / "mask" / "head2.nii.gz")
    with pytest.raises(ScanError, match=r"head2\.nii\.gz: the mask is empty"):
        evaluate(cohort / "guess", cohort / "truth", cohort / "mask", out=cohort / "out")
    assert not (cohort / "out").exists()
    write_volume(Volume(np.full((1, *SHAPE), -1000.0), AFFINE, "HU"), cohort / "truth" / "head1.nii.gz")
    with pytest.raises(ScanError, match=r"head1\.nii\.gz: no body"):
        evaluate(cohort / "guess", cohort / "truth")
    write_volume(Volume(np.zeros((1, *SHAPE)), np.diag([2, 2, 4, 1]), "HU"), cohort / "guess" / "head0.nii.gz")
    with pytest.raises(ScanError, match=r"head0\.nii\.gz lies on another grid"):
        evaluate(cohort / "guess", cohort / "truth")


def test_other_scales_are_refused(tmp_path):
    for kind, unit in (("p", "uint16"), ("r", "uint8")):
        write_volume(Volume(np.ones((1, 9, 9)), np.diag([-1.0, -1, 1, 1]), unit), tmp_path / kind / "a.png")
    with pytest.raises(ScanError, match=r"uint16.*uint8"):
        evaluate(tmp_path / "p", tmp_path / "r", metrics="basic")
    write_volume(Volume(np.ones((3, 9, 9)), np.diag([-1.0, -1, 1, 1]), "uint8"), tmp_path / "p" / "a.png")
    with pytest.raises(ScanError, match="3 channels, the reference has 1"):
        evaluate(tmp_path / "p", tmp_path / "r", metrics="basic")
    for kind in "pr":
        write_volume(Volume(np.ones((1, 9, 9)), np.diag([-1.0, -1, 1, 1]), "uint16"), tmp_path / kind / "b.png")
        write_volume(Volume(np.ones((1, 9, 9)), np.diag([-1.0, -1, 1, 1]), "uint8"), tmp_path / kind / "a.png")
    with pytest.raises(ScanError, match="mix units"):
        evaluate(tmp_path / "p", tmp_path / "r", metrics="basic")


def test_two_channels_are_no_ct(tmp_path):
    for kind in "pr":
        write_volume(Volume(np.ones((2, 9, 9, 9)), AFFINE), tmp_path / kind / "a.mha")
    with pytest.raises(ScanError, match="one channel in HU, this is 2"):
        evaluate(tmp_path / "p", tmp_path / "r", tmp_path / "r")


def test_an_mr_series_is_no_ct(cohort):
    for kind in ("guess", "truth"):
        write_volume(Volume(np.ones((1, *SHAPE)), AFFINE), cohort / "mr" / kind / "head0")
    with pytest.raises(ScanError, match=r"HU"):
        evaluate(cohort / "mr" / "guess", cohort / "mr" / "truth", cohort / "mask")


def test_basic_takes_a_ct_from_dicom_and_from_nifti_as_hu(cohort):
    from medcycle.io import read_volume

    for name in ("head0", "head1", "head2"):
        write_volume(read_volume(cohort / "guess" / f"{name}.nii.gz", unit="HU"), cohort / "dicom" / name)
    result = evaluate(cohort / "dicom", cohort / "truth", cohort / "mask", metrics="basic")
    assert result.unit == "HU"
    rmse, psnr = result.cases["head0"]["rmse"], result.cases["head0"]["psnr"]
    assert psnr == pytest.approx(20 * np.log10(4095 / rmse))


def test_a_place_that_cannot_be_written_is_named(cohort):
    (cohort / "blocked").write_text("a file")
    with pytest.raises(ScanError, match=r"blocked.*cannot be written"):
        evaluate(cohort / "guess", cohort / "truth", cohort / "mask", out=cohort / "blocked" / "out")
