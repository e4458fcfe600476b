"""Options of the fast recipes, each at the setting where it vanishes, and the two named recipes."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import discover, make
from lmbench.layers.dropout import Dropout, dropout_sites
from lmbench.layers.embedding import look_up, one_hot, soft_cap
from lmbench.layers.norm import RMSNorm, make_norm
from lmbench.measure.flops import parameters
from lmbench.models.base import LanguageModel, seeded

SMALL = {"vocab_size": 7, "seq_len": 5, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24, "dropout": 0.0}
TOKENS = torch.tensor([[0, 3, 6, 2, 1], [5, 5, 0, 1, 4]])
GPU_RECIPE = {"d_model": 384, "n_layer": 6, "n_head": 6, "seq_len": 256, "dropout": 0.2}
CPU_RECIPE = {"d_model": 128, "n_layer": 4, "n_head": 4, "seq_len": 64, "dropout": 0.0}


def model_of(name: str = "transformer", **fields: object) -> LanguageModel:
    return seeded(make("model", name, **(SMALL | fields)), init_seed=0)


def jitter(model: LanguageModel) -> LanguageModel:
    """Move every weight, so that gains of 1 and maps of 0 are told apart too."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.double()


def draw(*sizes: int) -> Tensor:
    return torch.randn(sizes, generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------ cap on logits


def test_the_soft_cap_is_the_identity_near_zero_and_never_exceeds_the_cap() -> None:
    logits = torch.tensor([-1e4, -15.0, 0.0, 0.01, 15.0, 1e4])
    by_hand = [-15, -15 * math.tanh(1), 0, 0.01, 15 * math.tanh(1), 15]
    assert soft_cap(logits, cap=15.0).tolist() == pytest.approx(by_hand, rel=1e-5)


def test_a_model_with_a_cap_is_the_plain_one_with_its_logits_capped() -> None:
    plain, capped = jitter(model_of()), jitter(model_of(logit_cap=0.5))
    logits = plain(TOKENS).logits_BTV
    assert logits.abs().max() > 0.5
    torch.testing.assert_close(capped(TOKENS).logits_BTV, 0.5 * (logits / 0.5).tanh())
    # A cap far above every logit changes nothing.
    wide = jitter(model_of(logit_cap=1e6))
    torch.testing.assert_close(wide(TOKENS).logits_BTV, logits)


# ------------------------------------------------------------------ starts


def test_a_start_at_zero_makes_every_block_the_identity_and_every_token_as_likely() -> None:
    model = model_of(norm_order="pre", zero_init=True)
    x = draw(2, 5, 16)
    assert all(torch.equal(block(x), x) for block in model.blocks)
    assert not model(TOKENS).logits_BTV.any()


def test_a_start_at_zero_leaves_all_other_weights_as_they_were() -> None:
    zero, plain = (model_of(zero_init=value).state_dict() for value in (True, False))
    moved = {key.rpartition(".")[0] for key in plain if not torch.equal(zero[key], plain[key])}
    outputs = {f"blocks.{i}.{part}" for i in (0, 1) for part in ("attention.out_proj", "feedforward.down")}
    assert moved == outputs | {"head.linear"}
    tied = model_of(zero_init=True, tied_head=True)
    assert tied.embedding.token.weight.any(), "the head borrows a table, which must not start at 0"


def test_a_start_at_zero_is_left_within_three_steps() -> None:
    model = model_of("transformer_fast")
    for step in range(3):
        model.zero_grad()
        F.cross_entropy(model(TOKENS).logits_BTV[:, :-1].flatten(0, 1), TOKENS[:, 1:].flatten()).backward()
        reached = {name for name, p in model.named_parameters() if p.grad.any()}
        if step == 0:
            assert reached == {"head.linear.weight"}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.1 * parameter.grad
    assert reached == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_gpt2_weights_are_normal_and_those_that_write_to_the_stream_smaller(tied: bool) -> None:
    sizes = {"vocab_size": 300, "seq_len": 64, "d_model": 128, "d_ff": 512, "n_layer": 8, "n_head": 4}
    model = model_of(**sizes, init="gpt2", tied_head=tied)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert parameter.eq(0.0 if name.endswith("bias") else 1.0).all(), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
        else:
            # 2 n_layer = 16 branches, so a quarter of 0.02.
            std = 0.005 if "out_proj" in name or "down" in name else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.03), name
            assert parameter.abs().max() > 3 * std, f"{name} is uniform"
    assert ("head.linear.weight" in model.state_dict()) != tied


def test_a_tied_table_of_gpt2_is_not_scaled_on_the_way_in() -> None:
    model = model_of(init="gpt2", tied_head=True)
    expected = model.embedding.token.weight[TOKENS] + model.embedding.position.embedding.weight[:5]
    assert torch.equal(model.embedding(TOKENS), expected)


def test_gpt2_starts_alike_whatever_attention_would_have_started_like() -> None:
    for start in ("multihead", "linear"):
        attention = model_of(init="gpt2", attention_init=start, d_model=64).blocks[0].attention
        assert attention.in_proj.weight.std().item() == pytest.approx(0.02, rel=0.03)


# ------------------------------------------------------------------ norms without gain


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_a_norm_without_gain_is_the_norm_at_gain_one_and_bias_zero(kind: str) -> None:
    x = 3 * draw(4, 16) + 1
    bare = make_norm(kind, width=16, bias=True, gain=False)
    assert not list(bare.parameters())
    assert torch.equal(bare(x), make_norm(kind, width=16, bias=True)(x))


@pytest.mark.parametrize("gain", [False, True])
def test_rmsnorm_in_bfloat16_rounds_once(gain: bool) -> None:
    """Squares of 300 summed in bfloat16, 8 bits wide, would stop growing after 256 terms."""
    x = (300 * draw(64, 1024)).bfloat16()
    norm = RMSNorm(1024, gain=gain).bfloat16()
    with torch.no_grad():
        if gain:
            norm.weight.copy_(1 + 0.1 * draw(1024))
    exact = F.rms_norm(x.double(), (1024,), None if norm.weight is None else norm.weight.double(), 1e-5)
    for out in (norm(x), torch.vmap(norm)(x)):
        assert out.dtype == torch.bfloat16
        assert ((out.double() - exact).abs() <= 2**-8 * exact.abs()).all()


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_a_model_without_gains_has_none_and_is_the_plain_one_at_its_start(norm: str) -> None:
    bare, plain = (model_of(norm=norm, norm_gain=gain, qk_norm=True) for gain in (False, True))
    assert not [name for name in bare.state_dict() if "norm" in name]
    assert torch.equal(bare(TOKENS).logits_BTV, plain(TOKENS).logits_BTV)


# ------------------------------------------------------------------ dropout on the stream


def test_dropout_sits_where_gpt2_has_it_or_where_the_study_had_it() -> None:
    study = [f"blocks.{i}.{part}.dropout.key" for i in (0, 1) for part in ("attention", "feedforward")]
    stream = ["embedding.dropout.key", "blocks.0.mixer_dropout.key", "blocks.1.mixer_dropout.key"]
    assert set(dropout_sites(model_of(dropout=0.2))) == set(study)
    assert set(dropout_sites(model_of(dropout=0.2, residual_dropout=True))) == {*study, *stream}


def test_each_dropout_on_the_stream_zeroes_half_and_doubles_the_rest() -> None:
    model = model_of(dropout=0.5, residual_dropout=True, zero_init=False).double()
    block, x = model.blocks[0], draw(2, 5, 16).double()
    # The weights of attention keep theirs, so that the map before the dropout is the same in both modes.
    block.attention.dropout = Dropout(0.0)
    branch = nn.Sequential(block.attention, block.mixer_dropout)
    for inputs, module in ((TOKENS, model.embedding), (x, branch)):
        quiet, noisy = module.eval()(inputs), module.train()(inputs)
        kept = noisy != 0
        torch.testing.assert_close(noisy[kept], 2 * quiet[kept])
        assert 0.3 < kept.double().mean() < 0.7


def test_dropout_on_the_stream_acts_in_training_only() -> None:
    quiet, plain = (model_of(dropout=0.5, residual_dropout=value).eval() for value in (True, False))
    assert torch.equal(quiet(TOKENS).logits_BTV, plain(TOKENS).logits_BTV)


# ------------------------------------------------------------------ look-up of small tables


def test_a_product_with_one_hot_rows_is_the_look_up_to_the_bit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        table = draw(65, 12).to(dtype)
        ids = torch.randint(65, (3, 40), generator=torch.Generator().manual_seed(0))
        assert torch.equal(one_hot(ids, n=65, dtype=dtype) @ table, F.embedding(ids, table))
        assert torch.equal(look_up(table, ids), F.embedding(ids, table))


def test_its_gradient_is_that_of_the_look_up_alone_and_stacked() -> None:
    tables, ids = draw(3, 7, 4).double(), TOKENS
    upstream = draw(2, 5, 4).double()

    def loss(table: Tensor, *, by_product: bool) -> Tensor:
        rows = one_hot(ids, n=7, dtype=table.dtype) @ table if by_product else F.embedding(ids, table)
        return (rows * upstream).sum()

    stacked = torch.vmap(torch.func.grad(lambda table: loss(table, by_product=True)))(tables)
    for table, gradient in zip(tables, stacked, strict=True):
        expected = torch.func.grad(lambda table: loss(table, by_product=False))(table)
        torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("vocab_size, products", [(65, True), (512, True), (513, False)])
def test_only_small_tables_on_a_gpu_are_read_by_a_product(vocab_size: int, products: bool) -> None:
    for device, expected in (("cuda", products), ("cpu", False)):
        # Fake tensors have a device and shapes, but no values: no GPU is asked for.
        with FakeTensorMode(), FlopCounterMode(display=False) as counter:
            rows = look_up(
                torch.empty(vocab_size, 4, device=device), torch.zeros(2, 3, dtype=torch.long, device=device)
            )
        assert rows.shape == (2, 3, 4)
        assert bool(counter.get_total_flops()) == expected, device


# ------------------------------------------------------------------ the two recipes


@pytest.mark.parametrize(
    "sizes, count",
    [
        # V C + n_layer (12 C^2 + 2 C) + C: the table once, four C x C and two C x 4C maps, two gains a
        # block and a last one. nanoGPT prints 10.65M and 0.80M, leaving positions out.
        (GPU_RECIPE, 10_646_784),
        (CPU_RECIPE, 795_904),
    ],
)
def test_nanogpt_has_the_parameters_that_nanogpt_prints(sizes: dict[str, float], count: int) -> None:
    total = parameters(make("model", "transformer_nanogpt", vocab_size=65, **sizes)).total
    assert total - sizes["seq_len"] * sizes["d_model"] == count
    assert f"{count / 1e6:.2f}M" in ("10.65M", "0.80M")


def test_nanogpt_equals_pre_norm_encoder_layers_of_torch_with_a_tied_head() -> None:
    model = jitter(model_of("transformer_nanogpt"))
    tables = model.embedding
    x = tables.token.weight[TOKENS] + tables.position.embedding.weight[:5]
    mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
    for block in model.blocks:
        layer = nn.TransformerEncoderLayer(
            16, 2, 24, dropout=0.0, activation="gelu", batch_first=True, norm_first=True, bias=False
        ).double()
        with torch.no_grad():
            layer.self_attn.in_proj_weight.copy_(block.attention.in_proj.weight)
        pairs = (
            (layer.self_attn.out_proj, block.attention.out_proj),
            (layer.linear1, block.feedforward.up),
            (layer.linear2, block.feedforward.down),
            (layer.norm1, block.attention_norm),
            (layer.norm2, block.feedforward_norm),
        )
        for target, source in pairs:
            target.load_state_dict(source.state_dict())
        x = layer(x, src_mask=mask)
    expected = F.layer_norm(x, (16,), model.head.norm.weight) @ tables.token.weight.T
    torch.testing.assert_close(model(TOKENS).logits_BTV, expected, rtol=0, atol=1e-10)


def test_nanogpt_starts_near_the_loss_of_guessing() -> None:
    model = seeded(make("model", "transformer_nanogpt", **CPU_RECIPE), init_seed=0)
    ids = torch.randint(65, (4, 65), generator=torch.Generator().manual_seed(0))
    loss = F.cross_entropy(model(ids[:, :-1]).logits_BTV.flatten(0, 1), ids[:, 1:].flatten())
    # Logits of standard deviation 0.02 sqrt(128) = 0.23 add half its square.
    assert loss.item() == pytest.approx(math.log(65) + 0.5 * 0.02**2 * 128, abs=0.05)


def test_the_fast_model_is_the_sum_of_its_parts_written_out() -> None:
    model = jitter(model_of("transformer_fast"))

    def norm(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()

    def turn(x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(5.0).double(), 10_000.0 ** (-torch.arange(4).double() / 4))
        first, second = x[..., :4], x[..., 4:]
        cos, sin = angle.cos().float().double(), angle.sin().float().double()  # tables are in float32
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    x = model.embedding.token.weight[TOKENS]
    for block in model.blocks:
        q, k, v = (
            part.reshape(2, 5, 2, 8).transpose(1, 2)
            for part in (norm(x) @ block.attention.in_proj.weight.T).chunk(3, dim=-1)
        )
        scores = turn(norm(q)) @ turn(norm(k)).mT / 8**0.5
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        x = x + (scores.softmax(-1) @ v).transpose(1, 2).flatten(2) @ block.attention.out_proj.weight.T
        x = x + (norm(x) @ block.feedforward.up.weight.T).relu().square() @ block.feedforward.down.weight.T
    expected = 15 * (norm(x) @ model.head.linear.weight.T / 15).tanh()
    torch.testing.assert_close(model(TOKENS).logits_BTV, expected, rtol=0, atol=1e-10)


def test_the_fast_model_holds_nothing_but_matrices() -> None:
    assert parameters(make("model", "transformer_fast")).vectors == 0


def test_every_variant_resolves_to_its_own_name_at_any_size() -> None:
    for name, cls in discover("model").items():
        sizes = {"d_model": 64, "n_head": 2, "n_layer": 1, "vocab_size": 11, "seq_len": 16, "dropout": 0.3}
        known = {key: value for key, value in sizes.items() if key in cls.model_fields}
        assert make("model", name).name == name
        assert make("model", name, **known).name == name


@pytest.mark.parametrize(
    "fields", [{"positions": "rope"}, {"norm": "rmsnorm"}, {"logit_cap": 30.0}, {"residual_dropout": False}]
)
def test_a_changed_nanogpt_loses_the_name(fields: dict[str, object]) -> None:
    assert make("model", "transformer_nanogpt", **fields).name == "transformer"


def test_the_feed_forward_of_both_recipes_follows_the_width() -> None:
    for name in ("transformer_nanogpt", "transformer_fast"):
        assert make("model", name).d_ff == 512
        wide = make("model", name, d_model=384, n_head=6)
        assert wide.d_ff == 1536
        assert wide.digest == make("model", name, d_model=384, n_head=6, d_ff=1536).digest
        assert make("model", name, d_model=384, n_head=6, d_ff=100).d_ff == 100


@pytest.mark.parametrize(
    "fields",
    [
        {"logit_cap": 15.0},
        {"zero_init": True},
        {"norm_gain": False},
        {"init": "gpt2"},
        {"residual_dropout": True},
    ],
)
def test_no_option_costs_a_matrix_product(fields: dict[str, object]) -> None:
    plain, changed = make("model", "transformer"), make("model", "transformer", **fields)
    assert changed.digest != plain.digest
    assert changed.terms("all") == plain.terms("all")


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"logit_cap": 0.0}, r"transformer.logit_cap = 0.0 is not accepted: input should be greater than 0"),
        ({"init": "gpt3"}, r"transformer.init = 'gpt3' is not accepted.*'torch' or 'gpt2'.*mean 'gpt2'\?"),
        ({"d_model": 0, "d_ff": None}, r"transformer.d_model = 0 is not accepted"),
    ],
)
def test_refused_options_are_one_sentence(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        make("model", "transformer", **fields)
    assert "\n" not in str(caught.value)
