"""From made-up results of known answers to verdicts on the claims of constraint acceleration."""

import math

import pandas as pd
import pytest
from matplotlib.lines import Line2D

from lmbench.analysis import constraint_figures, constraint_forests, constraint_widths
from lmbench.analysis.claims import CLAIMS
from lmbench.analysis.constraint_arms import (
    ablation_pairs,
    arm_pairs,
    constraint_of,
    data_pairs,
    nearest_constant,
    sweep,
)
from lmbench.analysis.constraint_claims import findings, judged_claims, race_pairs, reading, untested_claims
from lmbench.analysis.constraint_costs import at_equal, cost_ratios, with_active
from lmbench.analysis.constraint_evidence import Evidence
from lmbench.analysis.constraint_shape import (
    EQUAL_FLOPS,
    EQUAL_TOKENS,
    judge_optimum,
    sweep_budgets,
    sweep_points,
)
from lmbench.analysis.equivalence import equivalences
from lmbench.analysis.intervals import t_interval
from lmbench.analysis.optimum import Optimum, two_lines
from lmbench.analysis.replication import overall
from tests.constraint_frames import EVERY, FULL, QUICK, STEPS, course, frames, share, widths_of

UNITS = {"n_head": 8, "d_model": 128, "d_ff": 256}


def verdicts(table, id):
    return table[table["id"] == id]["verdict"].tolist()


@pytest.fixture(scope="module")
def quick():
    runs, rows = frames(QUICK)
    return runs, rows, findings(runs, rows, widths=widths_of(runs))


@pytest.fixture(scope="module")
def full():
    runs, rows = frames(FULL, seeds=5)
    arms = ("base", "sched", "sched without relaxation")
    return runs, rows, findings(runs, rows, widths=widths_of(runs, arms))


# ------------------------------------------------------------------ the table


def test_every_claim_has_a_row_whatever_was_run(quick, full):
    for _, _, table in (quick, full):
        assert list(dict.fromkeys(table["id"])) == [each.id for each in CLAIMS]
        assert (table["measured"] != "").all()
    few_runs, few_rows = frames(("base", "small"), seeds=2)
    few = findings(few_runs, few_rows)
    assert set(judged_claims(few)["id"]) == {"A1", "A25"}
    assert "needs base and sched, filtered 35% or sched" in few[few["id"] == "A3"]["measured"].iloc[0]


def test_claims_out_of_reach_are_never_tested(full):
    out = {each.id for each in CLAIMS if each.out_of_reach}
    assert not out & set(judged_claims(full[2])["id"])
    assert out <= set(untested_claims(full[2])["id"])


def test_the_known_answers_of_the_quick_preset(quick):
    table = quick[2]
    assert verdicts(table, "A1") == ["not replicated"] * 2  # both about 10% worse
    assert verdicts(table, "A2") == ["not replicated"]
    assert verdicts(table, "A23") == ["inconclusive", "not replicated"]  # best at the end, best at 0
    assert verdicts(table, "A25") == ["not replicated"]
    assert verdicts(table, "A29") == ["not replicated", "not replicated"]  # +0.02 by construction
    assert verdicts(table, "A26") == verdicts(table, "A30") == ["not tested"]


def test_the_known_answers_of_the_full_preset(full):
    table = full[2]
    assert verdicts(table, "A26") == ["not replicated"]  # equal to within 1%
    assert verdicts(table, "A27") == ["replicated"]
    assert verdicts(table, "A29") == ["replicated", "not replicated"]  # favourable, and the worst of the four
    assert verdicts(table, "A30") == ["replicated", "replicated"]
    both = table[table["id"] == "A30"]["compared"].tolist()
    assert [text.rpartition(" ")[2] for text in both] == ["C=0.5", "full"]  # never the scheduled width


def test_a_seed_alone_or_a_lost_run_is_refused():
    runs, rows = frames(("base", "small"), seeds=1)
    with pytest.raises(ValueError, match="at least 2 seeds of every arm, got 1 of 'base'"):
        findings(runs, rows)
    runs, rows = frames(("base", "small"), seeds=3)
    with pytest.raises(ValueError, match="not finite"):
        findings(runs.assign(bits_per_byte=[math.nan, *runs["bits_per_byte"][1:]]), rows)


def test_a_verdict_without_a_p_is_no_member_of_its_family(quick):
    table = quick[2]
    # A23 and A25 share the family of A24 and have no p; both tests of A24 have p = 1.
    assert table[table["id"] == "A23"]["p_holm"].isna().all()
    runs, rows = frames(("base", "const C=0.3", "const C=0.5"), losses={"base": 2.0, "const C=0.3": 1.9})
    own = findings(runs, rows)
    tokens = own[(own["id"] == "A24") & own["compared"].str.contains(EQUAL_TOKENS)].iloc[0]
    values = sweep(runs).pivot(index="init_seed", columns="C", values="bits_per_byte")
    lines = two_lines(values)
    assert tokens["p_holm"] == pytest.approx(2 * max(lines.before.p, lines.after.p))


# ------------------------------------------------------------------ quality


def test_fewer_parameters_need_both_the_size_and_the_quality():
    equal = {"small": 2.0}
    runs, rows = frames(("base", "small"), seeds=5, noise=0.002, losses=equal)
    assert verdicts(findings(runs, rows), "A1") == ["replicated"]
    larger = runs.assign(parameters=runs["parameters"].replace(125_000, 200_000))
    table = findings(larger, rows)
    assert verdicts(table, "A1") == ["not replicated"]
    assert "34.5% of the parameters" in table["measured"].iloc[0]
    funnel, funnel_rows = frames(("base", "funnel"), seeds=5, noise=0.002, losses={"funnel": 2.0})
    assert verdicts(findings(funnel, funnel_rows), "A1") == ["not replicated"]  # as large as the base here
    better, better_rows = frames(("base", "small"), seeds=5, noise=0.002, losses={"small": 1.9})
    assert verdicts(findings(better, better_rows), "A1") == ["replicated"]


def test_seeds_that_spread_leave_the_quality_undecided():
    runs, rows = frames(("base", "small"), seeds=3, noise=0.05, losses={"small": 2.0})
    assert verdicts(findings(runs, rows), "A1") == ["inconclusive"]


def test_a_selection_has_to_beat_a_random_one():
    arms = ("base", "base, random 35%", "base, filtered 35%")
    as_good = {"base, random 35%": 2.0, "base, filtered 35%": 2.0}
    runs, rows = frames(arms, seeds=5, noise=0.002, losses=as_good)
    table = findings(runs, rows)
    assert verdicts(table, "A2") == ["not replicated"]
    assert "the filter adds nothing" in table[table["id"] == "A2"]["measured"].iloc[0]
    runs, rows = frames(arms, seeds=5, noise=0.002, losses=as_good | {"base, random 35%": 2.1})
    assert verdicts(findings(runs, rows), "A2") == ["replicated"]


def test_without_the_random_control_a_selection_is_not_tested():
    runs, rows = frames(("base", "base, filtered 35%"))
    table = findings(runs, rows)
    assert verdicts(table, "A2") == ["not tested"]
    assert "the control, base, random 35%, was not run" in table[table["id"] == "A2"]["measured"].iloc[0]


def test_inference_is_judged_at_every_batch_size():
    timings = pd.DataFrame(
        [
            {"width": width, "batch": batch, "tokens_per_second": speed * factor}
            for batch, fast in ((1, 1.001), (64, 3.0))
            for width, speed in (("full", 1e5), ("C=0.445", 1e5 * fast))
            for factor in (0.99, 1.0, 1.01)
        ]
    )
    runs, rows = frames(("base", "small"))
    table = findings(runs, rows, inference=timings)
    assert verdicts(table, "A5") == ["not replicated", "replicated"]  # 1.95 times is half of 3.8
    assert "3 times (95% interval" in table[table["id"] == "A5"]["measured"].iloc[1]


def test_coverage_is_compared_with_random_and_domains_with_their_quota():
    cover = pd.DataFrame(
        [
            {"label": f"base, {name} 35%", "init_seed": seed, "measure": measure, "value": value + seed / 1e4}
            for name, rare in (("random", 0.5), ("filtered", 0.4))
            for measure, value in (("rare words", rare), ("quota", 0.95))
            for seed in range(3)
        ]
    )
    runs, rows = frames(("base", "small"))
    assert verdicts(findings(runs, rows, coverage=cover), "A31") == ["not replicated", "replicated"]


# ------------------------------------------------------------------ costs


def race(**losses):
    """Rows of arms with these final losses, one FLOP a step, reached on a line from 4."""
    rows = []
    for label, per_seed in losses.items():
        for seed, (end, cost) in enumerate(per_seed):
            for step in range(1, 11):
                fixed = {
                    "run": f"{label}{seed}",
                    "label": label,
                    "init_seed": seed,
                    "device": "cpu",
                    "jobs": 1,
                }
                spent = {"step": step, "tokens": step, "flops": float(step * cost), "seconds": step * cost}
                value = 4 - (4 - end) * step / 10
                rows.append(
                    fixed | spent | {"split": "valid", "metric": "bits_per_byte", "value": value, "task": ""}
                )
    return pd.DataFrame(rows)


def test_a_ratio_compares_costs_to_the_other_arms_final_loss_seed_by_seed():
    # a falls to 2 and meets b's final 3 at step 5, at half the cost of a step: 10 / 2.5 = 4 times less.
    rows = race(a=[(2.0, 0.5), (2.0, 0.5)], b=[(3.0, 1.0), (3.0, 1.0)])
    table = cost_ratios(rows, [("a", "b")]).set_index("cost")
    assert table.loc["FLOPs", "ratio"] == pytest.approx(4)
    assert table.loc["targets", "ratio"] == pytest.approx(2)
    # The gaps: b between steps 9 and 10, a between 4 and 5.
    assert table.loc["FLOPs", "low"] == pytest.approx(9 / 2.5)
    assert table.loc["FLOPs", "high"] == pytest.approx(10 / 2.0)
    assert (table["reached"] == 2).all()


def test_the_interval_over_seeds_is_the_paired_t_interval_of_logs():
    rows = race(a=[(2.0, 0.5), (2.0, 0.25)], b=[(3.0, 1.0), (3.0, 1.0)])
    row = cost_ratios(rows, [("a", "b")]).set_index("cost").loc["FLOPs"]
    known = t_interval([math.log(4), math.log(8)])
    assert row["ratio"] == pytest.approx(math.exp(known.value))
    assert known.p < row["p"] < 1, "the gaps between validations count against it"
    assert row["low"] < math.exp(known.low) < math.exp(known.high) < row["high"]


def test_where_the_gaps_between_validations_hold_no_effect_there_is_no_p():
    rows = race(a=[(3.0, 0.98), (3.0, 0.99)], b=[(3.0, 1.0), (3.0, 1.0)])
    row = cost_ratios(rows, [("a", "b")]).set_index("cost").loc["FLOPs"]
    assert row["low"] < 1 < row["high"] and row["ratio"] > 1
    assert row["p"] == 1


def test_an_arm_that_never_gets_there_has_an_upper_bound():
    rows = race(a=[(3.5, 0.5), (3.5, 0.5)], b=[(3.0, 1.0), (3.0, 1.0)])
    row = cost_ratios(rows, [("a", "b")]).set_index("cost").loc["FLOPs"]
    assert row["known"] == "bound"
    assert math.isnan(row["ratio"])
    assert (row["low"], row["high"]) == (0, pytest.approx(2))  # it had spent 5 of 10 and was not there


def test_seconds_of_runs_that_share_a_device_decide_nothing(quick):
    runs, rows = frames(("base", "sched"), jobs=3, losses={"sched": 1.5})
    table = findings(runs, rows)
    seconds = table[table["id"] == "A4"].iloc[0]
    assert seconds["verdict"] == "inconclusive"
    assert "shared the device" in seconds["measured"]
    assert verdicts(table, "A3") == ["replicated"]


def test_a_race_needs_equal_seeds():
    rows = race(a=[(2.0, 0.5)], b=[(3.0, 1.0), (3.0, 1.0)])
    with pytest.raises(ValueError, match="need the same init_seeds; only one has 1"):
        cost_ratios(rows, [("a", "b")])


def test_losses_at_equal_cost_lie_on_a_line_between_validations():
    rows = race(a=[(2.0, 0.5)], b=[(3.0, 1.0)])
    table = at_equal(rows, cost="flops").set_index("label")["bits_per_byte"]
    assert table["a"] == pytest.approx(2.0)  # its end, 5 FLOPs
    assert table["b"] == pytest.approx(3.5)  # step 5 of 10
    between = at_equal(rows, cost="flops", budget=4.5).set_index("label")["bits_per_byte"]
    assert 3.5 < between["b"] < 3.6
    with pytest.raises(ValueError, match="no loss of b is known at 0.7 FLOPs: its first is at 1"):
        at_equal(rows, cost="flops", budget=0.7)
    with pytest.raises(ValueError, match="no loss of a is known at 7 FLOPs: its last is at 5"):
        at_equal(rows, cost="flops", budget=7.0)
    levels = rows.assign(level="domain", value=9.0)
    both = pd.concat([rows.assign(level=""), levels])
    assert at_equal(both, cost="flops").equals(at_equal(rows, cost="flops"))
    with pytest.raises(ValueError, match="has two values of bits_per_byte at step 1; keep one"):
        at_equal(pd.concat([rows, rows]), cost="flops")
    with pytest.raises(ValueError, match="cost 'steps'"):
        at_equal(rows, cost="steps")


def test_active_flops_replace_those_that_masks_executed():
    rows = race(a=[(2.0, 1.0)], b=[(3.0, 1.0)])
    last = rows[rows["run"] == "a0"].iloc[-1].to_dict() | {"split": ""}
    totals = [("selection_flops", 7.0), ("selection_reference_flops", 2.0), ("other", 100.0)]
    more = pd.DataFrame([last | {"metric": name, "value": value} for name, value in totals])
    rows = pd.concat([rows, more], ignore_index=True)
    counted = with_active(rows, {"a0": lambda step: step**2 / 25})
    assert counted[counted["run"] == "a0"]["flops"].iloc[4] == pytest.approx(1 + 7 + 2)
    assert counted[counted["run"] == "b0"]["flops"].iloc[4] == 5


# ------------------------------------------------------------------ the sweep


def best_at(low, high, *, best=None, settings=(0.0, 0.1, 0.3, 0.5, 0.7)):
    edge = low == settings[0] or high == settings[-1]
    return Optimum(best or low, low, high, 1.0, edge, 5, settings, 0.95)


def test_an_optimum_is_judged_by_its_interval_and_by_where_the_sweep_ends():
    band = (0.4, 0.6)
    fine = (0.0, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8)
    assert judge_optimum(best_at(0.45, 0.5, settings=fine), band) == ("REP", "")
    assert judge_optimum(best_at(0.4, 0.5, settings=fine), band)[0] == "INC", "0.35 may be the best"
    verdict, reason = judge_optimum(best_at(0.5, 0.5), band)
    assert (verdict, reason) == (
        "INC",
        "; with no setting between, the best may lie anywhere from 0.3 to 0.7",
    )
    assert judge_optimum(best_at(0.3, 0.5), band)[0] == "INC"
    assert judge_optimum(best_at(0.0, 0.3, settings=fine), band)[0] == "NOT", "it lies below 0.4"
    assert judge_optimum(best_at(0.0, 0.1), band)[0] == "NOT"
    assert judge_optimum(best_at(0.7, 0.7, settings=fine), band)[0] == "NOT"
    assert judge_optimum(best_at(0.8, 0.8, settings=fine), band)[0] == "NOT"
    short = (0.0, 0.3, 0.5)
    assert judge_optimum(best_at(0.5, 0.5, settings=short), band)[0] == "INC"
    assert judge_optimum(best_at(0.0, 0.0, settings=short), band)[0] == "NOT"
    verdict, reason = judge_optimum(best_at(0.3, 0.3, settings=(0.0, 0.1, 0.3)), band)
    assert (verdict, reason) == ("INC", "; no setting from 0.4 to 0.6 was tried")


def test_an_inner_optimum_at_equal_flops_is_found_and_judged():
    levels = {f"const C={c / 10:.1f}": 2.0 + 4 * (c / 10 - 0.5) ** 2 for c in range(1, 8)}
    longer = {f"{arm}, equal FLOPs": loss for arm, loss in levels.items()}
    arms = ("base", *levels)
    runs, rows = frames(arms, seeds=5, losses={"base": 3.0} | levels)
    twins = [runs[runs["label"] == arm].assign(label=f"{arm}, equal FLOPs") for arm in levels]
    budgets = sweep_budgets(Evidence(runs=pd.concat([runs, *twins]), rows=rows))
    at_flops = budgets[budgets["budget"] == EQUAL_FLOPS].groupby("C")["bits_per_byte"].mean()
    assert at_flops.idxmin() == 0.5
    table = findings(pd.concat([runs, *twins]), rows)
    assert verdicts(table, "A23")[0] == "replicated"
    assert verdicts(table, "A24")[0] == "replicated"
    assert "C = 0.5 against 0 −" in table[table["id"] == "A24"]["measured"].iloc[0]
    assert set(table[table["id"] == "A24"]["overall"]) == {"replicated"}, "equal tokens stand beside it"
    assert len(longer) == len(levels)


def test_arms_that_end_before_anothers_first_validation_are_left_out_at_equal_flops(full):
    budgets = sweep_budgets(Evidence(runs=full[0], rows=full[1]))
    at_flops = set(budgets[budgets["budget"] == EQUAL_FLOPS]["C"])
    assert set(budgets[budgets["budget"] == EQUAL_TOKENS]["C"]) - at_flops == {0.7}
    assert share("const C=0.7") * STEPS < EVERY  # it ends before the base's first validation


def test_a_rising_loss_contradicts_the_inverted_u(quick):
    table = quick[2]
    tokens = table[(table["id"] == "A24") & table["compared"].str.contains(EQUAL_TOKENS)].iloc[0]
    assert tokens["verdict"] == "not replicated"
    assert tokens["measured"].endswith("the loss rises with the constraint from the start")


def test_few_heads_do_not_test_the_oscillation():
    arms = ("base", "sched", "sched without oscillation")
    runs, rows = frames(arms)
    table = findings(runs.assign(**{"model.n_head": 4}), rows)
    assert verdicts(table, "A26") == ["not tested"]
    assert "4 heads are fewer than 8" in table[table["id"] == "A26"]["measured"].iloc[0]
    small = runs["label"] == "base"
    table = findings(runs.assign(**{"model.n_head": [4 if own else 8 for own in small]}), rows)
    assert verdicts(table, "A26") != ["not tested"], "heads of other arms do not matter"


# ------------------------------------------------------------------ names of arms


def test_names_of_arms_tell_what_belongs_together():
    assert [constraint_of(arm) for arm in ("base", "const C=0.3", "sched")] == [0.0, 0.3, None]
    assert data_pairs(list(FULL)) == [
        ("base, filtered 35%", "base, random 35%"),
        ("sched, filtered 35%", "sched, random 35%"),
        ("base, filtered 35% unique", "base, random 35% unique"),
    ]
    assert data_pairs(["base, filtered 35%", "sched, random 35%"]) == []
    # Without relaxation the schedule ends at other widths: no comparison of final losses.
    assert [b for _, b in ablation_pairs(list(FULL))] == [
        "sched without oscillation",
        "sched without warm-up",
    ]
    assert nearest_constant(list(FULL)) == "const C=0.5"
    assert nearest_constant(["base", "const C=0.3"]) is None
    assert race_pairs(QUICK)[:2] == [("sched, filtered 35%", "base"), ("sched", "base")]
    assert len(arm_pairs(list(QUICK))) == 8  # seven against the base, one against random
    assert sweep(frames(QUICK, seeds=2)[0])["C"].unique().tolist() == [0.0, 0.3, 0.5]


# ------------------------------------------------------------------ the reading


def test_the_reading_counts_states_the_rules_and_lists_what_was_not_tested(quick):
    table = quick[2]
    said = reading(table, n_seeds=3)
    done = judged_claims(table)
    counts = done.drop_duplicates("id")["overall"].value_counts()
    assert said.startswith(
        f"9 of 39 claims were tested with 3 paired seeds an arm, in {len(done)} parts: 0 replicated"
    )
    assert f"{counts['not replicated']} not replicated" in said
    assert "Holm's p, inside the claim's family" in said
    assert "A8 (equal on MMLU): models below a billion parameters answer it by chance" in said
    for row in judged_claims(table).itertuples():
        assert row.measured in said


# ------------------------------------------------------------------ figures


def texts(fig):
    fig.draw_without_rendering()
    found = [ax.get_xlabel() for ax in fig.axes] + [ax.get_ylabel() for ax in fig.axes]
    return found + [fig.caption, fig.alt] + [ax.get_title() for ax in fig.axes]


def test_the_sweep_figure_shows_both_budgets_and_says_what_it_leaves_out(full):
    runs, rows, _ = full
    fig = constraint_figures.sweep_panel(sweep_budgets(Evidence(runs=runs, rows=rows)), runs=runs)
    said = " ".join(texts(fig))
    assert EQUAL_FLOPS in said
    assert EQUAL_TOKENS in said
    assert "C = 0.7 ended before the first validation of another" in fig.caption
    assert "n = 5 seeds" in fig.caption
    assert "equal tokens: lowest at 0, 0 to 0" in fig.alt


def test_the_schedule_figure_draws_the_units_and_the_end_larger(full):
    rows = full[1]
    fig = constraint_figures.schedule_panel(rows, course(), full=UNITS)
    assert len(fig.axes) == 4
    assert "from 85% of the steps on" in " ".join(texts(fig))
    left, right = fig.axes[2].get_xlim(), fig.axes[3].get_xlim()
    assert (left[0], right[0]) == (0, 0.85 * STEPS)
    heads = next(line for line in fig.axes[0].get_lines() if isinstance(line, Line2D))
    assert heads.get_ydata()[0] == pytest.approx(100 * int(8 * (1 - 0.36)) / 8)
    with pytest.raises(ValueError, match="label 'shed'"):
        constraint_figures.schedule_panel(rows, course(), full=UNITS, arms=["shed"])
    with pytest.raises(ValueError, match="full 'd_ff'"):
        constraint_figures.schedule_panel(rows, course(), full={"n_head": 8, "d_model": 128})


def test_the_widths_are_a_table_and_a_figure(quick):
    runs = quick[0]
    widths = widths_of(runs)
    table = constraint_widths.widths_table(widths)
    assert len(table) == 6
    assert set(table["parameters"]) == {240_000, 116_000, 580_000}
    fig = constraint_widths.widths_panel(widths, runs=runs)
    assert [tick.get_text() for tick in fig.axes[0].get_yticklabels()] == ["base", "sched"]


def test_the_race_figure_has_a_log_axis_the_claims_and_arrows_for_bounds(quick):
    runs, rows, _ = quick
    ratios = cost_ratios(rows, race_pairs(QUICK))
    fig = constraint_forests.ratio_panel(ratios, runs=runs)
    ax = fig.axes[0]
    assert ax.get_xscale() == "log"
    marks = {
        (line.get_marker(), float(line.get_xdata()[0]))
        for line in ax.get_lines()
        if len(line.get_xdata()) == 1
    }
    assert {("D", 19.0), ("D", 15.0)} <= marks
    assert any(marker == "<" for marker, _ in marks)
    assert "not every seed got there" in fig.caption
    reached = cost_ratios(rows, [("base", "sched"), ("base", "small")])
    assert (reached["known"] == "interval").all()
    twice = constraint_forests.ratio_panel(reached, runs=runs)
    assert [tick.get_text() for tick in twice.axes[0].get_yticklabels()] == [
        "base\nagainst sched",
        "base\nagainst small",
    ]
    assert "not every seed" not in constraint_forests.ratio_panel(reached, runs=runs).caption


def test_the_equality_figure_shades_the_margin_and_fills_what_is_decided(quick):
    runs = quick[0]
    table = equivalences(runs, [*data_pairs(list(QUICK)), ("small", "base")])
    fig = constraint_forests.equivalence_panel(table, runs=runs)
    written = [text.get_text() for text in fig.axes[0].texts]
    assert written == table["decided"].tolist()
    assert "shaded: within 1%" in fig.caption
    mixed = pd.concat([table, table.assign(margin=0.02)])
    with pytest.raises(ValueError, match="one figure shows one margin"):
        constraint_forests.equivalence_panel(mixed, runs=runs)


def test_figures_are_the_same_bytes_twice(quick):
    runs, rows, _ = quick
    points = sweep_points(runs, rows)
    assert (
        constraint_figures.sweep_panel(points, runs=runs).svg()
        == constraint_figures.sweep_panel(points, runs=runs).svg()
    )


def test_the_race_figure_puts_the_claim_beside_its_own_arms_and_holds_a_page(quick):
    runs, rows, _ = quick
    small = constraint_forests.ratio_panel(cost_ratios(rows, [("small", "base")]), runs=runs)
    assert "D" not in {line.get_marker() for line in small.axes[0].get_lines()}
    ratios = cost_ratios(rows, [("small", "base")])
    many = pd.concat([ratios.assign(a=f"arm {i}") for i in range(15)], ignore_index=True)
    many["reached"] = 0
    many.loc[many["a"] == "arm 13", "reached"] = 2
    many.loc[many["a"] == "arm 14", "a"] = "sched"
    fig = constraint_forests.ratio_panel(many, runs=runs)
    drawn = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert drawn == ["arm 13\nagainst base", "sched\nagainst base"]
    assert "some seed got there; 13 more are in the table" in fig.caption
    each = constraint_forests.ratio_panel(many.assign(reached=1), runs=runs)
    assert len(each.axes[0].get_yticklabels()) == constraint_forests.MOST
    assert "3 more are in the table" in each.caption


def test_a_longer_arm_beside_a_sweep_that_was_read_off_does_not_change_what_is_said_of_it(quick):
    runs, rows, _ = quick
    longer = runs[runs["label"] == "sched"].assign(label="sched, equal FLOPs")
    more = pd.concat([runs, longer])
    fig = constraint_figures.sweep_panel(sweep_points(more, rows), runs=more)
    assert "validations where the cheapest arm ends" in fig.caption


def test_a_coverage_of_nothing_has_no_ratio_and_decides_nothing(quick):
    runs, rows, _ = quick
    arms = ["base, random 35%", "base, filtered 35%"]
    kept = pd.DataFrame([(a, s, "rare", 0.0) for a in arms for s in range(3)])
    kept.columns = ["label", "init_seed", "measure", "value"]
    table = findings(runs, rows, coverage=kept)
    assert verdicts(table, "A31") == ["inconclusive"]
    assert "0 in some seed" in table[table["id"] == "A31"]["measured"].iloc[0]


def test_faster_inference_stands_beside_its_flops(quick):
    runs, rows, _ = quick
    timed = pd.DataFrame(
        [(w, 1, t + i, f) for w, t, f in (("full", 100.0, 4e6), ("C=0.445", 300.0, 1e6)) for i in range(3)],
        columns=["width", "batch", "tokens_per_second", "flops_per_token"],
    )
    table = findings(runs, rows, inference=timed)
    assert table[table["id"] == "A5"]["measured"].iloc[0].endswith("with 4 times fewer FLOPs")


@pytest.mark.parametrize("growth, verdict", [(1.1, "inconclusive"), (60, "replicated")])
def test_times_that_do_not_grow_with_the_work_decide_nothing(quick, growth, verdict):
    runs, rows, _ = quick
    timed = pd.DataFrame(
        [
            (width, batch, speed * (1 + i / 100), batch / speed if growth > 8 else growth)
            for width, speed in (("full", 100.0), ("C=0.445", 400.0))
            for batch in (1, 64)
            for i in range(3)
        ],
        columns=["width", "batch", "tokens_per_second", "seconds"],
    )
    table = findings(runs, rows, inference=timed)
    assert verdicts(table, "A5") == [verdict] * 2
    assert ("launching of kernels" in table[table["id"] == "A5"]["measured"].iloc[0]) == (growth < 8)


def test_masks_save_no_time_so_no_race_in_seconds_is_decided(quick):
    runs, rows, _ = quick
    masked = runs["label"].str.startswith("sched")
    methods = ['[{"kind": "constrain", "execution": "mask"}]' if own else "[]" for own in masked]
    table = findings(runs.assign(methods=methods), rows)
    seconds = table[(table["id"] == "A4")]
    assert set(seconds["verdict"]) == {"inconclusive"}
    assert seconds["measured"].str.contains("they save no time").all()


def test_an_arm_that_went_on_to_equal_flops_decides_the_race(quick):
    runs, rows, _ = quick
    short = findings(runs, rows)
    assert set(short[short["id"] == "A3"]["overall"]) == {"inconclusive"}
    own = {name: frame[frame["label"] == "sched"] for name, frame in (("runs", runs), ("rows", rows))}
    longer = {name: frame.assign(label="sched, equal FLOPs") for name, frame in own.items()}
    end = rows[rows["label"] == "base"]["flops"].max() / own["rows"]["flops"].max()
    longer["rows"] = longer["rows"].assign(flops=own["rows"]["flops"] * end)
    longer["rows"]["run"] = longer["rows"]["run"] + "+"
    table = findings(pd.concat([runs, longer["runs"]]), pd.concat([rows, longer["rows"]]))
    races = table[table["id"] == "A3"].set_index("compared")["verdict"]
    assert races["sched, equal FLOPs against base"] == "not replicated"
    assert races["sched against base"] == "inconclusive"


def test_a_claim_of_all_widths_is_not_replicated_at_some():
    assert overall(["REP", "INC", "REP"], needs="all") == "INC"
    assert overall(["REP", "DIR"], needs="all") == "DIR"
    assert overall(["REP", "NOT"], needs="all") == "NOT"
    assert overall(["NOT", "REP"], needs="any") == "REP"
    assert overall(["NOT", "NOT"], needs="any") == "NOT"
    assert overall(["NOT", "NT"], needs="any") == "INC", "what was not tested may hold"
    assert overall(["REP", "NT"], needs="all") == "INC", "what was not tested may not"
    assert overall(["NOT", "NT"], needs="all") == "NOT"
    assert overall(["NT"], needs="all") == overall([], needs="any") == "NT"
