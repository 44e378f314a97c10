"""debian/copyright, from the libraries that are bundled: `licences.py SITE-PACKAGES`, with their licences still there.

Machine-readable (DEP-5): a paragraph for each library, with the full text of every licence file it came with. What is
linked into a compiled module and comes without a text of its own is named by hand, in `INSIDE`.
"""

from __future__ import annotations

import re
import sys
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path
from typing import Final

INSIDE: Final = {
    "cryptography": "OpenSSL (Apache-2.0) and Rust crates (pyo3, asn1, and others: Apache-2.0 or MIT or BSD-3-Clause)",
    "bcrypt": "Rust crates (pyo3, bcrypt-pbkdf, and others: Apache-2.0 or MIT)",
    "pydantic_core": "Rust crates (pyo3, jiter, regex, and others: Apache-2.0 or MIT)",
    "uvloop": "libuv (MIT, copyright 2015-present libuv project contributors)",
    "cffi": "libffi (MIT, copyright 1996-2024 Anthony Green, Red Hat, Inc and others)",
    "pyzmq": "libzmq (MPL-2.0) and libsodium (ISC), whose texts follow",
    "PyNaCl": "libsodium (ISC), whose text follows",
}
"""Library → what its compiled modules contain, as its project says."""

COMMON: Final = {
    "Apache License Version 2.0, January 2004": "Apache-2.0",
    "GNU LESSER GENERAL PUBLIC LICENSE Version 2.1, February 1999": "LGPL-2.1",
}
"""What a text begins with → its name in /usr/share/common-licenses: Debian wants those named, not repeated."""

_SITE: Final = "usr/lib/ztunnel/lib/python3*/site-packages"
_NOTICE: Final = re.compile(r"^\W*((?:copyright|\(c\)|©).*(?:\d{4}|©).*)$", re.IGNORECASE)


def main() -> None:
    site = Path(sys.argv[1])
    ours = Path("LICENSE").read_text()
    paragraphs = [
        "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
        "Upstream-Name: ztunnel\n"
        "Comment:\n"
        + indented(
            "ztunnel itself is under the first licence below. The libraries that the package bundles, each under its\n"
            "own, follow. Their texts are those that the libraries came with."
        ),
        paragraph("*", ours, "MIT", ours, ""),
    ]
    bundled = sorted(site.glob("*.dist-info"), key=lambda path: path.name.lower())
    for info in bundled:
        if not info.name.startswith("ztunnel-"):
            paragraphs.append(of_library(info))
    if len(bundled) < 10:
        sys.exit(f"licences: only {len(bundled)} libraries in {site}: that cannot be all")
    print("\n\n".join(paragraphs))


def of_library(info: Path) -> str:
    """The paragraph of one library. SystemExit where it came without any licence's text."""
    metadata = HeaderParser().parsestr((info / "METADATA").read_text())
    name = metadata["Name"]
    texts = [
        path for path in sorted(info.rglob("*")) if path.is_file() and re.search("LICEN|COPYING|NOTICE", path.name)
    ]
    if not texts:
        sys.exit(f"licences: {name} came without the text of its licence: say in packaging/licences.py what it is")
    whole = "\n\n".join(f"[{path.name}]\n\n{text_of(path)}" for path in texts)
    return paragraph(files(info), whole, f"{name}-{licence(metadata)}", whole, INSIDE.get(name, ""), metadata)


def text_of(path: Path) -> str:
    """A licence's text; of those that Debian has on every box, where to find it."""
    text = path.read_text(errors="replace").strip()
    for mark, name in COMMON.items():
        if mark in " ".join(text.split())[:500]:  # behind a notice of who owns it, perhaps
            return f"On Debian systems the whole text of this licence is in /usr/share/common-licenses/{name}."
    return text


def files(info: Path) -> str:
    """The paths that a library owns, from its RECORD: its top folders and files."""
    tops = {line.split(",")[0].split("/")[0] for line in (info / "RECORD").read_text().splitlines()}
    return "\n ".join(f"{_SITE}/{top}{'' if '.' in top else '/*'}" for top in sorted(tops - {"..", "__pycache__"}))


def licence(metadata: Message) -> str:
    said = metadata["License-Expression"] or metadata["License"] or "licence"
    return re.sub(r"[^A-Za-z0-9.+]+", "-", said.splitlines()[0]).strip("-")[:40]


def paragraph(where: str, notices: str, short: str, text: str, inside: str, metadata: Message | None = None) -> str:
    found = list(dict.fromkeys(m[1].strip() for line in notices.splitlines() if (m := _NOTICE.match(line))))
    if not found and metadata is not None:
        found = [metadata["Author"] or metadata["Author-email"] or f"the authors of {metadata['Name']}"]
    lines = [f"Files: {where}", "Copyright: " + "\n ".join(found)]
    if inside:
        lines.append(f"Comment: Compiled in: {inside}.")
    return "\n".join([*lines, f"License: {short}", indented(text.strip())])


def indented(text: str) -> str:
    return "\n".join(f" {line.rstrip()}" if line.strip() else " ." for line in text.splitlines())


main()
