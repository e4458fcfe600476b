"""Artifacts: a model packed to bytes and loaded again from nothing but them."""

import re

import numpy as np
import pytest
import torch
from torch import Tensor

from lmbench.config import discover, make
from lmbench.measure.artifact import Coding, load, pack, predicted_bytes, split_table, tensor_table, unpack
from lmbench.measure.artifact.coding import CODE_BITS
from lmbench.models.base import ModelConfig, seeded

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
CODERS = ("none", "zlib", "lzma")  # the same bytes with and without the extra


def tiny(name: str = "transformer_modern", **fields: object) -> ModelConfig:
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


def weights_of(config: ModelConfig, *, init_seed: int = 0) -> dict[str, Tensor]:
    model = seeded(config, init_seed=init_seed)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def matrices(weights: dict[str, Tensor]) -> list[str]:
    return [name for name, weight in weights.items() if weight.dim() > 1]


def quantised(weight: Tensor, *, bits: float) -> Tensor:
    """Absolute maximum over a row; with one bit its mean with the signs."""
    if bits == 1:
        return weight.sign().masked_fill(weight == 0, 1.0) * weight.abs().mean(dim=-1, keepdim=True)
    most = 1 if bits == 1.58 else 2 ** (int(bits) - 1) - 1
    scale = weight.abs().amax(dim=-1, keepdim=True) / most
    return (weight / scale).round() * scale


def pruned(weight: Tensor, *, density: float) -> Tensor:
    kept = weight.abs().flatten().topk(max(1, round(density * weight.numel()))).values[-1]
    return weight * (weight.abs() >= kept)


def prepared(
    config: ModelConfig, *, bits: float, density: float = 1.0
) -> tuple[dict[str, Tensor], dict[str, Coding]]:
    """Weights with all matrices quantised by row and pruned, and their codings."""
    weights = weights_of(config)
    names = matrices(weights)
    for name in names:
        small = quantised(weights[name], bits=bits)
        weights[name] = torch.where(pruned(weights[name], density=density) != 0, small, 0.0)
    return weights, {name: Coding(bits) for name in names}


@pytest.mark.parametrize("bits", CODE_BITS)
@pytest.mark.parametrize("density", [1.0, 0.1])
def test_loaded_weights_are_bit_by_bit_those_packed(bits: float, density: float) -> None:
    weights, codings = prepared(tiny(), bits=bits, density=density)
    packed = pack(tiny(), weights=weights, codings=codings, coders=CODERS)
    loaded = unpack(packed.data).weights
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)
    assert max(tensor.error for tensor in packed.tensors) == 0


@pytest.mark.parametrize("name", sorted(discover("model").keys() - {"huggingface"}))
def test_every_model_computes_the_same_after_the_round_trip(name: str) -> None:
    config = tiny(name)
    model = seeded(config, init_seed=3).eval()
    packed = pack(config, weights=dict(model.named_parameters()), coders=("zlib",))
    fresh = load(packed.data)
    assert unpack(packed.data).model == config
    assert not fresh.training and fresh is not model
    tokens_BT = torch.randint(
        config.vocab_size, (2, config.seq_len), generator=torch.Generator().manual_seed(1)
    )
    assert torch.equal(fresh(tokens_BT).logits_BTV, model(tokens_BT).logits_BTV)


@pytest.mark.parametrize("granularity", ["row", "tensor", 5, 8, 100])
def test_scales_are_found_for_rows_tensors_and_groups_also_ragged_ones(granularity: str | int) -> None:
    config, generator = tiny(), torch.Generator().manual_seed(0)
    weights = weights_of(config)
    name = "blocks.0.feedforward.down.weight"
    rows, width = weights[name].shape
    codes = torch.randint(-7, 8, (rows, width), generator=generator).float()
    codes[:, ::5] = 7.0  # every group of five or more holds its maximum
    if granularity == "tensor":
        scales = torch.full((rows, width), 0.37)
    else:
        size = width if granularity == "row" else min(granularity, width)
        scales = torch.rand(rows, -(-width // size), generator=generator) + 0.1
        scales = scales.repeat_interleave(size, dim=1)[:, :width]
    weights[name] = codes * scales
    packed = pack(config, weights=weights, codings={name: Coding(4, granularity)}, coders=CODERS)
    assert torch.equal(unpack(packed.data).weights[name], weights[name])
    n_scales = {"row": rows, "tensor": 1, 5: 5 * rows, 8: 3 * rows, 100: rows}[granularity]
    assert packed.uncoded["scales"] == 4 * n_scales
    assert packed.uncoded["codes"] == rows * width // 2


def test_an_unquantised_model_is_refused_by_name_and_never_rounded() -> None:
    weights = weights_of(tiny())
    name = "blocks.0.feedforward.down.weight"
    with pytest.raises(ValueError, match=f"{re.escape(name)} is not quantised to 4 bits per row: 16 of 16"):
        pack(tiny(), weights=weights, codings={name: Coding(4)})


def test_one_value_off_the_grid_is_refused() -> None:
    weights, codings = prepared(tiny(), bits=8)
    name = "blocks.0.feedforward.down.weight"
    weights[name][3, 2] += 0.3 * weights[name][3].abs().max() / 127
    with pytest.raises(ValueError, match="1 of 16 groups, first group 3, hold values that are not a scale"):
        pack(tiny(), weights=weights, codings=codings)


def test_values_of_another_grid_are_refused_by_one_bit() -> None:
    weights, codings = prepared(tiny(), bits=3)
    with pytest.raises(ValueError, match="scale times whole numbers from -1 to 1"):
        pack(tiny(), weights=weights, codings=dict.fromkeys(codings, Coding(1)))


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"codings": {"blocks.0.feedforward.dwn.weight": Coding(8)}},
            "Did you mean 'blocks.0.feedforward.down",
        ),
        ({"other": "float61"}, "unknown type of the other tensors 'float61'; accepted: float16, float32"),
        ({"coders": ("lzna",)}, "unknown coder 'lzna'.*Did you mean 'lzma'"),
        ({"weights": {}}, "the weights are not those of transformer_modern: blocks.0"),
    ],
)
def test_what_cannot_be_packed_is_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pack(tiny(), **({"weights": weights_of(tiny())} | change))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"bits": 7}, "coding.bits = 7 is not accepted; accepted: 1, 1.58, 2, 3, 4, 5, 6, 8, 16, 32"),
        ({"bits": 4, "granularity": "rows"}, "'rows' is not accepted.*Did you mean 'row'"),
        ({"bits": 4, "granularity": 0}, "coding.granularity = 0 is not accepted"),
        ({"bits": 4, "scales": "bfloat16"}, "coding.scales = 'bfloat16' is not accepted"),
    ],
)
def test_codings_that_do_not_exist_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Coding(**fields)


def test_not_a_number_is_refused() -> None:
    weights = weights_of(tiny())
    weights["embedding.token.weight"][0, 0] = float("nan")
    with pytest.raises(ValueError, match="embedding.token.weight holds values that are not finite"):
        pack(tiny(), weights=weights)


def test_a_value_beyond_float16_is_refused_and_others_are_rounded_as_told() -> None:
    weights = weights_of(tiny())
    packed = pack(tiny(), weights=weights, other="float16")
    loaded = unpack(packed.data).weights
    assert all(torch.equal(loaded[name], weights[name].half().float()) for name in weights)
    assert 0 < max(tensor.error for tensor in packed.tensors) <= 2**-11
    weights["embedding.token.weight"][0, 0] = 70_000.0
    with pytest.raises(ValueError, match="holds 70000, beyond the range of float16; keep float32"):
        pack(tiny(), weights=weights, other="float16")


def test_float16_scales_are_what_is_loaded_and_too_small_ones_are_refused() -> None:
    weights, codings = prepared(tiny(), bits=8)
    half = {name: Coding(8, scales="float16") for name in codings}
    packed = pack(tiny(), weights=weights, codings=half, coders=CODERS)
    exact = pack(tiny(), weights=weights, codings=codings, coders=CODERS)
    assert packed.uncoded["scales"] * 2 == exact.uncoded["scales"]
    assert 0 < max(tensor.error for tensor in packed.tensors) < 2**-10
    tiniest = {name: 1e-8 * weight for name, weight in weights.items()}
    with pytest.raises(ValueError, match="has scales beyond the range of float16; take scales = 'float32'"):
        pack(tiny(), weights=tiniest, codings=half)


# ------------------------------------------------------------------ the account of the bytes


def test_the_split_adds_up_to_the_file_and_sections_to_its_parts() -> None:
    weights, codings = prepared(tiny(), bits=4, density=0.3)
    packed = pack(tiny(), weights=weights, codings=codings, tokenizer=b"abc" * 20, coders=CODERS)
    assert sum(packed.split.values()) == len(packed.data) == packed.size
    assert sum(stored for *_, stored in packed.sections) == packed.size - packed.split["header"]
    assert packed.uncoded["tokenizer"] == 60 and packed.split["tokenizer"] < 20
    assert packed.n_parameters == sum(weight.numel() for weight in weights.values())
    assert packed.bits_per_parameter == 8 * packed.size / packed.n_parameters


def test_a_dense_file_is_predicted_to_the_byte_but_for_the_header() -> None:
    weights, codings = prepared(tiny(), bits=6)
    packed = pack(tiny(), weights=weights, codings=codings, coders=("none",))
    predicted = predicted_bytes(tiny(), codings=codings, forms={t.name: t.form for t in packed.tensors})
    assert all(tensor.form == "dense" for tensor in packed.tensors)
    parts = packed.uncoded.keys() - {"header"}
    assert {part: predicted.uncoded[part] for part in parts} == {part: packed.uncoded[part] for part in parts}
    assert predicted.uncoded["header"] == pytest.approx(packed.uncoded["header"], rel=0.02)
    # codes: 6 bits of 5,072 weights of matrices, without gaps
    n = sum(weights[name].numel() for name in codings)
    assert packed.uncoded["codes"] == -(-6 * n // 8)


def test_a_sparse_file_is_predicted_to_the_byte_where_densities_are_exact() -> None:
    weights, codings = prepared(tiny(d_model=32, d_ff=64), bits=8, density=0.1)
    packed = pack(tiny(d_model=32, d_ff=64), weights=weights, codings=codings, coders=CODERS)
    named = {tensor.name: tensor for tensor in packed.tensors}
    predicted = predicted_bytes(
        tiny(d_model=32, d_ff=64),
        codings=codings,
        densities={name: named[name].density for name in codings},
        forms={name: named[name].form for name in codings},
    )
    for part in ("codes", "scales", "masks", "other"):
        assert predicted.uncoded[part] == packed.uncoded[part]
    # After coding: places at H(0.1) = 0.47 bits, which a general compressor comes within a tenth of.
    assert packed.split["masks"] == pytest.approx(predicted.coded["masks"], rel=0.12)


def test_the_smallest_form_is_taken_and_the_others_are_reported() -> None:
    config = tiny(d_model=32, d_ff=64)
    weights, codings = prepared(config, bits=8, density=0.1)
    tensor = {t.name: t for t in pack(config, weights=weights, codings=codings, coders=CODERS).tensors}[
        "blocks.0.feedforward.down.weight"
    ]
    assert set(tensor.candidates) == {"dense", "mask", "csr16"}
    assert tensor.candidates[tensor.form] == min(tensor.candidates.values())
    assert tensor.form == "mask" and tensor.density == pytest.approx(0.1, abs=0.001)


def test_very_few_weights_are_kept_by_their_columns() -> None:
    config = tiny("mlp", seq_len=64)
    weights = weights_of(config)
    name = max(weights, key=lambda name: weights[name].numel())
    only = torch.zeros_like(weights[name])
    only[1, 900], only[1, 3] = 2.5, -2.5
    weights[name] = only  # signs of 2.5
    packed = pack(config, weights=weights, codings={name: Coding(1)}, coders=("none",))
    assert {t.name: t.form for t in packed.tensors}[name] == "csr16"
    assert packed.uncoded["masks"] == 2 * (only.shape[0] + 2)
    assert torch.equal(unpack(packed.data).weights[name], only)


def test_pruned_floats_keep_only_what_is_not_zero() -> None:
    config = tiny(d_model=32, d_ff=64)
    weights = weights_of(config)
    for name in matrices(weights):
        weights[name] = pruned(weights[name], density=0.1)
    packed = pack(config, weights=weights, coders=CODERS)
    n = sum(int(weight.count_nonzero()) for weight in weights.values())
    assert packed.uncoded["other"] == 4 * n
    loaded = unpack(packed.data).weights
    assert all(torch.equal(loaded[name], weights[name]) for name in weights)


def test_tables_hold_what_was_predicted_beside_what_is() -> None:
    weights, codings = prepared(tiny(), bits=4, density=0.5)
    packed = pack(tiny(), weights=weights, codings=codings)
    table = split_table(packed, predicted=predicted_bytes(tiny(), codings=codings)).set_index("part")
    assert table.loc["file", "bytes"] == packed.size
    assert table.loc["codes", "predicted before coding"] >= table.loc["codes", "bytes before coding"]
    tensors = tensor_table(packed).set_index("tensor")
    assert tensors.loc["embedding.token.weight", "bits"] == 4
    assert np.isnan(tensors.loc["head.norm.weight", "mask, bytes"])


def test_equal_weights_give_equal_bytes() -> None:
    weights, codings = prepared(tiny(), bits=4, density=0.5)
    first = pack(tiny(), weights=weights, codings=codings).data
    assert first == pack(tiny(), weights=dict(reversed(weights.items())), codings=codings).data
