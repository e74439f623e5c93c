"""`make demo-features`: a ranker that is fed from Redis. Events are pushed, windows follow, the next prediction is another; the
store is killed and comes back; what the stream added up is what DuckDB adds up over the same events.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import httpx
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests.demos.show import Show
from tests.running_platform import ROOT, RunningPlatform

from inferbus import routes
from inferbus.bus import Bus
from inferbus.bus.stored import read_stored
from inferbus.cli.progress import Progress
from inferbus.contracts.features import PushMessage
from inferbus.local.identities import settings_of

SERVICE, SOURCE, VIEW = "ranking_now", "user_events", "user_now"
USERS, ITEMS = list(range(1, 51)), list(range(100, 120))
SOMEBODY = 7
WAIT_S = 240.0
STEP_S = 10
"""Of the view's windows."""


class Redis:
    """A redis-server that keeps what it has in a file, so that it is there again after a kill."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            sys.exit("redis-server is missing: make deps-services")
        self._folder.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [binary, "--port", str(self.port), "--dir", str(self._folder), "--appendonly", "yes", "--save", ""],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


class Refused(Exception):
    """The gateway answered with an error; `code` is its."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Caller:
    """A program with a key: reads features, pushes events, and has the ranker score ids."""

    def __init__(self, platform: RunningPlatform) -> None:
        headers = {"Authorization": f"Bearer {platform.key}"}
        self._http = httpx.Client(base_url=platform.url, headers=headers, timeout=WAIT_S)

    def features(self, user: int, items: list[int]) -> dict[str, list[Any]]:
        """Read one user and many items in one request; columns by name."""
        answer = self._post(f"/v1/features/{SERVICE}:get", {"entities": {"user_id": user, "item_id": items}})
        return {column["name"]: column["values"] for column in answer["columns"]}

    def scores(self, user: int) -> np.ndarray:
        """Have all items scored for a user: ids go in, the worker reads the features."""
        ids = {"user_id": [user], "item_id": ITEMS}
        inputs = [{"name": name, "datatype": "INT64", "shape": [len(of)], "data": of} for name, of in ids.items()]
        body = {"parameters": {"feature_service": SERVICE}, "inputs": inputs}
        return np.array(self._post("/v2/models/ranker/infer", body)["outputs"][0]["data"])

    def push(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return self._post(f"/v1/features/{SOURCE}:push", {"rows": rows})

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self._http.post(path, json=body)
        if answer.status_code != 200:
            error = answer.json()["error"]
            raise Refused(error["code"] if isinstance(error, dict) else str(error))
        found: dict[str, Any] = answer.json()
        return found


def until(condition: Callable[[], bool], within_s: float = WAIT_S) -> bool:
    give_up = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.1)
    return True


def events(user: int, count: int, *, seed: int, ago_s: float = 0.0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    return [
        {
            "user_id": user, "event_timestamp": round(time.time() - ago_s - draw.random() * 5, 6),
            "item_id": draw.choice(ITEMS), "kind": draw.choice(["click", "click", "purchase"]),
            "price": round(draw.random() * 200, 2),
        }
        for _ in range(count)
    ]  # fmt: skip


def history_in(show: Show, platform: RunningPlatform) -> None:
    show.section("History goes in", "inferbus features apply deploy/features; materialize from Parquet, as a job")
    show.say(platform.command("features", "apply", str(ROOT / "deploy/features"), timeout_s=WAIT_S).stdout.strip())
    draw, now = np.random.default_rng(4), int(time.time() * 1e6)
    for view, key, prefix, ids in (
        ("user_profile", "user_id", "user", USERS),
        ("item_profile", "item_id", "item", ITEMS),
    ):
        columns: dict[str, Any] = {key: pa.array(ids, pa.int64())}
        columns |= {f"{prefix}_{n:02d}": pa.array(draw.normal(size=len(ids)), pa.float32()) for n in range(12)}
        columns["event_timestamp"] = pa.array([now - 3_600_000_000] * len(ids), pa.timestamp("us", tz="UTC"))
        path = platform.home / f"{view}.parquet"
        pq.write_table(pa.table(columns), path)
        until(lambda view=view: knows(platform, view))  # type: ignore[misc]  # bound now
        said = platform.command(
            "features", "materialize", view, str(path), "--slices", "4", check=False, timeout_s=WAIT_S
        )
        show.say((said.stdout + said.stderr).strip().splitlines()[-1])
        show.claim(f"{view}: {len(ids)} rows are in Redis", f"{len(ids)} rows" in said.stdout)


def knows(platform: RunningPlatform, view: str) -> bool:
    return platform.command("features", "show", view, check=False).returncode == 0


def scored(show: Show, caller: Caller) -> None:
    show.section(
        "A user is scored",
        "20 items, 32 features each, read from Redis in one request; the worker reads them, the LightGBM ranker on Triton scores",
    )
    first, before = caller.features(SOMEBODY, ITEMS), caller.scores(SOMEBODY)
    show.say(f"the best three: {best(before)}; clicks in the last ten minutes: {first['now_clicks'][0]}")
    show.claim("features come from the store", first["user_00"][0] is not None and len(first) == 32)
    began = time.monotonic()
    caller.push(events(SOMEBODY, 12, seed=1))
    wanted = 12

    def followed() -> bool:
        now = caller.features(SOMEBODY, ITEMS[:1])
        return now["now_clicks"][0] + now["now_purchases"][0] == wanted

    ok = until(followed)
    show.claim(f"12 events pushed, the windows have them {time.monotonic() - began:.2f} s later", ok)
    after = caller.scores(SOMEBODY)
    show.say(f"the best three: {best(after)}; {shown(caller)}")
    show.claim("the next prediction is another", not np.array_equal(before, after))


def best(scores: np.ndarray) -> str:
    return ", ".join(f"item {ITEMS[one]} {scores[one]:.3f}" for one in np.argsort(-scores)[:3])


def shown(caller: Caller) -> str:
    now = caller.features(SOMEBODY, ITEMS[:1])
    return ", ".join(f"{name} {values[0]}" for name, values in now.items() if name.startswith("now_"))


def refused(show: Show, platform: RunningPlatform) -> None:
    show.section("Mistakes", "inferbus features push: the right rows are written, the others told by their field")
    right = events(8, 1, seed=2)[0]
    wrong = {
        "user_id": {name: value for name, value in right.items() if name != "user_id"},
        "price": right | {"price": "cheap"},
        "event_timestamp": right | {"event_timestamp": time.time() + 3600},
        "colour": right | {"colour": "red"},
    }
    file = platform.home / "rows.jsonl"
    file.write_bytes(b"\n".join(msgspec.json.encode(row) for row in [right, *wrong.values()]))
    said = platform.command("features", "push", SOURCE, str(file), check=False)
    lines = [line for line in said.stderr.splitlines() if line.startswith("line ")]
    for line in lines:
        show.say(line)
    show.claim(
        "each mistake is told by its field, the right row is accepted",
        "1 rows accepted, 4 refused" in said.stdout
        and len(lines) == len(wrong)
        and all(name in line for name, line in zip(wrong, lines, strict=True)),
    )


def store_killed(show: Show, caller: Caller, redis: Redis) -> None:
    show.section("The store is killed", "SIGKILL for Redis; events go on being accepted; then it is started again")
    before = caller.features(SOMEBODY, ITEMS[:1])
    redis.kill()
    code = ""

    def is_refused() -> bool:
        nonlocal code
        try:
            caller.features(SOMEBODY, ITEMS[:1])
        except Refused as exc:
            code = exc.code
            return True
        return False

    show.claim("a read is refused, and says why", until(is_refused) and code == "dependency_down")
    caller.push(events(SOMEBODY, 5, seed=3))
    redis.start()
    began = time.monotonic()
    wanted = before["now_clicks"][0] + before["now_purchases"][0] + 5

    def is_back() -> bool:
        try:
            now = caller.features(SOMEBODY, ITEMS[:1])
        except Refused:
            return False
        return now["now_clicks"][0] + now["now_purchases"][0] == wanted

    ok = until(is_back)
    show.claim(
        f"{time.monotonic() - began:.1f} s after its start, events pushed while it was away are in the features", ok
    )
    show.claim("what it had is there", caller.features(SOMEBODY, ITEMS[:1])["user_00"] == before["user_00"])


def agreed(show: Show, caller: Caller, platform: RunningPlatform) -> None:
    show.section("Batch and stream", "the bus's own events as Parquet, added up by DuckDB from the same definition")
    draw = random.Random(5)
    for n in range(40):  # out of order, some too late
        caller.push(events(draw.choice(USERS), 5, seed=100 + n, ago_s=draw.choice([0, 30, 200, 400, 900])))
    path, found = platform.home / "events.parquet", {"agree": False, "users": 0, "events": 0}

    def agree() -> bool:
        until(
            lambda: 4 < time.time() % STEP_S < 7
        )  # a window has just begun, or soon ends: the stream is a moment later
        then = time.time()
        online = {user: {name: of[0] for name, of in caller.features(user, ITEMS[:1]).items()} for user in USERS}
        asked = write_events(platform, path)
        order = {"repository": str(ROOT / "deploy/features"), "events": str(path), "until": then}
        said = subprocess.run(
            [str(platform.layout.features_python), "-m", "tests.demos.features_history"],
            cwd=ROOT,
            input=msgspec.json.encode(order),
            stdout=subprocess.PIPE,
            check=True,
        )
        batch: dict[str, dict[str, Any]] = msgspec.json.decode(said.stdout)
        found.update(users=len(batch), events=asked)
        return all(online[int(user)][name] == value for user in batch for name, value in batch[user].items())

    ok = until(agree)
    show.say(f"{found['events']} events, {found['users']} users, 8 aggregates each")
    show.claim("every value the stream wrote is what DuckDB computes", ok and found["users"] > 20)


def write_events(platform: RunningPlatform, path: Path) -> int:
    """Write what the bus has stored of the source as it is, with the time each event arrived."""

    async def stored() -> list[tuple[str, bytes]]:
        settings = settings_of(platform.layout, "operator", url=platform.bus_url, region=platform.state.region)
        bus = await Bus.connect(settings, name="demo-history")
        try:
            found = await read_stored(bus, routes.STREAM_FEATURES, routes.features_push("dev", SOURCE))
        finally:
            await bus.close()
        return [(one.headers["Nats-Time-Stamp"], one.data) for one in found]

    rows = [
        row | {"arrived": arrived[:26].rstrip("Z")}
        for arrived, body in asyncio.run(stored())
        for row in msgspec.json.decode(body, type=PushMessage).rows
    ]
    table = pa.table({name: [row[name] for row in rows] for name in ("user_id", "item_id", "kind", "price")})
    times = pa.timestamp("us", tz="UTC")
    stamps = pa.array([round(row["event_timestamp"] * 1e6) for row in rows], times)
    arrivals = pa.array([np.datetime64(row["arrived"], "us") for row in rows], pa.timestamp("us")).cast(times)
    pq.write_table(table.append_column("event_timestamp", stamps).append_column("arrived", arrivals), path)
    return len(rows)


def found_again(show: Show, platform: RunningPlatform) -> None:
    show.section("Found again", "inferbus features lineage, freshness")

    def lineage() -> dict[str, Any]:
        said = platform.command("features", "lineage", SOURCE, "--json", check=False)
        return msgspec.json.decode(said.stdout) if said.returncode == 0 else {"used_by": []}

    used = until(lambda: bool(lineage()["used_by"]))
    show.say(platform.command("features", "lineage", SOURCE, check=False).stdout.strip())
    show.say(platform.command("features", "freshness", VIEW, check=False).stdout.strip())
    show.claim("it is known who uses what is made of these events", used and lineage()["services"] == [SERVICE])


def main() -> int:
    show = Show()
    with tempfile.TemporaryDirectory(prefix="inferbus-demo-") as scratch, Redis(Path(scratch) / "redis") as redis:
        home = Path(scratch) / "home"
        env = {"INFERBUS_FEATURES_STORE": "redis", "INFERBUS_FEATURES_REDIS": f"127.0.0.1:{redis.port}"}
        platform = RunningPlatform(home, "--simulator", "--triton", "1", "--features", "1", env=env)
        platform.start()
        try:
            with Progress(show.console) as progress:
                platform.until_ready(progress.show)
            caller = Caller(platform)
            try:
                history_in(show, platform)
                scored(show, caller)
                refused(show, platform)
                store_killed(show, caller, redis)
                agreed(show, caller, platform)
                found_again(show, platform)
            finally:
                caller.close()
        finally:
            platform.stop()
    return show.end()


if __name__ == "__main__":
    sys.exit(main())
