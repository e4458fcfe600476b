"""The five ways to tell positions apart, each by the property that defines it."""

import math

import pytest
import torch

from lmbench.config import make
from lmbench.layers.positions import Alibi, LearnedPositions, Rotary, SinusoidalPositions, alibi_slopes
from lmbench.models.base import seeded


def test_learned_positions_add_their_row() -> None:
    layer = LearnedPositions(seq_len=5, d_model=4)
    assert torch.equal(layer(torch.zeros(2, 3, 4))[1], layer.embedding.weight[:3])


def test_sinusoids_are_those_of_the_paper() -> None:
    table = SinusoidalPositions(seq_len=4, d_model=6)(torch.zeros(1, 4, 6))[0]
    for t in range(4):
        for i in range(3):
            angle = t / 10_000 ** (2 * i / 6)
            assert table[t, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[t, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_sinusoids_keep_the_dtype_of_what_they_are_added_to() -> None:
    layer = SinusoidalPositions(seq_len=4, d_model=6)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        assert layer(torch.zeros(1, 4, 6, dtype=dtype)).dtype == dtype
    x = torch.full((1, 4, 6), 1.5, dtype=torch.bfloat16)
    assert torch.equal(layer(x), (1.5 + layer.table_TC).bfloat16().unsqueeze(0))


def test_rope_turns_the_first_pair_by_one_radian_a_position() -> None:
    x = torch.zeros(1, 1, 3, 4)
    x[..., 0] = 1.0  # feature 0 is paired with feature 2
    turned = Rotary(seq_len=3, d_head=4)(x)[0, 0]
    for t in range(3):
        assert turned[t].tolist() == pytest.approx([math.cos(t), 0, math.sin(t), 0], abs=1e-6)


def test_rope_depends_only_on_distance() -> None:
    rotary = Rotary(seq_len=16, d_head=8).double()
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turned_q, turned_k = (rotary(x.expand(1, 1, 16, 8))[0, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(-15, 16):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(scores[0, 0], scores[5, 0])


def test_rope_keeps_lengths_and_leaves_position_zero_alone() -> None:
    x = torch.randn(1, 2, 9, 8, generator=torch.Generator().manual_seed(0))
    turned = Rotary(seq_len=9, d_head=8)(x)
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    assert torch.equal(turned[..., 0, :], x[..., 0, :])
    assert Rotary(seq_len=9, d_head=8)(x.bfloat16()).dtype == torch.bfloat16


def test_alibi_slopes_are_those_of_the_paper() -> None:
    assert alibi_slopes(8) == [2.0**-h for h in range(1, 9)]
    assert alibi_slopes(4) == [2.0**-h for h in (2, 4, 6, 8)]
    # 12 heads: the 8 of a power of two, then every other of the 16 from its first.
    assert alibi_slopes(12) == pytest.approx(alibi_slopes(8) + [2.0**-h for h in (0.5, 1.5, 2.5, 3.5)])


def test_alibi_falls_linearly_with_the_distance_and_forbids_the_future() -> None:
    bias = Alibi(n_head=2)(3)
    inf = math.inf
    assert bias[0].tolist() == [[0, -inf, -inf], [-0.0625, 0, -inf], [-0.125, -0.0625, 0]]
    assert bias[1].tolist() == [[0, -inf, -inf], [-0.00390625, 0, -inf], [-0.0078125, -0.00390625, 0]]


def test_without_positions_one_block_ignores_the_order_of_earlier_tokens() -> None:
    tokens = torch.tensor([[3, 1, 2, 0]])
    shuffled = torch.tensor([[1, 2, 3, 0]])
    for positions in ("none", "learned", "sinusoidal", "rope", "alibi"):
        config = make(
            "model",
            "transformer",
            positions=positions,
            n_layer=1,
            d_model=16,
            d_ff=8,
            vocab_size=4,
            seq_len=4,
        )
        model = seeded(config, init_seed=0).double().eval()
        first, second = (model(ids, readout="last").logits_BTV for ids in (tokens, shuffled))
        assert torch.allclose(first, second, atol=1e-10) == (positions == "none"), positions


def test_fixed_positions_are_not_saved_with_the_weights() -> None:
    for positions in ("sinusoidal", "rope", "alibi", "none"):
        config = make("model", "transformer", positions=positions, d_model=16, seq_len=4)
        model = seeded(config, init_seed=0)
        assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}
