from __future__ import annotations

import pytest
import torch

from medcycle.errors import ModelError
from medcycle.networks import build_generator
from medcycle.networks.position import with_position
from medcycle.networks.upstream import generator_state


def body(*box: slice, space: tuple[int, ...]) -> torch.Tensor:
    image = torch.full((1, 1, *space), -1.0)
    image[0, 0][box] = 0.3
    return image


@pytest.mark.parametrize("ndim", [2, 3])
def test_an_evenly_filled_body_reaches_from_minus_one_to_one(ndim):
    box, space = (slice(4, 24), slice(10, 15), slice(0, 8))[:ndim], (30, 20, 8)[:ndim]
    images = body(*box, space=space)
    found = with_position(images)
    assert found.shape == (1, 1 + ndim, *space)
    assert torch.equal(found[:, :1], images)
    for axis, part in enumerate(box):
        line = found[0, 1 + axis].movedim(axis, 0).flatten(1)
        assert (line == line[:, :1]).all()
        ends = line[part.start, 0], line[part.stop - 1, 0]
        assert -1 <= float(ends[0]) < -0.75
        assert float(ends[0]) == pytest.approx(-float(ends[1]), abs=1e-6)
        assert (line[:, 0].diff() >= 0).all()


def test_it_follows_the_body_and_not_the_frame():
    one = with_position(body(slice(2, 12), slice(3, 9), space=(24, 24)))
    other = with_position(body(slice(9, 19), slice(13, 19), space=(24, 24)))
    torch.testing.assert_close(one[..., 2:12, 3:9], other[..., 9:19, 13:19])


def test_specks_outside_move_it_little():
    clean = body(slice(8, 40), slice(8, 40), space=(48, 48))
    specks = clean.clone()
    specks[..., 0, ::12] = 0.5
    assert (with_position(specks) - with_position(clean))[:, 1:].abs().max() < 0.05


def test_without_a_body_it_is_that_of_the_frame():
    found = with_position(torch.full((1, 2, 7, 9), -1.0))
    assert torch.isfinite(found).all()
    assert float(found[0, 2, 3, 0]) == pytest.approx(0, abs=1e-6)
    assert found[0, 2, 0, 0] < -0.8


def test_images_of_a_batch_have_their_own():
    images = torch.cat(
        [body(slice(2, 12), slice(3, 9), space=(24, 24)), body(slice(9, 19), slice(0, 9), space=(24, 24))]
    )
    found = with_position(images)
    for n in (0, 1):
        torch.testing.assert_close(found[n : n + 1], with_position(images[n : n + 1]))


def test_no_gradient_comes_from_the_place():
    images = body(slice(2, 12), slice(3, 9), space=(16, 16)).requires_grad_()
    with_position(images)[:, 1:].sum().backward()
    assert images.grad is None or not images.grad.any()


@pytest.mark.parametrize("position", [False, True])
@pytest.mark.parametrize("kind", ["resnet", "unet", "masked"])
def test_a_flat_piece_of_body_is_told_from_another_by_its_place_alone(kind, position):
    more = {"downs": 2} if kind == "unet" else {"blocks": 1}
    network = build_generator(kind, in_channels=1, out_channels=1, filters=2, norm="none", position=position, **more)
    images = body(slice(2, 94), slice(2, 94), space=(96, 96))
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(10)  # drawn, they are so small that little comes through
        made = network(images)[0, 0]
    apart = (made[44:48, 44:48] - made[48:52, 44:48]).abs().max()  # as far as the network's strides
    assert (apart > 1e-5) == position
    assert [f.shape[1] for f in network.features(images)] == list(network.feature_channels)


def test_the_original_has_none():
    network = build_generator("resnet", in_channels=1, out_channels=1, filters=2, blocks=1, position=True)
    with pytest.raises(ModelError, match="position"):
        generator_state(network)


def test_an_end_is_sqrt_3_standard_deviations_from_the_middle():
    found = with_position(body(slice(4, 25), slice(0, 8), space=(30, 8)))[0, 1, :, 0]
    spread = ((21**2 - 1) / 12) ** 0.5  # of 21 places in a row
    assert float(found[17]) == pytest.approx(3 / (3**0.5 * spread), rel=1e-5)
