"""Equal-parameter and equal-FLOP models."""

import pytest

from lmbench.config import discover, make
from lmbench.measure.budget import equal_flops, equal_parameters
from lmbench.measure.flops import ledger, parameters
from lmbench.models.base import ModelConfig

NAMES = sorted(discover("model"))
TARGET = 430_785


def flops_per_token(config: ModelConfig) -> float:
    return ledger(config, readout="all").train / config.seq_len


@pytest.mark.parametrize("name", NAMES)
def test_every_model_meets_a_parameter_budget_or_states_its_miss(name: str) -> None:
    config, miss = equal_parameters(make("model", name), target=TARGET)
    assert parameters(config).total == pytest.approx(TARGET * (1 + miss))
    sizes = config.to_dict()
    assert abs(miss) <= (0.02 if "d_ff" in sizes else 0.03)
    assert sizes["d_model"] % (2 * sizes.get("n_head", 1)) == 0


@pytest.mark.parametrize("name", NAMES)
def test_every_model_meets_a_flop_budget_or_states_its_miss(name: str) -> None:
    target = flops_per_token(make("model", "transformer"))
    config, miss = equal_flops(make("model", name), target_per_token=target)
    assert flops_per_token(config) == pytest.approx(target * (1 + miss))
    assert abs(miss) <= (0.02 if "d_ff" in config.to_dict() else 0.03)


def test_only_the_widths_change() -> None:
    start = make("model", "transformer_modern", n_layer=2, dropout=0.0)
    config, _ = equal_parameters(start, target=2_000_000)
    assert config.replace(d_model=start.d_model, d_ff=start.d_ff) == start
    assert config.d_model > start.d_model


def test_a_model_of_the_budget_stays_within_tolerance_of_itself() -> None:
    config, miss = equal_parameters(make("model", "transformer"), target=TARGET)
    assert (config.d_model, config.d_ff, miss) == (128, 256, 0)


def test_the_linear_model_misses_by_what_its_only_width_allows() -> None:
    # 65 d + 65 (128 d + 1) parameters: d = 50 gives 419,315, d = 52 gives 436,085, nearer to the target.
    config, miss = equal_parameters(make("model", "linear"), target=TARGET)
    assert config.d_model == 52
    assert miss == pytest.approx(436_085 / TARGET - 1)


def test_an_impossible_budget_is_refused_with_the_smallest_size() -> None:
    with pytest.raises(ValueError, match=r"linear cannot be made as small as 100 parameters; .* has 16,835"):
        equal_parameters(make("model", "linear"), target=100)
