"""Tables of latency and memory, from the tidy rows of latency records.

Seconds are medians over repeats with their range; bytes are counted. A time belongs to one
device, so rows of several are refused.
"""

import pandas as pd

from lmbench.analysis.checks import refuse_empty
from lmbench.analysis.formats import format_si

WORK = {"prefill": "prefill", "decode": "token, cached", "decode_uncached": "token, no cache"}
"""Kind of work as `measure.latency` names it, and what a table calls it."""
BYTES = {
    "weights_bytes": "weights",
    "train_peak_bytes": "training peak",
    "prefill_peak_bytes": "prefill peak",
    "state_bytes": "state",
}


def latency_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row for each model, batch size, context and kind of work.

    Columns: model, batch, context, work (of `WORK`), ms, low, high (of the repeats), tokens_per_second
    (read by a prefill, written otherwise), repeats, device.

    Raises:
        ValueError: no such rows, or times of several devices.
    """
    times = rows[rows["metric"].isin([f"{kind}_seconds" for kind in WORK])]
    refuse_empty(times, "the table of latencies")
    _refuse_several_devices(times)
    wide = rows.pivot_table(index=["label", "level"], columns="metric", values="value", sort=False)
    out = []
    for row in times.to_dict("records"):
        kind, found = row["metric"].removesuffix("_seconds"), wide.loc[(row["label"], row["level"])]
        batch, context = (int(part) for part in row["level"].split("|"))
        tokens = batch * (context if kind == "prefill" else 1)
        out.append(
            {
                "model": row["label"],
                "batch": batch,
                "context": context,
                "work": WORK[kind],
                "ms": 1e3 * row["value"],
                "low": 1e3 * found[f"{kind}_seconds_low"],
                "high": 1e3 * found[f"{kind}_seconds_high"],
                "tokens_per_second": tokens / row["value"],
                "repeats": row["n"],
                "device": row["device"],
            }
        )
    return pd.DataFrame(out)


def decode_table(latency: pd.DataFrame) -> pd.DataFrame:
    """One row a model at the longest context and one text: prefill, a token with and without a cache.

    Args:
        latency: from `latency_table`.
    """
    batch, context = latency["batch"].min(), latency["context"].max()
    at = latency[(latency["batch"] == batch) & (latency["context"] == context)]
    ms = at.pivot(index="model", columns="work", values="ms").loc[at["model"].drop_duplicates()]
    out = pd.DataFrame({"model": ms.index, "context": context})
    for name in WORK.values():
        out[f"{name} (ms)"] = ms[name].to_numpy()
    out["tokens/s, cached"] = 1e3 * batch / out[f"{WORK['decode']} (ms)"]
    out["times faster by the cache"] = out[f"{WORK['decode_uncached']} (ms)"] / out[f"{WORK['decode']} (ms)"]
    return out


def memory_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a model: bytes of weights, of passes over one text of the longest context, and of its state.

    Columns: model, context, weights, training peak, prefill peak (both beside the weights), state after
    the context, state per token (what one further token adds).

    Raises:
        ValueError: no such rows.
    """
    found = rows[rows["metric"].isin([*BYTES, "state_one_bytes"])]
    refuse_empty(found, "the table of memory")
    wide = found.pivot(index="label", columns="metric", values="value").loc[found["label"].drop_duplicates()]
    context = found.drop_duplicates("label")["level"].str.partition("|")[2].astype(int).to_numpy()
    out = pd.DataFrame({"model": wide.index, "context": context})
    for metric, name in BYTES.items():
        out[name] = wide[metric].to_numpy()
    grown = (wide["state_bytes"] - wide["state_one_bytes"]).to_numpy()
    return out.assign(**{"state per token": grown / (context - 1).clip(min=1)})


def readable_memory(memory: pd.DataFrame) -> pd.DataFrame:
    """`memory_table` with its bytes in SI prefixes, for a page."""
    names = [*BYTES.values(), "state per token"]
    return memory.assign(**{name: [f"{format_si(value)}B" for value in memory[name]] for name in names})


def measured_where(latency: pd.DataFrame) -> str:
    """What a caption says of measured times: repeats, range and device."""
    repeats = sorted(latency["repeats"].unique())
    n = str(repeats[0]) if len(repeats) == 1 else f"{repeats[0]} to {repeats[-1]}"
    return f"Medians of {n} repeats with their range; {latency['device'].iloc[0]}."


def _refuse_several_devices(rows: pd.DataFrame) -> None:
    devices = sorted(rows["device"].dropna().unique())
    if len(devices) > 1:
        raise ValueError(
            f"seconds cannot be compared over several devices ({', '.join(devices)}); keep the rows of one"
        )
