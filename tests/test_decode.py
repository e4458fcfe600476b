"""Greedy decoding of whole answers, with models whose every token is known beforehand."""

import pytest
import torch

from lmbench.config import make
from lmbench.measure.decode import decoded_scores, greedy, recovery_gain
from lmbench.measure.generate import generate
from lmbench.models.base import LanguageModel, Output, seeded
from lmbench.tasks.examples import length, parse
from lmbench.tasks.symbols import EQUALS, ID, PAD, SYMBOLS, VOCAB_SIZE

CPU = torch.device("cpu")
HOW = {"split": "test", "eval_seed": 0, "n": 24, "device": CPU}


class Next(LanguageModel):
    """Prefers the id after the last one, and the lower of two others equally, second best."""

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB_SIZE)
        logits_BTV.scatter_(-1, (tokens_BT + 1)[..., None], 2.0)
        logits_BTV[..., [20, 7]] += 1.0
        return Output(logits_BTV)

    def extend(self, tokens_BT, state=None):
        raise AssertionError("decoding uses nothing but logits")


class Player(LanguageModel):
    """Plays a strategy: symbols in order of preference, from (body, query, said so far)."""

    def __init__(self, task, strategy):
        super().__init__()
        self.task, self.strategy = task, strategy

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB_SIZE)
        for row, tokens in enumerate(tokens_BT.tolist()):
            first = len(tokens) - tokens[::-1].index(EQUALS)
            symbols = [SYMBOLS[token] for token in tokens if token != PAD]
            body, query, _ = parse(symbols[:first], surface=self.task.surface)
            for at in range(first, len(symbols) + 1):
                liked = self.strategy(self.task, body, query, symbols[first:at])
                for rank, symbol in enumerate(liked):
                    logits_BTV[row, at - 1, ID[symbol]] = 9.0 - rank
        return Output(logits_BTV)

    def extend(self, tokens_BT, state=None):
        raise AssertionError("decoding uses nothing but logits")


def solver(task, body, query, said):
    return [*task.solve(body, query), "<eos>"][len(said) : len(said) + 1]


def went_on(task, body, said):
    """The sum after the last one, right or wrong: what a step adds to what stands before it."""
    stands = [symbol for at, symbol in enumerate(said) if symbol != "BACK" and [*said, ""][at + 1] != "BACK"]
    if len(stands) >= task.settings.steps:
        return "<eos>"
    last = int(stands[-1]) if stands else 0
    return str((last + int(body[2 * len(stands) + 1])) % task.settings.modulus)


def careful(task, body, query, said):
    """Takes back what is wrong; without BACK goes on from it."""
    reply = task.reply(body, query, said)
    return ["BACK", went_on(task, body, said)] if reply == "BACK" else [reply]


def careless(task, body, query, said):
    return [went_on(task, body, said)]


def nervous(task, body, query, said):
    """Takes back its first sum, right or not, and no other."""
    if len(said) == 1:
        return ["BACK", went_on(task, body, said)]
    return careless(task, body, query, said)


def test_greedy_says_the_highest_logit_and_pads_after_the_stop():
    prompts = torch.tensor([[1, 30, PAD, PAD], [5, 6, 7, 40]])
    said = greedy(Next(), prompts, torch.tensor([2, 4]), n_tokens=3, stop=32)
    assert said.tolist() == [[31, 32, PAD], [41, 42, 43]]


def test_the_lowest_id_wins_among_equals_and_banned_ids_are_never_said():
    prompts, start = torch.tensor([[1, 30]]), torch.tensor([2])
    assert greedy(Next(), prompts, start, n_tokens=2, banned=(31,)).tolist() == [[7, 8]]
    assert greedy(Next(), prompts, start, n_tokens=1, banned=(31, 7)).tolist() == [[20]]


def test_greedy_reads_nothing_behind_a_prompt_and_each_row_alone():
    prompts = torch.tensor([[1, 30, 9, 9], [5, 6, 7, 40]])
    start = torch.tensor([2, 4])
    whole = greedy(Next(), prompts, start, n_tokens=3)
    assert whole.tolist() == [[31, 32, 33], [41, 42, 43]]
    for row in (0, 1):
        alone = greedy(Next(), prompts[row : row + 1], start[row : row + 1], n_tokens=3)
        assert (alone == whole[row : row + 1]).all()


def test_greedy_agrees_with_generation_at_temperature_0():
    config = make(
        "model", "transformer", vocab_size=VOCAB_SIZE, seq_len=12, d_model=16, n_head=2, n_layer=1, d_ff=32
    )
    model = seeded(config, init_seed=0)
    prompts = torch.arange(12).view(3, 4) + 10
    said = greedy(model, prompts, torch.full((3,), 4), n_tokens=6, stop=-1)
    assert (said == generate(model, prompts, 6, seq_len=12, temperature=0)).all()
    assert model.training


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="a prompt is empty: it must hold at least 1 token"):
        greedy(Next(), torch.tensor([[1]]), torch.tensor([0]), n_tokens=1)


@pytest.mark.parametrize("surface", ["statement", "question"])
@pytest.mark.parametrize("kind", ["audit", "retry", "scm", "chain"])
def test_a_model_that_plays_the_solver_solves_everything(kind, surface):
    task = make("task", kind, surface=surface)
    model = Player(task, solver)
    assert decoded_scores(model, task, seq_len=length(task), **HOW) == {"solved": (1.0, 24)}


def test_a_model_that_says_one_thing_solves_what_it_happens_to_be_right_in():
    task = make("task", "chain")
    always = Player(task, lambda task, body, query, said: ["3"])
    found = decoded_scores(always, task, seq_len=length(task), **HOW)["solved"][0]
    assert 0 < found < 0.5


@pytest.mark.parametrize("level", [0, 1])
def test_a_model_that_takes_back_what_is_wrong_recovers_and_gains_all(level):
    task = make("task", "retry", level=level)
    found = recovery_gain(Player(task, careful), task, seq_len=length(task), **HOW)
    assert {name: value for name, (value, _) in found.items()} == {
        "solved": 1,
        "acc_allowed": 1,
        "acc_masked": 0,  # an increment added to a wrong sum keeps it wrong
        "gain": 1,
        "recovery": 1,
        "false_alarm": 0,
    }


def test_a_model_without_back_neither_recovers_nor_gains():
    task = make("task", "retry")
    found = recovery_gain(Player(task, careless), task, seq_len=length(task), **HOW)
    assert found["solved"] == (1, 24) and found["false_alarm"] == (0, 24)
    assert found["recovery"] == found["gain"] == found["acc_allowed"] == (0, 24)


def test_taking_back_a_right_sum_is_a_false_alarm_even_where_the_answer_is_right():
    task = make("task", "retry")
    found = recovery_gain(Player(task, nervous), task, seq_len=length(task), **HOW)
    assert found["solved"] == (1, 24) and found["false_alarm"] == (1, 24)


def test_a_context_that_is_too_short_is_refused():
    task = make("task", "retry")
    model = Player(task, careful)
    with pytest.raises(ValueError, match="seq_len = 9 is too short: an example of retry level 0 needs 28"):
        recovery_gain(model, task, seq_len=9, **HOW)
    with pytest.raises(ValueError, match="seq_len = 9 is too short"):
        decoded_scores(model, task, seq_len=9, **HOW)


def test_the_shortest_context_that_is_accepted_suffices():
    task = make("task", "retry")
    sizes = {"seq_len": length(task) - 1, "d_model": 8, "n_head": 2, "n_layer": 1, "d_ff": 8}
    model = seeded(make("model", "transformer", vocab_size=VOCAB_SIZE, **sizes), init_seed=0)
    found = recovery_gain(model, task, seq_len=length(task) - 1, **HOW)
    assert set(found) == {"solved", "acc_allowed", "acc_masked", "gain", "recovery", "false_alarm"}
    assert decoded_scores(model, task, seq_len=length(task) - 1, **HOW)["solved"] == found["solved"]
