"""Method select: streams that draw from kept units alone, settings that install nothing, refusals."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

from lmbench.config import from_dict, kinds, make
from lmbench.measure.score import evaluate
from lmbench.methods.reference_losses import reference_losses, scoring_flops, training_flops
from lmbench.methods.unit_facts import units_of
from lmbench.models.base import seeded
from lmbench.run import Dense
from lmbench.tasks.base import IGNORE, View, load_task
from lmbench.tasks.selected import Pace

CPU = torch.device("cpu")
WORDS = ("the", "king", "shall", "go", "to", "war", "with", "all", "his", "men", "and", "ships")
WORDS += ("before", "winter", "comes", "again")
VARIANTS = ("select_random", "select_stratified", "select_filtered", "select_ordered")


def prose(seed, n):
    """`n` characters of random words, so that no two pieces are alike."""
    words = np.random.default_rng(seed).choice(WORDS, size=n)
    return " ".join(words)[: n - 1] + "\n"


def write(folder, *, seed=0, valid=None):
    """A corpus of two domains: three plays and one poem to learn from."""
    folder.mkdir(parents=True)
    parts = {
        "train": [("a", "plays", 900), ("b", "plays", 700), ("c", "poems", 400), ("d", "plays", 300)],
        "valid": [("e", "plays", 300)],
        "test": [("f", "poems", 300)],
    }
    index = {}
    for split, documents in parts.items():
        at, texts, index[split] = 0, [], []
        for name, domain, n in documents:
            texts.append(prose(sum(map(ord, name)) + (seed if split != "train" else 0), n))
            index[split].append({"name": name, "domain": domain, "start": at, "end": at + n})
            at += n
        if split == "valid" and valid is not None:
            texts = [valid]
            index[split] = [{"name": "e", "domain": "plays", "start": 0, "end": len(valid)}]
        (folder / f"{split}.txt").write_text("".join(texts))
    (folder / "documents.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def data(tmp_path):
    return load_task(make("task", "text", corpus=str(write(tmp_path / "two")), tokenizer="byte"))


def view(seq_len=16, *, is_window=False):
    return View(seq_len=seq_len, is_window=is_window, device=CPU)


def run_on(data, *methods, model="self_attention", **fields):
    size = {"d_model": 8} if model != "mlp" else {"d_model": 8, "d_ff": 8}
    shape = make("model", model, seq_len=16, vocab_size=data.vocab_size, **size)
    fields = {"steps": 40, "batch_size": 8} | fields
    return make("run", "run", model=shape, task=data.config, methods=methods, **fields)


def selecting(variant="select_random", **fields):
    return make("method", variant, **({"piece": 64} | fields))


def stream_of(data, method, **fields):
    run = run_on(data, method, **fields)
    looks = view(is_window=run.model.is_window)
    method.check(run)
    return method.stream(data.stream(run, looks), data=data, run=run, view=looks, weights={})


def kept_units(data, method, *, data_seed=0):
    """The tokens of each kept unit."""
    return [tuple(ids) for ids in method.selection(data, data_seed=data_seed).kept.every()]


# ------------------------------------------------------------------ what is drawn


@pytest.mark.parametrize(
    "variant", ["select_random", "select_stratified", "select_filtered", "select_ordered"]
)
def test_every_window_lies_inside_one_kept_unit(data, variant):
    method = selecting(variant)
    inside = {unit[at : at + 17] for unit in kept_units(data, method) for at in range(len(unit) - 16)}
    stream = stream_of(data, method)
    for step in range(40):
        batch = stream.at(step)
        for tokens, targets in zip(batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True):
            assert (*tokens, targets[-1]) in inside and targets[:-1] == tokens[1:]


def test_the_kept_tokens_are_the_share_under_every_rule_and_seed(data):
    for variant in VARIANTS:
        for data_seed in (0, 1):
            chosen = selecting(variant).selection(data, data_seed=data_seed)
            assert chosen.kept.tokens_U.sum() == round(0.35 * 2300)


def test_seeds_choose_anew_and_the_same_seed_chooses_the_same(data):
    method = selecting()
    assert kept_units(data, method, data_seed=3) == kept_units(data, method, data_seed=3)
    assert kept_units(data, method, data_seed=3) != kept_units(data, method, data_seed=4)


def test_choosing_and_drawing_use_different_random_numbers():
    draws = [np.random.Generator(np.random.Philox(key=key)).random(4).tolist() for key in (7, [7, 0], [7, 1])]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize("fields", [{}, {"pace": "length"}, {"packing": "separate"}, {"packing": "masked"}])
def test_batches_are_a_function_of_seed_and_step(data, fields):
    method = selecting(**fields)
    in_order, again = (stream_of(data, method, epoch_windows=12) for _ in range(2))
    first = [in_order.at(step) for step in range(40)]
    for step in (39, 0, 7, 7, 3):
        assert torch.equal(again.at(step).tokens_BT, first[step].tokens_BT)
        assert torch.equal(again.at(step).targets_BT, first[step].targets_BT)
    block = stream_of(data, method, epoch_windows=12).index(0, 40)
    assert len(next(iter(block.values()))) == 40
    assert (first[1].targets_BT != IGNORE).any(dim=1).sum() == 4, "the epoch's last batch is short"


def test_a_window_model_sees_nothing_from_before_the_unit(data):
    method = selecting()
    units = kept_units(data, method)
    stream = stream_of(data, method, model="mlp", batch_size=32)
    at_start = 0
    for step in range(40):
        batch = stream.at(step)
        for context, tokens in zip(batch.context_BK.tolist(), batch.tokens_BT.tolist(), strict=True):
            known = [c for c in context if c >= 0]
            assert context == [-1] * (15 - len(known)) + known
            line = (*known, *tokens)
            assert any(line == unit[at : at + len(line)] for unit in units for at in range(len(unit)))
            at_start += len(known) < 15
    assert at_start > 100


@pytest.mark.parametrize("fields", [{}, {"pace": "length"}, {"packing": "concatenate", "piece": 23}])
def test_the_stream_of_one_seed_makes_the_batches_of_another(data, fields):
    # Runs trained side by side keep units of their own, and the first one's stream serves them all.
    method = selecting(**fields)
    one, other = (stream_of(data, method, model="mlp", data_seed=seed) for seed in (0, 1))
    row = {name: torch.from_numpy(value[0]) for name, value in other.index(5, 1).items()}
    made, own = one.batch(row), other.at(5)
    assert not torch.equal(own.tokens_BT, one.at(5).tokens_BT)
    for name in ("tokens_BT", "targets_BT", "context_BK"):
        assert torch.equal(getattr(made, name), getattr(own, name))


# ------------------------------------------------------------------ neutral settings


@pytest.mark.parametrize("rule", ["random", "stratified", "filtered"])
def test_everything_in_no_order_leaves_the_stream_as_it_is(data, rule):
    method = selecting(share=1.0, rule=rule)
    run = run_on(data, method)
    plain = data.stream(run, view())
    assert method.stream(plain, data=data, run=run, view=view(), weights={}) is plain
    assert method.teachers == () and method.extra_flops(run, 40) == {}


def test_whole_documents_without_copies_give_the_plain_batches(data):
    plain = data.stream(run_on(data), view())
    stream = stream_of(data, selecting(share=1.0, dedup="minhash", piece=None))
    for step in range(40):
        assert torch.equal(stream.at(step).tokens_BT, plain.at(step).tokens_BT)


def test_full_competence_from_the_start_draws_from_all(data):
    stream = stream_of(data, selecting(pace="length", competence=1.0))
    assert set(stream.draws.pool_S) == {len(stream.starts_S)}


# ------------------------------------------------------------------ copies


def test_a_training_unit_that_validation_holds_is_not_learned(tmp_path):
    plain = load_task(make("task", "text", corpus=str(write(tmp_path / "clean")), tokenizer="byte"))
    stolen = plain.corpus.splits["train"][0].text[128:256]
    leaky = write(tmp_path / "leaky", valid=f"{prose(5, 100)}{stolen}{prose(6, 100)}")
    data = load_task(make("task", "text", corpus=str(leaky), tokenizer="byte"))
    for dedup in ("exact", "minhash"):
        gone = selecting(share=1.0, dedup=dedup).selection(data, data_seed=0)
        assert sorted(set(range(len(units_of(data, 64)))) - set(gone.index_K.tolist())) == [2, 3]
        assert gone.report.stages.set_index("stage").loc["exact", "units"] == 2
    assert len(selecting(share=1.0, dedup="exact").selection(plain, data_seed=0).index_K) == len(
        units_of(plain, 64)
    )


def test_a_training_unit_that_nearly_stands_in_validation_is_not_learned(tmp_path):
    plain = load_task(make("task", "text", corpus=str(write(tmp_path / "clean")), tokenizer="byte"))
    stolen = plain.corpus.splits["train"][0].text[192:384].replace("k", "q")
    leaky = write(tmp_path / "leaky", valid=f"{prose(5, 100)}{stolen}{prose(6, 100)}")
    data = load_task(make("task", "text", corpus=str(leaky), tokenizer="byte"))
    fields = {"piece": 192, "bands": 32, "rows": 4, "similar": 0.5, "share": 1.0}
    gone = make("method", "select", dedup="minhash", **fields).selection(data, data_seed=0)
    assert gone.report.stages.set_index("stage")["units"].to_dict() == {"exact": 0, "near": 1, "quota": 0}
    assert 1 not in gone.index_K


@pytest.mark.parametrize("score", ["ngram", "compression", "length", "excess"])
def test_no_score_depends_on_validation_or_test_text(tmp_path, score):
    fields = {"score": score, "pace": "ngram", "rule": "filtered", "quota": "excess"}
    chosen = []
    for seed in (0, 1):
        corpus = str(write(tmp_path / str(seed), seed=seed))
        data = load_task(make("task", "text", corpus=corpus, tokenizer="byte"))
        chosen.append(make("method", "select", piece=64, **fields).selection(data, data_seed=0))
    valid = [(tmp_path / name / "valid.txt").read_text() for name in ("0", "1")]
    assert valid[0] != valid[1]
    assert chosen[0].index_K.tolist() == chosen[1].index_K.tolist()
    assert chosen[0].difficulty_K.tolist() == chosen[1].difficulty_K.tolist()


# ------------------------------------------------------------------ pacing


def test_training_goes_from_easy_units_to_all(data):
    method = selecting(share=1.0, pace="compression", competence=0.2)
    chosen = method.selection(data, data_seed=0)
    unit_N, stream = chosen.kept.unit_N(), stream_of(data, method, batch_size=64)

    def hardest(step):
        return chosen.difficulty_K[unit_N[stream.index(step, 1)["start"][0]]].max()

    assert hardest(0) <= 0.2 < hardest(20) <= np.sqrt(0.5 * 0.96 + 0.04) < hardest(39)


def test_paced_draws_are_uniform_over_the_easiest_part(data):
    run = run_on(data, batch_size=5000, steps=3)
    hard_first = np.repeat([0.9, 0.5, 0.1], [300, 300, 400])
    pace = Pace(run, hard_first, start=0.6)  # competence .6, .77, .89: the easy 700 of 1000 each time
    drawn = pace.block(0, 3)
    assert drawn.min() >= 300
    assert np.mean(drawn >= 600) == pytest.approx(400 / 700, abs=0.02)
    assert len(np.unique(drawn)) == 700


# ------------------------------------------------------------------ packing


def test_packed_rows_score_each_next_token_within_its_unit(data):
    for packing in ("separate", "masked", "concatenate"):
        method = selecting(piece=23, packing=packing, share=0.5)
        units, stream = kept_units(data, method), stream_of(data, method)
        pairs = {pair for unit in units for pair in pairwise(unit)}
        for step in range(10):
            batch = stream.at(step)
            scored = batch.targets_BT != IGNORE
            drawn = zip(batch.tokens_BT[scored].tolist(), batch.targets_BT[scored].tolist(), strict=True)
            assert set(drawn) <= pairs
            assert (batch.tokens_BT[~scored] == 0).all()


def test_packed_rows_serve_window_models_within_their_unit(data):
    method = selecting(piece=40, packing="separate")
    stream = stream_of(data, method, model="mlp")
    units = kept_units(data, method)
    for step in range(10):
        batch = stream.at(step)
        rows = zip(
            batch.context_BK.tolist(), batch.tokens_BT.tolist(), batch.targets_BT.tolist(), strict=True
        )
        for context, tokens, targets in rows:
            n = sum(target != IGNORE for target in targets)
            line = (*[c for c in context if c >= 0], *tokens[:n], targets[n - 1])
            assert any(line == unit[at : at + len(line)] for unit in units for at in range(len(unit)))


def test_the_report_says_what_rows_and_windows_leave_unused(data):
    run = run_on(data)
    short = selecting(piece=20, share=0.5)
    alone = short.replace(packing="separate").provenance(run).counts
    mixed = short.replace(packing="concatenate").provenance(run).counts
    assert mixed == short.replace(packing="masked").provenance(run).counts
    assert alone["padding"] > 0.35 > 0.2 > mixed["padding"]
    assert alone["unreachable_tokens"] == 0
    windows = short.provenance(run).counts
    kept = short.selection(data, data_seed=0).kept.tokens_U
    assert windows["unreachable_tokens"] == kept[kept <= 16].sum() > 0 == windows["padding"]
    assert windows["passes"] == pytest.approx(40 * 8 * 16 / 1150)


# ------------------------------------------------------------------ a reference


def test_losses_of_a_reference_are_those_that_scoring_gives(data):
    for name in ("self_attention", "mlp"):
        run = run_on(data, model=name)
        model = seeded(run.model, init_seed=0)
        looks = view(is_window=run.model.is_window)
        nll_N = reference_losses(run, model.state_dict(), data=data, view=looks)
        scores = evaluate(model, data, split="train", protocol=Dense(), view=looks)
        assert np.isnan(nll_N).sum() == 4, "the first token of each document"
        assert np.nanmean(nll_N) == pytest.approx(scores.metrics["nll"][0], rel=1e-5)
        assert (~np.isnan(nll_N)).sum() == scores.metrics["nll"][1]


def test_a_reference_ranks_units_and_its_passes_are_paid_for(data):
    reference = run_on(data, steps=5)
    weights = {reference.digest: seeded(reference.model, init_seed=0).state_dict()}
    method = make(
        "method", "select", piece=64, rule="filtered", score="reference", band="low", reference=reference
    )
    run = run_on(data, method)
    method.check(run)
    assert method.teachers == (reference,)
    assert from_dict("method", method.to_dict()) == method
    chosen = method.selection(data, data_seed=0, weights=weights)
    nll_N = np.nan_to_num(reference_losses(reference, weights[reference.digest], data=data, view=view()))
    units = units_of(data, 64)
    mean = units.sums(nll_N) / np.maximum(units.sums(nll_N > 0), 1)
    plays, kept = np.flatnonzero(units.domain_U == 0), set(chosen.index_K.tolist())
    limit = max(mean[unit] for unit in plays if unit in kept)
    assert all(unit in kept for unit in plays if mean[unit] < limit)
    forward = sum(term.forward for term in reference.model.terms("all"))
    windows = sum(1 + -(-(n - 1 - 16) // 8) for n in (900, 700, 400, 300))
    assert method.extra_flops(run, 3) == {
        "selection": float(windows * forward),
        "selection_reference": float(5 * 8 * 3 * forward),
    }
    assert scoring_flops(reference, data) == windows * forward
    assert training_flops(reference) == 120 * forward


def test_excess_over_a_reference_needs_no_field_but_the_run(data):
    reference = run_on(data, steps=5)
    weights = {reference.digest: seeded(reference.model, init_seed=0).state_dict()}
    method = make(
        "method", "select", piece=64, rule="stratified", quota="excess", eta=5.0, reference=reference
    )
    chosen = method.selection(data, data_seed=0, weights=weights)
    assert chosen.report.domains["quota"].sum() == round(0.35 * 2300)


# ------------------------------------------------------------------ quotas and steps


def test_given_excess_losses_move_tokens_to_a_domain(data):
    method = selecting("select_stratified", quota="excess", domain_excess=(("poems", 1.0),), share=0.2)
    table = method.selection(data, data_seed=0).report.domains.set_index("domain")
    p = 400 / 2300 * np.e / (400 / 2300 * np.e + 1900 / 2300)
    assert table.loc["poems", "quota"] == pytest.approx(460 * (0.999 * p + 0.0005), abs=1)
    flat = selecting("select_stratified", quota="temperature", tau=0.0, share=0.2)
    assert flat.selection(data, data_seed=0).report.domains["quota"].tolist() == [230, 230]


def test_tokens_seen_shorten_the_run_and_unique_tokens_do_not():
    assert selecting(form="S").steps_of(1000) == 350
    assert selecting(form="U").steps_of(1000) == 1000
    assert selecting(form="S", share=0.001).steps_of(100) == 1


def test_every_variant_is_named_after_its_rule():
    assert "select" in kinds("method")
    for name in VARIANTS:
        assert make("method", name).name == name == make("method", name, share=0.5).name


# ------------------------------------------------------------------ training


def test_a_selected_run_trains_and_selecting_everything_changes_no_bit(data, store):
    from lmbench import run_all

    plain = run_on(data, steps=6, test=False)
    runs = [plain, *(plain.replace(methods=(one,)) for one in (selecting(share=1.0), selecting()))]
    table = run_all(runs, store=store)
    last = table[(table.split == "valid") & (table.metric == "nll")].set_index("run")["value"]
    nll = [last[run.digest] for run in runs]
    assert nll[0] == nll[1] != nll[2]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"piece": 16}, "select.piece = 16 holds no window of seq_len = 16 and its target; take piece >= 17"),
        ({"reference": "other", "score": "reference"}, "their losses need the same text and tokenizer"),
    ],
)
def test_settings_that_do_not_fit_the_run_are_refused(data, tmp_path, fields, message):
    if "reference" in fields:
        other = make("task", "text", corpus=str(write(tmp_path / "other", seed=9)), tokenizer="byte")
        fields |= {"rule": "filtered", "reference": run_on(load_task(other))}
    method = selecting("select", **fields)
    with pytest.raises(ValueError, match=message):
        method.check(run_on(data, method))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"quota": "temperature"}, "quota = 'temperature' is read by no rule = 'random'; accepted: 'strat"),
        ({"score": "length"}, "score = 'length' is read by no rule = 'random'; accepted: 'filtered'"),
        ({"rule": "stratified", "band": "low"}, "band = 'low' is read by no rule = 'stratified'; accepted"),
    ],
)
def test_settings_that_nothing_reads_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        make("method", "select", **fields)
    assert from_dict("method", make("method", "select").to_dict()) == make("method", "select")


def test_packing_one_target_a_row_is_refused(data):
    method = selecting(packing="separate")
    with pytest.raises(ValueError, match="protocol 'last_token' has one"):
        method.check(run_on(data, method, protocol="last_token"))


def test_two_selections_of_one_run_are_refused(data):
    method = selecting()
    with pytest.raises(ValueError, match="a run takes one method select"):
        method.check(run_on(data, method, selecting(share=0.5)))


def test_a_task_without_documents_is_refused(data):
    run = run_on(data, selecting()).replace(task=make("task", "parity"))
    with pytest.raises(ValueError, match="task 'parity' has none, take 'text'"):
        selecting().check(run)


def test_a_selection_without_a_window_is_refused(data):
    with pytest.raises(ValueError, match="no unit of more than seq_len = 16 tokens; the longest has 12"):
        stream_of(data, selecting(share=0.005))


def test_a_stream_that_another_method_made_is_refused(data):
    run = run_on(data)
    packed = stream_of(data, selecting(packing="separate"))
    with pytest.raises(ValueError, match="another method made its own"):
        selecting().stream(packed, data=data, run=run, view=view(), weights={})


def test_a_domain_that_the_corpus_lacks_is_refused(data):
    method = selecting("select_stratified", quota="excess", domain_excess=(("poem", 1.0),))
    with pytest.raises(ValueError, match="domain in select.domain_excess 'poem'.*Did you mean 'poems'"):
        method.selection(data, data_seed=0)


def test_a_reference_without_use_and_a_use_without_reference_are_refused(data):
    with pytest.raises(ValueError, match="reference is a run that nothing reads"):
        selecting(reference=run_on(data))
    with pytest.raises(ValueError, match="'reference' needs reference, a run"):
        selecting(pace="reference")
