"""The text the model learns from: docstrings of the Python standard library that runs this script.

Owns finding and cutting the text. Knows nothing of tokens or training.
"""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MIN_DOCSTRING_CHARS = 40
MAX_ANSWER_CHARS = 360
# Tests, a bundled IDE and third-party packages are not documentation of the library.
SKIPPED_FOLDERS = frozenset({"site-packages", "test", "tests", "idlelib", "__pycache__"})
Documented = (ast.Module, ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Docstring:
    """One docstring and the name of what it documents."""

    name: str
    text: str

    @property
    def answer(self) -> str:
        """The first paragraphs, at most MAX_ANSWER_CHARS: short answers are what teach the model to stop."""
        kept = ""
        for paragraph in self.text.split("\n\n"):
            longer = f"{kept}\n\n{paragraph}" if kept else paragraph
            if len(longer) > MAX_ANSWER_CHARS:
                break
            kept = longer
        return kept or self.text[:MAX_ANSWER_CHARS].rsplit(" ", 1)[0]


def docstrings() -> list[Docstring]:
    """Return every distinct docstring of the standard library, in a fixed order."""
    found: dict[str, Docstring] = {}
    for path in _source_files(Path(sysconfig.get_paths()["stdlib"])):
        for one in _docstrings_of(path):
            found.setdefault(one.text, one)
    return list(found.values())


def _source_files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*.py") if SKIPPED_FOLDERS.isdisjoint(p.relative_to(root).parts))


def _docstrings_of(path: Path) -> Iterator[Docstring]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old escapes in library sources are not our concern
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return  # templates and deliberately broken files
    for node in ast.walk(tree):
        if isinstance(node, Documented):
            text = ast.get_docstring(node)
            if text and len(text) > MIN_DOCSTRING_CHARS:
                yield Docstring(name=getattr(node, "name", path.stem), text=text)
