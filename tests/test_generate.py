"""Sampling: what is drawn, from what distribution, and that a cache changes nothing."""

import json
import signal

import pytest
import torch

from lmbench import cli
from lmbench.assignments import make_run
from lmbench.config import discover, make
from lmbench.measure import late
from lmbench.measure.generate import continuation, draw, generate, probabilities, uniforms, window_start
from lmbench.models.base import LanguageModel, ModelConfig, State, seeded
from lmbench.store import Store
from lmbench.training.execute import fit_model, run_all
from lmbench.training.latency import latency_rows
from tests.corpora import write_corpus

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
LOGITS = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()


def small(name: str, **fields: object) -> ModelConfig:
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


def moved(config: ModelConfig) -> LanguageModel:
    """A model off its start, where many logits are equal."""
    model = seeded(config, init_seed=0).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def prompt(*, rows: int = 2, length: int = 3) -> torch.Tensor:
    return torch.randint(11, (rows, length), generator=torch.Generator().manual_seed(2))


# ------------------------------------------------------------------ with a cache and without


@pytest.mark.parametrize("name", sorted(discover("model")))
def test_cached_logits_are_those_of_the_whole_window(name: str) -> None:
    """Also beyond the context, where both restart from the last seq_len // 2 tokens."""
    config, script = small(name), torch.arange(20)
    model = moved(config)
    found = []
    for cached in (True, False):
        steps = iter(script)
        told = {"seq_len": 8, "cached": cached, "choose": lambda _, steps=steps: next(steps).expand(2) % 11}
        found.append(torch.stack([logits for _, logits in continuation(model, prompt(), 20, **told)]))
    torch.testing.assert_close(*found, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "transformer_modern"])
def test_the_same_text_is_drawn_with_a_cache_and_without(name: str) -> None:
    model = moved(small(name))
    texts = [generate(model, prompt(), 15, seq_len=8, seed=3, cached=cached) for cached in (True, False)]
    assert torch.equal(*texts)


def test_a_window_restarts_from_half_a_context_where_the_next_token_would_not_fit() -> None:
    starts = [window_start(known, n_prompt=1, seq_len=4) for known in range(1, 9)]
    assert starts == [0, 0, 0, 0, 3, 3, 3, 6]
    assert [window_start(known, n_prompt=6, seq_len=4) for known in range(6, 10)] == [2, 5, 5, 5]
    assert [window_start(known, n_prompt=1, seq_len=1) for known in range(1, 4)] == [0, 1, 2]


class Watched(LanguageModel):
    """Notes what it is told to read; its logits favour the token after the last one read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[list[int]] = []

    def forward(self, tokens_BT, context_BK=None, *, readout="all"):
        raise AssertionError("a cached model is not read as a whole")

    def extend(self, tokens_BT, state=None):
        self.reads.append(tokens_BT[0].tolist())
        length = (state.length if state else 0) + tokens_BT.shape[1]
        logits_BV = torch.nn.functional.one_hot((tokens_BT[:, -1] + 1) % 9, 9).float()
        return logits_BV, State(length, ())


def test_a_token_is_read_once_and_after_a_restart_the_kept_ones_again() -> None:
    model = Watched()
    text = generate(model, torch.tensor([[0]]), 7, seq_len=4, temperature=0)
    assert text.tolist() == [[1, 2, 3, 4, 5, 6, 7]]
    # Four tokens fill the context; then 3 and 4 are read anew, and 5 and 6 fit behind them.
    assert model.reads == [[0], [1], [2], [3], [3, 4], [5], [6]]


@pytest.mark.parametrize("name", ["linear", "transformer"])
def test_each_row_is_drawn_as_if_it_were_alone(name: str) -> None:
    model, three = moved(small(name)), prompt(rows=3)
    together = generate(model, three, 12, seq_len=8, seed=5)
    assert torch.equal(generate(model, three[:1], 12, seq_len=8, seed=5)[0], together[0])
    changed = torch.cat((three[:2], (three[2:] + 1) % 11))
    assert torch.equal(generate(model, changed, 12, seq_len=8, seed=5)[:2], together[:2])
    assert not torch.equal(*generate(model, three[:1].expand(2, -1), 12, seq_len=8, seed=5)), (
        "equal prompts in different rows get different numbers"
    )


def test_the_seed_decides_the_text_and_more_tokens_go_on_with_it() -> None:
    model = moved(small("transformer"))
    first = generate(model, prompt(), 10, seq_len=8, seed=1)
    assert torch.equal(generate(model, prompt(), 10, seq_len=8, seed=1), first)
    assert torch.equal(generate(model, prompt(), 14, seq_len=8, seed=1)[:, :10], first)
    assert not torch.equal(generate(model, prompt(), 10, seq_len=8, seed=2), first)


def test_generation_switches_dropout_off_and_leaves_the_models_mode_alone() -> None:
    model = moved(small("transformer", dropout=0.5))
    quiet = generate(model, prompt(), 8, seq_len=8, seed=1)
    model.train()
    assert torch.equal(generate(model, prompt(), 8, seq_len=8, seed=1), quiet)
    assert model.training


def test_generation_leaves_the_random_generator_alone() -> None:
    state = torch.random.get_rng_state()
    generate(moved(small("linear")), prompt(), 3, seq_len=8)
    assert torch.equal(torch.random.get_rng_state(), state)


# ------------------------------------------------------------------ distributions


def test_temperature_divides_the_logits_and_0_takes_the_likeliest() -> None:
    assert probabilities(LOGITS, temperature=1.0).tolist() == [pytest.approx([0.5, 0.3, 0.15, 0.05])]
    squared = torch.tensor([0.25, 0.09, 0.0225, 0.0025])
    expected = (squared / squared.sum()).tolist()
    assert probabilities(LOGITS, temperature=0.5).tolist() == [pytest.approx(expected)]
    assert probabilities(LOGITS.flip(1), temperature=0).tolist() == [[0, 0, 0, 1]]


def test_top_k_keeps_the_k_likeliest_in_their_proportions() -> None:
    assert probabilities(LOGITS.flip(1), temperature=1.0, top_k=2).tolist() == [
        pytest.approx([0, 0, 0.375, 0.625])
    ]
    everything = probabilities(LOGITS, temperature=1.0, top_k=99)
    assert everything.tolist() == [pytest.approx([0.5, 0.3, 0.15, 0.05])]


@pytest.mark.parametrize(
    "top_p, kept", [(0.4, 1), (0.51, 2), (0.79, 2), (0.81, 3), (0.96, 4), (1.0, 4), (1e-9, 1)]
)
def test_top_p_keeps_the_fewest_tokens_that_have_the_probability(top_p: float, kept: int) -> None:
    probs = probabilities(LOGITS, temperature=1.0, top_p=top_p)[0]
    whole = LOGITS.exp()[0, :kept]
    assert probs.tolist() == pytest.approx([*(whole / whole.sum()).tolist(), *[0] * (4 - kept)])


def test_top_p_counts_what_top_k_has_left() -> None:
    # Of 0.5 and 0.3 the first has 0.625, so 0.6 needs it alone; of all four it would need both.
    assert probabilities(LOGITS, temperature=1.0, top_k=2, top_p=0.6).tolist() == [[1, 0, 0, 0]]
    assert probabilities(LOGITS, temperature=1.0, top_p=0.6)[0].count_nonzero() == 2


def test_among_equal_tokens_the_lower_id_ranks_first() -> None:
    equal = torch.zeros(1, 4)
    assert probabilities(equal, temperature=0).tolist() == [[1, 0, 0, 0]]
    assert probabilities(equal, temperature=1.0, top_k=3).tolist() == [pytest.approx([1 / 3] * 3 + [0])]


def test_a_draw_is_the_token_in_whose_part_the_number_lies() -> None:
    probs = torch.tensor([0.0, 0.5, 0.0, 0.25, 0.25, 0.0], dtype=torch.float64)
    numbers = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.75, 0.9999999])
    assert draw(probs.expand(6, -1), numbers).tolist() == [1, 1, 3, 3, 4, 4]


def test_draws_have_the_frequencies_of_the_distribution() -> None:
    n = 20_000
    numbers = uniforms(0, rows=1, n=n)[0]
    share = draw(LOGITS.exp().expand(n, -1), numbers).bincount(minlength=4) / n
    # Four standard deviations of the largest share are 0.014.
    assert share.tolist() == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.015)
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"temperature": -0.1}, "temperature = -0.1 is not accepted: it must be at least 0"),
        ({"temperature": float("nan")}, "temperature = nan is not accepted"),
        ({"top_k": 0}, "top_k = 0 is not accepted: it must be at least 1"),
        ({"top_p": 0.0}, "top_p = 0 is not accepted: it must be above 0 and at most 1"),
        ({"top_p": 1.1}, "top_p = 1.1 is not accepted"),
        ({"seed": -1}, "seed = -1 is not accepted: it must be at least 0"),
        ({"n_tokens": 0}, "n_tokens = 0 is not accepted: it must be at least 1"),
    ],
)
def test_a_setting_out_of_range_is_refused(wrong: dict[str, object], message: str) -> None:
    settings = {"n_tokens": 2, "seq_len": 8} | wrong
    with pytest.raises(ValueError, match=message):
        generate(moved(small("linear")), prompt(), **settings)


def test_an_empty_prompt_and_a_diverged_model_are_refused() -> None:
    model = moved(small("linear"))
    with pytest.raises(ValueError, match="the prompt is empty: it must hold at least 1 token"):
        generate(model, prompt(length=0), 2, seq_len=8)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="the model's logits are not finite: its training has diverged"):
        generate(model, prompt(), 2, seq_len=8)


# ------------------------------------------------------------------ progress


def test_progress_appears_only_after_some_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple] = []

    class Bar:
        def __init__(self, total, unit):
            seen.append(("begun", total, unit))

        def __enter__(self):
            return self

        def update(self, done, what):
            seen.append(("at", done, what))

        def __exit__(self, *error):
            seen.append(("ended",))

        beat = staticmethod(lambda: None)

    clock = iter([0, 0, 1, 2, 3.5, 4, 5])
    monkeypatch.setattr(late, "Progress", Bar)
    monkeypatch.setattr(late.time, "monotonic", lambda: next(clock))
    with late.LateProgress(10, "tokens") as progress:
        for done in (1, 2, 4, 7):
            progress.update(done, "x")
    # Three seconds are over when 4 of 10 are done: 6 are left.
    assert seen == [("begun", 6, "tokens"), ("at", 0, "x"), ("at", 3, "x"), ("ended",)]


# ------------------------------------------------------------------ the command


@pytest.fixture
def lmbench(capsys):
    """Run a command line in this process: (status, standard output, standard error)."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments):
        with pytest.raises(SystemExit) as caught:
            cli.main(list(arguments))
        out, err = capsys.readouterr()
        return caught.value.code, out, err

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def trained(project, tmp_path):
    """A tiny run in the store of a project."""
    corpus = str(write_corpus(tmp_path / "small"))
    keys = {"model": "transformer", "task.corpus": corpus, "model.seq_len": 8, "model.d_model": 16}
    keys |= {"model.n_layer": 1, "model.n_head": 2, "model.d_ff": 16, "model.vocab_size": 32, "steps": 2}
    run = make_run(keys | {"protocol.eval_bytes": 50})
    return run.replace(model=fit_model(run.model, run.task))


def keep(run, project, **how):
    run_all([run], store=Store(project / "results"), device="cpu", progress=False, **how)
    return run.digest


def test_a_trained_run_goes_on_with_a_prompt(lmbench, trained, project):
    digest = keep(trained, project)
    line = ["generate", digest[:6], "--prompt", "the ", "--tokens", "20", "--seed", "3", "--samples", "2"]
    status, out, err = lmbench(*line, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert found["run"] == digest
    assert found["tokens_per_second"] > 0
    first, second = found["texts"]
    assert first.startswith("the ")
    assert len(first) == len(second) == 24
    assert first != second
    assert json.loads(lmbench(*line, "--json")[1])["texts"] == [first, second]
    status, out, _ = lmbench(*line)
    assert status == 0
    assert f"--- sample 1\n{first}" in out
    assert f"transformer {digest}: 40 tokens, " in out


def test_what_cannot_be_gone_on_with_is_one_sentence(lmbench, trained, project):
    digest = keep(trained, project)
    for words, message in (
        (["--prompt", "the caf\u00e9"], "--prompt holds '\u00e9' (U+00E9), which is not among the "),
        (["--prompt", ""], "--prompt is empty: it must hold at least one token"),
        (["--tokens", "0"], "tokens = 0 is not accepted: it must be at least 1"),
        (["--samples", "0"], "samples = 0 is not accepted: it must be at least 1"),
        (["--top-k", "0"], "top_k = 0 is not accepted"),
    ):
        status, out, err = lmbench("generate", digest, *words)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert message in err
    near = digest[:5] + ("0" if digest[5] != "0" else "1")
    status, _, err = lmbench("generate", near)
    assert status == 1
    assert f"no run {near!r}" in err
    assert f"Did you mean {digest[:6]!r}?" in err


def test_a_run_without_weights_and_a_record_that_is_no_run_are_refused(lmbench, trained, project):
    digest = keep(trained, project, keep_weights_mb=0)
    status, _, err = lmbench("generate", digest)
    assert status == 1
    assert f"run {digest} kept no weights" in err
    store = Store(project / "results")
    latency_rows(
        [trained.model], batch_sizes=[1], lengths=[1], store=store, device="cpu", repeats=1, warm_up=0
    )
    (other,) = set(store.digests()) - {digest}
    status, _, err = lmbench("generate", other)
    assert status == 1
    assert f"{other} is a record of kind 'latency', not a training run: it has no weights" in err


def test_the_command_lists_its_options(lmbench):
    status, out, _ = lmbench("generate", "--help")
    assert status == 0
    for option in ("prompt", "tokens", "temperature", "top-k", "top-p", "seed", "samples", "device", "json"):
        assert f"--{option}" in out
