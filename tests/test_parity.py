"""Models of the suite against Hugging Face's transformers: with the same weights, the same numbers."""

import pytest
import torch
import torch.nn.functional as F

from lmbench.config import make
from lmbench.models.base import seeded

transformers = pytest.importorskip("transformers", reason="the extra hf (transformers) is not installed")

SIZES = {"vocab_size": 13, "seq_len": 12, "d_model": 32, "n_layer": 2}
THEIRS = {"vocab_size": 13, "hidden_size": 32, "num_hidden_layers": 2}
THEIRS |= {f"{use}_token_id": None for use in ("bos", "eos", "pad")}


def off_its_start(config):
    """A model of the suite whose biases and gains are no longer 0 and 1."""
    model, generator = seeded(config, init_seed=0), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def gpt2():
    """GPT-2 is nanoGPT's model with biases; its published activation is gelu's tanh form, ours is exact."""
    fields = {"n_head": 4, "d_ff": 48, "bias": True}
    config = make("model", "transformer_nanogpt", **SIZES, **fields)
    theirs = transformers.GPT2Config(
        **THEIRS, n_positions=12, n_head=4, n_inner=48, activation_function="gelu", layer_norm_epsilon=1e-5
    )
    model = off_its_start(config)
    ours, named = model.state_dict(), {}
    named["transformer.wte.weight"] = named["lm_head.weight"] = ours["embedding.token.weight"]
    named["transformer.wpe.weight"] = ours["embedding.position.embedding.weight"]
    blocks = {"attention_norm": "ln_1", "feedforward_norm": "ln_2"}
    # Their Conv1D is a linear map whose matrix lies the other way round.
    turned = {"attention.in_proj": "attn.c_attn", "attention.out_proj": "attn.c_proj"}
    turned |= {"feedforward.up": "mlp.c_fc", "feedforward.down": "mlp.c_proj"}
    for i in range(2):
        for mine, their in (blocks | turned).items():
            weight = ours[f"blocks.{i}.{mine}.weight"]
            named[f"transformer.h.{i}.{their}.weight"] = weight.T if mine in turned else weight
            named[f"transformer.h.{i}.{their}.bias"] = ours[f"blocks.{i}.{mine}.bias"]
    for part in ("weight", "bias"):
        named[f"transformer.ln_f.{part}"] = ours[f"head.norm.{part}"]
    return model, filled(transformers.GPT2LMHeadModel(theirs), named)


def llama():
    """Llama is the modern transformer without a norm of queries and keys; here with grouped queries."""
    fields = {"n_head": 4, "n_kv_head": 2, "d_ff": 48, "qk_norm": False, "dropout": 0.0}
    config = make("model", "transformer_modern", **SIZES, **fields)
    theirs = transformers.LlamaConfig(
        **THEIRS, max_position_embeddings=12, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, rms_norm_eps=1e-5, tie_word_embeddings=False,
    )  # fmt: skip
    model = off_its_start(config)
    ours = model.state_dict()
    named = {"model.embed_tokens.weight": ours["embedding.token.weight"]}
    named |= {"model.norm.weight": ours["head.norm.weight"], "lm_head.weight": ours["head.linear.weight"]}
    for i in range(2):
        mine, their = f"blocks.{i}", f"model.layers.{i}"
        q, k, v = ours[f"{mine}.attention.in_proj.weight"].split((32, 16, 16))
        gate, up = ours[f"{mine}.feedforward.up.weight"].chunk(2)
        named |= {f"{their}.self_attn.{x}_proj.weight": w for x, w in (("q", q), ("k", k), ("v", v))}
        named |= {f"{their}.mlp.gate_proj.weight": gate, f"{their}.mlp.up_proj.weight": up}
        named[f"{their}.self_attn.o_proj.weight"] = ours[f"{mine}.attention.out_proj.weight"]
        named[f"{their}.mlp.down_proj.weight"] = ours[f"{mine}.feedforward.down.weight"]
        named[f"{their}.input_layernorm.weight"] = ours[f"{mine}.attention_norm.weight"]
        named[f"{their}.post_attention_layernorm.weight"] = ours[f"{mine}.feedforward_norm.weight"]
    return model, filled(transformers.LlamaForCausalLM(theirs), named)


def mamba():
    """Mamba is the stack of state-space mixers; theirs keeps the last tap of the convolution last."""
    model = off_its_start(make("model", "ssm", **SIZES, d_state=8))
    theirs = transformers.MambaConfig(
        **THEIRS, state_size=8, layer_norm_epsilon=1e-5, tie_word_embeddings=False
    )
    ours = model.state_dict()
    named = {"backbone.embeddings.weight": ours["embedding.token.weight"]}
    named |= {
        "backbone.norm_f.weight": ours["head.norm.weight"],
        "lm_head.weight": ours["head.linear.weight"],
    }
    as_they_are = (
        "in_proj.weight",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "out_proj.weight",
        "D",
    )
    for i in range(2):
        mine, their = f"blocks.{i}.ssm", f"backbone.layers.{i}.mixer"
        named |= {f"{their}.{name}": ours[f"{mine}.{name}"] for name in as_they_are}
        named[f"{their}.A_log"] = ours[f"{mine}.A_log"].view(64, 8)
        named[f"{their}.conv1d.weight"] = (
            ours[f"{mine}.conv1d.taps"].unflatten(0, (4, -1)).flip(0).T.unsqueeze(1)
        )
        named[f"{their}.conv1d.bias"] = ours[f"{mine}.conv1d.bias_D"]
        named[f"backbone.layers.{i}.norm.weight"] = ours[f"blocks.{i}.ssm_norm.weight"]
    return model, filled(transformers.MambaForCausalLM(theirs), named)


def filled(theirs, named):
    """The library's model with these weights: every one is given, and every one is taken."""
    theirs.load_state_dict({name: weight.contiguous() for name, weight in named.items()}, strict=True)
    return theirs.eval()


PAIRS = pytest.mark.parametrize("pair", [gpt2, llama, mamba], ids=lambda pair: pair.__name__)


def tokens(*, batch=3, length=12):
    return torch.randint(13, (batch, length), generator=torch.Generator().manual_seed(1))


@PAIRS
def test_the_same_weights_give_the_same_logits(pair):
    ours, theirs = pair()
    with torch.no_grad():
        mine, their = ours(tokens()).logits_BTV, theirs(tokens(), use_cache=False).logits
    assert mine.std() > 0.3, "logits near 0 would agree whatever the weights"
    torch.testing.assert_close(mine, their, rtol=0, atol=1e-4)


@PAIRS
def test_the_same_weights_give_the_same_loss_and_gradients(pair):
    ours, theirs = pair()
    targets = tokens().roll(-1, dims=1).flatten()
    losses = [F.cross_entropy(ours(tokens()).logits_BTV.flatten(0, 1), targets)]
    losses.append(F.cross_entropy(theirs(tokens(), use_cache=False).logits.flatten(0, 1), targets))
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-5)
    for loss in losses:
        loss.backward()
    mine = ours.get_parameter("embedding.token.weight").grad
    their = theirs.get_input_embeddings().weight.grad
    torch.testing.assert_close(mine, their, rtol=0, atol=1e-5)


@PAIRS
def test_a_text_read_on_token_by_token_gives_the_logits_of_the_librarys_cache(pair):
    ours, theirs = pair()
    name = "cache_params" if pair is mamba else "past_key_values"
    ids, state, cache = tokens(), None, {}
    with torch.no_grad():
        for start, stop in ((0, 5), (5, 6), (6, 7)):
            mine_BV, state = ours.extend(ids[:, start:stop], state)
            found = theirs(ids[:, start:stop], use_cache=True, **cache)
            cache = {name: found[name]}
            torch.testing.assert_close(mine_BV, found.logits[:, -1], rtol=0, atol=1e-4)


@PAIRS
def test_the_ledger_of_the_librarys_model_is_that_of_ours(pair):
    ours = {gpt2: "transformer_nanogpt", llama: "transformer_modern", mamba: "ssm"}[pair]
    widths = {"d_ff": 64} if pair is mamba else {"d_ff": 48, "n_head": 4}
    theirs = make("model", "huggingface", architecture=pair.__name__, **SIZES, **widths)
    for readout in ("all", "last"):
        mine = {t.name: (t.forward, t.causal) for t in make("model", ours, **SIZES, **widths).terms(readout)}
        assert {t.name: (t.forward, t.causal) for t in theirs.terms(readout)} == mine
