"""The bytes of packed models as tables: by part, predicted beside actual, and by tensor and form."""

from collections.abc import Mapping, Sequence

import pandas as pd

from lmbench.measure.artifact.pack import Packed
from lmbench.measure.artifact.predict import Prediction, sparse_bits
from lmbench.measure.artifact.streams import PARTS


def split_table(packed: Packed, *, predicted: Prediction | None = None) -> pd.DataFrame:
    """One row a part and one for the file: bytes before and after entropy coding, the predicted beside.

    Columns: part, bytes before coding, bytes; with `predicted` also predicted before coding, predicted,
    and predicted / actual.
    """
    rows = []
    for part in (*PARTS, "file"):
        row = {
            "part": part,
            "bytes before coding": _of(packed.uncoded, part),
            "bytes": _of(packed.split, part),
        }
        if predicted is not None:
            row["predicted before coding"] = _of(predicted.uncoded, part)
            row["predicted"] = _of(predicted.coded, part)
            row["predicted / actual"] = row["predicted"] / row["bytes"] if row["bytes"] else float("nan")
        rows.append(row)
    return pd.DataFrame(rows)


def tensor_table(packed: Packed) -> pd.DataFrame:
    """One row a tensor: values, bits, density, the form taken, bytes of each form coded by itself, error.

    A form that cannot hold a tensor, or was not tried because nothing is zero, has no number.
    """
    rows = []
    for tensor in packed.tensors:
        row = {
            "tensor": tensor.name,
            "values": tensor.n,
            "bits": tensor.bits,
            "density": tensor.density,
            "form": tensor.form,
        }
        row |= {
            f"{form}, bytes": tensor.candidates.get(form, float("nan")) for form in ("dense", "mask", "csr16")
        }
        rows.append(row | {"relative error": tensor.error})
    return pd.DataFrame(rows)


def sparse_table(bits: float, *, densities: Sequence[float]) -> pd.DataFrame:
    """How many times smaller than dense float32 a tensor is, by density and by how its places are told."""
    rows = []
    for density in densities:
        found = sparse_bits(bits, density=density)
        rows += [
            {
                "density": density,
                "places": places,
                "bits a weight": value,
                "times smaller than float32": 32 / value,
            }
            for places, value in found.items()
        ]
    return pd.DataFrame(rows)


def _of(split: Mapping[str, int], part: str) -> int:
    return sum(split.values()) if part == "file" else split[part]
