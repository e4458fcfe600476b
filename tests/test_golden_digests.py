"""Digests that may never move: a changed one orphans every stored result.

Bump a kind's version when its numbers change, give new fields neutral defaults otherwise;
then only add lines here.
"""

import pytest

from lmbench.config import make

MODELS = {
    "linear": "ca16ef8c6b9e35c8",
    "mlp": "38cdadfde270b8df",
    "self_attention": "993750d301c6776e",
    "transformer": "d83056ba41e749b2",
    "transformer_modern": "341b1cafef625aea",
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
    "schedule constant": "6ae0df8dae1a2569",
    "schedule cosine": "1d7983f074b2e9b2",
    "schedule linear": "ca16ef8c6b9e35c8",
}


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


def test_the_published_runs_are_those_of_the_reference_results():
    """The first committed results must still be found under their digests."""
    import json

    from lmbench.config import from_dict
    from lmbench.home import results

    path = results() / "reference" / "01_architecture_comparison" / "runs.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(records) > 20
    for record in records:
        assert from_dict("run", record["run"]["config"]).digest == record["digest"]
