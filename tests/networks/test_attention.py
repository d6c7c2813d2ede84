"""Attention: against the papers' formulas, written out."""

from __future__ import annotations

import math

import pytest
import torch

from medcycle.networks.attention import FREQUENCIES, LONGEST, SHORTEST, SelfAttention, TransformerBlock, positions


@pytest.mark.parametrize("space", [(3, 5), (2, 3, 4)])
def test_self_attention_is_sagans(space):
    layer = SelfAttention(16).double()
    x = torch.randn(2, 16, *space, dtype=torch.float64)
    assert torch.equal(layer(x), x)  # the gain starts at 0
    with torch.no_grad():
        layer.gain.value.fill_(0.7)
        flat = x.flatten(2)
        for image, found in zip(flat, layer(x).flatten(2), strict=True):
            f, g, h = (linear.weight @ image for linear in (layer.key, layer.query, layer.value))
            s = f.T @ g  # (seen, seeing)
            beta = s.exp() / s.exp().sum(0)
            torch.testing.assert_close(found, image + 0.7 * layer.out.weight @ (h @ beta))


def test_a_transformer_block_is_pre_norm_with_rezero():
    block = TransformerBlock(6, 2).double()
    x = torch.randn(1, 5, 6, dtype=torch.float64)
    assert torch.equal(block(x), x)
    with torch.no_grad():
        block.attention_gain.value.fill_(0.5)
        block.perceptron_gain.value.fill_(-2.0)

        def normed(t):
            centred = t - t.mean(-1, keepdim=True)
            return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()

        query, key, value = block.query_key_value(normed(x[0])).split(6, dim=1)
        heads = []
        for n in (0, 1):
            q, k, v = (t[:, 3 * n : 3 * n + 3] for t in (query, key, value))
            heads.append(torch.softmax(q @ k.T / math.sqrt(3), dim=1) @ v)
        y = x[0] + 0.5 * block.merge(torch.cat(heads, dim=1))
        first, second = block.perceptron[1], block.perceptron[3]
        hidden = first(normed(y))
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        torch.testing.assert_close(block(x)[0], y - 2 * second(hidden))


def test_positions_are_sines_of_the_distance_from_the_middle():
    found = positions((3, 4), torch.device("cpu")).view(3, 4, 2, 2, FREQUENCIES)  # axis, sine or cosine
    lengths = [SHORTEST * (LONGEST / SHORTEST) ** (n / (FREQUENCIES - 1)) for n in range(FREQUENCIES)]
    for i in range(3):
        for j in range(4):
            for axis, place in enumerate((i - 1, j - 1.5)):
                for n, length in enumerate(lengths):
                    angle = 2 * math.pi * place / length
                    assert found[i, j, axis, 0, n] == pytest.approx(math.sin(angle), abs=1e-5)
                    assert found[i, j, axis, 1, n] == pytest.approx(math.cos(angle), abs=1e-5)
    assert positions((2, 3, 4), torch.device("cpu")).shape == (24, 6 * FREQUENCIES)
