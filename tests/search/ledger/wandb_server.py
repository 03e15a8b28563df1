"""A server that speaks as much of Weights & Biases' protocol as an online run with a table and an artifact needs."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Seen", "serving"]


@dataclass
class Seen:
    """What a client has sent: GraphQL operations with their variables, and uploaded files by the end of their path."""

    address: str = ""
    operations: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # operations that are answered with an error
    steps: dict[str, int] = field(default_factory=dict)  # last step of the runs that are there already, by id
    runs: dict[str, str] = field(default_factory=dict)  # job types of the runs that are listed, by id

    def variables(self, operation: str) -> list[dict[str, Any]]:
        return [variables for name, variables in self.operations if name == operation]


def answer(operation: str, query: str, given: dict[str, Any], seen: Seen) -> dict[str, Any]:
    """The `data` of a GraphQL answer."""
    address = seen.address
    if operation in ("Viewer", "GetDefaultEntity"):
        return {
            "viewer": {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
        }
    if operation == "RunResumeStatus":
        last = seen.steps.get(given.get("name", ""))
        if last is None:
            return {"model": None}
        tail = json.dumps([json.dumps({"_step": last, "_runtime": 1.0})])
        counts = {"historyLineCount": last, "eventsLineCount": 0, "logLineCount": 0}
        texts = {
            "summaryMetrics": "{}",
            "config": "{}",
            "historyTail": tail,
            "eventsTail": "[]",
            "wandbConfig": '{"t": 1}',
        }
        bucket = {"id": "b", "name": given["name"], "displayName": "r", "tags": [], **counts, **texts}
        return {"model": {"id": "p", "name": "p", "entity": {"id": "e", "name": "me"}, "bucket": bucket}}
    if operation == "Runs":
        edges = [{"node": _run(name, kind), "cursor": name} for name, kind in seen.runs.items()]
        found = {"edges": edges, "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"project": {"internalId": "cHA6MQ==", "runCount": len(edges), "readOnly": False, "runs": found}}
    if operation == "ProjectInternalId":
        return {"project": {"id": "p", "internalId": "cHA6MQ=="}}
    if operation == "GetProjects":
        page = {"edges": [], "pageInfo": {"endCursor": None, "hasNextPage": False}}
        return {"models": page}
    if "upsertModel" in query:
        return {
            "upsertModel": {"project": {"id": "p", "name": given.get("name")}, "model": {"id": "p"}, "inserted": True}
        }
    if "upsertView" in query:
        project = {"id": "p", "name": given.get("projectName"), "entityName": given.get("entityName")}
        texts = {
            "type": given.get("type"),
            "displayName": given.get("displayName"),
            "description": "",
            "spec": given["spec"],
        }
        view = {"id": "Vmlldzox", "name": given.get("name"), **texts, "updatedAt": "2026-01-01T00:00:00Z"}
        return {"upsertView": {"view": {**view, "project": project}, "inserted": True}}
    if operation == "UpsertBucket":
        project = {"id": "p", "name": given.get("project"), "entity": {"id": "e", "name": "me"}}
        bucket = {"id": "b", "name": given.get("name"), "displayName": given.get("displayName"), "project": project}
        return {"upsertBucket": {"bucket": {**bucket, "config": "{}", "historyLineCount": 0}, "inserted": True}}
    if operation == "CreateRunFiles":
        files = [{"name": name, "uploadUrl": f"{address}/run/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
    if operation == "CreateArtifact":
        artifact = {
            "id": f"a{given['input']['digest']}",
            "state": "PENDING",
            "artifactSequence": {"latestArtifact": None},
        }
        return {"createArtifact": {"artifact": artifact}}
    if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
        file = {"id": "f", "uploadUrl": f"{address}/manifest/{given.get('artifactID')}", "uploadHeaders": []}
        name = f"{operation[0].lower()}{operation[1:]}"
        return {name: {"artifactManifest": {"id": "m", "file": file}}}
    if operation == "CreateArtifactFiles":
        nodes = [
            {
                "node": {
                    "storagePath": each["name"],
                    "uploadUrl": f"{address}/artifact/{each['name']}",
                    "uploadHeaders": [],
                    "uploadMultipartUrls": None,
                    "artifact": {"id": each["artifactID"]},
                }
            }
            for each in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": nodes}}}
    if operation == "CommitArtifact":
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
    if operation == "ArtifactByID" or "query ArtifactByID" in query:
        source = {"__typename": "ArtifactSequence", "id": "s", "name": "a", "project": {"id": "p", "name": "p"}}
        source["project"] = {
            "__typename": "Project",
            "internalId": "cHA6MQ==",
            **source["project"],
            "entity": {"id": "e", "name": "me"},
        }  # type: ignore[dict-item]
        figures = {"size": 1, "fileCount": 1, "ttlDurationSeconds": -2, "versionIndex": 0}
        unknown = dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt", "aliases"))
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": given["id"],
                "artifactSequence": source,
                "artifactType": {"name": "t"},
                "ttlIsInherited": True,
                "tags": [],
                "state": "COMMITTED",
                "digest": "d",
                "digestAlgorithm": "MANIFEST_MD5",
                "createdAt": "2026-01-01T00:00:00Z",
                **figures,
                **unknown,
            }
        }
    if "ArtifactType" in query:
        return {"project": {"artifact": None}}
    return {"serverInfo": {"cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": []}}


def _run(name: str, kind: str) -> dict[str, Any]:
    """A run as it is listed."""
    texts = {"config": "{}", "summaryMetrics": "{}", "systemMetrics": "{}", "description": "", "notes": ""}
    facts = {"id": name, "name": name, "displayName": name, "jobType": kind, "state": "finished", "group": "demo"}
    more = dict.fromkeys(("sweepName", "commit", "heartbeatAt", "historyKeys", "host", "readOnly"))
    return {
        **texts,
        **facts,
        **more,
        "tags": [],
        "user": {"name": "me", "username": "me"},
        "projectId": 1,
        "createdAt": "2026-01-01T00:00:00Z",
    }


@contextmanager
def serving() -> Iterator[Seen]:
    """Serve on a free port of the loopback interface until the block ends."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def read(self) -> bytes:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

        def reply(self, value: Any) -> None:
            text = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def do_POST(self) -> None:
            body = self.read()
            if self.path != "/graphql":
                seen.uploads[self.path] = seen.uploads.get(self.path, b"") + body
                return self.reply({"exitcode": None, "limits": {}})
            asked = json.loads(body)
            named = re.search(r"\b(?:query|mutation)\s+(\w+)", asked["query"])
            operation = asked.get("operationName") or (named.group(1) if named else "")
            given = asked.get("variables") or {}
            seen.operations.append((operation, given))
            if operation in seen.refused:
                return self.reply({"errors": [{"message": f"{operation} refused"}], "data": None})
            return self.reply({"data": answer(operation, asked["query"], given, seen)})

        def do_PUT(self) -> None:
            seen.uploads[self.path] = self.read()
            self.reply({})

        def do_GET(self) -> None:
            self.reply({})

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hangs up is none of a server's faults."""

    server = Server(("127.0.0.1", 0), Handler)
    seen.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
