"""Latency and memory: what is timed, what is counted, and that a record is measured once."""

import pandas as pd
import pytest
import torch

from lmbench.config import discover, from_dict, kinds, make
from lmbench.measure import latency as measured
from lmbench.measure.latency import KINDS, Latency, Timing, latencies, timed, timed_model
from lmbench.measure.memory import LiveBytes, memory
from lmbench.models.base import ModelConfig
from lmbench.probes.device import Latency as LatencyRecord
from lmbench.records import Reference, pack
from lmbench.store import Store
from lmbench.training import measured as recorded
from lmbench.training.latency import latency_rows

CPU = torch.device("cpu")
SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
GRID = {"batch_sizes": [1, 2], "lengths": [1, 8]}


def small(name: str, **fields: object) -> ModelConfig:
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


# ------------------------------------------------------------------ timing


def test_the_median_is_over_repeats_and_the_warm_up_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    # Start and end of 5 calls: 100 s and 90 s of warm-up, then 3, 1 and 2 s.
    clock = iter([0, 100, 100, 190, 200, 203, 203, 204, 204, 206])
    monkeypatch.setattr(measured.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert timed(lambda: calls.append(1), device=CPU, repeats=3, warm_up=2) == Timing(2, 1, 3, 3)
    assert len(calls) == 5


def test_the_device_is_waited_for_on_both_sides_of_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(measured, "synchronise", lambda device: seen.append("wait"))
    timed(lambda: seen.append("work"), device=CPU, repeats=1, warm_up=1)
    assert seen == ["wait", "work", "wait"] * 2


def test_tokens_per_second_are_those_read_or_written() -> None:
    seconds = Timing(0.5, 0.4, 0.6, 3)
    assert Latency("prefill", 2, 8, seconds).tokens_per_second == 32
    assert Latency("decode", 2, 8, seconds).tokens_per_second == 4


@pytest.mark.parametrize("name", sorted(kinds("model")))
def test_every_kind_is_timed_at_every_size(name: str) -> None:
    found = latencies(small(name), **GRID, device=CPU, repeats=1, warm_up=0, show=False)
    assert {(one.kind, one.batch_size, one.length) for one in found} == {
        (kind, batch, length) for kind in KINDS for batch in (1, 2) for length in (1, 8)
    }
    assert all(one.seconds.median > 0 for one in found)


def test_decode_reads_one_token_with_a_cache_and_all_without() -> None:
    model, reads = timed_model(small("transformer"), device=CPU, dtype="float32"), []
    extend, forward = model.extend, model.forward
    model.extend = lambda tokens, state=None: (
        reads.append(("extend", tokens.shape[1])) or extend(tokens, state)
    )
    model.forward = lambda tokens, **how: reads.append(("forward", tokens.shape[1])) or forward(tokens, **how)
    tokens_BT = torch.zeros(1, 8, dtype=torch.long)
    for kind, work in measured._works(model, tokens_BT):
        reads.append((kind, 0))
        work()
    assert reads == [
        ("prefill", 0), ("extend", 8), ("extend", 7), ("decode", 0), ("extend", 1),
        ("decode_uncached", 0), ("forward", 8),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"lengths": [4, 9]}, "length = 9 is more than mlp can read: its seq_len is 8"),
        ({"lengths": []}, r"lengths = \[\] is not accepted: give at least one, each at least 1"),
        ({"batch_sizes": [0]}, r"batch_sizes = \[0\] is not accepted"),
    ],
)
def test_sizes_that_cannot_be_timed_are_refused(wrong: dict[str, object], message: str, store: Store) -> None:
    with pytest.raises(ValueError, match=message):
        latencies(small("mlp"), **GRID | wrong, device=CPU)
    with pytest.raises(ValueError, match=message):
        latency_rows([small("mlp")], **GRID | wrong, store=store, device="cpu")
    assert store.digests() == []


# ------------------------------------------------------------------ memory


def test_live_bytes_follow_what_is_made_and_given_back() -> None:
    known = torch.zeros(1000)
    with LiveBytes([known]) as bytes_:
        first = torch.zeros(10)  # 40 bytes
        view, kept = first[2:], known[1:]
        second = first + 1  # 80 together
        del first
        assert bytes_.live == 80, "the view still holds the first"
        del view
        assert bytes_.live == 40
        third = second * second  # 80 again
        del second
    assert (bytes_.live, bytes_.peak) == (40, 80)
    assert (len(third), len(kept)) == (10, 999)


def test_a_linear_map_keeps_what_its_gradient_needs() -> None:
    weight = torch.zeros(5, 3, requires_grad=True)
    with LiveBytes([weight]) as bytes_:
        x = torch.ones(2, 3)  # 24 bytes
        (x @ weight.T).sum().backward()
        # x, the output, the sum, its gradient (one number, expanded), and the gradient of the weight.
    assert bytes_.peak >= 24 + 60
    assert bytes_.live == 24 + 60, "the input and the gradient are still there"


@pytest.mark.parametrize("name", sorted(kinds("model")))
def test_memory_of_every_kind_holds_its_gradients_and_is_the_same_each_time(name: str) -> None:
    config = small(name)
    found = memory(config, batch_size=2, length=8, device=CPU)
    assert found.weights == 4 * sum(p.numel() for p in config.build().parameters())
    assert found.train_peak > found.weights
    assert 0 < found.prefill_peak < found.train_peak
    assert found == memory(config, batch_size=2, length=8, device=CPU)


def test_attentions_state_grows_by_keys_and_values_and_a_windows_does_not() -> None:
    # A token: 2 layers of 16 keys and 16 values of 4 bytes.
    found = memory(small("transformer"), batch_size=1, length=8, device=CPU)
    assert (found.state, found.state_one, found.state_per_token) == (8 * 256, 256, 256)
    grouped = memory(small("transformer", n_kv_head=1), batch_size=1, length=8, device=CPU)
    assert grouped.state_per_token == 128
    window = memory(small("mlp"), batch_size=3, length=8, device=CPU)
    assert window.state == window.state_one == 3 * 7 * 8  # seq_len - 1 ids
    assert window.state_per_token == 0


def test_memory_in_bfloat16_is_that_of_half_the_bytes() -> None:
    config = small("transformer")
    wide, narrow = (
        memory(config, batch_size=1, length=8, device=CPU, dtype=d) for d in ("float32", "bfloat16")
    )
    assert (narrow.weights, narrow.state) == (wide.weights // 2, wide.state // 2)


# ------------------------------------------------------------------ records


def test_latency_is_measured_once_and_read_from_then_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [small("linear"), small("transformer")]
    asked = GRID | {"store": store, "device": "cpu", "repeats": 1, "warm_up": 0}
    first = latency_rows(models, **asked)
    assert first["label"].drop_duplicates().tolist() == ["linear", "transformer"]
    assert set(first["level"]) == {"1|1", "1|8", "2|1", "2|8"}
    assert len(first) == 2 * (3 * 3 * 4 + 5)
    assert store.verify() == []

    def refuse(*args: object, **fields: object) -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr("lmbench.training.latency.latencies", refuse)
    pd.testing.assert_frame_equal(latency_rows(models, **asked), first)
    assert store.used == set(store.digests())


def test_a_record_holds_the_question_and_the_device(store: Store) -> None:
    latency_rows([small("linear")], **GRID, store=store, device="cpu", repeats=2, warm_up=0)
    (digest,) = store.digests()
    record = store.record(digest)
    asked = from_dict("run", record["run"]["config"])
    assert asked == LatencyRecord(
        model=small("linear"), batch_sizes=(1, 2), lengths=(1, 8), repeats=2, warm_up=0
    )
    assert asked.digest == digest
    assert record["env"]["device"].startswith("cpu: ")
    rows = store.rows(digest)
    timing = rows[rows["metric"].str.startswith("prefill_seconds")].set_index(["level", "metric"])["value"]
    assert timing["1|8", "prefill_seconds_low"] <= timing["1|8", "prefill_seconds"]
    assert timing["1|8", "prefill_seconds"] <= timing["1|8", "prefill_seconds_high"]
    assert set(rows[rows["metric"] == "decode_seconds"]["n"]) == {2}


def test_a_committed_record_is_read_and_never_measured(store: Store, tmp_path) -> None:
    asked = GRID | {"repeats": 1, "warm_up": 0}
    local = latency_rows([small("linear")], **asked, store=store, device="cpu")
    pack(store.digests(), [store], tmp_path / "reference")
    reference = Reference(tmp_path / "reference")
    again = latency_rows([small("linear")], **asked, store=reference)
    assert again["value"].tolist() == local["value"].tolist()
    with pytest.raises(ValueError, match=r"the reference results .* lack the latency of mlp"):
        latency_rows([small("mlp")], **asked, store=reference)


def test_times_of_another_device_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = GRID | {"store": store, "device": "cpu", "repeats": 1, "warm_up": 0}
    latency_rows([small("linear")], **asked)
    monkeypatch.setattr("lmbench.training.measured.device_name", lambda device: "another")
    with pytest.raises(
        ValueError,
        match="the latency of linear in .* was measured on 'cpu: .*', and this is 'another'; delete",
    ):
        latency_rows([small("linear")], **asked)
    kept = latency_rows([small("linear")], **asked | {"device": None})
    assert kept["device"].str.startswith("cpu: ").all(), "who names no device takes what is there"


def test_times_of_two_devices_are_not_set_beside_each_other(store: Store, monkeypatch) -> None:
    asked = GRID | {"store": store, "device": None, "repeats": 1, "warm_up": 0}
    latency_rows([small("linear")], **asked)
    here = recorded.environment(torch.device("cpu"))
    monkeypatch.setattr(recorded, "environment", lambda device: here | {"device": "another"})
    with pytest.raises(
        ValueError, match=r"the latency .* on several devices \(another, cpu: .*\), and times"
    ):
        latency_rows([small("linear"), small("mlp")], **asked)
