"""Scoring against the plain loop: ties, sliding windows, batch sizes, disjoint windows.

Legend: B batch, T position, V vocabulary, N target.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from lmbench.config import kinds, make
from lmbench.data.documents import Corpus, Document
from lmbench.measure.score import (
    evaluate,
    readout_of,
    score_split,
    summed_loss,
    target_scores,
    tokens_per_second,
    true_float32,
)
from lmbench.models.base import LanguageModel, Output, seeded
from lmbench.records import no_items
from lmbench.tasks.base import IGNORE, Batch, View
from lmbench.tasks.text_data import TextData
from tests.corpora import text, write_corpus

CPU = torch.device("cpu")
SEQ_LEN = 8
SIZES = {"d_model": 8, "d_ff": 8, "n_head": 2, "n_layer": 1}


@pytest.fixture
def data(tmp_path):
    """Splits of two documents each, the first of them shorter than a window."""
    config = make("task", "text", corpus=str(write_corpus(tmp_path / "small")), tokenizer="char")
    documents = (Document(text(5), "a", ""), Document(text(90), "b", ""))
    corpus = Corpus("small", dict.fromkeys(("train", "valid", "test"), documents), "", {})
    return TextData(config, corpus, config.tokenizer.fit(corpus))


def built(name, data):
    """A model with large random weights, so that its scores differ from position to position."""
    cls = kinds("model")[name]
    sizes = {key: value for key, value in SIZES.items() if key in cls.model_fields}
    config = make("model", name, vocab_size=data.vocab_size, seq_len=SEQ_LEN, **sizes)
    model = seeded(config, init_seed=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in model.parameters():
            weights.copy_(torch.randn(weights.shape, generator=generator) * 0.5)
    view = View(seq_len=SEQ_LEN, is_window=config.is_window, device=CPU)
    return model, view


def collected(model, data, protocol, view, monkeypatch):
    """NLL and correctness of each target, as handed to the task."""
    seen = []
    honest = TextData.summarise

    def summarise(self, split, protocol, view, nll_N, correct_N, **how):
        seen.append((nll_N, correct_N))
        return honest(self, split, protocol, view, nll_N, correct_N, **how)

    with monkeypatch.context() as patch:
        patch.setattr(TextData, "summarise", summarise)
        scores = evaluate(model, data, split="test", protocol=protocol, view=view)
    return *seen[0], scores


def loop_nll(logits_V, target):
    """-log softmax in plain Python floats."""
    values = [float(x) for x in logits_V]
    top = max(values)
    return top + math.log(sum(math.exp(x - top) for x in values)) - values[target]


# ------------------------------------------------------------------ one target


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_nll_equals_the_plain_loop(dtype):
    logits_BTV = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).mul(3).to(dtype)
    targets_BT = torch.tensor([[1, IGNORE, 4], [IGNORE, 0, 2]])
    nll_RBT, correct_RBT = target_scores(logits_BTV.unsqueeze(0), targets_BT)
    assert nll_RBT.shape == correct_RBT.shape == (1, 2, 3)
    assert nll_RBT.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    nll_N = nll_RBT[0][targets_BT != IGNORE]
    places = [(0, 0, 1), (0, 2, 4), (1, 1, 0), (1, 2, 2)]
    # bfloat16 logits are exact in float32, where they are scored: only its rounding is left.
    expected = [loop_nll(logits_BTV[b, t], v) for b, t, v in places]
    np.testing.assert_allclose(
        nll_N.double().numpy(), expected, rtol=1e-12 if dtype == torch.float64 else 2e-6
    )


def test_ties_earn_one_over_their_number():
    logits_BTV = torch.tensor([[[2.0, 2.0, 1.0, 2.0]] * 4, [[0.0, 0.0, 0.0, 0.0]] * 4])
    targets_BT = torch.tensor([[0, 3, 2, IGNORE], [0, 1, 2, 3]])
    _, correct_RBT = target_scores(logits_BTV.unsqueeze(0), targets_BT)
    correct_N = correct_RBT[0][targets_BT != IGNORE]
    assert correct_N.tolist() == pytest.approx([1 / 3, 1 / 3, 0, 1 / 4, 1 / 4, 1 / 4, 1 / 4])


def test_a_highest_logit_without_a_tie_earns_1_and_another_0():
    _, correct_RBT = target_scores(torch.tensor([[[[1.0, 3.0], [1.0, 3.0]]]]), torch.tensor([[1, 0]]))
    assert correct_RBT.tolist() == [[[1, 0]]]


def test_models_side_by_side_score_as_each_alone():
    logits_RBTV = torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(0)).round()  # with ties
    targets_BT = torch.tensor([[1, IGNORE, 4, 0], [IGNORE, 0, 2, 2]])
    together = target_scores(logits_RBTV, targets_BT)
    for at in range(3):
        alone = target_scores(logits_RBTV[at : at + 1], targets_BT)
        assert all(torch.equal(a[at], b[0]) for a, b in zip(together, alone, strict=True))


def test_the_training_loss_is_the_sum_over_the_targets_that_are_not_ignored():
    logits_BTV = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)).mul(3)
    targets_BT = torch.tensor([[1, IGNORE, 4], [IGNORE, 0, 2]])
    nll_RBT, _ = target_scores(logits_BTV.unsqueeze(0), targets_BT)
    expected = nll_RBT[0][targets_BT != IGNORE].sum()
    torch.testing.assert_close(summed_loss(logits_BTV, targets_BT), expected)
    rough = summed_loss(logits_BTV.bfloat16(), targets_BT)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, summed_loss(logits_BTV.bfloat16().float(), targets_BT))
    assert summed_loss(logits_BTV.double(), targets_BT).dtype == torch.float64


def test_a_model_of_equal_logits_has_chance_accuracy_and_uniform_nll(data):
    class Equal(LanguageModel):
        def forward(self, tokens_BT, context_BK=None, *, readout="all"):
            return Output(torch.zeros(*tokens_BT.shape, data.vocab_size))

        def extend(self, tokens_BT, state=None):
            raise AssertionError("nothing is generated here")

    view = View(seq_len=SEQ_LEN, is_window=False, device=CPU)
    found = evaluate(Equal(), data, split="test", protocol=make("protocol", "dense"), view=view).metrics
    assert found["accuracy"] == (pytest.approx(1 / data.vocab_size), 4 + 89)
    assert found["nll"][0] == pytest.approx(math.log(data.vocab_size))


# ------------------------------------------------------------------ a whole split


def sliding_loop(model, data, stride):
    """One window at a time over each document: (position, nll) of every target, in text order."""
    ids, scores = data.splits["test"].ids_N, {}
    for start, end in data.splits["test"].bounds:
        at = start
        while True:
            window = ids[at : min(at + SEQ_LEN, end - 1)]
            with torch.no_grad():
                logits_TV = model(torch.from_numpy(window)[None]).logits_BTV[0]
            for offset in range(len(window)):
                # The first window that reaches a target scores it; a later one has more context for others.
                scores.setdefault(at + offset + 1, loop_nll(logits_TV[offset], ids[at + offset + 1]))
            if at + SEQ_LEN >= end - 1:
                break
            at += stride
    return [scores[position] for position in sorted(scores)]


@pytest.mark.parametrize("name", sorted(kinds("model")))
@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_the_sliding_window_equals_a_loop_over_single_windows(data, name, stride, monkeypatch):
    model, view = built(name, data)
    if view.is_window:
        pytest.skip("a window model is given the tokens before its window; see the test below")
    protocol = make("protocol", "dense", stride=stride)
    nll_N, _, scores = collected(model, data, protocol, view, monkeypatch)
    expected = sliding_loop(model.eval(), data, stride)
    assert len(expected) == 4 + 89
    # Another batch size gives another order of float32 sums inside the products.
    np.testing.assert_allclose(nll_N, expected, rtol=0, atol=1e-5)
    assert scores.metrics["nll"] == (pytest.approx(np.mean(expected), abs=1e-5), 93)
    bits = np.sum(expected) / math.log(2) / 93
    assert scores.metrics["bits_per_byte"] == (pytest.approx(bits, abs=1e-5), 93)


def test_the_default_stride_is_half_the_context(data, monkeypatch):
    model, view = built("transformer", data)
    half, free, one = (
        collected(model, data, make("protocol", "dense", stride=stride), view, monkeypatch)[0]
        for stride in (4, None, 1)
    )
    assert np.array_equal(half, free)
    assert np.abs(half - one).max() > 0.01


@pytest.mark.parametrize("name", sorted(kinds("model")))
def test_a_window_model_in_disjoint_windows_scores_as_with_stride_1(data, name, monkeypatch):
    model, view = built(name, data)
    if not view.is_window:
        pytest.skip("only window models see a full context at every position")
    nll_N, *_ = collected(model, data, make("protocol", "dense"), view, monkeypatch)
    ids, expected = data.splits["test"].ids_N, []
    model.eval()
    for start, end in data.splits["test"].bounds:
        for target in range(start + 1, end):
            window = ids[max(start, target - SEQ_LEN) : target]
            padded = torch.full((1, SEQ_LEN), -1)
            padded[0, SEQ_LEN - len(window) :] = torch.from_numpy(window)
            # The last token alone, after all that precede it: one full window a target.
            with torch.no_grad():
                logits_BTV = model(padded[:, -1:], padded[:, :-1]).logits_BTV
            expected.append(loop_nll(logits_BTV[0, 0], ids[target]))
    np.testing.assert_allclose(nll_N, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(kinds("model")))
def test_last_token_scores_the_token_after_each_full_window(data, name, monkeypatch):
    model, view = built(name, data)
    protocol = make("protocol", "last_token", average="example")
    nll_N, _, scores = collected(model, data, protocol, view, monkeypatch)
    ids = data.splits["test"].ids_N
    expected = []
    with torch.no_grad():
        for at in range(5, 5 + 90 - SEQ_LEN):  # the first document is too short for one
            logits_BTV = model.eval()(
                torch.from_numpy(ids[at : at + SEQ_LEN])[None], readout="last"
            ).logits_BTV
            expected.append(loop_nll(logits_BTV[0, 0], ids[at + SEQ_LEN]))
    np.testing.assert_allclose(nll_N, expected, rtol=0, atol=1e-5)
    assert scores.metrics["nll"][0] == pytest.approx(np.mean(expected), abs=1e-5)


@pytest.mark.parametrize("name", sorted(kinds("model")))
@pytest.mark.parametrize("protocol", ["dense", "last_token"])
def test_any_evaluation_batch_size_gives_the_same_scores(data, name, protocol, monkeypatch):
    model, view = built(name, data)
    found = []
    for rows in (1, 3, 1024):
        view = replace(view, eval_tokens=rows * SEQ_LEN)
        sizes = [
            len(b.tokens_BT) for b in data.eval_batches("test", make("protocol", protocol), view, eval_seed=0)
        ]
        assert max(sizes) == min(rows, sum(sizes))
        found.append(collected(model, data, make("protocol", protocol), view, monkeypatch))
    for nll_N, correct_N, scores in found[1:]:
        np.testing.assert_allclose(nll_N, found[0][0], rtol=0, atol=1e-5)
        assert np.array_equal(correct_N, found[0][1])
        assert scores.metrics["nll"][0] == pytest.approx(found[0][2].metrics["nll"][0], abs=1e-6)


@pytest.mark.parametrize("eval_bytes", [1, 4, 5, 50])
def test_a_byte_budget_scores_the_first_targets_as_the_whole_split_does(data, eval_bytes, monkeypatch):
    model, view = built("transformer", data)
    whole, *_ = collected(model, data, make("protocol", "dense"), view, monkeypatch)
    part, *_ = collected(model, data, make("protocol", "dense", eval_bytes=eval_bytes), view, monkeypatch)
    np.testing.assert_allclose(part, whole[:eval_bytes], rtol=0, atol=1e-5)


# ------------------------------------------------------------------ around it


def test_scoring_switches_dropout_off_and_leaves_the_mode_as_it_was(data):
    config = make(
        "model", "transformer", vocab_size=data.vocab_size, seq_len=SEQ_LEN, **SIZES | {"dropout": 0.9}
    )
    model = seeded(config, init_seed=0)
    view = View(seq_len=SEQ_LEN, is_window=False, device=CPU)
    scores = []
    for training in (True, False):
        model.train(training)
        found = evaluate(model, data, split="test", protocol=make("protocol", "dense"), view=view)
        scores.append(found.metrics["nll"])
        assert model.training is training
        assert all(part.training is training for part in model.modules())
    assert scores[0] == scores[1]
    assert all(weights.grad is None for weights in model.parameters())


def test_only_the_last_position_is_read_out_where_only_that_has_a_target(data):
    model, _ = built("transformer", data)
    tokens_BT = torch.zeros(2, SEQ_LEN, dtype=torch.long)
    shapes = []
    for targets_BT in (tokens_BT[:, -1:], tokens_BT):
        readout = readout_of(tokens_BT, targets_BT)
        shapes.append((readout, model(tokens_BT, readout=readout).logits_BTV.shape[1]))
    assert shapes == [("last", 1), ("all", SEQ_LEN)]
    one_B1 = tokens_BT[:, :1]
    assert readout_of(one_B1, one_B1) == "all", "of one token, all is the last"


def test_scoring_reads_out_only_the_last_position_of_last_token(data, monkeypatch):
    model, view = built("transformer", data)
    shapes, honest = set(), target_scores

    def seen(logits_RBTV, targets_BT):
        shapes.add(logits_RBTV.shape[2])
        return honest(logits_RBTV, targets_BT)

    monkeypatch.setattr("lmbench.measure.score.target_scores", seen)
    evaluate(model, data, split="test", protocol=make("protocol", "last_token"), view=view)
    assert shapes == {1}


def test_a_split_of_several_models_is_scored_as_each_alone(data, monkeypatch):
    model, view = built("transformer", data)
    scale_R = torch.tensor([1.0, 0.5, 0.0])
    protocol = make("protocol", "dense", eval_bytes=50)

    def scorer(batch):
        logits_BTV = model.eval()(batch.tokens_BT).logits_BTV
        return target_scores(logits_BTV * scale_R[:, None, None, None], batch.targets_BT)

    nll_RN, correct_RN = score_split(scorer, data, split="test", protocol=protocol, view=view)
    assert nll_RN.shape == correct_RN.shape == (3, 50)
    assert nll_RN.dtype == correct_RN.dtype == np.float64
    alone_N, right_N, _ = collected(model, data, protocol, view, monkeypatch)
    assert np.array_equal(nll_RN[0], alone_N) and np.array_equal(correct_RN[0], right_N)
    np.testing.assert_allclose(nll_RN[2], math.log(data.vocab_size), rtol=1e-6)
    np.testing.assert_allclose(correct_RN[2], 1 / data.vocab_size, rtol=1e-6)


def test_items_are_left_out_where_they_are_not_wanted(data):
    protocol = make("protocol", "dense", eval_bytes=50)
    view = View(seq_len=SEQ_LEN, is_window=False, device=CPU)
    nll_N, correct_N = np.ones(50), np.zeros(50)
    kept = data.summarise("test", protocol, view, nll_N, correct_N)
    bare = data.summarise("test", protocol, view, nll_N, correct_N, items=False)
    assert kept.metrics == bare.metrics
    assert len(kept.items) == 1 and bare.items.empty
    assert list(bare.items.columns) == list(no_items().columns)


def test_inference_speed_is_scored_positions_over_the_median_second(data, monkeypatch):
    model, _ = built("transformer", data)
    batch = Batch(
        tokens_BT=torch.zeros(2, SEQ_LEN, dtype=torch.long),
        targets_BT=torch.zeros(2, SEQ_LEN, dtype=torch.long),
    )
    # Start and end of a slow warm-up, then of 1, 2 and 4 seconds: the median is 2.
    clock = iter([0.0, 100.0, 0.0, 1.0, 0.0, 2.0, 0.0, 4.0])
    monkeypatch.setattr("lmbench.measure.score.time.perf_counter", lambda: next(clock))
    model.train()
    assert tokens_per_second(model, batch, repeats=3) == 2 * SEQ_LEN / 2
    assert model.training


def test_true_float32_leaves_the_settings_as_they_were():
    torch.set_float32_matmul_precision("high")
    try:
        before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
        with true_float32():
            assert torch.get_float32_matmul_precision() == "highest"
            assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.enabled == before[0]
        assert torch.get_float32_matmul_precision() == "high"
        assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before
    finally:
        torch.set_float32_matmul_precision("highest")
