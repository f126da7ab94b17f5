"""An in-memory Hugging Face Hub over HTTP, for unmodified clients. Tests can make it misbehave.

It implements the routes that huggingface_hub, datasets, evaluate and transformers use to publish and load: whoami,
repositories and their settings, commits with LFS uploads, branches and pull requests, trees and files with ranges, and
collections. Clients need HF_HUB_DISABLE_XET=1, because Xet storage is not implemented. Every commit stores all files of
its repository.
"""

import base64
import copy
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

TOKEN = "hf_" + "a" * 34
LFS = (".safetensors", ".parquet", ".png", ".bin")
LFS_FROM_BYTES = 10 * 1024 * 1024
KINDS = {"": "model", "datasets/": "dataset", "spaces/": "space"}
DATE = "2026-01-01T00:00:00.000Z"


@dataclass
class Fault:
    """A way to misbehave on requests whose `METHOD /path` matches a pattern.

    Attributes:
        pattern: regular expression that is searched for in `METHOD /path`.
        kind: "status" answers `code`; "drop" reads part of the request and closes the connection; "silent" does what
            was requested and closes the connection without an answer; "slow" waits for `seconds`; "stale" answers
            reads from the commit before the last one.
        times: number of requests to misbehave on.
        code, message, headers: the answer of "status".
        seconds: duration of "slow".
        used: number of requests that it has misbehaved on.
    """

    pattern: str
    kind: Literal["status", "drop", "silent", "slow", "stale"] = "status"
    times: int = 1
    code: int = 500
    seconds: float = 0.0
    message: str = "Internal error"
    headers: dict[str, str] = field(default_factory=dict)
    used: int = 0


@dataclass
class Commit:
    id: str
    title: str
    files: dict[str, bytes]
    parent: str | None


class Repo:
    def __init__(self, kind: str, name: str, private: bool, sdk: str | None) -> None:
        self.kind, self.name, self.private, self.sdk = kind, name, private, sdk
        self.gated: bool | str = False
        self.variables: dict[str, str] = {}
        self.requests: dict[int, dict[str, Any]] = {}
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.commit({".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit", "main")

    def commit(self, files: dict[str, bytes], title: str, ref: str) -> str:
        name = hashlib.sha1(f"{self.name} {title} {len(self.commits)}".encode()).hexdigest()
        self.commits[name] = Commit(name, title, files, self.refs.get(ref))
        self.refs[ref] = name
        return name

    def head(self, revision: str) -> Commit | None:
        return self.commits.get(self.refs.get(revision.removeprefix("refs/heads/"), revision))

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[self.refs["main"]].files


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS) or size >= LFS_FROM_BYTES


class Hub:
    """The server and its content. Use it as `with Hub() as hub: hub.url ...`.

    Attributes:
        user: name of the only user.
        roles: organisation -> role of that user.
        repos: (kind, id) -> repository.
        objects: SHA-256 -> content of an LFS object.
        collections: slug -> collection.
        faults: ways to misbehave.
        log: requests that were served, such as `POST /api/repos/create 200`.
    """

    def __init__(self) -> None:
        self.user = "someone"
        self.roles = {"lab": "write", "museum": "read"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.collections: dict[str, dict[str, Any]] = {}
        self.faults: list[Fault] = []
        self.log: list[str] = []
        self.lock = threading.RLock()
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> "Hub":
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def copy_of(self, other: "Hub") -> None:
        """Copy the content of another Hub, and let the links in its cards point here."""
        for name in ("repos", "objects", "collections"):
            setattr(self, name, copy.deepcopy(getattr(other, name)))
        for commit in (commit for repo in self.repos.values() for commit in repo.commits.values()):
            if "README.md" in commit.files:
                commit.files["README.md"] = commit.files["README.md"].replace(other.url.encode(), self.url.encode())

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for a client process; huggingface_hub reads them when it is imported."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_UPDATE_CHECK": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "NO_PROXY": "127.0.0.1",
        }

    def repo(self, name: str) -> Repo:
        prefix = next((prefix for prefix in KINDS if prefix and name.startswith(prefix)), "")
        return self.repos[KINDS[prefix], name.removeprefix(prefix)]

    def add(self, kind: str, name: str, files: dict[str, bytes] | None = None, **attributes: Any) -> Repo:
        repo = self.repos[kind, name] = Repo(kind, name, attributes.pop("private", False), None)
        vars(repo).update(attributes)
        if files:
            repo.commit({**repo.files, **files}, "added by the test", "main")
        return repo

    def writes(self, pattern: str = "") -> list[str]:
        """Logged requests that changed something and match a regular expression."""
        return [
            line
            for line in self.log
            if re.search(pattern, line)
            and re.match(r"POST .*/(create|commit/[^ ]+|items|collections|variables|branch/[^ ]+) 2|PUT .* 2", line)
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    # ------------------------------------------------------------------ plumbing

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        self.route = unquote(url.path)
        fault = self.fault()
        if fault and fault.kind == "slow":
            threading.Event().wait(fault.seconds)
        if fault and fault.kind == "drop":
            self.rfile.read(min(int(self.headers.get("Content-Length") or 0), 1000))
            self.close_connection = True
            return
        self.data = self.body()
        self.silent = bool(fault and fault.kind == "silent")
        self.stale = bool(fault and fault.kind == "stale")
        if fault and fault.kind == "status":
            self.refuse(fault.code, "", fault.message, fault.headers)
            return
        with self.hub.lock:
            self.dispatch()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def fault(self) -> Fault | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.used < fault.times and re.search(fault.pattern, f"{self.command} {self.route}"):
                    fault.used += 1
                    return fault
        return None

    def body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def json(self) -> dict[str, Any]:
        return json.loads(self.data or b"{}")

    def answer(self, content: Any = None, code: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()
        self.hub.log.append(f"{self.command} {self.route} {code}")
        if self.silent:
            self.close_connection = True
            return
        self.send_response(code)
        for key, value in {
            "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})
        }.items():  # fmt: skip
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, code: int, error: str, message: str, headers: dict[str, str] | None = None) -> None:
        self.silent = False
        extra = {"X-Error-Code": error} if error else {}
        self.answer({"error": message}, code, {**extra, "X-Error-Message": message, **(headers or {})})

    # ------------------------------------------------------------------ routes

    def dispatch(self) -> None:
        public = self.command in ("GET", "HEAD") or self.route.endswith("/paths-info/main")
        if self.route.startswith("/_objects/"):
            self.put_object()
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}" and not public:
            self.refuse(401, "", "Invalid username or password.")
        elif self.route == "/api/whoami-v2":
            self.whoami()
        elif self.route == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif self.route == "/api/repos/create":
            self.create()
        elif self.route.startswith("/api/collections"):
            self.collection(self.route.removeprefix("/api/collections").strip("/"))
        elif match := re.fullmatch(r"/(datasets/|spaces/|)([^/]+/[^/]+)\.git/info/lfs/objects/batch", self.route):
            self.lfs_batch(*match.groups())
        elif match := re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/(.*))?", self.route):
            self.api(*match.groups(default=""))
        elif match := re.fullmatch(r"/(datasets/|spaces/|)([^/]+/[^/]+)/resolve/(refs/pr/\d+|[^/]+)/(.+)", self.route):
            prefix, name, revision, path = match.groups()
            self.file(KINDS[prefix], name, revision, path)
        else:
            self.refuse(404, "", f"no route {self.command} {self.route}")

    def whoami(self) -> None:
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.refuse(401, "", "Invalid username or password.")
            return
        organisations = [{"name": name, "fullname": name, "roleInOrg": role} for name, role in self.hub.roles.items()]
        token = {"accessToken": {"displayName": "tests", "role": "write"}}
        self.answer({"type": "user", "name": self.hub.user, "orgs": organisations, "auth": token})

    def may_write(self, name: str) -> bool:
        owner = name.partition("/")[0]
        return owner == self.hub.user or self.hub.roles.get(owner) in ("write", "admin")

    def create(self) -> None:
        body = self.json()
        kind, name = body.get("type") or "model", f"{body.get('organization') or self.hub.user}/{body['name']}"
        url = {"url": f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{name}", "name": name, "id": name}
        if not self.may_write(name):
            self.refuse(403, "", f"You don't have the rights to create a {kind} under this namespace")
        elif (kind, name) in self.hub.repos:
            self.answer({"error": "You already created this repo", **url}, 409)
        else:
            self.hub.repos[kind, name] = Repo(
                kind, name, body.get("visibility") == "private" or bool(body.get("private")), body.get("sdk")
            )
            self.answer(url)

    def collection(self, rest: str) -> None:
        known = self.hub.collections
        if not rest and self.command == "GET":  # without positions, because the client counts them itself
            owned = [entry for entry in known.values() if entry["owner"]["name"] == self.query.get("owner")]
            self.answer([{key: entry[key] for key in entry if key != "position"} for entry in owned])
        elif not rest:
            body = self.json()
            if not self.may_write(body["namespace"] + "/"):
                self.refuse(403, "", "You don't have the rights to create a collection under this namespace")
                return
            words = re.sub(r"[^a-z0-9]+", "-", body["title"].lower())
            slug = f"{body['namespace']}/{words}-{hashlib.sha1(words.encode()).hexdigest()[:24]}"
            known[slug] = {
                "slug": slug, "title": body["title"], "description": body.get("description"), "items": [],
                "owner": {"name": body["namespace"], "type": "org"}, "private": bool(body.get("private")),
                "lastUpdated": DATE, "position": 0, "theme": "blue", "upvotes": 0,
            }  # fmt: skip
            self.answer(known[slug])
        else:
            entry = known.get(rest.removesuffix("/items"))
            if entry is None:
                self.refuse(404, "", "Collection not found")
                return
            if rest.endswith("/items"):
                item = self.json()["item"]
                if (item["type"], item["id"]) not in self.hub.repos:
                    self.refuse(404, "", f"{item['id']} not found")
                    return
                entry["items"].append({"_id": str(len(entry["items"])), "position": len(entry["items"]), **item})
            self.answer(entry)

    def lfs_batch(self, prefix: str, name: str) -> None:
        objects = []
        for wanted in self.json()["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:  # "actions" is omitted, not null, if there is nothing to do
                entry["actions"] = {"upload": {"href": f"{self.hub.url}/_objects/{wanted['oid']}", "header": {}}}
            objects.append(entry)
        self.answer({"transfer": "basic", "objects": objects})

    def put_object(self) -> None:
        name = self.route.removeprefix("/_objects/")
        if hashlib.sha256(self.data).hexdigest() != name:
            self.refuse(400, "", "the content does not have this hash")
        else:
            self.hub.objects[name] = self.data
            self.answer(headers={"ETag": name})

    def find_repo(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get((kind, name))
        signed_in = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if repo is None or (repo.private and not signed_in):
            self.refuse(404, "RepoNotFound", "Repository not found")
            return None
        return repo

    def api(self, kind: str, name: str, rest: str) -> None:
        repo = self.find_repo(kind, name)
        if repo is None:
            return
        action, _, argument = rest.partition("/")
        if self.command == "POST" and action in ("commit", "preupload", "branch", "variables"):
            if not self.may_write(name) and "create_pr" not in self.query:
                self.refuse(403, "", "You don't have write access to this repository")
                return
            {
                "commit": self.commit, "preupload": self.preupload, "branch": self.branch, "variables": self.variables
            }[action](repo, argument)  # fmt: skip
        elif action == "variables":
            self.answer({key: {"value": value} for key, value in repo.variables.items()})
        elif action == "auth-check":
            if repo.gated:
                self.refuse(403, "GatedRepo", "Access to this model is restricted")
            else:
                self.answer()
        elif action == "discussions":
            requests = [request for request in repo.requests.values() if request["status"] == "open"]
            self.answer({"discussions": requests, "count": len(requests), "start": 0})
        elif action == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": at} for name, at in repo.refs.items()
            ]
            self.answer({"branches": branches, "tags": [], "converts": []})
        else:
            self.read(repo, action, argument)

    def preupload(self, repo: Repo, revision: str) -> None:
        files = [
            {"path": file["path"], "uploadMode": "lfs" if is_lfs(file["path"], file["size"]) else "regular",
             "shouldIgnore": False, "oid": None}
            for file in self.json()["files"]
        ]  # fmt: skip
        self.answer({"files": files})

    def commit(self, repo: Repo, revision: str) -> None:
        head = repo.head(revision)
        if head is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        files, title = dict(head.files), ""
        for line in map(json.loads, self.data.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, head.id):
                    self.refuse(412, "", "A commit has happened since. Please refresh and try again.")
                    return
            elif line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                files.pop(value["path"], None)
        url = f"{self.hub.url}/{'' if repo.kind == 'model' else repo.kind + 's/'}{repo.name}"
        answer = {"success": True}
        if "create_pr" in self.query:
            number = len(repo.requests) + 1
            revision = f"refs/pr/{number}"
            repo.refs[revision] = head.id
            repo.requests[number] = {
                "num": number, "title": title, "status": "open", "isPullRequest": True, "createdAt": DATE,
                "author": {"name": self.hub.user}, "repo": {"name": repo.name, "type": repo.kind},
            }  # fmt: skip
            answer["pullRequestUrl"] = f"{url}/discussions/{number}"
        name = repo.commit(files, title, revision)
        self.answer({**answer, "commitOid": name, "commitUrl": f"{url}/commit/{name}"})

    def branch(self, repo: Repo, name: str) -> None:
        if name in repo.refs:
            self.refuse(409, "", "Reference already exists")
        else:
            repo.refs[name] = repo.refs["main"]
            self.answer()

    def variables(self, repo: Repo, _: str) -> None:
        body = self.json()
        repo.variables[body["key"]] = body["value"]
        self.answer({key: {"value": value} for key, value in repo.variables.items()})

    def read(self, repo: Repo, action: str, argument: str) -> None:
        parts = re.fullmatch(r"(refs/pr/\d+|[^/]*)/?(.*)", argument)
        revision, path = (parts[1] or "main", parts[2]) if parts else ("main", "")
        head = repo.head(revision)
        if head is not None and self.stale:
            head = repo.commits[head.parent] if head.parent else head
        if head is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif action in ("", "revision"):
            self.answer(self.info(repo, head))
        elif action == "tree":
            recursive = self.query.get("recursive", "").lower() in ("true", "1")
            entries = self.tree(head, path, recursive)
            if path and not entries:
                self.refuse(404, "EntryNotFound", f"{path} does not exist on {revision}")
            else:
                self.answer(entries, headers={"X-Repo-Commit": head.id})
        elif action == "paths-info":
            form = self.data.decode()
            paths = json.loads(form)["paths"] if form.startswith("{") else parse_qs(form).get("paths", [])
            entries = {entry["path"]: entry for entry in self.tree(head, "", True)}
            self.answer([entries[path] for path in paths if path in entries])
        elif action == "commits":
            history, commit = [], head
            while commit is not None:
                history.append({"id": commit.id, "title": commit.title, "message": "", "date": DATE, "authors": []})
                commit = repo.commits[commit.parent] if commit.parent else None
            self.answer(history)
        else:
            self.refuse(404, "", f"no route {self.command} {self.route}")

    def info(self, repo: Repo, head: Commit) -> dict[str, Any]:
        entries = [self.entry(path, content) for path, content in sorted(head.files.items())]
        siblings = [
            {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"],
             **({"lfs": {"sha256": entry["lfs"]["oid"], **entry["lfs"]}} if "lfs" in entry else {})}
            for entry in entries
        ]  # fmt: skip
        return {
            "_id": "0" * 24, "id": repo.name, "modelId": repo.name, "author": repo.name.partition("/")[0],
            "sha": head.id, "lastModified": DATE, "createdAt": DATE, "private": repo.private,
            "visibility": "private" if repo.private else "public", "gated": repo.gated,
            "disabled": False,
            "downloads": 0, "likes": 0, "tags": [], "siblings": siblings, "sdk": repo.sdk,
            "cardData": card_data(head.files.get("README.md", b"")),
        }  # fmt: skip

    def entry(self, path: str, content: bytes) -> dict[str, Any]:
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob}
        if is_lfs(path, len(content)):
            name = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": name, "size": len(content), "pointerSize": 134}
        return entry

    def tree(self, head: Commit, under: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{under}/" if under else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, content in sorted(head.files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                directory = prefix + "/".join(parts[:depth])
                name = hashlib.sha1(directory.encode()).hexdigest()
                entries[directory] = {"type": "directory", "path": directory, "size": 0, "oid": name}
            if recursive or len(parts) == 1:
                entries[path] = self.entry(path, content)
        last = {"id": head.id, "title": head.title, "date": DATE}
        return [{**entry, "lastCommit": last} for entry in entries.values()]

    def file(self, kind: str, name: str, revision: str, path: str) -> None:
        repo = self.find_repo(kind, name)
        if repo is None:
            return
        head = repo.head(revision)
        if head is None:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if path not in head.files:
            self.refuse(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": head.id})
            return
        content = head.files[path]
        entry = self.entry(path, content)
        tag = f'"{entry.get("lfs", entry)["oid"]}"'
        headers = {
            "ETag": tag, "X-Repo-Commit": head.id, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream",
            **({"X-Linked-Etag": tag, "X-Linked-Size": str(len(content))} if "lfs" in entry else {}),
        }  # fmt: skip
        requested = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if requested is None or self.command == "HEAD":
            self.answer(content, headers=headers)
            return
        first = int(requested[1]) if requested[1] else max(0, len(content) - int(requested[2]))
        last = min(int(requested[2]), len(content) - 1) if requested[1] and requested[2] else len(content) - 1
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self.answer(content[first : last + 1], 206, headers)


def card_data(readme: bytes) -> dict[str, Any] | None:
    import yaml

    match = re.match(rb"---\n(.*?)\n---", readme, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None
