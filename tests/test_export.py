"""A stored run as a folder for transformers and lm-evaluation-harness: the same model, the same tokens."""

import json
import math
import re
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from lmbench.assignments import make_run
from lmbench.cli import main
from lmbench.config import discover, kinds, make
from lmbench.data.corpus import load_corpus
from lmbench.export.folder import export_run
from lmbench.export.starts import Piece, logits_of, pieces_of
from lmbench.export.tokenizer import START, check_equal, library_tokenizer
from lmbench.models.base import seeded
from lmbench.store import Store
from lmbench.training.execute import fit_model, run_all
from lmbench.training.rescore import evaluate_run, load_run
from tests.corpora import write_corpus

transformers = pytest.importorskip("transformers", reason="the extra hf (transformers) is not installed")

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
TEXT = "FIRST:\nShall we meet again?"
TOKENIZERS = {
    "char": {},
    "byte": {},
    "bpe": {"vocab_size": 280},
    "word": {"max_words": 12},
    "word separate": {"max_words": 12, "punctuation": "separate"},
    "word published": {"form": "published", "max_words": 12},
}


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    """The library copies a folder's Python file here before it runs it."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with one small run: `(store, digest)`."""
    folder = tmp_path_factory.mktemp("export")
    corpus = str(write_corpus(folder / "small"))
    given = {
        "model": "transformer_modern",
        "task.corpus": corpus,
        "steps": 3,
        "model.seq_len": 12,
        "d_model": 16,
    }
    run = make_run(given | {"n_layer": 2, "batch_size": 4})
    run = run.replace(model=fit_model(run.model, run.task))
    store = Store(folder / "results")
    run_all([run], store=store, device="cpu", progress=False)
    return store, run.digest


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """That run as a folder."""
    store, digest = trained
    return export_run(digest, store=store, to=tmp_path_factory.mktemp("exported") / "out")


@pytest.fixture
def theirs(exported):
    """The folder as the library loads it: model and tokenizer."""
    model = transformers.AutoModelForCausalLM.from_pretrained(exported, trust_remote_code=True)
    return model, transformers.AutoTokenizer.from_pretrained(exported, trust_remote_code=True)


@pytest.fixture
def ours(trained):
    """The run's model as the suite loads it."""
    store, digest = trained
    return load_run(digest, store=store, device=torch.device("cpu")).model.eval()


def wrapped(config):
    """A model of the suite in the library's classes, without a run."""
    from lmbench.export.modeling import LmbenchConfig, LmbenchForCausalLM

    sizes = {"vocab_size": config.vocab_size + 1, "max_position_embeddings": config.seq_len}
    special = {f"{use}_token_id": config.vocab_size for use in ("bos", "eos", "pad")}
    return LmbenchForCausalLM(LmbenchConfig(lmbench_model=config.to_dict(), **sizes, **special)).eval()


def tiny(name, **fields):
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


def tokens(*, batch=2, length=8, n=11):
    return torch.randint(n, (batch, length), generator=torch.Generator().manual_seed(1))


KINDS = pytest.mark.parametrize("name", sorted(kinds("model")))


# ------------------------------------------------------------------ the model


def test_an_exported_run_has_the_logits_of_the_run(theirs, ours):
    model, tokenizer = theirs
    ids = tokenizer(TEXT[:12], return_tensors="pt").input_ids
    found, expected = model(ids).logits, ours(ids).logits_BTV
    assert torch.equal(found[..., :-1], expected)
    assert (found[..., -1] == torch.finfo(torch.float32).min).all()
    assert (model.config.vocab_size, model.config.max_position_embeddings) == (
        ours.head.linear.out_features + 1,
        12,
    )


@KINDS
def test_each_kind_comes_back_from_a_folder(name, tmp_path):
    model = wrapped(tiny(name))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    expected = model.model(tokens()).logits_BTV
    assert torch.equal(again(tokens()).logits[..., :-1], expected)
    assert not torch.equal(seeded(tiny(name), init_seed=0)(tokens()).logits_BTV, expected)


@KINDS
def test_each_kind_generates_the_same_with_and_without_a_cache(name):
    model = wrapped(tiny(name))
    how = {"max_new_tokens": 7, "do_sample": False, "return_dict_in_generate": True}  # 3 beyond the context
    texts = [model.generate(tokens(length=4), use_cache=use_cache, **how) for use_cache in (True, False)]
    assert torch.equal(texts[0].sequences, texts[1].sequences)
    assert (texts[0].past_key_values is None, texts[1].past_key_values) == (False, None)


def test_greedy_text_is_the_likeliest_of_the_last_tokens(theirs, ours):
    model, _ = theirs
    ids = tokens(batch=1, length=10)
    for _ in range(5):
        ids = torch.cat((ids, ours(ids[:, -12:], readout="last").logits_BTV.argmax(-1)), dim=1)
    assert torch.equal(model.generate(tokens(batch=1, length=10), max_new_tokens=5, do_sample=False), ids)


def test_beams_carry_their_own_state(theirs):
    model, _ = theirs
    how = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    found = [model.generate(tokens(n=30), use_cache=use_cache, **how) for use_cache in (True, False)]
    assert torch.equal(*found)


def test_padded_texts_go_on_as_each_alone(theirs):
    model, tokenizer = theirs
    texts = ["Shall we", "Th"]
    how = {"max_new_tokens": 6, "do_sample": False}
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    together = tokenizer.batch_decode(model.generate(**batch, **how), skip_special_tokens=True)
    alone = [tokenizer.decode(model.generate(**tokenizer(t, return_tensors="pt"), **how)[0]) for t in texts]
    assert together == alone


def test_the_loss_is_that_of_each_token_after_the_first(theirs):
    model, _ = theirs
    ids = tokens(n=30)
    expected = F.cross_entropy(model(ids).logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert torch.isclose(model(ids, labels=ids).loss, expected)
    padded = torch.cat((ids, torch.full((2, 3), model.start)), dim=1)
    assert torch.isclose(model(padded, labels=padded).loss, expected), "padding is not scored"
    assert len(model(ids, labels=ids, return_dict=False)) == 2


def test_training_draws_new_dropout_masks_from_torchs_generator():
    model = wrapped(tiny("transformer", dropout=0.5)).train()
    losses = []
    for seed in (0, 1, 0):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            losses.append(model(tokens(), labels=tokens()).loss.item())
    assert losses[0] == losses[2] != losses[1]


def test_a_text_beyond_the_context_is_refused_in_one_pass(theirs):
    model, _ = theirs
    with pytest.raises(ValueError, match=r"got 13 tokens, but the context seq_len is 12"):
        model(tokens(length=13))


# ------------------------------------------------------------------ the start of a text


def test_pieces_are_the_tokens_between_starts():
    ids = torch.tensor([[9, 9, 1, 2], [1, 9, 9, 2], [1, 2, 3, 9], [9, 9, 9, 9]])
    expected = [Piece(0, 2, 4), Piece(1, 0, 1), Piece(1, 3, 4), Piece(2, 0, 3)]
    assert pieces_of(ids, start=9) == expected


@KINDS
def test_what_stands_before_a_start_is_forgotten(name):
    model = seeded(tiny(name), init_seed=0).eval()
    ids, start = tokens(batch=3), 11
    ids[0, 0], ids[1, 3], ids[2, :] = start, start, start
    found = logits_of(model, ids, start=start)
    exact = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(found[0:1, 1:, :-1], model(ids[0:1, 1:]).logits_BTV, **exact)
    torch.testing.assert_close(found[1:2, :3, :-1], model(ids[1:2, :3]).logits_BTV, **exact)
    torch.testing.assert_close(found[1:2, 4:, :-1], model(ids[1:2, 4:]).logits_BTV, **exact)
    after = torch.cat((found[0, :1], found[1, 3:4], found[2])).softmax(-1)
    assert torch.allclose(after[:, :-1], torch.tensor(1 / 11)), (
        "of the first token of a text nothing is known"
    )
    assert (after[:, -1] == 0).all()


def test_a_start_after_a_cache_is_refused(theirs):
    model, _ = theirs
    cache = model(tokens(), use_cache=True, logits_to_keep=1).past_key_values
    assert cache.get_seq_length() == 8
    with pytest.raises(ValueError, match=r"the start of a text, stands after tokens that a cache stands for"):
        model(torch.full((2, 1), model.start), past_key_values=cache)


def test_a_cache_begins_where_all_rows_do(theirs):
    model, _ = theirs
    ids = tokens(n=30)
    ids[:, :2] = model.start
    found = model(ids, use_cache=True, logits_to_keep=1)
    assert found.past_key_values.state.length == 6
    torch.testing.assert_close(found.logits, model(ids).logits[:, -1:], rtol=0, atol=1e-5)
    ids[0, 1] = 3
    assert model(ids, use_cache=True, logits_to_keep=1).past_key_values is None


# ------------------------------------------------------------------ tokenizers


@pytest.fixture
def fitted(tmp_path):
    """A tokenizer's config, the tokenizer, and the corpus it was fitted on."""
    corpus = load_corpus(str(write_corpus(tmp_path / "small")))

    def fit(name):
        config = make("tokenizer", name.split()[0], **TOKENIZERS[name])
        return config, config.fit(corpus), corpus

    return fit


def loaded(made, tmp_path):
    """Saved and loaded by the library's own classes."""
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=START).save_pretrained(
        tmp_path / "t"
    )
    return transformers.AutoTokenizer.from_pretrained(tmp_path / "t")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_ids_and_text_are_those_of_our_own_tokenizer(name, fitted, tmp_path):
    config, tokenizer, corpus = fitted(name)
    theirs = loaded(library_tokenizer(config, tokenizer), tmp_path)
    for text in (corpus.text("train"), corpus.text("test"), TEXT, "", " ", "\n\n  the"):
        if name == "char" and set(text) - set(tokenizer.vocabulary):
            continue
        ids = tokenizer.encode(text).ids.tolist()
        assert theirs.encode(text) == ids
        assert theirs.decode(ids) == tokenizer.decode(ids)
    assert theirs.eos_token_id == tokenizer.vocab_size
    assert len(theirs) == tokenizer.vocab_size + 1


@pytest.mark.parametrize("name", ["byte", "bpe", "word", "word separate"])
def test_any_text_comes_back(name, fitted, tmp_path):
    config, tokenizer, _ = fitted(name)
    theirs = loaded(library_tokenizer(config, tokenizer), tmp_path)
    text = "naïve 東京 it's\ta-b_c ½ x² 🙂\r\n\n  we , we, weird the thethe . e\u0301 \x00 \x1c end."
    assert theirs.encode(text) == tokenizer.encode(text).ids.tolist()
    assert theirs.decode(theirs.encode(text)) == text


def test_a_word_of_one_letter_and_the_same_letter_in_an_unknown_word_are_two_tokens():
    from lmbench.data.word import _WORDS, LosslessWords

    tokenizer = LosslessWords(["a", "cat", ",", "é"], _WORDS["attached"])
    made = library_tokenizer(make("tokenizer", "word"), tokenizer)
    # 258 is ",", 259 "a", 260 "cat", 261 "é"; unknown words are spelled in bytes.
    assert made.encode("a cat bac , é a,").ids == [
        259,
        256,
        260,
        256,
        98,
        97,
        99,
        256,
        258,
        256,
        261,
        256,
        97,
        44,
    ]
    assert made.decode([259, 256, 98, 97, 99, 256, 261]) == "a bac é"


def test_a_character_that_the_vocabulary_lacks_is_an_error_as_with_us(fitted):
    config, tokenizer, _ = fitted("char")
    with pytest.raises(ValueError, match=r"character '€'"):
        tokenizer.encode("we€")
    with pytest.raises(Exception, match=r"Missing \[UNK\] token from the vocabulary"):
        library_tokenizer(config, tokenizer).encode("we€")


def test_a_vocabulary_that_needs_what_the_exported_tokenizer_needs_is_refused():
    from lmbench.data.word import _WORDS, LosslessWords

    for word in ("<0x41>", "x\U00100000"):
        with pytest.raises(
            ValueError, match=re.escape(f"holds {word!r}, which the exported tokenizer needs")
        ):
            library_tokenizer(make("tokenizer", "word"), LosslessWords([word, "a"], _WORDS["attached"]))
    with pytest.raises(ValueError, match=r"the vocabulary holds '<\|endoftext\|>'"):
        library_tokenizer(make("tokenizer", "word"), LosslessWords([START], _WORDS["attached"]))


def test_a_tokenizer_that_differs_on_the_text_is_refused(fitted):
    config, tokenizer, corpus = fitted("bpe")
    made = library_tokenizer(config, tokenizer)
    check_equal(made, tokenizer, [corpus.text("train")])
    with pytest.raises(
        ValueError, match=r"splits '.*' differently \(token 3\), so this tokenizer is not exported"
    ):
        check_equal(made, tokenizer, [f"we {START}"])


def test_a_kind_of_tokenizer_that_is_not_known_is_refused():
    class Other:
        kind = "syllable"

    with pytest.raises(
        ValueError, match=r"tokenizer 'syllable' cannot be exported; accepted: char, byte, bpe, word"
    ):
        library_tokenizer(Other(), None)


# ------------------------------------------------------------------ the folder


def test_a_folder_holds_the_model_the_run_and_the_tokenizer(exported, trained):
    names = {"config.json", "model.safetensors", "generation_config.json", "modeling_lmbench.py"}
    assert {path.name for path in exported.iterdir()} == names | {"tokenizer.json", "tokenizer_config.json"}
    config = json.loads((exported / "config.json").read_text())
    store, digest = trained
    assert config["lmbench_run"] == digest
    assert config["lmbench_model"] == store.record(digest)["run"]["config"]["model"]
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    assert [path.name for path in exported.parent.iterdir()] == ["out"]


def test_a_folder_that_exists_is_not_touched(trained, tmp_path):
    store, digest = trained
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=r"out is there already; name a folder that is not"):
        export_run(digest, store=store, to=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ValueError, match=r"nowhere is not a folder, so nothing can be written into it"):
        export_run(digest, store=store, to=tmp_path / "nowhere" / "out")


@pytest.mark.parametrize("error", [OSError("full"), KeyboardInterrupt()])
def test_an_export_that_fails_leaves_nothing(error, trained, tmp_path, monkeypatch):
    store, digest = trained

    def fail(self, folder):
        assert (folder / "model.safetensors").is_file(), "the model is written before the tokenizer"
        raise error

    monkeypatch.setattr(transformers.PreTrainedTokenizerFast, "save_pretrained", fail)
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(type(error)):
        export_run(digest, store=store, to=place / "out")
    assert list(place.iterdir()) == []


def test_a_model_that_stands_on_a_folder_of_its_own_is_refused(trained, tmp_path, monkeypatch):
    from lmbench.export import folder

    store, digest = trained
    found = load_run(digest, store=store, device=torch.device("cpu"))
    library = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_layer=1, n_head=1, n_embd=8, vocab_size=36)
    )
    library.save_pretrained(tmp_path / "base")
    model = make("model", "huggingface", path=str(tmp_path / "base"), seq_len=8)
    run = found.run.replace(model=model)
    monkeypatch.setattr(
        folder, "load_run", lambda *_, **__: type(found)(run=run, model=found.model, weights="")
    )
    with pytest.raises(
        ValueError, match=r"needs the folder .*base, which an exported one could not bring along"
    ):
        export_run(digest, store=store, to=tmp_path / "out")


def test_a_record_that_is_no_training_is_refused(trained, tmp_path):
    store, digest = trained
    rows = evaluate_run(digest, store=store, split="train", device="cpu")
    with pytest.raises(ValueError, match=r"is a record of kind 'evaluation', not a training run"):
        export_run(rows["evaluation"].iloc[0], store=store, to=tmp_path / "out")


def test_a_task_without_a_tokenizer_is_refused(trained, tmp_path, monkeypatch):
    from lmbench.export import folder

    store, digest = trained
    found = load_run(digest, store=store, device=torch.device("cpu"))
    other = make("schedule", "cosine")  # any config without one
    run = SimpleNamespace(model=found.run.model, task=other, methods=(), steps=1)
    monkeypatch.setattr(folder, "load_run", lambda *_, **__: SimpleNamespace(run=run))
    with pytest.raises(
        ValueError, match=r"task 'cosine' has no tokenizer, so its models have no text to be used"
    ):
        export_run(digest, store=store, to=tmp_path / "out")


def test_an_unknown_format_is_refused(trained, tmp_path):
    store, digest = trained
    with pytest.raises(ValueError, match=r"unknown format 'gguf'; accepted: hf\."):
        export_run(digest, store=store, to=tmp_path / "out", form="gguf")


def test_without_the_library_nothing_is_written(trained, tmp_path, monkeypatch):
    store, digest = trained
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        ValueError, match=r"the package transformers is not installed; install it with: pip install"
    ):
        export_run(digest, store=store, to=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_a_folder_and_names_it(trained, tmp_path, monkeypatch, capsys):
    store, digest = trained
    monkeypatch.setattr("lmbench.cli.export.open_store", lambda: store)
    with pytest.raises(SystemExit) as done:
        main(["export", digest[:6], "--to", str(tmp_path / "out")])
    assert done.value.code == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    with pytest.raises(SystemExit) as done:
        main(["export", digest[:6], "--to", str(tmp_path / "out")])
    assert done.value.code == 1
    assert "out is there already" in capsys.readouterr().err


# ------------------------------------------------------------------ lm-evaluation-harness


def test_the_evaluation_harness_scores_and_generates_as_we_do(exported, ours, theirs):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed; its pins differ from ours")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    harness = HFLM(str(exported), trust_remote_code=True, device="cpu", dtype="float32", batch_size=2)
    _, tokenizer = theirs

    def request(kind, *arguments):
        return Instance(request_type=kind, doc={}, arguments=arguments, idx=0)

    # The harness counts white space at the end of a context to the continuation.
    pairs = [("FIRST:", "\nShall"), ("", "We"), ("the gate of the", " city")]
    found = harness.loglikelihood([request("loglikelihood", *pair) for pair in pairs], disable_tqdm=True)
    n_characters = harness.tokenizer.vocab_size
    for (context, continuation), (value, _) in zip(pairs, found, strict=True):
        ids = torch.tensor([tokenizer.encode(context + continuation)[-13:]])
        logs_TV = ours(ids[:, :-1]).logits_BTV[0].log_softmax(-1)
        scored = len(continuation) - (not context)
        expected = logs_TV.gather(1, ids[0, 1:, None])[-scored:].sum() - math.log(n_characters) * (
            not context
        )
        assert value == pytest.approx(expected.item(), abs=1e-4)
    (rolling,) = harness.loglikelihood_rolling(
        [request("loglikelihood_rolling", TEXT[:12])], disable_tqdm=True
    )
    ids = torch.tensor([tokenizer.encode(TEXT[:12])])
    logs_TV = ours(ids[:, :-1]).logits_BTV[0].log_softmax(-1)
    expected = logs_TV.gather(1, ids[0, 1:, None]).sum() - math.log(n_characters)
    assert rolling == pytest.approx(expected.item(), abs=1e-4)
    asked = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}
    texts = harness.generate_until(
        [request("generate_until", c, asked) for c in ("We", "Shall")], disable_tqdm=True
    )
    model, _ = theirs
    for context, text in zip(("We", "Shall"), texts, strict=True):
        ids = model.generate(**tokenizer(context, return_tensors="pt"), max_new_tokens=6, do_sample=False)[0]
        assert text == tokenizer.decode(ids)[len(context) :].split("\n")[0]
