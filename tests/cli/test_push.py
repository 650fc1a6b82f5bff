"""``manyone push``, against a stand-in of the hub that writes down what it is asked."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

huggingface_hub = pytest.importorskip("huggingface_hub")


class Hub(BaseHTTPRequestHandler):
    """The requests of an upload of small files; a token is needed."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append((self.path, self.headers.get("Authorization"), body))
        if self.headers.get("Authorization") != "Bearer hf_right":
            self._send(401, {"error": "Invalid credentials"})
        elif self.path == "/api/repos/create":
            self._send(200, {"url": f"{self.server.url}/me/mine", "name": "me/mine", "id": "1"})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._send(
                200, {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
            )
        elif "/commit/" in self.path:
            self._send(200, {"commitUrl": f"{self.server.url}/me/mine/commit/{'0' * 40}", "commitOid": "0" * 40,
                             "pullRequestUrl": None})  # fmt: skip
        else:
            self._send(200, {})

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Authorization"), b""))
        self._send(404, {"error": "not here"})

    do_HEAD = do_GET

    def _send(self, code, content):
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing on stderr."""


@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked, server.url = [], f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def finished(manyone):
    code, _, problem = manyone("run", "average", "--base", _model("base", 0.0), "--experts", _model("a", 1.0),
                               _model("b", 3.0), "--out", "run")  # fmt: skip
    assert code == 0, problem
    return Path("run")


def _model(name, value):
    import numpy as np
    from safetensors.numpy import save_file

    Path(name).mkdir()
    save_file({"w": np.full((2, 2), value, np.float32)}, f"{name}/model.safetensors")
    Path(name, "config.json").write_text('{"model_type": "toy"}')
    return name


def test_a_dry_run_shows_what_would_be_sent(manyone, finished, hub):
    code, out, _ = manyone("push", finished, "me/mine", "--dry-run")
    assert code == 0
    assert "model.safetensors" in out
    assert "README.md" in out
    assert "tags manyone, merging, average" in out
    assert "nothing was sent" in out
    assert not hub.asked


def test_the_model_and_its_card_are_sent(manyone, finished, hub):
    code, out, problem = manyone("push", finished / "model", "me/mine", "--private", "--message", "the first")
    assert code == 0, problem
    assert "pushed: " in out
    (created,) = (json.loads(body) for path, _, body in hub.asked if path == "/api/repos/create")
    assert created["name"] == "mine"
    assert created.get("private") is True or created.get("visibility") == "private"  # by the library's version
    (commit,) = (body for path, _, body in hub.asked if "/commit/" in path)
    lines = [json.loads(line) for line in commit.splitlines()]
    assert lines[0]["value"]["summary"] == "the first"
    sent = {line["value"]["path"] for line in lines if line["key"] == "file"}
    assert {"model.safetensors", "README.md", "config.json"} <= sent
    assert not any("config.yaml" in path or "metrics" in path for path in sent)


def test_without_a_token_the_way_out_is_told(manyone, finished, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, problem = manyone("push", finished, "me/mine")
    assert code == 2
    assert "hf auth login" in problem
    assert problem.count("\n") == 1


def test_what_cannot_be_pushed(manyone, finished, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine alone")
    (finished / "model" / "link").symlink_to(secret)
    assert "a link out of the folder" in manyone("push", finished, "me/mine", "--dry-run")[2]
    (finished / "model" / "link").unlink()
    assert "no name of a repository" in manyone("push", finished, "me/../mine")[2]
    assert "no such folder" in manyone("push", "nowhere", "me/mine")[2]
    (finished / "done").unlink()
    assert "not finished: manyone resume" in manyone("push", finished, "me/mine")[2]
    Path("empty").mkdir()
    assert "no model is there" in manyone("push", "empty", "me/mine")[2]


def test_a_folder_of_runs_is_no_model(manyone, finished):
    Path("all").mkdir()
    finished.rename("all/run")
    assert "no model is there" in manyone("push", "all", "me/mine", "--dry-run")[2]


def test_no_answer_is_one_line(manyone, finished, hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    code, _, problem = manyone("push", finished, "me/mine")
    assert code == 2
    assert "try again" in problem


def test_an_adapter_that_names_a_folder_of_this_machine(manyone, finished):
    (finished / "model/adapter_config.json").write_text('{"base_model_name_or_path": "/home/me/base"}')
    assert (
        "names a folder of this machine as its base, /home/me/base" in manyone("push", finished, "a/b", "--dry-run")[1]
    )


def test_a_head_that_the_hub_would_refuse(manyone, finished):
    card = finished / "model" / "README.md"
    card.write_text("---\nmodel-index: 3\ntags: [a\n---\n\nbody\n")
    code, _, problem = manyone("push", finished, "me/mine", "--dry-run")
    assert code == 2
    assert "the hub would refuse its metadata" in problem
