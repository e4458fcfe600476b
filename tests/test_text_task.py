"""The text task: which tokens are inputs, targets and context, in training and in scoring."""

import math

import numpy as np
import pytest
import torch

from lmbench.config import make
from lmbench.data.splits import SKIPPED, Draws, Split, batch_sizes, sliding_windows, window_starts
from lmbench.tasks.base import IGNORE, View, load_task
from tests.corpora import text, write_corpus

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path):
    return load_task(make("task", "text", corpus=str(write_corpus(tmp_path / "small")), tokenizer="char"))


def view(seq_len=8, *, is_window=False):
    return View(seq_len=seq_len, is_window=is_window, device=CPU)


def run_on(data, **fields):
    model = make("model", "mlp", seq_len=8, vocab_size=data.vocab_size)
    return make("run", "run", model=model, task=data.config, **({"steps": 5, "batch_size": 4} | fields))


def decoded(data, ids):
    return data.tokenizer.decode(np.asarray(ids))


def scored(data, split, protocol, view):
    """Every scored target in order, with how many tokens of its document a model saw before it."""
    ids, seen = [], []
    for batch in data.eval_batches(split, protocol, view, eval_seed=0):
        keep = batch.targets_BT != IGNORE
        ids += batch.targets_BT[keep].tolist()
        seen += (keep.nonzero()[:, 1] + 1).tolist()
    return ids, seen


def test_a_training_row_is_text_and_its_targets_are_one_token_later(data):
    batch = data.stream(run_on(data), view()).at(0)
    row = decoded(data, batch.tokens_BT[0])
    assert row in text(3000)
    assert decoded(data, batch.targets_BT[0])[:-1] == row[1:]


def test_last_token_keeps_only_the_token_after_the_window(data):
    dense = data.stream(run_on(data), view()).at(2)
    last = data.stream(run_on(data, protocol="last_token"), view()).at(2)
    assert torch.equal(last.tokens_BT, dense.tokens_BT)
    assert torch.equal(last.targets_BT[:, 0], dense.targets_BT[:, -1])


def test_a_window_model_gets_the_tokens_before_the_first_and_minus_one_before_the_document(data):
    every = data.stream(run_on(data, steps=200), view(is_window=True)).at
    for step in range(200):
        batch = every(step)
        for context, tokens in zip(batch.context_BK.tolist(), batch.tokens_BT.tolist(), strict=True):
            known = [c for c in context if c >= 0]
            assert context == [-1] * (7 - len(known)) + known
            joined = decoded(data, known + tokens)
            assert joined in text(3000) and (len(known) == 7 or text(3000).startswith(joined))


def test_equal_data_seeds_give_equal_batches_whatever_the_number_of_steps(data):
    short, long = run_on(data, steps=5, data_seed=3), run_on(data, steps=50, data_seed=3)
    for step in range(5):
        assert torch.equal(
            data.stream(short, view()).at(step).tokens_BT, data.stream(long, view()).at(step).tokens_BT
        )
    assert not np.array_equal(draws(3).block(0, 5), draws(4).block(0, 5))


# ------------------------------------------------------------------ draws


def draws(data_seed=3, n=1000):
    return Draws(data_seed, batch_size=4, n=n)


@pytest.mark.parametrize("n", [1000, 2**31 + 5, 2**40])
def test_draws_in_blocks_are_those_of_one_block(n):
    whole, parts = draws(n=n).block(0, 20), draws(n=n)
    assert whole.shape == (20, 4) and whole.min() >= 0 and whole.max() < n
    joined = np.concatenate([parts.block(0, 1), parts.block(1, 2), parts.block(3, 16), parts.block(19, 1)])
    assert np.array_equal(joined, whole)


def test_draws_may_skip_ahead_and_start_again():
    whole, some = draws().block(0, 20), draws()
    assert np.array_equal(some.block(17, 3), whole[17:])
    assert np.array_equal(some.block(2, 5), whole[2:7]), "an earlier step starts again"
    assert np.array_equal(some.block(2, 5), whole[2:7])
    assert np.array_equal(some.block(9, 4), whole[9:13])


def test_draws_skip_far_in_pieces():
    far = SKIPPED + 3
    assert np.array_equal(draws().block(far, 2), draws().block(0, far + 2)[far:])


def test_draws_are_those_of_the_committed_results():
    # Philox with the seed as its key: a changed stream would orphan every stored run.
    generator = np.random.Generator(np.random.Philox(key=3))
    assert np.array_equal(draws().block(0, 6), generator.integers(0, 1000, size=(6, 4)))
    assert draws().block(0, 2).tolist() == [[862, 934, 270, 79], [502, 382, 347, 798]]


def test_a_stream_gives_each_batch_in_any_order(data):
    run = run_on(data, epoch_windows=10, steps=6)
    in_order = data.stream(run, view())
    first = [in_order.at(step) for step in range(6)]
    again = data.stream(run, view())
    for step in (5, 0, 3, 3, 1):
        assert torch.equal(again.at(step).tokens_BT, first[step].tokens_BT)
        assert torch.equal(again.at(step).targets_BT, first[step].targets_BT)


def test_streams_of_one_context_share_the_places_of_windows_and_cannot_change_them(data):
    first, second = (data.stream(run_on(data, data_seed=seed), view()) for seed in (0, 1))
    assert first.starts_S is second.starts_S
    with pytest.raises(ValueError, match="read-only"):
        first.starts_S[0] = 1
    assert len(data.stream(run_on(data), view(4)).starts_S) > len(first.starts_S)


@pytest.mark.parametrize("is_window", [False, True])
def test_stacked_batches_are_those_of_each_run(data, is_window):
    runs = [run_on(data, epoch_windows=10, data_seed=seed) for seed in (0, 1, 5)]
    streams = [data.stream(run, view(is_window=is_window)) for run in runs]
    drawn = [stream.index(2, 1) for stream in streams]
    row = {name: torch.from_numpy(np.stack([one[name][0] for one in drawn])) for name in drawn[0]}
    stacked = streams[0].batch(row)
    for at, stream in enumerate(streams):
        for name, value in vars(stream.at(2)).items():
            found = getattr(stacked, name)
            assert found is value is None or torch.equal(found[at], value), name


def test_micro_batches_are_the_batch_in_order(data):
    batch = data.stream(run_on(data), view(is_window=True)).at(0)
    parts = batch.split(2)
    for name in ("tokens_BT", "targets_BT", "context_BK"):
        assert [len(getattr(part, name)) for part in parts] == [2, 2]
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    assert [part.context_BK for part in data.stream(run_on(data), view()).at(0).split(2)] == [None, None]


# ------------------------------------------------------------------ epochs


def test_the_last_batch_of_an_epoch_is_short(data):
    run = run_on(data, epoch_windows=10, steps=6)
    assert batch_sizes(run) == [4, 4, 2]
    batch_at = data.stream(run, view()).at
    rows = [int((batch_at(step).targets_BT != IGNORE).any(dim=1).sum()) for step in range(6)]
    assert rows == [4, 4, 2, 4, 4, 2]


@pytest.mark.parametrize("stride", [1, 3, 4, 8])
def test_sliding_windows_score_every_target_once_with_enough_context(data, stride):
    ids, seen = scored(data, "valid", make("protocol", "dense", stride=stride), view())
    assert decoded(data, ids) == text(700, shift=1)[1:]
    assert seen[:8] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert min(seen[8:]) >= 8 - stride + 1


def test_a_window_model_scores_every_target_once_in_disjoint_windows(data):
    ids, _ = scored(data, "valid", make("protocol", "dense"), view(is_window=True))
    assert decoded(data, ids) == text(700, shift=1)[1:]


def test_eval_bytes_stops_at_that_many_bytes(data):
    ids, _ = scored(data, "test", make("protocol", "dense", eval_bytes=100), view())
    assert decoded(data, ids) == text(700, shift=2)[1:101]


def test_last_token_scores_the_first_windows(data):
    ids, _ = scored(data, "test", make("protocol", "last_token", eval_windows=5), view())
    assert decoded(data, ids) == text(700, shift=2)[8:13]


def test_windows_never_cross_the_end_of_a_document():
    two = Split(np.arange(12), None, np.repeat([0, 5], [5, 7]), ((0, 5), (5, 12)))
    assert window_starts(two, 3).tolist() == [0, 1, 5, 6, 7, 8]
    starts, skips = sliding_windows(two, 4, 2)
    assert (starts.tolist(), skips.tolist()) == ([0, 5, 7], [0, 0, 2])


def test_batch_mean_average_weighs_the_short_last_batch_like_the_others(data):
    protocol = make("protocol", "last_token", eval_windows=3, eval_batch_size=2)
    nll, correct = np.array([1.0, 3.0, 8.0]), np.zeros(3)
    assert data.summarise("test", protocol, view(), nll, correct).metrics["nll"] == (5.0, 3)
    plain = protocol.replace(average="example")
    assert data.summarise("test", plain, view(), nll, correct).metrics["nll"] == (4.0, 3)


def test_bits_per_byte_of_a_uniform_guess_is_the_log_of_the_vocabulary(data):
    protocol = make("protocol", "dense", eval_bytes=600)
    nll = np.full(600, math.log(data.vocab_size))
    scores = data.summarise("test", protocol, view(), nll, np.zeros(600))
    assert scores.metrics["bits_per_byte"] == (pytest.approx(math.log2(data.vocab_size)), 600)
    assert scores.metrics["perplexity"][0] == pytest.approx(data.vocab_size)
    assert scores.items["bytes"].tolist() == [256, 256, 88]
    assert scores.items["nll"].sum() == pytest.approx(nll.sum())


def test_a_text_shorter_than_the_context_is_refused(data):
    with pytest.raises(ValueError, match="seq_len = 5000 needs a training text of at least 5001 tokens"):
        data.stream(run_on(data), view(5000))


def test_the_fingerprint_follows_the_text_and_not_its_folder(tmp_path):
    first = make("task", "text", corpus=str(write_corpus(tmp_path / "a" / "name")))
    moved = make("task", "text", corpus=str(write_corpus(tmp_path / "b" / "name")))
    other = make("task", "text", corpus=str(write_corpus(tmp_path / "c" / "name", test=701)))
    assert first.digest == moved.digest
    assert first.digest != other.digest


def test_a_text_that_changed_after_the_run_was_defined_is_refused(tmp_path):
    task = make("task", "text", corpus=str(write_corpus(tmp_path / "a")))
    (tmp_path / "a" / "train.txt").write_text("other " * 500)
    with pytest.raises(ValueError, match="has changed since this run was defined"):
        task.load()


def test_token_caps_cut_the_splits(tmp_path):
    corpus = str(write_corpus(tmp_path / "a"))
    data = load_task(make("task", "text", corpus=corpus, train_tokens=500, eval_tokens=90))
    assert [len(data.splits[s].ids_N) for s in ("train", "valid", "test")] == [500, 90, 90]
