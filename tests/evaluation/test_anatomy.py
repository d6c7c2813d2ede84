"""Figures of anatomy: against plain ones on shapes whose overlap and distance are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from medcycle.errors import ScanError
from medcycle.evaluation import anatomy

SHAPE = (30, 34, 26)
SPACING = (1.0, 1.5, 2.0)


def head(shift: int = 0, thick: int = 3) -> np.ndarray:
    """Air round a block of soft tissue with a slab of bone and a hole of air in it, in HU."""
    image = np.full(SHAPE, -1000.0)
    image[3:27, 3:31, 3:23] = 40
    image[6 + shift : 6 + shift + thick, 5:29, 5:21] = 900
    image[18:22, 10 + shift : 16 + shift, 8:18] = -950
    return image


MASK = np.zeros(SHAPE, bool)
MASK[3:27, 3:31, 3:23] = True


def test_a_perfect_image_is_perfect() -> None:
    found = anatomy(head(), head(), MASK, SPACING)
    assert {k: found[k] for k in found if k.startswith(("mae", "hd95"))} == dict.fromkeys(
        ("mae", "mae_air", "mae_soft", "mae_bone", "hd95_bone", "hd95_air"), 0.0
    )
    assert found["dice_bone"] == found["dice_air"] == 1
    assert found["gradient_correlation"] == pytest.approx(1)


def test_figures_of_shifted_structures_are_known() -> None:
    found = anatomy(head(shift=1), head(), MASK, SPACING)
    assert found["dice_bone"] == pytest.approx(2 / 3)  # three planes thick, moved by one
    assert found["dice_air"] == pytest.approx(5 / 6)  # six rows
    assert found["hd95_bone"] == pytest.approx(1.0)  # mm along i
    assert found["hd95_air"] == pytest.approx(1.5)  # one row along j
    error = np.abs(head(shift=1) - head())
    assert found["mae"] == pytest.approx(error[MASK].mean())
    assert found["mae_bone"] == pytest.approx(error[MASK & (head() > 250)].mean())
    assert found["mae_air"] == pytest.approx(error[MASK & (head() < -300)].mean())
    assert found["mae_soft"] == pytest.approx(error[MASK & (abs(head() - 40) < 1)].mean())


def test_a_skull_in_the_scalp_is_told_although_the_mean_error_is_small() -> None:
    wrong = anatomy(head(shift=-3), head(), MASK, SPACING)
    missing = anatomy(np.where(MASK, np.where(head() > 250, 40, head()), -1000), head(), MASK, SPACING)
    assert wrong["dice_bone"] == 0
    assert missing["dice_bone"] == 0
    assert math.isnan(missing["hd95_bone"])
    assert wrong["hd95_bone"] == pytest.approx(3.0)
    assert wrong["gradient_correlation"] < 0.8


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")
def test_surface_distance_equals_monais() -> None:
    rng = np.random.default_rng(3)
    blobs = [ndimage.gaussian_filter(rng.standard_normal(SHAPE), 3) for _ in "ab"]
    a, b = (blob > np.quantile(blob, 0.8) for blob in blobs)
    inner = np.zeros(SHAPE, bool)
    inner[2:-2, 2:-2, 2:-2] = True  # MONAI takes the image's border for no surface
    a, b = a & inner, b & inner
    both = [torch.from_numpy(mask)[None, None] for mask in (a, b)]
    expected = compute_hausdorff_distance(*both, include_background=True, percentile=95, spacing=list(SPACING))
    found = anatomy(np.where(a, 900.0, 40.0), np.where(b, 900.0, 40.0), np.ones(SHAPE, bool), SPACING)
    assert found["hd95_bone"] == pytest.approx(float(expected), rel=1e-6)


def test_planes_and_images_without_a_tissue() -> None:
    flat = anatomy(head()[:, :, 12], head()[:, :, 12], MASK[:, :, 12], SPACING)
    assert flat["dice_bone"] == 1
    soft = anatomy(np.full((5, 5), 40.0), np.full((5, 5), 30.0), np.ones((5, 5)), (1, 1))
    assert soft["mae_soft"] == 10
    assert all(math.isnan(soft[k]) for k in ("mae_bone", "dice_bone", "hd95_bone", "mae_air", "gradient_correlation"))
    with pytest.raises(ScanError, match="mask is empty"):
        anatomy(np.zeros((5, 5)), np.zeros((5, 5)), np.zeros((5, 5)), (1, 1))


def test_bone_begins_above_250_and_air_below_minus_300_hu() -> None:
    hu = np.array([[249.0, 250.0, 251.0, -299.0, -300.0, -301.0]])
    error = np.array([[1.0, 2.0, 4.0, 8.0, 16.0, 32.0]])
    found = anatomy(hu - error, hu, np.ones_like(hu), (1.0, 1.0))
    assert (found["mae_bone"], found["mae_air"], found["mae_soft"]) == (4, 32, pytest.approx(27 / 4))
    assert anatomy(hu * 0 + 250, hu, np.ones_like(hu), (1.0, 1.0))["dice_bone"] == 0
    assert anatomy(hu * 0 + 251, hu, np.ones_like(hu), (1.0, 1.0))["dice_bone"] == pytest.approx(2 / 7)
    assert anatomy(hu * 0 - 300, hu, np.ones_like(hu), (1.0, 1.0))["dice_air"] == 0
    assert anatomy(hu * 0 - 301, hu, np.ones_like(hu), (1.0, 1.0))["dice_air"] == pytest.approx(2 / 7)


def test_a_scan_of_one_slice_is_scored_as_a_plane() -> None:
    plane, single = (slice(None), slice(None), 12), (slice(None), slice(None), slice(12, 13))
    flat, thin = (anatomy(head(1)[part], head()[part], MASK[part], SPACING) for part in (plane, single))
    assert thin["gradient_correlation"] == pytest.approx(flat["gradient_correlation"])
    assert {k: thin[k] for k in thin if k != "hd95_air"} == pytest.approx({k: flat[k] for k in flat if k != "hd95_air"})
