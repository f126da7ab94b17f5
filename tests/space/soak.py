"""Load test of the demo: no server errors, no failed questions, constant memory.

`make soak` runs `python tests/space/soak.py --visitors 50 --seconds 300`; the defaults are shorter. Each visitor opens
the demo, asks through the endpoints, pauses, and sometimes sends invalid input.

Memory may grow until everything with a size limit is full. The demo keeps `MAX_SESSIONS` sessions, so the test first
makes that many calls. During the first part of the run (`SETTLING`), threads start and reference texts are loaded.
After that, a line is fitted to memory as a function of the number of questions. The result is memory per question
rather than per second, because slower machines answer fewer questions.
"""

import argparse
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np

DEMO = Path(__file__).parents[2] / "spaces" / "explainer"
sys.path.insert(0, str(DEMO))
from limits import MAX_SESSIONS  # noqa: E402

COUNTRIES = [
    "France",
    "Germany",
    "Italy",
    "Spain",
    "Peru",
    "Chile",
    "Kenya",
    "Ghana",
    "Japan",
    "China",
    "Norway",
    "Sweden",
    "Cuba",
    "Brazil",
    "Egypt",
    "Nepal",
]
SETTLING = 0.25
"""Fraction of the time before memory is measured."""
MAX_LEAK_KB = 30
"""Allowed growth per question. A session that is never dropped costs at least 100 kB."""
NOISE_MB = 15
"""Growth that is ignored, whatever the number of questions."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-u", DEMO / "app.py"]
    process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True)
    try:
        wait_until_launched(process)
        fill_sessions(port)
        return report(*load(port, process.pid, arguments.visitors, arguments.seconds))
    finally:
        process.terminate()
        process.wait(20)


def wait_until_launched(process: subprocess.Popen) -> None:
    """Wait for the last line that Gradio prints. It accepts connections earlier, but stops if its first request to
    itself is slow."""
    assert process.stdout is not None
    if not any("HTTP URL" in line for line in process.stdout):
        raise SystemExit("The demo did not start.")
    threading.Thread(target=process.stdout.read, daemon=True).start()  # an unread pipe would block the server


def fill_sessions(port: int) -> None:
    """Fill the session store with calls that do not run the model."""
    for n in range(MAX_SESSIONS + 50):
        outcome = ask(port, "explain_feature", ["", 0, 0], f"203.0.113.{n % 250}")
        if outcome != "error":
            raise SystemExit(f"An empty text gave {outcome!r}; expected 'error'.")


def load(port: int, pid: int, n_visitors: int, seconds: float) -> tuple[Counter, list[float], list[tuple[int, float]]]:
    """Return counts of outcomes, seconds per question, and (number of questions, memory in MB) over time."""
    outcomes: Counter = Counter()
    times: list[float] = []
    memory: list[tuple[int, float]] = []
    end = time.monotonic() + seconds
    visitors = [
        threading.Thread(target=visit, args=(port, f"198.51.100.{n}", end, outcomes, times), daemon=True)
        for n in range(1, n_visitors + 1)
    ]
    for visitor in visitors:
        visitor.start()
    while time.monotonic() < end:
        memory.append((len(times), resident(pid)))
        time.sleep(1)
    for visitor in visitors:
        visitor.join(120)
    outcomes["UNEXPECTED visitor still waiting"] += sum(visitor.is_alive() for visitor in visitors)
    return +outcomes, times, memory


def visit(port: int, address: str, end: float, outcomes: Counter, times: list[float]) -> None:
    rng = random.Random(address)
    while time.monotonic() < end:
        try:
            status, _ = get(port, "/", address)
            outcomes[f"demo {status}"] += 1
            name, arguments, valid = question(rng)
            start = time.monotonic()
            outcome = ask(port, name, arguments, address)
            times.append(time.monotonic() - start)
            expected = "complete" if valid else "error"
            if outcome != expected:
                outcomes[f"UNEXPECTED {outcome}"] += 1
            else:
                outcomes["answered" if valid else "refused"] += 1
        except OSError as error:
            outcomes[f"UNEXPECTED {type(error).__name__}"] += 1
        time.sleep(rng.uniform(2, 6))


def question(rng: random.Random) -> tuple[str, list, bool]:
    """Return an endpoint, its arguments, and whether they are valid."""
    one, other = rng.sample(COUNTRIES, 2)
    kind = rng.random()
    if kind < 0.1:
        return "explain_feature", ["", 0, 0], False
    if kind < 0.5:
        return "explain_feature", [f"The capital of {one} is", rng.randrange(5), -1], True
    if kind < 0.8:
        texts = [f"The language of {country} is" for country in (one, other)]
        return "explain_patch", [*texts, [0, 1], 4, 4], True
    hint = f"\nHint: The answer is {other}."
    return "explain_ablation", [f"Question: Where is {one}?\nEurope, Asia or Africa?{hint}\nAnswer:", hint], True


def ask(port: int, name: str, arguments: list, address: str) -> str:
    """Return the last event of the answer: "complete", "error", or the HTTP status of a failed call."""
    headers = {"Content-Type": "application/json", "X-Forwarded-For": address}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("POST", f"/gradio_api/call/{name}", json.dumps({"data": arguments}), headers)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != 200:
        return f"status {answer.status}"
    connection.close()
    status, stream = get(port, f"/gradio_api/call/{name}/{json.loads(body)['event_id']}", address)
    events = [line.removeprefix("event: ") for line in stream.splitlines() if line.startswith("event: ")]
    return events[-1] if status == 200 and events else f"status {status}"


def get(port: int, path: str, address: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request("GET", path, headers={"X-Forwarded-For": address})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body


def resident(pid: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def report(outcomes: Counter, times: list[float], memory: list[tuple[int, float]]) -> int:
    """Print a summary, and return 0 if the demo passed, else 1."""
    questions, megabytes = np.array(memory[int(len(memory) * SETTLING) :]).T
    slope = np.polyfit(questions, megabytes, 1)[0]
    n = questions[-1] - questions[0]
    flat = slope * n < NOISE_MB or slope * 1024 < MAX_LEAK_KB
    times = sorted(times)
    print(", ".join(f"{name}: {n}" for name, n in sorted(outcomes.items())))
    print(f"seconds per question: median {times[len(times) // 2]:.2f}, 95 % within {times[int(len(times) * 0.95)]:.2f}")
    print(f"memory in MB over time: {', '.join(f'{each:.0f}' for _, each in memory[:: len(memory) // 10 or 1])}")
    print(f"memory after settling: {slope * 1024:.1f} kB per question, {slope * n:.0f} MB in {n:.0f} questions")
    failures = [name for name in outcomes if name.startswith(("UNEXPECTED", "demo 5"))]
    if not flat:
        failures.append("memory grew")
    if not outcomes["answered"]:
        failures.append("no question was answered")
    print(f"failed: {', '.join(failures)}" if failures else "passed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
