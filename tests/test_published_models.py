"""The published models against an independent construction from torch.nn's own layers."""

import pytest
import torch
from torch import Tensor, nn

from lmbench.config import make
from lmbench.measure.flops import parameters, published_flops
from lmbench.models.base import LanguageModel, seeded

PRECISION = pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-10), (torch.float32, 1e-5)])


def ids(*, length: int = 128, vocab_size: int = 65) -> Tensor:
    return torch.randint(vocab_size, (2, length), generator=torch.Generator().manual_seed(0))


def copy(target: nn.Module, source: nn.Module) -> None:
    """Weights of a linear map, norm or table into another of the same shape."""
    target.load_state_dict(source.state_dict())


class ReferenceAttentionModel(nn.Module):
    """Embeddings, nn.TransformerEncoderLayer blocks (post-norm), LayerNorm, head."""

    def __init__(self, model: LanguageModel, *, d_ff: int) -> None:
        super().__init__()
        ours = [model.block] if isinstance(getattr(model, "block", None), nn.Module) else list(model.blocks)
        self.token, self.position = nn.Embedding(65, 128), nn.Embedding(128, 128)
        layer = {"d_model": 128, "nhead": 4, "dim_feedforward": d_ff, "dropout": 0.0, "batch_first": True}
        self.layers = nn.ModuleList([nn.TransformerEncoderLayer(**layer, norm_first=False) for _ in ours])
        self.norm, self.head = nn.LayerNorm(128), nn.Linear(128, 65)
        copy(self.token, model.embedding.token)
        copy(self.position, model.embedding.position.embedding)
        copy(self.norm, model.head.norm)
        copy(self.head, model.head.linear)
        for layer_, block in zip(self.layers, ours, strict=True):
            attention = block.attention
            with torch.no_grad():
                layer_.self_attn.in_proj_weight.copy_(attention.in_proj.weight)
                layer_.self_attn.in_proj_bias.copy_(attention.in_proj.bias)
            copy(layer_.self_attn.out_proj, attention.out_proj)
            copy(layer_.linear1, block.feedforward.up)
            copy(layer_.linear2, block.feedforward.down)
            copy(layer_.norm1, block.attention_norm)
            copy(layer_.norm2, block.feedforward_norm)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        T = tokens_BT.shape[1]
        mask = torch.triu(torch.ones(T, T, dtype=torch.bool), diagonal=1)
        x = self.token(tokens_BT) + self.position(torch.arange(T))
        for layer in self.layers:
            x = layer(x, src_mask=mask)
        return self.head(self.norm(x))


def jitter(model: LanguageModel) -> None:
    """Move every weight, so that biases at 0 and gains at 1 are told apart too."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@PRECISION
@pytest.mark.parametrize("kind, d_ff", [("transformer", 256), ("self_attention", 512)])
def test_attention_models_equal_encoder_layers_of_torch(
    kind: str, d_ff: int, dtype: torch.dtype, atol: float
) -> None:
    model = seeded(make("model", kind, dropout=0.0), init_seed=0)
    jitter(model)
    reference = ReferenceAttentionModel(model, d_ff=d_ff).to(dtype)
    model.to(dtype)
    ours, theirs = model(ids()).logits_BTV, reference(ids())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)
    torch.testing.assert_close(model(ids(), readout="last").logits_BTV, theirs[:, -1:], rtol=0, atol=atol)


def test_gradients_equal_those_of_encoder_layers_of_torch() -> None:
    model = seeded(make("model", "transformer", dropout=0.0), init_seed=0)
    reference = ReferenceAttentionModel(model, d_ff=256).double()
    model.double()(ids()).logits_BTV.square().sum().backward()
    reference(ids()).square().sum().backward()
    ours, theirs = (
        model.blocks[0].attention.in_proj.weight.grad,
        reference.layers[0].self_attn.in_proj_weight.grad,
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@PRECISION
@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_window_models_equal_flatten_and_linear_of_torch(kind: str, dtype: torch.dtype, atol: float) -> None:
    model = seeded(make("model", kind), init_seed=0).to(dtype).eval()
    table = nn.Embedding(65, 128)
    copy(table, model.embedding.token)
    if kind == "linear":
        stack = nn.Sequential(nn.Linear(128 * 128, 65))
        ours = [model.head.linear]
    else:
        stack = nn.Sequential(
            nn.Linear(128 * 128, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 65)
        )
        ours = [model.window.linear, model.hidden[0], model.head]
    for target, source in zip([m for m in stack if isinstance(m, nn.Linear)], ours, strict=True):
        copy(target, source)
    reference = nn.Sequential(table, nn.Flatten(), stack).to(dtype)
    last = model(ids(), readout="last").logits_BTV[:, 0]
    torch.testing.assert_close(last, reference(ids()), rtol=0, atol=atol)
    dense = model(ids()).logits_BTV[:, -1]
    torch.testing.assert_close(dense, reference(ids()), rtol=0, atol=atol)


def test_the_rope_variant_equals_separate_projections_and_complex_rotation() -> None:
    model = seeded(make("model", "transformer_rope", n_layer=1, dropout=0.0), init_seed=0)
    jitter(model)
    model.double()
    block = model.blocks[0]
    q, k, v = (
        nn.functional.linear(block.attention_norm(model.embedding.token(ids())), w, b)
        for w, b in zip(
            block.attention.in_proj.weight.chunk(3), block.attention.in_proj.bias.chunk(3), strict=True
        )
    )

    def heads(x: Tensor) -> Tensor:
        return x.reshape(2, 128, 4, 32).transpose(1, 2)

    def turn(x: Tensor) -> Tensor:
        angle = torch.outer(torch.arange(128.0).double(), 10_000.0 ** (-torch.arange(16).double() / 16))
        # The model keeps its table in float32.
        turned = torch.complex(x[..., :16], x[..., 16:]) * torch.complex(
            angle.cos().float().double(), angle.sin().float().double()
        )
        return torch.cat((turned.real, turned.imag), dim=-1)

    scores = turn(heads(q)) @ turn(heads(k)).mT / 32**0.5
    scores = scores.masked_fill(torch.ones(128, 128).triu(1).bool(), float("-inf"))
    mixed = (scores.softmax(-1) @ heads(v)).transpose(1, 2).reshape(2, 128, 128)
    x = model.embedding.token(ids()) + block.attention.out_proj(mixed)
    x = x + block.feedforward.down(block.feedforward.up(block.feedforward_norm(x)).relu())
    expected = model.head.linear(model.head.norm(x))
    torch.testing.assert_close(model(ids()).logits_BTV, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "kind, fields, expected",
    [
        # Embedding 65 C, head 65 (T C + 1).
        ("linear", {}, 1_073_345),
        ("linear", {"seq_len": 32}, 274_625),
        ("linear", {"seq_len": 64}, 540_865),
        # Embedding 65 C, 256 (T C + 1), 256 (256 + 1), head 65 (256 + 1).
        ("mlp", {}, 4_285_377),
        ("mlp", {"d_ff": 128}, 2_130_497),
        ("mlp", {"d_ff": 512}, 8_693_441),
        # Tables 65 C + T C; block 4 C (C + 1) + F (C + 1) + C (F + 1) + 4 C; final norm 2 C; head 65 (C + 1).
        ("self_attention", {}, 231_617),
        ("self_attention", {"n_head": 1}, 231_617),
        ("transformer", {}, 430_785),
        ("transformer", {"n_layer": 2}, 298_305),
        ("transformer", {"n_layer": 4}, 563_265),
        # The word-level studies: vocabularies of PTB and WikiText-2, T = 64.
        ("transformer", {"vocab_size": 9_999, "seq_len": 64}, 2_975_631),
        ("transformer", {"vocab_size": 33_277, "seq_len": 64}, 8_958_077),
        ("transformer_prenorm", {}, 430_785),
        ("transformer_rope", {}, 414_401),
    ],
)
def test_parameter_counts_are_the_published_ones(kind: str, fields: dict[str, int], expected: int) -> None:
    assert parameters(make("model", kind, **fields)).total == expected


def test_the_modern_variant_has_the_published_parameters_to_two_per_cent() -> None:
    assert abs(parameters(make("model", "transformer_modern")).total / 430_785 - 1) < 0.02


@pytest.mark.parametrize(
    "kind, epochs, printed",
    [
        ("linear", 3, "4.12e+13"),
        ("mlp", 3, "1.65e+14"),
        ("self_attention", 4, "1.19e+13"),
        ("transformer", 4, "2.21e+13"),
        ("transformer_rope", 4, "2.12e+13"),
    ],
)
def test_the_published_flop_formula_gives_the_published_numbers(kind: str, epochs: int, printed: str) -> None:
    count = parameters(make("model", kind)).total
    assert f"{published_flops(count, n_windows=50_000 * epochs, seq_len=128):.2e}" == printed


def test_published_attention_starts_like_multihead_attention_of_torch() -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(128, 4)
    ours = seeded(make("model", "transformer"), init_seed=0).blocks[0].attention
    # Xavier over the packed 3C x C matrix: uniform in +-sqrt(6 / 4C).
    bound = (6 / (4 * 128)) ** 0.5
    for weight in (ours.in_proj.weight, theirs.in_proj_weight):
        assert 0.999 * bound < weight.abs().max() <= bound
        assert weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.01)
    for weight in (ours.out_proj.weight, theirs.out_proj.weight):
        assert 0.999 / 128**0.5 < weight.abs().max() <= 1 / 128**0.5
    for bias in (ours.in_proj.bias, theirs.in_proj_bias, ours.out_proj.bias, theirs.out_proj.bias):
        assert not bias.any()


def test_separate_projections_start_like_linear_of_torch() -> None:
    attention = seeded(make("model", "transformer_rope"), init_seed=0).blocks[0].attention
    for values in (attention.in_proj.weight, attention.in_proj.bias, attention.out_proj.bias):
        assert 0.9 / 128**0.5 < values.abs().max() <= 1 / 128**0.5


def test_embeddings_and_norms_start_as_torch_starts_them() -> None:
    model = seeded(make("model", "transformer"), init_seed=0)
    for table in (model.embedding.token.weight, model.embedding.position.embedding.weight):
        assert table.std().item() == pytest.approx(1, abs=0.02)
    assert model.head.norm.weight.eq(1).all()
    assert not model.head.norm.bias.any()
