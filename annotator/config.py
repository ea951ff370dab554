"""Settings: flags over environment over `annotator.toml` over defaults.

The models below are the only list of settings there is: the JSON Schema that editors use, the
file that `init` writes and the environment variables all come from them. Secrets are not
settings: they come from the environment alone.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from annotator.errors import ConfigError

FILE_NAME = "annotator.toml"
SCHEMA_NAME = "annotator.schema.json"
DEFAULT_ENCODER = "all-MiniLM-L6-v2"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True)


class ProjectSettings(_Section):
    """What this project is called and where its database lies."""

    name: str = Field(
        "preferences",
        min_length=1,
        max_length=40,
        description="The project's title in Label Studio, shown to annotators.",
    )
    database: str = Field(
        "annotator.db", min_length=1, description="SQLite file, relative to this file."
    )


class EncoderSettings(_Section):
    """The sentence encoder whose vectors say how dissimilar two responses are."""

    name: str = Field(
        DEFAULT_ENCODER,
        min_length=1,
        description="Name or path of any sentence-transformers model.",
    )
    precision: str = Field(
        "auto",
        pattern="^(auto|bf16|float32)$",
        description="auto takes bf16 where the processor is fast at it.",
    )


_RANGE = "^[1-9][0-9]{0,2}(-[1-9][0-9]{0,2})?$"


def _number_or_range(value: int | str) -> int | str:
    if not re.match(_RANGE, str(value)):
        raise PydanticCustomError("overlap", "votes a pair, as 3, or '2-5' for 2 to 5")
    return int(value) if str(value).isdigit() else value


VotesAPair = Annotated[
    int | str,
    AfterValidator(_number_or_range),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": _RANGE}]}
    ),
]


class RoundSettings(_Section):
    """What `annotator next-batch` does when no flag says otherwise."""

    size: Annotated[int, Field(ge=1, le=100_000)] = Field(
        100, description="Pairs in a batch, control arm included."
    )
    strategy: str = Field(
        "hybrid", min_length=1, description="See `annotator next-batch --help` for the names."
    )
    control: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.15,
        description="Share of each batch drawn uniformly; without it no saving can be measured.",
    )
    overlap: VotesAPair = Field(
        1, description='People asked about each pair; "2-5": at least 2, up to 5 where it helps.'
    )
    overlap_policy: str = Field(
        "expected-gain",
        pattern="^(fixed|until-agree|expected-gain)$",
        description="Where an overlap such as 2-5 asks further: until-agree, until one side leads "
        "by two; expected-gain, where a further vote brings more than one on a new pair.",
    )
    gold: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.03,
        description="Pairs with a known answer mixed in, as a share of the batch and on top of it; "
        "none as long as no gold was imported.",
    )
    repeats: Annotated[float, Field(ge=0, le=0.5)] = Field(
        0.03,
        description="Pairs asked again with sides swapped, as a share of the batch and on top of "
        "it, to see whether the same person says the same.",
    )
    gold_file: str | None = Field(
        None,
        min_length=1,
        description="Labelled file, relative to this file, whose answers `next-batch` takes in as "
        "gold each time; known ones are not added twice.",
    )
    near_duplicates: Annotated[float, Field(ge=0.9, le=1)] = Field(
        0.9995,
        description="Cosine from which two responses are checked for reading the same, which "
        "leaves nothing to compare. 1: ask about every pair.",
    )


class JudgeSettings(_Section):
    """Who scores the responses. Its API key comes from the environment, never from here."""

    route: str = Field(
        "rubric",
        pattern="^(rubric|reference|pairwise|reward-model|peer|data)$",
        description="rubric, reference, pairwise, reward-model, peer or data: see "
        "`annotator judge --help`.",
    )
    model: str | None = Field(
        None,
        min_length=1,
        description="The judge's name at its server; for reward-model the model's folder.",
    )
    base_url: str | None = Field(
        None,
        pattern="^https?://",
        description="Any server that speaks the OpenAI API, such as http://localhost:11434/v1. "
        "Empty: api.openai.com. OPENAI_BASE_URL goes first.",
    )
    key_variable: str | None = Field(
        None,
        pattern="^[A-Z][A-Z0-9_]*_API_KEY$",
        description="The environment variable that holds the key for base_url, such as "
        "OPENAI_API_KEY. Empty: none is sent, but for OPENAI_API_KEY to the server of "
        "OPENAI_BASE_URL, or else to OpenAI.",
    )
    rubric: str = Field(
        "helpful", min_length=1, description="A rubric that comes along, or the path of a file."
    )
    uncertainty: str = Field(
        "logprobs",
        pattern="^(logprobs|samples|none)$",
        description="Where a grade's mean and variance come from. none: the grade as written.",
    )
    samples: Annotated[int, Field(ge=2, le=64)] = Field(
        8, description="Answers asked for each grade where uncertainty is samples."
    )
    thinking: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        0,
        description="For a reasoning model: how many tokens it may think before each answer, "
        "beside the answer's own.",
    )
    similarity: str = Field(
        "cosine",
        pattern="^(cosine|rouge-l)$",
        description="What the route reference compares a response and the reference by.",
    )
    opponents: Annotated[int, Field(ge=2, le=1000)] = Field(
        4,
        description="How many others each response meets on the route pairwise, where a prompt has "
        "more than five; up to five, every pair is judged.",
    )
    scores: str | None = Field(
        None, min_length=1, description="For the route data: the score that came with the data."
    )
    max_cost: Annotated[float, Field(gt=0)] | None = Field(
        None, description="US dollars that this project may spend on judging, all runs together."
    )
    prices: str | None = Field(
        None, min_length=1, description="Your own price table (TOML), before the one that ships."
    )
    concurrency: Annotated[int, Field(ge=1, le=1024)] = Field(
        32, description="Calls under way at once, at most; fewer while the server is busy."
    )
    timeout: Annotated[float, Field(gt=0, le=3600)] = Field(
        60.0, description="Seconds for one call, from sending to the last byte."
    )
    retries: Annotated[int, Field(ge=0, le=100)] = Field(
        5, description="How often a call that fails is tried again within one run."
    )
    mode: str = Field(
        "live",
        pattern="^(live|batch)$",
        description="batch: by the Batch API, cheaper and within a day.",
    )


class StudioSettings(_Section):
    """Where Label Studio is. Its API key comes from LABEL_STUDIO_API_KEY, never from here."""

    url: str | None = Field(
        None,
        pattern="^https?://",
        description="Empty: the server of `annotator studio up`. LABEL_STUDIO_URL goes first.",
    )
    grace_seconds: Annotated[float, Field(ge=0, le=86_400)] = Field(
        180.0,
        description="How long an unanswered push may still arrive before it is sent again.",
    )


class ServeSettings(_Section):
    """What `annotator serve` does when no flag says otherwise. Its tokens are not kept here."""

    port: Annotated[int, Field(ge=0, le=65_535)] = Field(
        8765, description="Port of the dashboard; 0: any that is free."
    )
    webhook: bool = Field(
        True, description="Ask Label Studio to say when somebody has answered; it is polled anyway."
    )
    poll_seconds: Annotated[float, Field(ge=1, le=3600)] | None = Field(
        None,
        description="Seconds between two looks at Label Studio. Empty: 30 where it calls the "
        "webhook, else 2 while somebody answers or watches.",
    )
    send_when_below: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        None, description="Send the next batch when fewer tasks than this wait for an answer."
    )


class Rate(_Section):
    """What one annotator is paid, in the project's currency."""

    vote: Annotated[float, Field(ge=0)] | None = None
    hour: Annotated[float, Field(ge=0)] | None = None


def _read_json(value: Any) -> Any:
    """A table as an environment variable can hold it, '{"anna": {"hour": 25}}'."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise PydanticCustomError(
            "rates", 'names and rates as JSON, such as {"anna": {"hour": 25}}'
        ) from error


class BudgetSettings(_Section):
    """What labelling costs and may cost. Rates count for votes already there as well."""

    currency: str = Field(
        "USD",
        pattern="^[A-Z]{3}$",
        description="What people are paid in. Judges cost US dollars, whatever it is.",
    )
    usd: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="What a US dollar is worth in that currency; without it, and with another "
        "currency, people and judges are never added up.",
    )
    rate_vote: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Paid for each vote; a skip is none."
    )
    rate_hour: Annotated[float, Field(ge=0)] | None = Field(
        None, description="Paid for each hour that tasks were open, skipped ones as well."
    )
    rates: Annotated[dict[str, Rate], BeforeValidator(_read_json)] = Field(
        {},
        description="Who is paid otherwise, by name in Label Studio, as "
        "{ anna = { hour = 25 }, ben = { vote = 0.1 } }.",
    )
    cap_votes: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Votes that the project may ask for in all."
    )
    cap_cost: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Money that it may cost in all, in that currency."
    )
    minimum_gain: Annotated[float, Field(ge=0, le=100)] = Field(
        0.5,
        description="Percentage points of accuracy that the next 100 votes have to bring, at "
        "best, for more votes to be worth it.",
    )


class Settings(_Section):
    """Settings of an annotator project."""

    project: ProjectSettings = Field(default_factory=ProjectSettings)
    encoder: EncoderSettings = Field(default_factory=EncoderSettings)
    judge: JudgeSettings = Field(default_factory=JudgeSettings)
    round: RoundSettings = Field(default_factory=RoundSettings)
    studio: StudioSettings = Field(default_factory=StudioSettings)
    budget: BudgetSettings = Field(default_factory=BudgetSettings)
    serve: ServeSettings = Field(default_factory=ServeSettings)


# Names that people know from elsewhere; every other setting is ANNOTATOR_SECTION_FIELD.
_FAMILIAR = {
    "LABEL_STUDIO_URL": ("studio", "url"),
    "OPENAI_BASE_URL": ("judge", "base_url"),
}


def environment_names() -> dict[str, tuple[str, str]]:
    """Environment variable -> (section, field), for every setting."""
    names = dict(_FAMILIAR)
    for section, field in Settings.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        for name in model.model_fields:
            names[f"ANNOTATOR_{section}_{name}".upper()] = (section, name)
    return names


def find_project(start: Path) -> Path:
    """The folder at or above `start` that holds annotator.toml; raises ConfigError."""
    for folder in [start, *start.resolve().parents]:
        if (folder / FILE_NAME).is_file():
            return folder
    raise ConfigError(
        f"no {FILE_NAME} in {start} or above it",
        expected="a project folder",
        todo="run `annotator init` here, or go to the project, or pass --project DIR",
    )


def load_settings(folder: Path, environment: Mapping[str, str] | None = None) -> Settings:
    """The settings of the project in `folder`; raises ConfigError that names the setting."""
    path = folder / FILE_NAME
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read: {error}", expected="a TOML file", todo="mend that line"
        ) from error
    origin = _apply_environment(values, os.environ if environment is None else environment)
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, path, origin) from error


def _apply_environment(
    values: dict[str, Any], environment: Mapping[str, str]
) -> dict[tuple[str, str], str]:
    origin: dict[tuple[str, str], str] = {}
    for variable, (section, field) in environment_names().items():
        text = environment.get(variable)
        if text:
            values.setdefault(section, {})[field] = text
            origin[section, field] = variable
    if ("judge", "base_url") in origin and ("judge", "key_variable") not in origin:
        # The file names a key for the server that the file names, and for no other.
        values["judge"].pop("key_variable", None)
    return origin


def _explain(error: ValidationError, path: Path, origin: dict[tuple[str, str], str]) -> ConfigError:
    first = error.errors()[0]
    place = tuple(str(part) for part in first["loc"])
    where = origin.get((place[0], place[-1])) if len(place) > 1 else None
    name = where or f"[{place[0]}] {'.'.join(place[1:])}".strip()
    if first["type"] == "extra_forbidden":
        return _unknown_setting(name, place, path)
    return ConfigError(
        f"{name} = {first['input']!r} in {'the environment' if where else path}",
        expected=first["msg"],
        todo=f"correct it; {SCHEMA_NAME} lists every setting",
    )


def _unknown_setting(name: str, place: tuple[str, ...], path: Path) -> ConfigError:
    known: list[str] = list(Settings.model_fields)
    if len(place) > 1 and place[0] in Settings.model_fields:
        model = Settings.model_fields[place[0]].annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        # Below a section there are only the rates of people.
        known = list((model if len(place) == 2 else Rate).model_fields)
    close = difflib.get_close_matches(place[-1], known, n=1)
    return ConfigError(
        f"{path} has an unknown setting: {name}",
        expected=f"one of {', '.join(known)}",
        todo=f"did you mean {close[0]!r}?" if close else "remove it, or see the schema",
    )


def schema_text() -> str:
    """The JSON Schema of annotator.toml, as `init` writes it beside the file."""
    return json.dumps(Settings.model_json_schema(), indent=2) + "\n"


def template(name: str) -> str:
    """The annotator.toml that `init` writes: every setting, at its default, explained."""
    lines = [f"#:schema ./{SCHEMA_NAME}", "# Settings left out keep their default.", ""]
    for section, info in Settings.model_fields.items():
        model = info.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        lines += [f"# {model.__doc__}", f"[{section}]"]
        for field, detail in model.model_fields.items():
            lines.append(f"# {detail.description}")
            lines.append(_toml_line(section, field, detail.default, name))
        lines.append("")
    return "\n".join(lines)


def _toml_line(section: str, field: str, default: object, name: str) -> str:
    if (section, field) == ("project", "name"):
        return f"name = {json.dumps(name, ensure_ascii=False)}"
    if default is None:
        return f"# {field} ="
    return f"{field} = {json.dumps(default)}"
