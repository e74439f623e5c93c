"""What `make demo-vectors` indexes: the standard library's docstrings and this repository's docs; and texts to watch for."""

from __future__ import annotations

import ast
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

MODULES = (
    "json/__init__.py", "json/decoder.py", "json/encoder.py", "statistics.py", "random.py", "shutil.py", "tempfile.py",
    "textwrap.py", "fractions.py", "bisect.py", "heapq.py", "csv.py", "calendar.py", "datetime.py", "difflib.py",
    "functools.py", "glob.py", "gzip.py", "html/parser.py", "http/client.py", "http/server.py", "imaplib.py",
    "inspect.py", "ipaddress.py", "logging/__init__.py", "mimetypes.py", "os.py", "pathlib.py", "pickle.py", "queue.py",
    "sched.py", "secrets.py", "smtplib.py", "socket.py", "socketserver.py", "sqlite3/dump.py", "ssl.py", "string.py",
    "subprocess.py", "tarfile.py", "threading.py", "timeit.py", "traceback.py", "unittest/mock.py", "urllib/parse.py",
    "urllib/request.py", "uuid.py", "wave.py", "weakref.py", "zipfile.py", "asyncio/tasks.py", "asyncio/queues.py",
    "collections/__init__.py", "email/message.py", "concurrent/futures/_base.py", "xml/dom/minidom.py",
)  # fmt: skip
_MIN_CHARS = 60
_FILLER = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "brew",
    "strong",
    "coffee",
    "for",
    "every",
    "guest",
    "at",
    "noon",
]


def docstrings() -> Iterator[dict[str, str]]:
    """Give the docstrings of the standard library, one row each."""
    root = Path(sysconfig.get_path("stdlib"))
    for name in MODULES:
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        tree = ast.parse((root / name).read_text(encoding="utf-8"))
        yield from _of(tree, module, module)


def _of(node: ast.AST, name: str, module: str) -> Iterator[dict[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node) or ""
        if len(text) >= _MIN_CHARS:
            yield {"id": name, "text": f"{name}: {text[:1500]}", "source": "stdlib", "module": module}
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            yield from _of(child, f"{name}.{child.name}", module)


def sections(root: Path) -> Iterator[dict[str, str]]:
    """Give this repository's docs, a row for each heading."""
    for path in sorted([root / "README.md", root / "ARCHITECTURE.md", *(root / "docs").glob("*.md")]):
        for n, part in enumerate(path.read_text().split("\n## ")):
            if len(part) >= _MIN_CHARS:
                name = str(path.relative_to(root))
                yield {"id": f"{name}#{n}", "text": part[:4000], "source": "docs", "module": name}


KNOWN_BAD = [
    "Send us your bank password today or your account will be closed for ever",
    "Buy cheap replica watches online, free shipping, limited offer, order now",
    "You have won one million dollars in our lottery, pay the small fee to claim your prize",
    "Work from home and earn five thousand a week, no experience needed, sign up here",
    "Your parcel could not be delivered, click the link and enter your card number",
    "Miracle pills make you lose ten kilos in a week, doctors hate this trick",
]
GOOD = [
    "Your bank statement for this month is ready in the archive of your account",
    "We repair mechanical watches; please order spare parts through your dealer",
    "The lottery is a game of chance, and its prizes are taxed in some countries",
    "Working from home needs a quiet room, a good chair and fixed hours",
    "The parcel was delivered to your neighbour this morning at nine",
    "The doctor advises against pills and recommends ten minutes of walking a day",
]


def disguised(text: str, seed: int) -> str:
    """Say something again a little otherwise: other case, a word or two more, one word left out."""
    draw = random.Random(seed)
    words = text.replace(",", "").split()
    words.pop(draw.randrange(len(words)))
    for _ in range(2):
        words.insert(draw.randrange(len(words)), draw.choice(_FILLER))
    said = " ".join(words)
    return said.upper() if draw.random() < 0.3 else said.lower()
