"""UNETR++'s paired attention against its sums written out, head by head."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import models
from models.epa import EPA, EPABlock, merged, scrambled

N, TOKENS, WIDTH, FEW, HEADS = 2, 7, 12, 5, 4
D = WIDTH // HEADS


@pytest.fixture
def tokens() -> Tensor:
    torch.manual_seed(2)
    return torch.randn(N, TOKENS, WIDTH, dtype=torch.float64)


def attention(*, legacy: bool = False) -> EPA:
    torch.manual_seed(4)
    return EPA(TOKENS, WIDTH, FEW, heads=HEADS, legacy=legacy).double().eval()


def written_out(epa: EPA, x: Tensor) -> Tensor:
    """One image and head after the other; the columns of the joint weights are q, k, channel values, space values."""
    out = torch.zeros_like(x)
    for n in range(N):
        q, k, v_channel, v_space = torch.split(x[n] @ epa.qkvv.weight.T, WIDTH, dim=1)
        for head in range(HEADS):
            of = slice(head * D, (head + 1) * D)
            unit_q, unit_k = (part[:, of] / part[:, of].square().sum(0).sqrt() for part in (q, k))
            among_channels = (unit_q.T @ unit_k * epa.channel_heat[head]).softmax(1)
            few_keys, few_values = epa.few.T @ k[:, of], epa.few.T @ v_space[:, of]
            among_tokens = (unit_q @ few_keys.T * epa.space_heat[head]).softmax(1)
            out[n, :, of] = v_channel[:, of] @ among_channels.T + among_tokens @ few_values
    return out


def test_attention_is_its_sums_written_out(tokens: Tensor) -> None:
    epa = attention()
    with torch.no_grad():
        epa.channel_heat.add_(torch.arange(HEADS)[:, None, None])
        epa.space_heat.sub_(torch.arange(HEADS)[:, None, None] / 3)
        assert_close(epa(tokens), written_out(epa, tokens))


def test_answers_go_with_their_tokens_but_for_the_authors_code(tokens: Tensor) -> None:
    order = torch.randperm(TOKENS)
    for legacy in (False, True):
        epa, moved = attention(legacy=legacy), attention(legacy=legacy)
        with torch.no_grad():
            moved.few.copy_(epa.few[order])
            alike = torch.allclose(moved(tokens[:, order]), epa(tokens)[:, order])
        assert alike != legacy


def test_the_authors_layout_holds_the_same_numbers_elsewhere() -> None:
    x = torch.arange(2 * 3 * 5 * 7.0).reshape(2, 3, 5, 7)
    assert merged(x).shape == scrambled(x).shape == (2, 5, 21)
    assert torch.equal(merged(x)[1, 4], torch.cat([x[1, head, 4] for head in range(3)]))
    assert torch.equal(scrambled(x).flatten(1), torch.stack([x[..., d] for d in range(7)], 1).flatten(1))


def test_a_block_starts_as_its_convolutions() -> None:
    block = EPABlock((3, 2, 5), 8, 4, legacy=False).eval()
    x = torch.randn(2, 8, 3, 2, 5)
    with torch.no_grad():
        assert_close(block(x), x + block.convolutions(x), rtol=1e-4, atol=1e-4)
        block.positions[7, 3] += 1  # of 30 tokens the eighth: (0, 1, 2)
        assert (block(x) - x - block.convolutions(x)).abs()[:, 3].amax(0).argmax() == 7


def test_any_number_of_channels_can_be_read() -> None:
    net = models.create("unetr++", 3, 2, size=(32, 32, 64), width=8).eval()
    with torch.no_grad():
        assert net(torch.randn(1, 3, 32, 32, 64)).shape == (1, 2, 32, 32, 64)
