"""Models of Hugging Face's transformers as models of the suite, from folders and from sizes."""

import ast
import json
import shutil
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from lmbench.config import discover, from_dict, make
from lmbench.measure.flops import Ledger, counted_flops, parameters
from lmbench.models.base import seeded
from tests.test_import_directions import imported, modules

transformers = pytest.importorskip("transformers", reason="the extra hf (transformers) is not installed")

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
# Of architectures in the library: three with a closed form, then others, told what makes them different.
CONFIGS = {
    "gpt2": {"n_positions": 9, "n_embd": 16, "n_layer": 2, "n_head": 2},
    "llama": {"max_position_embeddings": 9, "num_key_value_heads": 1, "head_dim": 12},
    "mamba": {"hidden_size": 16, "num_hidden_layers": 2, "state_size": 4},
    "mistral": {"max_position_embeddings": 9, "num_key_value_heads": 1, "sliding_window": 3},
    "gpt_neox": {"max_position_embeddings": 9},
}
COMMON = {"vocab_size": 11, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
COMMON |= {"intermediate_size": 24, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES = pytest.mark.parametrize("architecture", CONFIGS)


@pytest.fixture
def folder(tmp_path):
    """Write a small random model of an architecture: `folder("gpt2", name="a")`."""

    def write(architecture, *, name="model", **fields):
        keep = COMMON if architecture not in ("gpt2", "mamba") else {"vocab_size": 11}
        settings = transformers.AutoConfig.for_model(architecture, **(keep | CONFIGS[architecture] | fields))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = transformers.AutoModelForCausalLM.from_config(settings)
            for parameter in model.parameters():  # off its start, where biases are 0
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
        model.save_pretrained(tmp_path / name)
        return tmp_path / name

    return write


def tokens(*, batch=2, length=8):
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(1))


def of(path, **fields):
    return make("model", "huggingface", path=str(path), **fields)


# ------------------------------------------------------------------ folders


@ARCHITECTURES
def test_a_folder_gives_the_logits_of_the_library(architecture, folder):
    path = folder(architecture)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    ours = seeded(of(path, seq_len=8), init_seed=0).eval()
    with torch.no_grad():
        expected = theirs(tokens(), use_cache=False).logits
        torch.testing.assert_close(ours(tokens()).logits_BTV, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(
            ours(tokens(), readout="last").logits_BTV, expected[:, -1:], rtol=0, atol=1e-5
        )
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


@ARCHITECTURES
def test_a_text_read_piece_by_piece_gives_the_logits_of_the_whole(architecture, folder):
    ours = seeded(of(folder(architecture), seq_len=8), init_seed=0).eval()
    whole, state, start = ours(tokens()).logits_BTV, None, 0
    for stop in (3, 4, 5, 8):
        logits_BV, state = ours.extend(tokens()[:, start:stop], state)
        assert state.length == stop
        torch.testing.assert_close(logits_BV, whole[:, stop - 1], rtol=0, atol=1e-5)
        start = stop
    # A cache that drops what left its window is no plain tensors: there the text itself is kept.
    kept = {"mamba": {"conv_BDW", "scan_BDN"}, "mistral": {"tokens_BT"}}
    assert set(state.layers[0]) == kept.get(architecture, {"keys_BHTK", "values_BHTK"})


def test_reading_on_changes_no_state_that_was_handed_out(folder):
    ours = seeded(of(folder("mamba"), seq_len=8), init_seed=0).eval()
    _, state = ours.extend(tokens()[:, :3])
    first, _ = ours.extend(tokens()[:, 3:], state)
    again, _ = ours.extend(tokens()[:, 3:], state)
    assert torch.equal(first, again)


def test_vocabulary_and_context_are_the_folders(folder):
    config = of(folder("llama"))
    assert (config.vocab_size, config.seq_len, config.pretrained) == (11, 9, True)
    assert of(folder("mamba", name="other")).seq_len == 128  # which has no limit of its own


def test_a_folder_counts_by_its_name_and_content_and_not_by_its_place(folder, tmp_path):
    path = folder("gpt2")
    here = of(path)
    there = of(shutil.copytree(path, tmp_path / "elsewhere" / "model"))
    assert here.digest == there.digest
    assert here.digest != of(shutil.copytree(path, tmp_path / "renamed")).digest
    fresh = here.replace(pretrained=False)
    assert (fresh.digest, fresh.folder_sha256) != (here.digest, here.folder_sha256)
    assert fresh.replace(pretrained=True) == here


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_changed_folder_is_another_model(name, folder):
    path = folder("gpt2")
    before = of(path)
    data = (path / name).read_bytes()
    (path / name).write_bytes(
        data.replace(b"gelu_new", b"gelu    ") if name == "config.json" else data[:-1] + b"!"
    )
    assert of(path).digest != before.digest
    with pytest.raises(ValueError, match=r"the content of .*model has changed since this model was defined"):
        before.build()


def test_weights_come_from_the_folder_or_from_the_init_seed(folder):
    config = of(folder("gpt2"))
    one, other = (seeded(config, init_seed=seed).state_dict() for seed in (0, 1))
    assert all(torch.equal(one[name], other[name]) for name in one)
    fresh = config.replace(pretrained=False, vocab_size=7)  # a config has room for any vocabulary
    one, other = (seeded(fresh, init_seed=seed).state_dict() for seed in (0, 1))
    assert one["embedding.weight"].shape == (7, 16)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])


def test_weights_in_half_precision_are_read_as_float32(folder):
    path = folder("llama", dtype="bfloat16")
    assert json.loads((path / "config.json").read_text())["dtype"] == "bfloat16"
    for config in (of(path), of(path, pretrained=False)):
        assert {p.dtype for p in config.build().parameters()} == {torch.float32}


def test_dropout_of_a_folder_is_off(folder):
    ours = of(folder("gpt2")).build().train()
    assert {p.p for p in ours.modules() if isinstance(p, torch.nn.Dropout)} == {0.0}
    assert torch.equal(ours(tokens()).logits_BTV, ours.eval()(tokens()).logits_BTV)
    attention = of(folder("llama", name="other", attention_dropout=0.5), pretrained=False).build().train()
    assert torch.equal(attention(tokens()).logits_BTV, attention(tokens()).logits_BTV)


def test_a_record_is_readable_where_its_folder_is_gone(folder):
    config = of(folder("gpt2"), seq_len=8)
    shutil.rmtree(config.path)
    again = from_dict("model", json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert again.digest == config.digest
    with pytest.raises(ValueError, match=r"is not a folder with a readable config\.json"):
        again.build()


# ------------------------------------------------------------------ refusals


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"huggingface: path = 'nowhere' is not a folder with a readable config"
    ):
        of("nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match=r"has no vocab_size, so it is not that of a language model"):
        of(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match=r"has no model_type"):
        of(tmp_path)


def test_weights_in_another_format_are_refused(folder):
    path = folder("gpt2")
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"holds no \*\.safetensors, and other formats are not read; pretrained ="
    ):
        of(path)
    assert of(path, pretrained=False).vocab_size == 11


def test_weights_that_do_not_fill_the_model_are_refused(folder):
    path = folder("llama")
    settings = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(settings | {"num_hidden_layers": 3}))
    with pytest.raises(
        ValueError, match=r"lack 9 tensors of the model, first model\.layers\.2\.input_layernorm"
    ):
        of(path).build()


def test_an_architecture_that_the_library_lacks_or_that_predicts_no_text_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt17", "vocab_size": 11}')
    with pytest.raises(ValueError, match=r"transformers cannot read the config of .*gpt17"):
        of(tmp_path, pretrained=False).build()
    (tmp_path / "config.json").write_text('{"model_type": "t5", "vocab_size": 11}')
    with pytest.raises(ValueError, match=r"transformers cannot build a model of type 't5'"):
        of(tmp_path, pretrained=False).build()


def test_code_that_a_folder_brings_along_is_not_run(tmp_path):
    places = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    settings = {"model_type": "own", "vocab_size": 11, "auto_map": places}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    with pytest.raises(ValueError, match=r"transformers cannot read the config of"):
        of(tmp_path, pretrained=False).build()


def test_sizes_that_are_not_the_folders_are_refused(folder):
    path = folder("gpt2")
    with pytest.raises(
        ValueError, match=r"vocab_size = 65 is not that of the weights in .*, 11; pretrained = false"
    ):
        of(path).replace(vocab_size=65)
    with pytest.raises(ValueError, match=r"seq_len = 10 is more than the context of the model in .*, 9"):
        of(path, seq_len=10)
    for name, value in {"d_model": 16, "architecture": "llama"}.items():
        with pytest.raises(
            ValueError, match=rf"{name} = {value!r} is not accepted beside path: the folder's"
        ):
            of(path, **{name: value})


@pytest.mark.parametrize(
    ("architecture", "what"),
    [("gpt2", "n_head for"), ("llama", r"2 n_head, whose heads turn pairs of features,")],
)
def test_a_width_that_heads_do_not_divide_is_refused(architecture, what):
    with pytest.raises(
        ValueError, match=rf"d_model = 18 must be a multiple of {what}.*here {'4' if 'for' in what else '8'}"
    ):
        make("model", "huggingface", **(SIZES | {"d_model": 18, "n_head": 4, "architecture": architecture}))
    assert make("model", "huggingface", **(SIZES | {"d_model": 18, "n_head": 4, "architecture": "mamba"}))


def test_without_the_library_the_kind_is_listed_and_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "huggingface" in discover("model")
    config = make("model", "huggingface", **SIZES)
    for use in (config.build, lambda: config.terms("all")):
        with pytest.raises(
            ValueError, match=r"transformers is not installed; install it with: pip install 'lmbench\[hf\]'"
        ):
            use()


def test_a_config_is_made_and_named_without_loading_the_library(folder):
    code = (
        "import sys\nfrom lmbench.config import make\n"
        f"make('model', 'huggingface', path={str(folder('gpt2'))!r}).digest\n"
        "assert 'transformers' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------ what it costs


@ARCHITECTURES
def test_the_ledger_of_a_folder_is_what_torch_counts(architecture, folder):
    for config in (of(folder(architecture), seq_len=8), of(folder(architecture), seq_len=1)):
        for readout in ("all", "last"):
            counted = counted_flops(config, readout=readout, batch_size=3)
            terms = tuple(term for term in config.terms(readout) if not term.elementwise)
            assert Ledger(terms=terms, batch_size=3, targets=1).forward == counted.forward
            assert 2 * counted.forward == counted.backward


def test_an_architecture_without_a_closed_form_says_who_counted(folder):
    names = {a: [t.name for t in of(folder(a, name=a)).terms("all")] for a in ("gpt_neox", "gpt2")}
    assert names["gpt_neox"] == ["counted by torch"]
    assert names["gpt2"] == ["projections", "attention", "feedforward", "head"]
    assert "'gpt_neox' may branch on data" in of(folder("gpt_neox", name="gpt_neox")).alone
    assert of(folder("gpt2", name="gpt2")).alone == ""


def test_the_terms_of_a_mamba_are_those_of_our_own():
    """The inner width of theirs is free; at twice that of the model it is the published block, and ours."""
    sizes = SIZES | {"d_ff": 32}
    theirs = make("model", "huggingface", architecture="mamba", **sizes).terms("all")
    assert theirs == make("model", "ssm", **sizes).terms("all")
    scan = next(term for term in theirs if term.name == "scan")
    assert scan.elementwise
    assert scan.forward == 2 * 8 * (4 * 32 * 16 + 3 * 32)


def test_parameters_are_counted_without_reading_weights(folder):
    config = of(folder("gpt2"))
    # 11 tokens and 9 positions of 16; the head borrows the tokens' table.
    assert parameters(config).embedding == (11 + 9) * 16
    blocks = 12 * 16**2 + 13 * 16
    assert parameters(config).total == (11 + 9) * 16 + 2 * blocks + 2 * 16


# ------------------------------------------------------------------ shifted convolutions


def test_depthwise_convolutions_are_shifted_products():
    from lmbench.models.huggingface.parts import ShiftedConvolutions

    generator = torch.Generator().manual_seed(2)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 5, 7), (5, 1, 4), (5,)))
    for options in ({"padding": 3}, {"padding": 0, "bias": bias}):
        expected = F.conv1d(x, weight, groups=5, **options)
        with ShiftedConvolutions(), torch.profiler.profile() as seen:
            found = F.conv1d(x, weight, groups=5, **options)
        torch.testing.assert_close(found, expected)
        assert not any("conv" in event.key for event in seen.key_averages())


def test_other_convolutions_are_left_to_torch():
    from lmbench.models.huggingface.parts import ShiftedConvolutions

    x, weight = torch.randn(2, 4, 7), torch.randn(4, 2, 3)
    for options in ({"groups": 2}, {"groups": 2, "stride": 2}):
        with ShiftedConvolutions():
            found = F.conv1d(x, weight, **options)
        assert torch.equal(found, F.conv1d(x, weight, **options))


def test_states_of_a_recurrence_stay_exact_in_float64():
    """The library steps in float32; where more is asked for, the text is read again."""
    config = make("model", "huggingface", architecture="mamba", **SIZES)
    model = seeded(config, init_seed=0).eval()
    assert "scan_BDN" in model.extend(tokens())[1].layers[0]
    assert "tokens_BT" in model.double().extend(tokens())[1].layers[0]


# ------------------------------------------------------------------ where the library is loaded


def test_only_the_module_of_its_subclasses_loads_the_library_at_its_top():
    found = set()
    for name, path in modules().items():
        tops = {
            part.partition(".")[0] for node in ast.parse(path.read_text()).body for part in imported(node)
        }
        found |= {name} if "transformers" in tops else set()
    assert found == {"export.modeling"}
