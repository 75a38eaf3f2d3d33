"""A Neptune server for tests: speaks to the real client over loopback and keeps every point, equal ones too."""

import base64
import json
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

PROJECT = "lab/search"
KINDS = {
    "assignFloat": "float",
    "assignInt": "int",
    "assignBool": "bool",
    "assignString": "string",
    "assignDatetime": "datetime",
    "insertStrings": "stringSet",
    "logFloats": "floatSeries",
}


@dataclass(slots=True)
class StoredRun:
    """What the server was sent for one run."""

    kinds: dict[str, str] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)

    def execute(self, operation: dict[str, Any]) -> None:
        path = operation.pop("path")
        [(name, content)] = operation.items()
        self.kinds[path] = KINDS[name]
        if name == "logFloats":
            self.series.setdefault(path, []).extend((entry["step"], entry["value"]) for entry in content["entries"])
        elif name == "insertStrings":
            self.fields[path] = sorted({*self.fields.get(path, ()), *content["values"]})
        else:
            self.fields[path] = content.get("value", content.get("valueMilliseconds"))


class NeptuneServer:
    """Its runs by custom id; `stop` and `start` keep them and the port."""

    def __init__(self) -> None:
        self.runs: dict[str, StoredRun] = {}
        self._port = 0
        self.start()

    def start(self) -> None:
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._port = self._http.server_port
        Thread(target=self._http.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def token(self) -> str:
        return api_token(self.url)

    def answer(self, path: str, query: dict[str, str], body: Any) -> Any:
        match path.removeprefix("/api/"):
            case "backend/swagger.json":
                return _swagger({"getClientConfig": "get", "exchangeApiToken": "get", "getProject": "get"})
            case "leaderboard/swagger.json":
                posts = ["createExperiment", "executeOperations", "ping"]
                gets = ["getExperimentAttributes", "getFloatSeriesValues"]
                return _swagger(dict.fromkeys(posts, "post") | dict.fromkeys(gets, "get"))
            case "getClientConfig":
                return {"apiUrl": self.url, "applicationUrl": self.url, "pyLibVersions": {}}
            case "exchangeApiToken":
                return {"accessToken": _jwt(self.url), "refreshToken": _jwt(self.url)}
            case "getProject":
                return {"id": "p", "name": "search", "version": 2, "organizationName": "lab", "projectKey": "SEA"}
            case "createExperiment":
                self.runs.setdefault(body["customId"], StoredRun())
                described = {"id": body["customId"], "type": "run", "shortId": "SEA-1", "trashed": False}
                return described | {"organizationName": "lab", "projectName": "search"}
            case "executeOperations":
                for operation in body:
                    self.runs[query["experimentId"]].execute(operation)
                return []
            case "getExperimentAttributes":
                kinds = self.runs[query["experimentId"]].kinds
                return {"attributes": [{"name": name, "type": kind} for name, kind in kinds.items()]}
            case "getFloatSeriesValues":
                points = self.runs[query["experimentId"]].series[query["attribute"]]
                values = [{"timestampMillis": 0, "step": step, "value": value} for step, value in points]
                return {"totalItemCount": len(values), "values": values}
            case _:  # ping, and the refresh of the session's token
                return {"access_token": _jwt(self.url), "refresh_token": _jwt(self.url), "token_type": "bearer"}


def api_token(address: str, secret: str = "s3cret") -> str:
    """A token for the server at an address."""
    return base64.b64encode(json.dumps({"api_address": address, "secret": secret}).encode()).decode()


def _handler(server: NeptuneServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(sent) if "json" in self.headers.get("Content-Type", "") else None
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            token = self.headers.get("X-Neptune-Api-Token", server.token)
            content = json.dumps(server.answer(parts.path, query, body)).encode()
            self.send_response(200 if token == server.token else 401)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - http.server's names

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


def _swagger(methods: dict[str, str]) -> dict[str, Any]:
    """The least that the client's swagger reader needs: every operation takes every parameter and answers an object."""
    queries = dict.fromkeys(["alpha", "projectIdentifier", "experimentId", "attribute", "limit", "offset"], "query")
    where = {"X-Neptune-Api-Token": "header", "X-Neptune-CliVersion": "header"} | queries
    named = [{"name": name, "in": place, "type": "string"} for name, place in where.items()]
    bodies = {"createExperiment": "experimentCreationParams", "executeOperations": "operations"}
    reference = {"$ref": "#/definitions/Object"}
    objects = {"type": "array", "items": reference}
    fields = {"pyLibVersions": reference, "attributes": objects, "values": objects}
    paths = {}
    for name, method in methods.items():
        body = [{"name": bodies[name], "in": "body", "schema": {}}] if name in bodies else []
        answer = {"description": "", "schema": objects if name == "executeOperations" else reference}
        operation = {"operationId": name, "tags": ["api"], "parameters": named + body, "responses": {"200": answer}}
        paths[f"/{name}"] = {method: operation}
    definitions = {"Object": {"type": "object", "properties": fields}}
    info = {"title": "neptune", "version": "1"}
    return {"swagger": "2.0", "info": info, "basePath": "/api", "paths": paths, "definitions": definitions}


def _jwt(issuer: str) -> str:
    claims = {"exp": int(time.time()) + 3600, "azp": "cli", "iss": issuer}
    parts = [json.dumps({"alg": "none"}), json.dumps(claims), ""]
    return ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
