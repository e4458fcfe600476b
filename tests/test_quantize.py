"""quantize: which weights, when, on every kind of model, in groups as alone, and after training."""

import pytest
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch.func import functional_call, vmap

from lmbench.config import discover, kinds, make
from lmbench.layers.quantizer_activations import LiteralFeedForward
from lmbench.measure.artifact import Coding, pack, unpack
from lmbench.methods.equipment import Equipment, effective, equipped, trained_name
from lmbench.methods.parts import matrices, parts_of
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.tasks.base import Batch
from lmbench.training.execute import fit_model, run_all
from lmbench.training.loop import train
from lmbench.training.program import Program
from lmbench.training.rescore import evaluate_run
from tests.test_groups import assert_group_is_alone

CPU = torch.device("cpu")
SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 1, "d_ff": 24, "dropout": 0.0}
KINDS = pytest.mark.parametrize("name", sorted(kinds("model")))
SETTINGS = [
    {"bits": 4},
    {"bits": 3, "scheme": "lsq", "granularity": "group", "group": 6},
    {"bits": 1.58, "activations": 8},
]


def quantize(**fields):
    return make("method", "quantize", **fields)


def tiny(name, **fields):
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


def tokens_of(config, *, batch=2):
    return torch.randint(config.vocab_size, (batch, 8), generator=torch.Generator().manual_seed(1))


def batch_of(config):
    tokens = tokens_of(config)
    context = tokens[:, 1:] if config.is_window else None
    return Batch(tokens_BT=tokens, targets_BT=tokens.roll(-1, 1), context_BK=context)


def equipment(config, *methods, steps=10):
    made = Equipment.of(config, methods, init_seed=0, steps=steps)
    made.settle()
    return made


def run_of(task, model="transformer", *, methods, **fields):
    known = discover("model")[model].model_fields
    sizes = {"seq_len": 6, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 12}
    config = fit_model(make("model", model, **{k: v for k, v in sizes.items() if k in known}), task)
    defaults = {"steps": 12, "batch_size": 4, "protocol": make("protocol", "dense", eval_bytes=150)}
    return make("run", "run", model=config, task=task, methods=methods, **(defaults | fields))


def on_the_grid(weight, *, bits):
    """Whether each row holds no more values than the grid has codes."""
    levels = [len(row.unique()) for row in weight]
    return max(levels) <= (3 if bits == 1.58 else 2**bits)


# ------------------------------------------------------------------ every kind of model


@KINDS
@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_what_is_kept_can_be_written_to_a_file(name, granularity):
    kept = equipment(tiny(name), quantize(bits=4, granularity=granularity)).exported()
    assert serialize(kept), "which refuses tensors whose numbers are not in a row"


@KINDS
@pytest.mark.parametrize("fields", SETTINGS[1:])
def test_every_kind_of_model_takes_it_with_a_gradient_for_every_weight(name, fields):
    config = tiny(name)
    made = equipment(config, quantize(**fields))
    batch = batch_of(config)
    output = made.model.train()(batch.tokens_BT, batch.context_BK)
    assert torch.isfinite(output.logits_BTV).all()
    total = output.logits_BTV.square().sum() + sum(logits.square().sum() for _, logits in output.exits)
    (total if output.aux_loss is None else total + output.aux_loss).backward()
    for key, parameter in made.model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
    exported = made.exported()
    for part in matrices(made.model):
        rows = exported[part.weight]
        rows = (rows.mT if part.input_first else rows).flatten(0, -2)
        assert on_the_grid(rows, bits=fields["bits"]) or "group" in fields, part.weight
        if rows.shape[1] > 1:  # a single weight is its own scale
            assert not torch.equal(exported[part.weight], made.original(part.weight)), part.weight


@KINDS
@pytest.mark.parametrize("fields", SETTINGS[1:])
def test_stacked_models_are_each_alone(name, fields):
    config, method = tiny(name), quantize(**fields)
    made = [Equipment.of(config, [method], init_seed=seed, steps=10) for seed in range(2)]
    batch = batch_of(config)

    def held(one):
        state = {key: one.model.get_buffer(key) for key in one.state}
        return {key: value.detach() for key, value in one.model.named_parameters()} | state

    states = [held(one) for one in made]
    stacked = {key: torch.stack([state[key] for state in states]) for key in states[0]}
    module = made[0].model.eval()
    together = vmap(
        lambda state: functional_call(module, state, (batch.tokens_BT, batch.context_BK)).logits_BTV
    )(stacked)
    for logits, one in zip(together, made, strict=True):
        alone = one.model.eval()(batch.tokens_BT, batch.context_BK).logits_BTV
        # A rounding of the sums may move an activation to the next of its 255 codes.
        torch.testing.assert_close(logits, alone, rtol=0.02 if "activations" in fields else 1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("name", "limit"), [*((name, None) for name in sorted(kinds("model"))), ("transformer", 3.0)]
)
def test_a_changed_token_leaves_the_logits_before_it_alone_to_the_bit(name, limit):
    """What one range over a sequence or a batch would not do."""
    config = tiny(name)
    model = equipment(config, quantize(bits=4, activations=4, activation_limit=limit)).model.double().eval()
    tokens = tokens_of(config)
    before = model(tokens).logits_BTV
    for t in (2, 5):
        changed = tokens.clone()
        changed[:, t] = (changed[:, t] + 1) % config.vocab_size
        after = model(changed).logits_BTV
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-12)
        assert not torch.equal(after[:, t:], before[:, t:])


@KINDS
def test_thirty_two_bits_install_nothing(name):
    config = tiny(name)
    made = equipment(config, quantize(bits=32))
    plain = seeded(config, init_seed=0)
    assert [key for key, _ in made.model.named_parameters()] == [key for key, _ in plain.named_parameters()]
    assert not made.attached
    tokens = tokens_of(config)
    assert torch.equal(made.model(tokens).logits_BTV, plain(tokens).logits_BTV)


@pytest.mark.parametrize("readout", ["all", "last"])
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_a_window_is_the_same_map_at_one_position_and_at_all(name, readout):
    config = tiny(name)
    model = equipment(config, quantize(bits=4, activations=3)).model.double().eval()
    tokens = tokens_of(config)
    every = model(tokens, tokens[:, 1:]).logits_BTV[:, -1:]
    one = model(tokens, tokens[:, 1:], readout=readout).logits_BTV[:, -1:]
    torch.testing.assert_close(one, every, rtol=0, atol=1e-9)


# ------------------------------------------------------------------ parts


def test_parts_go_by_their_names():
    model = seeded(tiny("transformer"), init_seed=0)
    assert {part.role for part in parts_of(model, ["all"])} == {"embedding", "mixer", "feedforward", "head"}
    assert parts_of(model, ["all"]) == matrices(model)
    assert [part.weight for part in parts_of(model, ["blocks.0.*.out*"])] == [
        "blocks.0.attention.out_proj.weight"
    ]
    assert parts_of(model, ["mixer"]) == parts_of(model, ["attention"]) == parts_of(model, ["q", "attention"])
    labels = [part.label for part in parts_of(model, ["v", "o", "k"]) if part.weight.startswith("blocks.0")]
    assert labels == [
        "blocks.0.attention.in_proj.weight[16:32]",
        "blocks.0.attention.in_proj.weight[32:48]",
        "blocks.0.attention.out_proj.weight",
    ]


def test_rows_of_grouped_queries_have_their_own_widths():
    model = seeded(tiny("transformer", n_kv_head=1), init_seed=0)
    rows = {name: parts_of(model, [name])[0].rows for name in ("q", "k", "v")}
    assert rows == {"q": (0, 16), "k": (16, 24), "v": (24, 32)}


@KINDS
def test_every_kind_has_a_body(name):
    model = seeded(tiny(name), init_seed=0)
    body = {part.role for part in parts_of(model, ["body"])}
    assert body <= {"mixer", "feedforward"} or name == "linear"


def test_a_part_that_a_model_lacks_is_refused_with_those_that_it_has():
    model = seeded(tiny("lstm"), init_seed=0)
    with pytest.raises(ValueError, match=r"unknown part of this model 'heads'; .* Did you mean 'head'\?"):
        parts_of(model, ["heads"])
    with pytest.raises(
        ValueError, match="unknown part of this model 'attention'; accepted: all, body, embed"
    ):
        parts_of(model, ["attention"])


def test_only_the_named_parts_are_rounded():
    made = equipment(tiny("transformer"), quantize(bits=2, parts=("q", "feedforward")))
    for part in matrices(made.model):
        original, exported = made.original(part.weight), effective(made.model, part.weight)
        same = (original == exported).all(-1)
        if part.role == "feedforward":
            assert not same.any()
        elif part.weight.endswith("in_proj.weight"):
            assert same.tolist() == [False] * 16 + [True] * 32
        else:
            assert same.all()


def test_two_methods_round_different_parts_and_not_the_same_one(task):
    methods = (quantize(bits=8, parts=("embedding",)), quantize(bits=2, parts=("body",), scheme="lsq"))
    assert train(run_of(task, methods=methods, steps=2), device=CPU).final
    activations = quantize(bits=32, activations=8, parts=("feedforward",))  # changes no weight
    assert train(run_of(task, methods=(quantize(bits=4), activations), steps=2), device=CPU).final
    both = (methods[0], quantize(bits=4))
    with pytest.raises(ValueError, match=r"two methods 'quantize' of this run act on embedding.token.weight"):
        train(run_of(task, methods=both), device=CPU)


# ------------------------------------------------------------------ in training


@pytest.mark.parametrize("model", ["transformer", "lstm", "moe"])
@pytest.mark.parametrize("fields", [SETTINGS[0], SETTINGS[1] | {"start": 0.5}])
def test_runs_in_a_group_end_as_they_would_alone(task, model, fields):
    run = run_of(task, model, methods=(quantize(**fields),), dtype="float64")
    assert_group_is_alone([run, run.with_seed(3)])


def test_a_neutral_setting_leaves_every_loss_as_it_is(task):
    plain, neutral = (run_of(task, methods=methods) for methods in ((), (quantize(bits=32),)))
    losses = []
    for run in (plain, neutral):
        program = Program([run], device=CPU)
        program.advance(run.steps)
        losses.append(program.losses_SR)
    assert torch.equal(*losses)


def test_until_it_starts_the_losses_are_those_of_plain_training(task):
    losses = []
    for methods in ((), (quantize(bits=2, scheme="lsq", start=0.5, activations=4),)):
        program = Program([run_of(task, methods=methods)], device=CPU)
        program.advance(12)
        losses.append(program.losses_SR[:, 0])
    assert torch.equal(losses[0][:6], losses[1][:6])
    assert not torch.isclose(losses[0][6], losses[1][6])


def test_learned_scales_are_found_when_rounding_begins_from_what_masks_leave(task):
    methods = (
        quantize(bits=4, scheme="lsq", start=0.5),
        make("method", "prune", density=0.25, start=0.5, finish=0.5),
    )
    program = Program([run_of(task, methods=methods)], device=CPU)
    program.advance(6)
    program.replicas.recompute_state(program.done)
    views, state = program.replicas.trained_views(), program.replicas.state_views()
    model = program.replicas.module
    name = "blocks.0.feedforward.up.weight"
    weight, place = views[trained_name(model, name)][0], name.replace("weight", "parametrizations.weight")
    mask = state[f"{place}.0.mask"][0]
    assert mask.mean() == pytest.approx(0.25, abs=0.01)
    surviving = (weight * mask).abs().sum(1) / mask.sum(1).clamp_min(1)
    has_any = mask.sum(1) > 0
    torch.testing.assert_close(state[f"{place}.1.size"][0][has_any], (2 * surviving / 7**0.5)[has_any])


def test_learned_scales_are_vectors_and_so_without_decay(task):
    program = Program([run_of(task, methods=(quantize(bits=4, scheme="lsq"),))], device=CPU)
    segments = [s for s in program.replicas.layout.trained if s.name.endswith(".factor")]
    assert segments
    assert all(s.start >= program.replicas.layout.n_matrix for s in segments)
    program.advance(12)
    factors = [v for k, v in program.replicas.trained_views().items() if k.endswith(".factor")]
    assert all((factor != 1).any() for factor in factors)


@pytest.mark.parametrize("fields", [{"bits": 4}, {"bits": 2, "scheme": "lsq", "activations": 8}])
def test_what_is_kept_of_a_run_is_rounded_and_scores_as_in_training(task, tmp_path, fields):
    store = Store(tmp_path)
    run = run_of(task, methods=(quantize(**fields),))
    rows = run_all([run], store=store, device="cpu")
    kept = load_file(store.weights(run.digest))
    assert set(kept) == {name for name, _ in seeded(run.model, init_seed=0).named_parameters()}
    assert on_the_grid(kept["blocks.0.feedforward.up.weight"], bits=fields["bits"])
    again = evaluate_run(run.digest, store=store, split="test")
    said = rows[(rows["split"] == "test") & (rows["metric"] == "nll")]["value"].iloc[0]
    assert again[again["metric"] == "nll"]["value"].iloc[0] == pytest.approx(said, rel=1e-5)


def test_activations_stay_in_force_when_exported_weights_are_scored():
    method = quantize(bits=4, activations=8, start=0.5)
    assert method.in_force(5, 10) is None
    held = method.in_force(6, 10)
    assert (held.bits, held.activations, held.start) == (32, 8, 0)
    assert quantize(bits=4).in_force(10, 10) is None
    assert [method.settled(step, 10) for step in (0, 5, 6, 10)] == [False, False, True, True]


def test_learning_goes_on_through_the_rounding(task):
    optimizer = make("optimizer", "adamw", lr=0.02)
    for fields in ({"bits": 1}, {"bits": 1.58}, {"bits": 2, "scheme": "lsq"}, {"bits": 8, "scheme": "lsq"}):
        run = run_of(task, "mlp", methods=(quantize(**fields),), steps=40, optimizer=optimizer)
        program = Program([run], device=CPU)
        program.advance(40)
        losses = program.losses_SR[:, 0]
        assert losses[-5:].mean() < losses[:3].mean() - 0.3, fields


# ------------------------------------------------------------------ to the letter


def test_literally_the_quantiser_is_the_activation_function():
    config = tiny("transformer")
    model = equipment(
        config, quantize(bits=32, activations=3, activation_limit=2.0, literal=True)
    ).model.eval()
    feedforward = model.get_submodule("blocks.0.feedforward")
    assert isinstance(feedforward, LiteralFeedForward)
    x = torch.randn(1, 3, 16, generator=torch.Generator().manual_seed(0))
    inner = (feedforward.up(x) / 0.5).round().clamp(-4, 3) * 0.5
    torch.testing.assert_close(feedforward(x), feedforward.down(inner))
    assert [key for key, _ in model.named_parameters()] == [
        key for key, _ in seeded(config, init_seed=0).named_parameters()
    ]


def test_blocks_that_are_executed_again_are_quantised_to_the_letter_each_time():
    config = tiny("depth_recurrent", n_layer=4, activation="gelu")
    model = equipment(config, quantize(activations=8, literal=True)).model
    blocks = model.executed()
    assert len(blocks) > len(model.blocks)
    assert all(isinstance(block.feedforward, LiteralFeedForward) for block in blocks)


def test_the_letter_needs_a_feed_forward_that_does_not_gate(task):
    literal = quantize(activations=8, literal=True)
    gated = run_of(task, methods=(literal,))
    gated = gated.replace(model=gated.model.replace(activation="swiglu"))
    with pytest.raises(
        ValueError, match=r"blocks.0.feedforward gates .* accepted activations: gelu, relu, relu2"
    ):
        train(gated, device=CPU)
    with pytest.raises(ValueError, match="`parts` names none of this model"):
        train(run_of(task, "lstm", methods=(literal,)), device=CPU)


# ------------------------------------------------------------------ after training


@pytest.fixture
def trained():
    """Weights off their start, with inputs that hang together."""
    config = tiny("transformer")
    model = seeded(config, init_seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
    return config, {name: value.detach().clone() for name, value in model.named_parameters()}


def distance(config, weights, method):
    batches = [batch_of(config)]
    with torch.no_grad():
        models = [equipped(config, weights, methods=one, batches=batches).eval() for one in ((), (method,))]
        logits = [model(batches[0].tokens_BT).logits_BTV for model in models]
    return (logits[0] - logits[1]).norm().item(), models[1]


def test_after_training_gptq_is_nearer_than_the_best_clip_and_that_than_the_largest_magnitude(trained):
    config, weights = trained
    far = {
        post: distance(
            config, weights, quantize(bits=3, post=post, parts=("body",), act_order=post == "gptq")
        )[0]
        for post in ("absmax", "mse", "gptq")
    }
    assert far["gptq"] < far["mse"] < far["absmax"]


@pytest.mark.parametrize("post", ["absmax", "mse", "gptq"])
def test_rounding_after_training_leaves_a_plain_model_with_rounded_weights(trained, post):
    config, weights = trained
    _, model = distance(config, weights, quantize(bits=4, post=post))
    found = dict(model.named_parameters())
    assert set(found) == set(weights)
    for part in matrices(model):
        assert on_the_grid(found[part.weight], bits=4)
    assert torch.equal(found["head.norm.weight"], weights["head.norm.weight"])


@KINDS
def test_every_kind_of_model_takes_gptq(name):
    config, fields = tiny(name), {"granularity": "group", "group": 5}
    model = seeded(config, init_seed=0)
    weights = {key: value.detach().clone() for key, value in model.named_parameters()}
    made = Equipment.of(config, [quantize(bits=4, post="gptq", **fields)], init_seed=0, steps=1)
    made.load_plain(weights)
    made.settle(batches=[batch_of(config)])
    changed = made.exported()
    for part in matrices(made.model):
        assert (
            not torch.equal(changed[part.weight], weights[part.weight]) or weights[part.weight].shape[-1] == 1
        )
        error = (changed[part.weight] - weights[part.weight]).norm() / weights[part.weight].norm()
        assert error < 0.3, part.weight
    left_out = made.report()["gptq_left_out"]
    known = {"embedding", *([] if name not in ("hybrid", "ssm", "linear_recurrence") else ["mixer"])}
    assert 0 < left_out <= sum(part.role in known for part in matrices(made.model))


def test_masked_weights_stay_masked_after_gptq(trained):
    config, weights = trained
    mask = {name: (value.abs() > value.abs().median()).float() for name, value in weights.items()}
    pruned = {name: value * mask[name] if value.ndim > 1 else value for name, value in weights.items()}
    _, model = distance(config, pruned, quantize(bits=4, post="gptq"))
    for part in matrices(model):
        assert not model.get_parameter(part.weight)[mask[part.weight] == 0].any()


def test_one_shot_masks_and_rounding_compose_on_given_weights(trained):
    config, weights = trained
    methods = [quantize(bits=4, post="mse", parts=("body",)), make("method", "prune", density=0.5)]
    model = equipped(config, weights, methods=methods).eval()
    for part in parts_of(model, ["body"]):
        value = effective(model, part.weight)
        assert value.count_nonzero() <= value.numel() // 2
        assert on_the_grid(value, bits=4)


def test_rounding_after_training_is_an_evaluation_and_cached(task, tmp_path):
    store = Store(tmp_path)
    run = run_of(task, methods=())
    run_all([run], store=store, device="cpu")
    found = {}
    for bits in (2.0, 8.0):
        method = quantize(bits=bits, post="gptq", calibration=2)
        rows = evaluate_run(run.digest, store=store, split="test", methods=(method,), device="cpu")
        found[bits] = rows[rows["metric"] == "nll"]["value"].iloc[0]
    plain = evaluate_run(run.digest, store=store, split="test")
    exact = plain[plain["metric"] == "nll"]["value"].iloc[0]
    assert abs(found[8.0] - exact) < 0.01 < abs(found[2.0] - exact)


# ------------------------------------------------------------------ packed


def packed_weights(config, made, method):
    """What comes back from the bytes."""
    weights = made.exported()
    codings = {name: Coding(one.bits, one.granularity) for name, one in method.coded(config).items()}
    packed = pack(config, weights=weights, codings=codings)
    return packed, weights, unpack(packed.data).weights


@pytest.mark.parametrize("bits", [1, 1.58, 2, 5, 8])
@pytest.mark.parametrize(
    "fields",
    [
        {"granularity": "row"},
        {"granularity": "group", "group": 5},
        {"granularity": "tensor", "parts": ("q", "k", "v", "feedforward", "embedding")},
        {"scheme": "lsq"},
        {"post": "mse"},
        {"post": "gptq", "granularity": "group", "group": 5},
    ],
)
def test_what_is_rounded_is_packed_at_its_width_and_comes_back(bits, fields):
    config, method = tiny("transformer"), quantize(bits=bits, **fields)
    made = Equipment.of(config, [method], init_seed=0, steps=1)
    made.settle(batches=[batch_of(config)])
    packed, weights, back = packed_weights(config, made, method)
    for name, value in weights.items():
        torch.testing.assert_close(back[name], value, rtol=1e-6, atol=0)
    rounded = [part.weight for part in matrices(made.model) if part.weight in method.coded(config)]
    assert len(rounded) >= 4
    widths = {tensor.name: tensor.bits for tensor in packed.tensors}
    assert all(widths[name] == bits for name in rounded)


@KINDS
def test_every_kind_of_model_is_packed_with_what_it_is_rounded_to(name):
    config, methods = tiny(name), (quantize(bits=4), make("method", "prune", density=0.5))
    made = Equipment.of(config, methods, init_seed=0, steps=1)
    made.settle()
    _, weights, back = packed_weights(config, made, methods[0])
    assert all(torch.allclose(back[key], value, rtol=1e-6, atol=0) for key, value in weights.items())


def test_weights_of_which_some_rows_are_not_rounded_are_written_as_floats():
    coded = quantize(bits=4, parts=("q", "v", "o")).coded(tiny("transformer"))
    assert set(coded) == {"blocks.0.attention.out_proj.weight"}
    assert quantize(bits=32, activations=8).coded(tiny("transformer")) == {}
    assert not any("c_fc" in key for key in quantize(bits=4).coded(tiny("huggingface")))


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"bits": 7}, r"bits = 7 has no grid; .* Did you mean 6\?"),
        ({"bits": 4, "activations": 1.5}, "activations = 1.5 bits; accepted: 2 to 8, whole, or None"),
        ({"literal": True}, "literal = True needs bits of activations"),
        ({"activation_limit": 2.0}, "activation_limit = 2 needs bits of activations"),
        ({"act_order": True}, "act_order = True is of GPTQ, but post = None; accepted: 'gptq'"),
        ({"act_order": True, "post": "mse"}, "act_order = True is of GPTQ, but post = 'mse'"),
        ({"group": 64}, "group = 64 is read by no granularity = 'row'; accepted: 'group'"),
        ({"group": 64, "granularity": "tensor"}, "group = 64 is read by no granularity = 'tensor'"),
        ({"post": "mse", "start": 0.5}, "start = 0.5 is of training, but post = 'mse' is after it"),
        ({"post": "mse", "scheme": "lsq"}, "scheme = 'lsq' is of training"),
        ({"granularity": "rows"}, r"'rows' is not accepted: .* Did you mean 'row'\?"),
        ({"start": 1.0}, "start = 1.0 is not accepted"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields, said):
    with pytest.raises(ValueError, match=said):
        quantize(**fields)


def test_rounding_after_training_is_refused_in_a_run(task):
    with pytest.raises(ValueError, match="stands in the methods of an Evaluation"):
        train(run_of(task, methods=(quantize(post="mse"),)), device=CPU)


def test_what_is_in_force_after_gptq_by_activation_order_is_the_activations_alone():
    method = quantize(bits=4, activations=8, post="gptq", act_order=True)
    assert method.in_force(1, 1) == quantize(bits=32, activations=8)
