"""The token table in two factors: counts, start, ends of the model, rank."""

import pytest
import torch
import torch.nn.functional as F

from lmbench.config import make
from lmbench.layers.low_rank import LowRankEmbedding, low_rank_flops, low_rank_head_flops
from lmbench.measure.flops import ledger, parameters
from lmbench.models.base import seeded

SIZES = {"vocab_size": 40, "seq_len": 6, "d_model": 16, "n_head": 2, "n_layer": 1, "d_ff": 24}


def numbers(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(**fields: object) -> torch.nn.Module:
    config = make("model", "transformer_modern", n_layer=1, n_head=1, qk_norm=False, **fields)
    with torch.device("meta"):
        return config.build()


@pytest.mark.parametrize(
    ("vocab_size", "width", "rank", "plain", "factored"),
    [(1024, 512, 128, 524_288, 196_608), (50_000, 2048, 256, 102_400_000, 13_324_288)],
)
def test_the_published_tables_shrink_to_the_published_counts(
    vocab_size: int, width: int, rank: int, plain: int, factored: int
) -> None:
    sizes = {"vocab_size": vocab_size, "d_model": width, "seq_len": 1, "d_ff": 1}
    assert numbers(on_meta(**sizes).embedding) == plain
    assert numbers(on_meta(**sizes, embedding_rank=rank).embedding) == factored == rank * (vocab_size + width)


def test_the_table_of_albert_shrinks_by_83_percent() -> None:
    with torch.device("meta"):
        table = LowRankEmbedding(30_000, rank=128, width=768, std=1.0)
    assert 1 - numbers(table) / (30_000 * 768) == pytest.approx(0.829, abs=5e-4)


def test_with_an_untied_head_as_published_the_two_ends_hold_more_than_a_tied_plain_table() -> None:
    sizes = {"vocab_size": 50_000, "d_model": 2048, "seq_len": 1, "d_ff": 1, "embedding_rank": 256}
    untied, tied = on_meta(**sizes), on_meta(**sizes, tied_head=True)
    assert numbers(untied.embedding) + numbers(untied.head.linear) == 115_724_288
    assert numbers(tied.embedding) == 13_324_288
    assert tied.head.linear is None


@pytest.mark.parametrize("init", ["torch", "gpt2"])
@pytest.mark.parametrize("tied_head", [False, True])
def test_token_vectors_start_as_wide_as_without_factors(init: str, tied_head: bool) -> None:
    sizes = {"vocab_size": 2000, "d_model": 64, "n_head": 2, "n_layer": 1, "positions": "rope"}
    fields = sizes | {"init": init, "tied_head": tied_head}
    spread = []
    for rank in (None, 16):
        model = seeded(make("model", "transformer", **fields, embedding_rank=rank), init_seed=0)
        with torch.no_grad():
            spread.append(model.embedding(torch.arange(2000).view(20, 100)).std().item())
    # Of 64 x 16 numbers of the second factor the variance is off by some percent.
    assert spread[1] == pytest.approx(spread[0], rel=0.06)
    assert spread[0] == pytest.approx(0.02 if init == "gpt2" else 1.0, rel=0.02)


def test_logits_through_the_factors_start_with_unit_variance_as_those_of_a_plain_tied_head() -> None:
    fields = {"vocab_size": 2000, "d_model": 64, "n_head": 2, "n_layer": 1, "tied_head": True}
    for rank in (None, 16):
        model = seeded(make("model", "transformer", **fields, embedding_rank=rank), init_seed=0)
        x = torch.randn(4, 50, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            assert model.embedding.logits(x).std().item() == pytest.approx(1.0, rel=0.06)


def test_the_published_start_is_narrower_by_the_root_of_the_rank() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        table = LowRankEmbedding(2000, rank=256, width=512, std=0.02, up_std=0.02)
    # 0.02^2 sqrt(256) = 0.0064 in place of 0.02.
    assert table(torch.arange(2000)).std().item() == pytest.approx(0.0064, rel=0.02)


def test_full_rank_with_the_identity_is_the_plain_table_at_both_ends() -> None:
    fields = SIZES | {"tied_head": True}
    plain = seeded(make("model", "transformer", **fields), init_seed=0).eval()
    model = seeded(make("model", "transformer", **fields, embedding_rank=16), init_seed=1).eval()
    weights = {k: v for k, v in plain.state_dict().items() if not k.startswith("embedding.token")}
    weights["embedding.token.rows.weight"] = plain.embedding.token.weight.detach()
    weights["embedding.token.up.weight"] = torch.eye(16)
    model.load_state_dict(weights)
    ids = torch.arange(24).view(4, 6)
    torch.testing.assert_close(model(ids).logits_BTV, plain(ids).logits_BTV, rtol=1e-5, atol=1e-5)


def test_a_tied_head_goes_back_through_both_factors_and_has_their_rank() -> None:
    table = LowRankEmbedding(40, rank=3, width=16, std=1.0).double()
    x = torch.randn(30, 16, dtype=torch.float64)
    full = table(torch.arange(40))
    torch.testing.assert_close(table.logits(x), F.linear(x, full), rtol=0, atol=1e-12)
    assert torch.linalg.matrix_rank(table.logits(x)) == torch.linalg.matrix_rank(full) == 3


def test_the_two_factors_are_cheaper_than_one_matrix_by_a_hand_count() -> None:
    # A position: C E + E V = 16 * 3 + 3 * 40 = 168 multiply-adds in place of 640.
    assert low_rank_head_flops(6, rank=3, width=16, vocab_size=40) == 2 * 6 * 168
    assert low_rank_flops(6, rank=3, width=16) == 2 * 6 * 48
    config = make("model", "transformer", **SIZES, embedding_rank=3, tied_head=True)
    by_term = {term.name: term.forward for term in config.terms("all")}
    assert (by_term["embedding"], by_term["head"]) == (2 * 6 * 48, 2 * 6 * 168)
    last = {term.name: term.forward for term in config.terms("last")}
    assert (last["embedding"], last["head"]) == (2 * 6 * 48, 2 * 168)


def test_a_full_matrix_reads_out_where_the_head_is_untied() -> None:
    plain, factored = (make("model", "transformer", **SIZES, embedding_rank=rank) for rank in (None, 3))
    more = ledger(factored, readout="all").forward - ledger(plain, readout="all").forward
    assert more == 2 * 6 * 48
    assert parameters(plain).total - parameters(factored).total == 40 * 16 - 3 * (40 + 16)


def test_a_rank_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"transformer.embedding_rank = 0 is not accepted: input should be"):
        make("model", "transformer", embedding_rank=0)
