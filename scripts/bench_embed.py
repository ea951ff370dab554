#!/usr/bin/env python
"""Embedding speed against sentence-transformers as it comes, in one run, taking turns.

    python scripts/bench_embed.py --texts 400 --turns 4 > bench-embed.json

A is `SentenceTransformer.encode` with its defaults: batches of 32, float32, and whatever lies
behind the model's window cut off. B is the encoder of this package, which reads all of every
text. Both get the same texts in every turn: runs of words out of the docstrings of the standard
library, as long as chat replies are (log-normal, mean about 143 words).

Ratios are given twice: for texts within the window, where A and B do the same work, and for all
texts, per token that was read. Seconds of wall time depend on what else the machine does; of
processor time less so. Prints JSON.
"""

from __future__ import annotations

import argparse
import ast
import importlib.metadata
import json
import os
import platform
import random
import sys
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from annotator.signals.encoder import MINILM, find_weights, load_weights

MEDIAN_WORDS, SPREAD, MOST_WORDS = 110, 0.72, 900


def main() -> None:
    options = parse()
    weights = find_weights(options.encoder)
    ours = load_weights(weights, precision=options.precision)
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(weights.folder), device=ours.device)
    texts = replies(options.texts, options.seed)
    tokens = count_tokens(theirs, texts)
    window = theirs.max_seq_length - 2
    within = [text for text, n in zip(texts, tokens, strict=True) if n <= window]
    report = {
        "machine": machine(ours.device),
        "encoder": ours.name,
        "precision": ours.precision,
        "texts": describe(texts, tokens, window),
        "within_window": race(
            theirs, ours, within, options.turns, int(tokens[tokens <= window].sum()), None
        ),
        "all_texts": race(
            theirs, ours, texts, options.turns, int(np.minimum(tokens, window).sum()),
            int(tokens.sum()),
        ),
        "cosine_to_float32": agreement(theirs, ours, within),
    }  # fmt: skip
    print(json.dumps(report, indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--turns", type=int, default=4, help="A B A B ...: turns of each")
    parser.add_argument("--encoder", default=MINILM)
    parser.add_argument("--precision", default="auto", choices=["auto", "bf16", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def replies(n: int, seed: int) -> list[str]:
    """Runs of words as long as chat replies."""
    words = " ".join(docstrings()).split()
    draw = random.Random(seed)
    texts = []
    for _ in range(n):
        length = int(draw.lognormvariate(np.log(MEDIAN_WORDS), SPREAD))
        length = max(5, min(length, MOST_WORDS))
        start = draw.randrange(len(words) - length)
        texts.append(" ".join(words[start : start + length]))
    return texts


def docstrings() -> Iterator[str]:
    """Of the standard library's modules, classes and functions."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            text = ast.get_docstring(node) if isinstance(node, documented) else None
            if text:
                yield text


def count_tokens(theirs: Any, texts: list[str]) -> NDArray[np.int64]:
    """Tokens of each text, special ones left out."""
    found = theirs.tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)
    return np.array([len(ids) for ids in found["input_ids"]])


def describe(texts: list[str], tokens: NDArray[np.int64], window: int) -> dict[str, float]:
    return {
        "count": len(texts),
        "mean_words": round(float(np.mean([len(text.split()) for text in texts])), 1),
        "mean_tokens": round(float(tokens.mean()), 1),
        "median_tokens": float(np.median(tokens)),
        "window": window,
        "share_beyond_window": round(float((tokens > window).mean()), 3),
    }


def race(
    theirs: Any, ours: Any, texts: list[str], turns: int, read_a: int, read_b: int | None
) -> dict[str, Any]:
    """Seconds of A and B in turn; ratios per token that each has read, of the medians."""
    read_b = read_b or read_a
    contestants: dict[str, Callable[[], object]] = {
        "plain": lambda: theirs.encode(texts, show_progress_bar=False),
        "annotator": lambda: ours.encode(texts),
    }
    for run in contestants.values():
        run()
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, run in contestants.items():
            taken[name].append(timed(run))
    per_token = {
        name: np.median(np.array(taken[name]), axis=0) / read
        for name, read in (("plain", read_a), ("annotator", read_b))
    }
    wall, cpu = per_token["plain"] / per_token["annotator"]
    by_turn = [
        round(a[0] / b[0] * read_b / read_a, 2)
        for a, b in zip(taken["plain"], taken["annotator"], strict=True)
    ]
    return {
        "texts": len(texts),
        "tokens_read": {"plain": read_a, "annotator": read_b},
        "seconds_wall": {name: [round(t[0], 2) for t in times] for name, times in taken.items()},
        "seconds_cpu": {name: [round(t[1], 2) for t in times] for name, times in taken.items()},
        "tokens_per_second": {
            name: round(read / median(t[0] for t in taken[name]))
            for name, read in (("plain", read_a), ("annotator", read_b))
        },
        "ratio_wall": round(float(wall), 2),
        "ratio_cpu": round(float(cpu), 2),
        "ratio_wall_by_turn": by_turn,
    }


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds of wall and of processor time."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def agreement(theirs: Any, ours: Any, texts: list[str]) -> dict[str, float]:
    """Cosine between both on texts that A does not cut off."""
    plain = theirs.encode(texts, show_progress_bar=False)
    cosines = (plain * ours.encode(texts).vectors).sum(axis=1) / np.linalg.norm(plain, axis=1)
    return {"mean": round(float(cosines.mean()), 6), "min": round(float(cosines.min()), 6)}


def machine(device: str) -> dict[str, Any]:
    import torch

    return {
        "device": device,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "sentence_transformers": importlib.metadata.version("sentence-transformers"),
        "multiply_gflops_one_thread": multiplication_speed(),
    }


def processor() -> dict[str, str]:
    """What the kernel calls it: the same model name stands for several generations."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {"machine": platform.machine()}
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return {key: named[key] for key in ("model name", "cpu family", "model") if key in named}


def multiplication_speed() -> dict[str, float]:
    """How much faster this processor is in bf16 bounds what can be gained by it."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    speed = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.ones(1024, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        fastest = min(timed(lambda a=a, b=b: a @ b)[1] for _ in range(20))
        speed[str(dtype).removeprefix("torch.")] = round(2 * 1024 * 384 * 1536 / fastest / 1e9, 1)
    torch.set_num_threads(threads)
    return speed


if __name__ == "__main__":
    main()
