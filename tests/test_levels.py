"""Levels that stand in the store: named shifts, scores of finished runs on them, and their ladders."""

import pandas as pd
import pytest

from lmbench.analysis.ladders import divergence_note
from lmbench.config import make
from lmbench.records import Reference, pack
from lmbench.store import Store
from lmbench.training import levels, rescore
from lmbench.training.execute import run_all
from lmbench.training.levels import ladders, level_scores, runs_of, shift_scores, shifts

CHAIN, RECALL = make("task", "chain", n_eval=20), make("task", "recall", n_eval=20)
MIXED = make("task", "mixture", tasks=(CHAIN, RECALL))
RENAMED = ["novel domain", "chain", {"level": 0, "names": "first"}, {"names": "second"}]


def small_run(task, *, model="transformer", init_seed=0):
    shape = {"d_model": 8, "n_layer": 1} | ({"n_head": 2, "d_ff": 8} if model == "transformer" else {})
    config = make("model", model, vocab_size=64, seq_len=40, **shape)
    return make("run", "run", model=config, task=task, steps=1, batch_size=2, init_seed=init_seed)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store and the tidy rows of its runs: two of a mixture, one of chain alone."""
    store = Store(tmp_path_factory.mktemp("levels"))
    runs = {
        "both": small_run(MIXED),
        "again": small_run(MIXED, init_seed=3),
        "chain": small_run(CHAIN, model="lstm", init_seed=5),
    }
    rows = run_all(list(runs.values()), store=store, device="cpu", progress=False)
    return store, rows, {name: run.digest for name, run in runs.items()}


def never(*given, **fields):
    raise AssertionError("computed again")


# ------------------------------------------------------------------ shifts from plain values


def test_a_shift_names_a_known_level_and_what_the_change_makes_of_it():
    made = shifts([RENAMED, ["length", "copy", {"level": 0}, {"level": 2}]])
    assert made.families == {
        "novel domain": [("chain", "0, names=first", "0, names=second")],
        "length": [("copy", "0", "2")],
    }
    assert made.tasks == (
        make("task", "chain", names="first"), make("task", "chain", names="second"),
        make("task", "copy"), make("task", "copy", level=2),
    )  # fmt: skip


def test_shifts_of_a_family_stand_together_and_each_level_once():
    other = ["novel domain", "chain", {"level": 0, "names": "first"}, {"surface": "question"}]
    length = ["length", "chain", {"level": 0, "names": "first"}, {"level": 1}]
    made = shifts([RENAMED, length, other])
    assert list(made.families) == ["novel domain", "length"]
    assert [shifted for _, _, shifted in made.families["novel domain"]] == [
        "0, names=second", "0, surface=question, names=first"
    ]  # fmt: skip
    assert made.families["length"] == [("chain", "0, names=first", "1, names=first")]
    assert [task.level_name for task in made.tasks] == [
        "0, names=first", "0, names=second", "1, names=first", "0, surface=question, names=first"
    ]  # fmt: skip


def test_a_change_outweighs_the_field_that_it_shifts():
    made = shifts([["length", "chain", {"level": 1, "surface": "question"}, {"level": 3}]])
    assert made.families == {"length": [("chain", "1, surface=question", "3, surface=question")]}


def test_the_number_of_examples_is_that_of_all_levels_or_each_task_s_own():
    assert {task.n_eval for task in shifts([RENAMED], n_eval=30).tasks} == {30}
    assert [task.n_eval for task in shifts([RENAMED]).tasks] == [make("task", "chain").n_eval] * 2


def test_a_shift_that_changes_nothing_is_refused_unless_it_is_a_point_of_a_curve():
    same = ["length", "chain", {"level": 1}, {"level": 1}]
    with pytest.raises(
        ValueError,
        match=r"^the shift \{'level': 1\} of chain level 1 changes nothing that its name tells$",
    ):
        shifts([same])
    with pytest.raises(ValueError, match="of chain level 1 changes nothing that its name tells"):
        shifts([["size", "chain", {"level": 1}, {"n_eval": 7}]])
    made = shifts([same], strict=False)
    assert made.families == {"length": [("chain", "1", "1")]} and len(made.tasks) == 1


@pytest.mark.parametrize(
    "row, said",
    [
        (["x", "chian", {}, {"level": 1}], "unknown task 'chian'; .* Did you mean 'chain'"),
        (
            ["x", "chain", {"levle": 1}, {"level": 2}],
            "unknown field of task 'chain' 'levle'; .* Did you mean 'level'",
        ),
        (
            ["x", "chain", {}, {"name": "first"}],
            "unknown field of task 'chain' 'name'; .* Did you mean 'names'",
        ),
        (["x", "chain", {}, {"level": 9}], "level = 9 is not accepted: chain has levels 0 to 5"),
        (["x", "chain", {"level": 1}], r"a shift is \[family, task, fields, changed fields\], got \['x', "),
    ],
)
def test_what_is_no_shift_is_refused_in_one_sentence(row, said):
    with pytest.raises(ValueError, match=said) as refused:
        shifts([row])
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------ scores of finished runs


def test_runs_of_a_level_are_those_trained_on_it_however_it_is_scored(trained):
    store, rows, digests = trained
    every, mixed = list(digests.values()), [digests["both"], digests["again"]]
    assert runs_of(rows, CHAIN, store=store) == every
    assert runs_of(rows, CHAIN.replace(n_eval=7, rewrites=3), store=store) == every
    assert runs_of(rows[rows["run"] != digests["both"]], CHAIN, store=store) == every[1:]
    assert runs_of(rows, RECALL, store=store) == mixed
    for other in (CHAIN.replace(level=1), CHAIN.replace(names="first"), make("task", "copy")):
        assert runs_of(rows, other, store=store) == []


def test_scores_of_several_runs_carry_their_own_digest_label_and_seed(trained):
    store, _, digests = trained
    asked = [CHAIN.replace(names="second"), CHAIN.replace(level=1)]
    found = level_scores(list(digests.values()), asked, store=store, device="cpu", progress=False)
    scores = found[found["metric"] == "score"]
    runs = (("both", "transformer", 0), ("again", "transformer", 3), ("chain", "lstm", 5))
    assert scores[["run", "label", "init_seed", "level"]].to_numpy().tolist() == [
        [digests[name], label, seed, level]
        for name, label, seed in runs
        for level in ("0, names=second", "1")
    ]
    assert set(found["task"]) == {"chain"} and set(found["split"]) == {"test"} and set(scores["n"]) == {20}
    assert set(found[found["metric"] == "overlap"]["value"]) == {0}
    nll = found[found["metric"] == "answer_nll"]["value"]
    assert nll.nunique() == 6, "each run has scores of its own"
    valid = level_scores([digests["both"]], asked, store=store, split="valid", device="cpu", progress=False)
    assert set(valid["split"]) == {"valid"}
    assert valid[valid["metric"] == "answer_nll"]["value"].iloc[0] != nll.iloc[0]


def test_a_run_that_diverged_counts_as_at_chance_and_captions_say_so(trained):
    store, rows, digests = trained
    ruined = small_run(CHAIN, init_seed=5).replace(optimizer=make("optimizer", "sgd", lr=1e200), steps=3)
    lost = run_all([ruined], store=store, device="cpu", progress=False)
    assert (lost["metric"] == "diverged").any()
    asked = shifts([["names", "chain", {}, {"names": "second"}]], n_eval=20)
    found = shift_scores(pd.concat([rows, lost]), asked, store=store, device="cpu")
    mine = found[found["run"] == ruined.digest].set_index(["task", "level", "metric"])["value"]
    rungs = ladders(asked.tasks, store=store)
    chance = rungs[rungs["rung"] == "chance"].set_index(["task", "level", "metric"])["value"]
    assert mine.sort_index().equals(chance.sort_index()) and len(mine) == 4
    assert divergence_note(found) == " 1 run of transformer diverged and counts as at chance."
    assert divergence_note(found[found["run"] == digests["both"]]) == ""


def test_levels_are_scored_once(trained, monkeypatch):
    store, _, digests = trained
    asked = [CHAIN.replace(names="first")]
    first = level_scores([digests["both"]], asked, store=store, device="cpu", progress=False)
    monkeypatch.setattr(rescore, "evaluate", never)
    assert level_scores([digests["both"]], asked, store=store, progress=False).equals(first)


def test_a_run_is_scored_on_the_pairs_whose_known_level_it_learned(trained):
    store, rows, digests = trained
    asked = shifts([["names", "recall", {}, {"names": "second"}], ["names", "chain", {}, {"names": "second"}],
                    ["surface", "chain", {}, {"surface": "question"}]], n_eval=20)  # fmt: skip
    found = shift_scores(rows, asked, store=store, device="cpu")
    by_run = found[found["metric"] == "score"].groupby("run")[["task", "level"]].agg(list)
    chain = ["0", "0, names=second", "0, surface=question"]
    for name in ("both", "again"):
        assert list(by_run.loc[digests[name]]) == [["recall"] * 2 + ["chain"] * 3, [*chain[:2], *chain]]
    assert list(by_run.loc[digests["chain"]]) == [["chain"] * 3, chain]
    alone = level_scores([digests["again"]], asked.tasks, store=store, device="cpu", progress=False)
    mine = found[found["run"] == digests["again"]].reset_index(drop=True)
    assert mine[["metric", "value"]].equals(alone[["metric", "value"]])
    assert set(mine["init_seed"]) == {3} and set(mine["label"]) == {"transformer"}


def test_a_run_that_learned_none_of_the_levels_is_left_out(trained):
    store, rows, digests = trained
    asked = shifts([["names", "recall", {}, {"names": "second"}]], n_eval=20)
    found = shift_scores(rows, asked, store=store, device="cpu")
    assert set(found["run"]) == {digests["both"], digests["again"]}


def test_a_level_that_no_run_learned_is_not_shifted(trained):
    store, rows, digests = trained
    asked = shifts([["length", "chain", {}, {"level": 1}], ["length", "recall", {}, {"level": 1}]], n_eval=20)
    alone = rows[rows["run"] == digests["chain"]]
    with pytest.raises(ValueError, match="^no run was trained on recall level 0, which is to be shifted$"):
        shift_scores(alone, asked, store=store, device="cpu")
    with pytest.raises(ValueError, match="^no run was trained on chain level 1, which is to be shifted$"):
        shift_scores(rows, shifts([["length", "chain", {"level": 1}, {"level": 2}]]), store=store)


def test_a_level_that_was_trained_is_no_shift(tmp_path):
    store, tasks = Store(tmp_path), (CHAIN, CHAIN.replace(level=1))
    run = small_run(make("task", "mixture", tasks=tasks))
    rows = run_all([run], store=store, device="cpu", progress=False)
    asked = shifts([["length", "chain", {}, {"level": 1}]], n_eval=20)
    with pytest.raises(ValueError, match=f"^chain level 1 is no shift: run {run.digest} was trained on it$"):
        shift_scores(rows, asked, store=store, device="cpu")
    found = shift_scores(rows, asked, store=store, device="cpu", strict=False)
    assert found[found["metric"] == "score"]["level"].tolist() == ["0", "1"]
    rewritten = shifts([["robustness", "chain", {}, {"rewrites": 2}]], n_eval=20)
    found = shift_scores(rows, rewritten, store=store, device="cpu")
    assert found[found["metric"] == "score"]["level"].tolist() == ["0", "0, rewrites=2"], "a way of scoring"


def test_a_level_that_is_longer_than_the_context_is_refused(trained):
    store, _, digests = trained
    asked = [CHAIN.replace(level=5)]
    with pytest.raises(ValueError, match="seq_len = 40 is too short: an example of chain level 5 needs"):
        level_scores([digests["both"]], asked, store=store, device="cpu", progress=False)


# ------------------------------------------------------------------ ladders


def test_the_ladder_of_a_mixture_is_that_of_each_level(tmp_path):
    store = Store(tmp_path)
    tasks = (make("task", "chain", level=1), make("task", "chain", names="first"), RECALL)
    table = ladders([make("task", "mixture", tasks=tasks[:2]), tasks[2]], store=store)
    assert list(table) == ["task", "level", "metric", "rung", "value"]
    assert list(table.itertuples(index=False, name=None)) == [
        (task.kind, task.level_name, *rung) for task in tasks for rung in task.ladder().rungs()
    ]
    chain = table[(table["level"] == "1") & (table["metric"] == "score")].set_index("rung")["value"]
    assert (chain["chance"], chain["bayes"]) == pytest.approx((1 / 7, 1)) and len(chain) > 2


def test_the_ladder_of_rewrites_is_that_of_their_worst(tmp_path):
    table = ladders([make("task", "chain", level=1, rewrites=3)], store=Store(tmp_path))
    assert set(table["level"]) == {"1, rewrites=3"}
    score = table[table["metric"] == "score"].set_index("rung")["value"]
    assert score.to_dict() == pytest.approx({"chance": 7**-3, "bayes": 1.0})


def test_a_ladder_of_one_level_is_filed_once(tmp_path, monkeypatch):
    store = Store(tmp_path)
    table = ladders([CHAIN], store=store)
    assert set(table["level"]) == {"0"} and len(store.digests()) == 1
    monkeypatch.setattr(levels, "_file", never)
    assert ladders([CHAIN], store=store).equals(table)


def test_reference_results_tell_the_ladders_that_they_hold(tmp_path):
    store = Store(tmp_path / "local")
    table = ladders([CHAIN], store=store)
    pack(store.used, [store], tmp_path / "reference")
    reference = Reference(tmp_path / "reference")
    assert ladders([CHAIN], store=reference).equals(table)
    with pytest.raises(
        ValueError, match="^the reference results .*reference lack the ladder of recall level 0$"
    ):
        ladders([RECALL], store=reference)


def test_a_task_without_levels_has_no_ladder(task, store):
    with pytest.raises(ValueError, match="^task 'text' has no levels, so no ladder$"):
        ladders([task], store=store)
    assert store.digests() == []


def test_nothing_to_score_is_refused(tmp_path):
    store, rows = Store(tmp_path), pd.DataFrame({"run": []})
    with pytest.raises(ValueError, match="0 runs and 1 levels leave nothing to score"):
        level_scores([], [make("task", "chain")], store=store)
    with pytest.raises(ValueError, match="no task is given"):
        ladders([], store=store)
    with pytest.raises(ValueError, match="no shift is given"):
        shift_scores(rows, shifts([]), store=store)
