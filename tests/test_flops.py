"""The ledger by hand, the bill of a model, and why other counts differ."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import discover, make
from lmbench.layers.cost import matmul
from lmbench.layers.fused import SHORT, flop_formulas, fused_attention
from lmbench.measure.disagreement import disagreement_table, fvcore_flops, products
from lmbench.measure.flops import Ledger, Term, cost, counted_flops, ledger, parameters, train_flops
from lmbench.models.base import ModelConfig

SMALL = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}


def small(name: str, **fields: object) -> ModelConfig:
    known = discover("model")[name].model_fields
    return make("model", name, **({k: v for k, v in SMALL.items() if k in known} | fields))


def test_a_matrix_product_is_a_multiply_and_an_add_for_each_triple() -> None:
    assert matmul(2, inner=3, columns=5) == 60


def test_the_published_transformer_costs_what_a_hand_count_says() -> None:
    # A token: 3 blocks of 2 (4 C^2 + 2 C F) = 262,144 and 4 T C = 65,536 of attention; head 2 C V = 16,640.
    per_token = ledger(make("model", "transformer"), readout="all").per_target()
    assert per_token["forward"] == 3 * (262_144 + 65_536) + 16_640 == 999_680
    # Causal: (T + 1) / 2T of the attention.
    assert per_token["forward_causal"] == 3 * (262_144 + 65_536 * 129 / 256) + 16_640
    assert per_token["backward"] == 2 * per_token["forward"]
    assert per_token["total"] == 3 * per_token["forward"]


def test_the_published_linear_model_costs_six_flops_per_weight_and_window() -> None:
    # The correct count of the study's run: 6 * 16,384 * 65 per window, 43 times less than published.
    flops = train_flops(make("model", "linear"), readout="last", sequences=150_000)
    assert flops == 6 * 16_384 * 65 * 150_000
    assert 2 * 1_073_345 * 150_000 * 128 / flops == pytest.approx(43, abs=0.1)


def test_a_window_model_pays_its_window_for_each_target() -> None:
    for name in ("linear", "mlp"):
        config = small(name)
        every, last = (ledger(config, readout=readout).forward for readout in ("all", "last"))
        assert every == config.seq_len * last


def test_the_parts_of_a_step_stand_apart_and_add_up() -> None:
    terms = (Term(name="a", forward=10), Term(name="attention", forward=8, causal=5))
    step = Ledger(terms=terms, batch_size=2, targets=4, optimizer=7, teacher=3, recompute=1)
    assert (step.forward, step.forward_causal, step.backward, step.train) == (36, 30, 72, 108)
    assert step.total == 108 + 7 + 3 + 1
    assert step.per_target()["by_term"] == {"a": 5, "attention": 4}
    assert step.per_target()["optimizer"] == 7 / 4


def test_the_optimizer_is_charged_per_parameter_and_step() -> None:
    config = small("mlp")
    step = ledger(config, readout="all", batch_size=5, optimizer_flops_per_parameter=14)
    assert step.optimizer == 14 * parameters(config).total


def test_counting_parameters_allocates_nothing() -> None:
    # A model of 68 billion parameters.
    assert parameters(make("model", "linear", d_model=8192, vocab_size=65_536, seq_len=128)).total > 6e10


def test_tables_and_vectors_are_told_apart() -> None:
    count = parameters(make("model", "transformer"))
    assert count.embedding == 65 * 128 + 128 * 128
    # A block: 3 C + C + F + C + 4 C; then the final norm and the head's bias.
    assert count.vectors == 3 * (9 * 128 + 256) + 2 * 128 + 65
    tied = parameters(make("model", "transformer", tied_head=True))
    assert tied.total == count.total - 65 * 128 - 65


def test_the_bill_is_json_and_holds_parameters_and_flops_by_term() -> None:
    bill = json.loads(json.dumps(cost(make("model", "transformer", vocab_size=65))))
    assert bill["parameters"] == 430_785
    assert bill["parameters_embedding"] + bill["parameters_non_embedding"] == 430_785
    assert bill["weights_bytes"] == {"float32": 1_723_140, "bfloat16": 861_570, "int8": 430_785}
    per_token = bill["flops_per_token"]["all"]
    assert per_token["by_term"] == {
        "projections": 393_216, "attention": 196_608, "feedforward": 393_216, "head": 16_640
    }  # fmt: skip
    assert sum(per_token["by_term"].values()) == per_token["forward"]
    # One target for 128 tokens of input, and one pass of the head.
    assert bill["flops_per_token"]["last"]["forward"] == 128 * (999_680 - 16_640) + 16_640


# ------------------------------------------------------------------ other counts


@pytest.mark.parametrize("readout", ["all", "last"])
@pytest.mark.parametrize("name", sorted(discover("model")))
def test_every_difference_between_counts_is_explained(name: str, readout: str) -> None:
    table = disagreement_table([small(name)], readout=readout)
    assert table["unexplained"].eq(0).all(), table[["count", "reason", "unexplained"]].to_string()
    assert set(table["count"]) == {
        "closed form", "closed form, causal half", "torch, meta device", "torch, CPU", "fvcore x 2",
        "6 N per token", "published, 2 N per token",
    }  # fmt: skip
    agreeing = table[table["count"].isin(["closed form", "torch, meta device"])]
    assert agreeing["reason"].eq("agrees").all()
    assert agreeing["ratio"].eq(1).all()


@pytest.mark.parametrize(
    "fields", [{}, {"positions": "alibi"}, {"n_kv_head": 1}, {"norm": "rmsnorm", "activation": "swiglu"}]
)
def test_fvcore_sees_no_scores_of_attention_and_counts_layernorm(fields: dict[str, object]) -> None:
    config = small("transformer", **fields)
    ours, theirs = ledger(config, readout="all"), fvcore_flops(config, readout="all")
    attention = next(term for term in ours.terms if term.name == "attention")
    assert 2 * (theirs.total - theirs.layer_norm) + attention.forward // 2 == ours.forward
    # 5 norms of T x C features at 5 each; RMSNorm is not counted.
    assert theirs.layer_norm == (0 if fields.get("norm") == "rmsnorm" else 5 * 8 * 16 * 5)
    assert theirs.unsupported["aten::baddbmm"] == 2


# ------------------------------------------------------------------ fused attention

LONG = {"seq_len": SHORT + 8}


def test_fvcore_sees_no_fused_attention() -> None:
    config = small("transformer", **LONG)
    ours, theirs = ledger(config, readout="all"), fvcore_flops(config, readout="all")
    attention = next(term for term in ours.terms if term.name == "attention")
    assert 2 * (theirs.total - theirs.layer_norm) + attention.forward == ours.forward
    assert theirs.unsupported["lmbench::causal_attention"] == 2


@pytest.mark.parametrize("fields", [{}, {"positions": "alibi"}, {"n_kv_head": 1}])
def test_every_difference_is_explained_where_attention_is_fused(fields: dict[str, object]) -> None:
    table = disagreement_table([small("transformer", **LONG, **fields)]).set_index("count")
    assert table["unexplained"].eq(0).all(), table[["reason", "unexplained"]].to_string()
    assert table.loc["torch, CPU", "reason"] == "agrees"
    left_out = "attention's scores" if fields.get("positions") == "alibi" else "attention's scores and values"
    assert f"{left_out} are left out" in table.loc["fvcore x 2", "reason"]


@pytest.mark.parametrize("seq_len", [8, SHORT + 8])
def test_torchs_counter_sees_both_passes_of_attention_fused_or_not(seq_len: int) -> None:
    config = small("transformer", seq_len=seq_len)
    ours = ledger(config, readout="all", batch_size=3)
    for device in ("meta", "cpu"):
        counted = counted_flops(config, readout="all", batch_size=3, device=device)
        assert counted == (ours.forward, ours.backward), device


def test_formulas_of_the_fused_operators_equal_the_count_of_formed_weights() -> None:
    q = torch.zeros(2, 3, SHORT + 1, 8, requires_grad=True)
    grad = torch.ones(2, SHORT + 1, 3, 8)
    seen = []
    for operator in (fused_attention, lambda *qkv: (qkv[0] @ qkv[1].mT).softmax(-1) @ qkv[2]):
        with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
            mixed = operator(q, q, q)
            forward = counter.get_total_flops()
            mixed.backward(grad if operator is fused_attention else grad.transpose(1, 2))
        seen.append((forward, counter.get_total_flops() - forward))
    assert seen[0] == seen[1] == (4 * 6 * (SHORT + 1) ** 2 * 8, 8 * 6 * (SHORT + 1) ** 2 * 8)


def test_training_does_not_load_the_counter() -> None:
    code = "import sys, lmbench.measure.flops; sys.exit('torch.utils.flop_counter' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ------------------------------------------------------------------ formulas of others


def test_six_n_differs_by_tables_vectors_and_attention() -> None:
    table = disagreement_table([make("model", "transformer")]).set_index("count")
    row = table.loc["6 N per token"]
    T, tables, vectors, attention = 128, 65 * 128 + 128 * 128, 3 * (9 * 128 + 256) + 256 + 65, 3 * 4 * 128**3
    assert row["difference"] == 6 * T * (tables + vectors) - 3 * attention
    assert row["reason"] == (
        f"look-up tables are counted as products (+{6 * T * tables:,}); "
        f"biases and norm gains are counted (+{6 * T * vectors:,}); "
        f"attention's scores and values are left out (-{3 * attention:,})"
    )


def test_the_published_formula_charges_a_window_model_for_each_token() -> None:
    table = disagreement_table([make("model", "linear")], readout="last").set_index("count")
    reason = table.loc["published, 2 N per token", "reason"]
    # 127 of the 128 times that 16,384 x 65 weights are charged.
    assert f"products done once per window are charged per token (+{6 * 127 * 16_384 * 65:,})" in reason
    assert "no backward pass" in reason


def test_a_tied_matrix_is_a_table_that_is_also_a_product() -> None:
    table = disagreement_table([small("transformer", tied_head=True)]).set_index("count")
    assert f"the tied matrix is counted once (-{6 * 8 * 11 * 16:,})" in table.loc["6 N per token", "reason"]


@pytest.mark.parametrize("readout", ["all", "last"])
@pytest.mark.parametrize("name", sorted(discover("model")))
def test_products_by_weight_add_up_to_torchs_count(name: str, readout: str) -> None:
    assert sum(products(small(name), readout=readout)) == counted_flops(small(name), readout=readout).forward


def test_products_are_told_apart_by_what_they_multiply() -> None:
    # 11 x 16 of the tied head at 8 positions; 2 blocks of 4 C^2 + 2 C F; 2 T^2 C of scores and values each.
    found = products(small("transformer", tied_head=True), readout="all")
    scores = 2 * 2 * 8 * 8 * 16
    assert found == (2 * 8 * 11 * 16, 2 * 8 * 2 * (4 * 16**2 + 2 * 16 * 24), scores, scores)
    assert products(small("linear"), readout="last") == (0, 2 * 8 * 16 * 11, 0, 0)


@pytest.mark.parametrize("name", sorted(discover("model")))
def test_a_closed_form_that_is_wrong_leaves_its_error_unexplained(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(name)
    # Attention's term, where there is one: its parts too must not come from the closed form.
    *others, last = sorted(config.terms("all"), key=lambda term: term.causal is not None)
    wrong = (*others, replace(last, forward=last.forward + 1000))
    monkeypatch.setattr(type(config), "terms", lambda self, readout: wrong)
    table = disagreement_table([config]).set_index("count")["unexplained"].to_dict()
    assert table == {
        "closed form": 0, "closed form, causal half": 0, "torch, meta device": -3000, "torch, CPU": -1000,
        "fvcore x 2": -1000, "6 N per token": -3000, "published, 2 N per token": -3000,
    }  # fmt: skip


def test_counting_leaves_random_numbers_alone() -> None:
    state = torch.random.get_rng_state()
    fvcore_flops(small("transformer"), readout="all")
    counted_flops(small("transformer"), readout="all")
    assert torch.equal(torch.random.get_rng_state(), state)


def test_fvcore_is_imported_only_when_asked_for() -> None:
    code = "import sys, lmbench.measure.disagreement; sys.exit('fvcore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_fvcore_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fvcore.nn", None)
    with pytest.raises(ValueError, match=r"fvcore is not installed; install it with: pip install fvcore"):
        fvcore_flops(small("linear"), readout="all")
