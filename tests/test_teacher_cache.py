"""The cached teacher against teachers that are asked live.

Legend: N position in the text, B batch, T position, V vocabulary, X entry of a row.
"""

import numpy as np
import pytest
import torch

from lmbench.config import make
from lmbench.data.documents import Corpus, Document
from lmbench.data.splits import Split, window_starts
from lmbench.layers.objective import average, likeliest, unpacked
from lmbench.methods.teacher_cache import TeacherCache, fill, windows
from lmbench.models.base import seeded
from lmbench.tasks.base import IGNORE, View, load_task
from lmbench.tasks.text_data import TextData
from lmbench.tasks.windows import gather
from lmbench.training.loop import train_group
from tests.corpora import text, write_corpus
from tests.test_groups import CPU, tiny_run

SEQ_LEN = 6


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    corpus = write_corpus(tmp_path_factory.mktemp("cache") / "small", train=220)
    return make("task", "text", corpus=str(corpus), tokenizer="char")


@pytest.fixture(scope="module")
def data(task):
    return load_task(task)


def teacher(task, model="transformer", *, seed=3, dtype=torch.float64):
    """A model with large weights, so that it says something else at each position."""
    config = tiny_run(task, model).model
    made = seeded(config, init_seed=seed).to(dtype).eval()
    with torch.no_grad():
        for weight in made.parameters():
            weight.mul_(2)
    return made


def view(task, model="transformer", **fields):
    return View(seq_len=SEQ_LEN, is_window=tiny_run(task, model).model.is_window, device=CPU, **fields)


def filled(task, data, *models, k=5, tau=2.0, seen=None, disjoint=False):
    shares = (1 / len(models),) * len(models)
    return fill(models, data, seen or view(task), k=k, tau=tau, shares=shares, disjoint=disjoint)


# ------------------------------------------------------------------ what a row holds


def test_a_row_is_what_the_teacher_says_where_a_window_reads_that_position_anew(task, data):
    model = teacher(task)
    cache = filled(task, data, model, k=data.vocab_size)
    ids_N = torch.from_numpy(data.splits["train"].ids_N)
    # Windows move by 3: position 7 is the fifth of the window from 3, position 2 the third of the first.
    for position, start in ((2, 0), (5, 0), (6, 3), (7, 3), (8, 3), (9, 6)):
        with torch.no_grad():
            logits_V = model(ids_N[None, start : start + SEQ_LEN]).logits_BTV[0, position - start]
        soft = unpacked(cache.table_NX[position], vocab_size=data.vocab_size)
        found_V = torch.zeros(data.vocab_size).scatter(0, soft.ids_BTK, soft.log_p_BTK.exp())
        torch.testing.assert_close(found_V, (logits_V / 2).softmax(0).float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("length", [5, 6, 7, 90])
def test_every_position_with_a_next_token_is_read_once_with_half_a_window_before_it(length):
    split = Split(np.zeros(length + 90), None, np.zeros(length + 90), ((0, length), (length, length + 90)))
    starts, skips = windows(split, seq_len=SEQ_LEN, disjoint=False)
    read = []
    for start, skip in zip(starts, skips, strict=True):
        first, last = (0, length) if start < length else (length, length + 90)
        for position in range(start + skip, min(start + SEQ_LEN, last - 1)):
            read.append(position)
            seen, possible = position - start + 1, position - first + 1
            assert seen == possible or seen > SEQ_LEN // 2
    assert sorted(read) == [n for n in range(length + 90) if n not in (length - 1, length + 89)]


def test_batches_of_any_size_fill_the_same_rows(task, data):
    tables = [
        filled(task, data, teacher(task), seen=view(task, eval_tokens=n)).table_NX
        for n in (SEQ_LEN, 60, 10**6)
    ]
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0], rtol=1e-6, atol=1e-6)


def test_a_document_is_read_from_its_own_start_and_its_last_token_says_nothing(task):
    documents = (Document(text(9), "a", ""), Document(text(40, shift=1), "b", ""))
    corpus = Corpus("small", dict.fromkeys(("train", "valid", "test"), documents), "", {})
    parts = TextData(task, corpus, task.tokenizer.fit(load_task(task).corpus))
    model = teacher(task)
    found = filled(task, parts, model, k=parts.vocab_size).table_NX
    is_said = found.abs().sum(1) > 0
    assert (~is_said).nonzero().flatten().tolist() == [8, 48]
    ids_N = torch.from_numpy(parts.splits["train"].ids_N)
    with torch.no_grad():
        first_V = model(ids_N[None, 9:10]).logits_BTV[0, 0].div(2).softmax(0).float()
    soft = unpacked(found[9], vocab_size=parts.vocab_size)
    kept_V = torch.zeros_like(first_V).scatter(0, soft.ids_BTK, soft.log_p_BTK.exp())
    torch.testing.assert_close(kept_V, first_V, rtol=1e-5, atol=1e-7)


def test_several_teachers_are_averaged_before_the_likeliest_are_kept(task, data):
    one, other = teacher(task), teacher(task, seed=4)
    cache, alone = filled(task, data, one, other, k=3), filled(task, data, one, k=3)
    assert not torch.equal(cache.table_NX, alone.table_NX)
    ids_1T = torch.from_numpy(data.splits["train"].ids_N)[None, :SEQ_LEN]
    with torch.no_grad():
        logits_MTV = torch.stack([model(ids_1T).logits_BTV[0] for model in (one, other)])
    soft = likeliest(average(logits_MTV, shares=(0.5, 0.5), tau=2.0), k=3)
    found = unpacked(cache.table_NX[:3], vocab_size=data.vocab_size)
    assert torch.equal(found.ids_BTK, soft.ids_BTK[:3])
    torch.testing.assert_close(found.log_tail_BT, soft.log_tail_BT[:3].float(), rtol=1e-5, atol=1e-6)


def test_memory_is_4_bytes_for_each_id_log_probability_and_tail(task, data):
    cache = filled(task, data, teacher(task), k=5)
    assert cache.n_bytes == len(data.splits["train"].ids_N) * (2 * 5 + 1) * 4


# ------------------------------------------------------------------ reading it


def test_rows_are_gathered_by_the_starts_of_windows():
    cache = TeacherCache(torch.arange(40.0).reshape(20, 2))
    start_RB = torch.tensor([[0, 3], [10, 4]])
    rows = cache.rows({"start": start_RB}, seq_len=3, readout="all")
    assert rows.shape == (2, 1, 2, 3, 2)
    assert rows[1, 0, 0, :, 0].tolist() == [20, 22, 24]
    last = cache.rows({"start": start_RB}, seq_len=3, readout="last")
    assert last.shape == (2, 1, 2, 1, 2) and torch.equal(last, rows[:, :, :, -1:])


def test_batches_that_are_not_windows_of_the_text_are_refused():
    with pytest.raises(ValueError, match=r"not windows of it \(they have row, used\); accepted: None"):
        TeacherCache(torch.zeros(4, 3)).rows({"used": None, "row": None}, seq_len=3, readout="all")


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_with_all_tokens_kept_a_window_model_teaches_as_if_it_were_live(task, data, direction):
    """It sees as much of the text at any position, so the only thing that a cache leaves out is the tail."""
    model = teacher(task, "mlp", dtype=torch.float32)
    seen = view(task, "mlp")
    run = tiny_run(task, "mlp")
    start_B = torch.from_numpy(window_starts(data.splits["train"], SEQ_LEN))[[0, 1, 7, 100]]
    ids_N = torch.from_numpy(data.splits["train"].ids_N)
    batch = gather(ids_N, start_B, torch.zeros_like(start_B), seen, last_only=False)
    live_MBTV = model(batch.tokens_BT, batch.context_BK).logits_BTV.detach().unsqueeze(0)
    student_BTV = torch.randn(live_MBTV.shape[1:], generator=torch.Generator().manual_seed(0))
    fields = {"teacher": (run,), "direction": direction, "a": 0.4}
    live = make("method", "distill", **fields).objective()
    wanted = live(student_BTV, batch.targets_BT, live_MBTV, torch.zeros(0))
    found = []
    for k in (2, data.vocab_size):
        cache = filled(task, data, model, k=k, seen=seen, disjoint=True)
        rows = cache.rows({"start": start_B}, seq_len=SEQ_LEN, readout="all")
        kept = make("method", "distill", cache=k, **fields).objective()
        found.append(kept(student_BTV, batch.targets_BT, rows, torch.zeros(0)))
    torch.testing.assert_close(found[1], wanted, rtol=1e-5, atol=1e-5)
    assert 0 < found[0][2] < 0.95 * wanted[2] and found[0][1] == wanted[1]


def test_an_attention_model_is_read_with_more_context_than_live(task, data):
    """The declared difference: the first position of a window has one token live, more from the cache."""
    model = teacher(task, dtype=torch.float32)
    cache = filled(task, data, model, k=data.vocab_size)
    start_B = torch.tensor([20])
    rows = cache.rows({"start": start_B}, seq_len=SEQ_LEN, readout="all")
    ids_N = torch.from_numpy(data.splits["train"].ids_N)
    with torch.no_grad():
        live_TV = model(ids_N[None, 20 : 20 + SEQ_LEN]).logits_BTV[0].div(2).softmax(-1)
    soft = unpacked(rows[0, 0], vocab_size=data.vocab_size)
    kept_TV = torch.zeros_like(live_TV).scatter(-1, soft.ids_BTK, soft.log_p_BTK.exp())
    assert (kept_TV[0] - live_TV[0]).abs().max() > 1e-3


# ------------------------------------------------------------------ as a setting of the method


def test_a_method_fills_its_cache_or_none(task, data):
    run = tiny_run(task)
    how = {"data": data, "run": run, "view": view(task)}
    live, kept = (make("method", "distill", teacher=(run,), cache=k) for k in (None, 3))
    assert live.cached([teacher(task)], **how) is None
    found = kept.cached([teacher(task)], **how)
    torch.testing.assert_close(found.table_NX, filled(task, data, teacher(task), k=3).table_NX)


def test_a_cached_teacher_costs_one_pass_over_the_text(task, data):
    run = tiny_run(task)
    method = make("method", "distill", teacher=(run,), cache=3)
    n = len(windows(data.splits["train"], seq_len=SEQ_LEN, disjoint=False)[0])
    assert n == 1 + -(-(219 - SEQ_LEN) // 3)
    each = sum(term.forward for term in run.model.terms("all"))
    assert method.extra_flops(run, 1) == method.extra_flops(run, 50) == {"teacher": n * each}
    window = tiny_run(task, "mlp")
    method = make("method", "distill", teacher=(window,), cache=3)
    each = sum(term.forward for term in window.model.terms("all"))
    assert method.extra_flops(window, 1) == {"teacher": -(-219 // SEQ_LEN) * each}


def test_a_cache_needs_a_text_and_fits_its_vocabulary(task, data):
    run = tiny_run(task)
    with pytest.raises(
        ValueError, match=rf"distill.cache = 99 is not accepted: the vocabulary has {data.vocab_size}"
    ):
        make("method", "distill", teacher=(run,), cache=99).check(run)
    recall = tiny_run(make("task", "recall"))
    with pytest.raises(ValueError, match="what teachers say of a training text, which task 'recall' has not"):
        make("method", "distill", teacher=(recall,), cache=3).check(recall)


def test_rows_of_ignored_positions_give_no_gradient(task, data):
    cache = filled(task, data, teacher(task), k=3)
    rows = cache.rows({"start": torch.tensor([0, 8])}, seq_len=SEQ_LEN, readout="all")
    logits_BTV = torch.randn(2, SEQ_LEN, data.vocab_size, requires_grad=True)
    targets_BT = torch.zeros(2, SEQ_LEN, dtype=torch.long)
    targets_BT[1] = IGNORE
    objective = make("method", "distill", teacher=(tiny_run(task),), cache=3).objective()
    objective(logits_BTV, targets_BT, rows, torch.zeros(0))[0].backward()
    assert logits_BTV.grad[0].abs().sum() > 0 and not logits_BTV.grad[1].any()


# ------------------------------------------------------------------ in training


def losses(trained, metric):
    return [
        row["value"] for row in trained.record.rows if row["metric"] == metric and row["split"] == "train"
    ]


def test_a_window_model_that_keeps_all_tokens_trains_its_student_as_a_live_one_does(task):
    """Also in micro-batches, and side by side with another student."""
    taught = tiny_run(task, "mlp", steps=3, grad_accum=2)
    one = taught.with_seed(5)
    weights = {one.digest: seeded(one.model, init_seed=5).state_dict()}
    for name, value in weights[one.digest].items():
        weights[one.digest][name] = 2 * value

    def trained(k, *seeds):
        methods = (make("method", "distill", teacher=(one,), cache=k, tau=3.0),)
        runs = [taught.replace(methods=methods).with_seed(seed) for seed in seeds]
        return train_group(runs, device=CPU, teachers=weights)

    size = taught.model.vocab_size
    live, kept, few = (trained(k, 1)[0] for k in (None, size, 2))
    assert losses(kept, "loss_soft") == pytest.approx(losses(live, "loss_soft"), rel=1e-5)
    assert losses(few, "loss_soft")[0] < 0.95 * losses(live, "loss_soft")[0]
    for name, value in live.final.items():
        torch.testing.assert_close(kept.final[name], value, rtol=1e-4, atol=1e-5)
    beside = trained(size, 1, 2)
    for name, value in beside[0].final.items():
        torch.testing.assert_close(kept.final[name], value, rtol=1e-6, atol=1e-8)


def test_a_cache_serves_students_of_the_last_token(task):
    taught = tiny_run(task, steps=3, protocol=make("protocol", "last_token", eval_windows=20))
    one = tiny_run(task).with_seed(5)
    methods = (make("method", "distill", teacher=(one,), cache=4),)
    weights = {one.digest: seeded(one.model, init_seed=5).state_dict()}
    (trained,) = train_group([taught.replace(methods=methods)], device=CPU, teachers=weights)
    assert all(value > 0 for value in losses(trained, "loss_soft"))
