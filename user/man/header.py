# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""
Manual pages from the comments of a public header. What it takes a header to be:
a comment at its top; sections, if it has any, that begin with a comment of one line
which ends in dashes; in them, comments before declarations, with no blank line
between a comment and what it is about.
"""
import re

from mdoc import argument, escape, filled, literal

GUARD = re.compile(r"#\s*(ifndef|include|ifdef|if|endif|else|undef)\b|"
                   r"#\s*define \w+_H$|extern \"C\"|}$|struct \w+;$|"
                   r"#\s*define (SLUICE_API|SLUICE_INLINE)\b")
TITLE = re.compile(r"/\* (.*?) -{3,} \*/$")
FUNCTION = re.compile(r"(?:SLUICE_API|SLUICE_INLINE)\s+([^;{=]*?)"
                      r"(sluice_[a-z0-9_]+)\(([^)]*)\)", re.S)


class Item:
    """A comment, and the declarations behind it; one of them may be empty."""

    def __init__(self):
        self.comment = []
        self.code = []

    def functions(self):
        """(type, name, [argument]) of each."""
        return [(" ".join(kind.split()), name,
                 [" ".join(each.split()) for each in arguments.split(",")])
                for kind, name, arguments
                in FUNCTION.findall("\n".join(self.code))]


class Section:
    def __init__(self, title):
        self.title = title
        self.items = []

    def functions(self):
        return [each for item in self.items for each in item.functions()]


def comment_lines(text):
    """Of a comment: without its frame."""
    lines = text.strip()[2:-2].split("\n")
    lines = [re.sub(r"^ \* ?", "", line).rstrip() for line in lines]
    while lines and not lines[0].strip():
        lines.pop(0)
    while lines and not lines[-1].strip():
        lines.pop()
    return [lines[0].strip(), *lines[1:]] if lines else []


def read(path):
    """The sections of a header; the first has the comment at its top."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().split("\n")
    sections = [Section("")]
    item = None
    depth = 0
    at = 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if depth == 0 and line.startswith("/*"):
            while "*/" not in line:
                line += "\n" + lines[at]
                at += 1
            title = TITLE.match(line)
            if title:
                sections.append(Section(title[1]))
                item = None
            elif "SPDX" not in line:
                item = Item()
                item.comment = comment_lines(line)
                sections[-1].items.append(item)
        elif depth == 0 and not line.strip():
            item = None
        elif depth == 0 and GUARD.match(line):
            while line.endswith("\\"):
                line = lines[at]
                at += 1
        else:
            if not item:
                item = Item()
                sections[-1].items.append(item)
            item.code.append(line)
            depth += line.count("{") - line.count("}")
    return sections


# Comments as text ------------------------------------------------------------

TERM = re.compile(r"(\s+)(\S+(?: \S+)?) {2,}(\S.*)$")
BULLET = re.compile(r"(\s+)(-|\d+\.) (\S.*)$")


def indent(line):
    return len(line) - len(line.lstrip())


def blocks(lines):
    """(kind, first line's parts, lines): text, term, bullet, enum or code."""
    found = []
    code = False
    for line in lines:
        text = line.strip()
        bullet, term = BULLET.match(line), TERM.match(line)
        if not text and code:
            code[2].append("")
            continue
        if not text:
            found.append(None)
            continue
        last = found[-1] if found else None
        if line.startswith("\t"):  # code, blank lines in it included
            if not code:
                found.append(("code", "", []))
            code = next(each for each in reversed(found) if each)
            code[2].append(line[1:])
            continue
        code = False
        if bullet:
            found.append(("enum" if bullet[2][0].isdigit() else "bullet", "",
                          [bullet[3]]))
        elif last and last[0] in ("bullet", "enum", "term") and indent(line):
            if last[0] == "term" and term and indent(line) <= 4:
                found.append(("term", term[2], [term[3]]))
            else:
                last[2].append(text)
        elif term:
            found.append(("term", term[2], [term[3]]))
        elif last and last[0] == "text":
            last[2].append(text)
        else:
            found.append(("text", "", [text]))
    return found


LISTS = {"bullet": ".Bl -bullet", "enum": ".Bl -enum", "term": ".Bl -tag -width Ds"}


def render(page, lines):
    """Puts a comment into a page."""
    kind = None
    for block in [each for each in blocks(lines) if each] + [("end", "", [])]:
        if kind in LISTS and block[0] != kind:
            page.add(".El")
        if block[0] in LISTS:
            if block[0] != kind:
                page.add(LISTS[block[0]])
            page.add(".It " + escape(block[1]) if block[1] else ".It")
            page.add(*filled(" ".join(block[2])))
        elif block[0] == "text":
            page.paragraph(filled(" ".join(block[2])))
        elif block[0] == "code":
            page.add(*literal("\n".join(block[2]).rstrip("\n").split("\n")))
        kind = block[0]


def synopsis(page, include, functions):
    page.add(".Sh SYNOPSIS", f".In {include}")
    for kind, name, arguments in functions:
        page.add(f".Ft {argument(kind)}", f".Fo {name}")
        page.add(*[f".Fa {argument(each)}" for each in arguments], ".Fc")


def describe(page, section):
    """Comments and declarations, in the header's order."""
    for item in section.items:
        functions = item.functions()
        if functions:
            page.add(".Ss " + ", ".join(name + "()" for _, name, _ in functions))
            render(page, item.comment)
        elif item.code:
            render(page, item.comment)
            page.add(*literal(item.code))
        else:
            render(page, item.comment)
