"""Arms: what they are called where they are trained and where they are judged, and what they spend."""

import pytest

from lmbench.analysis import constraint_arms as judged
from lmbench.analysis import distillation_arms as judged_distillation
from lmbench.config import make
from lmbench.measure import distillation_arms
from lmbench.measure.arms import arm_table
from lmbench.measure.constraint_arms import BASE, CONSTANT, DATA, PARTS, SCHED, UNIQUE, arms_of_constraints
from lmbench.run import Run
from lmbench.training.arms import LONGER, arm_of, arm_plan, fresh_arms, longer_arms, plan_arms, tune_arms
from lmbench.training.costs import active_flops, run_flops
from tests.corpora import write_corpus

SIZES = {"seq_len": 8, "d_model": 32, "n_head": 8, "n_layer": 1, "d_ff": 32, "dropout": 0.0}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return make("task", "text", corpus=str(write_corpus(tmp_path_factory.mktemp("arms") / "small")))


@pytest.fixture(scope="module")
def base():
    return make("model", "transformer_prenorm", vocab_size=35, **SIZES)


def test_names_mean_the_same_where_arms_are_trained_and_where_they_are_judged(base):
    assert judged.LONGER == LONGER and tuple(PARTS) == judged.PARTS
    assert judged.constraint_of(f"{CONSTANT}0.3") == 0.3 and judged.constraint_of(BASE) == 0.0
    arms = [BASE, SCHED, *(f"{BASE}, {rule} 35%{end}" for rule in DATA for end in ("", UNIQUE))]
    assert len(judged.data_arms(list(arms_of_constraints(base, arms)))) == 2 * len(DATA)
    assert distillation_arms.FACTORS == judged_distillation.FACTORS
    for half in (False, True):
        cells = distillation_arms.cells(half=half)
        assert sorted(cells) == sorted(judged_distillation.factorial_cells(half=half))
    assert tuple(distillation_arms.ORDERS) == judged_distillation.SEQUENTIAL
    published = {judged_distillation.V1, judged_distillation.V1_CORRECTED}
    assert set(distillation_arms.PUBLISHED) == published | {
        judged_distillation.V2, judged_distillation.V2_CORRECTED,
    }  # fmt: skip


def test_an_arm_has_its_share_of_the_tokens_and_a_longer_one_the_flops_of_another(base, task):
    arms = arms_of_constraints(base, [BASE, SCHED, f"{BASE}, random 35%", f"{SCHED}, random 35%"], piece=32)
    how = {"batch_size": 4, "weights": "final"}
    plan = plan_arms(arms, task, equal="tokens", budget=32 * 100, **how)
    assert [run.steps for run in plan.values()] == [100, 100, 35, 35]
    spent = run_flops(plan[BASE], 100)
    longer = longer_arms(
        {name: arms[name] for name in (SCHED, f"{SCHED}, random 35%")}, task, flops=spent, **how
    )
    assert list(longer) == [SCHED + LONGER, f"{SCHED}, random 35%{LONGER}"]
    for run in longer.values():
        assert active_flops(run, run.steps) == pytest.approx(spent, rel=0.02)
    assert arm_table(arms)["budget"].tolist() == ["100%", "100%", "35%", "35%"]


def test_a_longer_arm_of_masks_goes_on_for_as_long_as_its_slices(base, task):
    steps = {}
    for execution in ("mask", "slice"):
        arms = arms_of_constraints(base, [BASE, SCHED, f"{CONSTANT}0.5"], execution=execution)
        how = {"batch_size": 4, "weights": "final"}
        plan = plan_arms(arms, task, equal="tokens", budget=32 * 100, **how)
        chosen = {name: arms[name] for name in (SCHED, f"{CONSTANT}0.5")}
        longer = longer_arms(chosen, task, flops=run_flops(plan[BASE], 100), **how)
        steps[execution] = [run.steps for run in longer.values()]
        assert min(steps[execution]) > 110
    assert steps["mask"] == steps["slice"]
    table = arm_plan(plan | longer, arms)
    assert (table["active FLOPs"] == table["training FLOPs"]).all(), "slices execute what is in use"
    masks = arms_of_constraints(base, [SCHED], execution="mask")
    both = arm_plan(plan_arms(masks, task, equal="tokens", budget=32 * 100, **how), masks)
    assert both["active FLOPs"].item() < 0.8 * both["training FLOPs"].item()


def test_one_run_under_two_names_is_refused(base, task):
    arms = arms_of_constraints(base, [BASE])
    plan = plan_arms(arms, task, equal="tokens", budget=32 * 4, batch_size=4)
    with pytest.raises(ValueError, match=r"arms 'base' and 'again' train the same; leave one out"):
        arm_of(plan | {"again": plan[BASE].with_seed(3)}, [plan[BASE]])
    tuning = tune_arms(plan, rates=[3e-3], store=None)
    with pytest.raises(ValueError, match=r"arms 'base' and 'base, equal FLOPs' train the same"):
        fresh_arms(plan | {BASE + LONGER: plan[BASE]}, tuning, seeds=[0])


def test_fresh_runs_have_the_rate_of_their_arm_and_know_its_name(base, task):
    arms = arms_of_constraints(base, [BASE, f"{CONSTANT}0.5"])
    plan = plan_arms(arms, task, equal="tokens", budget=32 * 4, batch_size=4)
    tuning = tune_arms(plan, rates=[3e-3], store=None)
    longer = {name + LONGER: run.replace(steps=9) for name, run in plan.items()}
    fresh = fresh_arms(plan | longer, tuning, seeds=[0, 1])
    assert {run.optimizer.lr for run in fresh} == {3e-3} and all(isinstance(run, Run) for run in fresh)
    assert list(arm_of(plan | longer, fresh).values()) == [name for name in plan | longer for _ in range(2)]
    with pytest.raises(ValueError, match=r"unknown tuned arm 'small'; accepted: base, const C=0.5"):
        fresh_arms({"small": plan[BASE]}, tuning, seeds=[0])


def test_unknown_arms_and_two_that_train_the_same_are_refused(base, task):
    for name, said in (
        ("schedd", "Did you mean 'sched'"),
        (f"{CONSTANT}half", "needs a number behind"),
        (f"{BASE}, filterd 35%", "Did you mean 'filtered 35%'"),
    ):
        with pytest.raises(ValueError, match=said):
            arms_of_constraints(base, [name])
    same = arms_of_constraints(base, [BASE, f"{CONSTANT}0.5"])
    with pytest.raises(ValueError, match="arms 'base' and 'again' train the same; leave one out"):
        plan_arms({BASE: same[BASE], "again": same[BASE]}, task, equal="tokens", budget=3200, batch_size=4)
