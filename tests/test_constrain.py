"""constrain: nested widths that follow a schedule, in groups, sliced, frozen, scored and resumed."""

import pytest
import torch

from lmbench.config import discover, from_dict, kinds, make
from lmbench.layers.widths import Widths
from lmbench.measure.flops import parameters
from lmbench.methods.constrain import Constrain
from lmbench.methods.equipment import Equipment, in_force
from lmbench.methods.narrowing import deployed, sizes_of, sliced_config
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training import grouping
from lmbench.training.execute import run_all
from lmbench.training.program import Program
from lmbench.training.rescore import evaluate_run
from tests import test_model_contracts as contracts
from tests.test_funnel import LARGE, SMALL, TINY

CPU = torch.device("cpu")
SIZES = {"seq_len": 6, "d_model": 16, "n_head": 4, "n_layer": 2, "d_ff": 12, "dropout": 0.0}
MODEL = make("model", "transformer", vocab_size=13, **SIZES | {"d_model": 32, "d_ff": 24})
MODERN = {"positions": "rope", "norm": "rmsnorm", "activation": "swiglu", "tied_head": True, "bias": False}


def run_of(task, *, options=None, steps=20, run=None, **fields):
    """A run of a few milliseconds a step with a constraint."""
    from lmbench.training.execute import fit_model

    model = fit_model(make("model", "transformer", **(SIZES | (options or {}))), task)
    defaults = {
        "steps": steps, "batch_size": 4, "protocol": make("protocol", "dense", eval_bytes=150),
        "dtype": "float64", "schedule": "constant",
    }  # fmt: skip
    return make(
        "run", "run", model=model, task=task, methods=(Constrain(**fields),), **(defaults | (run or {}))
    )


def trained(*runs, steps=None):
    program = Program(list(runs), device=CPU)
    program.advance(runs[0].steps if steps is None else steps)
    return program


# ------------------------------------------------------------------ widths over a training


def test_widths_at_the_edges_of_the_published_phases():
    constrain = Constrain()
    at = {step: tuple(constrain.widths(SMALL, step, steps=10_000)) for step in (0, 1000, 8999, 9000, 9999)}
    assert at[0] == (7, 537, 1781)
    assert at[1000] == at[9000] == (4, 384, 921)
    assert at[8999] == (4, 348, 725)
    assert at[9999] == (7, 537, 1780)
    # The final net keeps 70% of the embedding, 64% of the heads and 58% of the feed-forward.
    shares = constrain.shares(10_000, steps=10_000)
    assert shares == pytest.approx({"n_head": 0.36, "d_model": 0.3, "d_ff": 0.42})


@pytest.mark.parametrize(("n_head", "seen"), [(4, {1}), (8, {2, 3}), (12, {4, 5}), (16, {5, 6, 7})])
def test_few_heads_do_not_see_the_oscillation(n_head, seen):
    model, steps = TINY.replace(n_head=n_head, d_head=8), 1000
    found = {Constrain().widths(model, step, steps=steps).n_head for step in range(100, 900)}
    assert found == seen


def kept(constrain, model, step, steps):
    """Share of the body's weights that is kept, with shares as they are, not whole units."""
    c = constrain.shares(step, steps=steps)
    attention, feedforward = 4 * model.d_model**2, 2 * model.d_model * model.d_ff
    heads = (1 - c["d_model"]) * (1 - c["n_head"])
    units = (1 - c["d_model"]) * (1 - c["d_ff"])
    return (attention * heads + feedforward * units) / (attention + feedforward)


@pytest.mark.parametrize(
    ("model", "reductions"),
    [
        (SMALL, (-49, -62, -68, -73, -78)),
        (TINY, (-55, -69, -74, -80, -84)),
        (LARGE, (-56, -69, -75, -81, -85)),
    ],
)
def test_total_reduction_of_parameters_at_a_constant_constraint(model, reductions):
    vectors = (model.vocab_size + model.seq_len) * model.d_model
    body = parameters(model).total - vectors
    for level, expected in zip((0.3, 0.4, 0.45, 0.5, 0.55), reductions, strict=True):
        constrain = Constrain(curve=level)
        left = vectors * (1 - level) + body * kept(constrain, model, 0, 1)
        assert 100 * (left / (vectors + body) - 1) == pytest.approx(expected, abs=0.5), level
        # Whole units are fewer than the share asks for, most of all where heads are few.
        small = sliced_config(model, constrain.widths(model, 0, steps=1))
        assert parameters(small).total <= left * 1.01


def flops(model, *, names):
    return sum(term.forward for term in model.terms("all") if term.name in names)


@pytest.mark.parametrize(
    ("model", "body", "with_head", "exact"),
    [(SMALL, 0.190, 0.293, 0.184), (TINY, 0.199, 0.217, 0.160), (LARGE, 0.190, 0.216, 0.185)],
)
def test_mean_active_flops_of_the_published_schedule(model, body, with_head, exact):
    constrain, steps = Constrain(), 1000
    shares = [kept(constrain, model, step, steps) for step in range(steps)]
    assert sum(shares) / steps == pytest.approx(body, abs=0.001)
    assert 5.0 < steps / sum(shares) < 5.3
    head = model.vocab_size * model.d_model
    full = model.n_layer * (4 * model.d_model**2 + 2 * model.d_model * model.d_ff)
    heads = [1 - constrain.shares(step, steps=steps)["d_model"] for step in range(steps)]
    total = (full * sum(shares) + head * sum(heads)) / steps
    assert total / (full + head) == pytest.approx(with_head, abs=0.001)
    # In whole units, by the ledger of the models that are executed.
    course = constrain.executed(model, steps=steps)
    ends = [first for first, _ in course[1:]] + [steps]
    names = ("projections", "feedforward")
    spent = sum(
        (end - first) * flops(one, names=names) for (first, one), end in zip(course, ends, strict=True)
    )
    assert spent / steps / flops(model, names=names) == pytest.approx(exact, abs=0.001)


def test_what_is_executed_changes_where_the_widths_do():
    constrain = Constrain(curve={"kind": "staircase", "levels": (0.0, 0.5, 0.0)})
    course = constrain.executed(TINY, steps=9)
    assert [first for first, _ in course] == [0, 3, 6]
    assert course[0][1] == course[2][1] == TINY
    small = course[1][1]
    assert (small.n_head, small.d_model, small.d_ff, small.d_head) == (1, 64, 76, 32)


def test_rounding_leaves_few_widths_to_a_sliced_training():
    sliced = make("method", "constrain_sliced")
    widths = {tuple(sliced.widths(TINY, step, steps=1000)) for step in range(1000)}
    assert all(width % 8 == 0 and units % 8 == 0 for _, width, units in widths)
    assert len(widths) < 20 < len({tuple(Constrain().widths(TINY, step, steps=1000)) for step in range(1000)})


def test_a_constraint_that_asks_for_more_than_there_is_is_clipped_and_says_so():
    assert Constrain().clipped_share(SMALL, steps=100) == 0.0
    # 1.4 C reaches 1 at C = .714 and 1.2 C at .833, a unit earlier where there are few.
    assert [Constrain(curve=level).clipped_share(SMALL, steps=5) for level in (0.71, 0.715, 0.84)] == [
        0,
        1,
        1,
    ]
    only_heads = Constrain(curve=0.84, embedding=0, feedforward=0)
    assert [only_heads.replace(curve=c).clipped_share(LARGE, steps=5) for c in (0.78, 0.84)] == [0, 1]
    assert tuple(Constrain(curve=1.0).widths(TINY, 0, steps=1)) == (1, 1, 1)
    equipment = Equipment.of(MODEL, [Constrain(curve=0.9)], init_seed=0, steps=3)
    equipment.settle()
    assert equipment.report() == {
        "active_n_head": 1,
        "active_d_model": 3,
        "active_d_ff": 1,
        "clipped_share": 1,
    }


# ------------------------------------------------------------------ neutral


@pytest.mark.parametrize(
    "fields", [{"curve": 0}, {"heads": 0, "embedding": 0, "feedforward": 0}, {"curve": -1.0}]
)
def test_a_constraint_of_nothing_installs_nothing_and_trains_to_the_bit(task, fields):
    run = run_of(task, **fields)
    assert run.methods[0].attach(seeded(run.model, init_seed=0), run.model, steps=20) is None
    plain = trained(run.replace(methods=()))
    neutral = trained(run)
    assert torch.equal(plain.losses_SR, neutral.losses_SR)
    assert torch.equal(plain.weights_RP, neutral.weights_RP)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("fields", [
    {}, {"rule": "random"}, {"rule": "importance", "refresh_every": 3}, {"inactive": "decay", "curve": 0.5},
], ids=str)  # fmt: skip
def test_replicas_with_a_constraint_end_as_they_would_alone(task, fields):
    one = run_of(task, steps=10, options={"dropout": 0.1}, **fields)
    two = one.with_seed(3)
    assert len({grouping.key(run) for run in (one, two)}) == 1
    group = trained(one, two)
    for at, run in enumerate((one, two)):
        alone = trained(run)
        torch.testing.assert_close(group.losses_SR[:, at], alone.losses_SR[:, 0], rtol=0, atol=1e-9)
        torch.testing.assert_close(group.weights_RP[at], alone.weights_RP[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "options", [{}, MODERN | {"norm_order": "pre", "qk_norm": True}], ids=["published", "modern"]
)
@pytest.mark.parametrize("inactive", ["freeze", "decay"])
def test_a_sliced_training_ends_where_the_masked_one_does(task, options, inactive):
    both = [
        trained(run_of(task, options=options, execution=execution, inactive=inactive))
        for execution in ("mask", "slice")
    ]
    torch.testing.assert_close(both[0].losses_SR, both[1].losses_SR, rtol=0, atol=1e-9)
    torch.testing.assert_close(both[0].weights_RP, both[1].weights_RP, rtol=0, atol=1e-9)
    assert len(both[1].execution.steps) > len(both[0].execution.steps) == 1


def test_slices_run_alone_and_say_why(task):
    run = run_of(task, execution="slice")
    assert run.methods[0].alone == "constrain slices its passes to widths of the step"
    assert run_of(task).methods[0].alone == ""
    stages = run.methods[0].stages([(0, run.model)], steps=20)
    assert stages == run.methods[0].executed(run.model, steps=20)
    assert run_of(task).methods[0].stages([(0, run.model)], steps=20) == [(0, run.model)]


def in_use(program, widths):
    """(R, P) booleans of the trained numbers that the widths use."""
    attached = program.replicas.equipment.attached[0]
    counts = {f"widths.{name}": torch.tensor([float(n)]) for name, n in widths._asdict().items()}
    masks = attached.active(counts)
    views = program.replicas.layout.views(torch.zeros_like(program.replicas.master_RP))
    return {name: masks[name].expand_as(view) for name, view in views.items() if name in masks}


@pytest.mark.parametrize("execution", ["mask", "slice"])
def test_frozen_units_stay_to_the_bit_and_decaying_ones_shrink(task, execution):
    held = {}
    for inactive in ("freeze", "decay"):
        optimizer = make("optimizer", "adamw", lr=0.01, weight_decay=0.1)
        run = run_of(task, curve=0.5, inactive=inactive, execution=execution, run={"optimizer": optimizer})
        program = Program([run], device=CPU)
        before = {name: view.clone() for name, view in program.replicas.trained_views().items()}
        program.advance(20)
        used = in_use(program, run.methods[0].widths(run.model, 0, steps=20))
        held[inactive] = [
            (before[name][~mask], view[~mask], before[name][mask], view[mask], name)
            for name, view in program.replicas.trained_views().items()
            if (mask := used.get(name)) is not None
        ]
    for start, end, used_start, used_end, name in held["freeze"]:
        assert torch.equal(start, end), name
        assert not torch.equal(used_start, used_end), name
    matrices = [(start, end) for start, end, _, _, name in held["decay"] if "up" in name and "weight" in name]
    for start, end in matrices:
        torch.testing.assert_close(end, start * (1 - 0.01 * 0.1) ** 20)


def test_units_that_fall_out_of_use_stop_with_their_momentum(task):
    curve = {"kind": "staircase", "levels": (0.0, 0.5)}
    run = run_of(task, curve=curve, run={"optimizer": make("optimizer", "adamw", lr=0.01)})
    program = trained(run, steps=10)
    before = {name: view.clone() for name, view in program.replicas.trained_views().items()}
    program.advance(10)
    used = in_use(program, run.methods[0].widths(run.model, 19, steps=20))
    views = program.replicas.trained_views()
    assert all(torch.equal(before[name][~mask], views[name][~mask]) for name, mask in used.items())


def test_old_moments_of_units_out_of_use_do_not_turn_those_in_use(task):
    """Muon's update of a number depends on the moments of its whole matrix."""
    curve = {"kind": "staircase", "levels": [0.0, 0.5]}
    run = run_of(task, steps=8, curve=curve, run={"optimizer": make("optimizer", "muon")})
    kept, cleared = trained(run, steps=4), trained(run, steps=4)
    for program in (kept, cleared):
        program.advance(1)  # so that the narrow widths are in the buffers
    used_RP = cleared.replicas.active()
    assert 0.2 < used_RP.double().mean() < 0.8 and (kept.update.state["mean"][~used_RP] != 0).any()
    cleared.update.state["mean"][~used_RP] = 0.0
    for program in (kept, cleared):
        program.advance(3)
    assert torch.equal(kept.replicas.master_RP[used_RP], cleared.replicas.master_RP[used_RP])


@pytest.mark.parametrize("other", sorted({"prune", "quantize"} & set(kinds("method"))))
def test_widths_are_masked_after_weights_are_pruned_or_rounded(task, other):
    method = make("method", other)
    run = run_of(task, curve=0.5)
    both = run.replace(methods=(*run.methods, method))
    trained(both, steps=3)
    equipment = Equipment.of(run.model, both.methods, init_seed=0, steps=20)
    alone = Equipment.of(run.model, [method], init_seed=0, steps=20)
    equipment.settle()
    alone.settle()
    up, plain = (one.model.blocks[0].feedforward.up.weight for one in (equipment, alone))
    used = (torch.arange(12) < run.methods[0].widths(run.model, 0, steps=20).d_ff).unsqueeze(1)
    # What others make of the whole weight, and then 0: a row's scale is that of all its columns.
    assert torch.equal(up, plain * used)


BESIDE = {
    "prune": {}, "quantize": {"bits": 8, "start": 0.3}, "neutral": {"bits": 32},
    "groups": {"bits": 4, "granularity": "group", "group": 5}, "learned": {"bits": 4, "scheme": "lsq"},
}  # fmt: skip


@pytest.mark.parametrize("name", BESIDE)
def test_a_sliced_training_ends_where_the_masked_one_does_beside_others(task, name):
    both = []
    for execution in ("mask", "slice"):
        run = run_of(task, execution=execution)
        other = make("method", "prune" if name == "prune" else "quantize", **BESIDE[name])
        run = run.replace(methods=(*run.methods, other))
        for method in run.methods:
            method.check(run)
        both.append(trained(run))
    torch.testing.assert_close(both[0].losses_SR, both[1].losses_SR, rtol=0, atol=1e-9)
    torch.testing.assert_close(both[0].weights_RP, both[1].weights_RP, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "fields", [{}, {"execution": "slice"}, {"rule": "random"}, {"rule": "importance"}], ids=str
)
def test_a_training_goes_on_after_a_kill_as_if_nothing_had_been(task, fields):
    run = run_of(task, refresh_every=4, **fields)
    whole, first = trained(run), trained(run, steps=10)
    second = Program([run], device=CPU)
    second.restore({name: value.clone() for name, value in first.tensors().items()}, done=10)
    second.advance(10)
    assert torch.equal(whole.losses_SR, second.losses_SR)
    assert torch.equal(whole.weights_RP, second.weights_RP)


def test_the_heaviest_units_are_in_use():
    method = Constrain(curve=0.5, rule="importance")
    equipment = Equipment.of(MODEL, [method], init_seed=0, steps=1)
    with torch.no_grad():
        for at, block in enumerate(equipment.model.blocks):
            up, down = equipment.original(f"blocks.{at}.feedforward.up.weight"), block.feedforward.down
            up.fill_(0.1)
            up[3 * at : 3 * at + 7] = 1.0
            assert down.weight.shape == (32, 24)
        equipment.original("embedding.token.weight")[:, 16:] *= 9
    equipment.settle()
    masks = equipment.attached[0].masks
    for layer in (0, 1):
        assert masks.used("d_ff", layer=layer).nonzero().flatten().tolist() == list(
            range(3 * layer, 3 * layer + 7)
        )
    assert masks.used("d_model", layer=0).nonzero().flatten().tolist() == list(range(16, 32))
    assert masks.used("n_head", layer=0).sum() == 1


# ------------------------------------------------------------------ scoring


def scored(model, weights, methods, ids):
    equipment = Equipment.of(model, methods, init_seed=5, steps=1)
    equipment.load_plain(weights)
    equipment.settle()
    return equipment.model.eval()(ids).logits_BTV


def test_weights_are_scored_at_the_scheduled_the_published_and_the_full_width():
    ids, plain = contracts.tokens(MODEL), contracts.moved(MODEL).eval()
    weights, method, steps = dict(plain.named_parameters()), Constrain(), 1000
    torch.testing.assert_close(scored(MODEL, weights, (), ids), plain(ids).logits_BTV)
    for methods, widths in (
        (in_force([method], step=steps, steps=steps), method.widths(MODEL, steps - 1, steps=steps)),
        (in_force([method], step=500, steps=steps), method.widths(MODEL, 499, steps=steps)),
        ((method.at(0.5),), Widths(1, 16, 7)),
    ):
        small, own = deployed(MODEL, weights, widths)
        alone = seeded(small, init_seed=0)
        alone.load_state_dict(own)
        found = scored(MODEL, weights, methods, ids)
        torch.testing.assert_close(found, alone.eval()(ids).logits_BTV, rtol=1e-5, atol=1e-5)
        assert (small.n_head, small.d_model, small.d_ff) == tuple(widths)


def test_exported_weights_are_not_narrowed():
    equipment = Equipment.of(MODEL, [Constrain(curve=0.5)], init_seed=0, steps=3)
    plain = seeded(MODEL, init_seed=0)
    exported = equipment.exported()
    assert exported.keys() == dict(plain.named_parameters()).keys()
    assert all(torch.equal(exported[name], value) for name, value in plain.named_parameters())


def test_what_is_in_force_is_a_constant_that_does_not_depend_on_how_it_was_trained():
    one = Constrain().in_force(1000, 1000)
    other = Constrain(execution="slice", inactive="decay").in_force(1000, 1000)
    assert one == other and one.digest == other.digest
    assert one.shares(0, steps=1) == Constrain().shares(999, steps=1000)
    assert Constrain(curve=0.0).in_force(5, 10) is None
    assert Constrain(rule="random").in_force(5, 10) is None
    preprint = make("method", "constrain_preprint")
    assert preprint.in_force(5, 10).shares(0, steps=1) == pytest.approx(preprint.shares(4, steps=10))
    assert preprint.at(0.5).shares(0, steps=1) == Constrain(curve=0.5).shares(0, steps=1)


def test_earlier_weights_of_other_widths_are_no_best_ones():
    assert [Constrain().settled(step, 1000) for step in (1, 500, 999, 1000)] == [False, False, False, True]
    assert Constrain(curve=0.5).settled(1, 1000)
    assert Constrain(rule="random").settled(1, 1000)


def test_the_heaviest_units_are_those_of_the_weights_that_are_scored(task, tmp_path):
    """In training ranks are as old as the last refresh, which nobody could know of stored weights."""
    run = run_of(task, curve=0.5, rule="importance", refresh_every=100, run={"dtype": "float32"})
    run = run.replace(optimizer=run.optimizer.replace(lr=0.05), ema=0.5)
    store = Store(tmp_path)
    rows = run_all([run], store=store, device="cpu", progress=False)
    said = rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"].item()
    again = evaluate_run(run.digest, store=store, protocol=run.protocol.replace(stride=3), device="cpu")
    assert again[again["metric"] == "nll"]["value"].item() == pytest.approx(said, abs=1e-6)
    program = trained(run)
    old = program.replicas.state_views()["widths.rank_d_ff"]
    assert not torch.equal(
        program.replicas.state_views(program.kept.with_fresh_state(program.weights_RP))["widths.rank_d_ff"],
        old,
    ), "the ranks moved meanwhile"


def test_ranking_the_units_leaves_the_state_of_other_methods_alone(task):
    run = run_of(task, curve=0.5, rule="importance", refresh_every=2)
    prune = make("method", "prune", density=0.5, every=2, start=0.0, finish=0.3)
    quantize = make("method", "quantize", bits=4, scheme="lsq", parts=("embedding",))
    program = trained(run.replace(methods=(*run.methods, prune, quantize)))
    views = program.replicas.state_views()
    masks = [view for name, view in views.items() if name.endswith(".mask")]
    sizes = [view for name, view in views.items() if name.endswith(".size")]
    assert masks and all(set(mask.unique().tolist()) == {0.0, 1.0} for mask in masks)
    assert sizes and all(bool((size > 0).all() and (size < 1).all()) for size in sizes)
    kept = program.replicas.state_views(program.kept.with_fresh_state(program.weights_RP))
    assert all(torch.equal(kept[name], view) for name, view in views.items() if "widths" not in name)


# ------------------------------------------------------------------ names and refusals


@pytest.mark.parametrize("name", [n for n, cls in discover("method").items() if cls is Constrain])
def test_every_named_constraint_survives_json_and_has_widths(name):
    method = make("method", name)
    assert method.name == name and from_dict("method", method.to_dict()) == method
    found = {tuple(method.widths(TINY, step, steps=100)) for step in range(100)}
    assert len(found) > 3
    full = sizes_of(TINY).full
    assert all(1 <= n <= total for widths in found for n, total in zip(widths, full, strict=True))


def test_the_preprint_leaves_the_feed_forward_alone_for_a_twentieth_of_the_training():
    method = make("method", "constrain_preprint")
    assert method.shares(4, steps=100)["d_ff"] == 0.0
    assert method.shares(5, steps=100)["d_ff"] == 0.65


REFUSED = {
    "positions": "alibi", "embedding_rank": 4, "conv_width": 3, "unet_skips": True, "embedding_mix": True,
    "branch_scales": True, "value_residual": True, "smear": True, "bigram_buckets": 7, "n_kv_head": 2,
}  # fmt: skip


@pytest.mark.parametrize("field", REFUSED)
def test_options_between_the_units_are_refused_by_name(task, field):
    run = run_of(task)
    run = run.replace(model=run.model.replace(**{field: REFUSED[field]}))
    with pytest.raises(ValueError, match=rf"cannot narrow a model with {field} = .*; accepted: ") as error:
        run.methods[0].check(run)
    assert "\n" not in str(error.value)


def test_other_models_are_refused(task):
    run = run_of(task)
    for name in ("gru", "moe", "hybrid", "depth_recurrent", "self_attention"):
        other = run.replace(model=contracts.tiny(name))
        with pytest.raises(ValueError, match=rf"which model = '{name}' is not; accepted: 'transformer'$"):
            run.methods[0].check(other)


def test_two_constraints_are_refused_in_a_run_and_beside_weights(task):
    run = run_of(task, curve=0.5)
    run = run.replace(methods=(*run.methods, Constrain(curve=0.3)))
    with pytest.raises(ValueError, match="a run takes one method 'constrain'"):
        run.methods[0].check(run)
    with pytest.raises(ValueError, match="two methods 'constrain' act on one model; accepted: one"):
        Equipment.of(MODEL, run.methods, init_seed=0, steps=1)


def test_slices_are_refused_where_they_would_compute_something_else(task):
    run = run_of(task, execution="slice", rule="random")
    with pytest.raises(
        ValueError, match=r"^rule = 'random' has no contiguous slices; accepted: execution = 'mask'$"
    ):
        run.methods[0].check(run)
    run = run_of(task, execution="slice")
    beside = run.replace(methods=(*run.methods, make("method", "quantize", activations=8)))
    with pytest.raises(
        ValueError, match=r"^execution = 'slice' passes by what 'quantize' does to activations"
    ):
        run.methods[0].check(beside)
    run.methods[0].check(run)
