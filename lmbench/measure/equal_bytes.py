"""Models that fill files of one size with weights of different bits: wide ones of few, narrow ones of many.

A file is counted before anything is trained. Codes take less than their bits after entropy coding, and
the more so the more bits they have: steps that are learned start at 2 E|x| / sqrt(Qp), so of 8 bits only
some thirty codes are in use. What counts here is therefore the entropy of Gaussian weights in such steps,
4.9, 2.8 and 1.5 bits for 8, 4 and 2. Training makes weights larger and files up to a fifth larger than
that, in about the same proportion for all bits; whether files came out equal is for who compares them.
Source of the steps: Esser et al. 2020, "Learned step size quantization", section 2.1.
"""

import itertools
import math

from lmbench.config import make
from lmbench.measure.artifact import Coding, predicted_bytes
from lmbench.measure.artifact.lattice import code_range
from lmbench.measure.budget import equal_parameters
from lmbench.measure.flops import parameters
from lmbench.models.base import ModelConfig

MISS = 0.05  # relative; a file further off is no equal one
_ROUNDS = 8  # of correcting the number of parameters by how far the file is off


def learned_entropy(bits: float) -> float:
    """Bits of information in a code, of Gaussian weights in the first learned steps.

    Args:
        bits: of a code, 2 to 8, whole.
    """
    lowest, highest = code_range(bits)
    step = 2 * math.sqrt(2 / math.pi) / math.sqrt(highest)
    inner = [step * (code + 0.5) for code in range(lowest, highest)]
    below = [0.0, *(0.5 * (1 + math.erf(edge / math.sqrt(2))) for edge in inner), 1.0]
    shares = [high - low for low, high in itertools.pairwise(below)]
    return -sum(p * math.log2(p) for p in shares if p > 0)


def file_bytes(model: ModelConfig, *, bits: float) -> float:
    """What a file of the model would take with all matrices in codes of learned steps."""
    coded = make("method", "quantize", bits=bits, scheme="lsq").coded(model)
    codings = {name: Coding(one.bits, one.granularity) for name, one in coded.items()}
    parts = predicted_bytes(model, codings=codings).coded
    return sum(parts.values()) - parts["codes"] * (1 - learned_entropy(bits) / bits)


def equal_bytes(model: ModelConfig, *, bits: float, like: float = 2.0) -> ModelConfig:
    """The model in other widths, whose file at `bits` is as large as the model's own at `like` bits.

    Raises:
        ValueError: as `equal_parameters`, or none within `MISS`.
    """
    wanted, target, tried = file_bytes(model, bits=like), float(parameters(model).total), []
    for _ in range(_ROUNDS):
        config = equal_parameters(model, target=round(target)).config
        size = file_bytes(config, bits=bits)
        tried.append((abs(size / wanted - 1), size, config))
        target *= wanted / size
    miss, size, config = min(tried, key=lambda one: one[0])
    if miss > MISS:
        raise ValueError(
            f"no {model.name} of {bits:g} bits fills {wanted:,.0f} bytes, the nearest takes {size:,.0f}; "
            f"accepted: within {MISS:.0%}, as wider models have"
        )
    return config
