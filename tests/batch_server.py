"""A server on this machine that answers questions one by one and in batches, as OpenAI's does: files, batches, listing.

    python -m tests.batch_server --steps 3     # prints its base URL; GET /counts gives the counts

Whenever a batch is looked at, all go one step further: validating, in_progress (`steps` times), finalizing, its end.
Questions are answered by the plan, as those that are asked one by one.
"""

import argparse
import asyncio
import email
import email.policy
import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.fault_server import Act, FaultServer, Other, Plan, _content

ENDS = ("completed", "failed", "expired", "cancelled")
Event = str
"""upload, create (before it is made), created (before the reply), look, content."""


@dataclass
class Fate:
    """What becomes of a batch: how it ends, after which share of its questions, with which errors."""

    end: str = "completed"
    share: float = 1.0
    errors: list[dict[str, Any]] = field(default_factory=list)
    begins: bool = True
    """Whether one that fails has begun before."""


@dataclass
class Made:
    """A batch, its questions that are left, and the lines of its two files."""

    fields: dict[str, Any]
    fate: Fate
    left: list[dict[str, Any]]
    lines: dict[str, list[str]] = field(default_factory=lambda: {"output": [], "error": []})


class BatchServer(FaultServer):
    """Files and batches beside questions. Times and ids are made up; what is answered is counted in `paid`."""

    def __init__(self, plan: Plan = lambda asked: Act(), steps: int = 1, delay_s: float = 0.0):
        super().__init__(plan, delay_s)
        self.steps = steps
        self.fate: Callable[[int], Fate] = lambda number: Fate()
        """By the batch's number, from 0."""
        self.trouble: Callable[[Event, int], Other | None] = lambda event, number: None
        """An answer in place of the true one, by event and how often it has happened; before anything is done."""
        self.on: Callable[[Event, int], None] = lambda event, number: None
        self.lost_replies = self.cut_outputs = 0
        """How many of the next created batches get no reply, and of the next contents end in the middle of a line."""
        self.queue_tokens: int | None = None
        """Words of questions that may be queued; batches of more fail."""
        self.most_questions = 50_000
        self.has_batches = self.has_counts = True
        self.files: dict[str, tuple[str, bytes]] = {}
        self.batches: dict[str, Made] = {}
        self.paid: Counter[str] = Counter()
        """Custom id -> how often it has been answered."""
        self.events: Counter[Event] = Counter()

    def other(self, method: str, path: str, headers: dict[str, str], content: bytes) -> Other | None:
        parts = urlsplit(path)
        names = parts.path.removeprefix("/v1/").split("/")
        if names[0] not in ("files", "batches"):
            return None
        if not self.has_batches:
            return Other(404, json.dumps({"detail": "Not Found"}))
        if not headers.get("authorization", "").startswith("Bearer "):
            return _error(401, "no key")
        if names[0] == "files":
            return self._about_files(method, names[1:], headers, content)
        return self._about_batches(method, names[1:], parse_qs(parts.query), content)

    def _about_files(self, method: str, names: list[str], headers: dict[str, str], content: bytes) -> Other:
        match method, names:
            case "POST", []:
                return self._event("upload", lambda: self._upload(headers, content))
            case "GET", [name, "content"]:
                return self._event("content", lambda: self._file(name))
            case "DELETE", [name] if self.files.pop(name, None):
                return _json({"id": name, "object": "file", "deleted": True})
        return _error(404, "no such file")

    def _about_batches(self, method: str, names: list[str], query: dict[str, list[str]], content: bytes) -> Other:
        match method, names:
            case "POST", []:
                return self._event("create", lambda: self._create(json.loads(content)))
            case "GET", []:
                after, limit = query.get("after", [None])[0], int(query.get("limit", ["20"])[0])
                return self._event("list", lambda: self._list(after, limit))
            case "GET", [name]:
                return self._event("look", lambda: self._look(name))
            case "POST", [name, "cancel"]:
                return self._cancel(name)
        return _error(404, "unknown path")

    def _event(self, event: Event, act: Callable[[], Other]) -> Other:
        number = self.events[event]
        self.events[event] += 1
        self.on(event, number)
        return self.trouble(event, number) or act()

    def _upload(self, headers: dict[str, str], content: bytes) -> Other:
        head = f"content-type: {headers['content-type']}\r\n\r\n".encode()
        form = email.message_from_bytes(head + content, policy=email.policy.HTTP)
        fields = {part.get_param("name", header="content-disposition"): part for part in form.iter_parts()}
        name = f"file-{len(self.files) + self.events['upload']}"
        data, purpose = (bytes(fields[field].get_payload(decode=True)) for field in ("file", "purpose"))
        self.files[name] = (purpose.decode(), data)
        self.on("uploaded", self.events["upload"] - 1)
        shown = {"bytes": len(data), "filename": fields["file"].get_filename(), "purpose": purpose.decode()}
        return _json({"id": name, "object": "file", "created_at": int(time.time()), "status": "processed"} | shown)

    def _file(self, name: str) -> Other:
        if name not in self.files:
            return _error(404, "no such file")
        text = self.files[name][1].decode()
        if self.cut_outputs:
            self.cut_outputs -= 1
            text = text[: len(text) * 2 // 3]
        return Other(200, text, {"content-type": "application/octet-stream"})

    def _create(self, asked: dict[str, Any]) -> Other:
        purpose, data = self.files.get(asked["input_file_id"], ("", b""))
        if purpose != "batch":
            return _error(400, f"Invalid file {asked['input_file_id']}")
        if (asked["endpoint"], asked["completion_window"]) != ("/v1/chat/completions", "24h"):
            return _error(400, "Invalid endpoint or completion window")
        metadata = asked.get("metadata") or {}
        assert len(metadata) <= 16
        assert all(len(k) <= 64 and len(v) <= 512 for k, v in metadata.items())
        number, name = len(self.batches), f"batch_{len(self.batches)}"
        lines = [json.loads(line) for line in data.splitlines()]
        fields = {
            "id": name, "object": "batch", "endpoint": asked["endpoint"], "input_file_id": asked["input_file_id"],
            "completion_window": "24h", "status": "validating", "created_at": int(time.time()), "metadata": metadata,
            "output_file_id": None, "error_file_id": None, "errors": None,
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }  # fmt: skip
        self.batches[name] = Made(fields, self._fate(number, lines), lines)
        self.on("created", number)
        if self.lost_replies:
            self.lost_replies -= 1
            return Other(200, json.dumps(fields), cut=True)
        return _json(fields)

    def _fate(self, number: int, lines: list[dict[str, Any]]) -> Fate:
        ids = [line["custom_id"] for line in lines]
        tokens = sum(_words(line) for line in lines)
        queued = sum(_words(line) for made in self.batches.values() for line in made.left)
        if len(set(ids)) < len(ids) or not all(0 < len(name) <= 64 for name in ids):
            return failing("duplicate_custom_id", "The custom_id is a duplicate, or too long")
        if len(ids) > self.most_questions:
            return failing("too_many_tasks", "The batch has too many requests")
        if self.queue_tokens is not None and tokens + queued > self.queue_tokens:
            return failing("token_limit_exceeded", f"Enqueued token limit reached. Limit: {self.queue_tokens:,}")
        return self.fate(number)

    def _list(self, after: str | None, limit: int) -> Other:
        """The newest first, in pages."""
        names = list(reversed(self.batches))
        names = names[names.index(after) + 1 :] if after else names
        page = [self.batches[name].fields for name in names[: min(limit, 100)]]
        ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
        return _json({"object": "list", "data": page, "has_more": len(names) > len(page)} | ends)

    def _look(self, name: str) -> Other:
        if name not in self.batches:
            return _error(404, f"No batch found with id '{name}'.")
        for made in list(self.batches.values()):
            self._advance(made)
        counted = {} if self.has_counts else {"request_counts": None}
        return _json(self.batches[name].fields | counted)

    def _advance(self, made: Made) -> None:
        fields, counts = made.fields, made.fields["request_counts"]
        match fields["status"]:
            case "validating" if made.fate.end == "failed" and not made.fate.begins:
                self._end(made, "failed")
            case "validating":
                fields["status"], counts["total"] = "in_progress", len(made.left)
                self._work(made)
            case "in_progress":
                self._work(made)
            case "finalizing" | "cancelling":
                self._end(made, "cancelled" if fields["status"] == "cancelling" else made.fate.end)

    def _work(self, made: Made) -> None:
        """Answers the next questions: one of `steps` shares of those that are answered at all."""
        counts = made.fields["request_counts"]
        total = int(counts["total"] * made.fate.share)
        done = counts["completed"] + counts["failed"]
        step = -(-total // self.steps) if self.steps else total
        for line in made.left[: min(step, total - done)]:
            self._answer(made, line)
        made.left = made.left[min(step, total - done) :]
        if counts["completed"] + counts["failed"] >= total:
            made.fields["status"] = "finalizing"

    def _answer(self, made: Made, line: dict[str, Any]) -> None:
        asked = self._note("/v1/chat/completions", line["body"], {})
        act, key, counts = self._act(asked), line["custom_id"], made.fields["request_counts"]
        answered: dict[str, Any] = {
            "id": f"batch_req_{asked.number}",
            "custom_id": key,
            "response": None,
            "error": None,
        }
        if act.cut:
            answered["error"] = {"code": "server_error", "message": "The server had an error"}
        else:
            body = _content(asked, act)
            answered["response"] = {"status_code": act.status, "request_id": "r", "body": _parsed(body)}
        good = act.status == 200 and not act.cut
        counts["completed" if good else "failed"] += 1
        self.paid[key] += good
        self.answered += good and act.content is None
        made.lines["output" if good else "error"].append(json.dumps(answered, ensure_ascii=False))

    def _end(self, made: Made, end: str) -> None:
        for line in made.left if end == "expired" else ():
            error = {"code": "batch_expired", "message": "This request could not be executed before it expired."}
            unasked = {"id": "batch_req", "custom_id": line["custom_id"], "response": None, "error": error}
            made.lines["error"].append(json.dumps(unasked))
        made.fields["status"], made.left = end, []
        if end == "failed":
            made.fields["errors"] = {"object": "list", "data": made.fate.errors}
        for kind, lines in made.lines.items():
            random.Random(len(lines)).shuffle(lines)
            if lines:
                name = f"file-{made.fields['id']}-{kind}"
                self.files[name] = ("batch_output", ("\n".join(lines) + "\n").encode())
                made.fields[f"{kind}_file_id"] = name

    def _cancel(self, name: str) -> Other:
        if name not in self.batches:
            return _error(404, "no such batch")
        fields = self.batches[name].fields
        if fields["status"] in ENDS:
            return _error(409, "it has ended")
        fields["status"] = "cancelling"
        return _json(fields)

    def _get(self, path: str) -> tuple[int, str]:
        if path == "/counts":
            twice = sum(count > 1 for count in self.paid.values())
            return 200, json.dumps({"paid": sum(self.paid.values()), "twice": twice, "batches": len(self.batches)})
        return super()._get(path)


def _parsed(body: str) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body


def _words(line: dict[str, Any]) -> int:
    return sum(len(str(message["content"]).split()) for message in line["body"]["messages"])


def failing(code: str, message: str) -> Fate:
    """That a batch is not even begun."""
    return Fate("failed", errors=[{"code": code, "message": message, "line": None, "param": None}], begins=False)


def _json(value: object) -> Other:
    return Other(200, json.dumps(value))


def _error(status: int, message: str) -> Other:
    return Other(status, json.dumps({"error": {"message": message, "type": "invalid_request_error", "code": None}}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1, help="looks until a batch is done")
    server = BatchServer(steps=parser.parse_args().steps)

    async def serve() -> None:
        await server.listen()
        print(server.url, flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
