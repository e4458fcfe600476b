"""Flips of tokens of a text: what is flipped, what is scored, and the curves of stored runs."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from lmbench.config import make
from lmbench.measure import flips
from lmbench.measure.flips import flip_curve
from lmbench.models.base import LanguageModel, Output, seeded
from lmbench.probes.scores import FlipCurve
from lmbench.records import Reference, pack
from lmbench.tasks.base import View, load_task
from lmbench.training import robustness
from lmbench.training.execute import run_all
from lmbench.training.robustness import domain_scores, flip_curves
from tests.test_text_domains import corpus  # noqa: F401  (a fixture)
from tests.test_training import small_run

CPU = torch.device("cpu")
HOW = {"split": "test", "windows": 6, "candidates": 4, "seed": 3}


def view_of(seq_len=8, **fields):
    return View(seq_len=seq_len, device=CPU, **({"is_window": False} | fields))


def model_of(data, kind="transformer", **fields):
    sizes = {"vocab_size": data.vocab_size, "seq_len": 8, "d_model": 16} | fields
    model = seeded(make("model", kind, **sizes), init_seed=0).double().eval()
    for parameter in model.parameters():
        parameter.data.mul_(2.0)  # so that a token matters to what follows
    return model


def curve_of(model, data, *, budgets=(0, 1, 2, 4), view=None, **fields):
    table = flip_curve(model, data, view=view or view_of(), budgets=budgets, **HOW | fields)
    return table.set_index(["kind", "budget"])["nll"]


class Recorder(LanguageModel):
    """Predicts every token alike, and keeps what it was shown."""

    def __init__(self, vocab_size):
        super().__init__()
        self.seen, self.vocab_size = [], vocab_size
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        self.seen.append(tokens_BT.clone())
        return Output(torch.zeros(*tokens_BT.shape, self.vocab_size))

    def extend(self, tokens_BT, state=None):
        raise AssertionError("not generated")


class Fragile(Recorder):
    """Sure of token 0 next, but only of the less the larger the last token's id is: a known worst flip."""

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        logits_BTV = super().forward(tokens_BT).logits_BTV.double()
        logits_BTV[..., 0] += tokens_BT
        return Output(logits_BTV)


@pytest.fixture
def data(task):
    return load_task(task)


# ------------------------------------------------------------------ what is flipped and scored


def test_flips_touch_every_second_token_and_no_target(data):
    model = Recorder(data.vocab_size)
    flip_curve(model, data, view=view_of(), budgets=(4,), **HOW)
    clean, seen = model.seen[0], torch.cat(model.seen[1:])
    changed = seen != clean.repeat(len(seen) // len(clean), 1)
    assert not changed[:, ::2].any()
    assert changed[:, 1::2].any(0).all()
    # With 4 flips of 4 places none is flipped twice and none is left as it was.
    assert changed[-6:, 1::2].all()


def test_a_flip_is_to_another_token_of_train(data):
    model = Recorder(data.vocab_size)
    flip_curve(model, data, view=view_of(), budgets=(1,), **HOW | {"candidates": 200})
    tried = torch.cat(model.seen[1:-2])
    clean = model.seen[0].repeat(len(tried) // 6, 1)
    assert ((tried != clean).sum(1) == 1).all()
    assert set(tried[tried != clean].tolist()) <= set(data.splits["train"].ids_N.tolist())


def test_a_uniform_model_scores_the_same_at_every_budget(data):
    table = flip_curve(Recorder(data.vocab_size), data, view=view_of(), budgets=(0, 3), **HOW)
    assert table["nll"].tolist() == pytest.approx([math.log(data.vocab_size)] * 4)
    assert list(table["n"]) == [6 * 4] * 4
    assert list(zip(table["kind"], table["budget"], strict=True)) == list(
        itertools.product(("greedy", "random"), (0, 3))
    )


def test_the_greedy_flip_is_the_worst_of_all_when_all_are_tried(data):
    """6 windows of 2 tokens have one place each, so 2,000 draws try each of its replacements."""
    model = Fragile(data.vocab_size)
    how = {"view": view_of(2), "budgets": (0, 1), "split": "test", "windows": 6, "seed": 3}
    nll = flip_curve(model, data, candidates=2000, **how).set_index(["kind", "budget"])["nll"]
    clean = model.seen[0]
    spans = flips._windows(data, split="test", view=view_of(2), windows=6, seed=3)
    targets = spans.targets_BT[:, 1].tolist()
    kinds = set(data.splits["train"].ids_N.tolist())

    def nats(token, target):
        logits = np.zeros(data.vocab_size)
        logits[0] = token
        return np.log(np.exp(logits).sum()) - logits[target]

    worst = [
        max(nats(to, target) for to in kinds - {own})
        for (_, own), target in zip(clean.tolist(), targets, strict=True)
    ]
    assert nll["greedy", 1] == pytest.approx(np.mean(worst))
    assert nll["random", 1] < nll["greedy", 1]


# ------------------------------------------------------------------ the curve


def test_one_candidate_makes_the_greedy_curve_the_random_one(data):
    nll = curve_of(model_of(data), data, candidates=1)
    assert nll["greedy"].tolist() == nll["random"].tolist()


def test_more_candidates_do_more_harm_with_the_first_flip(data):
    nll = [curve_of(model_of(data), data, candidates=count)["greedy", 1] for count in (1, 4, 64)]
    assert nll[0] < nll[1] < nll[2]


def test_curves_are_nested_and_begin_at_the_text_as_it_is(data):
    model = model_of(data)
    nll, first = (curve_of(model, data, budgets=which, candidates=64) for which in ((0, 1, 2), (0, 1)))
    assert nll["greedy", 0] == nll["random", 0]
    assert first.equals(nll[first.index])
    assert nll["greedy"].is_monotonic_increasing and nll["greedy", 2] > nll["random", 2]


def test_the_seed_decides_and_neither_batch_size_nor_the_callers_random_state_does(data):
    model = model_of(data)
    torch.manual_seed(5)
    np.random.seed(5)
    one = curve_of(model, data)
    assert curve_of(model, data, view=view_of(eval_tokens=24)).to_numpy() == pytest.approx(one.to_numpy())
    assert curve_of(model, data).equals(one)
    assert not curve_of(model, data, seed=4).equals(one)


@pytest.mark.parametrize("kind", ["linear", "mlp", "lstm", "ssm"])
def test_other_kinds_of_models_are_attacked_alike(data, kind):
    model = model_of(data, kind)
    config = make("model", kind)
    model.train()
    nll = curve_of(model, data, view=view_of(is_window=config.is_window))
    assert model.training
    assert np.isfinite(nll).all() and nll["greedy", 4] > nll["greedy", 0]


def test_bad_budgets_and_short_splits_are_refused(data):
    model = model_of(data)
    for wrong in (5, -1):
        with pytest.raises(ValueError, match=f"budgets holds {wrong}; a window of seq_len = 8 tokens has"):
            curve_of(model, data, budgets=(0, wrong))
    with pytest.raises(ValueError, match=r"windows = 9999 of seq_len = 8 tokens .* split 'test' of small by"):
        curve_of(model, data, windows=9999)


# ------------------------------------------------------------------ records

SHORT = {"budgets": (0, 1, 2), "windows": 5, "candidates": 3, "device": "cpu"}


def test_flip_curves_of_runs_are_scored_once_and_read_from_a_reference(task, store, tmp_path, monkeypatch):
    runs = [small_run(task, init_seed=seed) for seed in (0, 1)]
    run_all(runs, store=store, device="cpu", progress=False)
    digests = [run.digest for run in runs]
    table = flip_curves(digests, store=store, **SHORT)
    assert list(table.columns) == robustness.COLUMNS
    assert list(table["init_seed"]) == [0] * 6 + [1] * 6
    assert list(table["budget"]) == [0, 1, 2] * 4
    assert set(table["label"]) == {"transformer"} and set(table["n"]) == {5 * 4}
    asked = FlipCurve(run=digests[0], budgets=(0, 1, 2), windows=5, candidates=3)
    assert store.has(asked.digest) and store.verify() == []

    monkeypatch.setattr(robustness, "flip_curve", None)  # a second scoring would fail
    assert flip_curves(digests, store=store, **SHORT).equals(table)
    pack([*digests, asked.digest], [store], tmp_path / "packed")
    packed = Reference(tmp_path / "packed")
    assert flip_curves(digests[:1], store=packed, **SHORT).equals(table[:6])
    with pytest.raises(ValueError, match=f"lack the flip curve of run {digests[1]}"):
        flip_curves(digests, store=packed, **SHORT)
    assert flip_curves([], store=store).empty


def test_runs_that_predict_the_last_position_only_are_refused(task, store):
    protocol = make("protocol", "last_token", eval_windows=20)
    run = small_run(task, protocol=protocol)
    run_all([run], store=store, device="cpu", progress=False)
    with pytest.raises(ValueError, match="is of protocol 'last_token'; flip curves score every"):
        flip_curves([run.digest], store=store, **SHORT)


def test_domain_scores_are_those_of_the_domain_and_of_the_others(corpus, store):  # noqa: F811
    task = make("task", "text", corpus=corpus, without="songs")
    run = small_run(task, protocol="dense")
    run_all([run], store=store, device="cpu", progress=False)
    table = domain_scores([run.digest], store=store, domain="songs", device="cpu")
    assert list(table["text"]) == ["in-domain", "held out"]
    for text, only in zip(table.to_dict("records"), ("", "songs"), strict=True):
        data = load_task(task.replace(only=only))
        assert text["n"] == data.n_targets("test", run.protocol, 8)  # one byte a character
    own = store.frame([run.digest])
    own = own[(own["split"] == "test") & (own["metric"] == "bits_per_byte")]["value"].item()
    assert table["value"][0] == own != table["value"][1]
    with pytest.raises(ValueError, match=r"is of mixed without songs by char; domain 'plays' is held out"):
        domain_scores([run.digest], store=store, domain="plays", device="cpu")
