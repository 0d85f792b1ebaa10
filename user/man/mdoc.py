# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
"""Writing manual pages in mdoc(7)."""
import datetime
import re
import textwrap


def escape(text):
    """Text as a text line has it."""
    text = text.replace("\\", "\\e")
    text = re.sub(r"(?<![\w-])-(?=[\dA-Z_])", r"\\-", text)  # -EAGAIN, -1
    return "\\&" + text if text[:1] in (".", "'") else text


def argument(text):
    """Text as one argument of a macro."""
    return '"' + text.replace("\\", "\\e").replace('"', "\\(dq") + '"'


def fonts(text):
    """`code`, **strong** and *stressed*, after escape(); what is not ASCII."""
    text = re.sub(r"`([^`]+)`", r"\\fB\1\\fR", text)
    text = re.sub(r"\*\*([^*]+)\*\*", r"\\fB\1\\fR", text)
    text = re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])", r"\\fI\1\\fR", text)
    return "".join(each if ord(each) < 128 else f"\\[u{ord(each):04X}]"
                   for each in text)


SENTENCE = re.compile(r"(?<=[^.\s][.!?]) +|(?<=[^.\s][.!?]\)) +")
CALL = re.compile(r"(\(*)(\w+)\(\)([.,;:)]*)$")


def wrapped(words):
    lines = textwrap.wrap(" ".join(words), 78, break_long_words=False,
                          break_on_hyphens=False)
    return ["\\&" + line if line[0] in ".'" else line for line in lines]


def filled(text):
    """Lines of a paragraph: a sentence begins one, and function() is a macro."""
    lines = []
    for sentence in SENTENCE.split(fonts(escape(" ".join(text.split())))):
        words = []
        for word in sentence.split():
            call = CALL.match(word)
            if not call:
                words.append(word)
                continue
            lines += wrapped(words)
            words = []
            begin = f".No \\&{call[1]} Ns Fn" if call[1] else ".Fn"
            lines.append(" ".join([begin, call[2], *call[3]]))
        lines += wrapped(words)
    return lines


def literal(lines):
    return ([".Bd -literal"] +
            [escape(line.expandtabs(8)) for line in lines] + [".Ed"])


class Page:
    def __init__(self, date, name, section, names, about, source):
        day = datetime.date.fromisoformat(date)
        self.file = f"{name}.{section}"
        self.lines = [
            '.\\" SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause',
            f'.\\" Made from {source}.',
            f".Dd {day:%B} {day.day}, {day.year}",
            f".Dt {name.upper()} {section}", ".Os", ".Sh NAME"]
        self.lines += [f".Nm {each} ," for each in names[:-1]]
        self.lines += [f".Nm {names[-1]}", f".Nd {about}"]

    def add(self, *lines):
        self.lines += lines

    def paragraph(self, lines):
        """Puts a .Pp before them, unless a heading does that already."""
        if not self.lines[-1].startswith((".Sh", ".Ss")):
            self.lines.append(".Pp")
        self.lines += lines

    def see_also(self, pages):
        self.add(".Sh SEE ALSO")
        pages = sorted(set(pages) - {self.file},
                       key=lambda page: (page[-1], page))
        for page in pages:
            name, section = page.rsplit(".", 1)
            end = "" if page == pages[-1] else " ,"
            self.add(f".Xr {name} {section}{end}")

    def write(self, directory):
        with open(f"{directory}/{self.file}", "w", encoding="utf-8") as file:
            file.write("\n".join(self.lines) + "\n")
