"""The typed `parameters` cell of a notebook, read without running it, and values checked against it.

The cell holds one assignment a line, with its type and a comment:

    steps: int = 60              # optimizer steps
    corpora: list[str] = ["a"]   # names of corpora

A value is accepted when pydantic's strict mode accepts its JSON form as that type: 1 for a
float, but neither "1" nor true for an int.
"""

import ast
import io
import json
import tokenize
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from lmbench.errors import unknown

TAG = "parameters"
# The names that an annotation may use; it is evaluated with these and nothing else.
_TYPES = {t.__name__: t for t in (bool, int, float, str, list, dict, tuple)}
_TYPES |= {"Literal": typing.Literal, "Any": Any}


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """One setting of a notebook."""

    name: str
    type: Any
    """What pydantic checks a value against."""
    spelled: str
    """The type as the notebook writes it."""
    default: Any
    help: str
    """The comment behind the assignment, or the comment lines above it."""


def cells_of(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook file, each with its source as one string.

    Raises:
        ValueError: the file is no notebook of format 4.
    """
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        return [cell | {"source": "".join(cell["source"])} for cell in cells]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a notebook: {type(error).__name__}: {error}") from None


def parameters_of(path: Path) -> dict[str, Parameter]:
    """The parameters of the notebook at `path`, in their order; none where no cell is tagged so.

    Raises:
        ValueError: two tagged cells, or a line that is not an assignment of a literal.
    """
    tagged = [cell for cell in cells_of(path) if TAG in cell.get("metadata", {}).get("tags", [])]
    if len(tagged) > 1:
        raise ValueError(f"{path.name} has {len(tagged)} cells tagged {TAG!r}; one is accepted")
    if not tagged:
        return {}
    source = tagged[0]["source"]
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise ValueError(f"the {TAG} cell of {path.name} is not Python: {error}") from None
    comments = _comments(source)
    found = [_parameter(node, comments, path) for node in statements]
    return {parameter.name: parameter for parameter in found}


def checked(path: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` as plain JSON values, after comparing their names and types with the notebook's parameters.

    Raises:
        ValueError: the notebook has no such parameter, or its type refuses the value.
    """
    known = parameters_of(path)
    out = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(unknown(f"parameter of notebook {path.stem}", name, known))
        out[name] = _checked_value(path, known[name], value)
    return out


def _checked_value(path: Path, parameter: Parameter, value: Any) -> Any:
    try:
        text = json.dumps(value)
        TypeAdapter(parameter.type).validate_json(text, strict=True)
    except TypeError as error:
        reason = str(error)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"]
    else:
        return json.loads(text)
    raise ValueError(
        f"{path.stem}: {parameter.name} = {value!r} is not accepted: {reason[0].lower()}{reason[1:]} "
        f"(its type is {parameter.spelled}, its default {parameter.default!r})"
    )


def _parameter(node: ast.stmt, comments: Mapping[int, tuple[str, bool]], path: Path) -> Parameter:
    """One statement of the cell as a Parameter; its first line finds its comment."""
    target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
    annotation = None
    if isinstance(node, ast.AnnAssign):
        target, annotation = node.target, node.annotation
    if not isinstance(target, ast.Name) or node.value is None:
        _refuse(node, path)
    try:
        default = ast.literal_eval(node.value)
        if annotation is None:
            kind = Any if default is None else type(default)
            spelled = type(default).__name__
        else:
            spelled = ast.unparse(annotation)
            kind = eval(spelled, {"__builtins__": {}}, _TYPES)
        TypeAdapter(kind)
    except Exception:
        # Whatever an annotation can raise, the remedy is the same.
        _refuse(node, path)
    return Parameter(
        name=target.id, type=kind, spelled=spelled, default=default, help=_help(node.lineno, comments)
    )


def _refuse(node: ast.stmt, path: Path) -> NoReturn:
    raise ValueError(
        f"{ast.unparse(node)!r} in the {TAG} cell of {path.name} is not accepted: each statement there is "
        "`name: type = value`, with a type made of "
        f"{', '.join(_TYPES)} and a value that is a literal"
    )


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Line number -> (comment, whether it stands alone on its line)."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.string.lstrip("# ").strip(), not token.line[: token.start[1]].strip())
        for token in tokens
        if token.type == tokenize.COMMENT
    }


def _help(line: int, comments: Mapping[int, tuple[str, bool]]) -> str:
    text, alone = comments.get(line, ("", True))
    if not alone:
        return text
    above: list[str] = []
    while (line := line - 1) in comments and comments[line][1]:
        above.insert(0, comments[line][0])
    return " ".join(above)
