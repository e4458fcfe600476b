"""Depth recurrence: one set of weights, executed several times, from some step on."""

import copy

import numpy as np
import pytest
import safetensors.torch
import torch

from lmbench.config import make
from lmbench.layers.dropout import dropout_keys, dropout_sites
from lmbench.layers.shared import dropouts_of, shared_view
from lmbench.measure.flops import ledger, mean_step_flops, parameters, train_flops
from lmbench.measure.score import summed_loss
from lmbench.models.base import seeded
from lmbench.models.depth_recurrent import DepthRecurrent
from lmbench.training.costs import run_flops
from lmbench.training.execute import fit_model
from lmbench.training.kept import Kept
from lmbench.training.loop import train
from lmbench.training.program import Program
from lmbench.training.replicas import Replicas
from tests.test_model_contracts import SIZES, double, extended, moved, set_keys, tokens

CPU = torch.device("cpu")


def config_of(**fields):
    return make("model", "depth_recurrent", **(SIZES | fields))


# ------------------------------------------------------------------ what is executed


def test_four_stored_blocks_three_times_are_twelve_layers_and_eight_times_thirty_two():
    assert make("model", "depth_recurrent").order() == (0, 1, 2, 3) * 3
    assert len(make("model", "depth_recurrent", n_loop=8).order()) == 32


def test_middle_blocks_alone_may_be_looped():
    golf = {"n_layer": 11, "loop_first": 3, "loop_last": 5, "n_loop": 3}
    assert config_of(**golf).order() == (0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10)
    assert config_of(n_layer=4, loop_first=1, loop_last=2, n_loop=2).order() == (0, 1, 2, 1, 2, 3)
    assert config_of(n_layer=3, loop_first=2, n_loop=2).order() == (0, 1, 2, 2)


def test_a_pass_is_the_plain_loop_over_the_stored_blocks():
    fields = {"n_layer": 4, "loop_first": 1, "loop_last": 2, "n_loop": 3, "loop_embedding": True}
    model, ids = double(config_of(**fields)), tokens(config_of())
    x = model.blocks[0](model.embedding(ids))
    for vector in model.loops.weight.view(3, 16):
        x = model.blocks[2](model.blocks[1](x + vector))
    x = model.blocks[3](x)
    expected = model.head(x, embedding=model.embedding, readout="all")
    torch.testing.assert_close(model(ids).logits_BTV, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fields", [{"n_loop": 1}, {"loop_from": 1.0, "n_loop": 3}])
def test_one_loop_is_the_transformer_of_the_same_fields_in_training_too(fields):
    config = config_of(dropout=0.5, **fields)
    shared = {k: getattr(config, k) for k in make("model", "transformer").to_dict() if hasattr(config, k)}
    shared = {k: v for k, v in shared.items() if k not in ("kind", "version")}
    plain = seeded(make("model", "transformer", **shared), init_seed=0).train()
    model = seeded(config, init_seed=0).train()
    assert model.state_dict().keys() == plain.state_dict().keys()
    for one in (model, plain):
        set_keys(one, first=3)
    for mode in (True, False):
        logits = [one.train(mode)(tokens(config)).logits_BTV for one in (model, plain)]
        assert torch.equal(*logits)


def test_the_vectors_of_the_passes_start_without_effect():
    with_vectors, without = (config_of(loop_embedding=on) for on in (True, False))
    ids = tokens(without)
    assert torch.equal(
        seeded(with_vectors, init_seed=0).eval()(ids).logits_BTV,
        seeded(without, init_seed=0).eval()(ids).logits_BTV,
    )
    assert parameters(with_vectors).total == parameters(without).total + 3 * 16


# ------------------------------------------------------------------ one set of weights


def test_weights_are_stored_once_and_cost_is_that_of_the_executed_depth():
    fields = {"d_model": 128, "n_head": 4, "d_ff": 256, "seq_len": 32}
    recurrent = make("model", "depth_recurrent", n_layer=4, n_loop=3, **fields)
    # The norms and activations that stacks have by default.
    modern = {"norm_order": "pre", "norm": "rmsnorm", "positions": "rope", "activation": "swiglu"}
    modern |= {"qk_norm": True, "bias": False, "attention_init": "linear"}
    four, twelve = (make("model", "transformer", n_layer=n, **fields, **modern) for n in (4, 12))
    assert parameters(recurrent) == parameters(four)
    blocks = [parameters(one).total - 2 * 65 * 128 - 128 for one in (four, twelve)]
    assert blocks[1] == 3 * blocks[0]
    assert recurrent.terms("all") == twelve.terms("all")
    assert ledger(recurrent, readout="all").forward_causal == ledger(twelve, readout="all").forward_causal


def test_names_of_weights_are_those_of_the_stored_blocks_and_saved_memory_is_not_shared():
    model = seeded(config_of(n_loop=3, value_residual=True, conv_width=2), init_seed=0)
    plain = seeded(config_of(n_loop=1, value_residual=True, conv_width=2), init_seed=0)
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    other = moved(config_of(n_loop=3, value_residual=True, conv_width=2), init_seed=5)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    ids = tokens(config_of())
    assert torch.equal(other.eval()(ids).logits_BTV, model.eval()(ids).logits_BTV)


def test_the_gradient_is_the_sum_over_the_passes():
    config = config_of(n_layer=2, n_loop=3, dropout=0.0)
    unrolled = seeded(config_of(n_layer=6, n_loop=1, dropout=0.0), init_seed=1).double()
    model = double(config).train()
    for at, block in enumerate(unrolled.blocks):
        block.load_state_dict(model.blocks[at % 2].state_dict())
    for part in ("embedding", "head"):
        unrolled.get_submodule(part).load_state_dict(model.get_submodule(part).state_dict())
    for one in (model, unrolled):
        one(tokens(config)).logits_BTV.square().sum().backward()
    for at in range(2):
        apart = [dict(block.named_parameters()) for block in unrolled.blocks[at::2]]
        assert len(apart) == 3
        for name, parameter in model.blocks[at].named_parameters():
            total = sum(one[name].grad for one in apart)
            torch.testing.assert_close(parameter.grad, total, rtol=1e-10, atol=1e-12)


def test_each_executed_layer_has_dropout_of_its_own():
    model = seeded(config_of(n_layer=2, n_loop=3, residual_dropout=True), init_seed=0)
    # Attention, mixer and feed-forward, of 2 layers in 3 passes, and the embedding's.
    sites = dropout_sites(model)
    assert len(sites) == len(set(sites)) == 3 * 2 * 3 + 1
    assert len({id(model.get_buffer(site)) for site in sites}) == len(sites)
    heard = []
    for layer, block in enumerate(model.executed()):
        for part in dropouts_of(block):
            part.register_forward_hook(lambda *_, layer=layer: heard.append(layer))
    model.train()(tokens(config_of()))
    # Attention draws its mask in the module too; each of the three is heard once in its layer.
    assert heard == [layer for layer in range(6) for _ in range(3)]


def test_dropout_of_a_later_pass_follows_its_own_key_and_the_mode_of_the_model():
    config = config_of(n_layer=1, n_loop=2, dropout=0.5)
    model, ids = moved(config).train(), tokens(config)
    set_keys(model, first=1)
    before = model(ids).logits_BTV
    later = [site for site in dropout_sites(model) if site.startswith("passes.")]
    assert len(later) == 2
    model.get_buffer(later[1]).fill_(99)
    assert not torch.equal(model(ids).logits_BTV, before)
    model.eval()
    assert torch.equal(model(ids).logits_BTV, model(ids).logits_BTV)
    set_keys(model, first=50)
    still = model(ids).logits_BTV
    set_keys(model, first=60)
    assert torch.equal(model(ids).logits_BTV, still)


def test_a_view_sees_what_is_put_in_the_place_of_a_weight_or_table():
    """The engine registers its own parameters by name, and functional calls swap tensors in and out."""
    config = config_of(n_layer=2, n_loop=2, value_residual=True)
    replicas = Replicas(config, [0], dtype="float64", device=CPU)
    model, ids = replicas.module.eval(), tokens(config)
    before = model(ids).logits_BTV
    replicas.master_RP.mul_(1.1)  # the buffer that all weights are views of now
    after = model(ids).logits_BTV
    fresh = seeded(config, init_seed=0).double().eval()
    fresh.load_state_dict(Kept(replicas).state(0))
    assert torch.equal(after, fresh(ids).logits_BTV)
    assert not torch.equal(after, before)
    weights = {name: 0.9 * p.detach() for name, p in model.named_parameters()}
    swapped = torch.func.functional_call(model, weights, (ids,)).logits_BTV
    fresh.load_state_dict(weights)
    assert torch.equal(swapped, fresh(ids).logits_BTV)
    assert torch.equal(model(ids).logits_BTV, after)


def test_a_copied_model_has_weights_and_views_of_its_own():
    config = config_of(n_layer=1, n_loop=2)
    model, ids = double(config), tokens(config)
    twin = copy.deepcopy(model)
    before = model(ids).logits_BTV
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert torch.equal(model(ids).logits_BTV, before)
    assert not torch.equal(twin(ids).logits_BTV, before)
    weights = twin.state_dict()
    model.load_state_dict(weights)
    assert torch.equal(model(ids).logits_BTV, twin(ids).logits_BTV)


def test_a_view_shares_all_but_dropout():
    block = seeded(config_of(), init_seed=0).blocks[0]
    view = shared_view(block)
    assert view.attention.in_proj is block.attention.in_proj
    assert view.attention._parameters is block.attention._parameters
    assert view.attention is not block.attention
    assert [id(p) for p in view.parameters()] == [id(p) for p in block.parameters()]
    assert not {id(part) for part in dropouts_of(view)} & {id(part) for part in dropouts_of(block)}
    assert shared_view(block.attention_norm) is block.attention_norm


def test_a_text_is_read_on_with_a_state_for_each_executed_layer():
    config = config_of(n_layer=2, n_loop=3, loop_embedding=True, smear=True)
    model, ids = double(config), tokens(config)
    _, state = model.extend(ids[:, :3])
    assert len(state.layers) == 1 + 6
    every = model(ids).logits_BTV
    for end, logits_BV in enumerate(extended(model, ids, cuts=list(range(1, 8)))):
        torch.testing.assert_close(logits_BV, every[:, end], rtol=0, atol=1e-10)


def test_weights_that_write_to_the_stream_start_smaller_by_the_executed_depth():
    model = seeded(config_of(n_layer=2, n_loop=8, d_model=128, d_ff=128, init="gpt2"), init_seed=0)
    spread = model.blocks[0].feedforward.down.weight.std().item()
    assert spread == pytest.approx(0.02 / (2 * 16) ** 0.5, rel=0.03)


# ------------------------------------------------------------------ switched on in mid-training


LATE = {"n_layer": 2, "n_loop": 3, "loop_from": 0.5, "loop_embedding": True, "unet_skips": True}


def late_run(task, **fields):
    config = fit_model(make("model", "depth_recurrent", **(SIZES | LATE)), task)
    sgd = make("optimizer", "sgd", lr=0.1, momentum=0.0)
    defaults = {"steps": 6, "batch_size": 4, "schedule": "constant", "optimizer": sgd}
    defaults |= {"protocol": make("protocol", "dense", eval_bytes=200), "dtype": "float64"}
    return make("run", "run", model=config, task=task, **(defaults | {"grad_clip": None} | fields))


def test_stages_differ_in_what_is_executed_and_not_in_parameters():
    config = config_of(**LATE)
    (start, flat), (switch, looped) = config.stages()
    assert (start, switch, looped) == (0.0, 0.5, config)
    assert flat.order() == (0, 1)
    assert looped.order() == (0, 1) * 3
    state = seeded(config, init_seed=0).state_dict()
    assert {k: v.shape for k, v in seeded(flat, init_seed=0).state_dict().items()} == {
        k: v.shape for k, v in state.items()
    }
    assert len(config_of(loop_from=0.0).stages()) == len(config_of(loop_from=1.0).stages()) == 1


def test_a_model_that_is_built_loops_and_enters_its_stages_on_demand():
    config = config_of(**LATE)
    (_, flat), (_, looped) = config.stages()
    model, ids = moved(config).eval(), tokens(config)
    assert len(model.executed()) == 6
    full = model(ids).logits_BTV
    assert model.enter(flat)
    assert not model.enter(flat)
    assert len(model.executed()) == 2
    by_config = moved(flat).eval()
    assert torch.equal(model(ids).logits_BTV, by_config(ids).logits_BTV)
    assert not torch.equal(model(ids).logits_BTV, full)
    assert model.enter(looped)
    assert torch.equal(model(ids).logits_BTV, full)


def test_every_weight_of_the_longest_pass_has_a_gradient_before_the_switch_too():
    """What several processes train together must not leave a parameter out."""
    config = config_of(**LATE)
    model = moved(config)
    model.enter(config.stages()[0][1])
    model(tokens(config)).logits_BTV.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_flops_of_a_run_are_those_of_what_each_stage_executes(task):
    run = late_run(task)
    (_, flat), (_, looped) = run.model.stages()
    cost = [train_flops(one, readout="all", sequences=4) for one in (flat, looped)]
    blocks = [sum(t.forward for t in one.terms("all") if t.name != "head") for one in (flat, looped)]
    assert blocks[1] == 3 * blocks[0]
    assert [run_flops(run, step) for step in (1, 3, 4, 6)] == [
        cost[0],
        3 * cost[0],
        3 * cost[0] + cost[1],
        3 * cost[0] + 3 * cost[1],
    ]
    assert mean_step_flops(run.model, readout="all", batch_size=4) == sum(cost) / 2


def test_training_with_a_switch_equals_a_plain_loop(task):
    run = late_run(task)
    program = Program([run], device=CPU)
    model = seeded(run.model, init_seed=run.init_seed).double().train()
    (_, flat), (_, looped) = run.model.stages()
    assert isinstance(model, DepthRecurrent)
    sites = dropout_sites(model)
    keys = dropout_keys([run.dropout_seed], first=0, count=6, micro=1, sites=len(sites))[:, 0, 0]
    stream = program.streams[0]
    drawn = {k: torch.from_numpy(np.asarray(v)).unsqueeze(1) for k, v in stream.index(0, 6).items()}
    losses = []
    for step in range(6):
        model.enter(flat if step < 3 else looped)
        for site, key in zip(sites, keys[step], strict=True):
            model.get_buffer(site).fill_(int(key))
        batch = stream.batch({name: value[step] for name, value in drawn.items()})
        tokens_BT, targets_BT = batch.tokens_BT[0], batch.targets_BT[0]
        loss = summed_loss(model(tokens_BT).logits_BTV, targets_BT) / targets_BT.numel()
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
        losses.append(loss.item())
    program.advance(6)
    np.testing.assert_allclose(program.losses_SR[:, 0], losses, rtol=1e-10)
    for name, value in program.kept.state(0).items():
        torch.testing.assert_close(value, model.get_parameter(name).detach(), rtol=1e-9, atol=1e-12)


def test_a_switched_training_is_neither_that_with_loops_nor_that_without(task):
    run = late_run(task)
    flat, looped = (run.model.replace(loop_from=share) for share in (1.0, 0.0))
    found = [train(run.replace(model=model), device=CPU) for model in (run.model, flat, looped)]
    losses = [[row["value"] for row in one.record.rows if row["metric"] == "loss"] for one in found]
    assert len({tuple(each) for each in losses}) == 3
    finals = [one.final["embedding.token.weight"] for one in found]
    assert not any(torch.equal(finals[0], other) for other in finals[1:])


def test_a_group_switches_together_and_each_of_it_is_as_alone(task):
    runs = [late_run(task), late_run(task).with_seed(3)]
    group = Program(runs, device=CPU)
    group.advance(6)
    for at, run in enumerate(runs):
        alone = Program([run], device=CPU)
        alone.advance(6)
        torch.testing.assert_close(group.losses_SR[:, at], alone.losses_SR[:, 0], rtol=0, atol=1e-10)


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loop_first": 4}, r"loop_first = 4 is not among the n_layer = 4 stored blocks .* accepted: 0 to 3"),
        ({"loop_last": 4}, r"loop_last = 4 is not among the n_layer = 4 stored blocks .* accepted: 0 to 3"),
        ({"loop_first": 2, "loop_last": 1}, r"loop_last = 1 is not among .* from 2 on; accepted: 2 to 3"),
        ({"n_loop": 0}, r"depth_recurrent.n_loop = 0 is not accepted"),
        ({"loop_from": 1.5}, r"depth_recurrent.loop_from = 1.5 is not accepted"),
    ],
)
def test_loops_that_do_not_fit_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make("model", "depth_recurrent", **fields)
