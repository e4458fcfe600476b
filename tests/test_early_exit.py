"""Early exit: heads at chosen depths, tokens that stop, and the curve of quality against executed FLOPs."""

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, stack_module_state, vmap

from lmbench.analysis.exits import exit_panel, exit_reading
from lmbench.config import make
from lmbench.measure.early_exit import depth_flops, exit_curve, threshold_flops
from lmbench.measure.flops import ledger, parameters
from lmbench.measure.score import evaluate
from lmbench.models.base import seeded
from lmbench.probes.scores import ExitCurve
from lmbench.tasks.base import View, load_task
from lmbench.training import exits as exits_module
from lmbench.training.execute import fit_model, run_all
from lmbench.training.exits import exit_curves
from lmbench.training.passes import OnePass
from tests.test_training import small_run

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 3, "d_ff": 24}
EXACT = {"rtol": 0, "atol": 1e-12}
CPU = torch.device("cpu")


def config_of(**fields):
    return make("model", "early_exit", **SIZES | {"dropout": 0.0} | fields)


def model_of(**fields):
    """In float64, with logits apart, so that some tokens are sure and some are not."""
    model = seeded(config_of(**fields), init_seed=0).double().eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("head", "exit_heads")) and parameter.ndim == 2:
            parameter.data.mul_(4)
    return model


def ids_of(*, batch=4, length=8):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ heads


def test_without_exits_it_is_the_transformer():
    like = {name: value for name, value in config_of().to_dict().items() if name not in ("kind", "version")}
    shared = {name: like[name] for name in type(make("model", "transformer")).model_fields if name in like}
    plain = seeded(make("model", "transformer", **shared), init_seed=0).eval()
    none = seeded(config_of(exits=()), init_seed=0).eval()
    assert none.state_dict().keys() == plain.state_dict().keys()
    assert all(none.state_dict()[name].equal(weight) for name, weight in plain.state_dict().items())
    assert none(ids_of()).logits_BTV.equal(plain(ids_of()).logits_BTV)
    assert none(ids_of()).exits == ()


def test_the_last_head_does_not_know_of_earlier_ones():
    """Same start, same logits: exits cost the model nothing until they are trained."""
    none, some = (seeded(config_of(exits=exits), init_seed=0).eval() for exits in ((), (1, 2)))
    assert none(ids_of()).logits_BTV.equal(some(ids_of()).logits_BTV)


@pytest.mark.parametrize(("exits", "depths"), [(None, (1, 2)), ((1,), (1,)), ((2,), (2,)), ((), ())])
def test_heads_stand_after_the_chosen_blocks(exits, depths):
    config = config_of(exits=exits, exit_weight=0.5)
    assert config.depths == depths
    model = seeded(config, init_seed=0)
    found = model(ids_of()).exits
    assert [weight for weight, _ in found] == [0.5] * len(depths)
    for depth, (_, logits_BTV) in zip(depths, found, strict=True):
        x_BTC = model.embedding(ids_of())
        for block in model.blocks[:depth]:
            x_BTC = block(x_BTC)
        head = model.exit_heads[depths.index(depth)]
        assert logits_BTV.equal(head(x_BTC, embedding=model.embedding, readout="all"))


def test_a_shared_head_reads_every_depth_and_holds_nothing():
    own, shared, none = config_of(), config_of(shared_head=True), config_of(exits=())
    assert parameters(shared) == parameters(none)
    # Two more heads: a matrix and the gain of a norm each.
    assert parameters(own).total - parameters(none).total == 2 * (16 * 11 + 16)
    model = seeded(shared, init_seed=0)
    x_BTC = model.blocks[0](model.embedding(ids_of()))
    logits_BTV = model.head(x_BTC, embedding=model.embedding, readout="all")
    assert model(ids_of()).exits[0][1].equal(logits_BTV)


@pytest.mark.parametrize("tied_head", [False, True])
def test_every_head_learns_the_same_targets_and_their_losses_are_added(tied_head):
    model = seeded(config_of(exit_weight=0.25, tied_head=tied_head), init_seed=0).train()
    ids_BT, targets_BT = ids_of(), ids_of().roll(-1, dims=1)
    loss, _ = OnePass(model, parts=1)(ids_BT, targets_BT, torch.tensor(32.0))
    output = model(ids_BT)
    every = [(1.0, output.logits_BTV), *output.exits]
    expected = sum(w * F.cross_entropy(x.flatten(0, 1), targets_BT.flatten()) for w, x in every)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert all(parameter.grad.count_nonzero() for parameter in model.parameters())


# ------------------------------------------------------------------ stopping


def test_a_threshold_of_1_never_stops_a_token():
    model = model_of()
    logits_BTV, blocks_BT = model.stopped(ids_of(), threshold=1.0)
    assert logits_BTV.equal(model.full(ids_of()).logits_BTV)
    assert (blocks_BT == 3).all()
    assert model.effort(ids_of()) == {}


def test_a_low_threshold_stops_every_token_at_the_first_exit():
    model = model_of(exits=(2,))
    logits_BTV, blocks_BT = model.stopped(ids_of(), threshold=0.01)
    assert logits_BTV.equal(model.full(ids_of()).exits[0][1])
    assert (blocks_BT == 2).all()


def test_in_training_the_threshold_is_ignored():
    model = model_of(exit_threshold=0.5)
    assert model(ids_of()).exits == ()
    stopped = model(ids_of()).logits_BTV
    full = model.train()(ids_of())
    assert len(full.exits) == 2
    assert not stopped.equal(full.logits_BTV)


def test_a_stopped_token_is_frozen_and_deeper_blocks_read_its_frozen_state():
    model, threshold = model_of(), 0.5
    x_BTC, done_BT = model.embedding(ids_of()), torch.zeros(4, 8, dtype=torch.bool)
    chosen_BTV, blocks_BT = torch.zeros(4, 8, 11, dtype=torch.float64), torch.zeros(4, 8, dtype=torch.long)
    heads = [*model.exit_heads, model.head]
    for block, head in zip(model.blocks, heads, strict=True):
        after_BTC = block(x_BTC)
        for b, t in (~done_BT).nonzero().tolist():
            x_BTC[b, t] = after_BTC[b, t]
            blocks_BT[b, t] += 1
        logits_BTV = head(x_BTC, embedding=model.embedding, readout="all")
        for b, t in (~done_BT).nonzero().tolist():
            chosen_BTV[b, t] = logits_BTV[b, t]
            done_BT[b, t] = logits_BTV[b, t].softmax(0).max() >= threshold
    found = model.stopped(ids_of(), threshold=threshold)
    assert set(blocks_BT.flatten().tolist()) == {1, 2, 3}, "the test needs tokens of each depth"
    assert found.blocks_BT.equal(blocks_BT)
    torch.testing.assert_close(found.logits_BTV, chosen_BTV, **EXACT)
    # What later tokens read is not what they would have read.
    last_BT = blocks_BT == 3
    assert not torch.allclose(found.logits_BTV[last_BT], model.full(ids_of()).logits_BTV[last_BT])


@pytest.mark.parametrize("fields", [{}, {"shared_head": True, "exits": (1,)}, {"unet_skips": True}])
def test_a_text_read_in_pieces_stops_where_the_whole_does(fields):
    model = model_of(exit_threshold=0.5, **fields)
    whole = model.stopped(ids_of(), threshold=0.5)
    assert len(set(whole.blocks_BT.flatten().tolist())) > 1
    assert whole.logits_BTV.equal(model(ids_of()).logits_BTV)
    for cuts in ((1,) * 8, (3, 5)):
        state, at = None, 0
        for size in cuts:
            logits_BV, state = model.extend(ids_of()[:, at : at + size], state)
            at += size
            torch.testing.assert_close(logits_BV, whole.logits_BTV[:, at - 1], **EXACT)


def test_the_last_readout_with_a_threshold_is_the_last_row_of_all():
    model = model_of(exit_threshold=0.5)
    last, every = model(ids_of(), readout="last"), model(ids_of())
    torch.testing.assert_close(last.logits_BTV, every.logits_BTV[:, -1:], **EXACT)


def test_a_changed_token_leaves_earlier_tokens_where_they_stopped():
    model, changed = model_of(), ids_of()
    changed[:, 5] = (changed[:, 5] + 1) % 11
    before, after = (model.stopped(ids, threshold=0.5) for ids in (ids_of(), changed))
    assert before.blocks_BT[:, :5].equal(after.blocks_BT[:, :5])
    torch.testing.assert_close(before.logits_BTV[:, :5], after.logits_BTV[:, :5], **EXACT)


def test_stacked_models_stop_their_own_tokens():
    models = [model_of(exit_threshold=0.5), model_of(exit_threshold=0.5)]
    for parameter in models[1].parameters():
        parameter.data.neg_()
    stacked, buffers = stack_module_state(models)
    ids_BT = ids_of()
    both = vmap(lambda state, keys: functional_call(models[0], (state, keys), (ids_BT,)).logits_BTV)(
        stacked, buffers
    )
    torch.testing.assert_close(both, torch.stack([model(ids_BT).logits_BTV for model in models]), **EXACT)


# ------------------------------------------------------------------ cost


def test_the_ledger_counts_every_head():
    for readout, rows in (("all", 8), ("last", 1)):
        terms = {term.name: term.forward for term in config_of().terms(readout)}
        assert terms["head"] == 2 * rows * 16 * 11
        assert terms["exit heads"] == 2 * terms["head"]
    assert "exit heads" not in {term.name for term in config_of(exits=()).terms("all")}


BLOCK = 4 * 2 * 16 * 16 + 2 * 2 * 8 * 16 + 3 * 2 * 16 * 24
"""For one token: four projections, scores and values over 8 positions, the feed-forward's three."""
MEMORY, HEAD = 2 * 2 * 16 * 16, 2 * 16 * 11


def test_frozen_tokens_cost_their_keys_and_values_and_the_heads_that_were_asked():
    stops = np.array([0, 1, 10, 100])
    cost = threshold_flops(config_of(), stops_D=stops, reads_D=stops, is_tested=True)
    blocks = (1 * 1 + 10 * 2 + 100 * 3) * BLOCK + (1 * 2 + 10 * 1) * MEMORY
    heads = 1 * 1 + 10 * 2 + 100 * 3
    assert cost == blocks + heads * HEAD


def test_a_pass_without_stops_costs_what_the_ledger_says():
    stops = np.array([0, 0, 0, 8])
    for readout, reads in (("all", 8), ("last", 1)):
        whole = ledger(config_of(exits=()), readout=readout).forward
        reads_D = np.array([0, 0, 0, reads])
        assert threshold_flops(config_of(), stops_D=stops, reads_D=reads_D, is_tested=False) == whole
        assert depth_flops(config_of(), depth=3, tokens=8, reads=reads) == whole


def test_grouped_keys_and_convolutions_change_what_a_frozen_token_costs():
    stops = np.array([0, 1, 0, 0])
    config = config_of(n_kv_head=1, exits=(1,))
    cost = threshold_flops(config, stops_D=stops, reads_D=stops, is_tested=True)
    # Keys and values of one head of 8 features, which saves the block two maps of 16 x 8.
    assert cost == BLOCK - 2 * 2 * 16 * 8 + 2 * (2 * 2 * 16 * 8) + HEAD


# ------------------------------------------------------------------ the curve


@pytest.fixture
def scored(task):
    config = fit_model(config_of(), task)
    model = seeded(config, init_seed=0)
    view = View(seq_len=8, is_window=False, device=CPU)
    protocol = make("protocol", "dense", eval_bytes=200)
    return model, config, load_task(task), {"split": "valid", "protocol": protocol, "view": view}


def test_the_curve_agrees_with_plain_scores_at_both_ends(scored):
    model, config, data, how = scored
    model.train()
    curve = exit_curve(model, config, data, thresholds=(1e-6, 1.0), **how)
    assert model.training
    assert list(curve["policy"]) == ["threshold"] * 2 + ["depth"] * 3
    assert list(curve["setting"]) == [1e-6, 1.0, 1.0, 2.0, 3.0]
    assert list(curve["blocks"]) == [1, 3, 1, 2, 3]
    nll, n = evaluate(model, data, **how).metrics["nll"]
    assert list(curve["targets"]) == list(curve["tokens"]) == [n] * 5
    first, last = curve[curve["setting"] == 1e-6].iloc[0], curve[curve["policy"] == "depth"]
    assert curve["nll"][1] == pytest.approx(nll)
    assert last["nll"].iloc[2] == pytest.approx(nll)
    assert first["nll"] == pytest.approx(last["nll"].iloc[0])
    assert first["nll"] != pytest.approx(nll)


def test_the_curve_charges_what_was_executed(scored):
    model, config, data, how = scored
    curve = exit_curve(model, config, data, thresholds=(1e-6, 1.0), **how)
    head = 2 * 16 * config.vocab_size
    expected = [BLOCK + 2 * MEMORY + head, 3 * BLOCK + head, *(at * BLOCK + head for at in (1, 2, 3))]
    assert list(curve["flops"]) == expected


def test_the_curve_counts_the_blocks_of_scored_tokens_alone(scored):
    """With a stride below the context each token is passed several times, and counted once."""
    model, config, data, how = scored
    how = how | {"protocol": make("protocol", "dense", eval_bytes=200, stride=2)}
    (row,) = exit_curve(model, config, data, thresholds=(0.1,), **how).head(1).to_dict("records")
    assert row["tokens"] == row["targets"]
    assert 1 < row["blocks"] < 3
    model.exit_threshold = 0.1
    assert row["nll"] == pytest.approx(evaluate(model, data, **how).metrics["nll"][0])


def test_where_the_last_token_alone_is_a_target_its_whole_window_is_charged(scored):
    model, config, data, how = scored
    how = how | {"protocol": make("protocol", "last_token")}
    curve = exit_curve(model, config, data, thresholds=(1e-6, 1.0), **how)
    assert list(curve["tokens"]) == list(8 * curve["targets"])
    # The first exit is asked of every token; the last head only of the one that is read out.
    head = 2 * 16 * config.vocab_size
    assert curve["flops"][0] == pytest.approx(BLOCK + 2 * MEMORY + head)
    assert curve["flops"][1] == pytest.approx(3 * BLOCK + head / 8)


@pytest.mark.parametrize("wrong", [0.0, 1.5])
def test_a_threshold_that_is_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=rf"{wrong} is not accepted: more than 0, at most 1"):
        ExitCurve(run="0" * 16, thresholds=(0.5, wrong))


@pytest.fixture
def curves(task, store):
    runs = [small_run(task, "early_exit", dropout_seed=seed, init_seed=seed) for seed in range(3)]
    run_all(runs, store=store, device="cpu", progress=False)
    return exit_curves([run.digest for run in runs], store=store, device="cpu")


def test_the_curves_of_stored_runs_are_records(curves, store, monkeypatch):
    assert list(curves["policy"][:11]) == ["threshold"] * 8 + ["depth"] * 3
    assert len(curves) == 3 * 11
    frame = store.frame([curves["run"][0]])
    valid = frame[(frame["split"] == "valid") & (frame["metric"] == "nll")].sort_values("step")
    never = curves[(curves["setting"] == 1) & (curves["policy"] == "threshold")]
    assert never["nll"].iloc[0] == pytest.approx(valid["value"].iloc[-1], rel=1e-6)
    assert store.verify() == []

    def refuse(*args, **fields):
        raise AssertionError("scored twice")

    monkeypatch.setattr(exits_module, "exit_curve", refuse)
    again = exit_curves(list(dict.fromkeys(curves["run"])), store=store, device="cpu")
    pd.testing.assert_frame_equal(again, curves)


def test_the_figure_and_the_reading_name_both_ways_of_stopping(curves):
    figure = exit_panel(curves)
    assert "n = 3 seeds" in figure.caption
    assert "threshold 0.5" in figure.alt
    assert "depth 3" in figure.alt
    assert "onfidence" in exit_reading(curves)


def test_confidence_is_compared_with_the_depth_that_costs_at_least_as_much():
    """A threshold that is better by 0.1 at half the cost of depth 2, in every seed."""
    rows = [
        {"run": f"{seed}", "label": "early_exit", "policy": policy, "setting": setting, "flops": flops}
        | {"nll": nll + 0.001 * seed * flops}
        for seed in range(5)
        for policy, setting, flops, nll in (
            ("threshold", 0.5, 5.0, 2.0), ("depth", 1.0, 4.0, 2.5), ("depth", 2.0, 10.0, 2.1)
        )
    ]  # fmt: skip
    said = exit_reading(pd.DataFrame(rows))
    assert "holds" in said
    assert "threshold 0.5 is lower than depth 2" in said
    table = pd.DataFrame(rows)
    dear = table.assign(flops=table["flops"].where(table["policy"] == "depth", 20.0))
    assert exit_reading(dear).startswith("Every threshold costs more than every fixed depth")


def test_curves_of_two_models_are_refused(curves):
    two = pd.concat([curves, curves.assign(label="other")])
    with pytest.raises(ValueError, match="one model at a time, got early_exit, other"):
        exit_panel(two)


def test_a_run_of_another_model_is_refused(task, store):
    run = small_run(task)
    run_all([run], store=store, device="cpu", progress=False)
    with pytest.raises(
        ValueError, match=rf"run {run.digest} is of model '.*'; exit curves need 'early_exit'"
    ):
        exit_curves([run.digest], store=store, device="cpu")


@pytest.mark.parametrize("exits", [(0,), (3,), (2, 1), (1, 1)])
def test_exits_that_do_not_fit_are_refused(exits):
    with pytest.raises(
        ValueError, match=r"ascending numbers of blocks before the last of n_layer = 3; accep"
    ):
        config_of(exits=exits)


def test_a_single_block_has_no_exit():
    assert config_of(n_layer=1).depths == ()
    with pytest.raises(ValueError, match="accepted: none, as there is one block"):
        config_of(n_layer=1, exits=(1,))
