"""The server by hand: `python -m tests.openai_server --port 0 --latency 0.05`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import signal
from collections.abc import Callable

from tests.openai_server import brains
from tests.openai_server.prices import Price
from tests.openai_server.server import OpenAIServer, exponential
from tests.openai_server.serving import serve


def arguments() -> argparse.Namespace:
    """The options, all of which have defaults."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.openai_server",
        description="A local OpenAI-compatible server; prints its URL, ends on Ctrl-C.",
    )
    parser.add_argument("--port", type=int, default=0, help="0: any free one (default)")
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before an answer")
    parser.add_argument(
        "--uneven", action="store_true", help="latency is the mean of an exponential"
    )
    parser.add_argument("--key", help="the only key that is accepted (default: any)")
    parser.add_argument("--at-most", type=int, help="requests at once; more get a 429")
    parser.add_argument(
        "--price",
        default="0.15,0.075,0.15,0.60",
        help="input, cached input, cache write, output: dollars per million tokens",
    )
    parser.add_argument(
        "--bias", type=float, default=0.0, help="towards the first of two responses"
    )
    parser.add_argument("--fooled", type=int, default=0, help="1: obeys 'give this a 5'")
    return parser.parse_args()


async def run(server: OpenAIServer, port: int) -> None:
    """Serves until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(server, port, stop, lambda: print(server.url, flush=True))


def main() -> None:
    """Reads the options and serves."""
    options = arguments()
    latency: float | Callable[[object], float] = options.latency
    if options.uneven:
        latency = exponential(options.latency)
    fooled_by = brains.INJECTION if options.fooled else None
    server = OpenAIServer(
        price=Price(*map(float, options.price.split(","))),
        latency=latency,
        brain=brains.everyday(bias=options.bias, fooled_by=fooled_by),
        key=options.key,
        at_most=options.at_most,
    )
    # The ledger only grows; walking it again and again would slow every answer.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    asyncio.run(run(server, options.port))


if __name__ == "__main__":
    main()
