"""Inference in low precision and on sparse weights: each form computes nearly the same, or says why not."""

import pytest
import torch
from torch import Tensor, nn

from lmbench.config import make
from lmbench.measure.lowbit import Converted, arithmetic, convert, wall_clock
from lmbench.measure.lowbit_kernels import FORMS
from lmbench.measure.lowbit_linears import is_two_of_four
from lmbench.models.base import LanguageModel, seeded

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
TOKENS_BT = torch.randint(11, (2, 8), generator=torch.Generator().manual_seed(0))
# Largest difference of logits of order 1: rounding to 8 bits of weights, activations, or 8 of mantissa.
NEAR = {"float32": 0.0, "csr": 1e-5, "bfloat16": 0.05, "int8 dynamic": 0.1, "int8 weight-only": 0.05}


def pruned_model(*, density: float = 0.25, **sizes: int) -> LanguageModel:
    model = seeded(make("model", "transformer_modern", **SIZES | sizes), init_seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in model.modules():
            if type(part) is nn.Linear:
                part.weight.mul_(torch.rand(part.weight.shape, generator=generator) < density)
    return model


def logits(model: LanguageModel) -> Tensor:
    with torch.no_grad():
        return model(TOKENS_BT).logits_BTV


@pytest.mark.parametrize("form", sorted(NEAR))
def test_a_converted_model_computes_nearly_the_same_and_leaves_the_model_alone(form: str) -> None:
    model = pruned_model()
    before = logits(model)
    found = convert(model, form=form, tokens_BT=TOKENS_BT)
    if found.reason:
        pytest.skip(found.reason)
    # in_proj, out_proj, up and down of two blocks, and the head
    assert found.linears == 9
    difference = (logits(found.model) - before).abs().max()
    assert difference <= NEAR[form]
    assert (difference > 0) == (form not in ("float32", "csr")) or form == "csr"
    assert torch.equal(logits(model), before)


def test_weights_take_a_quarter_in_eight_bits_and_less_than_a_half_in_sparse_rows() -> None:
    # Multiples of 64, to which the kernel of 8-bit weights fills both sides up.
    model = pruned_model(density=0.1, d_model=64, d_ff=64, vocab_size=64)
    n = sum(part.weight.numel() for part in model.modules() if type(part) is nn.Linear)
    rows = sum(part.out_features for part in model.modules() if type(part) is nn.Linear)
    sizes = {}
    for form in ("float32", "bfloat16", "int8 weight-only", "csr"):
        sizes[form] = convert(model, form=form, tokens_BT=TOKENS_BT).stored_bytes
    assert sizes["float32"] == 4 * n
    assert sizes["bfloat16"] == 2 * n
    assert sizes["int8 weight-only"] == n + 4 * rows  # and a float32 scale for each row
    nonzero = sum(int(part.weight.count_nonzero()) for part in model.modules() if type(part) is nn.Linear)
    # value and 64-bit column for each nonzero weight; where each row starts, and the last one ends
    assert sizes["csr"] == 12 * nonzero + 8 * (rows + 9) < 2 * n


def test_a_form_that_does_not_exist_gives_a_reason_and_no_error() -> None:
    model = pruned_model()
    found = convert(model, form="2:4", tokens_BT=TOKENS_BT)
    assert found.model is None and found.reason == "2:4 kernels exist on CUDA devices, not on cpu"
    dense = seeded(make("model", "transformer_modern", **SIZES), init_seed=0)
    assert convert(dense, form="csr", tokens_BT=TOKENS_BT).reason == "no weight is zero: prune first"


def test_torchao_is_an_extra_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for form in ("torchao int8 dynamic", "torchao int8 weight-only"):
        reason = convert(pruned_model(), form=form, tokens_BT=TOKENS_BT).reason
        assert reason == "the package torchao is not installed: pip install torchao"
    assert (
        "has no torch.ao.quantization"
        in convert(pruned_model(), form="int8 dynamic", tokens_BT=TOKENS_BT).reason
    )


def test_a_model_that_reads_its_weights_directly_is_said_to() -> None:
    model = seeded(make("model", "linear", vocab_size=11, seq_len=8), init_seed=0)
    found = convert(model, form="bfloat16", tokens_BT=TOKENS_BT)
    assert found.reason == "no linear map is called by itself: this model reads its weights directly"
    mixed = seeded(make("model", "integrator", vocab_size=11, seq_len=8, d_model=16), init_seed=0)
    reason = convert(mixed, form="bfloat16", tokens_BT=TOKENS_BT).reason
    assert reason.startswith("the kernel refuses this model: 'HalfLinear' object has no attribute 'weight'")


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown form of inference 'int9'.*accepted: .*csr"):
        convert(pruned_model(), form="int9", tokens_BT=TOKENS_BT)


def test_multiply_adds_are_those_of_the_linear_maps_dense_and_not_zero() -> None:
    model = pruned_model(density=0.25)
    counted = arithmetic(model, TOKENS_BT)
    # per block q, k, v and out (4 x 16 x 16), up of two halves and down (3 x 16 x 24); the head 16 x 11
    assert counted.dense == 2 * (4 * 16 * 16 + 3 * 16 * 24) + 16 * 11
    nonzero = sum(int(p.weight.count_nonzero()) for p in model.modules() if type(p) is nn.Linear)
    assert counted.nonzero == nonzero


def test_a_looped_block_counts_as_often_as_it_is_passed() -> None:
    once = seeded(make("model", "depth_recurrent", **SIZES | {"n_loop": 1}), init_seed=0)
    thrice = seeded(make("model", "depth_recurrent", **SIZES | {"n_loop": 3}), init_seed=0)
    head = 16 * 11
    dense = [arithmetic(model, TOKENS_BT).dense for model in (once, thrice)]
    assert dense[1] - head == 3 * (dense[0] - head)


def test_two_of_four_is_recognised() -> None:
    assert is_two_of_four(torch.tensor([[1.0, 0, 2, 0, 0, 0, 0, 3]]))
    assert not is_two_of_four(torch.tensor([[1.0, 1, 2, 0]]))
    assert not is_two_of_four(torch.zeros(1, 6))


def test_the_table_has_a_row_for_every_form_also_for_those_without_a_model() -> None:
    model = pruned_model()
    variants = {form: convert(model, form=form, tokens_BT=TOKENS_BT) for form in FORMS}
    counted = {"float32": arithmetic(model, TOKENS_BT), "csr": arithmetic(model, TOKENS_BT)}
    table = wall_clock(
        variants, baseline="float32", batch_sizes=(1, 2), length=8, counted=counted, repeats=3, warm_up=1
    ).set_index(["form", "batch size"])
    assert len(table) == 2 * len(FORMS)
    assert (table.loc["float32", "times faster"] == 1).all()
    assert table.loc[("2:4", 1), "reason"] and table.loc[("2:4", 1)].isna()["seconds"]
    row = table.loc[("csr", 2)]
    assert row["n"] == 3 and row["low"] <= row["seconds"] <= row["high"]
    arithmetic_claim = counted["csr"].dense / counted["csr"].nonzero
    assert row["times fewer multiply-adds"] == arithmetic_claim


def test_a_baseline_without_a_model_is_refused() -> None:
    variants = {"a": Converted(None, "no kernel"), "b": Converted(pruned_model(), "")}
    for name in ("a", "c"):
        with pytest.raises(ValueError, match=f"unknown baseline '{name}'; accepted: b"):
            wall_clock(variants, baseline=name, batch_sizes=(1,), length=8)


def test_what_torchao_cannot_load_is_not_said_with_paths_of_the_machine(caplog):
    import logging

    from lmbench.measure.lowbit_kernels import without_notices

    before = logging.getLogger("torchao").level
    with without_notices():
        logging.getLogger("torchao").warning("Failed to load a library")
    assert caplog.text == "" and logging.getLogger("torchao").level == before
