"""The scores of benchmarks.real, on data of its own making: right is right, and wrong is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medcycle.io import read_volume, write_volume


@pytest.fixture
def real(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root))
    import benchmarks.real

    return benchmarks.real


def slices(folder: Path, cases: tuple[str, ...]) -> None:
    """Heads of 64 x 48 pixels, 4 slices each: skull of 255 round a brain of 100 in CT, dark round 180 in MR."""
    y, x = np.mgrid[:64, :48]
    radius = np.hypot((y - 32) / 28, (x - 24) / 20)
    brain = np.where(x < 24, 100, 110)
    for name, image in (
        ("mr", np.where(radius < 0.8, 180, np.where(radius < 0.9, 10, np.where(radius < 1, 200, 0)))),
        ("ct", np.where(radius < 0.8, brain, np.where(radius < 0.9, 255, 0))),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for case in cases:
            for k in range(4):
                Image.fromarray(image.astype(np.uint8)).save(folder / name / f"{case}_{k:03d}.png")


def test_harvard(real: Any, tmp_path: Path) -> None:
    slices(tmp_path, (*real.TESTED, "case02"))
    scans = tmp_path / "scans"
    real.harvard_scans(tmp_path, scans)
    assert [p.name for p in (scans / "train" / "mr").iterdir()] == ["case02.nii.gz"]
    ct = read_volume(scans / "train" / "ct" / "case02.nii.gz")
    assert ct.array.shape == (1, 48, 64, 4)
    assert (ct.array.min(), ct.array.max()) == (-1000, 2000)
    assert nib.aff2axcodes(ct.affine) == ("L", "P", "S")
    right = real.harvard_score(scans, scans / "test" / "ct", tmp_path / "right.png")
    assert right == pytest.approx({"ssim": 1, "mae": 0, "dice_rim": 1}, abs=0.02)
    for path in (scans / "test" / "ct").iterdir():
        volume = read_volume(path)
        write_volume(volume.replace(array=np.full_like(volume.array, 180)), tmp_path / "wrong" / path.name)
    wrong = real.harvard_score(scans, tmp_path / "wrong", tmp_path / "wrong.png")
    assert wrong["dice_rim"] == 0
    assert wrong["mae"] > 20
    assert wrong["ssim"] < 0.7
    assert Image.open(tmp_path / "wrong.png").size == (48 * 6, 64 * 3)


def test_open_ms(real: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 3, indexing="ij"))
    brain = np.linalg.norm(grid, axis=0) < 0.9
    lesions = np.zeros(brain.shape, bool)
    for corner in ((12, 12, 18), (25, 22, 20)):
        lesions[tuple(slice(c, c + 4) for c in corner)] = True
    t1 = np.where(brain, 500 + 40 * rng.standard_normal(brain.shape), 0)
    healthy = np.where(brain, 100 + 5 * rng.standard_normal(brain.shape), 0)
    flair = healthy + 60 * lesions
    folder = tmp_path / "p"
    folder.mkdir()
    for name, image in (("T1", t1), ("FLAIR", flair), ("lesions", lesions), ("same", 3 * flair), ("lost", healthy)):
        nib.save(nib.Nifti1Image(image.astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    right = real.ms_score(tmp_path, "p", folder / "same.nii.gz", tmp_path / "right.png")
    assert right == pytest.approx(
        {"mae": 0, "ssim": 1, "correlation": 1, "lesions": 2, "lesions_kept": 1, "contrast": 1}, abs=1e-3
    )
    lost = real.ms_score(tmp_path, "p", folder / "lost.nii.gz", tmp_path / "lost.png")
    assert lost["lesions_kept"] == 0
    assert abs(lost["contrast"]) < 0.2
    # What has no network: a function of T1, which knows of no lesion here, told or not.
    told = real.by_values(folder)
    assert told.array.shape == (1, *brain.shape)
    write_volume(told, folder / "told.nii.gz")
    score = real.ms_score(tmp_path, "p", folder / "told.nii.gz", tmp_path / "told.png")
    assert abs(score["contrast"]) < 0.2
    nib.save(nib.Nifti1Image(np.where(brain, 100 + t1, 0).astype(np.float32), np.eye(4)), folder / "FLAIR.nii.gz")
    assert np.corrcoef(real.by_values(folder).array[0][brain], t1[brain])[0, 1] > 0.99


def test_a_table_has_the_mean_of_the_seeds(real: Any) -> None:
    rows = [{"data": "open-ms", "model": "new", "seed": seed, "ssim": 0.1 + 0.2 * seed} for seed in (0, 1)]
    assert real.table(rows).splitlines()[-1] == "| new | 2 | 0.2 |"
