"""LSTM and GRU: the equations of torch.nn, what they cost, and who does not see it."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lmbench.config import make
from lmbench.layers.rnn import GRULayer, LSTMLayer
from lmbench.measure.disagreement import fvcore_flops
from lmbench.measure.flops import counted_flops, ledger, parameters
from lmbench.models.base import seeded
from tests.operations import Operations

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_layer": 2}
KINDS = pytest.mark.parametrize("kind", ["lstm", "gru"])
TORCH = {"lstm": nn.LSTM, "gru": nn.GRU}


def layer_of(kind, width=6):
    return LSTMLayer(width, forget_bias=0.3) if kind == "lstm" else GRULayer(width)


@torch.no_grad()
def copy_weights(theirs: nn.RNNBase, ours, *, layer=0):
    """One layer of torch.nn into ours, which has one bias where the sum of two is all that counts."""
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    w_ih, w_hh, b_ih, b_hh = (getattr(theirs, f"{name}_l{layer}") for name in names)
    C = theirs.hidden_size
    ours.input_proj.weight.copy_(w_ih)
    ours.hidden_proj.weight.copy_(w_hh)
    ours.input_proj.bias.copy_(b_ih + b_hh)
    if isinstance(theirs, nn.GRU):
        ours.input_proj.bias[2 * C :].copy_(b_ih[2 * C :])
        ours.reset_bias_C.copy_(b_hh[2 * C :])


@KINDS
@pytest.mark.parametrize("dtype, exact", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_a_layer_is_that_of_torch_with_its_gradients(kind, dtype, exact):
    torch.manual_seed(0)
    theirs, ours = TORCH[kind](6, 6, batch_first=True).to(dtype), layer_of(kind).to(dtype)
    copy_weights(theirs, ours)
    x_BTC = torch.randn(3, 9, 6, dtype=dtype)
    grads = []
    for forward in (lambda x: theirs(x)[0], lambda x: ours(x, {})[0]):
        leaf = x_BTC.clone().requires_grad_()
        out = forward(leaf)
        out.pow(3).sum().backward()
        grads.append((out.detach(), leaf.grad))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=exact)
    for name in ("weight_ih", "weight_hh"):
        mine = ours.input_proj if name == "weight_ih" else ours.hidden_proj
        torch.testing.assert_close(
            mine.weight.grad, getattr(theirs, f"{name}_l0").grad, rtol=0, atol=10 * exact
        )


@KINDS
@pytest.mark.parametrize("tied", [False, True])
def test_the_model_is_embedding_layers_of_torch_and_head(kind, tied):
    model = seeded(make("model", kind, **SIZES, tied_head=tied), init_seed=0).double().eval()
    theirs = TORCH[kind](16, 16, num_layers=2, batch_first=True).double()
    for at, layer in enumerate(model.layers):
        copy_weights(theirs, layer, layer=at)
    ids = torch.arange(8).unsqueeze(0)
    # A shared matrix starts small, for the head's sake, and is scaled up on the way in.
    hidden_BTC = theirs(model.embedding(ids) * (4 if tied else 1))[0]
    expected = hidden_BTC @ model.embedding.weight.T if tied else model.head(hidden_BTC)
    torch.testing.assert_close(model(ids).logits_BTV, expected, rtol=0, atol=1e-12)
    _, state = model.extend(ids)
    torch.testing.assert_close(state.layers[1]["h_BC"], hidden_BTC[:, -1], rtol=0, atol=1e-12)


def test_an_lstm_step_by_hand():
    """Input gate open, forget gate half, output gate open, candidate tanh(x): c = c / 2 + tanh(x)."""
    layer = LSTMLayer(1, forget_bias=0.0)
    with torch.no_grad():
        layer.input_proj.weight.copy_(torch.tensor([[0.0], [0.0], [1.0], [0.0]]))
        layer.input_proj.bias.copy_(torch.tensor([100.0, 0.0, 0.0, 100.0]))
        layer.hidden_proj.weight.zero_()
    _, state = layer(torch.tensor([[[2.0], [0.0]]]), {})
    c = torch.tensor(2.0).tanh() / 2
    torch.testing.assert_close(state["c_BC"][0, 0], c)
    torch.testing.assert_close(state["h_BC"][0, 0], c.tanh())


def test_forget_gates_start_at_their_bias_and_others_do_not():
    for value in (1.0, 0.0, 2.5):
        model = seeded(make("model", "lstm", **SIZES, forget_bias=value), init_seed=0)
        for layer in model.layers:
            bias_i, bias_f, *others = layer.input_proj.bias.chunk(4)
            assert bias_f.eq(value).all()
            # The others as in torch.nn, uniform within 1 / sqrt(C).
            for bias in (bias_i, *others):
                assert 0.15 < bias.abs().max() <= 0.25


@KINDS
@pytest.mark.parametrize("tied", [False, True])
def test_inputs_and_logits_start_with_about_unit_variance(kind, tied):
    model = seeded(
        make("model", kind, **SIZES | {"vocab_size": 500, "d_model": 64}, tied_head=tied), init_seed=0
    )
    assert (model.scale * model.embedding.weight).std().item() == pytest.approx(1, abs=0.02)
    head = model.embedding.weight if tied else model.head.weight
    # Of an input of unit variance: 1 where the rows are those of the embedding, 1/3 as torch draws a map.
    assert (head.var() * 64).item() == pytest.approx(1 if tied else 1 / 3, abs=0.03)


@KINDS
def test_dropout_acts_between_layers_and_never_along_time(kind):
    """On the embedding, after the first layer, and before the head; the state is handed on whole."""
    model = seeded(make("model", kind, **SIZES, dropout=0.5), init_seed=0).train()
    seen = {}
    for at, dropout in enumerate(model.dropouts):
        dropout.key.fill_(at + 1)
        dropout.register_forward_hook(lambda _, inputs, out, at=at: seen.__setitem__(at, (inputs[0], out)))
    ids = torch.arange(8).unsqueeze(0)
    logits_BTV = model(ids).logits_BTV
    assert sorted(seen) == [0, 1, 2]
    assert torch.equal(seen[0][0], model.embedding(ids))
    for at, layer in enumerate(model.layers):
        # Each layer by itself on what was dropped, which has no dropout inside.
        assert torch.equal(layer(seen[at][1], {})[0], seen[at + 1][0])
        assert not torch.equal(seen[at][0], seen[at][1])
    assert torch.equal(logits_BTV, model.head(seen[2][1]))


def test_parameters_are_those_of_a_hand_count():
    # Embedding V C; a layer has 8 C^2 + 4 C, or 6 C^2 + 3 C + C; head C V + V.
    ends = 11 * 16 + 16 * 11 + 11
    assert parameters(make("model", "lstm", **SIZES)).total == ends + 2 * (8 * 256 + 4 * 16)
    assert parameters(make("model", "gru", **SIZES)).total == ends + 2 * (6 * 256 + 4 * 16)
    tied = parameters(make("model", "gru", **SIZES, tied_head=True))
    assert tied.total == 11 * 16 + 2 * (6 * 256 + 4 * 16)


def test_the_ledger_is_that_of_a_hand_count():
    # 8 positions, 2 layers: 2 (4 C^2) from below and as much from before; head 2 C V.
    terms = {term.name: term.forward for term in make("model", "lstm", **SIZES).terms("all")}
    assert terms == {
        "input products": 8 * 2 * 2 * 4 * 256, "recurrent products": 8 * 2 * 2 * 4 * 256,
        "cell": 8 * 2 * 4 * 16, "head": 8 * 2 * 16 * 11,
    }  # fmt: skip
    terms = {term.name: term.forward for term in make("model", "gru", **SIZES).terms("last")}
    assert terms == {
        "input products": 8 * 2 * 2 * 3 * 256, "recurrent products": 8 * 2 * 2 * 3 * 256,
        "cell": 8 * 2 * 5 * 16, "head": 2 * 16 * 11,
    }  # fmt: skip


@KINDS
def test_the_cell_costs_the_operations_that_are_done(kind):
    config = make("model", kind, **SIZES)
    model = seeded(config, init_seed=0)
    # From a state, since the first position of all makes its zeros by a product.
    _, state = model.extend(torch.zeros(1, 1, dtype=torch.long))
    x_BTC = torch.zeros(1, 8, 16)
    with Operations() as operations:
        for layer, start in zip(model.layers, state.layers, strict=True):
            layer(x_BTC, start)
    (cell,) = (term for term in config.terms("all") if term.elementwise)
    assert operations.count == cell.forward


def counted_by_torch(theirs: nn.RNNBase) -> int:
    x_BTC = torch.zeros(1, 8, 16, dtype=theirs.weight_ih_l0.dtype)
    with FlopCounterMode(display=False) as counter:
        theirs(x_BTC)[0].sum().backward()
    return counter.get_total_flops()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
def test_torchs_counter_sees_nothing_of_its_lstm_on_a_cpu():
    """oneDNN computes it in float32; in float64 it is put together from products, as a GRU always is."""
    lstm = nn.LSTM(16, 16, batch_first=True)
    assert counted_by_torch(lstm) == 0
    # Input and recurrent product forward, and backward without a gradient of x and of the first state.
    n_gate, product = 4, 2 * 8 * 16 * 16
    assert counted_by_torch(lstm.double()) == n_gate * (5 * product - product // 8)
    assert counted_by_torch(nn.GRU(16, 16, batch_first=True)) == 3 * (5 * product - product // 8)


@KINDS
def test_fvcore_sees_nothing_of_torchs_layers(kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from fvcore.nn import FlopCountAnalysis

        analysis = FlopCountAnalysis(TORCH[kind](16, 16, batch_first=True), torch.zeros(1, 8, 16))
        analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).tracer_warnings("none")
        assert analysis.total() == 0
        assert analysis.unsupported_ops() == {f"aten::{kind}": 1}


@KINDS
@pytest.mark.parametrize("readout", ["all", "last"])
def test_every_counter_sees_the_products_of_ours(kind, readout):
    config = make("model", kind, **SIZES)
    products = sum(term.forward for term in config.terms(readout) if not term.elementwise)
    assert products > 8 * 2 * 2 * 2 * 3 * 256
    for device in ("meta", "cpu"):
        assert counted_flops(config, readout=readout, device=device) == (products, 2 * products)
    assert 2 * fvcore_flops(config, readout=readout).total == products
    assert ledger(config, readout=readout).forward - products == 8 * 2 * 16 * (4 if kind == "lstm" else 5)


@KINDS
def test_a_text_beyond_the_context_is_refused_however_it_is_read(kind):
    model = seeded(make("model", kind, **SIZES), init_seed=0)
    _, state = model.extend(torch.zeros(1, 8, dtype=torch.long))
    with pytest.raises(ValueError, match="got 9 tokens, but the context seq_len is 8"):
        model.extend(torch.zeros(1, 1, dtype=torch.long), state)
