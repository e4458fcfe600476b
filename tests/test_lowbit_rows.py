"""Low-precision inference of stored runs: a record measured once, with reasons, and its table and figure."""

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lmbench.analysis.compression_speed import fewer_macs, speed_table
from lmbench.analysis.lowbit_figures import CLAIM, claims, low_bit_panel, low_bit_reading, low_bit_table
from lmbench.config import from_dict, make
from lmbench.measure.lowbit import Converted
from lmbench.measure.lowbit_kernels import FORMS
from lmbench.probes.device import LowBit
from lmbench.records import Reference, pack
from lmbench.store import Store
from lmbench.training import lowbit
from lmbench.training import measured as recorded
from lmbench.training.execute import run_all
from lmbench.training.lowbit import COLUMNS, low_bit_rows
from tests.corpora import write_corpus
from tests.test_groups import tiny_run

QUICK = {"batch_sizes": (1, 3), "repeats": 2, "warm_up": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("lowbit") / "small")
    task = make("task", "text", corpus=str(corpus), tokenizer="char")
    dense = tiny_run(task, steps=4, dtype="float32", weights="final")
    pruned = (make("method", "prune", density=0.25, start=0.0, finish=0.5),)
    quantised = (make("method", "quantize", bits=8, activations=8.0),)
    return {"dense": dense, "pruned": dense.replace(methods=pruned), "int8": dense.replace(methods=quantised)}


@pytest.fixture(scope="module")
def store(tmp_path_factory, runs):
    """A store with the three runs; tests add records and change none."""
    made = Store(tmp_path_factory.mktemp("lowbit") / "results")
    for run in runs.values():
        run_all([run], store=made, device="cpu", progress=False)
    return made


@pytest.fixture(scope="module")
def measured(runs, store):
    digests = {run.digest: name for name, run in runs.items()}
    rows = low_bit_rows(list(digests), store=store, **QUICK)
    return rows.assign(label=rows["run"].map(digests))


def linear_weights(run, store):
    """Of the maps that a pass calls; all matrices but the tables."""
    weights = load_file(store.weights(run.digest))
    return [
        w for name, w in weights.items() if w.ndim == 2 and "embed" not in name and "position" not in name
    ]


# ------------------------------------------------------------------ rows


def test_every_form_has_seconds_or_a_reason_at_every_batch_size(measured, runs):
    assert list(measured) == [*COLUMNS]
    assert (
        len(measured) == len(runs) * len(FORMS) * 2
        and not measured.duplicated(["run", "form", "batch"]).any()
    )
    exists = measured["reason"] == ""
    assert (measured["seconds"].notna() == exists).all() and (
        measured["linear_bytes"].notna() == exists
    ).all()
    there = measured[exists]
    assert (there["low"] <= there["seconds"]).all() and (there["seconds"] <= there["high"]).all()
    assert set(there["n"]) == {2} and set(measured[~exists]["n"]) <= {0}
    assert set(measured["length"]) == {6} and set(measured["init_seed"]) == {0}
    assert measured["device"].str.startswith("cpu: ").all()
    plain = measured[measured["form"] == "float32"]
    assert (plain["reason"] == "").all() and (plain["times_faster"] == 1).all()


def test_multiply_adds_are_those_of_the_weights_that_the_run_reports(measured, runs, store):
    for name, run in runs.items():
        own = measured[measured["label"] == name].iloc[0]
        weights = linear_weights(run, store)
        assert own["macs"] == sum(w.numel() for w in weights)
        assert own["nonzero_macs"] == sum(int(w.count_nonzero()) for w in weights)
        assert own["times_fewer"] == own["macs"] / own["nonzero_macs"]
    factors = measured.groupby("label")["times_fewer"].first()
    assert factors["dense"] == 1 and factors["pruned"] > 1.5


def test_a_form_that_does_not_exist_says_why(measured):
    reasons = measured.set_index(["label", "form", "batch"])["reason"]
    assert reasons["dense", "csr", 1] == "no weight is zero: prune first"
    assert reasons["pruned", "2:4", 3] == "2:4 kernels exist on CUDA devices, not on cpu"


def test_weights_are_timed_without_the_rounding_that_training_imitates(runs, store, monkeypatch):
    seen = []

    def kept(model, *, form, tokens_BT):
        seen.append([type(part).__name__ for part in model.modules() if part._forward_pre_hooks])
        return Converted(model, "", 1, 1)

    monkeypatch.setattr(lowbit, "convert", kept)
    monkeypatch.setattr(lowbit, "FORMS", {"float32": FORMS["float32"]})
    low_bit_rows([runs["int8"].digest], store=store, **QUICK | {"repeats": 1})
    assert seen == [[], []]


def test_methods_after_training_change_the_weights_that_are_timed(runs, store):
    coarse = (make("method", "quantize", bits=2),)
    found = low_bit_rows([runs["dense"].digest], store=store, methods=coarse, **QUICK | {"batch_sizes": (1,)})
    assert found["times_fewer"].iloc[0] > 1.2  # of three values one is 0
    assert found.set_index("form").at["csr", "reason"] != "no weight is zero: prune first"


def test_a_kernel_that_refuses_one_batch_size_is_timed_at_the_other(runs, store, monkeypatch):
    def convert(model, *, form, tokens_BT):
        refused = form == "csr" and len(tokens_BT) == 3
        return Converted(None, "rows | of 3") if refused else Converted(model, "", 1, 1)

    monkeypatch.setattr(lowbit, "convert", convert)
    found = low_bit_rows([runs["pruned"].digest], store=store, **QUICK | {"warm_up": 1})
    reasons = found.set_index(["form", "batch"])["reason"]
    assert (reasons["csr", 1], reasons["csr", 3]) == ("", "rows | of 3")


def test_a_record_is_measured_once_and_read_from_committed_results(
    runs, store, measured, tmp_path, monkeypatch
):
    digest = runs["pruned"].digest
    asked = LowBit(run=digest, batch_sizes=(1, 3), repeats=2, warm_up=0)
    assert from_dict("run", store.record(asked.digest)["run"]["config"]) == asked
    monkeypatch.setattr(lowbit, "_measure", lambda *_: pytest.fail("measured again"))
    again = low_bit_rows([digest], store=store, **QUICK).drop(columns="label")
    first = measured[measured["run"] == digest].drop(columns="label").reset_index(drop=True)
    pd.testing.assert_frame_equal(again, first)
    pack([digest, asked.digest], [store], tmp_path / "packed")
    reference = Reference(tmp_path / "packed")
    pd.testing.assert_frame_equal(
        low_bit_rows([digest], store=reference, **QUICK).drop(columns="label"), first
    )
    with pytest.raises(ValueError, match="lack the low-precision inference of transformer"):
        low_bit_rows([digest], store=reference, **QUICK | {"repeats": 3})


def test_times_of_another_device_are_refused(runs, store, measured, monkeypatch):
    monkeypatch.setattr("lmbench.training.measured.device_name", lambda device: "another")
    with pytest.raises(ValueError, match="was measured on 'cpu: .*', and this is 'another'; delete"):
        low_bit_rows([runs["dense"].digest], store=store, **QUICK)
    kept = low_bit_rows([runs["dense"].digest], store=store, **QUICK | {"device": None})
    assert kept["device"].str.startswith("cpu: ").all(), "who names no device takes what is there"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"batch_sizes": (0,)}, r"batch_sizes = \[0\] is not accepted: give at least one, each at least 1"),
        ({"length": 7}, "length = 7 is more than transformer can read: its seq_len is 6"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_sizes_that_cannot_be_timed_are_refused(wrong, said, runs, store):
    with pytest.raises(ValueError, match=said):
        low_bit_rows([runs["dense"].digest], store=store, **QUICK | wrong)


def test_no_runs_give_an_empty_table(store):
    assert low_bit_rows([], store=store, device="cpu").columns.tolist() == COLUMNS


def test_a_model_that_reads_its_weights_by_itself_is_timed_without_a_claim(runs, store):
    run = tiny_run(runs["dense"].task, "linear", steps=2, dtype="float32")
    run_all([run], store=store, device="cpu", progress=False)
    found = low_bit_rows([run.digest], store=store, **QUICK | {"batch_sizes": (1,)})
    assert found.set_index("form").at["float32", "seconds"] > 0
    assert set(found["macs"]) == {0} and found["times_fewer"].isna().all()
    assert claims(low_bit_table(found)).empty and "float32" in low_bit_panel(found).alt


def test_rows_are_what_the_table_of_speeds_reads(measured):
    speeds = speed_table(measured, base="dense", batch=3).set_index(["label", "form"])
    assert speeds.at[("dense", "float32"), "ratio"] == 1 and ("dense", "csr") not in speeds.index
    assert fewer_macs(measured)["pruned"] == measured.groupby("label")["times_fewer"].first()["pruned"]


# ------------------------------------------------------------------ table and figure


def made_rows(**changes):
    """Two seeds of two arms in three forms at one batch size; the dense arm has no sparse rows."""
    rows = []
    for seed, factor in ((0, 1.0), (1, 4.0)):
        for label, fewer in (("dense", 1.0), ("pruned", 10.0)):
            for form, ms in (("float32", 8.0), ("csr", 4.0), ("2:4", None)):
                why = (
                    "no weight is zero"
                    if (label, form) == ("dense", "csr")
                    else "not on cpu"
                    if ms is None
                    else ""
                )
                row = {
                    "label": label,
                    "init_seed": seed,
                    "form": form,
                    "batch": 2,
                    "length": 32,
                    "reason": why,
                }
                row |= {"times_fewer": fewer, "device": "cpu: x", "n": 0 if why else 15}
                seconds = float("nan") if why else 1e-3 * ms * factor
                ends = {"seconds": seconds, "low": 0.5 * seconds, "high": 2 * seconds, "linear_bytes": 8.0}
                rows.append(row | ends)
    return pd.DataFrame(rows).assign(**changes)


def test_the_table_holds_geometric_means_over_seeds_and_reasons():
    table = low_bit_table(made_rows()).set_index(["arm", "form"])
    # of 8 and 32 ms, and of 4 and 16 ms
    assert table.at[("pruned", "float32"), "seconds"] == pytest.approx(0.016)
    assert table.at[("pruned", "csr"), "seconds"] == pytest.approx(0.008)
    assert table.at[("pruned", "csr"), "times faster"] == pytest.approx(2)
    assert table.at[("pruned", "csr"), "seeds"] == 2
    assert table.at[("dense", "csr"), "why not"] == "no weight is zero"
    assert pd.isna(table.at[("dense", "csr"), "seconds"]) and table.at[("pruned", "csr"), "why not"] == ""


def test_the_claim_is_float32_divided_by_the_factor_of_multiply_adds():
    found = claims(low_bit_table(made_rows())).set_index("arm")
    assert set(found["form"]) == {CLAIM} and found.at["pruned", "seconds"] == pytest.approx(0.0016)
    assert found.at["dense", "seconds"] == pytest.approx(0.016)
    assert found.at["pruned", "low"] == found.at["pruned", "high"] == pytest.approx(0.0016)


def test_the_figure_draws_what_was_timed_and_says_what_was_not():
    figure = low_bit_panel(made_rows())
    (ax,) = figure.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["float32", "csr", CLAIM]
    drawn = sorted(
        float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() not in ("", "None", None)
    )
    assert drawn == pytest.approx([1.6, 8, 16, 16, 16]) and ax.get_xscale() == "log"
    assert "No csr (dense): no weight is zero." in figure.caption and "No 2:4: not on cpu." in figure.caption
    assert (
        "Medians of 15 repeats with their range, texts of 32 tokens, cpu: x; n = 2 runs each."
        in figure.caption
    )
    assert "pruned, 2 at a time: float32 16 ms, csr 8 ms" in figure.alt
    assert figure.svg() == low_bit_panel(made_rows()).svg()


def test_arms_are_drawn_in_the_order_that_is_asked_for():
    figure = low_bit_panel(made_rows(), arms=["pruned"], batches=[2])
    assert "dense" not in figure.alt and "No csr" not in figure.caption


def test_measured_rows_are_drawn(measured):
    figure = low_bit_panel(measured)
    assert len(figure.axes) == 2 and "No csr (dense): no weight is zero: prune first." in figure.caption


def test_the_reading_sets_the_fastest_form_beside_the_claim():
    said = low_bit_reading(made_rows())
    assert said == (
        "pruned, 2 at a time: arithmetic claims 10 times as fast as float32; the fastest other form, csr, is "
        "2 times as fast."
    )
    alone = made_rows()
    assert low_bit_reading(alone[alone["form"] == "float32"]) == "No form but float32 exists here."


def test_what_cannot_be_compared_is_refused():
    rows = made_rows()
    with pytest.raises(ValueError, match="cannot be compared over several devices"):
        low_bit_table(rows.assign(device=["a"] * 6 + ["b"] * 6))
    with pytest.raises(ValueError, match="no seconds of form 'float32'"):
        low_bit_table(rows[rows["form"] != "float32"])
    with pytest.raises(ValueError, match="'prune'.*Did you mean 'pruned'"):
        low_bit_panel(rows, arms=["prune"])
    with pytest.raises(ValueError, match="batch size '?64"):
        low_bit_panel(rows, batches=[64])
    with pytest.raises(ValueError, match="seconds"):
        low_bit_table(rows.drop(columns="seconds"))


def test_times_of_two_devices_are_not_set_beside_each_other(runs, store, monkeypatch):
    asked = QUICK | {"device": None, "repeats": 1}
    low_bit_rows([runs["dense"].digest], store=store, **asked)
    here = recorded.environment(torch.device("cpu"))
    monkeypatch.setattr(recorded, "environment", lambda device: here | {"device": "another"})
    with pytest.raises(ValueError, match="low-precision inference in this store was measured on several"):
        low_bit_rows([one.digest for one in runs.values()], store=store, **asked)
