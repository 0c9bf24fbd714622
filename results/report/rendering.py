"""The templates of the report and their style sheets."""

from __future__ import annotations

from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

FOLDER = files("vlpeft.results.report") / "templates"


def environment() -> Environment:
    """Return the templates. All text is escaped, and an unknown name is an error."""
    return Environment(
        loader=PackageLoader("vlpeft.results.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def read_asset(name: str) -> Markup:
    """Return a style sheet or a script, which is not escaped."""
    return Markup((FOLDER / name).read_text(encoding="utf-8"))
