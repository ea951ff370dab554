"""`annotator map` as a person runs it; then the database and what was drawn are read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from annotator.cli import main
from annotator.report.map_plot import (
    PAGE_BYTES,
    PAGE_POINTS,
    MapPicture,
    ShownPrompt,
    ShownResponse,
    fitting_prompts,
    map_page,
    save_map_png,
)
from annotator.store import open_db, writing
from strategies.datamap import REGIONS
from tests.ready_project import SIZES, copy_project, make_project, rows_of
from tests.small_world import add_prompt, add_prompts

EVIL = "<script>alert('x')</script> & \"quoted\" </pre></svg>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("made") / "project")


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    return copy_project(made, tmp_path / "project")


def run(project: Path, *arguments: str) -> Result:
    return CliRunner().invoke(
        main, ["map", *arguments, "--project", str(project)], catch_exceptions=False
    )


def graded(project: Path, grade: dict[int, float], name: str = "grade") -> None:
    """Scores that came with the data, by response id."""
    db = open_db(project / "annotator.db")
    with writing(db):
        db.conn.executemany(
            "INSERT INTO source_scores VALUES (?, ?, ?, 1)",
            [(response_id, name, value) for response_id, value in grade.items()],
        )
    db.close()


def response_ids(project: Path) -> list[int]:
    return [i for (i,) in rows_of(project, "SELECT id FROM responses ORDER BY id")]


def test_the_map_by_peer_agreement(project: Path) -> None:
    result = run(project)
    assert result.exit_code == 0
    assert "no judge has scored these responses" in result.stdout
    assert "all-MiniLM-L6-v2" in result.stdout
    assert re.search(r"^high-variance +3, variance at least \d\S*$", result.stdout, re.M)
    assert "2 prompts have two responses" in result.stdout
    kept = rows_of(project, "SELECT region, count(*) FROM datamap GROUP BY 1 ORDER BY 1")
    assert kept == [("high-mean-low-variance", 3), ("high-variance", 3), ("low-mean", 2)]
    (cuts,) = rows_of(project, "SELECT variance_cut, mean_cut FROM datamap_builds")
    (high,) = rows_of(project, "SELECT min(variance) FROM datamap WHERE region = 'high-variance'")
    assert cuts[0] == high[0]
    two = rows_of(project, "SELECT DISTINCT variance FROM datamap WHERE n_scored = 2")
    assert two == [(0.0,)]


def test_json_says_the_same_and_twice_the_same(project: Path) -> None:
    first, second = (json.loads(run(project, "--json").stdout) for _ in range(2))
    assert first == second
    assert first["method"] == "peer-agreement"
    assert (first["prompts_on_map"], first["prompts_off_map"]) == (len(SIZES), 0)
    assert (first["responses"], first["responses_scored"]) == (sum(SIZES), sum(SIZES))
    assert first["regions"] == dict(zip(REGIONS, (3, 3, 2), strict=True))
    assert rows_of(project, "SELECT count(*) FROM datamap") == [(len(SIZES),)]


def test_texts_without_a_vector_are_embedded_first(project: Path) -> None:
    db = open_db(project / "annotator.db")
    add_prompt(db, [{"role": "user", "content": "And in winter?"}], ["A coat.", "A sledge."])
    db.close()
    report = json.loads(run(project, "--json").stdout)
    assert report["prompts_on_map"] == len(SIZES) + 1


def test_the_map_by_scores_of_the_data_needs_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "annotator.toml").write_text('[encoder]\nname = "no/such-encoder"\n')
    db = open_db(tmp_path / "annotator.db", create=True)
    groups = add_prompts(db, [3, 2, 2, 1])
    db.close()
    scored = groups[0] + groups[1] + groups[2][:1] + groups[3]
    grades = [1.0, 5.0, 3.0, 2.0, 4.0, 4.0, 5.0]
    graded(tmp_path, dict(zip(scored, grades, strict=True)))
    result = run(tmp_path, "--scores", "grade")
    assert result.exit_code == 0
    assert "'grade', a score that came with the data" in result.stdout
    assert re.search(r"no place +2 prompts", result.stdout)
    assert "(margin / 2) squared" in result.stdout
    kept = rows_of(tmp_path, "SELECT mean, variance, n_scored FROM datamap ORDER BY prompt_id")
    assert kept == [(3.0, pytest.approx(8 / 3), 3), (3.0, 1.0, 2), (None, None, 1), (None, None, 1)]


def test_ties_at_the_cut_are_owned_up_to(project: Path) -> None:
    graded(project, dict.fromkeys(response_ids(project), 3.0))
    result = run(project, "--scores", "grade", "--seed", "5")
    assert "8 prompts have the variance of the cut itself" in result.stdout
    assert "(seed 5)" in result.stdout
    regions = {
        tuple(rows_of(project, "SELECT region FROM datamap ORDER BY prompt_id"))
        for seed in range(6)
        if run(project, "--scores", "grade", "--seed", str(seed)).exit_code == 0
    }
    assert len(regions) > 1


def test_an_unknown_score_names_those_there_are(project: Path) -> None:
    graded(project, {response_ids(project)[0]: 1.0}, "helpfulness")
    result = run(project, "--scores", "helpfulnes")
    assert result.exit_code == 1
    assert "no response has a score 'helpfulnes'" in result.stderr
    assert "peer-agreement, helpfulness" in result.stderr
    assert rows_of(project, "SELECT count(*) FROM datamap_builds") == [(0,)]


def test_too_few_scores_for_a_map(project: Path) -> None:
    graded(project, {response_ids(project)[0]: 1.0})
    result = run(project, "--scores", "grade")
    assert result.exit_code == 1
    assert "none of the 8 prompts has two responses with a score" in result.stderr


def test_no_candidates(tmp_path: Path) -> None:
    (tmp_path / "annotator.toml").write_text('[encoder]\nname = "no/such-encoder"\n')
    open_db(tmp_path / "annotator.db", create=True).close()
    result = run(tmp_path)
    assert result.exit_code == 1
    assert "holds no candidates" in result.stderr
    assert "annotator import" in result.stderr


@pytest.mark.parametrize("name", ["map.pdf", "map", "nowhere/map.png"])
def test_a_plot_that_cannot_be_drawn_is_wrong_usage(project: Path, name: str) -> None:
    result = run(project, "--plot", str(project / name))
    assert result.exit_code == 2
    assert ".html" in result.stderr or "no folder" in result.stderr
    assert rows_of(project, "SELECT count(*) FROM datamap_builds") == [(0,)]


def test_png(project: Path) -> None:
    report = json.loads(run(project, "--plot", str(project / "map.PNG"), "--json").stdout)
    assert report["plot"] == {"file": str(project / "map.PNG"), "prompts": len(SIZES)}
    assert (project / "map.PNG").read_bytes().startswith(b"\x89PNG")


def test_html_leads_from_each_point_to_its_texts(project: Path) -> None:
    db = open_db(project / "annotator.db")
    add_prompt(db, [{"role": "user", "content": EVIL}], [EVIL, "Quite.", "Perhaps."])
    db.close()
    result = run(project, "--plot", str(project / "map.html"))
    assert "9 of 9 prompts drawn" in result.stdout
    page = (project / "map.html").read_text(encoding="utf-8")
    links = re.findall(r'<a xlink:href="#(p\d+)"><title>([^<]*)</title>', page)
    articles = re.findall(r'<article id="(p\d+)">', page)
    assert sorted(link for link, _ in links) == sorted(articles)
    assert len(set(articles)) == 9
    for link, title in links:
        query = f"SELECT messages FROM prompts WHERE id = {link[1:]}"
        content = json.loads(rows_of(project, query)[0][0])[0]["content"]
        if content != EVIL:
            assert title.startswith(content[:30])
    assert "<script" not in page
    assert "&lt;script&gt;alert" in page
    assert "peer agreement by all-MiniLM-L6-v2" in page
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page)
    assert "@import" not in page and "target=" not in page


# What is drawn of a large map.


def picture_of(n: int, n_off_map: int = 0) -> MapPicture:
    rng = np.random.default_rng(0)
    region = np.arange(n) % 3
    return MapPicture(
        prompt_ids=np.arange(n) + 10,
        mean=rng.random(n),
        variance=rng.random(n),
        region=region,
        counts=dict(zip(REGIONS, np.bincount(region, minlength=3).tolist(), strict=True)),
        where=dict.fromkeys(REGIONS, "somewhere"),
        n_off_map=n_off_map,
        variance_cut=0.6,
        mean_cut=0.4,
        scores="'grade', a score that came with the data",
        seed=1,
    )


def shown(picture: MapPicture, text: str) -> list[ShownPrompt]:
    response = ShownResponse(0.5, "m", text)
    return [
        ShownPrompt(prompt_id, [("user", text)], [response] * 4)
        for prompt_id in picture.prompt_ids.tolist()
    ]


def test_a_large_map_is_sampled_and_says_so(tmp_path: Path) -> None:
    picture = picture_of(9000, n_off_map=1234)
    assert save_map_png(picture, tmp_path / "map.png") == 4000
    drawn = picture.sample(PAGE_POINTS)
    page = map_page(drawn, shown(drawn, "short"))
    assert page.n_points == PAGE_POINTS
    assert page.html.count("<article") == page.html.count("<title>") - 1 == PAGE_POINTS
    assert "1,500 of 9,000 prompts, drawn at random (seed 1)" in page.html
    assert "1,234 prompts have no place" in page.html
    assert ">3,000<" in page.html  # a region's count, drawn or not


def test_a_sample_is_drawn_from_all_regions_alike() -> None:
    drawn = picture_of(9000).sample(1500)
    assert len(set(drawn.prompt_ids.tolist())) == 1500
    assert np.abs(np.bincount(drawn.region) - 500).max() < 4 * np.sqrt(1500 * 2 / 9)
    assert (drawn.region == (drawn.prompt_ids - 10) % 3).all()


@pytest.mark.parametrize("text", ["<&>" * 3000, "長い答え" * 800, "plain " * 700])
def test_long_texts_keep_the_page_small_and_say_how_much_is_cut(text: str) -> None:
    picture = picture_of(1500)
    page = map_page(picture, shown(picture, text))
    assert len(page.html.encode()) < 5_000_000
    cut = re.search(r"… \(([\d,]+) more characters\)", page.html)
    assert cut is not None
    n_chars = len(text) - int(cut.group(1).replace(",", ""))
    assert f"Texts of more than {n_chars:,} characters are cut" in page.html
    assert f"{page.n_points:,} of 1,500" in page.html or page.n_points == 1500


def test_prompts_that_do_not_fit_are_left_out_of_the_drawing_too() -> None:
    picture = picture_of(1500)
    page = map_page(picture, shown(picture, "<&>" * 3000))
    assert 0 < page.n_points < 1500
    assert page.html.count("<a xlink:href") == page.html.count("<article") == page.n_points
    assert f"{page.n_points:,} of 1,500 prompts, drawn at random" in page.html


def test_a_first_prompt_of_any_size_is_taken() -> None:
    picture = picture_of(2)
    taken, n_chars = fitting_prompts(shown(picture, "x" * 5000), n_bytes=10)
    assert (len(taken), n_chars) == (1, 200)
    assert PAGE_BYTES < 5_000_000
