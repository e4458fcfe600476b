"""The ledger by hand, the bill of a model, and why other counts differ."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import discover, kinds, make
from lmbench.layers.cost import matmul
from lmbench.layers.fused import SHORT, flop_formulas, fused_attention
from lmbench.measure.cost import cost, cost_table, families, ledger_table
from lmbench.measure.disagreement import disagreement_table
from lmbench.measure.flops import Ledger, Term, counted_flops, ledger, parameters, train_flops
from lmbench.measure.fvcore_count import _einsum, fvcore_flops
from lmbench.measure.generated import ElementwiseCount, generated_flops
from lmbench.measure.products import products
from lmbench.models.base import ModelConfig

NAMES, KINDS = sorted(discover("model")), sorted(kinds("model"))
# Variants are other settings of the same code: what does not depend on settings is asked of the kinds.
NAMES_AND_READOUTS = [(name, "all") for name in NAMES] + [(name, "last") for name in KINDS]
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


def test_parameters_that_a_token_does_not_use_stand_apart() -> None:
    dense = cost(small("transformer"))
    assert dense["parameters_active"] == dense["parameters"]
    config = small("moe")
    count = parameters(config)
    assert 0 < count.inactive == config.inactive_parameters() < count.total
    assert cost(config)["parameters_active"] == count.active == count.total - count.inactive


def test_a_number_that_is_no_matrix_counts_as_a_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    config = small("linear")
    whole = parameters(config)
    build = type(config).build

    def with_a_scalar(self: ModelConfig) -> torch.nn.Module:
        model = build(self)
        model.scale = torch.nn.Parameter(torch.ones(()))
        return model

    monkeypatch.setattr(type(config), "build", with_a_scalar)
    found = parameters(config.replace(seq_len=7))
    assert found.vectors == whole.vectors + 1


def test_the_bill_names_the_terms_that_are_no_products() -> None:
    assert cost(small("transformer"))["elementwise_terms"] == []
    bill = cost(small("ssm"))
    assert bill["elementwise_terms"]
    assert set(bill["elementwise_terms"]) < set(bill["flops_per_token"]["all"]["by_term"])


# ------------------------------------------------------------------ a generated token


def test_a_token_with_a_cache_costs_its_own_row_of_each_product() -> None:
    # Two blocks of 4 C^2 + 2 C F weights and the head, and 4 C for each of 5 keys; C 16, F 24, V 11.
    config = small("transformer")
    once = 2 * (2 * (4 * 16**2 + 2 * 16 * 24) + 16 * 11)
    found = generated_flops(config, length=5)
    assert found.cached == once + 2 * 4 * 16 * 5
    # Read again: all five positions with all pairs, and one row of the head.
    assert found.uncached == 5 * (once - 2 * 16 * 11) + 2 * 4 * 16 * 5 * 5 + 2 * 16 * 11
    # 4 norms and the last in kernels of their own; 4 residual sums and a position of 16.
    assert found.cached_elementwise == 5 * 16


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_tokens_products_are_what_one_more_position_adds_to_the_closed_form(name: str) -> None:
    """The forward pass of 8 tokens minus that of 7, of attention the allowed pairs.

    Linear attention has products in training only, where it is computed in chunks, and exits that no
    token takes are not read.
    """
    config = small(name)
    if config.is_window:
        assert generated_flops(config, length=8).cached == ledger(config, readout="last").forward
        return
    longer, shorter = (
        sum(
            term.forward if term.causal is None else term.causal
            for term in config.replace(seq_len=length).terms("all")
            if not term.elementwise and term.name not in ("linear_attention", "exit heads")
        )
        for length in (8, 7)
    )
    assert generated_flops(config, length=8).cached == longer - shorter


@pytest.mark.parametrize("name", KINDS)
def test_without_a_cache_a_token_never_costs_less(name: str) -> None:
    found = generated_flops(small(name), length=8)
    assert 0 < found.cached <= found.uncached
    assert (found.cached == found.uncached) == small(name).is_window


def test_a_length_beyond_the_context_is_refused() -> None:
    with pytest.raises(ValueError, match="length = 9 is not accepted: mlp reads 1 to 8 tokens"):
        generated_flops(small("mlp"), length=9)


def test_element_wise_work_is_counted_and_products_and_functions_are_not() -> None:
    x, y = torch.ones(3, 4), torch.ones(4, 5)
    with ElementwiseCount() as count:
        (x * x + x).sum()  # 12 + 12 + 12
        x @ y
        x.exp()
        torch.arange(4) + 1  # of ids
        torch.addcmul(x, x, x)  # 24
    assert count.n == 36 + 24


# ------------------------------------------------------------------ families


def test_families_are_all_kinds_at_one_size() -> None:
    matches = families([], target=15_000, vocab_size=11, seq_len=8)
    found = {match.config.kind for match in matches}
    assert {"linear", "mlp", "transformer", "ssm", "lstm", "gru", "moe", "linear_attention"} <= found
    assert len(found) == len(matches)
    for match in matches:
        assert match.miss == parameters(match.config).total / 15_000 - 1
        assert (match.config.vocab_size, match.config.seq_len) == (11, 8)
    assert [m.config.name for m in families(["lstm"], target=15_000, vocab_size=11, seq_len=8)] == ["lstm"]
    with pytest.raises(ValueError, match=r"unknown model 'lstn'; .* Did you mean 'lstm'"):
        families(["lstn"], target=15_000, vocab_size=11, seq_len=8)


def test_the_tables_of_cost_add_up_to_the_ledger() -> None:
    configs = [small("transformer"), small("ssm")]
    costs, terms = cost_table(configs).set_index("model"), ledger_table(configs)
    for config in configs:
        own = terms[terms["model"] == config.name]
        assert own["forward FLOPs per token"].sum() * 8 == ledger(config, readout="all").forward
        assert own["share"].sum() == pytest.approx(1)
        assert costs.loc[config.name, "training FLOPs per token"] * 8 == ledger(config, readout="all").train
    assert not terms.loc[terms["model"] == "transformer", "element-wise"].any()
    elementwise = terms[terms["element-wise"]]["forward FLOPs per token"].sum()
    assert costs.loc["ssm", "of them element-wise"] == pytest.approx(3 * elementwise)


# ------------------------------------------------------------------ other counts


@pytest.mark.parametrize("name, readout", NAMES_AND_READOUTS)
def test_every_difference_between_counts_is_explained(name: str, readout: str) -> None:
    table = disagreement_table([small(name)], readout=readout)
    assert table["unexplained"].eq(0).all(), table[["count", "reason", "unexplained"]].to_string()
    assert set(table["count"]) == {
        "closed form", "closed form, causal half", "torch, meta device", "torch, CPU", "fvcore x 2",
        "6 N per token", "published, 2 N per token",
    }  # fmt: skip
    reasons = table.set_index("count")["reason"]
    assert reasons["closed form"] == "agrees"
    # All that torch's counter may miss is what no matrix product does.
    elementwise = 3 * sum(term.forward for term in small(name).terms(readout) if term.elementwise)
    missed = f"element-wise work is invisible (-{elementwise:,})" if elementwise else "agrees"
    assert reasons["torch, meta device"] == missed


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


def test_fvcores_count_is_split_by_operation_beside_what_is_right() -> None:
    config = small("lstm")
    found = fvcore_flops(config, readout="all")
    assert sum(theirs for theirs, _ in found.by_operator.values()) == found.total
    assert (
        sum(right for _, right in found.by_operator.values()) == counted_flops(config, readout="all").forward
    )
    assert found.by_operator["aten::addmm"] == (2 * 8 * 16 * 64, 2 * 2 * 8 * 16 * 64)  # U h, 2 layers


@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_fvcore_agrees_where_there_is_nothing_but_convolutions_and_maps(name: str) -> None:
    table = disagreement_table([small(name)]).set_index("count")
    assert table.loc["fvcore x 2", "reason"] == "agrees"


def test_operators_of_our_own_are_found_inside_functions_of_autograd() -> None:
    config = small("moe")
    theirs, right = fvcore_flops(config, readout="all").by_operator["lmbench::grouped_product"]
    experts = next(term.forward for term in config.terms("all") if term.name == "feedforward")
    assert (theirs, right) == (0, experts)
    reason = disagreement_table([config]).set_index("count").loc["fvcore x 2", "reason"]
    assert f"no formula for lmbench::grouped_product (-{experts:,})" in reason


def test_an_einsum_counts_where_both_factors_have_a_summed_letter() -> None:
    a, b = torch.Size((2, 3, 4)), torch.Size((2, 4, 5))
    assert _einsum(["bij, bjk -> bik", [a, b]], torch.Size((2, 3, 5))) == 2 * 2 * 3 * 4 * 5
    assert _einsum(["bij,bjk->bijk", [a, b]], torch.Size((2, 3, 4, 5))) == 0


def test_element_wise_work_is_named_wherever_it_is_not_seen() -> None:
    config = small("ssm")
    forward = sum(term.forward for term in config.terms("all") if term.elementwise)
    reasons = disagreement_table([config]).set_index("count")["reason"]
    for count, passes in (
        ("torch, CPU", 1), ("fvcore x 2", 1), ("torch, meta device", 3), ("6 N per token", 3),
        ("published, 2 N per token", 3),
    ):  # fmt: skip
        assert f"element-wise work is invisible (-{passes * forward:,})" in reasons[count], count


def test_a_weight_is_known_by_its_copies_and_one_that_is_in_no_product_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small("linear", vocab_size=7)
    build = type(config).build

    def with_matrices(self: ModelConfig) -> torch.nn.Module:
        model = build(self)
        model.taps = torch.nn.Parameter(torch.ones(3, 5))  # used nowhere
        linear = model.head.linear
        linear.forward = lambda x: torch.nn.functional.linear(x, linear.weight.double().float(), linear.bias)
        return model

    monkeypatch.setattr(type(config), "build", with_matrices)
    parameters.cache_clear()
    table = disagreement_table([config], readout="last").set_index("count")
    parameters.cache_clear()
    assert table["unexplained"].eq(0).all()
    reason = table.loc["6 N per token", "reason"]
    assert f"weights applied element by element are counted as products (+{6 * 8 * 15:,})" in reason
    assert "activations" not in reason
    assert "attention" not in reason


def test_experts_that_a_token_does_not_use_are_told_apart() -> None:
    reason = disagreement_table([small("moe")]).set_index("count").loc["6 N per token", "reason"]
    weights = sum(p.numel() for p in small("moe").build().parameters() if p.dim() == 3)
    experts = next(term.forward for term in small("moe").terms("all") if term.name == "feedforward")
    assert f"experts that a token does not use are counted (+{6 * 8 * weights - 3 * experts:,})" in reason


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
        f"biases, norm gains and other vectors are counted (+{6 * T * vectors:,}); "
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


@pytest.mark.parametrize("name, readout", NAMES_AND_READOUTS)
def test_products_by_weight_add_up_to_torchs_count(name: str, readout: str) -> None:
    assert sum(products(small(name), readout=readout)) == counted_flops(small(name), readout=readout).forward


def test_products_are_told_apart_by_what_they_multiply() -> None:
    # 11 x 16 of the tied head at 8 positions; 2 blocks of 4 C^2 + 2 C F; 2 T^2 C of scores and values each.
    found = products(small("transformer", tied_head=True), readout="all")
    scores = 2 * 2 * 8 * 8 * 16
    assert found == (2 * 8 * 11 * 16, 2 * 8 * 2 * (4 * 16**2 + 2 * 16 * 24), scores, scores)
    assert products(small("linear"), readout="last") == (0, 2 * 8 * 16 * 11, 0, 0)


@pytest.mark.parametrize("name", KINDS)
def test_a_closed_form_that_is_wrong_leaves_its_error_unexplained(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small(name)
    # Attention's term, where there is one: its parts too must not come from the closed form.
    # Not an element-wise term, whose part is the closed form.
    *others, last = sorted(
        config.terms("all"), key=lambda term: (not term.elementwise, term.causal is not None)
    )
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
