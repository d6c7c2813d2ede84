from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcycle.data import Tissue, body_mask, make_head, render_ct, render_mr, write_cohort
from medcycle.errors import ConfigError, ScanError

SHAPE, SPACING = (64, 64, 48), 3.6


@pytest.fixture(scope="module")
def labels() -> np.ndarray:
    return make_head(1, SHAPE, SPACING)


def core(labels: np.ndarray, tissue: Tissue) -> np.ndarray:
    """Voxels with no other tissue next to them, where the point spread does not reach (much)."""
    where = labels == tissue
    inner = ndimage.binary_erosion(where)
    return inner if inner.sum() > 4 else where


def test_ct_is_in_hu(labels) -> None:
    ct = render_ct(labels, 1, spacing=SPACING)
    assert ct.unit == "HU"
    assert ct.array.shape == (1, *SHAPE)
    assert ct.spacing == pytest.approx((SPACING,) * 3)
    assert ct.orientation == "RAS"
    hu = ct.array[0]
    expected = {Tissue.AIR: (-1000, 5), Tissue.WHITE_MATTER: (30, 8), Tissue.CORTICAL_BONE: (1000, 350)}
    for tissue, (value, tolerance) in expected.items():
        assert abs(hu[core(labels, tissue)].mean() - value) < tolerance, tissue
    assert hu.min() >= -1024
    assert hu.max() <= 3071
    np.testing.assert_array_equal(render_ct(labels, 1, spacing=SPACING).array, ct.array)
    assert not np.array_equal(render_ct(labels, 2, spacing=SPACING).array, ct.array)


def test_mr_is_dark_in_bone_and_bright_in_fat_and_ct_the_other_way(labels) -> None:
    mr, ct = render_mr(labels, 1, spacing=SPACING), render_ct(labels, 1, spacing=SPACING)
    assert mr.unit == "a.u."
    np.testing.assert_array_equal(mr.affine, ct.affine)
    signal = {t: mr.array[0][core(labels, t)].mean() for t in np.unique(labels)}
    hu = {t: ct.array[0][core(labels, t)].mean() for t in np.unique(labels)}
    assert signal[Tissue.CORTICAL_BONE] < 0.5 * signal[Tissue.GREY_MATTER]
    assert signal[Tissue.AIR] < 0.1 * signal[Tissue.FAT]
    assert signal[Tissue.CEREBROSPINAL_FLUID] < signal[Tissue.GREY_MATTER] < signal[Tissue.WHITE_MATTER]
    assert hu[Tissue.CORTICAL_BONE] > hu[Tissue.CANCELLOUS_BONE] > hu[Tissue.WHITE_MATTER] > hu[Tissue.FAT] > -200
    t2 = render_mr(labels, 1, spacing=SPACING, contrast="t2").array[0]
    assert t2[core(labels, Tissue.CEREBROSPINAL_FLUID)].mean() > t2[core(labels, Tissue.WHITE_MATTER)].mean()


def test_noise_in_air_is_rayleigh(labels) -> None:
    """Mean over standard deviation of the magnitude of pure noise is sqrt(pi / (4 - pi)) = 1.913."""
    mr = render_mr(labels, 3, spacing=SPACING).array[0]
    air = mr[ndimage.binary_erosion(labels == Tissue.AIR, iterations=4)]
    assert air.mean() / air.std() == pytest.approx(1.913, rel=0.02)
    assert mr.min() >= 0


def test_the_bias_field_is_smooth_and_as_large_as_asked(labels) -> None:
    flat, biased = (
        render_mr(labels, 4, spacing=SPACING, noise=0, bias=bias).array[0][labels == Tissue.WHITE_MATTER]
        for bias in (0.0, 0.3)
    )
    ratio = biased / flat / np.median(biased / flat)
    assert 0.03 < ratio.std() < 0.3
    assert ratio.min() > 0.4


def test_histogram_matching_fails_where_a_translation_is_needed() -> None:
    """Worse than painting every voxel with one value; a best function of intensity is not good either."""
    train = [make_head(seed, SHAPE, SPACING) for seed in (10, 11)]
    target = np.concatenate([render_ct(head, 0, spacing=SPACING).array.ravel() for head in train])
    inside = np.concatenate([render_ct(head, 0, spacing=SPACING).array[0][body_mask(head)] for head in train])
    test = make_head(12, SHAPE, SPACING)
    mask = body_mask(test)
    mr, ct = (render(test, 1, spacing=SPACING).array[0] for render in (render_mr, render_ct))
    ranks = np.linspace(0, 1, 2001)
    matched = np.interp(mr, np.quantile(mr, ranks), np.quantile(target, ranks))
    error = np.abs(matched - ct)[mask].mean()
    assert error > 300
    assert error > 1.4 * np.abs(np.median(inside) - ct)[mask].mean()
    bins = np.array_split(ct[mask][np.argsort(mr[mask])], 200)
    assert np.mean([np.abs(values - np.median(values)).mean() for values in bins]) > 120


def test_an_unknown_contrast_is_refused(labels) -> None:
    with pytest.raises(ConfigError, match=r"contrast: 'flair'; allowed are t1, t2"):
        render_mr(labels, 0, contrast="flair")


def test_cohort_has_other_heads_in_each_part_and_pairs_to_test_on(tmp_path) -> None:
    from medcycle.io import find_scans, read_volume

    told: list[tuple[int, int, str]] = []
    shape, spacing = (24, 26, 20), 9.0
    root = write_cohort(
        tmp_path / "cohort",
        heads=(2, 2, 1),
        shape=shape,
        spacing=spacing,
        seed=5,
        progress=lambda *step: told.append(step),
    )
    assert told == [(n, 5, f"head{n:02d}") for n in range(1, 6)]
    assert [path.name for path in find_scans(root / "train/mr")] == ["head01.nii.gz", "head02"]
    assert [path.name for path in find_scans(root / "train/ct")] == ["head03.nii.gz", "head04"]
    assert len(list((root / "train/mr/head02").iterdir())) == shape[2]
    mr, ct, mask = (read_volume(root / f"test/{kind}/head05.nii.gz") for kind in ("mr", "ct", "mask"))
    own = int(np.random.default_rng([5, 4]).integers(2**31))
    labels = make_head(own, shape, spacing)
    np.testing.assert_array_equal(mask.array[0], body_mask(labels))
    np.testing.assert_allclose(ct.array, render_ct(labels, own, spacing=spacing).array, atol=0.51)
    np.testing.assert_allclose(mr.affine, ct.affine, atol=1e-4)
    series = read_volume(root / "train/ct/head04")
    assert series.unit == "HU"
    assert sorted(series.space) == sorted(shape)
    dicom = read_volume(root / "test/mr_dicom/head05")
    assert np.corrcoef(np.sort(dicom.array.ravel()), np.sort(mr.array.ravel()))[0, 1] > 0.999


def test_cohort_that_cannot_be_is_refused(tmp_path) -> None:
    with pytest.raises(ScanError, match=r"at least one MR"):
        write_cohort(tmp_path, heads=(0, 1, 1))
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ScanError, match=r"file is a file, not a folder"):
        write_cohort(tmp_path / "file", heads=(1, 1, 1), shape=(8, 8, 8), spacing=25)
