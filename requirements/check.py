"""Check requirements/: every pin is hashed and answers its .in file, and no file names an address.

Run by `make check-lock`. Prints each fault as `file:line: what` and exits 1 if there is one.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).parent
PIN = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(\[[^]]*\])?==(?P<version>[^\s;]+)")
VIA = re.compile(r"#\s+(?:via )?-r requirements/\S+\.in$")
ADDRESSES = ("://", "file:", "--index-url", "--extra-index-url", "--find-links", " @ ")


def wanted(source: Path) -> dict[str, Requirement]:
    """Read an .in file, and those it includes: canonical name -> requirement."""
    found: dict[str, Requirement] = {}
    for line in source.read_text().splitlines():
        text = line.split("#")[0].strip()
        if text.startswith("-r "):
            found |= wanted(source.with_name(text.removeprefix("-r ")))
        elif text:
            requirement = Requirement(text)
            found[canonicalize_name(requirement.name)] = requirement
    return found


class Pin:
    """One pinned package as the .txt file has it: where, which version, how many hashes, asked for by whom."""

    def __init__(self, line: int, name: str, version: str) -> None:
        self.line, self.name, self.version = line, name, version
        self.hashes = 0
        self.direct = False


def pinned(pins: Path) -> list[Pin]:
    """Read a compiled .txt file. One package may stand there several times, for several platforms."""
    found: list[Pin] = []
    for number, line in enumerate(pins.read_text().splitlines(), start=1):
        if match := PIN.match(line):
            found.append(Pin(number, canonicalize_name(match["name"]), match["version"]))
        elif line.strip().startswith("--hash=sha256:") and found:
            found[-1].hashes += 1
        elif VIA.search(line) and found:
            found[-1].direct = True
        elif line.strip() and not line.strip().startswith("#"):
            found.append(Pin(number, f"unreadable: {line.strip()}", ""))
    return found


def faults_of(source: Path) -> list[str]:
    """Compare an .in file with its .txt file."""
    target = source.with_suffix(".txt")
    if not target.exists():
        return [f"{target.name}: missing; run `make lock`"]
    asked, pins = wanted(source), pinned(target)
    faults = [f"{target.name}:{pin.line}: {pin.name} has no hash" for pin in pins if not pin.hashes]
    faults += [
        f"{target.name}:{pin.line}: {pin.name} is no longer in {source.name}; run `make lock`"
        for pin in pins
        if pin.direct and pin.name not in asked
    ]
    for name, requirement in asked.items():
        versions = [pin.version for pin in pins if pin.name == name and pin.direct]
        if not versions:
            faults.append(f"{target.name}: {name} of {source.name} is not pinned; run `make lock`")
        faults += [
            f"{target.name}: {name}=={version} is not {requirement}; run `make lock`"
            for version in versions
            if not requirement.specifier.contains(version, prereleases=True)
        ]
    return faults


def addresses_in(file: Path) -> list[str]:
    return [
        f"{file.name}:{number}: names an address"
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if any(mark in line for mark in ADDRESSES)
    ]


def main(folder: Path = HERE) -> int:
    sources = sorted(folder.glob("*.in"))
    faults = [fault for source in sources for fault in faults_of(source)]
    for file in sorted([*sources, *folder.glob("*.txt"), *folder.glob("*.overrides")]):
        faults += addresses_in(file)
    faults += [
        f"{file.name}: no .in file" for file in sorted(folder.glob("*.txt")) if not file.with_suffix(".in").exists()
    ]
    for fault in faults:
        print(fault)
    return 1 if faults or not sources else 0


if __name__ == "__main__":
    sys.exit(main())
