"""The integrator guide put to the test: counts, arms, scores, checkpointing, claims, presets."""

import math

import pandas as pd
import pytest
import torch

from lmbench.analysis import integrator_claims as claims
from lmbench.analysis.integrator_checkpointing import checkpointing_table
from lmbench.analysis.integrator_iterations import (
    iteration_pairs,
    iteration_runs,
    iteration_table,
    iterations_panel,
)
from lmbench.analysis.table import final_table
from lmbench.config import make
from lmbench.measure.activations import activations
from lmbench.measure.budget import flops_per_token
from lmbench.measure.flops import ledger, parameters
from lmbench.measure.integrator_arms import ARMS, BASE, arm_pairs, arm_table, fewer_name, integrator_arms
from lmbench.measure.integrator_counts import count_claims
from lmbench.measure.integrator_tables import COUNTED, OPTIMISED, saving_table, size_table, sized
from lmbench.measure.twins import transformer_of, twins
from lmbench.notebook import checked, notebooks, parameters_of, presets
from lmbench.records import Reference, pack
from lmbench.store import Store
from lmbench.training import checkpointing, integrator_scores, rescore
from lmbench.training.checkpointing import MODES, checkpointing_costs
from lmbench.training.execute import fit_model, run_all
from lmbench.training.integrator_scores import CUT, PUBLISHED, STOPPED, iteration_scores
from lmbench.training.rescore import evaluate_run
from tests.test_training import small_run

NOTEBOOK = "05_integrator"
METRIC = "bits_per_byte"
SMALL = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
CHOICES = {"n_iteration": 3, "d_controller": 4, "rank": 4, "group_size": 4, "dropout": 0.0}
CPU = torch.device("cpu")
ABOUT = {"protocol.kind": "dense", "task.corpus": "a", "task.tokenizer.kind": "char", "device": "cpu: x"}


def base(**fields):
    return make("model", "integrator", **SMALL | CHOICES | fields)


# ------------------------------------------------------------------ counts


def test_the_twin_is_the_integrator_without_its_cell_and_the_norm_in_front_of_it() -> None:
    config = base()
    twin = transformer_of(config)
    C, H = 16, 4
    cell = 7 * C * H + 3 * H + 4 * C + 3 * C  # controller; mu, frequencies and phases
    assert parameters(config).total - parameters(twin).total == 2 * (cell + 2 * C)
    names = {"context", "iterations"}
    of_cell = sum(term.forward for term in config.terms("all") if term.name in names)
    assert flops_per_token(config) - flops_per_token(twin) == 3 * of_cell / 8
    assert {term.name for term in config.terms("all")} - {term.name for term in twin.terms("all")} == names


def test_the_twins_have_equal_sizes_parameters_and_flops() -> None:
    config = base(d_model=64, d_ff=128)
    sizes, equal, flops = twins(config).values()
    assert (sizes.config.d_model, sizes.config.d_ff, sizes.miss) == (64, 128, 0.0)
    assert parameters(equal.config).total == pytest.approx(parameters(config).total, rel=0.02)
    assert flops_per_token(flops.config) == pytest.approx(flops_per_token(config), rel=0.02)
    assert flops.config.n_layer == equal.config.n_layer == config.n_layer


def test_the_small_size_has_the_recomputed_counts() -> None:
    table = size_table(["small"]).set_index("model")
    assert table["parameters"].to_dict() == {
        "transformer": 44_515_328,
        "baseline": 45_920_384,
        "level 1": 49_153_152,
        "ultra as published": 49_175_206 - 231_664,
        "ultra as described": 22_386_570,
    }
    # The shared controller of the published ultra, 230,016 + 5 * 512 ... with its 8 numbers a layer.
    shared = 7 * 512 * 64 + 3 * 64 + 4 * 512 + 8 * 6
    assert table["never called"].to_dict() == dict.fromkeys(COUNTED, 0) | {"ultra as published": shared}
    assert table["to the baseline"]["level 1"] == pytest.approx(49_153_152 / 45_920_384)


def test_savings_stand_beside_the_guides_and_are_judged_by_them() -> None:
    counted = size_table(["small"])
    (row,) = saving_table(counted).to_dict("records")
    assert (row["claimed before"], row["claimed after"], row["claimed saving"]) == (43e6, 30e6, "30%")
    assert [row[name] for name in OPTIMISED] == ["−7.04%", "−7.09%", "51.25%"]
    assert row["baseline / claimed"] == pytest.approx(45_920_384 / 43e6)
    assert row["verdict"] == "refuted"
    smaller = counted.assign(**{"to the baseline": [1, 1, 1, 0.7, 1]})
    assert saving_table(smaller)["verdict"].tolist() == ["holds"]
    almost = counted.assign(**{"to the baseline": [1, 1, 1, 0.71, 1]})
    assert saving_table(almost)["verdict"].tolist() == ["refuted"]


def test_claims_of_counts_are_judged_to_the_claimed_digits() -> None:
    table = count_claims()
    found = {(row.number, row.claimed): (row.counted, row.verdict) for row in table.itertuples()}
    assert found["2", "13,324,288"] == ("13,324,288", "holds")
    assert found["3", "87.0%"] == ("−13.0%", "refuted")
    assert found["15", "22,020,096"] == ("22,020,096", "holds")
    assert found["16", "917,696"] == ("917,696", "holds")
    assert found["17", "95.8%"] == ("95.8%", "holds")
    assert found["19", "96%"] == ("10%", "refuted")
    assert found["20", "205"] == ("204", "refuted")
    assert found["24", "8.0"] == ("8.0", "holds")
    assert found["26", "1.0"] == ("2.0", "refuted")
    assert found["27", "124.4 M"] == ("124.4 M", "holds")
    assert found["27", "14.2 M"] == ("14.2 M", "holds")
    whole = table[table["number"] == "28"]
    assert whole["counted"].tolist() == ["−1%", "8%"]
    assert set(whole["verdict"]) == {"refuted"}
    operations = table[table["number"] == "21"]
    assert operations["counted"].tolist() == ["10", "1"]
    assert operations["verdict"].tolist() == ["holds", "refuted"]


def test_unknown_sizes_and_models_are_refused() -> None:
    with pytest.raises(ValueError, match=r"unknown published size 'smal'; .*Did you mean 'small'\?"):
        sized("baseline", "smal")
    with pytest.raises(ValueError, match=r"unknown counted model 'base'; .*Did you mean 'baseline'\?"):
        sized("base", "small")


# ------------------------------------------------------------------ arms


def test_every_arm_is_the_base_with_its_fields_changed() -> None:
    models = integrator_arms(base(positions="rope"), fewer=[1, 2])
    rivals = [name for name in models if name.startswith("transformer")]
    assert list(models) == [BASE, *ARMS, fewer_name(1), fewer_name(2), *rivals]
    assert len({config.digest for config in models.values()}) == len(models)
    for name, fields in ARMS.items():
        half = {"d_controller": 2} if name == "mixture" else {}
        assert models[name] == base(**{"positions": "rope"} | fields | half)
    assert models["trained with 1 iteration"].n_iteration == 1
    assert len(rivals) == 3


def test_an_arm_that_the_base_is_already_is_left_out_where_all_are_asked_for() -> None:
    assert set(ARMS) - set(integrator_arms(base(excitation=0.0))) == {"no excitation", "published positions"}


def test_the_declared_family_is_arms_against_the_base_and_the_base_against_transformers() -> None:
    models = integrator_arms(base(), arms=["mixture", "phases"], fewer=[1])
    rivals = ["transformer, equal sizes", "transformer, equal parameters", "transformer, equal FLOPs"]
    assert arm_pairs(models) == [("mixture", BASE), ("phases", BASE), *((BASE, name) for name in rivals)]


def test_the_table_of_arms_names_what_changes_and_its_cost() -> None:
    table = arm_table(integrator_arms(base(), arms=["three outputs", "no excitation"])).set_index("model")
    assert table["changed"][BASE] == ""
    assert table["changed"]["three outputs"] == "candidate = False"
    assert table["changed"]["no excitation"] == "excitation = 0.0"
    assert table["to the base"]["no excitation"] == 1 - 2 * 2 * 16 / parameters(base()).total
    assert table["of the base's"][[BASE, "no excitation"]].tolist() == ["1.000", "1.000"]
    assert float(table["of the base's"]["three outputs"]) < 1


@pytest.mark.parametrize(
    ("fields", "asked", "message"),
    [
        ({}, {"arms": ["mixtur"]}, r"unknown arm of the integrator 'mixtur'; .*Did you mean 'mixture'\?"),
        ({}, {"fewer": [3]}, "fewer lists 3 iterations, but the base has 3; accepted: 1 to 2"),
        ({}, {"fewer": [0]}, "fewer lists 0 iterations"),
        ({"excitation": 0.0}, {"arms": ["no excitation"]}, "arm 'no excitation' is the base itself"),
    ],
)
def test_what_is_no_arm_is_refused(fields, asked, message) -> None:
    with pytest.raises(ValueError, match=message):
        integrator_arms(base(**fields), **{"arms": ["mixture"]} | asked)


# ------------------------------------------------------------------ bytes and seconds


def test_checkpointing_saves_more_the_more_is_computed_again() -> None:
    config = base(n_iteration=6)
    held = {mode: activations(config.replace(checkpointing=mode), batch_size=4, device=CPU) for mode in MODES}
    none, step, stack, block = (held[mode].saved for mode in MODES)
    assert none > step > stack > block > 0
    n = parameters(config).total
    assert {one.gradients for one in held.values()} == {4 * n}
    assert {one.state for one in held.values()} == {16 * n}
    assert {one.logits for one in held.values()} == {4 * 4 * 8 * 11}
    # Of each token and layer a step keeps x and v of every iteration in float32; the stack the first x.
    assert step - stack >= 2 * 4 * (4 * 8 * 16) * (6 - 1) * 2
    assert none > 3 * step / 2


def test_checkpointing_costs_are_measured_once_and_redrawn_from_a_reference(
    task, store, tmp_path, monkeypatch
) -> None:
    run = checkpointable(task)
    costs = checkpointing_costs(run, seeds=[0, 1], store=store, device="cpu")
    assert costs["checkpointing"].tolist() == [mode for mode in MODES for _ in range(2)]
    assert len(store.digests()) == len(MODES) * 3  # bytes, and a speed for each seed
    shares = {mode: ledger(run.model.replace(checkpointing=mode), readout="all") for mode in MODES}
    of_forward = {mode: bill.recompute / bill.forward for mode, bill in shares.items()}
    assert costs.groupby("checkpointing")["recomputed"].first().to_dict() == of_forward
    assert (costs["seconds"] > 0).all()
    monkeypatch.setattr(checkpointing, "activations", None)  # calling it would fail
    assert checkpointing_costs(run, seeds=[0, 1], store=store, device="cpu").equals(costs)
    pack(store.digests(), [store], tmp_path / "reference")
    reference = Reference(tmp_path / "reference")
    assert checkpointing_costs(run, seeds=[0, 1], store=reference).equals(costs)
    with pytest.raises(ValueError, match="reference results .* lack the memory of activations of integrator"):
        checkpointing_costs(run.replace(batch_size=3), seeds=[0], store=reference)


def test_bytes_of_another_device_are_refused(task, store, monkeypatch) -> None:
    run = checkpointable(task)
    checkpointing_costs(run, seeds=[0], store=store, device="cpu")
    monkeypatch.setattr("lmbench.training.measured.device_name", lambda device: "NVIDIA H200")
    with pytest.raises(ValueError, match="was measured on 'cpu: .*', and this is 'NVIDIA H200'; delete "):
        checkpointing_costs(run, seeds=[0], store=store, device="cpu")


def checkpointable(task):
    model = fit_model(base(n_layer=1, n_iteration=2), task)
    return small_run(task).replace(model=model, batch_size=2)


def costs_of(**seconds):
    """Costs whose steps take so long with seeds 0 and 1; bytes fall by a quarter from way to way."""
    rows = [
        {"checkpointing": mode, "init_seed": seed, "seconds": value, "saved": 1000 - 250 * i, "logits": 10,
         "peak": 2000 - 250 * i, "gradients": 100, "state": 400, "recomputed": 0.5 * (i > 0), "device": "cpu"}
        for i, (mode, values) in enumerate(seconds.items())
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_the_table_of_checkpointing_compares_with_none() -> None:
    table = checkpointing_table(costs_of(none=(1.0, 2.0), step=(1.3, 2.6), block=(1.4, 2.6)))
    table = table.set_index("checkpointing")
    assert table["saved"].tolist() == [1000, 750, 500]
    assert table["of none's"].tolist() == ["1.000", "0.750", "0.500"]
    assert table["training"].tolist() == [2300, 2050, 1800]  # weights and two moments: 300 bytes more
    assert table["training ratio"]["block"] == f"{1800 / 2300:.3f}"
    assert table["recomputed"].tolist() == ["0%", "50%", "50%"]
    assert table["ms"]["step"] == pytest.approx(1950)
    # The ratio of each seed is 1.3, so that the interval has no width.
    assert table.loc["step", ["ratio", "low", "high"]].tolist() == pytest.approx([1.3] * 3)
    assert table["low"]["block"] < 1.35 < table["high"]["block"]
    assert math.isnan(table["low"]["none"])


def test_seconds_of_two_devices_are_not_compared() -> None:
    costs = costs_of(none=(1.0,), step=(1.3,))
    costs.loc[0, "device"] = "other"
    with pytest.raises(ValueError, match=r"seconds cannot be compared over several devices \(cpu, other\)"):
        checkpointing_table(costs)


# ------------------------------------------------------------------ iterations


@pytest.fixture
def trained(task, store):
    """Two seeds of a small integrator and of the same with one iteration, with labels."""
    config = fit_model(base(n_layer=1), task)
    models = {BASE: config, fewer_name(1): config.replace(n_iteration=1)}
    runs = [small_run(task).replace(model=model).with_seed(s) for model in models.values() for s in (0, 1)]
    label = {model.digest: name for name, model in models.items()}
    rows = run_all(runs, store=store, device="cpu", progress=False)
    return rows.assign(label=rows["run"].map({run.digest: label[run.model.digest] for run in runs}))


ASKED = {"iterations": [0, 3, 4], "tolerances": [0.0, 1e6], "min_iteration": 2}


def scored(rows, store, **fields):
    digests = rows.loc[rows["label"] == BASE, "run"].unique()
    return iteration_scores(digests, **ASKED | fields, store=store, device="cpu")


def test_iterations_are_scored_on_the_same_weights(trained, store, monkeypatch) -> None:
    scores, n = scored(trained, store), len(store.digests())
    assert len(scores) == 2 * (3 + 2 + 1)
    own = final_table(trained).set_index("run")[METRIC]
    of = {key: part.set_index("trained")[METRIC] for key, part in scores.groupby(["how", "setting"])}
    # All iterations are the run's own test; a tolerance of 0 stops nothing.
    for digest, value in of[CUT, 3.0].items():
        assert value == own[digest] == of[STOPPED, 0.0][digest]
    assert (of[CUT, 0.0] != of[CUT, 3.0]).all() and (of[CUT, 4.0] != of[CUT, 3.0]).all()
    took = scores.groupby(["how", "setting"])[["iterations", "of_batch"]].mean()
    assert took.loc[(CUT, 4.0)].tolist() == [4, 4]
    assert took.loc[(STOPPED, 0.0)].tolist() == [3, 3]
    assert took.loc[(STOPPED, 1e6)].tolist() == [2, 2], "a huge tolerance stops at the least number"
    monkeypatch.setattr(rescore, "evaluate", None)  # calling it would fail
    assert scored(trained, store).equals(scores)
    assert len(store.digests()) == n == 4 + 2 * (3 + 2 + 1 - 1), "the own test is no new record"


def test_scores_are_redrawn_from_a_reference_without_weights(trained, store, tmp_path) -> None:
    scores = scored(trained, store)
    digests = trained["run"].unique()
    before = Store(store.root)
    scored(trained, before)
    before.frame(digests)
    pack(before.used, [store], tmp_path / "reference")
    reference = Reference(tmp_path / "reference")
    assert scored(trained, reference).equals(scores)
    model = fit_model(base(n_layer=1), make("task", "text", **task_fields(reference, digests[0])))
    with pytest.raises(ValueError, match=f"lack the test scores of run {digests[0]} on"):
        evaluate_run(digests[0], store=reference, model=model.replace(n_iteration=7))


def task_fields(reference, digest):
    config = reference.record(digest)["run"]["config"]["task"]
    return {"corpus": config["corpus"], "tokenizer": "char"}


def iterating(values):
    """Rows as of `iteration_runs`: {(how, setting): (iterations, value)}; seeds 0.1 apart, and a little."""
    rows = [
        {"how": how, "setting": float(setting), "init_seed": seed, "at_most": 5, "iterations": took}
        | {"of_batch": took, METRIC: value + 0.1 * seed + 1e-4 * ((seed * (at + 2)) % 3)}
        for at, ((how, setting), (took, value)) in enumerate(values.items())
        for seed in range(4)
    ]
    return pd.DataFrame(rows)


WAYS = {
    ("trained with", 5): (5.0, 2.0),
    ("trained with", 2): (2.0, 2.1),
    ("cut off", 0): (0.0, 4.0),
    ("cut off", 2): (2.0, 2.5),
    ("cut off", 5): (5.0, 2.0),
    ("stopping", 0.01): (4.0, 2.001),
    ("stopping", 0.1): (2.0, 2.4),
    ("published rule", 0.01): (5.0, 2.0),
}


def test_runs_and_scores_stand_in_one_table() -> None:
    scores = iterating({("cut off", 2): (2.0, 2.5), ("stopping", 0.01): (4.0, 2.0)}).assign(trained="x")
    runs = pd.DataFrame({"model.n_iteration": [5], "init_seed": [0], METRIC: [2.0], "label": [BASE]})
    every = iteration_runs(scores, runs)
    assert every["how"].tolist() == ["trained with"] + ["cut off"] * 4 + ["stopping"] * 4
    assert every.loc[0, ["setting", "iterations", "of_batch", "at_most"]].tolist() == [5, 5, 5, 5]
    assert every[METRIC].notna().all()


def test_each_way_has_its_mean_over_seeds() -> None:
    table = iteration_table(iterating(WAYS), metric=METRIC).set_index(["how", "setting"])
    assert list(table.index) == list(WAYS)
    assert table.loc[("stopping", 0.01), "iterations"] == 4
    assert table.loc[("cut off", 2), "mean"] == pytest.approx(2.65, abs=1e-3)
    assert (table["n"] == 4).all() and (table["low"] < table["mean"]).all()


def test_stopping_is_paired_with_all_iterations_and_cuts_with_what_was_trained_so() -> None:
    pairs = iteration_pairs(iterating(WAYS), metric=METRIC).set_index("a")
    assert pairs["b"].to_dict() == {
        "stopping at 0.01": "cut off after 5",
        "stopping at 0.1": "cut off after 5",
        "published rule at 0.01": "cut off after 5",
        "cut off after 2": "trained with 2",
    }
    assert pairs["difference"]["cut off after 2"] == pytest.approx(0.4, abs=1e-3)


def test_the_figure_shows_every_way_and_names_what_lies_above_its_frame() -> None:
    runs = pd.DataFrame({"label": [BASE] * 4, "init_seed": range(4), METRIC: 2.0} | ABOUT)
    fig = iterations_panel(iterating(WAYS), metric=METRIC, runs=runs)
    (ax,) = fig.axes
    assert len(ax.containers) == 4
    assert ax.get_ylim()[1] < 4.0
    assert "Above the frame: cut off 0: 4.15." in fig.caption and "T = 5." in fig.caption
    assert "n = 4 seeds" in fig.caption
    assert "stopping 0.1: 2.00 iterations" in fig.alt


# ------------------------------------------------------------------ claims


def judged(findings, number):
    return [finding for finding in findings if finding.number == number]


@pytest.mark.parametrize(
    ("state", "seconds", "expected"),
    [
        (400, {"none": (1.0, 2.0), "step": (1.3, 2.6)}, ["refuted", "holds"]),
        (0, {"none": (1.0, 2.0), "step": (1.5, 3.0)}, ["refuted", "refuted"]),
        (0, {"none": (1.0, 2.0), "step": (1.1, 3.0)}, ["refuted", "not decided"]),
        (0, {"none": (1.0,), "step": (1.3,)}, ["refuted", "not decided"]),
    ],
)
def test_claims_of_checkpointing_are_judged_by_all_memory_and_by_the_interval(
    state, seconds, expected
) -> None:
    table = checkpointing_table(costs_of(**seconds).assign(state=state))
    found = claims.memory_claims(table)
    assert [finding.number for finding in found] == ["7", "9"]
    assert [finding.verdict for finding in found] == expected
    assert "−25% of the saved activations" in found[0].measured


def test_half_of_all_memory_is_what_the_claim_needs() -> None:
    costs = costs_of(none=(1.0, 2.0), step=(1.3, 2.6)).assign(state=0)
    costs["peak"] = [2000, 2000, 1000, 1000]
    assert claims.memory_claims(checkpointing_table(costs))[0].verdict == "holds"
    more = claims.memory_claims(checkpointing_table(costs.assign(state=2000)))[0]
    assert more.verdict == "refuted"
    assert "−29% of what training holds in all" in more.measured  # 1,000 of 2,000 + 3 / 4 of 2,000
    assert more.measured.endswith("are 43% here")


def stopped(values, *, margin=0.01):
    every = iterating(values)
    pairs = iteration_pairs(every, metric=METRIC)
    return claims.stopping_claims(every, pairs, metric=METRIC, margin=margin, min_iteration=2)


def test_claims_of_stopping_are_judged_by_the_published_rule_and_by_ours() -> None:
    found = stopped(WAYS)
    (typical,) = judged(found, "10")
    assert typical.verdict == "refuted" and typical.measured.startswith("100% of the iterations")
    published, ours = judged(found, "12")
    assert (published.verdict, ours.verdict) == ("not decided", "holds")
    assert "no token ever stops by it" in published.measured
    assert ours.measured.startswith("stopping at 0.01 takes 80% of them: +0.001")
    assert judged(found, "13")[0].verdict == "holds"


def test_a_published_rule_that_acts_is_judged_by_range_and_margin() -> None:
    acts = stopped(WAYS | {("published rule", 0.01): (3.0, 2.005)})
    assert [judged(acts, "10")[0].verdict, judged(acts, "12")[0].verdict] == ["holds", "holds"]
    costly = stopped(WAYS | {("published rule", 0.01): (3.0, 2.2)})
    assert judged(costly, "12")[0].verdict == "refuted"
    early = stopped(WAYS | {("published rule", 0.01): (1.0, 2.0)})
    assert judged(early, "13")[0].verdict == "refuted"
    strict = stopped(WAYS, margin=1e-5)
    assert judged(strict, "12")[1].verdict == "not decided"
    assert judged(strict, "12")[1].measured == "none of 2 tolerances is shown to lose less"


def differences(*rows):
    names = ["a", "b", "low", "high", "p_holm"]
    table = pd.DataFrame(rows, columns=names)
    return table.assign(difference=(table["low"] + table["high"]) / 2, p=table["p_holm"], n=3)


PAIRS = differences(
    ("low rank, tied head", BASE, -0.004, 0.006, 0.9),
    (BASE, "transformer, equal sizes", -0.3, -0.1, 0.01),
    (BASE, "transformer, equal parameters", 0.1, 0.3, 0.01),
    (BASE, "transformer, equal FLOPs", -0.1, 0.3, 0.4),
)


def test_claims_of_quality_follow_margin_and_holm() -> None:
    found = claims.quality_claims(PAIRS, base=BASE, metric=METRIC, margin=0.01)
    assert [(one.number, one.verdict) for one in found] == [
        ("6", "holds"), ("40", "refuted"), ("40", "not decided"),
    ]  # fmt: skip
    strict = claims.quality_claims(PAIRS, base=BASE, metric=METRIC, margin=0.001)
    assert strict[0].verdict == "not decided"
    worse = PAIRS.assign(low=0.02, high=0.1)
    verdicts = [
        claims.quality_claims(worse.assign(p_holm=p), base=BASE, metric=METRIC, margin=0.01)[0].verdict
        for p in (0.01, 0.2)
    ]
    assert verdicts == ["refuted", "not decided"]
    ahead = PAIRS.assign(low=-0.3, high=-0.1, p_holm=0.01)
    assert {one.verdict for one in claims.quality_claims(ahead, base=BASE, metric=METRIC, margin=0.01)} == {
        "holds"
    }


def test_the_table_of_claims_is_in_order_and_ends_with_what_was_not_tested() -> None:
    savings = saving_table(size_table(["small"]))
    findings = claims.quality_claims(PAIRS, base=BASE, metric=METRIC, margin=0.01)
    table = claims.claim_table(findings + claims.counted_claims(count_claims(), savings))
    numbers = [int(number) for number in table["number"][table["verdict"] != claims.UNTESTED]]
    assert numbers == sorted(numbers) and {6, 35, 40} <= set(numbers)
    assert table["number"].tolist()[-5:] == ["8", "11", "22", "32 to 39", "41"]
    assert set(table["verdict"]) <= {"holds", "refuted", "not decided", claims.UNTESTED}
    said = claims.claims_reading(table, PAIRS, metric=METRIC)
    counts = table["verdict"].value_counts()
    assert said.startswith(
        f"Of {len(numbers)} claims and parts of claims that were tested: {counts['holds']} holds, "
        f"{counts['refuted']} refuted, {counts['not decided']} not decided."
    )
    assert "Claim 40, more efficient than a transformer of equal parameters: refuted (+0.20" in said
    assert "integrator is higher than transformer, equal parameters" in said
    assert "Holm's correction covers all 4 comparisons." in said


# ------------------------------------------------------------------ the notebook


def settings():
    """Each preset's values over the notebook's defaults."""
    defaults = {name: one.default for name, one in parameters_of(notebooks()[NOTEBOOK]).items()}
    return {name: defaults | values for name, values in presets(NOTEBOOK).items()}


def test_every_preset_is_accepted_and_its_arms_can_be_built() -> None:
    found = settings()
    assert {"smoke", "quick", "full"} <= set(found)
    for name, values in found.items():
        checked(notebooks()[NOTEBOOK], presets(NOTEBOOK)[name])
        sizes = values["sizes"] | values["choices"] | {"seq_len": values["seq_len"]}
        config = make("model", "integrator", **sizes)
        models = integrator_arms(config, arms=values["arms"], fewer=values["fewer"])
        assert config.n_iteration in values["iterations"]
        assert set(values["fewer"]) <= set(values["iterations"])
        assert 1 <= values["min_iteration"] <= config.n_iteration
        assert config.replace(**values["checkpointed"]).n_iteration > 1
        for rival in list(models)[-2:]:
            cost = parameters if rival.endswith("parameters") else flops_per_token
            ours, theirs = cost(config), cost(models[rival])
            ours, theirs = (x.total if rival.endswith("parameters") else x for x in (ours, theirs))
            assert theirs == pytest.approx(ours, rel=0.05)


def test_published_settings_of_arms_and_ways_are_what_they_are_called() -> None:
    assert make("model", "integrator_ultra_described") == make(
        "model", "integrator", **ARMS["all as described"]
    )
    assert (CUT, STOPPED, PUBLISHED) == ("cut off", "stopping", "published rule")
    assert integrator_scores.KEPT[0] == METRIC
