from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inferbus.admission.identity import Identity
from inferbus.contracts.batch import JobRecord
from inferbus.contracts.files import FileRecord
from inferbus.errors import Forbidden, InvalidRequest
from inferbus.files.book import ASC, Page, page_of
from inferbus_gateway.batch_wishes import check_may_batch, job_id_for, window_s
from inferbus_gateway.http.batches import page_of_jobs
from inferbus_gateway.http.file_content import part_of

CHAT = "/v1/chat/completions"


def file(n: int, *, expires_at: int = 0, purpose: str = "batch") -> FileRecord:
    return FileRecord(
        id=f"file-{n:08}", tenant="t", purpose=purpose, filename="f", bytes=1, sha256="", body="b", created_at=n // 3,
        expires_at=expires_at,
    )  # fmt: skip


@given(st.integers(0, 1000), st.integers(0, 1200), st.integers(0, 1200))
def test_a_range_is_what_the_client_asked_for(size: int, first: int, last: int) -> None:
    body = bytes(n % 256 for n in range(size))
    part = part_of(f"bytes={first}-{last}", size)
    if last < first:
        assert part is not None
        assert part.whole
    elif first >= size:
        assert part is None
    else:
        assert part is not None
        assert body[part.start : part.end] == body[first : last + 1]


@given(st.integers(0, 100), st.integers(0, 120))
def test_the_last_so_many_bytes(size: int, count: int) -> None:
    part = part_of(f"bytes=-{count}", size)
    if part is None:
        assert not size or not count
    else:
        assert (part.end - part.start, part.end) == (min(size, count), size)


@given(st.integers(0, 40), st.integers(1, 7), st.booleans())
def test_pages_give_every_file_once(count: int, limit: int, ascending: bool) -> None:
    records = [file(n) for n in range(count)]
    order = ASC if ascending else "desc"
    seen: list[str] = []
    more = True
    while more:
        after = seen[-1] if seen else ""
        found, more = page_of(records, Page(after=after, limit=limit, order=order), now=100)
        seen += [one.id for one in found]
    assert seen == [one.id for one in (records if ascending else records[::-1])]


def test_what_has_expired_is_in_no_page() -> None:
    records = [file(1), file(2, expires_at=99), file(3, expires_at=101), file(4, purpose="batch_output")]
    found, more = page_of(records, Page(order=ASC, purpose="batch"), now=100)
    assert ([one.id for one in found], more) == (["file-00000001", "file-00000003"], False)


def test_jobs_come_newest_first() -> None:
    jobs = [
        JobRecord(id=f"batch_{n}", tenant="t", endpoint=CHAT, input_file_id="f", created=float(n), expires_at=9.0)
        for n in (2, 5, 1)
    ]
    page = page_of_jobs(jobs, "", 2)
    assert ([one.id for one in page.data], page.has_more) == (["batch_5", "batch_2"], True)
    page = page_of_jobs(jobs, "batch_2", 2)
    assert ([one.id for one in page.data], page.has_more) == (["batch_1"], False)
    with pytest.raises(InvalidRequest):
        page_of_jobs(jobs, "batch_9", 2)


@pytest.mark.parametrize(("text", "seconds"), [("24h", 86_400), ("30d", 2_592_000), ("90m", 5400)])
def test_windows(text: str, seconds: int) -> None:
    assert window_s(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "31d", "0m", "24H", "1h ", "999999h"])
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(InvalidRequest):
        window_s(text)


def test_who_may() -> None:
    check_may_batch(Identity(tenant="t"), CHAT)
    check_may_batch(Identity(tenant="t", endpoints=("chat",)), CHAT)
    for identity in (Identity(tenant="t", lanes=("interactive",)), Identity(tenant="t", endpoints=("embeddings",))):
        with pytest.raises(Forbidden):
            check_may_batch(identity, CHAT)


def test_an_idempotency_key_is_its_tenants() -> None:
    assert job_id_for("a", "key") == job_id_for("a", "key")
    assert len({job_id_for("a", "key"), job_id_for("b", "key"), job_id_for("a", "other")}) == 3
