"""Times of emergence of constrained arms: exact on made-up courses, and on a mixture that is learned."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest

from lmbench.analysis.claims import claim
from lmbench.analysis.constraint_capabilities import (
    CONTINUOUS,
    TASKS,
    bounds,
    either,
    emergence_tests,
    judge_all,
    times_earlier,
)
from lmbench.analysis.constraint_claims import findings, judged_claims, reading, untested_claims
from lmbench.analysis.constraint_costs import with_active
from lmbench.analysis.constraint_evidence import Evidence
from lmbench.analysis.emergence import tracked
from lmbench.config import make
from lmbench.measure.constraint_arms import BASE, SCHED, arms_of_constraints
from lmbench.store import Store
from lmbench.tracking import CapabilityTracker
from lmbench.training.arms import arm_of, fresh_arms, named, plan_arms, tune_arms
from lmbench.training.costs import active_flops, run_flops
from lmbench.training.execute import run_all
from tests.constraint_frames import frames

GRID = [round(10 * 1.25**k) for k in range(24)]
CHEAPER = 4
"""FLOPs of a step of the base over those of an arm."""


def courses(task="recall", level="0", **onsets):
    """Points of three seeds: score and nats rise from chance to the best at the k-th point of the grid."""
    parts = []
    for arm, first in onsets.items():
        for seed in range(3):
            steps = np.array(GRID)
            # Seeds a point apart; None never emerges.
            at = len(GRID) if first is None else first + seed
            fixed = {"run": f"{arm}/{seed}", "label": arm, "init_seed": seed, "task": task, "level": level}
            course = {"step": steps, "tokens": steps * 100, "active_flops": steps * 1e6}
            course["active_flops"] /= 1 if arm == BASE else CHEAPER
            done = (np.arange(len(GRID)) >= at).astype(float)
            for metric in ("score", "answer_nll"):
                parts.append(pd.DataFrame(fixed | course | {"metric": metric, "normalised": done}))
    return pd.concat(parts, ignore_index=True)


def ladder_of(task="recall", level="0", **shortcuts):
    rungs = [("score", "chance", 0.1), ("score", "bayes", 1.0)]
    rungs += [("score", name, value) for name, value in shortcuts.items()]
    rungs += [("answer_nll", "chance", 2.3), ("answer_nll", "bayes", 0.0)]
    return pd.DataFrame(rungs, columns=["metric", "rung", "value"]).assign(task=task, level=level)


def judge(points, ladder=None):
    """Id, verdict and words of each test, without an adjustment."""
    ladder = ladder_of() if ladder is None else ladder
    table = times_earlier(points, ladder)
    tests = emergence_tests(Evidence(runs=pd.DataFrame(), rows=pd.DataFrame(), emergence=table))
    return [(test.id, *test.judge(test.p)) for test in tests]


# ------------------------------------------------------------------ the ratio


def test_a_ratio_is_counted_in_tokens_and_in_the_flops_of_the_units_in_use():
    table = times_earlier(courses(base=12, sched=6), ladder_of())
    own = table[table["metric"] == "score"].set_index("unit")["ratio"]
    middles = [np.sqrt(np.prod(GRID[k - 1 : k + 1])) for k in (12, 6, 13, 7, 14, 8)]
    expected = np.prod(np.array(middles[::2]) / middles[1::2]) ** (1 / 3)
    assert own["tokens"] == pytest.approx(expected) and expected == pytest.approx(1.25**6, rel=0.01)
    assert own["active_flops"] == pytest.approx(CHEAPER * expected)
    assert table["steps"].unique() == [GRID[-1]] and (table["shortcut"] == "").all()


def test_earlier_by_half_of_the_claim_in_both_units_is_replicated():
    ((id, verdict, said),) = judge(courses(base=12, sched=6))
    assert (id, verdict) == ("A13", "REP")
    assert said.startswith("in tokens 3.8") and "in active FLOPs 15.2 times" in said
    assert said.endswith(f"reached: 3 of 3 seeds in sched, 3 of 3 seeds in base, by {GRID[-1]:,} steps")


def test_earlier_in_flops_only_is_a_direction_and_later_in_tokens_is_no_replication():
    assert judge(courses(base=8, sched=8))[0][1] == "DIR"
    assert judge(courses(base=8, sched=13))[0][1] == "NOT"


def test_where_no_run_got_there_the_count_is_all_that_is_said():
    ((id, verdict, said),) = judge(courses(base=None, sched=None))
    assert (id, verdict) == ("A13", "NT")
    assert (
        said
        == f"recall level 0 not reached: 0 of 3 seeds in sched, 0 of 3 seeds in base, by {GRID[-1]:,} steps"
    )


def test_where_the_base_never_got_there_the_ratio_is_a_bound():
    (tokens,) = (
        times_earlier(courses(base=None, sched=8), ladder_of())
        .query("metric == 'score' and unit == 'tokens'")
        .to_dict("records")
    )
    assert tokens["bound"] == "lower"
    assert bounds(tokens) == (min(tokens["low"], tokens["restricted_low"]), math.inf)
    assert "in tokens at least" in judge(courses(base=None, sched=8))[0][2]
    assert "in tokens at most" in judge(courses(base=8, sched=None))[0][2]


def test_where_nearly_all_are_censored_nothing_is_bounded():
    """One of three runs of the base got there at its end: restricted means alone would say at most 1."""
    points = courses(base=None, sched=None)
    last = points["step"] == points["step"].max()
    late = last | (points["step"] == sorted(points["step"].unique())[-2])
    late |= points["step"] == sorted(points["step"].unique())[-3]
    one = (points["label"] == "base") & (points["init_seed"] == 0) & late
    ((id, verdict, _),) = judge(points.assign(normalised=points["normalised"].where(~one, 1.0)))
    assert (id, verdict) == ("A13", "INC")


def test_a_level_that_a_shortcut_passes_shows_no_capability():
    points, ladder = courses("route", base=12, sched=6), ladder_of("route", goal=1.0)
    ((id, verdict, said),) = judge(points, ladder)
    assert (id, verdict) == ("A16", "NT")
    assert said.startswith("the shortcut 'goal' alone passes 0.5 on route level 0")


def test_uncertainty_is_judged_by_nats_whatever_the_score_does():
    points, ladder = courses("reports", base=12, sched=6), ladder_of("reports", most_reliable=1.0)
    flat = points.assign(normalised=points["normalised"].where(points["metric"] == "answer_nll", 0.0))
    ((id, verdict, _),) = judge(flat, ladder)
    assert (id, verdict) == ("A17", "REP")
    assert CONTINUOUS == ("A17",)


# ------------------------------------------------------------------ the verdict


@pytest.mark.parametrize(
    ("ends", "p", "verdict"),
    [
        ([(3, 5), (2.8, 6)], 0.01, "REP"),
        ([(3, 5), (1.5, 4)], 0.01, "DIR"),
        ([(3, 5), (0.9, 4)], 0.01, "DIR"),  # steps only
        ([(0.8, 2), (0.9, 4)], 0.01, "NOT"),  # half of the claim is excluded in one unit
        ([(0.5, 0.9), (3, 5)], 0.01, "NOT"),  # reversed in one unit
        ([(0.8, 4), (0.9, 4)], 0.01, "INC"),
        ([(3, 5), (2.8, 6)], 0.2, "INC"),  # the adjustment takes the sign away
        ([(math.nan, math.nan), (math.nan, math.nan)], math.nan, "INC"),
        ([(3, math.inf), (2.8, math.inf)], 0.01, "REP"),
    ],
)
def test_a_claim_in_two_units_is_held_to_both(ends, p, verdict):
    assert judge_all(ends, claimed=7.3, p_adjusted=p) == verdict


def test_a_difference_in_either_unit_is_paid_for_twice():
    assert either([0.01, 0.3]) == pytest.approx(0.02)
    assert either([math.nan, 0.01]) == pytest.approx(0.02)
    assert either([0.7, 0.8]) == 1.0 and math.isnan(either([math.nan, math.nan]))


def test_the_registry_names_the_tasks_that_a_claim_is_judged_by():
    for id, tasks in TASKS.items():
        assert " or ".join(tasks) in claim(id).metric
        assert claim(id).treatment == ("sched", "small") and "without the filter" in claim(id).threshold


def test_findings_hold_capabilities_beside_all_other_claims():
    runs, rows = frames(("base", "small"), seeds=3)
    table = times_earlier(courses(base=12, sched=6, small=12, other=3), ladder_of())
    found = findings(runs, rows, emergence=table)
    own = found[found["id"] == "A13"]
    assert own["compared"].tolist() == [f"{arm} against base, recall level 0" for arm in ("sched", "small")]
    assert own["verdict"].tolist() == ["replicated", "right direction, smaller"]
    assert set(TASKS) - {"A13"} <= set(untested_claims(found)["id"])
    none = findings(runs, rows)
    assert not set(TASKS) & set(judged_claims(none)["id"])
    assert "scored for time of emergence of audit or retry" in none[none["id"] == "A14"]["measured"].item()


def test_a_reason_that_two_arms_share_is_said_once():
    runs, rows = frames(("base", "small"), seeds=3)
    points, ladder = courses("route", base=9, sched=6, small=7), ladder_of("route", goal=1.0)
    said = reading(findings(runs, rows, emergence=times_earlier(points, ladder)))
    assert said.count("A16 (planning over several steps emerges earlier)") == 1


# ------------------------------------------------------------------ arms that learn a mixture


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    """Two seeds of base and schedule on one level, with masks, and one of them trained alone."""
    level = make("task", "recall", level=0, n_eval=50)
    mixture = make("task", "mixture", tasks=(level,))
    sizes = {"seq_len": 15, "d_model": 16, "n_head": 8, "n_layer": 1, "d_ff": 16, "dropout": 0.0}
    base = make("model", "transformer_prenorm", vocab_size=64, **sizes)
    arms = arms_of_constraints(base, [BASE, SCHED], round_to=1, execution="mask")
    tracker = CapabilityTracker(primary=(level,), first=10, ratio=2.0)
    how = {"budget": 15 * 4 * 40, "batch_size": 4, "weights": "final", "track": tracker}
    plan = plan_arms(arms, mixture, equal="tokens", **how)
    runs = fresh_arms(plan, tune_arms(plan, rates=[3e-3], store=None), seeds=[0, 1])
    place = tmp_path_factory.mktemp("learned")
    rows = run_all(runs, store=Store(place / "all"), device="cpu")
    alone = run_all([runs[-1]], store=Store(place / "alone"), device="cpu")
    return runs, named(rows, arm_of(plan, runs)), alone


def test_constrained_arms_learn_a_mixture_in_groups_as_they_do_alone(learned):
    runs, rows, alone = learned
    assert all(not method.alone for method in runs[-1].methods)
    points = tracked(rows)
    assert points.groupby("label")["run"].nunique().to_dict() == {BASE: 2, SCHED: 2}
    same = [
        frame[(frame["run"] == runs[-1].digest) & (frame["metric"] == "answer_nll")].set_index("step")[
            "value"
        ]
        for frame in (points, tracked(alone))
    ]
    assert same[0].to_dict() == pytest.approx(same[1].to_dict(), rel=1e-4)


def test_a_point_of_the_course_has_the_flops_of_the_units_in_use_by_then(learned):
    runs, rows, _ = learned
    exact = tracked(with_active(rows, {run.digest: partial(active_flops, run) for run in runs}))
    run = runs[-1]
    own = exact[exact["run"] == run.digest].drop_duplicates("step").set_index("step")["flops"]
    assert own.to_dict() == {step: active_flops(run, step) for step in (10, 20, 40)}
    # The warm-up of the schedule uses more units than its middle, so a share of the total is too little.
    share = active_flops(run, 40) / run_flops(run, 40)
    assert own[10] < run_flops(run, 10) and active_flops(run, 4) > share * run_flops(run, 4)
    whole = exact[exact["run"] == runs[0].digest].drop_duplicates("step").set_index("step")["flops"]
    assert whole[10] == run_flops(runs[0], 10)
