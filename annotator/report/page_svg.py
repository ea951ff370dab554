"""A figure as an <svg> element that can stand beside others in a page with a strict content policy.

Such a policy forbids style attributes and elements, so everything is said by presentation
attributes; series take their colours from the page's style sheet, which knows the dark; and every
id begins with the figure's name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from annotator.report.charts import COLOURS, INK, svg_element

if TYPE_CHECKING:
    from annotator.report.charts import Figure


@dataclass(frozen=True)
class Spot:
    """What a point of a figure leads to, and what is shown where a pointer rests on it."""

    title: str
    href: str | None = None


def page_svg(
    figure: Figure,
    name: str,
    title: str,
    description: str,
    spots: Mapping[str, Spot] | None = None,
) -> str:
    """The figure as an <svg> element for a page that allows no style attribute.

    `name` begins every id in it. `title` and `description` are what a screen reader says. `spots`
    are the points that lead somewhere or say something, by the url that the figure gives them
    (`set_urls`). INK becomes currentColor, COLOURS[i] the property --series-i.
    """
    root = ElementTree.fromstring(svg_element(figure, name))
    _plain_names(root)
    _drop(root, {"metadata", "style"})
    for element in root.iter():
        _as_attributes(element)
        _rounded_numbers(element)
    _with_spots(root, spots or {})
    _own_ids(root, name)
    _described(root, name, title, description, reaches=bool(spots))
    return ElementTree.tostring(root, encoding="unicode")


_NUMBER = re.compile(r"-?\d+\.\d{3,}")
_PIXELS = re.compile(r"([\d.]+)px")
_TO_ID = re.compile(r"url\(#([^)]+)\)")
_ROUNDED = ("d", "x", "y", "width", "height", "transform")
_FONT = ("font", "font-family", "font-style", "font-weight")


def _plain_names(root: ElementTree.Element) -> None:
    """Names without their namespaces, as HTML wants them inside an <svg>."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        for key in [key for key in element.attrib if "}" in key]:
            element.attrib[key.rpartition("}")[2]] = element.attrib.pop(key)


def _drop(root: ElementTree.Element, names: set[str]) -> None:
    for parent in root.iter():
        for child in [child for child in parent if child.tag in names]:
            parent.remove(child)


def _as_attributes(element: ElementTree.Element) -> None:
    """The declarations of a style attribute as attributes; fonts are the page's."""
    for declaration in element.attrib.pop("style", "").split(";"):
        key, _, value = (part.strip() for part in declaration.partition(":"))
        if key in ("font", "font-size") and (size := _PIXELS.search(value)):
            element.set("font-size", size.group(1))
        elif key and key not in _FONT:
            element.set(key, value)
    for key in ("fill", "stroke"):
        if key in element.attrib:
            element.set(key, _themed(element.attrib[key]))
    if element.tag == "text" and "fill" not in element.attrib:
        element.set("fill", "currentColor")


def _themed(colour: str) -> str:
    if colour.lower() == INK:
        return "currentColor"
    known = [one.lower() for one in COLOURS]
    if colour.lower() in known:
        return f"var(--series-{known.index(colour.lower())}, {colour})"
    return colour


def _rounded_numbers(element: ElementTree.Element) -> None:
    """A tenth of a point is finer than a screen shows; the file is half as long."""
    for key in _ROUNDED:
        if key in element.attrib:
            text = _NUMBER.sub(lambda found: f"{float(found.group()):.2f}", element.attrib[key])
            element.set(key, " ".join(text.split()))
    if element.attrib.get("transform", "").startswith("rotate(-0 "):
        del element.attrib["transform"]
    element.text = (element.text or "").strip() or None
    element.tail = None


def _with_spots(root: ElementTree.Element, spots: Mapping[str, Spot]) -> None:
    """Each point with its title; a link where it leads somewhere, a group where it does not."""
    for element in list(root.iter("a")):
        spot = spots.get(element.attrib.get("href", ""), Spot(""))
        element.attrib.clear()
        if spot.href is None:
            element.tag = "g"
        else:
            element.set("href", spot.href)
        if spot.title:
            title = ElementTree.Element("title")
            title.text = spot.title
            element.insert(0, title)
    for parent in [parent for parent in root.iter("g") if "Collection" in parent.get("id", "")]:
        _say_once(parent)


def _say_once(parent: ElementTree.Element) -> None:
    """What all points of a collection say of their looks, said by the collection."""
    defined = {element for defs in parent.iter("defs") for element in defs.iter()}
    points = [e for e in parent.iter() if e.tag in ("use", "path") and e not in defined]
    for key in ("fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity", "opacity"):
        values = {point.get(key) for point in points}
        if len(values) == 1 and (value := values.pop()) is not None:
            parent.set(key, value)
            for point in points:
                del point.attrib[key]


def _own_ids(root: ElementTree.Element, name: str) -> None:
    """Only ids that something refers to, each beginning with the figure's name."""
    used = {e.get("href", "")[1:] for e in root.iter("use")}
    for element in root.iter():
        used.update(*(_TO_ID.findall(value) for value in element.attrib.values()))
    for element in root.iter():
        if "id" in element.attrib:
            own = element.attrib.pop("id")
            if own in used:
                element.set("id", f"{name}-{own}")
        if element.tag == "use":
            element.set("href", f"#{name}-{element.attrib['href'][1:]}")
        for key, value in element.attrib.items():
            element.set(key, _TO_ID.sub(lambda found: f"url(#{name}-{found.group(1)})", value))


def _described(
    root: ElementTree.Element, name: str, title: str, description: str, *, reaches: bool
) -> None:
    """Title and description for who cannot see it. An image hides its links; a group does not."""
    for key in ("width", "height", "version"):
        root.attrib.pop(key, None)
    root.attrib |= {
        "class": "chart",
        "role": "group" if reaches else "img",
        "aria-labelledby": f"{name}-title",
        "aria-describedby": f"{name}-desc",
        # As the style element said that was dropped; what is said further down goes first.
        "stroke-linejoin": "round",
        "stroke-linecap": "butt",
    }
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(tag, {"id": f"{name}-{tag}"})
        element.text = text
        root.insert(place, element)
