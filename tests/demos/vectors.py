"""`make demo-vectors`: the standard library's docstrings and this repository's docs indexed by one command, searched with the
`openai` client and curl, re-indexed to another model while searches run, and watched for known texts.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import msgspec
from openai import AsyncOpenAI
from tests.demos.show import Show
from tests.demos.vector_corpus import GOOD, KNOWN_BAD, disguised, docstrings, sections
from tests.running_platform import ROOT, RunningPlatform

from inferbus.cli.progress import Progress
from inferbus.testing import eventually

SEARCHERS = 4
PATIENCE_S = 900.0
VARIANTS = 20
HITS_S = 60.0


class Models(NamedTuple):
    """Which models show it, and from which score on something is a known text."""

    first: str
    second: str
    options: tuple[str, ...]
    threshold: float
    question: str
    answer: str
    about_batches: str


REAL = Models(
    "all-minilm-l6-v2", "inferbus-tiny-embed", ("--embed", "--embed-model", "inferbus-tiny"), 0.75,
    "how do I turn a string of JSON into Python objects?", "json", "when does a batch rest? what are its quiet hours?",
)  # fmt: skip
WORDS = Models(
    "simulator-embed", "simulator-embed-2", ("--simulator", "--embed"), 0.75,
    "deserialize a JSON document to a Python object", "json", (ROOT / "docs/batch.md").read_text()[100:900],
)  # fmt: skip


class Searches:
    """Searches that go on and on, and what became of them."""

    def __init__(self) -> None:
        self.done = 0
        self.failed: list[str] = []
        self.models: list[str] = []
        self.slowest_s = 0.0

    @asynccontextmanager
    async def running(self, http: httpx.AsyncClient, name: str, texts: list[str]) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._search(http, name, texts[n:])) for n in range(SEARCHERS)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _search(self, http: httpx.AsyncClient, name: str, texts: list[str]) -> None:
        for text in itertools.cycle(texts):
            began = time.monotonic()
            try:
                answer = await http.post(f"/v1/vectors/{name}/search", json={"text": text, "limit": 3})
            except httpx.HTTPError as exc:
                self.failed.append(repr(exc))
                continue
            self.slowest_s = max(self.slowest_s, time.monotonic() - began)
            self.done += 1
            if answer.status_code != 200 or not answer.json()["data"]:
                self.failed.append(answer.text[:200])
                continue
            if not self.models or self.models[-1] != answer.json()["model"]:
                self.models.append(answer.json()["model"])


def index(show: Show, platform: RunningPlatform, models: Models, folder: Path, most: int) -> list[dict[str, str]]:
    rows = [*itertools.islice(docstrings(), most), *sections(ROOT)]
    source = folder / "library.jsonl"
    source.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    command = f"inferbus vectors index library {source.name} --model {models.first} --hybrid"
    show.section(
        "One command", f"{len(rows)} docstrings and sections of docs, {source.stat().st_size // 1024} KiB: {command}"
    )
    done = typed(platform, "index", "library", str(source), "--model", models.first, "--hybrid")
    show.say((done.stdout + done.stderr).strip())
    show.claim(
        "all of them are indexed", done.returncode == 0 and f"{len(rows)} of {len(rows)} documents" in done.stdout
    )
    again = typed(platform, "index", "library", str(source))
    stats: dict[str, Any] = json.loads(platform.command("vectors", "stats", "library", "--json").stdout)
    show.claim(
        f"indexed again, each is there once: {stats['documents']} documents, {stats['chunks']} chunks",
        again.returncode == 0 and stats["documents"] == len(rows),
    )
    return rows


async def search(show: Show, platform: RunningPlatform, models: Models) -> None:
    body = json.dumps({"text": models.question, "limit": 3, "with_payload": False})
    curl = ["curl", "-s", f"{platform.url}/v1/vectors/library/search", "-H", f"Authorization: Bearer {platform.key}",
            "-H", "Content-Type: application/json", "-d", body]  # fmt: skip
    show.section("Searched with curl", shlex.join(curl).replace(platform.key, "$KEY"))
    done = await asyncio.to_thread(subprocess.run, curl, capture_output=True, check=True)
    found = json.loads(done.stdout)
    for hit in found["data"]:
        show.say(f"{hit['score']:.3f}  {hit['id']}: {' '.join(hit['text'].split())[:90]}")
    show.claim(
        f"{models.question!r} finds {models.answer} ({found['took_ms']:.0f} ms)",
        any(hit["id"].startswith(models.answer) for hit in found["data"]),
    )


async def store(show: Show, client: AsyncOpenAI, models: Models) -> None:
    """A model is asked a question; words are only found again."""
    show.section(
        "Searched with openai's client", "files.create, vector_stores.create, file_batches, search; nothing of ours"
    )
    names = ["operations.md", "batch.md", "errors.md"]
    files = [
        await client.files.create(file=(name, (ROOT / "docs" / name).read_bytes()), purpose="assistants")
        for name in names
    ]
    held = await client.vector_stores.create(name="docs", extra_body={"model": models.first})
    batch = await client.vector_stores.file_batches.create_and_poll(
        held.id, file_ids=[file.id for file in files], poll_interval_ms=200
    )
    show.claim(
        f"{batch.file_counts.completed} of {batch.file_counts.total} files are in the store, {batch.status}",
        batch.file_counts.completed == len(names),
    )
    page = await client.vector_stores.search(held.id, query=models.about_batches, max_num_results=3)
    for hit in page.data:
        show.say(f"{hit.score:.3f}  {hit.filename}: {' '.join(hit.content[0].text.split())[:90]}")
    show.claim(
        f"{models.about_batches[:60]!r} is answered from batch.md", "batch.md" in [hit.filename for hit in page.data]
    )


async def reindex(
    show: Show, platform: RunningPlatform, http: httpx.AsyncClient, models: Models, rows: list[dict[str, str]]
) -> None:
    command = f"inferbus vectors reindex library --model {models.second}"
    show.section("Re-indexed while it is searched", f"{SEARCHERS} clients search without a pause: {command}")
    searches = Searches()
    texts = [row["text"][:60] for row in rows[:200]]
    async with searches.running(http, "library", texts):
        await eventually(lambda: searches.done > SEARCHERS, within_s=60)
        done = await asyncio.to_thread(typed, platform, "reindex", "library", "--model", models.second)
        before = searches.done
        await eventually(lambda: searches.done > before + SEARCHERS, within_s=60)
    show.say((done.stdout + done.stderr).strip())
    show.claim("it ended well", done.returncode == 0)
    show.claim(f"{searches.done} searches ran meanwhile, {len(searches.failed)} failed; the slowest took"
               f" {searches.slowest_s:.2f} s", not searches.failed)  # fmt: skip
    for line in searches.failed[:3]:
        show.say(line)
    show.claim(f"answers came from {' and then '.join(searches.models[:3])}", models.second in searches.models)
    stats = json.loads(platform.command("vectors", "stats", "library", "--json").stdout)
    show.claim(f"nothing is lost: {stats['documents']} documents", stats["documents"] == len(rows))


def typed(platform: RunningPlatform, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `inferbus vectors <arguments>`, which may take as long as its embeddings do."""
    argv = [sys.executable, "-m", "inferbus.cli.main", "vectors", *arguments]
    return subprocess.run(
        argv, cwd=ROOT, env=platform.env, check=False, capture_output=True, text=True, timeout=PATIENCE_S
    )


async def watch(show: Show, platform: RunningPlatform, http: httpx.AsyncClient, models: Models) -> None:
    show.section(
        "A watchlist",
        f"{len(KNOWN_BAD)} known texts, threshold {models.threshold}; {VARIANTS} disguises of each and as many harmless"
        " texts are indexed as posts",
    )
    (await http.post("/v1/vectors/collections", json={"name": "posts", "model": models.first})).raise_for_status()
    wanted = {"name": "scams", "threshold": models.threshold, "model": models.first, "watched": ["posts"]}
    (await http.post("/v1/vectors/watchlists", json=wanted)).raise_for_status()
    await _indexed(http, "scams", {f"known-{n}": text for n, text in enumerate(KNOWN_BAD)})

    async def is_watched() -> bool:
        await _indexed(http, "posts", {"probe": KNOWN_BAD[0]})
        return bool(await _hits(http))

    await eventually(is_watched, within_s=HITS_S)
    bad = {f"bad-{n}-{v}": disguised(text, 100 * n + v) for n, text in enumerate(KNOWN_BAD) for v in range(VARIANTS)}
    good = {f"good-{n}-{v}": disguised(text, 100 * n + v) for n, text in enumerate(GOOD) for v in range(VARIANTS)}
    await _indexed(http, "posts", bad | good)
    hits = [hit for hit in await _hits(http) if hit["document"] != "probe"]
    best = max(hits, key=lambda hit: hit["score"], default=None)
    if best is not None:
        show.say(f"evidence of one: {best['document']} is as {best['item']}, score {best['score']:.3f}\n"
                 f"  said   {best['excerpt']}\n  known  {best['item_excerpt']}")  # fmt: skip
    flagged = {hit["document"] for hit in hits}
    right = len(flagged & bad.keys())
    precision, recall = right / max(1, len(flagged)), right / len(bad)
    show.table(["posts", "disguised", "flagged", "rightly", "precision", "recall"],
               [[str(len(bad | good)), str(len(bad)), str(len(flagged)), str(right), f"{precision:.3f}", f"{recall:.3f}"]])  # fmt: skip
    show.claim(f"precision {precision:.3f} is at least 0.95", precision >= 0.95)
    show.claim(f"recall {recall:.3f} is at least 0.8", recall >= 0.8)
    said = typed(platform, "watch", "match", "scams", KNOWN_BAD[1])
    show.claim("a text that is only shown is matched too: inferbus vectors watch match scams ...", said.returncode == 3)


async def letters(show: Show, platform: RunningPlatform, http: httpx.AsyncClient) -> None:
    show.section("What cannot be indexed", "one good document, one without text, one whose vector is too short")
    documents = [{"id": "fine", "text": "a good text"}, {"id": "empty", "text": ""}, {"id": "short", "vector": [0.5]}]
    answer = await http.post("/v1/vectors/posts/documents", json={"documents": documents, "wait_s": 30})
    told = answer.json()
    for fault in told["faults"]:
        show.say(f"documents[{fault['n']}] ({fault['id']}): {fault['message']}")
    show.claim(
        "the good one is indexed, the others are told by their fields", (told["indexed"], len(told["faults"])) == (1, 2)
    )
    said = platform.command("vectors", "dead-letters", "list", "posts").stdout
    show.claim("both are dead letters: inferbus vectors dead-letters list posts", "empty" in said and "short" in said)


async def _indexed(http: httpx.AsyncClient, name: str, texts: dict[str, str]) -> None:
    documents = [{"id": id_, "text": text} for id_, text in texts.items()]
    answer = await http.post(f"/v1/vectors/{name}/documents", json={"documents": documents, "wait_s": 60})
    answer.raise_for_status()


async def _hits(http: httpx.AsyncClient) -> list[dict[str, Any]]:
    answer = await http.get("/v1/vectors/watchlists/scams/hits", params={"limit": 1000})
    found: list[dict[str, Any]] = answer.raise_for_status().json()["data"]
    return found


async def act(show: Show, platform: RunningPlatform, models: Models, folder: Path, most: int) -> None:
    rows = await asyncio.to_thread(index, show, platform, models, folder, most)
    headers = {"authorization": f"Bearer {platform.key}"}
    async with (
        httpx.AsyncClient(base_url=platform.url, headers=headers, timeout=120) as http,
        platform.async_openai(timeout=120) as client,
    ):
        await search(show, platform, models)
        await store(show, client, models)
        await watch(show, platform, http, models)
        await letters(show, platform, http)
        await reindex(show, platform, http, models, rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulator", action="store_true", help="vectors of the words alone: quick, and no model")
    parser.add_argument("--documents", type=int, default=1500, help="at most so many docstrings")
    args = parser.parse_args()
    show, models = Show(), WORDS if args.simulator else REAL
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as name:
        folder = Path(name)
        platform = RunningPlatform(folder / "home", "--vectors", *models.options)
        try:
            show.section("Start", f"inferbus up --vectors {' '.join(models.options)}")
            began = time.monotonic()
            platform.start()
            with Progress(show.console) as progress:
                platform.until_ready(progress.show)
            show.say(f"ready after {time.monotonic() - began:.0f} s at {platform.url}")
            processes = platform.processes()
            asyncio.run(act(show, platform, models, folder, args.documents))
        finally:
            platform.stop()
        show.section("Stop", "Ctrl-C")
        show.claim("nothing is left running", not [process for process in processes if process.alive()])
    return show.end()


if __name__ == "__main__":
    sys.exit(main())
