"""A local chat endpoint for tests, whose replies and failures are given by a function."""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

from huggingface_hub import constants


class FakeEndpoint:
    """A context manager that runs the endpoint.

    Attributes:
        reply: function `reply(system, user)` that returns the text of the reply, an HTTP status to fail with (int), or
            the number of seconds to wait before replying (float).
        check: function of a request's body that returns a message to refuse it with (HTTP 400), None to accept it, or
            the text of a reply that ends because it is too long (a tuple of one text).
        requests: bodies of all requests so far.
        keys: `Authorization` headers of all requests so far.
        url: base URL, set while the endpoint runs.
    """

    def __init__(self, reply: Callable[[str, str], str | int | float], check: Callable = lambda body: None):
        self.reply = reply
        self.check = check
        self.requests: list[dict] = []
        self.keys: list[str | None] = []

    def __enter__(self):
        fake = self
        # In offline mode huggingface_hub sends no requests, not even to a local server.
        self.offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, False

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                fake.requests.append(body)
                fake.keys.append(self.headers.get("Authorization"))
                reply = fake.reply(*(message["content"] for message in body["messages"]))
                if isinstance(reply, float):
                    sleep(reply)
                    reply = "too late"
                status = reply if isinstance(reply, int) else 200
                error, reason = "requested by the test", "stop"
                match fake.check(body):
                    case str(error):
                        status = 400
                    case (reply,):
                        reason = "length"
                message = {"role": "assistant", "content": reply}
                choices = [{"index": 0, "message": message, "finish_reason": reason}]
                completion = {"id": "1", "created": 0, "model": "fake", "object": "chat.completion", "choices": choices}
                payload = json.dumps(completion if status == 200 else {"error": error}).encode()
                self.send_response(status)
                if status == 429:
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                with suppress(BrokenPipeError):  # the client has timed out
                    self.wfile.write(payload)

            def log_message(self, *arguments):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception):
        constants.HF_HUB_OFFLINE = self.offline
        self.server.shutdown()
        self.server.server_close()
