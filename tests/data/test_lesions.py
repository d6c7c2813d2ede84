from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medcycle.data import Tissue, make_head, render_ct, render_mr
from medcycle.data.lesions import LESIONS, add_lesions, brain_mask, write_lesion_cohort
from medcycle.errors import ScanError

SHAPE, SPACING = (64, 72, 32), 3.0


@pytest.fixture(scope="module")
def heads() -> list[np.ndarray]:
    return [make_head(seed, SHAPE, SPACING) for seed in range(3)]


def test_lesions_are_the_only_difference_and_lie_in_the_brain(heads) -> None:
    for seed, healthy in enumerate(heads):
        before = healthy.copy()
        ill, numbers = add_lesions(healthy, seed, 4, spacing=SPACING)
        np.testing.assert_array_equal(healthy, before)
        np.testing.assert_array_equal(ill[numbers == 0], healthy[numbers == 0])
        assert set(np.unique(numbers)) == {0, 1, 2, 3, 4}
        assert not np.isin(healthy, LESIONS).any()
        assert (np.isin(ill, LESIONS) == (numbers > 0)).all()
        np.testing.assert_array_equal(brain_mask(ill), brain_mask(healthy))
        # Two of each kind, whichever is larger.
        kinds = [set(np.unique(ill[numbers == number])) for number in range(1, 5)]
        assert kinds[0] == kinds[2]
        assert kinds[1] == kinds[3]
        assert kinds[0] | kinds[1] == set(LESIONS)
        again, _ = add_lesions(healthy, seed, 4, spacing=SPACING)
        np.testing.assert_array_equal(again, ill)
    assert {int(add_lesions(heads[0], seed, 1, spacing=SPACING)[0].max()) for seed in (0, 1)} == set(LESIONS)


def test_sizes_and_distances_are_as_said(heads) -> None:
    for seed, healthy in enumerate(heads):
        _, numbers = add_lesions(healthy, seed, 4, spacing=SPACING)
        outside = ndimage.distance_transform_edt(brain_mask(healthy), sampling=SPACING)
        for number in range(1, 5):
            lesion = numbers == number
            assert ndimage.label(lesion)[1] == 1
            radius = (lesion.sum() * SPACING**3 * 3 / 4 / np.pi) ** (1 / 3)
            assert 5.5 < radius < 14.5
            away = ndimage.distance_transform_edt(~lesion, sampling=SPACING)
            assert away[(numbers > 0) & ~lesion].min() >= 7 - SPACING
            assert outside[lesion].min() >= 0
            share = np.isin(healthy[lesion], (Tissue.GREY_MATTER, Tissue.WHITE_MATTER)).mean()
            assert share > 0.85  # a sulcus may run through, a ventricle not


def test_lesions_have_their_contrast_in_mr_and_ct(heads) -> None:
    """A cyst is dark in both; an acute bleed dark in T1 and bright in CT."""
    ill, _ = add_lesions(heads[0], 0, 4, spacing=SPACING)
    mr, ct = (render(ill, 0, spacing=SPACING).array[0] for render in (render_mr, render_ct))
    matter = ndimage.binary_erosion(np.isin(ill, (Tissue.GREY_MATTER, Tissue.WHITE_MATTER)))
    for tissue, hu in ((Tissue.CYST, -29), (Tissue.BLEED, 38)):
        core = ndimage.binary_erosion(ill == tissue)
        assert ct[core].mean() - ct[matter].mean() == pytest.approx(hu, abs=9)
        assert mr[core].mean() < 0.75 * mr[matter].mean()


def test_too_many_lesions_are_refused(heads) -> None:
    with pytest.raises(ScanError, match=r"no room for 90 lesions in this head \(seed 1\)"):
        add_lesions(heads[0], 1, 90, spacing=SPACING)


def test_cohort_has_every_head_with_and_without_lesions(tmp_path) -> None:
    from medcycle.io import find_scans, read_volume

    told: list[tuple[int, int, str]] = []
    settings = {"shape": (32, 36, 18), "spacing": 6.0, "lesions": 1}
    root = write_lesion_cohort(
        tmp_path / "scans", heads=(2, 1, 1), progress=lambda *step: told.append(step), **settings
    )
    assert told == [(n, 4, f"head{n:02d}.nii.gz") for n in range(1, 5)]
    assert {path.name for path in (root / "test").iterdir()} == {
        *("mr-healthy", "mr-lesions", "ct-healthy", "ct-lesions"),
        *("numbers", "tissues"),
    }
    for kind, count in (("mr", 2), ("ct", 1)):
        for end in ("healthy", "lesions"):
            assert len(find_scans(root / "train" / f"{kind}-{end}")) == count

    def test_scan(kind: str) -> np.ndarray:
        return read_volume(root / "test" / kind / "head04.nii.gz").array[0]

    numbers, tissues = test_scan("numbers"), test_scan("tissues").astype(np.int16)
    assert set(np.unique(numbers)) == {0, 1}
    assert brain_mask(tissues)[numbers > 0].all()
    own = int(np.random.default_rng([0, 3]).integers(2**31))
    np.testing.assert_array_equal(tissues, make_head(own, (32, 36, 18), 6.0))
    away = ndimage.distance_transform_edt(numbers == 0) > 4  # beyond the reach of the point spread
    for kind in ("mr", "ct"):
        healthy, ill = test_scan(f"{kind}-healthy"), test_scan(f"{kind}-lesions")
        np.testing.assert_allclose(ill[away], healthy[away], rtol=1e-4, atol=0.51)
        assert np.abs(ill - healthy)[numbers > 0].max() > 0
    with pytest.raises(ScanError, match=r"with 0 lesions each"):
        write_lesion_cohort(tmp_path / "none", lesions=0)
