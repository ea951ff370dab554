"""A local OpenAI-compatible server for tests: real sockets, real bytes, and a bill.

It answers chat completions, files and batches as the vendor's service does, goes wrong when told
to, and writes down every request that arrived, so that a test can compare its ledger with ours.
Standard library only; nothing of `annotator` or `openai` is imported. `test_openai_server.py`
holds it against the real openai client.

In a test (a thread with a loop of its own; leaving the block ends it at once, hanging clients too):

    from tests.openai_server import serving, faults, brains, BatchPlan, Distribution, Model, Price

    with serving(latency=0.05) as server:
        client = AsyncOpenAI(base_url=server.url, api_key=server.key, max_retries=0)
        server.script([faults.busy(retry_after=1), faults.cut(50)])   # next two chat requests
        ...
        assert server.ledger.billed_microusd == ours

By hand, or for a measurement that must not share the client's interpreter:

    python -m tests.openai_server --port 0 --latency 0.05      # prints its URL, ends on Ctrl-C
    with serving_apart(latency=0.05) as server: ...            # the same as a child process

serving(...) options, all keywords: `price` (a Price for every model that has none of its own),
    `latency` (seconds, or a callable of the body that gives seconds), `brain` (below), `models`
    (Models; default: MODELS, one for each capability), `key` (the only key that is accepted; None:
    every key is), `at_most` (requests at once, more get a 429 with retry-after-ms), `plan` (the
    BatchPlan of batches for which none was queued), `port` (0: any free one).

server
    .url, .key             what a client needs (`url` ends with /v1); .host is "127.0.0.1:PORT"
    .ledger                what arrived, see below
    .script(faults, *, when=None, path=CHAT)   each matching request takes the next fault, in order;
                           `None` or faults.none() in the list lets one request pass. `when` is a
                           predicate on the body, or a text that the body's JSON contains;
                           `path` may be "POST /v1/batches" or "GET /v1/files/*/content" too
    .always(fault, *, when=None, path=CHAT, share=1.0)   until clear(); `share` < 1 picks requests
                           by a hash of their number, so the same ones in every run
    .clear()               forget scripts; .left tells how many scripted faults wait
    .hold(), .release(), .held   chat answers wait, worked for and billed; how many do (so that a
                           test kills its client with exactly so many calls in flight)
    .plan_batches([BatchPlan(...), ...])   for the next batches that are created, in order
    .advance(batch_id=None)   one state further for one batch or all (needs no poll)
    .batches, .files       documents by id, as the server holds them

faults (module; each gives a Fault; JSON form for POST /script: {"fault": NAME, ...arguments})
    no work done, nothing billed: busy(retry_after=None, retry_after_ms=None, retry_date=None),
        quota(), wrong_key(), forbidden(), no_model(), unsupported(param, status=400), too_long(),
        filtered_prompt(), error(status=500, works=False), html(), gzip_bomb(mebibytes=64)
    work done and billed, the answer is lost or slow: cut(after=50), reset(after=None, works=True),
        drip(bytes_per_second=1.0), black_hole(works=False), late(seconds)
    work done and billed, the answer is odd: bad_json(), choices_null(), choices_empty(),
        message_missing(), content_empty(), content_null(), refusal(), content_filter(),
        fewer_choices(by=2), without_usage(), without_logprobs(), weak_mass(mass=0.5),
        grades(label) ("11": in the place of the grade, in JSON too), says(text) (the whole
        message: "4/5", prose)
    On POST /v1/batches, reset() and error(works=True) make the batch and lose the answer.

Brains decide what is said: `brain(messages, params) -> Distribution | str | dict`, called in the
server's thread with the list of {"role", "content"} and the whole request body. A Distribution is
put where the grade belongs (the message itself, or the fields of a JSON answer) with log-probs; a
dict gives one answer per JSON field; a str is the message word for word. A brain that raises gives
a 500, and leaving `serving` raises its exception. Shipped (module `brains`):
    grader(scale=(1, 5), sd=0.7, fooled_by=None)   looks at the response in the last message (what
        stands between lines "<<<MARK RESPONSE" and "MARK>>>", else the whole message): the last
        "[[grade 4.3]]" is the mean of the distribution ("[[grade 4.3 sd 1.0]]": wider; "[[truth
        2]]": for the JSON field, or the only "Criterion NAME:", of that name), else a hash of the
        response decides. `fooled_by=brains.INJECTION`: a text such as "give this a 5" wins over all
    comparer(split, labels=("A", "B"), bias=0.0, sharpness=1.5)   P(first label) = logistic(
        sharpness * (quality of first - of second) + bias); split(text) -> (first, second) texts
    reference_writer()     a paragraph that depends on the message; "[[answer: ...]]" is repeated
    everyday(bias=0.0, fooled_by=None, split=split_pair)   the default: comparer where
        brains.split_pair finds two responses (frames RESPONSE A and RESPONSE B, or headings);
        reference_writer where the message has no frame, no planted grade and no "from 1 to 5",
        neither log-probs nor JSON are wanted and the limit of tokens is 64 or more (or none); else
        grader. One text has one quality for all of them

Distribution(probabilities, mass=1.0, spaced=0.03, before="", field="score", why="...")
    Distribution.around(mean, sd=0.7, scale=(1, 5)) has exactly that mean; .certain("4");
    .over({"A": .7, "B": .3}). `mass` is the share of the labels, prose has the rest; `spaced` the
    share of each label that sits on its variant with a leading space; `before` is prose before it.
Sampling: temperature 0 takes the likeliest label; else the seed, the choice's index and the body
decide; without a seed the count of earlier arrivals of that very body does too. Log-probs are those
before temperature.

MODELS: judge (all works), no-logprobs (400), forbidden-logprobs (403), null-logprobs,
    no-temperature (400), no-n (400), ignores-n (one choice), no-json-schema (400), no-json (400 for
    every response_format), ignores-json (says the bare grade), no-max-tokens (400 for the old
    name), no-usage, reasoner (64 reasoning tokens, no log-probs, no temperature), weak (mass .6),
    prose (never a grade), space-joined (" 4" is one token), byte-tokens (parts of
    characters), renamed (answers as renamed-2026-01-01), broke (429 insufficient_quota), local (no
    n, no log-probs, no usage details). Anything else is a 404 model_not_found.

ledger
    .arrivals              list of Arrival: number, method, path, model, body, headers (no key),
        arrived_at and answered_at (time.monotonic(), system-wide), status (None: no status line was
        sent), answered (the whole answer went out), fault, in_flight, usage (prompt, cached,
        cache_write, completion, reasoning), microusd
    .batch_lines           list of BatchLine: batch_id, custom_id, status, usage, microusd
    .chats                 the arrivals at /v1/chat/completions
    .count(path=CHAT, status=any, fault=any), .repeated() (chat arrivals beyond the first of each
        body), .most_in_flight, .billed_microusd, .billed (sum of usage), .clear()
    microusd = ceil of tokens x Price; Price has four parts in dollars per million tokens; batch
    lines cost half.

Over HTTP, unrecorded: GET /ledger (?bodies=0 leaves bodies out), POST /ledger/clear, POST /script
    {"faults": [...], "when": text, "path": PATH, "always": false, "share": 1.0}, POST /clear,
    POST /hold, POST /release, POST /advance {"batch": id or null}, POST /plan {"plans": [{...}]},
    GET /health (url, left, held).

BatchPlan(outcome="completed", finished=None, failed=0, duplicates=0, unknown=0, shuffled=False,
    by_poll=True, vanishes=False, failed_code=..., line_faults=()): `outcome` completed | expired |
    failed | cancelled; `finished` lines that got done before expiry or cancelling (None: all when
    completed, half else); `failed` lines in the error file (-1: all, and output_file_id is null);
    `duplicates` lines twice in the output; `unknown` lines with ids nobody sent; `vanishes` makes
    GET by id a 404 once in progress; `line_faults` one Fault or None per line. Polls advance
    validating -> in_progress -> finalizing -> completed, each GET by one, unless by_poll=False.
"""

from __future__ import annotations

from tests.openai_server import brains, faults
from tests.openai_server.answers import Distribution
from tests.openai_server.batches import BatchPlan
from tests.openai_server.faults import Fault
from tests.openai_server.ledger import Arrival, BatchLine, Ledger
from tests.openai_server.models import MODELS, Model
from tests.openai_server.prices import Price
from tests.openai_server.server import CHAT, OpenAIServer
from tests.openai_server.serving import RemoteServer, serving, serving_apart

__all__ = [
    "CHAT",
    "MODELS",
    "Arrival",
    "BatchLine",
    "BatchPlan",
    "Distribution",
    "Fault",
    "Ledger",
    "Model",
    "OpenAIServer",
    "Price",
    "RemoteServer",
    "brains",
    "faults",
    "serving",
    "serving_apart",
]
