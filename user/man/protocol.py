# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
A manual page from PROTOCOL.md. Of Markdown it knows headings, paragraphs, lists,
tables and indented code. A table becomes a list: its rows are too wide for a terminal.
"""
import re

from mdoc import escape, filled, fonts, literal

BULLET = re.compile(r"(-|\d+\.) +(.*)")


def chunks(lines):
    """Runs of lines between blank ones."""
    chunk = []
    for line in [*lines, ""]:
        if line.strip():
            chunk.append(line)
        elif chunk:
            yield chunk
            chunk = []


def items(chunk):
    """(mark, text) of each item of a list."""
    found = []
    for line in chunk:
        match = BULLET.match(line)
        if match:
            found.append([match[1], match[2]])
        else:
            found[-1][1] += " " + line.strip()
    return found


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def table(page, chunk, heads):
    """Returns the heads: a table without a line of dashes goes on with the last."""
    rows = [cells(row) for row in chunk]
    if len(rows) > 1 and set("".join(rows[1])) <= set("- :"):
        heads, rows = rows[0], rows[2:]
    page.add(".Bl -tag -width Ds")
    for first, *rest in rows:
        page.add(".It " + fonts(escape(first)))
        named = [(head, cell) for head, cell in zip(heads[1:], rest)
                 if cell not in ("", "–")]
        if len(heads) == 2:
            page.add(*filled(" ".join(cell for _, cell in named)))
        else:
            page.add(*filled("; ".join(
                f"{head}: {cell}" if head else cell for head, cell in named)))
    page.add(".El")
    return heads


def render(page, text):
    heads = []
    for chunk in chunks(text.split("\n")):
        first = chunk[0]
        if first.startswith("# "):
            page.add(".Sh DESCRIPTION")
            chunk = chunk[1:]
        elif first.startswith("## "):
            page.add(".Sh " + first[3:].upper())
            chunk = chunk[1:]
        elif first.startswith("### "):
            page.add(".Ss " + first[4:])
            chunk = chunk[1:]
        if not chunk:
            continue
        if first.startswith("    "):
            page.add(*literal([line[4:] for line in chunk]))
        elif first.startswith("|"):
            heads = table(page, chunk, heads)
        elif BULLET.match(first):
            found = items(chunk)
            page.add(".Bl -enum" if found[0][0][0].isdigit() else ".Bl -bullet")
            for _, words in found:
                page.add(".It", *filled(words))
            page.add(".El")
        else:
            page.paragraph(filled(" ".join(chunk)))
