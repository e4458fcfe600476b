"""Hybrid stacks: which mixer stands where, and that the pattern of one letter is that kind."""

import pytest
import torch

from lmbench.config import make
from lmbench.layers.mixers import MIXERS
from lmbench.models.base import seeded
from lmbench.models.hybrid import LETTERS
from tests import test_model_contracts as contract

SIZES = {"vocab_size": 11, "seq_len": 8, "d_model": 16, "n_head": 2, "n_layer": 2, "d_ff": 24}
PLAIN = {"norm_order": "pre", "norm": "rmsnorm", "activation": "swiglu", "qk_norm": True, "bias": False}
# The kind that has a letter's mixer in all its layers, and what it takes to be the hybrid.
ALONE = {
    "A": ("transformer", PLAIN | {"positions": "rope", "attention_init": "linear", "conv_width": 4}),
    "M": ("ssm", {"feedforward": "dense"}),
    "R": ("linear_recurrence", {"expand": 2}),
    "D": ("linear_attention", {"expand": 2}),
}


def parts(**fields: object) -> str:
    """The mixers of a built model, as letters."""
    model = seeded(make("model", "hybrid", **SIZES | fields), init_seed=0)
    letters = {mixer: letter for letter, mixer in LETTERS.items()}
    return "".join(letters[block.mixer_name] for block in model.executed())


def test_every_letter_is_a_mixer() -> None:
    assert set(LETTERS.values()) <= set(MIXERS)
    assert set(ALONE) == set(LETTERS)


def test_every_third_layer_is_attention_by_default() -> None:
    assert make("model", "hybrid").mixers() == ("ssm", "ssm", "attention")
    assert parts(n_layer=7) == "MMAMMAM"


def test_a_pattern_is_repeated_and_cut_where_the_layers_end() -> None:
    assert parts(pattern="AD", n_layer=5) == "ADADA"
    assert parts(pattern="AMRD", n_layer=4) == "AMRD"
    assert parts(pattern="AMRD", n_layer=2) == "AM"


@pytest.mark.parametrize("letter", sorted(LETTERS))
def test_a_pattern_of_one_letter_is_the_kind_with_this_mixer(letter: str) -> None:
    name, fields = ALONE[letter]
    ids = torch.arange(16).remainder(11).view(2, 8)
    other = make("model", name, **SIZES | fields)
    hybrid = make("model", "hybrid", pattern=letter, positions=other.positions, **SIZES)
    found, right = seeded(hybrid, init_seed=0).eval(), seeded(other, init_seed=0).eval()
    assert torch.equal(found(ids).logits_BTV, right(ids).logits_BTV)
    assert hybrid.terms("all") == other.terms("all")


def test_each_mixer_is_in_the_ledger() -> None:
    names = {term.name for term in make("model", "hybrid", pattern="AMRD", n_layer=4).terms("all")}
    assert {"attention", "scan", "linear_attention", "projections", "convolution"} <= names


@pytest.mark.parametrize(
    "check",
    [
        contract.test_a_changed_token_leaves_the_logits_before_it_alone,
        contract.test_a_text_read_token_by_token_gives_the_logits_of_the_whole,
        contract.test_a_finite_gradient_reaches_every_parameter,
        contract.test_stacked_models_under_vmap_equal_each_alone,
        contract.test_in_bfloat16_all_activations_are_and_logits_stay_near,
        contract.test_closed_form_flops_equal_those_that_torch_counts,
        contract.test_a_dropout_module_draws_one_mask_in_a_pass,
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize("pattern", ["DA", "AMRD"])
def test_all_mixers_together_hold_to_the_contract(pattern: str, check) -> None:
    check(make("model", "hybrid", **SIZES | {"pattern": pattern, "n_layer": len(pattern)}))


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("MMa", r"'MMa' has 'a'; accepted: one or more of A \(attention\), M \(ssm\).*Did you mean 'MMA'\?"),
        ("MXA", r"'MXA' has 'X'; accepted: .*R \(recurrence\), D \(linear_attention\)\.$"),
        ("", r"'' names no layer; accepted: .*\.$"),
    ],
)
def test_a_pattern_of_other_letters_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"hybrid.pattern: " + message):
        make("model", "hybrid", pattern=pattern)
