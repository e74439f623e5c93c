"""Batch: a job in the bucket `jobs`, its chunks in the queue `BATCH_CHUNKS`, its committed parts in `BATCH_PARTS`.

Bodies (the input, what a part wrote, the final files) lie in the storage of files; these say which of them count.
Lines are counted from 1, times are Unix seconds, sizes bytes. docs/adr/0016-batch.md is the design.
"""

from __future__ import annotations

import msgspec

VALIDATING, IN_PROGRESS, FINALIZING, COMPLETED = "validating", "in_progress", "finalizing", "completed"
FAILED, EXPIRED, CANCELLING, CANCELLED = "failed", "expired", "cancelling", "cancelled"
STATES = (VALIDATING, IN_PROGRESS, FINALIZING, COMPLETED, FAILED, EXPIRED, CANCELLING, CANCELLED)
"""States of a job, as the OpenAI API calls them."""

ENDPOINTS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v2/models/infer": "infer",
    "/v1/vectors/documents": "vectors",
    "/v1/vectors/search": "vectors",
}
"""What a job's lines may ask for, and the task that is. KServe's: the path of a line names its model; of vectors: its
collection."""

BY_USER, BY_OPERATOR = "user", "operator"
STORAGE_DOWN, INPUT_CHANGED, NOT_ENTITLED = "storage_down", "input_changed", "not_entitled"


class Pause(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job rests: somebody's wish, or a reason of the platform's (a code, and a message for the user). From
    `storage_down` it goes on by itself."""

    reason: str
    message: str = ""
    at: float = 0.0


class JobError(msgspec.Struct, frozen=True, kw_only=True):
    """A fault of the whole job, in the OpenAI API's words. `line` 0: of none."""

    code: str
    message: str
    param: str = ""
    line: int = 0


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Lines with one committed result each: `completed` were answered 200, `failed` are in the error file."""

    total: int = 0
    completed: int = 0
    failed: int = 0


class Spent(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the results that count; `wasted_tokens` are those of attempts that do not."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    wasted_tokens: int = 0


class InputMark(msgspec.Struct, frozen=True, kw_only=True):
    """The input as it was when the job was planned; `body` is its name in the storage, `mark` the storage's own word for
    this version of it."""

    body: str
    bytes: int
    mark: str


class JobRecord(msgspec.Struct, frozen=True, kw_only=True, tag="batch.job.v1"):
    """One job, under `<tenant>.<id>` in the bucket `jobs`; changed by compare-and-set only (`inferbus.batch.job_book`).

    `key_id` is the submitter's, never its secret: what the key may do when a line is asked is what counts. `model` is for
    lines that name none. Of two jobs of a tenant that of higher `priority` goes first, then the one that must end sooner.
    `quiet_hours` (`HH:MM-HH:MM`, UTC) is when it rests; empty: the platform's. `ending` says what a job that is being
    ended early will be (expired, cancelled, failed): lines that were not asked become errors. `owner` is the incarnation
    of the coordinator that works on it, `plan` the run of planning whose chunks count. `since` says when a state was
    entered, `expires_at` when the completion window ends, `keep_until` when record and files may go (0: never).
    `dead_file_id` is the file of its dead letters (`DeadRow`, one to a line). `output_expires_s`: how long its files stay
    after they were made (0: as long as the platform says).
    """

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    created: float
    expires_at: float
    completion_window: str = "24h"
    key_id: str = ""
    metadata: dict[str, str] = {}
    model: str = ""
    priority: int = 0
    quiet_hours: str = ""
    retry_of: str = ""
    state: str = VALIDATING
    ending: str = ""
    paused: Pause | None = None
    owner: str = ""
    plan: str = ""
    chunks: int = 0
    parts: int = 0
    input: InputMark | None = None
    counts: Counts = Counts()
    spent: Spent = Spent()
    errors: list[JobError] = []
    output_file_id: str = ""
    error_file_id: str = ""
    since: dict[str, float] = {}
    keep_until: float = 0.0
    dead_file_id: str = ""
    traceparent: str = ""
    output_expires_s: int = 0


class LineFault(msgspec.Struct, frozen=True, array_like=True):
    """A line whose result is known without asking anybody: its number, a code of the error table, why."""

    line: int
    code: str
    message: str


class ChunkSpec(msgspec.Struct, frozen=True, kw_only=True, tag="batch.chunk.v1"):
    """Some lines of a job's input, `offset` and `bytes` being where they lie; `sha256` (hex) is theirs.

    `first_line` is the number of the first, `lines` counts physical lines, blank ones too; `rows` those that get a
    result. `unread`: a single line too long to be read; it has a fault here.
    """

    job: str
    plan: str
    n: int
    first_line: int
    lines: int
    rows: int
    offset: int
    bytes: int
    sha256: str
    faults: list[LineFault] = []
    unread: bool = False


class BodyRef(msgspec.Struct, frozen=True, kw_only=True):
    """A body in the storage that counts, and how many lines it has."""

    body: str
    bytes: int
    sha256: str
    rows: int


class PartRecord(msgspec.Struct, frozen=True, kw_only=True, tag="batch.part.v1"):
    """The one committed result of a chunk, on `batch.part.<tenant>.<job>.<n>`: one result for each of its rows.

    `output` are the answers, `dead` the dead letters (`inferbus.batch.dead_rows`); None where there are none.
    `taken` counts the rows whose outcome an earlier attempt had left, `attempt` is the chunk's delivery, `worker` the
    process.
    """

    job: str
    plan: str
    n: int
    first_line: int
    rows: int
    completed: int
    failed: int
    spent: Spent = Spent()
    output: BodyRef | None = None
    dead: BodyRef | None = None
    taken: int = 0
    attempt: int = 1
    worker: str = ""


class DeadRow(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: a line that was not answered 200. `original` is the line as it was (empty where it is too long to
    keep), `attempts` how often an engine was asked, `status` and `body` what it answered last (0: nobody was asked)."""

    line: int
    custom_id: str | None
    request_id: str
    code: str
    message: str
    attempts: int = 0
    status: int = 0
    body: msgspec.Raw = msgspec.Raw(b"null")
    original: str = ""
