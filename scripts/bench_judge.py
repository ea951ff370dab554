#!/usr/bin/env python3
"""How fast the judge asks, beside a bare asyncio loop over the same client, and in what memory.

A local server, in a process of its own, answers rubric calls after a fixed time. The two take
turns, each run in a process of its own: `bare` sends the same requests through AsyncOpenAI with as
many workers, and keeps nothing; `judge` is run_calls, with its ledger, prices, a cap and grades.
Ratios are of neighbours in time, since load of the machine falls on both. Prints JSON.

    python scripts/bench_judge.py --calls 10000 --concurrency 64 --latency 0.05
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import openai

from annotator.signals.judges.client import ClientSettings
from annotator.signals.judges.grades import grade
from annotator.signals.judges.ledger import spending
from annotator.signals.judges.prices import Price
from annotator.signals.judges.reply import ChatRequest
from annotator.signals.judges.rubric import load_rubric, messages
from annotator.signals.judges.runner import RunSettings, run_calls
from annotator.store import open_db
from scripts.measuring import peak_memory
from tests.openai_server import serving_apart

PRICE = Price(0.15, 0.075, 0.15, 0.60, date(2026, 1, 1))
PARAMS = (
    ("logprobs", True),
    ("max_completion_tokens", 8),
    ("seed", 0),
    ("temperature", 0),
    ("top_logprobs", 10),
)


def main() -> None:
    options = parse()
    if options.measure:
        measured = {"bare": bare, "judge": judge}[options.measure](options)
        print(json.dumps({**measured, "peak_megabytes": round(peak_memory() / 1e6, 1)}))
        return
    with serving_apart(latency=options.latency) as server:
        options.url = server.url
        in_own_process("bare", options, calls=200)  # the server's first answers are slower
        runs: dict[str, list[dict[str, Any]]] = {"bare": [], "judge": []}
        for turn in range(options.repeat):
            # Who goes first takes turns too.
            for name in sorted(runs, reverse=bool(turn % 2)):
                server.clear_ledger()
                runs[name].append(in_own_process(name, options, calls=options.calls))
                assert len(server.ledger(bodies=False)["arrivals"]) == options.calls
    print(json.dumps(report(options, runs), indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.05, help="seconds before an answer")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--measure", choices=["bare", "judge"], help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args()


def report(options: argparse.Namespace, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    rates = {name: [run["calls_per_second"] for run in runs[name]] for name in runs}
    ratios = [ours / bare for ours, bare in zip(rates["judge"], rates["bare"], strict=True)]
    return {
        "python": platform.python_version(),
        "openai": openai.__version__,
        "processors": os.cpu_count(),
        "load_at_end": round(os.getloadavg()[0], 2),
        "calls": options.calls,
        "concurrency": options.concurrency,
        "latency_seconds": options.latency,
        "calls_per_second": rates,
        "processor_milliseconds_a_call": {
            name: [run["processor_milliseconds_a_call"] for run in runs[name]] for name in runs
        },
        "judge_over_bare": [round(ratio, 3) for ratio in ratios],
        "judge_over_bare_median": round(statistics.median(ratios), 3),
        "peak_megabytes": {name: max(run["peak_megabytes"] for run in runs[name]) for name in runs},
    }


def in_own_process(name: str, options: argparse.Namespace, calls: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--measure", name, "--url", options.url]
    command += ["--calls", str(calls), "--concurrency", str(options.concurrency)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def rubric_requests(n: int) -> Iterator[ChatRequest]:
    """What the route `rubric` asks about n responses of some 800 characters."""
    rubric = load_rubric()
    criterion = rubric.calls[0]
    for i in range(n):
        prompt = (("user", f"Question {i // 4}: how does one keep bees through a long winter?"),)
        response = f"Answer {i} [[grade {1 + i % 5}]]. " + "One leaves them enough honey. " * 25
        yield ChatRequest("judge", messages(rubric, prompt, response, criterion), PARAMS)


def bare(options: argparse.Namespace) -> dict[str, Any]:
    async def run() -> None:
        waiting = rubric_requests(options.calls)
        async with openai.AsyncOpenAI(
            base_url=options.url, api_key="sk-any", max_retries=0, timeout=60.0
        ) as client:

            async def work() -> None:
                for request in waiting:
                    await client.chat.completions.create(**request.body())

            await asyncio.gather(*(work() for _ in range(options.concurrency)))

    return timed(options.calls, lambda: asyncio.run(run()))


def judge(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "annotator.db"
        db = open_db(path, create=True)
        settings = RunSettings(options.concurrency, price=PRICE, max_cost=100.0)

        def run() -> None:
            done = run_calls(
                db,
                path,
                rubric_requests(options.calls),
                ClientSettings(options.url, "sk-any"),
                settings,
                lambda reply: void(grade([reply], "logprobs")),
            )
            assert done.ok == done.sent == options.calls, done

        measured = timed(options.calls, run)
        assert spending(db).n_attempts == options.calls
        db.close()
        return measured


def void(_: object) -> None:
    """Takes a value that nobody needs."""


def timed(calls: int, run: Any) -> dict[str, Any]:
    started, worked = time.perf_counter(), time.process_time()
    run()
    seconds, processor = time.perf_counter() - started, time.process_time() - worked
    return {
        "calls_per_second": round(calls / seconds, 1),
        "processor_milliseconds_a_call": round(1000 * processor / calls, 3),
    }


if __name__ == "__main__":
    main()
