"""Notebooks and their presets, found by name.

A notebook is `notebooks/NN_name.ipynb`; it answers to `NN`, `NN_name` and `name`. Presets
are tables in `notebooks/presets.toml`, one per notebook and preset, that hold what differs
from the defaults in the notebook's own parameters cell. Those defaults are the preset
`smoke`, so it never stands in the file.
"""

import tomllib
from pathlib import Path
from typing import Any

from lmbench.errors import unknown
from lmbench.home import root

SMOKE = "smoke"


def notebooks() -> dict[str, Path]:
    """Every notebook of the project by its full name, in the order of their numbers."""
    found = (root() / "notebooks").glob("[0-9][0-9]_*.ipynb")
    return {path.stem: path for path in sorted(found)}


def find(name: str) -> str:
    """The full name of a notebook given as `01`, `01_architecture_comparison` or `architecture_comparison`.

    Raises:
        ValueError: no notebook answers to `name`, or several do.
    """
    known = notebooks()
    wanted = Path(name).name.removesuffix(".ipynb")
    if wanted in known:
        return wanted
    fits = [full for full in known if wanted in (full[:2], full[3:])]
    if len(fits) == 1:
        return fits[0]
    if fits:
        raise ValueError(f"notebook {name!r} could be {' or '.join(fits)}; write one of these names in full")
    raise ValueError(unknown("notebook", name, known))


def presets(name: str) -> dict[str, dict[str, Any]]:
    """The presets of a notebook, `smoke` first: preset -> parameters that differ from the defaults.

    Raises:
        ValueError: unknown notebook, or a presets file that is no TOML or has another form.
    """
    table = _presets_file().get(find(name), {})
    return {SMOKE: {}} | table


def preset_values(name: str, preset: str) -> dict[str, Any]:
    """The parameters of one preset.

    Raises:
        ValueError: unknown notebook or preset.
    """
    known = presets(name)
    if preset not in known:
        raise ValueError(unknown(f"preset of notebook {find(name)}", preset, known))
    return known[preset]


def _presets_file() -> dict[str, dict[str, dict[str, Any]]]:
    path = root() / "notebooks" / "presets.toml"
    if not path.is_file():
        return {}
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read as TOML: {error}") from None
    known = notebooks()
    for name, table in tables.items():
        if name not in known:
            raise ValueError(unknown("notebook", name, known) + f" (a table of {path})")
        if not isinstance(table, dict) or not all(isinstance(values, dict) for values in table.values()):
            raise ValueError(f"[{name}] in {path} must hold tables only, one per preset: [{name}.quick]")
        if SMOKE in table:
            raise ValueError(
                f"[{name}.{SMOKE}] in {path} is not accepted: the defaults in the notebook's own "
                f"parameters cell are the preset {SMOKE!r}"
            )
    return tables
