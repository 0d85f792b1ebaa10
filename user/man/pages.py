#!/usr/bin/python3 -B
# SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
#
# user/man/pages.py DATE DIRECTORY: writes the manual pages that are made of other
# files: of the headers' comments those of the library, of PROTOCOL.md
# sluice_protocol(7). Both are where these facts are kept.
import os
import re
import sys

import header
import protocol
from mdoc import Page

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
INCLUDE = os.path.join(TREE, "include")

# The sections of sluice.h; any other header is one page, named after it.
SECTIONS = {
    "Pools": ("sluice_pool", "memory of outgoing messages"),
    "Connections": ("sluice_conn", "listen, connect, close, and what lane it is"),
    "Sending": ("sluice_send", "send messages, copied or in place"),
    "Receiving": ("sluice_recv", "receive messages and give them back"),
    "Waiting": ("sluice_wait", "wait for one connection"),
    "Wait set: thousands of conns, one call": (
        "sluice_set", "wait for many connections"),
}
INTERNAL = ("hot.h",)  # inlines; their declarations are in sluice.h
LAYOUTS = ("uapi.h", "control.h")  # of the protocol; no functions


class Error(Exception):
    pass


def main_page(date, intro, internal):
    page = Page(date, "libsluice", 3, ["libsluice", "sluice_version"],
                "messages between processes of one host through shared memory",
                "include/sluice/sluice.h")
    page.add(".Sh LIBRARY", "libsluice",
             ".Pq Fl lsluice , Ql pkg-config --cflags --libs libsluice")
    functions = intro.functions()
    header.synopsis(page, "sluice/sluice.h", functions)
    page.add(".Sh DESCRIPTION")
    header.describe(page, intro)
    page.add(".Ss Called by inline functions only",
             "These are exported for the header's inlines, and part of the ABI;",
             "programs do not call them:")
    names = sorted(name for _, name, _ in internal)
    page.add(*[f".Fn {name}{' ,' if name != names[-1] else ' .'}"
               for name in names])
    return page


def section_page(date, name, about, source, sections):
    """A page of one or more sections of a header."""
    functions = [each for section in sections for each in section.functions()]
    names = [each[1] for each in functions]
    if name not in names:
        names.insert(0, name)
    page = Page(date, name, 3, names, about, f"include/{source}")
    header.synopsis(page, "sluice/sluice.h" if source != "sluice/uring.h" else source,
                    functions)
    page.add(".Sh DESCRIPTION", "What is common to all calls is said in", ".Xr libsluice 3 .")
    for section in sections:
        if section.title and len(sections) > 1:
            page.add(f".Sh {section.title.upper()}")
        header.describe(page, section)
    return page


def library_pages(date):
    directory = os.path.join(INCLUDE, "sluice")
    intro, *sections = header.read(os.path.join(directory, "sluice.h"))
    internal = [each for name in INTERNAL
                for section in header.read(os.path.join(directory, name))
                for item in section.items if "SLUICE_API" in "".join(item.code)
                for each in item.functions() if "{" not in each[0]]
    public = {each[1] for section in sections for each in section.functions()}
    yield main_page(date, intro, [each for each in internal
                                  if each[1] not in public])
    for section in sections:
        if section.title not in SECTIONS:
            raise Error(f"sluice.h has a section \"{section.title}\" that "
                        "user/man/pages.py has no page for")
        name, about = SECTIONS[section.title]
        yield section_page(date, name, about, "sluice/sluice.h", [section])
    for file in sorted(os.listdir(directory)):
        if file in ("sluice.h", *INTERNAL, *LAYOUTS):
            continue
        sections = header.read(os.path.join(directory, file))
        about = re.split(r"[.:]$|[.:]\s", sections[0].items[0].comment[0])
        yield section_page(date, "sluice_" + file[:-2],
                           " ".join(about[:2]).strip().lower(),
                           "sluice/" + file, sections)


def protocol_page(date):
    page = Page(date, "sluice_protocol", 7, ["sluice_protocol"],
                "what two processes do to exchange messages through shared memory",
                "include/PROTOCOL.md")
    with open(os.path.join(INCLUDE, "PROTOCOL.md"), encoding="utf-8") as file:
        protocol.render(page, file.read())
    return page


def main(date, directory):
    library = list(library_pages(date))
    files = [page.file for page in library]
    for page in library:
        page.see_also([*files, "sluice.7"])
    last = protocol_page(date)
    last.see_also(["libsluice.3", "sluice.7", "sluiced.8"])
    for page in [*library, last]:
        page.write(directory)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (Error, OSError) as error:
        sys.exit(f"user/man/pages.py: {error}")
