"""One self-contained HTML file from a template: no network, no script, every text escaped."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(template: str, **context: object) -> str:
    """The HTML of `templates/<template>` with these values.

    Every value is escaped, but for markup that the caller marks with `trusted_markup`; a name
    that the template uses and nobody gave is an error, not an empty place.
    """
    return render_template("annotator.report", template, **context)


def render_template(package: str, template: str, **context: object) -> str:
    """The same from `templates/<template>` of another of our packages, such as annotator.web."""
    return str(_environment(package).get_template(template).render(**context))


@cache
def _environment(package: str) -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files(package) / "templates"
    return Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def template_text(name: str) -> str:
    """The text of `templates/<name>` as it is."""
    return (files("annotator.report") / "templates" / name).read_text(encoding="utf-8")


def trusted_markup(markup: str) -> str:
    """Markup that a template shall not escape: pictures that we have drawn, never people's text."""
    from markupsafe import Markup

    return Markup(markup)
