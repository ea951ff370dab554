"""Settings: where they come from, what wins, what a mistake looks like."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from annotator.config import (
    Settings,
    environment_names,
    find_project,
    load_settings,
    schema_text,
    template,
)
from annotator.errors import ConfigError


def _project(folder: Path, text: str) -> Path:
    (folder / "annotator.toml").write_text(text)
    return folder


def test_the_file_that_init_writes_holds_the_defaults(tmp_path: Path) -> None:
    settings = load_settings(_project(tmp_path, template("preferences")), {})
    assert settings == Settings()


def test_the_file_that_init_writes_obeys_the_schema_and_names_it() -> None:
    text = template('a "quoted" näme')
    assert text.startswith("#:schema ./annotator.schema.json\n")
    document = tomllib.loads(text)
    jsonschema.validate(document, json.loads(schema_text()))
    assert document["project"]["name"] == 'a "quoted" näme'


def test_the_schema_refuses_what_the_program_refuses() -> None:
    schema = json.loads(schema_text())
    for wrong in ({"round": {"sise": 3}}, {"round": {"control": 0.9}}, {"rounds": {}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_environment_goes_before_the_file(tmp_path: Path) -> None:
    folder = _project(tmp_path, "[round]\nsize = 7\noverlap = 2\n")
    settings = load_settings(folder, {"ANNOTATOR_ROUND_SIZE": "9"})
    assert (settings.round.size, settings.round.overlap) == (9, 2)


@pytest.mark.parametrize(("text", "overlap"), [("3", 3), ('"2-5"', "2-5"), ('"3"', 3)])
def test_an_overlap_is_a_number_or_a_range(tmp_path: Path, text: str, overlap: int | str) -> None:
    written = f"[round]\noverlap = {text}\n"
    assert load_settings(_project(tmp_path, written), {}).round.overlap == overlap
    jsonschema.validate(tomllib.loads(written), json.loads(schema_text()))
    found = load_settings(_project(tmp_path, ""), {"ANNOTATOR_ROUND_OVERLAP": text.strip('"')})
    assert found.round.overlap == overlap


def test_familiar_names_are_honoured(tmp_path: Path) -> None:
    folder = _project(tmp_path, '[studio]\nurl = "http://file:1"\n')
    assert load_settings(folder, {}).studio.url == "http://file:1"
    settings = load_settings(folder, {"LABEL_STUDIO_URL": "https://env"})
    assert settings.studio.url == "https://env"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[round]\nsise = 3\n", "did you mean 'size'"),
        ("[rond]\n", "did you mean 'round'"),
        ("[round]\ncontrol = 0.7\n", "control"),
        ("[round]\nsize = 'many'\n", "size"),
        ("[round]\noverlap = 'many'\n", "[round] overlap = 'many'"),
        ("[round]\noverlap = 0\n", "votes a pair, as 3, or '2-5' for 2 to 5"),
        ("[round]\noverlap_policy = 'majority'\n", "overlap_policy"),
        ("[studio]\nurl = 'localhost:8080'\n", "url"),
        ("[round\n", "TOML"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(_project(tmp_path, text), {})
    assert said in str(caught.value)


def test_a_mistake_in_the_environment_names_the_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ANNOTATOR_ROUND_SIZE"):
        load_settings(_project(tmp_path, ""), {"ANNOTATOR_ROUND_SIZE": "lots"})


def test_the_project_is_found_from_below(tmp_path: Path) -> None:
    _project(tmp_path, "")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_project(below).resolve() == tmp_path.resolve()


def test_a_key_named_in_the_file_is_for_the_server_of_the_file(tmp_path: Path) -> None:
    text = '[judge]\nbase_url = "http://file/v1"\nkey_variable = "FILE_API_KEY"\n'
    folder = _project(tmp_path, text)

    def found(**environment: str) -> tuple[str | None, str | None]:
        judge = load_settings(folder, environment).judge
        return judge.base_url, judge.key_variable

    assert found() == ("http://file/v1", "FILE_API_KEY")
    assert found(OPENAI_BASE_URL="http://env/v1") == ("http://env/v1", None)
    assert found(ANNOTATOR_JUDGE_BASE_URL="http://env/v1") == ("http://env/v1", None)
    both = found(OPENAI_BASE_URL="http://env/v1", ANNOTATOR_JUDGE_KEY_VARIABLE="ENV_API_KEY")
    assert both == ("http://env/v1", "ENV_API_KEY")


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "PATH", "sk-1_API_KEY"])
def test_a_file_cannot_have_any_variable_sent(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="key_variable"):
        load_settings(_project(tmp_path, f'[judge]\nkey_variable = "{name}"\n'), {})


def test_no_setting_is_a_secret() -> None:
    # One names the variable that holds a key, and is no key.
    names = " ".join(environment_names().keys() - {"ANNOTATOR_JUDGE_KEY_VARIABLE"}).lower()
    assert not any(word in names for word in ("key", "token", "secret", "password"))
