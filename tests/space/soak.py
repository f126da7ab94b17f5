"""Hold the page under load: no answer of 5xx, no failed question, memory flat.

`python tests/space/soak.py --visitors 50 --seconds 300` is what `make soak` runs; the default is a short one. Each
visitor opens the page, asks through the endpoints, thinks a while, and now and then asks what cannot be answered.

Memory may grow until everything that has a limit is full: the page remembers `MAX_SESSIONS` sessions, so that many
calls go first, and the first part of the run (`SETTLING`) starts the threads and loads what the questions look up.
From then on a line is fitted to memory over questions. A machine that is twice as slow asks half as many, so what is
judged is memory a question, not a second.
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

PAGE = Path(__file__).parents[2] / "spaces" / "explainer"
sys.path.insert(0, str(PAGE))
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
SETTLING = 0.25  # of the time
MAX_LEAK_KB = 30  # a question; a session that is never forgotten costs 100 and more
NOISE_MB = 15  # growth that says nothing, however few the questions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visitors", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-u", PAGE / "app.py"]
    process = subprocess.Popen(command, env=os.environ | settings, stdout=subprocess.PIPE, text=True)
    try:
        wait_until_launched(process)
        fill_sessions(port)
        return report(*load(port, process.pid, arguments.visitors, arguments.seconds))
    finally:
        process.terminate()
        process.wait(20)


def wait_until_launched(process: subprocess.Popen) -> None:
    """Read to its last line what gradio says: it listens earlier, but gives up if its own first request is slow."""
    assert process.stdout is not None
    if not any("HTTP URL" in line for line in process.stdout):
        raise SystemExit("the page did not start")
    threading.Thread(target=process.stdout.read, daemon=True).start()  # so that it never waits for us


def fill_sessions(port: int) -> None:
    """Make the page remember as many sessions as it ever will, with calls that ask nothing of the model."""
    for n in range(MAX_SESSIONS + 50):
        outcome = ask(port, "explain_feature", ["", 0, 0], f"203.0.113.{n % 250}")
        if outcome != "error":
            raise SystemExit(f"an empty text was not refused but answered with {outcome}")


def load(port: int, pid: int, n_visitors: int, seconds: float) -> tuple[Counter, list[float], list[tuple[int, float]]]:
    """Outcomes counted, seconds each question took, and over time the questions so far with the page's memory in MB."""
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
    outcomes["visitor still waiting"] += sum(visitor.is_alive() for visitor in visitors)
    return +outcomes, times, memory


def visit(port: int, address: str, end: float, outcomes: Counter, times: list[float]) -> None:
    rng = random.Random(address)
    while time.monotonic() < end:
        try:
            status, _ = get(port, "/", address)
            outcomes[f"page {status}"] += 1
            name, arguments, answerable = question(rng)
            start = time.monotonic()
            outcome = ask(port, name, arguments, address)
            times.append(time.monotonic() - start)
            expected = "complete" if answerable else "error"
            outcomes[
                "answered"
                if outcome == expected == "complete"
                else "refused"
                if outcome == expected
                else f"WRONG {outcome}"
            ] += 1
        except OSError as error:
            outcomes[f"WRONG {type(error).__name__}"] += 1
        time.sleep(rng.uniform(2, 6))


def question(rng: random.Random) -> tuple[str, list, bool]:
    """An endpoint, its arguments, and whether they can be answered."""
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
    """The event that ends the answer's stream: complete, error, or the status of a refused call."""
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
    """Memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def report(outcomes: Counter, times: list[float], memory: list[tuple[int, float]]) -> int:
    """Print what was seen; 0 if the page held."""
    questions, megabytes = np.array(memory[int(len(memory) * SETTLING) :]).T
    slope = np.polyfit(questions, megabytes, 1)[0]
    n = questions[-1] - questions[0]
    flat = slope * n < NOISE_MB or slope * 1024 < MAX_LEAK_KB
    times = sorted(times)
    print(", ".join(f"{name}: {n}" for name, n in sorted(outcomes.items())))
    print(f"seconds a question: median {times[len(times) // 2]:.2f}, 95 % within {times[int(len(times) * 0.95)]:.2f}")
    print(f"memory in MB, over time: {', '.join(f'{each:.0f}' for _, each in memory[:: len(memory) // 10 or 1])}")
    print(f"memory after settling: {slope * 1024:.1f} kB a question, {slope * n:.0f} MB in {n:.0f} questions")
    wrong = [name for name in outcomes if "WRONG" in name or "still" in name or name.startswith("page 5")]
    held = not wrong and flat and outcomes["answered"] > 0
    print("held" if held else f"did not hold: {', '.join(wrong) or 'memory grew'}")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
