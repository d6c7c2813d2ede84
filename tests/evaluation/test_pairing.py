"""Cases are matched by name and compared only on one grid."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcycle.errors import ScanError
from medcycle.evaluation.pairing import find_pairs, on_grid_of
from medcycle.io import write_volume
from medcycle.volume import Volume

AFFINE = np.array([[-1.2, 0.1, 0.0, 40.0], [0.1, 1.2, 0.0, -30.0], [0.0, 0.0, 2.5, 12.0], [0, 0, 0, 1]])


def folder(path, names, ending=".nii.gz"):
    for name in names:
        write_volume(Volume(np.zeros((1, 4, 4, 4)), np.eye(4)), path / f"{name}{ending}")
    return path


def test_pairs_have_one_name_whatever_the_ending(tmp_path):
    predictions = folder(tmp_path / "p", ["b", "a"], ".mha")
    pairs = find_pairs(predictions, folder(tmp_path / "r", ["a", "b"]), folder(tmp_path / "m", ["a", "b", "c"]), None)
    assert [pair.name for pair in pairs] == ["a", "b"]
    assert pairs[0].prediction == tmp_path / "p" / "a.mha"
    assert pairs[1].reference == tmp_path / "r" / "b.nii.gz"
    assert pairs[1].mask == tmp_path / "m" / "b.nii.gz"
    assert pairs[0].input is None


def test_names_without_a_partner_are_listed_both_ways(tmp_path):
    three, two = folder(tmp_path / "three", ["a", "b", "c"]), folder(tmp_path / "two", ["a", "d"])
    with pytest.raises(ScanError, match=r"2 of 3 predictions .* have no reference .*: b, c"):
        find_pairs(three, two, None, None)
    with pytest.raises(ScanError, match=r"1 of 3 references .* no prediction in .*one: "):
        find_pairs(folder(tmp_path / "one", ["a", "b"]), three, None, None)
    with pytest.raises(ScanError, match=r"no mask in .*: b, c"):
        find_pairs(three, three, two, None)
    with pytest.raises(ScanError, match=r"no input in .*: b, c"):
        find_pairs(three, three, None, two)


def test_one_file_against_one_file_needs_no_equal_names(tmp_path):
    place = folder(tmp_path / "x", ["sct", "ct", "body", "mr"])
    files = [place / f"{name}.nii.gz" for name in ("sct", "ct", "body", "mr")]
    (pair,) = find_pairs(*files)
    assert (pair.name, pair.reference, pair.mask, pair.input) == ("sct", *files[1:])


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    twice = folder(tmp_path / "p" / "one", ["a"]).parent
    folder(twice / "two", ["a"])
    with pytest.raises(ScanError, match="more than one prediction is called a"):
        find_pairs(twice, folder(tmp_path / "r", ["a"]), None, None)


@given(
    order=st.sampled_from(list(permutations(range(3)))),
    flips=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_flipped_and_permuted_axes_come_back_to_the_reference(order, flips, seed):
    array = np.random.default_rng(seed).normal(size=(2, 3, 4, 5)).astype(np.float32)
    reference = Volume(array, AFFINE)
    step = np.zeros((4, 4))
    step[3, 3] = 1
    turned = array.transpose(0, *(axis + 1 for axis in order))
    for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
        step[old, new] = -1 if flip else 1
        step[old, 3] = array.shape[old + 1] - 1 if flip else 0
        turned = np.flip(turned, new + 1) if flip else turned
    np.testing.assert_array_equal(on_grid_of(reference, Volume(turned, AFFINE @ step), "x"), array)


@pytest.mark.parametrize("change", ["shift", "spacing", "shape"])
def test_another_grid_is_refused_with_both_described(change):
    reference = Volume(np.zeros((1, 4, 5, 6)), AFFINE)
    affine, shape = AFFINE.copy(), (1, 4, 5, 6)
    if change == "shift":
        affine[0, 3] += 0.002
    elif change == "spacing":
        affine[:3, 2] *= 1.01
    else:
        shape = (1, 4, 5, 7)
    with pytest.raises(ScanError, match=r"head7\.nii lies on another grid .* 4 x 5 x [67] voxels of 1\.204 x 1\.204"):
        on_grid_of(reference, Volume(np.zeros(shape), affine), "head7.nii")


def test_a_rounding_of_the_affine_and_the_spacing_of_pictures_do_not_matter():
    reference = Volume(np.zeros((1, 4, 5, 6)), AFFINE)
    rounded = AFFINE.copy()
    rounded[:3] += 5e-4
    assert on_grid_of(reference, Volume(np.ones((1, 4, 5, 6)), rounded), "x").all()
    picture = Volume(np.zeros((1, 4, 5)), np.diag([-1.0, -1, 1, 1]), "uint8")
    scaled = Volume(np.ones((1, 4, 5)), np.diag([-0.5, -0.5, 1, 1]), "uint8")
    assert on_grid_of(picture, scaled, "x").all()
