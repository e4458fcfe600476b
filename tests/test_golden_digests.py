"""Digests that may never move: a changed one orphans every stored result.

Bump a kind's version when its numbers change, give new fields neutral defaults otherwise;
then only add lines here.
"""

import json
from pathlib import Path

import pytest

from lmbench.config import as_plain, discover, kinds, make

MODELS = {
    "delta_net": "634de87dfeefef98",
    "depth_recurrent": "2c248e819e8e4f11",
    "early_exit": "32724e4510a54623",
    "gated_linear_attention": "fb6589a9fe3470fa",
    "gru": "7e6c51f8d8abfded",
    "huggingface": "5071f498123a1c69",
    "hybrid": "8fe63164fdca8276",
    "hybrid_alternating": "3a44f1fffd9e7f88",
    "hybrid_delta": "ad4c9c8a4eeefda4",
    "hybrid_recurrence": "388fbd9c63af524d",
    "integrator": "cc25dd70a76bc576",
    "integrator_level1": "28f0d3adf93e749e",
    "integrator_level1_published": "18af49690276b93e",
    "integrator_mixture": "f839096e3ded621b",
    "integrator_modern": "971504871eba323f",
    "integrator_ultra": "f189ae91c6bfe610",
    "integrator_ultra_described": "013c213231f4e3d1",
    "linear": "ca16ef8c6b9e35c8",
    "linear_attention": "ea44465df52e2ad8",
    "linear_recurrence": "b30fff35adce18b3",
    "lstm": "56f68038778ad97f",
    "mlp": "38cdadfde270b8df",
    "moe": "5f8c5c70cd86ad43",
    "plain_linear_attention": "c3e1b69dd2107695",
    "self_attention": "993750d301c6776e",
    "ssm": "6be5b579255f02c9",
    "transformer": "d83056ba41e749b2",
    "transformer_conv": "282e6ab7e989b9bd",
    "transformer_fast": "34a204d2b132aed5",
    "transformer_modern": "341b1cafef625aea",
    "transformer_nanogpt": "eb15ad13bcda5fb4",
    "transformer_prenorm": "8164656e193b0cea",
    "transformer_rope": "8fc6b9bebebae962",
}
OTHERS = {
    "task text": "885775c8c6f6b811",
    "tokenizer bpe": "38d119f4828090b2",
    "tokenizer byte": "be28c23705163c22",
    "tokenizer char": "d8427f79fafdbf6a",
    "tokenizer word": "5d0ec7c1691cc215",
    "protocol dense": "236801b58e8b9efd",
    "protocol last_token": "68c3093dae6a6ff1",
    "optimizer adam": "93938999d2195766",
    "optimizer adamw": "868bdcd8270a2b84",
    "optimizer muon": "53aadc7271ff15c1",
    "optimizer sgd": "ede709531da3694c",
    "schedule constant": "6ae0df8dae1a2569",
    "schedule cosine": "1d7983f074b2e9b2",
    "schedule linear": "ca16ef8c6b9e35c8",
    "schedule wsd": "a162b4fb93142c2a",
    "method confidence_penalty": "9c40490ead6001df",
    "method constrain": "bf203bafac5cbca4",
    "method constrain_example_funnel": "84f65fd8fde9ea78",
    "method constrain_example_scaffold": "271d49dcc427c679",
    "method constrain_pattern": "bbce7fa1f8cace45",
    "method constrain_preprint": "6ce86ffb1bd72b2e",
    "method constrain_sliced": "7a6e21d058b3db69",
    "method distill": "16c670fd52620523",
    "method distill_v1_corrected": "ce242daf6cedef8b",
    "method distill_v1_literal": "b93cdfd06d6fa5fb",
    "method distill_v2_corrected": "16c670fd52620523",
    "method distill_v2_literal": "23860726911da3d2",
    "method prune": "4ee1504131102829",
    "method prune_v1": "86ab50bb5aefff28",
    "method prune_v2": "8560f41e96b4a6c3",
    "method quantize": "4dcb0c806ce423ea",
    "method quantize_v1": "28841300e30b0fb3",
    "method quantize_v2": "5f145359b51bb3f2",
    "method select": "cfd8ced15e4c9b03",
    "method select_filtered": "f088b5f616df23b4",
    "method select_ordered": "29fcf997d72d202f",
    "method select_random": "cfd8ced15e4c9b03",
    "method select_stratified": "507fb2332dba433d",
    "curve constraint": "ed9f4a512f477b85",
    "curve constraint_example_funnel": "a53b38a906fbf3e5",
    "curve constraint_example_scaffold": "830235686db9c733",
    "curve constraint_pattern": "3195abbb5cbc8670",
    "curve constraint_preprint_embedding": "a4340a45ee54bfe5",
    "curve constraint_preprint_feedforward": "901b2dbe0ed299d2",
    "curve constraint_preprint_heads": "53e0f357ce377ef8",
    "curve constraint_without_oscillation": "7a4f5595e5f2c49c",
    "curve constraint_without_relaxation": "4809eaac241aa21a",
    "curve constraint_without_warmup": "472f033065d418ad",
    "curve cosine": "1d7983f074b2e9b2",
    "curve cubic": "5aff3fc101f265cb",
    "curve gradual_pruning": "29c9bd5f467cff71",
    "curve linear": "ca16ef8c6b9e35c8",
    "curve sine": "82cc1a6d9bc73794",
    "curve wsd": "a162b4fb93142c2a",
}
# A digest leaves out what is at its default, so the defaults may not move either.
_BLOCK = {"seq_len": 128, "d_model": 128, "n_head": 4, "dropout": 0.1}
# Those of kinds with dozens of fields lie in a file; add fields to it, change none.
DEFAULTS = json.loads((Path(__file__).parent / "golden_defaults.json").read_text())
DEFAULTS |= {
    "model linear": {"seq_len": 128, "d_model": 128},
    "model mlp": {"seq_len": 128, "d_model": 128, "d_ff": 256, "n_layer": 2, "dropout": 0.1},
    "model self_attention": _BLOCK | {"d_ff": 512, "positions": "learned", "norm_order": "post"},
    "model transformer": _BLOCK
    | {"n_layer": 3, "d_ff": 256, "n_kv_head": None, "norm_order": "post", "norm": "layernorm"}
    | {"positions": "learned", "activation": "relu", "attention_init": "multihead", "init": "torch"}
    | {"residual_dropout": False, "qk_norm": False, "tied_head": False, "zero_init": False}
    | {"norm_gain": True, "bias": True, "logit_cap": None},
    "optimizer adam": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "optimizer adamw": {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1},
    "optimizer muon": {"lr": 0.02, "adam_lr": 3e-3, "momentum": 0.95, "nesterov": True, "iterations": 5}
    | {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    "optimizer sgd": {"lr": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0},
    "schedule constant": {"warmup": 0},
    "schedule cosine": {"warmup": 0, "floor": 0.1},
    "schedule linear": {"warmup": 0, "floor": 0.0},
    "schedule wsd": {"warmup": 0, "decay": 0.2, "floor": 0.0, "fall": "linear"},
    "protocol dense": {"stride": None, "eval_bytes": None},
    "protocol last_token": {"eval_windows": 10_000, "average": "batch_mean", "eval_batch_size": 64},
}
RUN = {"batch_size": 16, "grad_accum": 1, "epoch_windows": None, "grad_clip": 1.0, "dtype": "float32"}
RUN |= {"ema": None, "eval_every": None, "weights": "best", "test": True, "methods": ()}
RUN |= dict.fromkeys(("init_seed", "data_seed", "dropout_seed", "eval_seed"), 0)


@pytest.mark.parametrize("name", MODELS)
def test_model_digests_do_not_move(name):
    assert make("model", name).digest == MODELS[name]


@pytest.mark.parametrize("key", OTHERS)
def test_digests_of_other_parts_do_not_move(key):
    role, name = key.split(" ")
    assert make(role, name).digest == OTHERS[key]


def test_the_digest_of_a_whole_run_does_not_move():
    run = make("run", "run", model="transformer", task="text", steps=10)
    assert run.digest == "b09da49eda50e69a"
    assert run.with_seed(3).digest == "34ce3439d7baa2e5"
    assert run.replace(ema=0.99).digest == "055ecd01daa21bb7"
    assert run.replace(dtype="bfloat16").digest == "664d8f73550c1b40"
    assert run.replace(optimizer="muon").digest == "ca498f74402198ea"
    for part, kind in (("protocol", "dense"), ("optimizer", "adamw"), ("schedule", "cosine")):
        assert getattr(run, part) == make(part, kind)
    assert {name: getattr(run, name) for name in RUN} == RUN


@pytest.mark.parametrize("role", ["model", "optimizer", "schedule", "protocol", "method"])
def test_every_kind_and_variant_is_held(role):
    held = MODELS if role == "model" else {key.split(" ")[1] for key in OTHERS if key.startswith(role)}
    assert set(held) == set(discover(role))
    assert {key.split(" ")[1] for key in DEFAULTS if key.startswith(role)} == set(kinds(role))


@pytest.mark.parametrize("key", DEFAULTS)
def test_defaults_do_not_move(key):
    role, name = key.split(" ")
    config = make(role, name)
    assert {field: as_plain(getattr(config, field)) for field in DEFAULTS[key]} == as_plain(DEFAULTS[key])


def test_a_neutral_ema_is_none_and_leaves_the_digest_alone():
    run = make("run", "run", model="transformer", task="text", steps=10)
    assert run.replace(ema=None).digest == run.digest
    assert "ema" not in run.canonical()


def test_the_published_runs_are_those_of_the_reference_results():
    """The first committed results must still be found under their digests."""

    from lmbench.config import from_dict
    from lmbench.home import results

    path = results() / "reference" / "01_architecture_comparison" / "runs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) > 20
    for record in records:
        assert from_dict("run", record["run"]["config"]).digest == record["digest"]
