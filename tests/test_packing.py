"""Rows of several segments: each is computed, and learned from, as in a row of its own."""

import json
import re
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap

from lmbench.config import make
from lmbench.layers import attention
from lmbench.layers.mixer import Pass
from lmbench.measure.score import summed_loss
from lmbench.methods.parts import matrices
from lmbench.methods.seen import hessians
from lmbench.methods.teacher_cache import TeacherCache
from lmbench.models.base import LanguageModel, ModelConfig, seeded
from lmbench.tasks.base import IGNORE, Batch, load_task
from lmbench.training.capture import CapturedScorer
from lmbench.training.check import check
from lmbench.training.program import Program
from lmbench.training.replicas import Replicas
from lmbench.training.teachers import stream_of
from tests.corpora import write_corpus
from tests.test_groups import CPU, assert_group_is_alone, three, tiny_run
from tests.test_model_contracts import NAMES, double, moved, set_keys, tiny, tokens

LENGTHS = (3, 1, 4)
"""Of the segments in a row of 8."""
OPTIONS = (
    *(tiny("transformer", positions=name) for name in ("none", "sinusoidal", "alibi")),
    tiny("transformer", conv_width=3),
    tiny("transformer", smear=True, bigram_buckets=7),
    tiny("transformer", bigram_buckets=132),
    tiny("transformer_modern", value_residual=True, unet_skips=True, embedding_mix=True, n_kv_head=1),
    tiny("early_exit", positions="learned"),
    tiny("early_exit", positions="learned", exit_threshold=0.2),
    tiny("integrator", embedding="low_rank", stopping="relative"),
)
DIVISIBLE = [one for one in (*map(tiny, NAMES), *OPTIONS) if not one.crosses]
EACH = pytest.mark.parametrize("config", DIVISIBLE, ids=lambda config: f"{config.name}-{config.digest[:6]}")


def segments(*lengths: int, batch: int = 2) -> torch.Tensor:
    """(B, T) of rows that are all divided alike."""
    starts = torch.tensor(lengths).cumsum(0) - torch.tensor(lengths)
    return starts.repeat_interleave(torch.tensor(lengths)).expand(batch, -1)


def alone(model: LanguageModel, ids: torch.Tensor, *lengths: int) -> torch.Tensor:
    """Logits of the segments, each in a row of its own, side by side."""
    return torch.cat([model(part).logits_BTV for part in ids.split(lengths, dim=1)], dim=1)


# ------------------------------------------------------------------ what a model makes of segments


def test_what_a_token_may_attend_to_is_earlier_and_of_its_segment():
    bias = Pass(segment_BT=torch.tensor([[0, 0, 2, 3, 3]])).segment_bias(dtype=torch.float32)
    assert bias.shape == (1, 1, 5, 5) and set(bias.unique().tolist()) == {0.0, -float("inf")}
    assert (bias[0, 0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 1, 1],
    ]


def test_a_row_of_one_segment_asks_for_no_bias_and_the_layers_of_a_pass_share_theirs():
    assert Pass().segment_bias(dtype=torch.float32) is None and Pass().offset_BT is None
    shared = Pass(segment_BT=segments(*LENGTHS))
    assert shared.segment_bias(dtype=torch.float32) is shared.segment_bias(dtype=torch.float32)


def test_stacks_of_attention_keep_segments_apart_and_no_other_kind_says_so():
    able = {config.kind for config in DIVISIBLE}
    assert able >= {"transformer", "moe", "early_exit", "depth_recurrent", "integrator", "self_attention"}
    unable = {name: tiny(name).crosses for name in NAMES if tiny(name).crosses}
    assert {"linear", "mlp", "gru", "lstm", "ssm", "hybrid", "linear_attention"} <= set(unable)
    assert {name: tiny(name).kind for name in unable}.keys().isdisjoint(able)
    assert tiny("hybrid", pattern="A").crosses == ""
    assert tiny("hybrid", pattern="AM").crosses == tiny("hybrid", pattern="M").crosses != ""
    assert tiny("hybrid").crosses == "it has layers of 'ssm', and its state runs on through the row"


@EACH
def test_logits_of_a_divided_row_are_those_of_its_segments_alone(config: ModelConfig):
    model, ids = moved(config).eval(), tokens(config)
    divided = model(ids, segment_BT=segments(*LENGTHS)).logits_BTV
    torch.testing.assert_close(divided, alone(model, ids, *LENGTHS), rtol=1e-5, atol=1e-5)
    if not config.name.startswith("early_exit"):  # which may stop before anything is told apart
        assert not torch.allclose(divided[:, 3:], model(ids).logits_BTV[:, 3:], atol=1e-4)


@EACH
def test_a_changed_token_changes_no_bit_of_another_segment(config: ModelConfig):
    model, ids = double(config), tokens(config)
    other = ids.clone()
    other[:, 1] = (other[:, 1] + 1) % config.vocab_size
    one, two = (model(x, segment_BT=segments(*LENGTHS)).logits_BTV for x in (ids, other))
    # A token that changes its experts changes how many rows each product has, and so how it is rounded.
    atol = 1e-12 if config.kind == "moe" else 0
    torch.testing.assert_close(one[:, 3:], two[:, 3:], rtol=0, atol=atol)
    assert not torch.allclose(one[:, 1:3], two[:, 1:3])


@EACH
def test_a_row_of_one_segment_is_a_plain_row(config: ModelConfig):
    model, ids = double(config), tokens(config)
    divided = model(ids, segment_BT=segments(8)).logits_BTV
    torch.testing.assert_close(divided, model(ids).logits_BTV, rtol=1e-12, atol=1e-12)


@EACH
def test_gradients_of_a_divided_row_are_the_sum_of_those_of_its_segments(config: ModelConfig):
    model, ids = double(config), tokens(config)
    targets = ids.flip(1)
    for part, answer in zip(ids.split(LENGTHS, dim=1), targets.split(LENGTHS, dim=1), strict=True):
        summed_loss(model(part).logits_BTV, answer).backward()
    # Heads of earlier exits have a gradient in training only.
    apart = {name: None if one.grad is None else one.grad.clone() for name, one in model.named_parameters()}
    model.zero_grad()
    summed_loss(model(ids, segment_BT=segments(*LENGTHS)).logits_BTV, targets).backward()
    for name, parameter in model.named_parameters():
        # Tables of rotary positions are rounded to float32, and places in a row are others than alone.
        torch.testing.assert_close(parameter.grad, apart[name], rtol=1e-5, atol=1e-6, msg=name)


@EACH
def test_stacked_models_with_segments_of_their_own_equal_each_alone(config: ModelConfig):
    models = [double(config, init_seed=seed) for seed in range(2)]
    stacked, buffers = stack_module_state(models)
    ids = tokens(config)
    borders = torch.stack((segments(*LENGTHS), segments(2, 6)))

    def loss(weights: dict, constants: dict, segment_BT: torch.Tensor) -> torch.Tensor:
        how = {"segment_BT": segment_BT}
        logits = functional_call(models[0], (weights, constants), (ids,), how).logits_BTV
        return logits.logsumexp(-1).sum() - logits[..., 0].sum()

    together = vmap(grad(loss))({k: v.detach() for k, v in stacked.items()}, buffers, borders)
    for at, model in enumerate(models):
        weights = {k: v.detach() for k, v in model.named_parameters()}
        by_itself = grad(loss)(weights, dict(model.named_buffers()), borders[at])
        for key, gradient in by_itself.items():
            torch.testing.assert_close(together[key][at], gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("mode", ["step", "stack", "block"])
def test_a_pass_that_is_computed_twice_keeps_segments_apart(mode):
    ids, gradients = tokens(tiny("integrator")), []
    for checkpointing in ("none", mode):
        model = moved(tiny("integrator", dropout=0.1, checkpointing=checkpointing)).double().train()
        set_keys(model, first=1)
        logits = model(ids, segment_BT=segments(*LENGTHS)).logits_BTV
        (logits[:, 3:] ** 2).sum().backward()
        gradients.append({name: one.grad for name, one in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["transformer", "transformer_nanogpt"])  # plain queries, and turned ones
def test_the_kernel_of_short_rows_is_not_taken_where_they_are_divided(name, monkeypatch):
    def refuse(*args, **how):
        raise AssertionError("this kernel knows no segments")

    model, ids = double(tiny(name)), tokens(tiny(name))
    expected = model(ids, segment_BT=segments(*LENGTHS)).logits_BTV
    monkeypatch.setattr(attention, "is_short", lambda x: True)  # as on a device that has it
    monkeypatch.setattr(attention, "attend_packed", refuse)
    assert torch.equal(model(ids, segment_BT=segments(*LENGTHS)).logits_BTV, expected)
    with pytest.raises(AssertionError, match="knows no segments"):
        model(ids)


def test_positions_start_anew_with_each_segment():
    model, ids = double(tiny("transformer", positions="learned")), tokens(tiny("transformer"))
    offset_BT = torch.arange(8) - segments(*LENGTHS)
    assert offset_BT[0].tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    added = model.embedding(ids, offset_BT=offset_BT) - model.embedding(ids)
    table = model.embedding.position.embedding.weight
    torch.testing.assert_close(added[0], table[offset_BT[0]] - table)


# ------------------------------------------------------------------ batches


def test_parts_and_stacks_of_a_batch_carry_their_segments():
    ids, borders = torch.arange(48).view(2, 3, 8), torch.arange(48, 96).view(2, 3, 8)
    batch = Batch(tokens_BT=ids, targets_BT=ids + 1, segment_BT=borders)
    parts = batch.split(3)
    assert [part.segment_BT.tolist() for part in parts] == [borders[:, [at]].tolist() for at in range(3)]
    assert [part.context_BK for part in parts] == [None] * 3
    assert torch.equal(batch.stacked().segment_BT, borders.flatten(0, 1))
    assert list(batch.borders) == ["segment_BT"] and replace(batch, segment_BT=None).borders == {}


def test_a_captured_scorer_tells_divided_batches_from_others():
    scorer = CapturedScorer(lambda batch: (batch.tokens_BT.unsqueeze(0),), device=CPU)
    plain = Batch(tokens_BT=torch.zeros(2, 4), targets_BT=torch.zeros(2, 4))
    scorer(plain)
    scorer(replace(plain, segment_BT=torch.zeros(2, 4)))
    assert len(scorer._by_shape) == 2


def test_logits_of_all_replicas_keep_segments_apart():
    replicas = Replicas(tiny("transformer"), [1, 2], dtype="float64", device=CPU)
    ids = tokens(tiny("transformer"))
    batch = Batch(tokens_BT=ids, targets_BT=ids, segment_BT=segments(*LENGTHS))
    parts = [Batch(tokens_BT=part, targets_BT=part) for part in ids.split(LENGTHS, dim=1)]
    apart = torch.cat([replicas.logits(part, replicas.master_RP) for part in parts], dim=2)
    torch.testing.assert_close(replicas.logits(batch, replicas.master_RP), apart, rtol=1e-9, atol=1e-9)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A text of short documents, so that rows are divided in many ways."""
    corpus, index = write_corpus(tmp_path_factory.mktemp("packing") / "small", train=1000), {}
    for split, lengths in {"train": [5, 9, 3, 7, 2, 14] * 25, "valid": [700], "test": [700]}.items():
        ends = list(accumulate(lengths))
        index[split] = [
            {"name": f"{split}-{at}", "domain": "speeches", "start": end - n, "end": end}
            for at, (n, end) in enumerate(zip(lengths, ends, strict=True))
        ]
    (corpus / "documents.json").write_text(json.dumps(index))
    return make("task", "text", corpus=str(corpus), tokenizer="char")


def packed(packing="masked", **fields):
    return make("method", "select_random", **({"packing": packing, "piece": 6, "share": 0.5} | fields))


def run_of(task, *methods, model="transformer_prenorm", **fields):
    how = {"steps": 6, "weights": "final", "methods": methods or (packed(),)} | fields
    options = {"seq_len": 8, "d_model": 16, "n_head": 4, "n_layer": 2, "d_ff": 16}
    return tiny_run(task, model, options=options | how.pop("options", {}), **how)


@pytest.fixture
def stream(task):
    run = run_of(task)
    return stream_of(run, load_task(task), Program([run], device=CPU).view)


def test_a_row_of_the_stream_says_which_unit_each_token_is_of(stream):
    for step in range(4):
        row, batch = stream.index(step, 1), stream.at(step)
        place_BT, segment_BT = torch.from_numpy(row["place"][0]), batch.segment_BT
        assert torch.equal(segment_BT, torch.from_numpy(row["segment"][0]).long())
        is_same, is_token = segment_BT[:, 1:] == segment_BT[:, :-1], place_BT[:, 1:] >= 0
        # Within a segment the text goes on, and across a border it does not.
        assert torch.equal(is_same & is_token, (place_BT.diff(dim=1) == 1) & is_token)
        # A number is the place where the segment starts.
        assert torch.equal(segment_BT.gather(1, segment_BT), segment_BT)
        assert (segment_BT <= torch.arange(8)).all() and len(segment_BT.unique()) > 2


def test_no_target_lies_across_a_border(task, stream):
    units = packed().selection(load_task(task), data_seed=0).kept
    ends = set((units.end_U - 1).tolist())  # places of the last tokens, after which nothing is predicted
    for step in range(4):
        place_BT = stream.index(step, 1)["place"][0]
        batch = stream.at(step)
        assert not ends & set(place_BT[place_BT >= 0].tolist())
        scored = batch.targets_BT != IGNORE
        assert torch.equal(scored, torch.from_numpy(place_BT >= 0))
        following = stream.ids_N[torch.from_numpy(place_BT).long()[scored] + 1]
        assert torch.equal(batch.targets_BT[scored], following)


def parts_of(batch: Batch) -> list[Batch]:
    """Every segment of a batch as a batch of its own, padding left out."""
    found = []
    for tokens_T, targets_T, segment_T in zip(
        batch.tokens_BT, batch.targets_BT, batch.segment_BT, strict=True
    ):
        for start in segment_T.unique():
            mine_T = segment_T == start
            if (targets_T[mine_T] != IGNORE).all():
                found.append(Batch(tokens_BT=tokens_T[mine_T][None], targets_BT=targets_T[mine_T][None]))
    return found


@pytest.mark.parametrize("positions", ["rope", "learned", "alibi", "sinusoidal", "none"])
def test_losses_of_packed_rows_are_those_of_their_units_alone(task, stream, positions):
    run = run_of(task, options={"positions": positions})
    model, batch = moved(run.model).eval(), stream.at(0)
    logits_BTV = model(batch.tokens_BT, **batch.borders).logits_BTV
    nll_N = F.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), reduction="none")
    apart = [
        F.cross_entropy(model(one.tokens_BT).logits_BTV[0], one.targets_BT[0], reduction="none")
        for one in parts_of(batch)
    ]
    assert len(apart) > len(batch.tokens_BT)
    found = nll_N[batch.targets_BT.flatten() != IGNORE]
    torch.testing.assert_close(found, torch.cat(apart), rtol=1e-5, atol=1e-5)


# ------------------------------------------------------------------ training


@pytest.mark.parametrize("fields", [{}, {"grad_accum": 2}], ids=["whole", "micro-batches"])
def test_a_step_learns_from_each_unit_as_if_it_were_alone(task, fields):
    run = run_of(task, options={"dropout": 0.0}, grad_clip=None, **fields)
    program = Program([run], device=CPU)
    batch = program.streams[0].at(0)
    model = seeded(run.model, init_seed=run.init_seed).double()
    n = int((batch.targets_BT != IGNORE).sum())
    loss = sum(summed_loss(model(one.tokens_BT).logits_BTV, one.targets_BT) for one in parts_of(batch)) / n
    loss.backward()
    program.advance(1)
    assert program.losses_SR[0, 0].item() == pytest.approx(loss.item(), abs=1e-12)
    gradients = program.replicas.layout.views_of(program.grads_RP, program.replicas.layout.trained)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name][0], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_rows_without_masks_are_learned_from_otherwise(task):
    losses = {}
    for packing in ("masked", "concatenate"):
        program = Program([run_of(task, packed(packing), options={"dropout": 0.0})], device=CPU)
        program.advance(6)
        losses[packing] = program.losses_SR
    assert not torch.equal(losses["masked"], losses["concatenate"])


@pytest.mark.parametrize(
    "model, fields",
    [
        ("transformer_conv", {"grad_accum": 2}),
        ("transformer_nanogpt", {"epoch_windows": 6}),
        ("moe", {}),
        ("early_exit", {}),
        ("depth_recurrent", {}),
        ("integrator", {}),
        ("self_attention", {}),
    ],
)
def test_a_group_that_learns_from_divided_rows_is_as_its_runs_alone(task, model, fields):
    group = assert_group_is_alone(three(run_of(task, model=model, steps=5, **fields)))
    assert not torch.equal(group.draws.block["segment"][:, 0], group.draws.block["segment"][:, 1])


def test_slices_of_widths_see_the_segments_that_masks_see(task):
    losses = {}
    for execution in ("mask", "slice"):
        narrow = make("method", "constrain", execution=execution, curve=0.5)
        program = Program([run_of(task, narrow, packed(), options={"dropout": 0.0})], device=CPU)
        program.advance(3)
        losses[execution] = program.losses_SR
    torch.testing.assert_close(losses["slice"], losses["mask"], rtol=0, atol=1e-9)


def test_an_epoch_that_ends_with_a_short_batch_divides_its_rows_too(task):
    run = run_of(task, epoch_windows=6)
    batch = Program([run], device=CPU).streams[0].at(1)
    assert (batch.targets_BT[2:] == IGNORE).all() and (batch.targets_BT[:2] != IGNORE).any()
    assert batch.segment_BT.shape == batch.tokens_BT.shape


# ------------------------------------------------------------------ other readers of batches


def test_a_live_teacher_is_asked_about_the_same_segments(task):
    teacher = run_of(task, steps=1)
    weights = {teacher.digest: moved(teacher.model).double().state_dict()}
    run = run_of(task, make("method", "distill", teacher=(teacher,)), packed())
    program = Program([run, run.with_seed(3)], device=CPU, teachers=weights)
    program.advance(1)
    row = {name: value[0] for name, value in program.draws.block.items() if name != "dropout"}
    batch = program.streams[0].batch(row)
    (logits_RMBTV,) = program.teachers.parts(batch, row, n=1)
    model = moved(teacher.model).double().eval()
    for replica in range(2):
        one = Batch(**{name: x[replica] for name, x in vars(batch).items() if x is not None})
        scored = one.targets_BT != IGNORE
        apart = torch.cat([model(part.tokens_BT).logits_BTV[0] for part in parts_of(one)])
        torch.testing.assert_close(logits_RMBTV[replica, 0][scored], apart, rtol=1e-9, atol=1e-9)


def test_rows_of_a_cached_teacher_are_gathered_by_the_places_of_tokens():
    cache = TeacherCache(torch.arange(40.0).reshape(20, 2))
    place_RBT = torch.tensor([[[4, 5, 11, -1]], [[7, 0, 1, 2]]], dtype=torch.int32)
    rows = cache.rows({"place": place_RBT}, seq_len=4, readout="all")
    assert rows.shape == (2, 1, 1, 4, 2)
    assert rows[0, 0, 0, :3, 0].tolist() == [8, 10, 22] and rows[1, 0, 0, :, 0].tolist() == [14, 0, 2, 4]


def test_maps_that_are_fitted_to_packed_rows_read_units_alone(task, stream):
    model, batch = double(run_of(task).model), stream.at(0)
    part = next(one for one in matrices(model) if "blocks.1" in one.weight and "in_proj" in one.weight)
    is_whole = (batch.targets_BT != IGNORE).all(dim=1)  # padding is read too, and would be counted
    whole = Batch(**{name: x[is_whole] for name, x in vars(batch).items() if x is not None})
    kept = whole if int(is_whole.sum()) else batch
    padding = [
        Batch(tokens_BT=tokens_T[targets_T == IGNORE][None], targets_BT=targets_T[targets_T == IGNORE][None])
        for tokens_T, targets_T in zip(kept.tokens_BT, kept.targets_BT, strict=True)
        if (targets_T == IGNORE).any()
    ]
    together = hessians(model, part, [kept])
    torch.testing.assert_close(together, hessians(model, part, parts_of(kept) + padding))


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "name, why",
    [
        ("gru", "its state runs on through the row"),
        ("ssm", "it has layers of 'ssm', and its state runs on through the row"),
        ("mlp", "its windows reach over all that stands before in the row"),
        ("huggingface", "it reads a row as one text"),
    ],
)
def test_a_model_that_would_read_across_borders_is_refused(task, name, why):
    run = run_of(task, model=name)
    said = (
        f"select.packing = 'masked' keeps the units of a row apart, which model {run.model.name!r} cannot: "
        f"{why}; accepted: 'separate', or a model whose mixers are all attention"
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        check(run, load_task(task))
    for packing in ("separate", "concatenate"):
        check(run.replace(methods=(packed(packing),)), load_task(task))


def test_a_live_teacher_that_would_read_across_borders_is_refused_and_a_cached_one_is_not(task):
    teacher = run_of(task, packed("separate"), model="gru")
    how = {"teacher": (teacher,)}
    run = run_of(task, make("method", "distill", **how), packed())
    with pytest.raises(ValueError, match="keeps the units of a row apart, which teacher 'gru' cannot"):
        check(run, load_task(task))
    check(run.replace(methods=(make("method", "distill", cache=2, **how), packed())), load_task(task))


def test_an_unknown_packing_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'separate', 'masked' or 'concatenate'"):
        packed("mixed")
