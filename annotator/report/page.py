"""One self-contained HTML file from a template: no network, no script, every text escaped."""

from __future__ import annotations

from importlib.resources import files


def render_page(template: str, **context: object) -> str:
    """The HTML of `templates/<template>` with these values.

    Every value is escaped, but for markup that the caller marks with `trusted_markup`; a name
    that the template uses and nobody gave is an error, not an empty place.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    folder = files("annotator.report") / "templates"
    environment = Environment(
        loader=FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**context)


def trusted_markup(markup: str) -> str:
    """Markup that a template shall not escape: pictures that we have drawn, never people's text."""
    from markupsafe import Markup

    return Markup(markup)
