"""Every format: found by itself, read as its people mean it, and in the tables in the end."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlite_utils import Database

from annotator.candidates.candidate import sound
from annotator.candidates.formats import FORMATS, columns, find_format, hh, trl
from annotator.candidates.ingest import import_files
from annotator.candidates.outcome import ImportReport
from annotator.errors import CandidateError, RejectedRow, UnknownFormat

Row = dict[str, Any]

USER = {"role": "user", "content": "Name a colour."}
RED = {"role": "assistant", "content": "Red."}
BLUE = {"role": "assistant", "content": "Blue, I think."}

NATIVE = {
    "prompt": "Name a colour.",
    "prompt_id": "p1",
    "dataset": "colours",
    "responses": [
        {"id": "r", "text": "Red.", "model": "m1", "scores": {"rm": 0.5, "human:1": 4}},
        {"id": "b", "text": "Blue, I think.", "source": "m2", "scores": {"rm": None}},
        "Green.",
    ],
    "comparisons": [
        {"a": "r", "b": "b", "label": "a", "annotator": "ann", "kind": "human", "strength": 2},
        {"a": "b", "b": "r", "label": "tie", "annotator": None, "kind": "llm:gpt-4", "order": "ba"},
    ],
    "topic": "passed over",
}
TRL = {"prompt": "Name a colour.", "chosen": "Red.", "rejected": "Blue, I think."}
TRL_IMPLICIT = {"chosen": "Name a colour. Red.", "rejected": "Name a colour. Rubbish, I think."}
TRL_CHAT = {"prompt": [USER], "chosen": [RED], "rejected": [BLUE]}
TRL_CHAT_IMPLICIT = {"chosen": [USER, RED], "rejected": [USER, BLUE]}
BINARIZED = {
    "prompt": "Name a colour.",
    "prompt_id": "x",
    "chosen": [USER, RED],
    "rejected": [USER, BLUE],
    "messages": [USER, RED],
    "score_chosen": 8.5,
    "score_rejected": 3.0,
}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a colour.\n\nAssistant: Red.",
    "rejected": "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a colour.\n\nAssistant: Blue",
}
ULTRAFEEDBACK = {
    "source": "evol_instruct",
    "instruction": "Name a colour.",
    "models": ["m1", "m2"],
    "completions": [
        {
            "annotations": {
                "helpfulness": {"Rating": "4", "Rationale": "fine", "Type": ["1"]},
                "honesty": {"Rating": "N/A", "Rationale": "none"},
            },
            "model": "m1",
            "principle": "helpfulness",
            "response": "Red.",
            "fine-grained_score": 4.25,
            "overall_score": 8.5,
        },
        {"annotations": {}, "model": "m2", "response": "Blue, I think.", "overall_score": None},
    ],
}
ARENA = {
    "question_id": "q1",
    "model_a": "m1",
    "model_b": "m2",
    "winner": "tie (bothbad)",
    "judge": "arena_user_9",
    "conversation_a": [USER, RED],
    "conversation_b": [USER, BLUE],
    "turn": 1,
}
ARENA_FLAT = {
    "model_a": "m1",
    "model_b": "m2",
    "winner": "model_b",
    "prompt": "Name a colour.",
    "response_a": "Red.",
    "response_b": "Blue, I think.",
}
ARENA_KAGGLE = {
    "id": "30192",
    "model_a": "m1",
    "model_b": "m2",
    "prompt": '["Name a colour."]',
    "response_a": '["Red."]',
    "response_b": '["Blue, I think."]',
    "winner_model_a": "1",
    "winner_model_b": "0",
    "winner_tie": "0",
}
WIDE = {
    "id": "7",
    "prompt": "Name a colour.",
    "category": "art",
    "m1": "Red.",
    "m2": "Blue",
    "m3": "",
}


def lines(path: Path, *rows: Row) -> Path:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")
    return path


def table(path: Path, *rows: Row, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(path: Path, *rows: Row) -> Path:
    pq.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def stored(db: Database) -> list[Row]:
    """Prompts as a person would tell them from the tables, labels by text."""
    prompts = []
    for prompt in db.query("SELECT * FROM prompts ORDER BY id"):
        responses = list(
            db.query("SELECT * FROM responses WHERE prompt_id = ? ORDER BY id", [prompt["id"]])
        )
        text = {response["id"]: response["text"] for response in responses}
        labels = [
            (text[row["a_id"]], text[row["b_id"]], row["label"], row["annotator"], row["kind"])
            for row in db.query("SELECT * FROM source_labels ORDER BY id")
            if row["a_id"] in text
        ]
        scores = {
            (text[row["response_id"]], row["name"]): row["value"]
            for row in db.query("SELECT * FROM source_scores")
            if row["response_id"] in text
        }
        prompts.append(
            {
                "messages": json.loads(prompt["messages"]),
                "id": prompt["external_id"],
                "dataset": prompt["dataset"],
                "responses": {r["text"]: r["model"] for r in responses},
                "labels": [_better_first(*label) for label in labels],
                "scores": scores,
            }
        )
    return prompts


def _better_first(a: str, b: str, label: str, *who: str | None) -> tuple[str | None, ...]:
    if label == "b":
        a, b, label = b, a, "a"
    elif label != "a":
        a, b = sorted((a, b))
    return (a, b, label, *who)


def only(db: Database, report: ImportReport, format: str) -> Row:
    assert [file.format for file in report.files] == [format]
    assert report.total.rejected == 0, report.first_problems
    (prompt,) = stored(db)
    return prompt


def test_native(db: Database, tmp_path: Path) -> None:
    report = import_files(db, [lines(tmp_path / "file.jsonl", NATIVE)])
    prompt = only(db, report, "native")
    assert prompt == {
        "messages": [USER],
        "id": "p1",
        "dataset": "colours",
        "responses": {"Red.": "m1", "Blue, I think.": "m2", "Green.": None},
        "labels": [
            ("Red.", "Blue, I think.", "a", "ann", "human"),
            ("Blue, I think.", "Red.", "tie", None, "llm:gpt-4"),
        ],
        "scores": {("Red.", "rm"): 0.5, ("Red.", "human:1"): 4.0},
    }
    assert db.execute("SELECT strength FROM source_labels WHERE label <> 'tie'").fetchall() == [
        (2.0,)
    ]
    counts = report.total
    assert (counts.rows, counts.prompts_added, counts.responses_added) == (1, 1, 3)
    assert (counts.labels_added, counts.scores_added) == (2, 2)


def test_pairs_are_stored_in_the_order_of_their_keys(db: Database, tmp_path: Path) -> None:
    import_files(db, [lines(tmp_path / "file.jsonl", NATIVE)])
    pairs = db.execute(
        """SELECT a.response_key, b.response_key FROM source_labels l
        JOIN responses a ON a.id = l.a_id JOIN responses b ON b.id = l.b_id"""
    ).fetchall()
    assert len(pairs) == 2
    assert all(a < b for a, b in pairs)


@pytest.mark.parametrize(
    ("row", "format", "messages", "responses"),
    [
        (TRL, "trl", [USER], ("Red.", "Blue, I think.")),
        (
            TRL_IMPLICIT,
            "trl",
            [{"role": "user", "content": "Name a colour."}],
            (" Red.", " Rubbish, I think."),
        ),
        (TRL_CHAT, "trl", [USER], ("Red.", "Blue, I think.")),
        (TRL_CHAT_IMPLICIT, "trl", [USER], ("Red.", "Blue, I think.")),
        (BINARIZED, "trl", [USER], ("Red.", "Blue, I think.")),
        (
            HH,
            "hh",
            [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello."},
                USER,
            ],
            ("Red.", "Blue"),
        ),
    ],
    ids=["explicit", "implicit", "chat", "chat-implicit", "binarized", "hh"],
)
@pytest.mark.parametrize("write", [lines, parquet])
def test_chosen_and_rejected(
    db: Database,
    tmp_path: Path,
    row: Row,
    format: str,
    messages: list[Row],
    responses: tuple[str, str],
    write: Any,
) -> None:
    prompt = only(db, import_files(db, [write(tmp_path / "file.dat", row)]), format)
    assert prompt["messages"] == messages
    assert set(prompt["responses"]) == set(responses)
    assert prompt["labels"] == [(*responses, "a", None, "human")]


def test_what_stands_beside_chosen_and_rejected(db: Database, tmp_path: Path) -> None:
    row = BINARIZED | {"annotator": 12, "chosen-model": "m1", "label_kind": "llm:gpt-4"}
    prompt = only(db, import_files(db, [lines(tmp_path / "file.jsonl", row)]), "trl")
    assert prompt["id"] == "x"
    assert prompt["responses"] == {"Red.": "m1", "Blue, I think.": None}
    assert prompt["scores"] == {("Red.", "score"): 8.5, ("Blue, I think.", "score"): 3.0}
    assert prompt["labels"][0][3:] == ("12", "llm:gpt-4")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("The sky is blue.", "The sky is black.", "The sky is"),  # not "The sky is bl"
        ("Q?\nyes and no", "Q?\nyes", "Q?"),
        ("a\tb c d", "a\tb c e", "a\tb c"),
    ],
)
def test_the_prompt_of_texts_that_begin_alike(chosen: str, rejected: str, prompt: str) -> None:
    candidate = trl.read({"chosen": chosen, "rejected": rejected})
    assert candidate.messages == [{"role": "user", "content": prompt}]
    whole = [prompt + response.text for response in candidate.responses]
    assert whole == [chosen, rejected]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        ("Yes.", "No.", "do not begin alike"),
        ("Same text", "Same", "do not begin alike"),
        ([RED], [BLUE], "share no turn"),
        ([USER, RED], [USER | {"content": "Other?"}, BLUE], "differ before their last turn"),
        ([USER, RED, USER], [USER, BLUE, USER], "does not end with a turn of the assistant"),
        ([USER, {"role": "robot", "content": "x"}], [USER, BLUE], "role is 'robot'"),
        ([USER, {"role": "assistant", "content": 3}], [USER, BLUE], "turn 2: content is a number"),
        ([USER, "Red."], [USER, BLUE], "turn 2: it is text"),
        ("Text", [USER, BLUE], "rejected is a list"),
    ],
)
def test_refused_sides(chosen: Any, rejected: Any, reason: str) -> None:
    with pytest.raises(RejectedRow, match=reason):
        trl.read({"chosen": chosen, "rejected": rejected})


def test_transcripts_keep_their_text() -> None:
    row = {
        "chosen": "\n\nHuman:  two spaces \n\nAssistant: Human: said\n no turn",
        "rejected": "\n\nHuman:  two spaces \n\nAssistant:No space",
    }
    candidate = hh.read(row)
    assert candidate.messages == [{"role": "user", "content": " two spaces "}]
    assert [r.text for r in candidate.responses] == ["Human: said\n no turn", "No space"]


def test_transcripts_that_part_early_are_refused() -> None:
    row = {
        "chosen": "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "rejected": "\n\nHuman: a\n\nAssistant: x\n\nHuman: c\n\nAssistant: y",
    }
    with pytest.raises(RejectedRow, match="differ before their last turn"):
        hh.read(row)
    with pytest.raises(RejectedRow, match="does not end with a turn of the assistant"):
        hh.read({"chosen": "\n\nHuman: a", "rejected": "\n\nHuman: a"})
    with pytest.raises(RejectedRow, match='does not begin with "Human:"'):
        hh.read({"chosen": "a", "rejected": "b"})


@pytest.mark.parametrize("write", [lines, parquet])
def test_ultrafeedback(db: Database, tmp_path: Path, write: Any) -> None:
    row = json.loads(json.dumps(ULTRAFEEDBACK))
    if write is parquet:
        row["completions"][1]["annotations"] = None
    prompt = only(db, import_files(db, [write(tmp_path / "file.dat", row)]), "ultrafeedback")
    assert prompt["messages"] == [USER]
    assert prompt["dataset"] == "file.dat"
    assert prompt["responses"] == {"Red.": "m1", "Blue, I think.": "m2"}
    assert prompt["scores"] == {
        ("Red.", "helpfulness"): 4.0,
        ("Red.", "fine-grained_score"): 4.25,
        ("Red.", "overall_score"): 8.5,
    }
    assert prompt["labels"] == []


@pytest.mark.parametrize(
    ("row", "label"),
    [
        (ARENA, ("Blue, I think.", "Red.", "both_bad", "arena_user_9", "human")),
        (ARENA | {"winner": "tie"}, ("Blue, I think.", "Red.", "tie", "arena_user_9", "human")),
        (ARENA | {"judge": "gpt4_pair", "winner": "model_a"},
         ("Red.", "Blue, I think.", "a", "gpt4_pair", "llm:gpt4_pair")),
        (ARENA_FLAT, ("Blue, I think.", "Red.", "a", None, "human")),
        (ARENA_KAGGLE, ("Red.", "Blue, I think.", "a", None, "human")),
    ],
    ids=["both-bad", "tie", "model-judge", "flat", "kaggle"],
)  # fmt: skip
@pytest.mark.parametrize("write", [lines, parquet])
def test_arena(db: Database, tmp_path: Path, row: Row, label: Any, write: Any) -> None:
    prompt = only(db, import_files(db, [write(tmp_path / "file.dat", row)]), "arena")
    assert prompt["messages"] == [USER]
    assert prompt["responses"] == {"Red.": "m1", "Blue, I think.": "m2"}
    assert prompt["labels"] == [label]


@pytest.mark.parametrize("row", [ARENA_FLAT, ARENA_KAGGLE], ids=["flat", "kaggle"])
def test_arena_as_csv(db: Database, tmp_path: Path, row: Row) -> None:
    prompt = only(db, import_files(db, [table(tmp_path / "file.csv", row)]), "arena")
    assert prompt["responses"] == {"Red.": "m1", "Blue, I think.": "m2"}


def test_arena_dialogues_count_up_to_the_turn_that_was_judged(db: Database, tmp_path: Path) -> None:
    longer = [{"role": "user", "content": "And another?"}, RED]
    both = {
        "conversation_a": [USER, RED, *longer],
        "conversation_b": [USER, BLUE, *longer],
    }
    first, second = ARENA | both, ARENA | both | {"turn": 2, "question_id": "q2"}
    report = import_files(db, [lines(tmp_path / "file.jsonl", first, second)])
    assert (report.total.prompts_added, report.total.rejected) == (1, 1)
    assert "differ before their last turn" in report.first_problems[0]
    parts = ARENA | {"conversation_a": [USER, {"role": "assistant", "content": [
        {"type": "text", "text": "Yellow.", "image": None}]}]}  # fmt: skip
    assert import_files(db, [lines(tmp_path / "parts.jsonl", parts)]).responses_added == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"winner": "model_c"}, "winner is 'model_c'"),
        ({"winner": None}, "winner is missing"),
        ({"turn": 0}, "turn is '0'"),
        ({"turn": "two"}, "turn is 'two'"),
        ({"conversation_a": "Red."}, "conversation_a is text"),
    ],
)
def test_refused_battles(db: Database, tmp_path: Path, change: Row, reason: str) -> None:
    report = import_files(db, [lines(tmp_path / "file.jsonl", ARENA | change)], format="arena")
    assert reason in report.first_problems[0]


def test_columns(db: Database, tmp_path: Path) -> None:
    other = WIDE | {"id": "8", "prompt": 'Name\na "number".', "m3": "Three, or\r\nfour"}
    report = import_files(db, [table(tmp_path / "wide.csv", WIDE, other)])
    first, second = stored(db)
    assert report.files[0].format == "columns"
    assert first["responses"] == {"Red.": "m1", "Blue": "m2"}
    assert second["responses"] == {"Red.": "m1", "Blue": "m2", "Three, or\r\nfour": "m3"}
    assert second["messages"][0]["content"] == 'Name\na "number".'
    assert [first["id"], second["id"]] == ["7", "8"]


@pytest.mark.parametrize(("name", "delimiter"), [("w.tsv", "\t"), ("w.csv", ";"), ("w", ",")])
def test_delimiters(db: Database, tmp_path: Path, name: str, delimiter: str) -> None:
    path = table(tmp_path / name, WIDE, delimiter=delimiter)
    assert only(db, import_files(db, [path]), "columns")["responses"] == {
        "Red.": "m1",
        "Blue": "m2",
    }


def test_remarks_are_no_responses() -> None:
    assert not columns.matches({"prompt": "p", "completion": "c", "label": "good", "": "0"})
    assert not columns.matches({"prompt": "p", "m1": "r", "Unnamed: 0": "3", "Source": "web"})
    assert columns.matches({"instruction": "p", "m1": "r", "m2": "r"})


NOTED = {
    "Question": "Name a colour.",
    "System": "Be brief.",
    "temperature": "0.7",
    "gpt": "Red.",
    "votes": "3",
    "checked": "TRUE",
    "llama": "Blue",
    "empty": "",
}


def test_columns_of_metadata_are_no_responses(db: Database, tmp_path: Path) -> None:
    # A number is an answer where the column holds text elsewhere.
    path = table(tmp_path / "f.csv", NOTED, NOTED | {"Question": "2 + 2?", "llama": "4"})
    report = import_files(db, [path])
    assert report.total.rejected == 0
    assert [prompt["responses"] for prompt in stored(db)] == [
        {"Red.": "gpt", "Blue": "llama"},
        {"Red.": "gpt", "4": "llama"},
    ]
    assert report.files[0].columns_said == (
        "columns: Question is the prompt; gpt, llama are responses; "
        "System, temperature, votes, checked, empty passed over"
    )


def test_columns_may_be_named(db: Database, tmp_path: Path) -> None:
    path = table(tmp_path / "f.csv", NOTED | {"ID": "q7"})
    report = import_files(db, [path], prompt="system", responses=["temperature", "GPT"])
    prompt = only(db, report, "columns")
    assert prompt["messages"] == [{"role": "user", "content": "Be brief."}]
    assert prompt["responses"] == {"0.7": "temperature", "Red.": "gpt"}
    assert prompt["id"] == "q7"
    assert report.as_json()["files"][0]["columns"] == {
        "prompt": "System",
        "responses": ("temperature", "gpt"),
        "passed_over": ("Question", "votes", "checked", "llama", "empty"),
    }


@pytest.mark.parametrize("name", columns.PROMPTS)
def test_names_of_the_prompt(name: str) -> None:
    layout = columns.layout_of([{name.upper(): "p", "m1": "x", " m2 ": "y"}], Path("f"))
    assert (layout.prompt, layout.responses) == (name.upper(), ("m1", " m2 "))


def test_of_two_names_of_the_prompt_the_fuller_counts() -> None:
    row = {"prompt": "", "input": "i", "question": "q", "m1": "x", "m2": "y"}
    layout = columns.layout_of([row], Path("f"))
    assert (layout.prompt, layout.passed_over) == ("question", ("prompt", "input"))


@pytest.mark.parametrize(
    ("row", "named", "said"),
    [
        ({"text": "p", "m1": "x", "m2": "y"}, {}, "text, m1, m2"),
        ({"prompt": "p", "m1": "x", "n": "3"}, {}, "--responses"),
        ({"prompt": "p", "m1": "x", "m2": "y"}, {"prompt": "ask"}, "no columns 'ask'"),
        ({"prompt": "p", "m1": "x", "m2": "y"}, {"responses": ["m1"]}, "in f.csv: m1;"),
        ({"prompt": "p", "m1": "x"}, {"responses": ["m1", "prompt"]}, "beside the prompt"),
    ],
    ids=["no-prompt", "one-response", "unknown", "one-named", "the-prompt-itself"],
)
def test_columns_that_do_not_suffice_are_one_error(
    db: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    row: Row,
    named: Row,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = table(Path("f.csv"), *[row] * 3)
    with pytest.raises(CandidateError) as refusal:
        import_files(db, [path], format="columns", rejects=tmp_path / "rejects", **named)
    assert not isinstance(refusal.value, RejectedRow)
    assert said in str(refusal.value)
    assert not (tmp_path / "rejects").exists()


def test_columns_in_parquet(db: Database, tmp_path: Path) -> None:
    path = parquet(tmp_path / "w.parquet", WIDE | {"m3": None, "n_tokens": 7})
    assert only(db, import_files(db, [path]), "columns")["responses"] == {
        "Red.": "m1",
        "Blue": "m2",
    }


def test_native_in_parquet(db: Database, tmp_path: Path) -> None:
    row = json.loads(json.dumps(NATIVE))
    row["responses"] = row["responses"][:2]
    prompt = only(db, import_files(db, [parquet(tmp_path / "n.parquet", row)]), "native")
    assert prompt["scores"] == {("Red.", "rm"): 0.5, ("Red.", "human:1"): 4.0}
    assert len(prompt["labels"]) == 2


def test_scores_as_a_parquet_map(db: Database, tmp_path: Path) -> None:
    response = pa.struct([("text", pa.string()), ("scores", pa.map_(pa.string(), pa.float64()))])
    schema = pa.schema([("prompt", pa.string()), ("responses", pa.list_(response))])
    rows = [
        {
            "prompt": "p",
            "responses": [
                {"text": "x", "scores": [("rm", 1.0)]},
                {"text": "y", "scores": []},
            ],
        }
    ]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), tmp_path / "map.parquet")
    prompt = only(db, import_files(db, [tmp_path / "map.parquet"]), "native")
    assert prompt["scores"] == {("x", "rm"): 1.0}


def test_gzip_is_seen_whatever_the_file_is_called(db: Database, tmp_path: Path) -> None:
    plain = lines(tmp_path / "a.jsonl", NATIVE)
    zipped = tmp_path / "b.jsonl"
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    report = import_files(db, [zipped, plain])
    assert [file.counts.prompts_added for file in report.files] == [1, 0]


def test_a_byte_order_mark_is_no_text(db: Database, tmp_path: Path) -> None:
    for name, path in (
        ("a.jsonl", lines(tmp_path / "x", TRL)),
        ("b.csv", table(tmp_path / "y", TRL)),
        ("c", lines(tmp_path / "z", TRL)),
    ):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        report = import_files(db, [tmp_path / name])
        assert (report.files[0].format, report.total.rejected) == ("trl", 0)
    assert report.total.prompts_known == 1


def test_a_folder_is_all_its_files(db: Database, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    lines(folder / "deep" / "b.jsonl", TRL | {"prompt": "b"})
    table(folder / "a.csv", WIDE)
    parquet(folder / "c.parquet", TRL | {"prompt": "c"})
    lines(folder / ".hidden.jsonl", TRL | {"prompt": "hidden"})
    (folder / "README.md").write_text("not data")
    report = import_files(db, [folder, folder / "a.csv"])
    assert [Path(file.file).name for file in report.files] == ["a.csv", "c.parquet", "b.jsonl"]
    assert report.prompts_added == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(CandidateError, match="holds nothing to import"):
        import_files(db, [tmp_path / "empty"])
    with pytest.raises(CandidateError, match="there is no file"):
        import_files(db, [tmp_path / "absent.jsonl"])


def test_datasets(db: Database, tmp_path: Path) -> None:
    one = lines(tmp_path / "my.v1.jsonl", TRL, NATIVE | {"prompt": "other"})
    import_files(db, [one], format="native")
    import_files(db, [one], format="trl")
    import_files(db, [lines(tmp_path / "x.jsonl", TRL | {"prompt": "third"})], dataset="given")
    assert [(p["dataset"], p["messages"][0]["content"]) for p in stored(db)] == [
        ("colours", "other"),
        ("my.v1", "Name a colour."),
        ("given", "third"),
    ]


@pytest.mark.parametrize(
    ("rows", "format"),
    [
        ([TRL, TRL, HH], "trl"),
        ([HH, HH, TRL], "hh"),
        ([HH, TRL], "hh"),  # a draw: the one that asks for more
        ([TRL, HH], "hh"),
        ([{"note": 1}, {"note": 2}, ARENA], "arena"),
        ([NATIVE | {"chosen": "x", "rejected": "y"}], "native"),
        ([ARENA_FLAT | {"completions": []}], "arena"),
    ],
)
def test_the_format_that_most_records_have(rows: list[Row], format: str) -> None:
    assert find_format(rows, table=False, where=Path("f")).name == format


def test_columns_are_only_guessed_in_tables() -> None:
    assert find_format([WIDE], table=True, where=Path("f")).name == "columns"
    with pytest.raises(UnknownFormat):
        find_format([WIDE], table=False, where=Path("f"))


def test_a_strange_first_record_does_not_decide(db: Database, tmp_path: Path) -> None:
    path = lines(tmp_path / "f.jsonl", {"info": "made in May"}, TRL, TRL | {"chosen": "Pink."})
    report = import_files(db, [path])
    assert (report.files[0].format, report.total.rejected) == ("trl", 1)


def test_an_unknown_format_says_what_there_is_and_what_is_needed(
    db: Database, tmp_path: Path
) -> None:
    path = lines(tmp_path / "f.jsonl", {"question": "q", "answers": ["a"]})
    with pytest.raises(UnknownFormat) as refusal:
        import_files(db, [lines(tmp_path / "good.jsonl", TRL), path])
    assert "answers, question" in refusal.value.found
    first, *rest = refusal.value.expected.splitlines()
    assert first == "one of"
    assert [line.strip().split(":")[0] for line in rest] == list(FORMATS)
    assert max(map(len, rest)) < 100
    assert "--format" in refusal.value.todo
    assert db["prompts"].count == 0  # not even the good file that came first


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b'[{"prompt": "p"},\n{"prompt": "q"}]\n', "is one JSON array"),
        ('{"prompt": "p"}\n'.encode("utf-16"), "line 1: not UTF-8"),
        (b"not json\n", "line 1: not JSON"),
        (b"\x1f\x8bbroken", "from here on the file cannot be read"),
    ],
)
def test_files_that_are_something_else(
    db: Database, tmp_path: Path, content: bytes, found: str
) -> None:
    (tmp_path / "f.jsonl").write_bytes(content)
    with pytest.raises(UnknownFormat, match=found):
        import_files(db, [tmp_path / "f.jsonl"])


def test_parquet_that_is_none(db: Database, tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(b"PAR1 and then nothing of the kind")
    with pytest.raises(CandidateError, match="not a sound parquet file"):
        import_files(db, [tmp_path / "f.parquet"])
    (tmp_path / "g.parquet").write_bytes(b"\x1f\x8b")
    with pytest.raises(CandidateError, match="is not a parquet file, but gzip"):
        import_files(db, [tmp_path / "g.parquet"])


def test_columns_named_twice(db: Database, tmp_path: Path) -> None:
    (tmp_path / "f.csv").write_text("prompt,m,m\np,x,y\n")
    with pytest.raises(UnknownFormat, match="columns m appear more than once"):
        import_files(db, [tmp_path / "f.csv"])


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "p", "responses": ["x", ', "Expecting value at character 36"),
        ('{"prompt": "p" "responses": []}', "Expecting ',' delimiter at character 16"),
        ('{"prompt": "p\t"}', "Invalid control character at character 14"),
        ('{"prompt": "p', "Unterminated string starting at character 12"),
    ],
)
def test_where_a_line_is_no_json(db: Database, tmp_path: Path, line: str, problem: str) -> None:
    path = lines(tmp_path / "f.jsonl", TRL)
    path.write_text(path.read_text() + line + "\n")
    (said,) = import_files(db, [path]).first_problems
    assert said == f"{path}, line 2: not JSON: {problem}"


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv", "f"])
def test_an_empty_file_holds_nothing(db: Database, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    report = import_files(db, [tmp_path / name])
    assert report.total.rows == 0


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"columns"}))
def test_a_forced_format_rejects_what_it_is_not(db: Database, tmp_path: Path, format: str) -> None:
    report = import_files(db, [lines(tmp_path / "f.jsonl", {"question": "q"})], format=format)
    assert (report.total.rows, report.total.rejected) == (1, 1)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("value", [None, 3, "text", [], [3], {}, {"x": 1}, [[]], [None], b"x"])
def test_no_reader_trips_over_types(name: str, value: Any) -> None:
    samples = [NATIVE, TRL, HH, ULTRAFEEDBACK, ARENA, ARENA_FLAT, ARENA_KAGGLE, WIDE, BINARIZED]
    for row in samples:
        for field in row:
            changed = row | {field: value}
            FORMATS[name].matches(changed)
            try:
                sound(FORMATS[name].read(changed))
            except RejectedRow as refusal:
                assert refusal.found
