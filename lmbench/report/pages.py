"""The web pages of the report as text: one style sheet, a page a notebook, and an index.

nbconvert turns cells into HTML; the page around them is ours, because its own templates
load MathJax and require.js from the network.
"""

import json
import re
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from lmbench.analysis import readable
from lmbench.report.performance import CAPTION

_CSS = """
:root { color-scheme: light; --ink: #1d1d1d; --dim: #595959; --line: #d4d4d4; --soft: #f6f6f4;
  --link: #00539c; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 66rem; background: #fff; color: var(--ink);
  font: 1rem/1.55 Charter, "Bitstream Charter", Georgia, "Liberation Serif", serif; }
h1, h2, h3, table, summary, button, nav, dl { font-family: system-ui, "Liberation Sans", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 1rem 0; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .4rem; }
p, ul, ol { max-width: 44rem; }
a { color: var(--link); }
:focus-visible { outline: 3px solid #ffb000; outline-offset: 2px; }
.anchor-link { display: none; }
code, pre { font-family: "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .84em; }
pre { overflow-x: auto; margin: .4rem 0; line-height: 1.4; }
.scroll, .output_html { overflow-x: auto; margin: 1rem 0; }
.output_text pre { background: var(--soft); padding: .6rem .8rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .78rem; line-height: 1.35; font-variant-numeric: tabular-nums;
  border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink); }
th, td { padding: .25rem .5rem; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { vertical-align: bottom; font-weight: 600; border-bottom: 1px solid var(--ink); }
tbody th { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; }
td.name, th.name { text-align: left; }
td.words { white-space: normal; }
tr.best td { font-weight: 600; }
tr.reference td { color: var(--dim); font-style: italic; }
tr.first td { border-top: 1px solid var(--line); }
caption { caption-side: bottom; text-align: left; color: var(--dim); padding: .4rem 0; white-space: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: 1rem 0;
  font-size: .85rem; }
dt { color: var(--dim); }
dd { margin: 0; overflow-wrap: anywhere; }
details { margin: .4rem 0; }
summary { cursor: pointer; color: var(--dim); font-size: .8rem; width: max-content; }
details[open] > :not(summary) { border-left: 3px solid var(--line); padding-left: .8rem; }
nav { display: flex; justify-content: space-between; align-items: center; font-size: .85rem; }
button { font-size: .8rem; padding: .25rem .6rem; border: 1px solid var(--dim); border-radius: 4px;
  background: #fff; color: var(--ink); cursor: pointer; }
@media print { nav, details { display: none; } body { max-width: none; } }
"""

# Cells as HTML. Images are embedded with their descriptions; widgets and scripts are left out.
_CELLS = """
{%- extends 'classic/base.html.j2' -%}
{% block in_prompt %}{% endblock %}
{% block empty_in_prompt %}{% endblock %}
{% block output_area_prompt %}{% endblock %}
{% block input %}
<details class="code"><summary>Code</summary>
{{ cell.source | highlight_code(metadata=cell.metadata) }}
</details>
{% endblock %}
{% block stream_stderr %}
<details><summary>Messages</summary><pre>{{ output.text | ansi2html }}</pre></details>
{% endblock %}
{% macro picture(output, kind, data) %}
{% set about = output.metadata.get(kind, {}) %}
<img alt="{{ (about.get('alt') or 'figure') | escape_html }}"
  {% if about.get('width') %}width="{{ about.width }}"{% endif %}
  src="data:{{ kind }};base64,{{ data }}">
{% endmacro %}
{% block data_svg scoped %}
{{ picture(output, 'image/svg+xml', output.data['image/svg+xml'] | text_base64) }}
{% endblock %}
{% block data_png scoped %}{{ picture(output, 'image/png', output.data['image/png']) }}{% endblock %}
{% block data_javascript %}{% endblock %}
{% block data_widget_view %}{% endblock %}
{% block footer %}{% endblock %}
"""

_TOGGLE = """<button type="button" aria-pressed="false" onclick="
const show = this.getAttribute('aria-pressed') === 'false';
this.setAttribute('aria-pressed', show); this.textContent = show ? 'Hide all code' : 'Show all code';
document.querySelectorAll('details.code').forEach(part => part.open = show);">Show all code</button>"""


def notebook_page(
    notebook: Any, *, title: str, facts: Mapping[str, str], parameters: Mapping[str, Any]
) -> str:
    """One executed notebook as a page of its own, its code folded."""
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    exporter = HTMLExporter(template_name="classic", raw_template=_CELLS)
    exporter.exclude_input_prompt = exporter.exclude_output_prompt = True
    cells, _ = exporter.from_notebook_node(notebook)
    shown = {name: json.dumps(value) for name, value in parameters.items()}
    settings = f"<details><summary>Parameters</summary>{_list(shown)}</details>" if shown else ""
    nav = f'<nav><a href="index.html">All notebooks</a>{_TOGGLE}</nav>'
    body = f"{nav}\n<header>{_list(facts)}{settings}</header>\n<main>{cells}</main>"
    return _page(title, body, css=HtmlFormatter(style="default").get_style_defs(".highlight"))


def index_page(
    entries: Sequence[tuple[str, str, Mapping[str, str], pd.DataFrame | None]],
    *,
    speeds: pd.DataFrame | None,
) -> str:
    """The list of pages (name, title, facts, headline table), each headline table, and the performance."""
    columns = ("preset", "date", "commit", "device")
    head = "".join(f'<th scope="col" class="name">{name}</th>' for name in ("notebook", *columns))
    rows = "".join(
        f'<tr><td><a href="{escape(page)}.html">{escape(title)}</a></td>'
        + "".join(f'<td class="name">{escape(short(facts.get(name, "")))}</td>' for name in columns)
        + "</tr>\n"
        for page, title, facts, _ in entries
    )
    body = f"<h1>lmbench report</h1>\n{_table(head, rows)}\n"
    for page, title, facts, table in entries:
        if table is not None:
            preset = f" ({escape(facts['preset'])})" if "preset" in facts else ""
            body += f'<h2><a href="{escape(page)}.html">{escape(title)}</a>{preset}</h2>\n{_result(table)}\n'
    if speeds is not None:
        body += f"<h2>Performance</h2>\n{_words(speeds, caption=CAPTION)}\n"
    return _page("lmbench report", f"<main>{body}</main>")


def short(text: str) -> str:
    """A commit cut to 12 digits, its mark of uncommitted changes kept; any other text as it is."""
    return re.sub(r"^([0-9a-f]{12})[0-9a-f]{28}", r"\1", text)


def _result(table: pd.DataFrame) -> str:
    text, is_reference = readable.readable(table), readable.is_reference(table).tolist()
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in text.columns)
    body = ""
    for i, row in enumerate(text.itertuples(index=False)):
        first = is_reference[i] and i > 0 and not is_reference[i - 1]
        kind = "reference" if is_reference[i] else "best" if table["rank"].iloc[i] == 1 else ""
        body += f'<tr class="{kind}{" first" * first}">'
        body += "".join(f"<td>{escape(value)}</td>" for value in row) + "</tr>\n"
    return _table(head, body, "Mean over n seeds with its 95% t interval; in italics, reference predictors.")


def _words(table: pd.DataFrame, *, caption: str) -> str:
    """A table of texts, all to the left, which break where the screen is narrow."""
    head = "".join(f'<th scope="col" class="name">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        "<tr>" + "".join(f'<td class="name words">{escape(value)}</td>' for value in row) + "</tr>\n"
        for row in table.itertuples(index=False)
    )
    return _table(head, rows, escape(caption))


def _table(head: str, rows: str, caption: str = "") -> str:
    """A table that scrolls sideways by itself where the screen is narrow."""
    said = f"<caption>{caption}</caption>" if caption else ""
    head, rows = f"<thead><tr>{head}</tr></thead>", f"<tbody>{rows}</tbody>"
    return f'<div class="scroll"><table>{said}{head}{rows}</table></div>'


def _list(facts: Mapping[str, str]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items()) + "</dl>"


def _page(title: str, body: str, *, css: str = "") -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_CSS}{css}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )
