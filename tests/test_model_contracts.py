"""What every model must hold to, checked for each kind and variant that discovery finds."""

import inspect
import typing

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from torch.func import functional_call, grad, stack_module_state, vmap

from lmbench.config import discover, kinds, make
from lmbench.layers.dropout import Dropout, dropout_sites
from lmbench.measure.flops import Ledger, counted_flops, parameters
from lmbench.models.base import LanguageModel, ModelConfig, seeded

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
OTHER_SIZES = {
    "vocab_size": 5,
    "seq_len": 1,
    "d_model": 32,
    "n_head": 4,
    "n_layer": 1,
    "d_ff": 7,
    "n_kv_head": 1,
}
NAMES = sorted(discover("model"))
READOUTS = ("all", "last")


def tiny(name: str, **fields: object) -> ModelConfig:
    """The kind or variant in a size for tests; fields that it lacks are dropped."""
    known = discover("model")[name].model_fields
    return make("model", name, **{k: v for k, v in (SIZES | fields).items() if k in known})


def grid() -> list[ModelConfig]:
    """Every name with each other size, and every kind with each value of each choice."""
    configs = []
    for name, cls in discover("model").items():
        changes: list[dict[str, object]] = [{}]
        changes += [{field: value} for field, value in OTHER_SIZES.items() if field in cls.model_fields]
        # Fields of the stack are gone through with the kind that has all of them.
        own = cls.model_fields if name == "transformer" else inspect.get_annotations(cls)
        for field in own if name == cls.kind else ():
            info = cls.model_fields.get(field)
            if info is None:
                continue
            if info.annotation is bool:
                changes += [{field: value} for value in (False, True)]
            changes += [
                {field: value} for value in typing.get_args(info.annotation) if isinstance(value, str)
            ]
        configs += [tiny(name, **change) for change in changes]
    return list({config.digest: config for config in configs}.values())


def tokens(config: ModelConfig, *, batch: int = 2, length: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    shape = (batch, config.seq_len if length is None else length)
    return torch.randint(config.vocab_size, shape, generator=generator)


def context(config: ModelConfig, *, batch: int = 2) -> torch.Tensor:
    """The tokens before the first, the oldest of them missing."""
    ids = tokens(config, batch=batch, length=config.seq_len - 1).flip(1)
    ids[:, :2] = -1
    return ids


def moved(config: ModelConfig, *, init_seed: int = 0) -> LanguageModel:
    """A model off its start, where gains of 1, biases of 0 and maps that start at 0 hide much."""
    model = seeded(config, init_seed=init_seed)
    generator = torch.Generator().manual_seed(9 + init_seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def double(config: ModelConfig, *, init_seed: int = 0) -> LanguageModel:
    return moved(config, init_seed=init_seed).double().eval()


def set_keys(model: LanguageModel, *, first: int) -> None:
    """Keys first, first + 1, ... to the dropout modules of a model."""
    for key, name in enumerate(dropout_sites(model), start=first):
        model.get_buffer(name).fill_(key)


def extended(model: LanguageModel, ids: torch.Tensor, *, cuts: list[int]) -> list[torch.Tensor]:
    """Logits after each piece of a text that is read piece by piece."""
    state, found, start = None, [], 0
    for end in [*cuts, ids.shape[1]]:
        logits_BV, state = model.extend(ids[:, start:end], state)
        assert state.length == end
        found.append(logits_BV)
        start = end
    return found


def loss_of(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def has_alibi(config: ModelConfig) -> bool:
    return getattr(config, "positions", None) == "alibi"


ALL = pytest.mark.parametrize("name", NAMES)
GRID = pytest.mark.parametrize("config", grid(), ids=lambda config: f"{config.name}-{config.digest[:6]}")


def test_the_four_published_kinds_are_discovered() -> None:
    assert {"linear", "mlp", "self_attention", "transformer"} <= set(kinds("model"))


@GRID
def test_logits_have_one_row_for_each_position_or_one_for_the_last(config: ModelConfig) -> None:
    model = seeded(config, init_seed=0)
    for length in range(1, config.seq_len + 1):
        ids = tokens(config, length=length)
        assert model(ids).logits_BTV.shape == (2, length, config.vocab_size)
        assert model(ids, readout="last").logits_BTV.shape == (2, 1, config.vocab_size)


@GRID
def test_a_changed_token_leaves_the_logits_before_it_alone(config: ModelConfig) -> None:
    model, ids = double(config), tokens(config)
    before = model(ids).logits_BTV
    for t in range(config.seq_len):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % config.vocab_size
        after = model(changed).logits_BTV
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=0, atol=1e-12)
        assert not torch.allclose(after[:, t], before[:, t])


@GRID
def test_the_last_readout_is_the_last_row_of_all(config: ModelConfig) -> None:
    model, ids, before = double(config), tokens(config), context(config)
    for length in (1, config.seq_len):
        every = model(ids[:, :length], before).logits_BTV
        last = model(ids[:, :length], before, readout="last").logits_BTV
        torch.testing.assert_close(last, every[:, -1:], rtol=0, atol=1e-12)


@GRID
def test_a_text_read_token_by_token_gives_the_logits_of_the_whole(config: ModelConfig) -> None:
    """What generation rests on: keys and values, hidden states or last tokens stand for all before."""
    model, ids = double(config), tokens(config)
    every = model(ids).logits_BTV
    for end, logits_BV in enumerate(extended(model, ids, cuts=list(range(1, config.seq_len)))):
        torch.testing.assert_close(logits_BV, every[:, end], rtol=0, atol=1e-10)
    in_pieces = extended(model, ids, cuts=[3] if config.seq_len > 3 else [])
    torch.testing.assert_close(in_pieces[-1], every[:, -1], rtol=0, atol=1e-10)


@ALL
def test_generation_remembers_nothing_beyond_its_state(name: str) -> None:
    """Two texts read in turn do not disturb each other, and a state can be read on from twice."""
    config = tiny(name)
    model, ids, other = double(config), tokens(config), tokens(config).flip(1)
    _, state = model.extend(ids[:, :4])
    model.extend(other[:, :5])
    first, _ = model.extend(ids[:, 4:], state)
    again, _ = model.extend(ids[:, 4:], state)
    assert torch.equal(first, again)
    torch.testing.assert_close(first, model(ids).logits_BTV[:, -1], rtol=0, atol=1e-10)


@ALL
def test_a_window_model_gives_each_position_its_own_full_window(name: str) -> None:
    config = tiny(name)
    model, before, ids = double(config), context(config), tokens(config)
    if not config.is_window:
        assert torch.equal(model(ids, before).logits_BTV, model(ids).logits_BTV)
        return
    every = model(ids, before).logits_BTV
    stream = torch.cat((before, ids), dim=1)
    for t in range(config.seq_len):
        window = stream[:, t : t + config.seq_len]
        alone = model(window[:, -1:], window[:, :-1], readout="last").logits_BTV
        torch.testing.assert_close(every[:, t : t + 1], alone, rtol=0, atol=1e-12)


@ALL
def test_missing_tokens_of_a_short_window_are_missing_context(name: str) -> None:
    config = tiny(name)
    model, ids = double(config), tokens(config, length=3)
    nothing = torch.full((2, config.seq_len - 1), -1)
    for readout in READOUTS:
        short, padded = model(ids, readout=readout), model(ids, nothing, readout=readout)
        assert torch.equal(short.logits_BTV, padded.logits_BTV)


@ALL
def test_a_sequence_or_context_of_the_wrong_length_is_refused(name: str) -> None:
    config = tiny(name)
    model = seeded(config, init_seed=0)
    if config.is_window:
        with pytest.raises(ValueError, match=r"context holds 3 tokens, but must hold seq_len - 1 = 7"):
            model(tokens(config), tokens(config, length=3))
    else:
        with pytest.raises(ValueError, match=r"got 9 tokens, but the context seq_len is 8"):
            model(tokens(config, length=9))


@GRID
def test_a_finite_gradient_reaches_every_parameter(config: ModelConfig) -> None:
    model = moved(config).train()
    for dtype in (None, torch.bfloat16):
        model.zero_grad()
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            output = model(tokens(config, batch=8), context(config, batch=8))
        every = (output.logits_BTV, *(logits_BTV for _, logits_BTV in output.exits))
        targets = tokens(config, batch=8).roll(-1, dims=1)
        losses = sum(loss_of(logits_BTV, targets) for logits_BTV in every)
        (losses if output.aux_loss is None else losses + output.aux_loss).backward()
        for parameter_name, parameter in model.named_parameters():
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
            # With one position nothing is carried over: attention has one weight, 1, whatever queries and
            # keys are, and a state is only written.
            if config.seq_len > 1:
                assert parameter.grad.count_nonzero(), parameter_name


@GRID
def test_weights_saved_and_loaded_give_the_same_logits(config: ModelConfig) -> None:
    model, other = moved(config).eval(), moved(config, init_seed=1).eval()
    assert not torch.equal(other(tokens(config)).logits_BTV, model(tokens(config)).logits_BTV)
    other.load_state_dict(safetensors.torch.load(safetensors.torch.save(model.state_dict())))
    assert torch.equal(other(tokens(config)).logits_BTV, model(tokens(config)).logits_BTV)


@ALL
def test_the_init_seed_alone_decides_the_weights(name: str) -> None:
    config = tiny(name)
    state = torch.random.get_rng_state()
    torch.manual_seed(5)
    first = seeded(config, init_seed=3).state_dict()
    torch.manual_seed(6)
    again, other = seeded(config, init_seed=3).state_dict(), seeded(config, init_seed=4).state_dict()
    torch.random.set_rng_state(state)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@ALL
def test_the_dropout_keys_alone_decide_the_training_loss(name: str) -> None:
    config = tiny(name, dropout=0.5)
    losses = []
    for global_seed, first in ((5, 1), (6, 1), (6, 101)):
        model = moved(config).train()
        set_keys(model, first=first)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            losses.append(loss_of(model(tokens(config)).logits_BTV, tokens(config)).item())
    assert losses[0] == losses[1]
    assert (losses[0] == losses[2]) == ("dropout" not in type(config).model_fields)


@GRID
def test_a_dropout_module_draws_one_mask_in_a_pass(config: ModelConfig) -> None:
    """A second call would draw the same mask again, since the mask is a function of the key."""
    model, seen = seeded(config, init_seed=0).train(), []
    for name, part in model.named_modules():
        if isinstance(part, Dropout):
            part.register_forward_hook(lambda *_, name=name: seen.append(name))
    model(tokens(config), context(config))
    assert len(seen) == len(set(seen))
    assert {f"{name}.key" for name in seen} == set(dropout_sites(model))


@ALL
def test_building_and_counting_leave_the_random_generator_alone(name: str) -> None:
    state = torch.random.get_rng_state()
    parameters.cache_clear()
    seeded(tiny(name), init_seed=0)
    parameters(tiny(name))
    counted_flops(tiny(name), readout="all", device="cpu")
    assert torch.equal(torch.random.get_rng_state(), state)


@ALL
def test_each_row_of_a_batch_is_computed_by_itself(name: str) -> None:
    config = tiny(name)
    model, ids = double(config), tokens(config, batch=3)
    together = model(ids).logits_BTV
    for row in range(3):
        alone = model(ids[row : row + 1]).logits_BTV
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-12)


@ALL
def test_a_forward_pass_in_training_changes_no_state(name: str) -> None:
    model = seeded(tiny(name), init_seed=0).train()
    before = {key: value.clone() for key, value in (*model.named_parameters(), *model.named_buffers())}
    model(tokens(tiny(name)))
    for key, value in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal(value, before[key]), key


@GRID
def test_stacked_models_under_vmap_equal_each_alone(config: ModelConfig) -> None:
    models = [double(config, init_seed=seed) for seed in range(3)]
    ids, before = tokens(config), context(config)
    stacked, buffers = stack_module_state(models)

    def loss(weights: dict, constants: dict) -> tuple[torch.Tensor, torch.Tensor]:
        logits = functional_call(models[0], (weights, constants), (ids, before)).logits_BTV
        return logits.logsumexp(-1).sum() - logits[..., 0].sum(), logits

    each = grad(loss, has_aux=True)
    together, logits = vmap(each)({k: v.detach() for k, v in stacked.items()}, buffers)
    for index, model in enumerate(models):
        constants = dict(model.named_buffers())
        alone, by_itself = each({k: v.detach() for k, v in model.named_parameters()}, constants)
        torch.testing.assert_close(logits[index], by_itself, rtol=1e-10, atol=1e-10)
        for key, gradient in alone.items():
            torch.testing.assert_close(together[key][index], gradient, rtol=1e-10, atol=1e-10)


@ALL
def test_stacked_models_in_training_draw_their_own_dropout(name: str) -> None:
    config = tiny(name, dropout=0.5)
    models = [moved(config).double().train() for _ in range(2)]
    for replica, model in enumerate(models):
        set_keys(model, first=1 + 100 * replica)
    stacked, buffers = stack_module_state(models)
    ids = tokens(config)

    def logits(weights: dict, constants: dict) -> torch.Tensor:
        return functional_call(models[0], (weights, constants), (ids,)).logits_BTV

    both = vmap(logits)(stacked, buffers)
    for together, model in zip(both, models, strict=True):
        torch.testing.assert_close(together, model(ids).logits_BTV, rtol=1e-10, atol=1e-10)
    # Equal weights, so without dropout only rounding tells the two apart.
    assert torch.allclose(both[0], both[1], atol=1e-9) == ("dropout" not in type(config).model_fields)


@GRID
def test_in_bfloat16_all_activations_are_and_logits_stay_near(config: ModelConfig) -> None:
    """Weights in bfloat16 and tables (angles, slopes) in float32, as the trainer runs a model.

    A value of bfloat16 is off by at most 2^-9; 5% leaves room for some dozens of roundings.
    """
    model, seen = moved(config).eval(), set()
    for part in model.modules():
        part.register_forward_hook(
            lambda _, __, out: seen.add(out.dtype) if isinstance(out, torch.Tensor) else None
        )
    weights = {key: value.detach().bfloat16() for key, value in model.named_parameters()}
    for readout in READOUTS:
        wide = model(tokens(config), context(config), readout=readout).logits_BTV
        seen.clear()
        narrow = functional_call(
            model, weights, (tokens(config), context(config)), {"readout": readout}
        ).logits_BTV
        # ALiBi's module returns scores to be added, which attention casts.
        assert seen <= {torch.bfloat16, *([torch.float32] if has_alibi(config) else [])}
        assert narrow.dtype == torch.bfloat16
        assert narrow.isfinite().all()
        assert (narrow.float() - wide).norm() < 0.05 * wide.norm()


@ALL
def test_both_ends_have_parameters_under_their_names(name: str) -> None:
    config = tiny(name)
    model = seeded(config, init_seed=0)
    tied = getattr(config, "tied_head", False)
    for end in model.ends:
        held = [key for key, _ in model.named_parameters() if key.startswith(f"{end}.")]
        assert held or (end == "head" and tied), end
    of_tokens = [key for key, p in model.named_parameters() if config.vocab_size in p.shape]
    assert {key.partition(".")[0] for key in of_tokens} <= set(model.ends)


@GRID
def test_closed_form_flops_equal_those_that_torch_counts(config: ModelConfig) -> None:
    for readout in READOUTS:
        counted = counted_flops(config, readout=readout, batch_size=3)
        terms = [term for term in config.terms(readout) if not term.elementwise]
        closed = Ledger(terms=tuple(terms), batch_size=3, targets=1)
        assert (counted.forward, counted.backward) == (closed.forward, closed.backward), readout


@GRID
def test_only_attention_has_a_causal_half(config: ModelConfig) -> None:
    T = config.seq_len
    for term in config.terms("all"):
        if term.causal is not None:
            assert term.causal * 2 * T == term.forward * (T + 1)


@GRID
def test_parameters_on_the_meta_device_are_those_of_the_module(config: ModelConfig) -> None:
    model, count = seeded(config, init_seed=0), parameters(config)
    assert count.total == sum(p.numel() for p in model.parameters())
    assert 0 < count.embedding < count.total
    assert count.non_embedding == count.total - count.embedding
