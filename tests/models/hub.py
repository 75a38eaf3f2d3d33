"""A program: a model hub on this machine with one model in it, used as `models.encoders` uses the real one.

It answers what the hub's client asks for: a repository's commit, its files, and each file under the commit.
It prints, as JSON, the files that were served up to each stage and the last stage's error.
"""

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

FOLDER = Path(sys.argv[1])
COMMIT = "0" * 40
REPOSITORY = "/api/models/someone/tiny"
served: list[str] = []


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        files = sorted(FOLDER.iterdir())
        if self.path.startswith(f"{REPOSITORY}/tree/"):
            tree = [{"type": "file", "path": path.name, "size": path.stat().st_size, "oid": "1"} for path in files]
            self.answer(json.dumps(tree).encode())
        elif self.path.startswith(REPOSITORY):
            siblings = [{"rfilename": path.name} for path in files]
            self.answer(json.dumps({"id": "someone/tiny", "sha": COMMIT, "siblings": siblings}).encode())
        elif self.path.startswith(f"/someone/tiny/resolve/{COMMIT}/"):
            name = self.path.rsplit("/", 1)[1]
            served.extend([name] if self.command == "GET" else [])
            self.answer((FOLDER / name).read_bytes(), etag=name)
        else:
            self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def answer(self, content: bytes, *, etag: str = "-") -> None:
        self.send_response(200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def use_hub(server: ThreadingHTTPServer) -> dict[str, object]:
    from fold_search.models import abilities, encoders

    stages: dict[str, object] = {}
    abilities.check_encoder("someone/tiny", abilities.Uses(trainable_layers=2))
    stages["checked"] = sorted(served)
    encoders.load_encoder("someone/tiny")
    stages["loaded"] = sorted(served)
    server.shutdown()
    server.server_close()
    encoders.hub_folder.cache_clear()
    encoders.load_encoder("someone/tiny")
    stages["loaded without a hub"] = sorted(served)
    pauses: list[float] = []
    time.sleep = pauses.append
    try:
        abilities.check_encoder("someone/other")
    except encoders.EncoderError as error:
        stages["error"] = str(error)
    stages["at once"] = not pauses
    return stages


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    # The client reads it when it is imported.
    os.environ["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    json.dump(use_hub(server), sys.stdout)
