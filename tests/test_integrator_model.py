"""The integrator language model: published sizes and counts, its options, phases, checkpoints, effort."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import discover, make
from lmbench.layers.fused import flop_formulas
from lmbench.layers.integrator_sizes import SIZES, published_parameters, published_rank
from lmbench.measure.flops import ledger, parameters
from lmbench.models.base import seeded, stage_starts
from lmbench.training.program import Program

DOUBLE = torch.float64
TINY = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
LEVELS = {
    "baseline": "integrator",
    "level1": "integrator_level1",
    "described": "integrator_ultra_described",
    "ultra": "integrator_ultra",
}
# Millions, as the recomputed table of the guide's models has them.
TABLE = {
    "small": (44.52, 45.92, 49.15, 49.18, 22.39),
    "medium": (123.46, 127.67, 132.54, 132.26, 90.30),
    "large": (353.5, 364.7, 371.3, 370.1, 309.4),
    "xlarge": (983.4, 1005.9, 1015.8, 1013.1, 917.3),
    "3b": (2117, 2154, 2168, 2163, 2029),
    "7b": (6649, 6709, 6737, 6730, 6474),
    "13b": (12840, 12940, 12970, 12960, 12620),
    "30b": (32240, 32420, 32470, 32440, 31950),
    "70b": (64840, 65140, 65200, 65160, 64500),
}


def tiny(name="integrator", **fields):
    return make("model", name, **TINY | fields)


def tokens(batch=2, *, length=8):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ published sizes


@pytest.mark.parametrize("size", SIZES)
def test_the_recomputed_table_of_sizes_is_met(size) -> None:
    levels = ("transformer", "baseline", "level1", "ultra", "described")
    for level, millions in zip(levels, TABLE[size], strict=True):
        # The table has four digits, or two behind the point.
        assert published_parameters(level, size) / 1e6 == pytest.approx(millions, rel=6e-4, abs=0.006)


@pytest.mark.parametrize(
    ("level", "count"),
    [("baseline", 45_920_384), ("level1", 49_153_152), ("ultra", 49_175_206), ("described", 22_386_570)],
)
def test_the_small_models_have_the_published_counts_to_the_unit(level, count) -> None:
    assert published_parameters(level, "small") == count


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("level", LEVELS)
def test_models_of_all_sizes_are_built_without_memory_and_counted(level, size) -> None:
    config = make("model", LEVELS[level], published_size=size, vocab_size=50_000, seq_len=8)
    # Ultra as published also builds a shared controller, and 8 scalars for each layer, that nothing calls.
    C, n_layer = config.d_model, config.n_layer
    unused = 7 * C * 64 + 3 * 64 + 4 * C + 8 * n_layer if level == "ultra" else 0
    assert parameters(config).total + unused == published_parameters(level, size)


def test_the_published_level_1_holds_a_norm_without_use_in_each_layer() -> None:
    config = make("model", "integrator_level1_published", published_size="small", vocab_size=50_000)
    assert parameters(config).total + 6 * 2 * 512 == 49_153_152


@pytest.mark.parametrize(
    ("size", "millions"), [("small", 43.1), ("medium", 111.9), ("large", 303.5), ("xlarge", 807.9)]
)
def test_the_names_43m_to_808m_are_the_model_without_attention(size, millions) -> None:
    assert published_parameters("attention_free", size, vocab_size=50_257) / 1e6 == pytest.approx(
        millions, abs=0.06
    )


def test_the_rank_has_a_floor_of_64() -> None:
    assert [published_rank(d_model) for d_model in (128, 256, 512, 2048)] == [64, 64, 64, 256]


def test_a_published_size_fills_in_what_is_not_given() -> None:
    config = make("model", "integrator", published_size="medium", n_layer=2)
    spelled = make("model", "integrator", d_model=768, n_head=12, d_ff=3072, n_iteration=7, n_layer=2)
    assert config == spelled
    assert config.digest == spelled.digest
    assert config.published_size is None
    assert config.replace(d_ff=8).d_ff == 8


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_k": 2}, r"top_k = 2 is more than n_expert = 1; accepted: 1 to 1"),
        (
            {"start": "mu", "equilibrium": "fixed"},
            r"start = 'mu' begins where .*; accepted with it: start = 'norm'",
        ),
        (
            {"stopping": "relative", "n_iteration": 2},
            r"min_iteration = 3 is more than n_iteration = 2.*1 to 2",
        ),
        ({"d_model": 15}, r"d_model = 15 must be a multiple of n_head = 2"),
        ({"published_size": "smal"}, r"integrator.published_size = 'smal' is not accepted"),
        ({"phases": "balance"}, r"phases = 'balance' is not accepted.*Did you mean 'balanced'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(fields, message) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**fields)


def test_unknown_levels_and_sizes_are_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"unknown level of the integrator 'ultr'.*Did you mean 'ultra'"):
        published_parameters("ultr", "small")
    with pytest.raises(ValueError, match=r"unknown published size 'smal'.*Did you mean 'small'"):
        published_parameters("ultra", "smal")


# ------------------------------------------------------------------ options


@pytest.mark.parametrize("name", [n for n in discover("model") if n.startswith("integrator")])
@pytest.mark.parametrize(
    "fields",
    [
        {"shared_controller": True, "n_expert": 4, "top_k": 2},
        {"start": "mu", "dynamic_alpha": "published", "n_expert": 3, "top_k": 1, "excitation": 0.1},
        {"candidate": False, "shared_controller": True, "excitation_share": 0.3, "phases": "aggressive"},
        {"speed_weight": 0.1, "mean_weight": 0.1, "energy_weight": 0.1, "checkpointing": "block"},
    ],
    ids=str,
)
def test_options_compose_and_every_parameter_is_trained(name, fields) -> None:
    config = tiny(name, **fields)
    model, ids = seeded(config, init_seed=0).train(), tokens(8)
    model.enter(config.replace(excitation=0.05))
    output = model(ids)
    loss = output.logits_BTV.logsumexp(-1).sum() - output.logits_BTV[..., 0].sum()
    (loss if output.aux_loss is None else loss + output.aux_loss).backward()
    # Of equal weights no router of one choice can learn but from its losses, of which z is one.
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.count_nonzero(), parameter_name


def test_the_published_factors_start_much_narrower_than_a_table() -> None:
    spread = {}
    for kind in ("full", "low_rank", "low_rank_published"):
        config = make("model", "integrator", embedding=kind, vocab_size=2000, rank=256, d_model=256)
        with torch.no_grad():
            model = seeded(config, init_seed=0).eval()
            position = model.embedding.position(torch.zeros(20, 100, 256))
            spread[kind] = (model.embedding(torch.arange(2000).view(20, 100)) - position).std().item()
    assert spread["full"] == pytest.approx(0.02, rel=0.02)
    assert spread["low_rank"] == pytest.approx(0.02, rel=0.05)
    assert spread["low_rank_published"] == pytest.approx(0.0064, rel=0.05)


def test_fewer_iterations_and_stopping_are_other_ways_to_score_the_same_weights() -> None:
    config = tiny(n_iteration=6)
    shapes = [
        {name: p.shape for name, p in config.replace(**fields).build().named_parameters()}
        for fields in (
            {},
            {"n_iteration": 0},
            {"n_iteration": 3},
            {"stopping": "relative"},
            {"excited": "always"},
        )
    ]
    assert all(shape == shapes[0] for shape in shapes)


def test_a_stack_of_replicas_is_refused_a_checkpoint_with_a_reason() -> None:
    assert tiny().alone == ""
    for how in ("step", "stack", "block"):
        assert "recomputes outside of vmap" in tiny(checkpointing=how).alone


# ------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("fields", [{}, {"n_expert": 4, "top_k": 2, "speed_weight": 0.1}], ids=str)
@pytest.mark.parametrize("how", ["step", "stack", "block"])
def test_checkpoints_change_no_gradient_and_recompute_what_the_ledger_says(how, fields, dropout) -> None:
    results, flops = [], []
    for checkpointing in ("none", how):
        config = tiny(dropout=dropout, checkpointing=checkpointing, **fields)
        model = seeded(config, init_seed=0).double().train()
        with FlopCounterMode(display=False, custom_mapping=flop_formulas()) as counter:
            output = model(tokens(3))
            aux_loss = 0.0 if output.aux_loss is None else output.aux_loss
            (output.logits_BTV.square().sum() + aux_loss).backward()
        flops.append(counter.get_total_flops())
        results.append({name: p.grad for name, p in model.named_parameters()} | {"y": output.logits_BTV})
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=1e-10)
    bill = ledger(config, readout="all", batch_size=3)
    assert flops == [bill.train, bill.train + bill.recompute]
    assert bill.total == bill.train + bill.recompute > bill.train


def test_a_checkpoint_keeps_less_and_the_more_the_larger_its_unit() -> None:
    kept = {
        how: saved_bytes(tiny(checkpointing=how, n_iteration=6)) for how in ("none", "step", "stack", "block")
    }
    assert kept["none"] > kept["step"] > kept["stack"] > kept["block"]


def saved_bytes(config) -> int:
    """Of activations that the forward pass keeps for the backward pass, each storage once."""
    model = seeded(config, init_seed=0).train()
    held = {p.untyped_storage().data_ptr() for p in model.parameters()}
    seen: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(x):
        if x.untyped_storage().data_ptr() not in held:
            seen[x.untyped_storage().data_ptr()] = (x.untyped_storage().nbytes(), x)
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        output = model(tokens(4))
    assert output.logits_BTV.requires_grad
    return sum(n_bytes for n_bytes, _ in seen.values())


# ------------------------------------------------------------------ effort


def stopping_model(**fields):
    """Off its start, where all tokens move alike."""
    config = tiny(stopping="relative", tolerance=0.4, n_iteration=8, min_iteration=2, dt=0.6, **fields)
    model, generator = seeded(config, init_seed=0).double().eval(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return config, model


def test_effort_is_the_mean_count_of_iterations() -> None:
    _, model = stopping_model()
    count_LBT = model.count_iterations(tokens())
    assert len(count_LBT.unique()) > 3
    effort = model.effort(tokens())
    assert effort["iterations"].shape == (2, 8)
    assert effort["iterations"].mean().item() == pytest.approx(count_LBT.sum().item() / (2 * 2 * 8))
    slowest = (count_LBT[0].max() + count_LBT[1].max()) / 2
    assert torch.equal(effort["iterations_of_batch"], slowest.double().expand(2, 8))


def test_a_token_counted_at_n_is_scored_as_by_a_model_of_n_iterations() -> None:
    config, model = stopping_model(n_layer=1)
    count_BT, logits_BTV = model.count_iterations(tokens())[0], model(tokens()).logits_BTV
    for n in count_BT.unique().tolist():
        short = config.replace(stopping="off", n_iteration=n).build().double().eval()
        short.load_state_dict(model.state_dict())
        ends_BTV = short(tokens()).logits_BTV
        torch.testing.assert_close(ends_BTV[count_BT == n], logits_BTV[count_BT == n], rtol=0, atol=1e-12)
        assert n == 8 or not torch.allclose(ends_BTV[count_BT > n], logits_BTV[count_BT > n])


def test_without_a_rule_there_is_no_effort_to_report() -> None:
    model = seeded(tiny(), init_seed=0)
    assert model.effort(tokens()) == {}
    assert (model.train().count_iterations(tokens()) == 5).all()
    assert model.training


# ------------------------------------------------------------------ phases


@pytest.mark.parametrize("phases", ["conservative", "balanced", "aggressive", "exponential", "linear"])
def test_phases_change_numbers_and_never_parameters(phases) -> None:
    config = tiny(phases=phases, mean_weight=0.5)
    names = [name for name, _ in config.build().named_parameters()]
    for _, stage in config.stages()[::11]:
        assert [name for name, _ in stage.build().named_parameters()] == names
        assert stage.replace(mean_weight=0.5, excitation=config.excitation) == config
        assert not config.build().enter(stage)


def test_annealing_takes_the_mean_loss_to_a_tenth_in_a_hundred_parts() -> None:
    stages = tiny(phases="exponential", mean_weight=2.0).stages()
    assert len(stages) == 100
    assert [round(stages[at][1].mean_weight, 4) for at in (0, 50)] == [2.0, 0.6325]
    assert {stage.excitation for _, stage in stages} == {0.03}


def test_a_model_begins_with_the_numbers_of_its_last_stage() -> None:
    """Weights that are loaded to be scored belong to the end of training."""
    model = tiny(phases="balanced").build()
    for block in model.blocks:
        assert block.integrator.mean_weight.item() == pytest.approx(0.05)
        assert block.integrator.excitation.amplitude.item() == pytest.approx(0.05)


def phased_run(task, **fields):
    config = tiny(vocab_size=task_size(task), phases="balanced", n_iteration=2, n_layer=1, **fields)
    return make("run", "run", model=config, task=task, steps=32, batch_size=2, dtype="float64")


def task_size(task) -> int:
    from lmbench.tasks.base import load_task

    return load_task(task).vocab_size


@pytest.mark.parametrize("replicas", [1, 2])
def test_every_phase_reaches_every_cell_in_training(task, replicas) -> None:
    run = phased_run(task)
    program = Program([run.replace(init_seed=seed) for seed in range(replicas)], device=torch.device("cpu"))
    cells, seen = [block.integrator for block in program.replicas.module.blocks], []
    for _ in range(32):
        program.advance(1)
        seen.append({(c.mean_weight.item(), c.excitation.amplitude.item()) for c in cells})
    assert all(len(numbers) == 1 for numbers in seen)
    starts = stage_starts(run.model, steps=32)
    # Two steps of warm-up and two of rest, then four of exploration, and so on in cycles of six.
    assert [start for start, _ in starts] == [0, 2, 4, 8, 10, 14, 16, 20, 22, 26, 28]
    rest, explore = (0.5, 0.0), (0.05, 0.05)
    expected = [rest] * 4 + [explore] * 4 + ([rest] * 2 + [explore] * 4) * 4
    assert seen == [{numbers} for numbers in expected]


def test_a_phase_with_another_loss_trains_other_weights(task) -> None:
    ends = []
    for phases in ("balanced", "off"):
        program = Program(
            [phased_run(task).replace(model=phased_run(task).model.replace(phases=phases))],
            device=torch.device("cpu"),
        )
        program.advance(3)
        ends.append(program.losses_SR[:3, 0].clone())
    # The mean loss of the warm-up is part of what is minimised.
    assert (ends[0] > ends[1]).all()
