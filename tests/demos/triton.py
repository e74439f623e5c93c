"""`make demo-triton`: classic models behind the bus, asked with NVIDIA's own client; a version rolled back and forth under
load; a model's process, Triton and a worker killed under load, and no durable request lost.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Self

import httpx
import msgspec
import numpy as np
import tritonclient.http as kserve
from tests.demos.show import Show
from tests.process_tree import descendants
from tests.running_platform import RunningPlatform
from tritonclient.utils import InferenceServerException

from inferbus.cli.progress import Progress
from inferbus.local.triton import POOL

WORKERS = ("triton-0", "triton-1")
CALLERS, CANDIDATES, FEATURES, LISTS = 8, 20, 32, 64
SENTENCES = [
    "Open a zip archive and extract all members to a directory",
    "Wait until the lock is released by another thread",
    "Return the median of data",
]
TIMEOUT_S = 120.0
RECOVER_S = 120.0
BETWEEN = 60
"""Answers between two kills."""


class Clients:
    """NVIDIA's HTTP client against the gateway: one for each thread, all with the development key."""

    def __init__(self, platform: RunningPlatform) -> None:
        self._address = platform.url.removeprefix("http://")
        self._key = platform.key

    @property
    def headers(self) -> dict[str, str]:
        """Give a request's headers, new ones each time: the client writes the length of its JSON into what it is given."""
        return {"Authorization": f"Bearer {self._key}"}

    def new(self) -> kserve.InferenceServerClient:
        return kserve.InferenceServerClient(self._address, connection_timeout=TIMEOUT_S, network_timeout=TIMEOUT_S)


class Lists:
    """Candidate lists, and what each version of the ranker says of them when nothing disturbs it."""

    def __init__(self, clients: Clients) -> None:
        draw = np.random.default_rng(11)
        self.rows = draw.normal(size=(LISTS, CANDIDATES, FEATURES)).astype(np.float32)
        client = clients.new()
        self.scores = {
            version: [ranked(client, rows, clients.headers, version)[1] for rows in self.rows] for version in ("1", "2")
        }
        client.close()


class Answers:
    """What the callers of one section got: which version said it, how long it took, what went wrong."""

    def __init__(self) -> None:
        self.versions: list[str] = []
        self.seconds: list[float] = []
        self.wrong: list[str] = []

    def __len__(self) -> int:
        return len(self.versions) + len(self.wrong)


class Load:
    """`CALLERS` threads that rank lists, one after the other, until the `with` ends."""

    def __init__(self, clients: Clients, lists: Lists, *, durable: bool) -> None:
        self.answers = Answers()
        self._clients, self._lists = clients, lists
        self._more = {"X-Inferbus-Durable": "true"} if durable else {}
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(n,)) for n in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def until(self, condition: Callable[[], bool], within_s: float) -> bool:
        """Wait for something while the callers go on; says whether it came true."""
        give_up = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > give_up:
                return False
            time.sleep(0.05)
        return True

    def until_more(self, count: int) -> bool:
        """Wait until so many further answers are there."""
        target = len(self.answers) + count
        return self.until(lambda: len(self.answers) >= target, RECOVER_S)

    def _call(self, number: int) -> None:
        client = self._clients.new()
        while not self._stop.is_set():
            index = number % LISTS
            number += CALLERS
            began = time.monotonic()
            try:
                version, scores = ranked(client, self._lists.rows[index], self._clients.headers | self._more)
            except (InferenceServerException, OSError) as exc:
                self.answers.wrong.append(str(exc))
                continue
            if np.array_equal(scores, self._lists.scores[version][index]):
                self.answers.versions.append(version)
                self.answers.seconds.append(time.monotonic() - began)
            else:
                self.answers.wrong.append(f"other scores by version {version}")
        client.close()


def tensor(name: str, values: np.ndarray, datatype: str, *, binary: bool = True) -> kserve.InferInput:
    one = kserve.InferInput(name, list(values.shape), datatype)
    one.set_data_from_numpy(values, binary_data=binary)
    return one


def texts(sentences: list[str]) -> kserve.InferInput:
    return tensor("TEXT", np.array([[one.encode()] for one in sentences], np.object_), "BYTES")


def ranked(
    client: kserve.InferenceServerClient, rows: np.ndarray, headers: dict[str, str], version: str = ""
) -> tuple[str, np.ndarray]:
    """Rank one list: which version did, and the scores."""
    answer = client.infer("ranker", [tensor("FEATURES", rows, "FP32")], model_version=version, headers=headers)
    return answer.get_response()["model_version"], answer.as_numpy("SCORE").ravel()


def one_client(show: Show, clients: Clients) -> None:
    show.section(
        "NVIDIA's client, unchanged", "tritonclient.http.InferenceServerClient(<the gateway>), with a key as header"
    )
    client = clients.new()
    show.claim("the server is live and ready", client.is_server_live() and client.is_server_ready())
    about = client.get_model_metadata("ranker", headers=clients.headers)
    show.say(f"ranker: versions {about['versions']}, {about['inputs'][0]}")
    show.claim(
        "the model says what it takes", about["inputs"][0]["datatype"] == "FP32" and about["versions"] == ["1", "2"]
    )
    rows = np.random.default_rng(3).normal(size=(CANDIDATES, FEATURES)).astype(np.float32)
    _, scores = ranked(client, rows, clients.headers)
    best = np.argsort(-scores)[:5]
    show.say(
        f"{CANDIDATES} candidates, one request; the best: {best.tolist()}, scores {np.round(scores[best], 3).tolist()}"
    )
    as_json = client.infer("ranker", [tensor("FEATURES", rows, "FP32", binary=False)], headers=clients.headers)
    show.claim("JSON and binary tensors say the same", np.array_equal(as_json.as_numpy("SCORE").ravel(), scores))
    client.close()


def two_more(show: Show, clients: Clients, platform: RunningPlatform) -> None:
    show.section(
        "An ensemble and embeddings", "topics: tokenizer -> network, one name; minilm-onnx also as /v1/embeddings"
    )
    client = clients.new()
    classes = kserve.InferRequestedOutput("PROBABILITIES", class_count=1)
    answer = client.infer("topics", [texts(SENTENCES)], outputs=[classes], headers=clients.headers)
    found = [row.decode().split(":") for row in answer.as_numpy("PROBABILITIES").ravel()]
    show.table(["sentence", "topic", "probability"], [[s, f[2], f[0]] for s, f in zip(SENTENCES, found, strict=True)])
    show.claim("each is about what it is about", [one[2] for one in found] == ["files", "concurrency", "numbers"])
    embedded = client.infer("minilm-onnx", [texts(SENTENCES)], headers=clients.headers).as_numpy("EMBEDDING")
    openai = platform.openai().embeddings.create(model="minilm-onnx", input=SENTENCES)
    by_openai = np.array([one.embedding for one in openai.data], np.float32)
    show.claim(
        "KServe and the OpenAI client get the same 384 numbers", bool(np.allclose(embedded, by_openai, atol=1e-6))
    )
    show.say(f"usage of the OpenAI call: {openai.usage.prompt_tokens} prompt tokens")
    client.close()


def streamed(show: Show, clients: Clients, platform: RunningPlatform) -> None:
    show.section("A model that streams", "POST /v2/models/words/generate_stream: decoupled in Triton, events on HTTP")
    body = {"text_input": "every word arrives by itself", "pause_ms": 50.0}
    url = f"{platform.url}/v2/models/words/generate_stream"
    began = time.monotonic()
    with httpx.stream("POST", url, json=body, headers=clients.headers, timeout=TIMEOUT_S) as response:
        arrived = [
            (time.monotonic() - began, msgspec.json.decode(line.removeprefix("data: "))["text_output"])
            for line in response.iter_lines()
            if line.startswith("data: {")
        ]
    show.table(["after", "word"], [[f"{1000 * after:.0f} ms", word] for after, word in arrived])
    show.claim("all words came, in order", " ".join(word for _, word in arrived) == body["text_input"])
    show.claim("one by one, not all at the end", len(arrived) > 1 and arrived[-1][0] - arrived[0][0] > 0.1)


def mistakes(show: Show, clients: Clients) -> None:
    show.section("Mistakes", "what is wrong, what was expected, what came")
    client = clients.new()
    wide = np.zeros((1, FEATURES + 1), np.float32)
    doubles = np.zeros((1, FEATURES))
    right = np.zeros((1, FEATURES), np.float32)
    cases: list[tuple[str, Callable[[], object], tuple[str, ...]]] = [
        ("33 features", lambda: ranked(client, wide, clients.headers), ("FEATURES", "32", "33")),
        (
            "FP64",
            lambda: client.infer("ranker", [tensor("FEATURES", doubles, "FP64")], headers=clients.headers),
            ("FEATURES", "FP32", "FP64"),
        ),
        (
            "another name",
            lambda: client.infer("ranker", [tensor("X", right, "FP32")], headers=clients.headers),
            ("X", "FEATURES"),
        ),
        ("300 rows", lambda: ranked(client, np.zeros((300, FEATURES), np.float32), clients.headers), ("256", "300")),
        ("version 9", lambda: ranked(client, right, clients.headers, "9"), ("9",)),
    ]
    for what, call, words in cases:
        try:
            call()
            said = "nothing was wrong"
        except InferenceServerException as exc:
            said = exc.message()
        show.claim(f"{what}: {said}", all(word in said for word in words))
    client.close()


def rolled_back(show: Show, platform: RunningPlatform, load: Load) -> None:
    show.section(
        "A version rolled back, and forth again, under load",
        f"{CALLERS} callers rank lists; `inferbus triton load ranker` with another version policy, on both workers",
    )
    with load:
        load.until_more(BETWEEN)
        switched: dict[str, float] = {}
        for policy, version in (({"specific": {"versions": [1]}}, "1"), ({"all": {}}, "2")):
            began = time.monotonic()
            load_ranker(platform, policy)
            load.until(lambda version=version: set(load.answers.versions[-2 * CALLERS :]) == {version}, RECOVER_S)  # type: ignore[misc]  # bound now
            switched[version] = time.monotonic() - began
            load.until_more(BETWEEN)
    answers = load.answers
    for version, seconds in switched.items():
        show.say(f"every answer by version {version} {seconds:.1f} s after the command was given")
    show.say(f"{len(answers)} answers: {dict(Counter(answers.versions))}; slowest {max(answers.seconds):.2f} s")
    show.claim("both versions served", set(answers.versions) == {"1", "2"})
    show.claim(
        f"no request failed, and every score is its version's: {answers.wrong[:3] or 'all right'}", not answers.wrong
    )


def load_ranker(platform: RunningPlatform, version_policy: dict[str, object]) -> None:
    """Load the ranker on every worker, with its own configuration but for the version policy."""
    said = msgspec.json.decode(platform.command("triton", "config", POOL, "ranker").stdout)
    file = platform.home / "ranker.json"
    file.write_bytes(msgspec.json.encode(said[0]["data"] | {"version_policy": version_policy}))
    platform.command("triton", "load", POOL, "ranker", "--config", str(file))


def killed(show: Show, platform: RunningPlatform, load: Load) -> None:
    show.section(
        "Killed under load",
        f"{CALLERS} callers, durable requests; SIGKILL for a model's process, for Triton, for a worker",
    )
    rows: list[list[str]] = []
    with load:
        load.until_more(BETWEEN)
        for what, name, mark in (
            ("the ranker's process", WORKERS[0], "/ranker/2/model.py"),
            ("Triton", WORKERS[0], "bin/tritonserver"),
            ("the worker", WORKERS[1], ""),
        ):
            victim = next(one.pid for one in descendants(platform.pid(name)) if mark in one.command)
            began, before = time.monotonic(), len(load.answers)
            os.kill(victim, signal.SIGKILL)
            load.until_more(BETWEEN)
            back = load.until(lambda name=name, mark=mark: is_back(platform, name, mark), RECOVER_S)  # type: ignore[misc]  # bound now
            took = f"{time.monotonic() - began:.1f} s" if back else "not back"
            rows.append([f"{what} of {name}", str(before), str(len(load.answers)), took])
        load.until_more(BETWEEN)
    answers = load.answers
    show.table(["killed", "answers before", "answers when it was back", "back after"], rows)
    show.say(f"{len(answers)} answers; slowest {max(answers.seconds):.2f} s")
    show.claim("everything came back by itself", all(row[3] != "not back" for row in rows))
    show.claim(f"no request was lost, and every score is right: {answers.wrong[:3] or 'all right'}", not answers.wrong)


def is_back(platform: RunningPlatform, name: str, mark: str) -> bool:
    """Say whether a worker is ready, by its own word, and has what was killed below it."""
    pid = platform.pid(name)
    if not pid or not any((mark or "bin/tritonserver") in one.command for one in descendants(pid)):
        return False
    try:
        port = platform.port(name)
        return httpx.get(f"http://127.0.0.1:{port}/health/ready", timeout=TIMEOUT_S).status_code == 200
    except (KeyError, httpx.HTTPError):  # not yet there
        return False


def the_same_ledger(show: Show, platform: RunningPlatform) -> None:
    show.section("Usage", "`inferbus usage`: rows of tensors where LLMs have tokens; one ledger for both")
    wanted = {"ranker", "topics", "minilm-onnx"}
    give_up = time.monotonic() + 30
    while True:
        said = platform.command("usage", "--org", "dev", "--json", check=False)
        lines = msgspec.json.decode(said.stdout) if said.returncode == 0 else []
        if {line["model"] for line in lines} >= wanted or time.monotonic() > give_up:
            break
        time.sleep(1)
    show.table(
        ["model", "requests", "rows"],
        [[line["model"], str(line["requests"]), str(line["prompt_tokens"])] for line in lines],
    )
    show.claim("every model is in the ledger", {line["model"] for line in lines} >= wanted)


def act(show: Show, platform: RunningPlatform) -> None:
    clients = Clients(platform)
    one_client(show, clients)
    two_more(show, clients, platform)
    streamed(show, clients, platform)
    mistakes(show, clients)
    lists = Lists(clients)
    rolled_back(show, platform, Load(clients, lists, durable=False))
    killed(show, platform, Load(clients, lists, durable=True))
    the_same_ledger(show, platform)


def main() -> int:
    show = Show()
    options = ("--simulator", "--triton", str(len(WORKERS)), *sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as folder:
        platform = RunningPlatform(Path(folder) / "home", *options)
        show.section("Start", f"inferbus up {' '.join(options)}, on free ports")
        platform.start()
        try:
            with Progress(show.console) as progress:
                platform.until_ready(progress.show)
            act(show, platform)
        finally:
            platform.stop()
    return show.end()


if __name__ == "__main__":
    sys.exit(main())
