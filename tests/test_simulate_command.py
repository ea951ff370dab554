"""`annotator simulate` as a person runs it: files in, words, JSON and pictures out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from sklearn.isotonic import IsotonicRegression

from annotator.cli import main
from annotator.cli.simulate import DEFAULT_STRATEGIES, METRIC_NAMES
from annotator.signals import embeddings
from annotator.simulate import SimulationError, simulation
from annotator.simulate.account import account
from annotator.simulate.simulation import METRICS, Request, checked, simulate
from annotator.simulate.words import lines, saved_sentence, sentences, tables
from annotator.simulate.world import load_world
from tests.fake_encoder import FakeEncoder
from tests.synthetic_world import ridge, synthetic_world

WORDS = ("calm", "loud", "short", "long", "kind", "dull", "plain", "odd")


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> FakeEncoder:
    """No weights: vectors come out of the texts' hashes."""
    fake = FakeEncoder(name="all-MiniLM-L6-v2")
    monkeypatch.setattr(embeddings, "find_weights", lambda name: fake)
    monkeypatch.setattr(embeddings, "load_weights", lambda weights, precision: fake)
    return fake


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of whoever runs the tests stays as it is; and no project is here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def small_learner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulation.simulate, "__kwdefaults__", {"make_learner": ridge})


def prompt_row(i: int, rng: np.random.Generator, kinds: tuple[str, ...]) -> dict[str, Any]:
    """A prompt with 2 to 5 answers, and for each pair one to three votes in either order."""
    k = 2 + i % 4
    comparisons = []
    for a in range(k):
        for b in range(a + 1, k):
            for voter in range(int(rng.integers(1, 4))):
                first, second = (a, b) if rng.random() < 0.5 else (b, a)
                label = str(rng.choice(["a", "b", "a", "b", "tie", "both_bad"]))
                comparisons += [
                    {"a": str(first), "b": str(second), "label": label, "kind": kind,
                     "annotator": f"v{voter}"}
                    for kind in kinds
                ]  # fmt: skip
    return {
        "prompt": f"question {i}",
        "responses": [
            {"id": str(n), "text": f"a {WORDS[n]} answer to {i}" + " and more" * n}
            for n in range(k)
        ],
        "comparisons": comparisons,
    }


def labelled(
    path: Path, *, n: int = 12, kinds: tuple[str, ...] = ("human",), seed: int = 0
) -> Path:
    rng = np.random.default_rng(seed)
    text = "".join(json.dumps(prompt_row(i, rng, kinds)) + "\n" for i in range(n))
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["simulate", *map(str, arguments)])


SMALL = ("--budgets", "10,20,40", "--seeds", "3", "--strategies", "real-easy")


def test_names_are_those_of_the_simulation() -> None:
    assert METRIC_NAMES == METRICS


def test_the_world_is_what_the_file_says(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = labelled(tmp_path / "set.jsonl.gz")
    world = load_world([path], tmp_path / "cache", encoder="x")
    said = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert world.dataset == "set"
    assert world.n_votes == sum(len(row["comparisons"]) for row in said)
    expected = {}
    for row in said:
        texts = {r["id"]: r["text"] for r in row["responses"]}
        for vote in row["comparisons"]:
            sign = {"a": 1, "b": -1}.get(vote["label"], 0)
            a, b = texts[vote["a"]], texts[vote["b"]]
            expected[a, b] = expected.get((a, b), 0) + sign
            expected[b, a] = expected.get((b, a), 0) - sign
    assert len(world.pool.pair_a) == len(expected) / 2
    vectors = {encoder.vector(t).tobytes(): t for pair in expected for t in pair}
    text = [vectors[v.tobytes()] for v in world.pool.response_vectors]
    for pair in range(world.pool.n_pairs):
        net = world.vote_grade[world.vote_pair == pair].sum()
        assert net == expected[text[world.pool.pair_a[pair]], text[world.pool.pair_b[pair]]]


def test_judges_are_no_people_and_gold_labels_stand_in(
    encoder: FakeEncoder, tmp_path: Path
) -> None:
    human = load_world([labelled(tmp_path / "a.jsonl")], tmp_path / "cache", encoder="x")
    kinds = ("llm:gpt", "human", "objective")
    mixed = load_world([labelled(tmp_path / "b.jsonl", kinds=kinds)], tmp_path, encoder="x")
    assert mixed.n_votes == human.n_votes
    gold = load_world([labelled(tmp_path / "c.jsonl", kinds=kinds[::2])], tmp_path, encoder="x")
    assert gold.n_votes == human.n_votes
    judged = labelled(tmp_path / "d.jsonl", kinds=("llm:gpt",))
    with pytest.raises(SimulationError, match="no votes of people; labels in them: llm:gpt"):
        load_world([judged], tmp_path, encoder="x")


def test_texts_are_embedded_once(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = labelled(tmp_path / "set.jsonl")
    first = load_world([path], tmp_path / "cache", encoder="x")
    assert encoder.texts
    encoder.asked.clear()
    again = load_world([path], tmp_path / "cache", encoder="x")
    assert encoder.texts == []
    assert first.fingerprint() == again.fingerprint()
    path.write_text(
        path.read_text() + json.dumps(prompt_row(13, np.random.default_rng(1), ("human",)))
    )
    assert load_world([path], tmp_path / "cache", encoder="x").n_votes > again.n_votes


def test_the_whole_command(encoder: FakeEncoder, small_learner: None, tmp_path: Path) -> None:
    path, out, page = labelled(tmp_path / "set.jsonl"), tmp_path / "out.json", tmp_path / "o.html"
    done = run(path, *SMALL, "--json", out, "--plot", page)
    assert done.exit_code == 0, done.output
    document = json.loads(out.read_text(encoding="utf-8"))
    assert (document["dataset"], document["metric"]) == ("set", "pair-accuracy")
    assert (document["budgets"], document["seeds"]) == ([10, 20, 40], 3)
    assert list(document["strategies"]) == ["random", "real-easy"]
    for values in document["strategies"].values():
        assert set(values) == {"mean", "low", "high"}
        for low, mean, high in zip(values["low"], values["mean"], values["high"], strict=True):
            assert 0 <= low <= mean <= high <= 1
    saved = document["saved"]["real-easy"]
    assert {"target", "reference_budget", "votes", "fraction", "low", "high", "verdict"} <= set(
        saved
    )
    random = document["strategies"]["random"]["mean"]
    assert saved["target"] == pytest.approx(
        IsotonicRegression().fit_transform(range(3), random)[-1], abs=2e-4
    )
    assert len(document["calibration"]["random"]["brier"]) == 3
    last = done.output.rstrip().splitlines()[-1]
    assert last.startswith("On set ")
    assert last.endswith(".")
    assert last == saved_sentence("real-easy", document)
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") == 3
    assert "<script" not in html
    assert last.replace("`", "") in html

    again = run(path, *SMALL, "--json", "-")
    assert json.loads(again.stdout) | {"seconds": 0} == document | {"seconds": 0}


def test_a_png(encoder: FakeEncoder, small_learner: None, tmp_path: Path) -> None:
    path, picture = labelled(tmp_path / "set.jsonl"), tmp_path / "o.png"
    assert run(path, *SMALL, "--plot", picture).exit_code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_ends_in_a_sentence(
    encoder: FakeEncoder, small_learner: None, tmp_path: Path, metric: str
) -> None:
    done = run(labelled(tmp_path / "set.jsonl", n=20), *SMALL, "--metric", metric)
    assert done.exit_code == 0, done.output
    assert done.output.rstrip().splitlines()[-1].startswith("On set ")
    assert ("no model" in done.output or "votes alone" in done.output) == (
        metric == "pair-accuracy"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--strategies", "real-eazy"), 1, "did you mean real-easy"),
        (("--metric", "accuracy"), 2, "pair-accuracy"),
        (("--budgets", "9000"), 1, "the set has"),
        (("--budgets", "ten"), 2, "no list of whole numbers"),
        (("--budgets", "0,10"), 2, "no number of votes"),
        (("--plot", "o.pdf"), 2, "ends in none of"),
        (("--budgets", "10,20", "--target", "0.999"), 1, "never extrapolated"),
        (("--project", "nowhere"), 1, "no annotator.toml"),
    ],
)
def test_bad_input_is_said(
    encoder: FakeEncoder,
    small_learner: None,
    tmp_path: Path,
    arguments: tuple[str, ...],
    code: int,
    said: str,
) -> None:
    few = ("--seeds", "2", "--strategies", "real-easy")
    done = run(labelled(tmp_path / "set.jsonl"), *few, *arguments)
    assert done.exit_code == code, done.output
    assert said in done.output


def test_pairs_alone_have_no_rank_correlation(
    encoder: FakeEncoder, small_learner: None, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    rng = np.random.default_rng(0)
    rows = [prompt_row(4 * i, rng, ("human",)) for i in range(30)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    done = run(path, *SMALL, "--metric", "rank-correlation")
    assert done.exit_code == 1
    assert "people compare 3 responses of no prompt" in done.output


def test_an_unknown_strategy_is_said_before_anything_is_read(
    encoder: FakeEncoder, tmp_path: Path
) -> None:
    assert run(labelled(tmp_path / "set.jsonl"), "--strategies", "x").exit_code == 1
    assert encoder.asked == []
    assert not (tmp_path / "cache").exists()


def test_a_file_without_labels_is_said(encoder: FakeEncoder, tmp_path: Path) -> None:
    path = tmp_path / "plain.jsonl"
    path.write_text('{"prompt": "q", "responses": ["x", "y"]}\n', encoding="utf-8")
    done = run(path)
    assert done.exit_code == 1
    assert "labels in them: none" in done.output
    assert "expected:" in done.output


# Words, from documents made by hand.


def document_of(*, conclusive: bool = True, **saved: Any) -> dict[str, Any]:
    entry = {
        "target": 0.84, "reference_budget": 3200, "votes": 1400, "fraction": 0.5625, "low": 0.47,
        "high": 0.63, "verdict": "saves", "at_least": False, "high_at_least": False,
        "reached": 1.0, "overtaken": None,
    } | saved  # fmt: skip
    return {
        "dataset": "debates",
        "budgets": [400, 3200],
        "saved": {"hybrid": entry},
        "conclusive": conclusive,
    }


@pytest.mark.parametrize(
    ("saved", "sentence"),
    [
        (
            {},
            "On debates `hybrid` needs 1,400 votes where random choice needs 3,200: 56 % saved "
            "(95 % interval 47 to 63 %).",
        ),
        (
            {"at_least": True, "votes": 400, "fraction": 0.875, "low": 0.8, "high": 0.875},
            "On debates `hybrid` needs at most 400 votes where random choice needs 3,200: at "
            "least 88 % saved (95 % interval 80 to 88 %).",
        ),
        (
            {"verdict": "no measurable difference", "fraction": 0.1, "low": -0.12, "high": 0.2},
            "On debates there is no measurable difference between `hybrid` and random choice "
            "(saved: −12 to 20 %, 95 % interval). Too few to tell: more prompts, more seeds or "
            "smaller budgets would narrow it.",
        ),
        (
            {"verdict": "no measurable difference", "fraction": None, "low": None, "high": 0.2},
            "On debates there is no measurable difference between `hybrid` and random choice "
            "(saved: at most 20 %, and it may cost votes; 95 % interval). Too few to tell: more "
            "prompts, more seeds or smaller budgets would narrow it.",
        ),
        (
            {"verdict": "no measurable difference", "fraction": 0.0, "low": -0.1, "high": 0.1},
            "On debates there is no measurable difference between `hybrid` and random choice "
            "(saved: −10 to 10 %, 95 % interval).",
        ),
        (
            {
                "conclusive": False,
                "verdict": "no measurable difference",
                "fraction": 0.6,
                "low": -0.1,
                "high": 0.875,
                "high_at_least": True,
            },
            "On debates no verdict can be given on `hybrid` (saved: −10 to 88 %, 95 % interval; "
            "88 % is all that a smallest budget of 400 can show).",
        ),
        (
            {"verdict": "costs", "votes": None, "low": None, "high": -0.1, "overtaken": 1900},
            "On debates `hybrid` costs votes: what it reaches with 3,200, random choice reaches "
            "with 1,900.",
        ),
        (
            {
                "verdict": "costs",
                "votes": 2900,
                "reference_budget": 1600,
                "fraction": -0.81,
                "low": -1.5,
                "high": -0.4,
            },
            "On debates `hybrid` costs votes: it needs 2,900 where random choice needs 1,600, "
            "81 % more (95 % interval 40 to 150 %).",
        ),
    ],
)
def test_sentences(saved: dict[str, Any], sentence: str) -> None:
    assert saved_sentence("hybrid", document_of(**saved)) == sentence


def test_words_agree_with_the_document(tmp_path: Path) -> None:
    request = Request(("real-easy", "real-hard"), (20, 60), 3)
    done = simulate(synthetic_world().world, request, tmp_path, make_learner=ridge)
    document = account(done, replicates=100)
    said = lines(document)
    assert said[-2:] == sentences(document)[-2:]
    assert tables(document)["quality"][0] == ["votes", "20", "60"]
    first = document["strategies"]["random"]["mean"][0]
    assert f"{first:.3f}" in next(line for line in said if line.startswith("random"))
    json.dumps(document, allow_nan=False)


def test_the_defaults_can_be_replayed() -> None:
    strategies = tuple(DEFAULT_STRATEGIES.split(","))
    request = checked(Request(strategies, (), 1))
    assert request.strategies == strategies


def test_maps_of_several_judges_are_compared(encoder: FakeEncoder, small_learner: None) -> None:
    rng = np.random.default_rng(1)
    rows = [prompt_row(i, rng, ("human",)) for i in range(12)]
    for row in rows:
        for n, response in enumerate(row["responses"]):
            response["scores"] = {
                "llm:one": float(rng.random()), "llm:two": float(n), "human:1": 3.0
            }  # fmt: skip
    path = Path("judged.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    names = [f"datamap-low-mean@{judge}" for judge in ("llm:one", "llm:two", "llm:*")]
    arguments = ("--budgets", "10,20", "--seeds", "2", "--strategies", ",".join(names))
    result = run(path, *arguments, "--json", "-")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["strategies"]) == ["random", *names]
    world = load_world([path], Path("cache"), encoder="x", scores=["llm:two", "llm:*"])
    both = {r["text"]: r["scores"] for row in rows for r in row["responses"]}
    twos = sorted(scores["llm:two"] for scores in both.values())
    assert sorted(world.scores["llm:two"]) == twos
    means = sorted((scores["llm:one"] + scores["llm:two"]) / 2 for scores in both.values())
    assert sorted(world.scores["llm:*"]) == pytest.approx(means)
    told = run(path, *arguments[:4], *SMALL[-2:], "--scores", "llm:*", "--json", "-")
    assert json.loads(told.stdout)["judge"] == "llm:*"
    judge = load_world([path], Path("cache"), encoder="x", judge="llm:two").features
    assert judge.n_judges == 1 and world.features.n_judges == 0
    of_people = run(path, *arguments[:4], "--scores", "human:1")
    assert of_people.exit_code == 1 and "human:1" in of_people.stderr
    assert "before anybody is asked" in of_people.stderr
    unknown = run(path, *arguments[:4], "--strategies", "datamap-low-mean@llm:three")
    assert unknown.exit_code == 1
    assert "llm:three" in unknown.stderr and "llm:one, llm:two" in unknown.stderr


def test_scores_count_as_a_judges_by_their_name_alone(
    encoder: FakeEncoder, small_learner: None
) -> None:
    """Whatever else people's scores are called; another name has to be given exactly."""
    rng = np.random.default_rng(2)
    rows = [prompt_row(i, rng, ("human",)) for i in range(12)]
    names = ["rater [1]", "people:2", "rm:small", "judge:rubric", "llm:one"]
    for row in rows:
        for response in row["responses"]:
            response["scores"] = {name: float(rng.random()) for name in names}
    path = Path("judged.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    few = (path, "--budgets", "10,20", "--seeds", "2", "--strategies", "real-easy")
    for pattern, unsaid in (("*", "people:2, rater [1]"), ("p*", "people:2"), ("r*", "rater [1]")):
        refused = run(*few, "--scores", pattern)
        assert refused.exit_code == 1
        assert f"may be people's: {unsaid}" in " ".join(refused.stderr.split())
        assert "exactly" in refused.stderr
    for name in ("rm:*", "j*", "llm:one"):
        done = run(*few, "--scores", name, "--json", "-")
        assert done.exit_code == 0, done.output
        assert not any("because it was named" in note for note in json.loads(done.stdout)["notes"])
    named = run(*few, "--scores", "rater [1]", "--json", "-")
    assert named.exit_code == 0, named.output
    document = json.loads(named.stdout)
    assert document["judge"] == "rater [1]"
    note = "The score rater [1] counts as a judge's because it was named"
    assert any(one.startswith(note) for one in document["notes"])
    assert note in run(*few, "--scores", "rater [1]").stdout
