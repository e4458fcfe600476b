"""prune: how many survive, which, when, and what becomes of the others."""

import itertools

import pytest
import torch
from safetensors.torch import load_file
from torch.func import functional_call, vmap

from lmbench.config import discover, kinds, make
from lmbench.layers.masks import (
    Mask,
    UnitWeight,
    density_from,
    kept,
    largest,
    largest_of_each,
    masks_by_magnitude,
    unit_mask,
    unit_scores,
)
from lmbench.methods.equipment import Equipment, effective
from lmbench.methods.parts import parts_of
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training.checkpoint import Checkpoint
from lmbench.training.execute import fit_model, run_all
from lmbench.training.loop import train, train_group
from lmbench.training.program import Program
from tests.test_checkpoint import Killed, assert_same_bits, stop_after
from tests.test_groups import assert_group_is_alone

CPU = torch.device("cpu")
SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 4, "n_layer": 2, "d_ff": 24, "dropout": 0.0}
KINDS = pytest.mark.parametrize("name", sorted(kinds("model")))


def prune(**fields):
    return make("method", "prune", **fields)


def tiny(name, **fields):
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


def cut(config, **fields):
    """A model that was cut at once."""
    made = Equipment.of(config, [prune(**fields)], init_seed=0, steps=1)
    made.settle()
    return made


def tokens_of(config):
    return torch.randint(config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(1))


def run_of(task, model="transformer", *, methods, **fields):
    known = discover("model")[model].model_fields
    sizes = {"seq_len": 6, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 12}
    config = fit_model(make("model", model, **{k: v for k, v in sizes.items() if k in known}), task)
    defaults = {"steps": 12, "batch_size": 4, "protocol": make("protocol", "dense", eval_bytes=150)}
    return make("run", "run", model=config, task=task, methods=methods, **(defaults | fields))


# ------------------------------------------------------------------ choosing


@pytest.mark.parametrize(
    ("density", "n", "left"), [(0.1, 64, 6), (0.9, 10, 9), (0.7, 90, 63), (0.01, 5, 1), (1.0, 7, 7)]
)
def test_as_many_survive_as_the_density_says_rounded_down_and_at_least_one(density, n, left):
    """.7 * 90 is 62.99... in binary."""
    assert kept(density, n) == left


def test_the_published_sparsity_is_the_share_that_is_not_zero():
    assert density_from(0.9) == pytest.approx(0.1)
    assert density_from(0.9, literal=True) == 0.9
    assert prune(density=0.25).sparsity == 0.75
    assert make("method", "prune_v1").density == 0.9
    with pytest.raises(ValueError, match="sparsity = 1.0 leaves a density of 0"):
        density_from(1.0)
    with pytest.raises(ValueError, match="density = 0 is no share"):
        kept(0, 4)


def test_the_largest_survive_in_each_row_also_among_equals():
    scores = torch.tensor([[3.0, 1.0, 2.0, 0.0], [5.0, 5.0, 5.0, 5.0]])
    masks = largest(scores, keep=2)
    assert masks[0].tolist() == [1, 0, 1, 0]
    assert masks.sum(1).tolist() == [2, 2]


def test_of_four_neighbours_the_two_largest_survive():
    scores = torch.tensor([[[4.0, 1.0, 2.0, 3.0, 0.1, 0.4, 0.3, 0.2]]])
    assert largest_of_each(scores, keep=2, of=4).tolist() == [[[1, 0, 0, 1, 0, 1, 1, 0]]]


def test_a_global_share_is_taken_where_weights_are_large():
    magnitudes = {"a": torch.tensor([[1.0, 2.0, 3.0]]), "b": torch.tensor([[[4.0], [0.5], [0.4]]])}
    by_tensor = masks_by_magnitude(magnitudes, density=0.34, scope="tensor")
    overall = masks_by_magnitude(magnitudes, density=0.34, scope="global")
    assert [by_tensor[name].flatten().tolist() for name in "ab"] == [[0, 0, 1], [1, 0, 0]]
    assert [overall[name].flatten().tolist() for name in "ab"] == [[0, 0, 1], [1, 0, 0]]
    overall = masks_by_magnitude(magnitudes, density=0.5, scope="global")
    assert [overall[name].flatten().tolist() for name in "ab"] == [[0, 1, 1], [1, 0, 0]]
    assert overall["b"].shape == magnitudes["b"].shape


def test_units_are_ranked_by_the_mean_square_of_all_their_weights():
    """Unit 0 has row 0 and column 0, unit 1 row 1 and column 1; row 2 is nobody's."""
    parts = [
        UnitWeight("up", torch.tensor([[0], [1], [-1]])),
        UnitWeight("down", torch.tensor([[0, 1]])),
    ]
    weights = {
        "up": torch.tensor([[[1.0, 1.0], [0.0, 2.0], [9.0, 9.0]]]),
        "down": torch.tensor([[[3.0, 0.0]]]),
    }
    scores = unit_scores(weights, parts, n_unit=2)
    torch.testing.assert_close(scores, torch.tensor([[(1 + 1 + 9) / 3, 4 / 3]]))
    chosen = largest(scores, keep=1)
    assert unit_mask(chosen, parts[0]).tolist() == [[[1], [0], [1]]]
    assert unit_mask(chosen, parts[1]).tolist() == [[[1, 0]]]


@pytest.mark.parametrize(("shadow", "gradient"), [("dense", [1, 1, 1]), ("hard", [1, 0, 1])])
def test_removed_weights_learn_on_under_a_dense_shadow_alone(shadow, gradient):
    module = Mask((3,), shadow=shadow)
    module.mask.copy_(torch.tensor([1.0, 0.0, 1.0]))
    weight = torch.tensor([0.1, 0.7, -3.0], requires_grad=True)
    masked = module(weight)
    assert torch.equal(masked, torch.tensor([0.1, 0.0, -3.0]))
    assert torch.autograd.grad(masked.sum(), weight)[0].tolist() == gradient


# ------------------------------------------------------------------ when


def test_the_share_falls_along_a_cubic_curve_and_then_stands_still():
    method = prune(density=0.1, start=0.1, finish=0.7, every=10)
    assert method.updates(100) == (10, 70, 10)
    for step in (0, 9):
        assert method.density_at(step, 100) == 1
    assert method.density_at(10, 100) == 1
    # Half way: .9 (1 - 1/8) of the weights are gone.
    assert method.density_at(40, 100) == pytest.approx(1 - 0.9 * 0.875)
    assert method.density_at(49, 100) == method.density_at(40, 100)
    assert method.density_at(70, 100) == method.density_at(99, 100) == 0.1
    assert [method.settled(step, 100) for step in (0, 70, 71, 100)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("fields", "steps", "updates"),
    [
        ({"every": 100}, 50, (5, 35, 30)),  # one step of the curve where `every` is longer than it
        ({"every": 7}, 100, (10, 66, 7)),  # the last one at or before `finish`
        ({"start": 0.5, "finish": 0.5}, 100, (50, 50, 1)),  # one cut
        ({}, 1, (0, 0, 1)),  # given weights
        ({"start": 1, "finish": 1}, 10, (9, 9, 1)),
    ],
)
def test_updates_end_by_the_finish_in_trainings_of_any_length(fields, steps, updates):
    method = prune(**fields)
    assert method.updates(steps) == updates
    assert method.density_at(updates[1], steps) == method.density


# ------------------------------------------------------------------ every kind of model


@KINDS
@pytest.mark.parametrize("scope", ["tensor", "global"])
def test_every_kind_of_model_keeps_exactly_its_share(name, scope):
    config = tiny(name)
    made = cut(config, density=0.3, scope=scope)
    parts = parts_of(made.model, ["body"])
    exported = made.exported()
    left = [int(exported[part.weight].count_nonzero()) for part in parts]
    sizes = [exported[part.weight].numel() for part in parts]
    if scope == "tensor":
        assert left == [kept(0.3, size) for size in sizes]
    else:
        assert sum(left) == kept(0.3, sum(sizes))
    report = made.report()
    assert report["density"] == report["effective_density"] == sum(left) / sum(sizes)
    assert report["sparsity"] == 1 - report["density"]
    for part in parts:
        original = made.original(part.weight).detach()
        survivors = exported[part.weight] != 0
        assert torch.equal(exported[part.weight][survivors], original[survivors])
        if scope == "tensor" and not bool(survivors.all()):
            assert original[survivors].abs().min() >= original[~survivors].abs().max()


@KINDS
def test_masks_of_a_stack_are_those_of_each_alone(name):
    config = tiny(name)
    made = [Equipment.of(config, [prune(density=0.3)], init_seed=seed, steps=1) for seed in range(2)]
    tokens = tokens_of(config)
    weights = [dict(one.model.named_parameters()) for one in made]
    stacked = {key: torch.stack([one[key].detach() for one in weights]) for key in weights[0]}
    state = {key: torch.stack([one.model.get_buffer(key) for one in made]) for key in made[0].state}
    made[0].attached[0].refresh(stacked, state, done=0)
    module = made[0].model.eval()
    together = vmap(lambda held: functional_call(module, held, (tokens,)).logits_BTV)(stacked | state)
    for at, one in enumerate(made):
        one.settle()
        assert all(torch.equal(state[key][at], one.model.get_buffer(key)) for key in one.state)
        alone = one.model.eval()(tokens).logits_BTV
        torch.testing.assert_close(together[at], alone, rtol=1e-4, atol=1e-4)


@KINDS
def test_a_density_of_one_installs_nothing(name):
    made, plain = cut(tiny(name), density=1.0), seeded(tiny(name), init_seed=0)
    assert not made.attached
    tokens = tokens_of(tiny(name))
    assert torch.equal(made.model(tokens).logits_BTV, plain(tokens).logits_BTV)


def test_named_projections_each_keep_their_share():
    """Of packed queries, keys and values; the published form leaves the output map alone."""
    made = cut(tiny("transformer"), density=0.25, parts=("q", "k", "v", "feedforward"))
    weight = effective(made.model, "blocks.0.attention.in_proj.weight")
    assert [int(rows.count_nonzero()) for rows in weight.split(16)] == [64, 64, 64]
    assert effective(made.model, "blocks.0.attention.out_proj.weight").all()
    assert effective(made.model, "embedding.token.weight").all()
    assert "density/blocks.0.attention.in_proj.weight[16:32]" in made.report()


# ------------------------------------------------------------------ structures


def test_two_of_four_inputs_survive_everywhere():
    made = cut(tiny("transformer"), density=0.5, structure="2:4")
    for part in parts_of(made.model, ["body"]):
        fours = effective(made.model, part.weight).unflatten(-1, (-1, 4))
        assert bool(((fours != 0).sum(-1) == 2).all())


def test_of_maps_that_are_stored_by_inputs_two_of_four_inputs_survive_too():
    made = cut(tiny("huggingface"), density=0.5, structure="2:4")
    weight = effective(made.model, "body.transformer.h.0.mlp.c_fc.weight")
    assert bool(((weight.mT.unflatten(-1, (-1, 4)) != 0).sum(-1) == 2).all())


def test_heads_go_with_all_their_rows_and_columns():
    made = cut(tiny("transformer"), density=0.5, structure="heads")
    for block in (0, 1):
        into = effective(made.model, f"blocks.{block}.attention.in_proj.weight").view(3, 4, 4, 16)
        out = effective(made.model, f"blocks.{block}.attention.out_proj.weight").view(16, 4, 4)
        used = out.transpose(0, 1).flatten(1).any(1)
        assert int(used.sum()) == 2
        assert all(torch.equal(one.flatten(1).any(1), used) for one in into)


def test_key_and_value_heads_that_are_shared_stay():
    made = cut(tiny("transformer", n_kv_head=2), density=0.25, structure="heads")
    weight = effective(made.model, "blocks.0.attention.in_proj.weight")
    assert weight[16:].all()
    assert int(weight[:16].view(4, 4, 16).flatten(1).any(1).sum()) == 1


def test_a_removed_head_changes_nothing_when_its_weights_change():
    config = tiny("transformer")
    made = cut(config, density=0.25, structure="heads")
    model, tokens = made.model.eval(), tokens_of(config)
    before = model(tokens).logits_BTV
    for part in parts_of(model, ["attention"]):
        original = made.original(part.weight)
        original.data[effective(model, part.weight) == 0] = 7.0
    assert torch.equal(model(tokens).logits_BTV, before)


@pytest.mark.parametrize("activation", ["relu", "swiglu"])
def test_units_go_with_their_rows_and_their_column(activation):
    made = cut(tiny("transformer", activation=activation), density=0.25, structure="units")
    up = effective(made.model, "blocks.0.feedforward.up.weight")
    used = effective(made.model, "blocks.0.feedforward.down.weight").any(0)
    assert int(used.sum()) == 6
    for rows in up.split(24):
        assert torch.equal(rows.any(1), used)


def test_units_of_experts_are_each_experts_own():
    made = cut(tiny("moe"), density=0.25, structure="units", scope="global")
    up = effective(made.model, "blocks.0.feedforward.up.weight")  # (E, 2 F, C)
    used = effective(made.model, "blocks.0.feedforward.down.weight").any(1)  # (E, F)
    assert torch.equal(up.any(-1), torch.cat((used, used), dim=1))
    other = effective(made.model, "blocks.1.feedforward.down.weight").any(1)
    assert int(used.sum() + other.sum()) == kept(0.25, used.numel() + other.numel())


# ------------------------------------------------------------------ in training


@pytest.mark.parametrize("model", ["transformer", "lstm", "mlp", "moe"])
@pytest.mark.parametrize("fields", [{}, {"scope": "global", "shadow": "hard"}])
def test_runs_in_a_group_end_as_they_would_alone(task, model, fields):
    method = prune(density=0.2, start=0.1, finish=0.7, every=3, **fields)
    run = run_of(task, model, methods=(method,), dtype="float64")
    assert_group_is_alone([run, run.with_seed(3)])


def masks_over_time(run):
    program = Program([run], device=CPU)
    name = next(name for name in program.replicas.state_views() if "feedforward.up" in name)
    found = []
    for _ in range(run.steps):
        program.advance(1)
        found.append(program.replicas.state_views()[name][0].clone())
    return program, found


def test_masks_follow_the_schedule_and_then_stand_still(task):
    method = prune(density=0.25, start=0.25, finish=0.75, every=2)
    run = run_of(task, methods=(method,), steps=16)
    _, masks = masks_over_time(run)
    size = masks[0].numel()
    assert [int(mask.sum()) for mask in masks] == [kept(method.density_at(t, 16), size) for t in range(16)]
    assert all(torch.equal(mask, masks[12]) for mask in masks[12:])


@pytest.mark.parametrize("shadow", ["dense", "hard"])
def test_removed_weights_come_back_under_a_dense_shadow_alone(task, shadow):
    method = prune(density=0.3, start=0.05, finish=0.95, every=2, shadow=shadow)
    optimizer = make("optimizer", "adamw", lr=0.03, weight_decay=0.0)
    run = run_of(task, methods=(method,), steps=40, optimizer=optimizer, schedule="constant")
    _, masks = masks_over_time(run)
    came_back = any(bool((after > before).any()) for before, after in itertools.pairwise(masks))
    assert came_back == (shadow == "dense")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_masks_and_learned_scales_survive_a_kill_at_any_step(task, tmp_path, dtype):
    methods = (
        prune(density=0.2, start=0.1, finish=0.7, every=2),
        make("method", "quantize", bits=3, scheme="lsq", start=0.5, activations=8),
    )
    run = run_of(task, methods=methods, steps=12, eval_every=4, dtype=dtype)
    runs = [run, run.with_seed(3)]
    whole = train_group(runs, device=CPU)
    made = Checkpoint(tmp_path / "checkpoints", [one.digest for one in runs], every_seconds=0)
    for steps in (3, 4, 2):  # in the middle of the curve, where rounding begins, and behind it
        with pytest.raises(Killed):
            train_group(runs, device=CPU, checkpoint=made, on_step=stop_after(steps))
    for one, other in zip(whole, train_group(runs, device=CPU, checkpoint=made), strict=True):
        assert_same_bits(one, other)


def test_a_neutral_setting_leaves_every_loss_as_it_is(task):
    losses = []
    for methods in ((), (prune(density=1.0),)):
        program = Program([run_of(task, methods=methods)], device=CPU)
        program.advance(12)
        losses.append(program.losses_SR)
    assert torch.equal(*losses)


def test_what_is_kept_of_a_run_is_as_sparse_as_asked(task, tmp_path):
    store = Store(tmp_path)
    # The first validation is before the masks are in place: its weights may not be the best.
    method = prune(density=0.2, start=0.1, finish=0.6, every=2)
    run = run_of(task, methods=(method, make("method", "quantize", bits=4)), eval_every=2)
    rows = run_all([run], store=store, device="cpu")
    kept_weights = load_file(store.weights(run.digest))
    for name in ("blocks.0.feedforward.up.weight", "blocks.0.attention.in_proj.weight"):
        value = kept_weights[name]
        assert 0 < int(value.count_nonzero()) <= kept(0.2, value.numel())
        assert max(len(row.unique()) for row in value) <= 15
    said = rows.set_index("metric")["value"]
    assert said["density"] == pytest.approx(0.2, abs=0.01)
    assert said["effective_density"] <= said["density"]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"density": 0.0}, "density = 0.0 is not accepted"),
        ({"start": 0.5, "finish": 0.2}, "finish = 0.2 is before start = 0.5; accepted: 0.5 to 1"),
        ({"structure": "2:4", "density": 0.3}, "density = 0.3 does not fit structure = '2:4'"),
        ({"structure": "2:4", "density": 0.5, "scope": "global"}, "scope = 'global' has no meaning"),
        ({"structure": "head"}, r"Did you mean 'heads'\?"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        prune(**fields)


@pytest.mark.parametrize(
    ("model", "fields", "said"),
    [
        ("lstm", {"structure": "heads"}, "'heads' needs in_proj and out_proj of attention"),
        ("lstm", {"structure": "units"}, "'units' needs up and down of a feed-forward"),
        ("transformer", {"structure": "heads", "parts": ("q",)}, "both whole among `parts`"),
        ("transformer", {"parts": ("mixers",)}, r"unknown part of this model 'mixers'.*'mixer'\?"),
    ],
)
def test_a_structure_that_a_model_lacks_is_refused_before_training(task, model, fields, said):
    with pytest.raises(ValueError, match=said):
        train(run_of(task, model, methods=(prune(density=0.5, **fields),)), device=CPU)


def test_inputs_that_are_no_multiple_of_four_are_refused_for_two_of_four(task):
    run = run_of(task, methods=(prune(density=0.5, structure="2:4"),))
    run = run.replace(model=run.model.replace(d_ff=10))
    with pytest.raises(
        ValueError, match=r"blocks.0.feedforward.down.weight has 10; accepted: .* multiple of 4"
    ):
        train(run, device=CPU)


def test_two_prunings_of_one_weight_are_refused(task):
    methods = (prune(parts=("feedforward",)), prune(density=0.5))
    with pytest.raises(ValueError, match="two methods 'prune' of this run act on blocks.0.feedforward"):
        train(run_of(task, methods=methods), device=CPU)
