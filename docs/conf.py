"""Build the documentation as a site: `tox run -e docs`.

The root of the site is the root of the repository, so links are the same in both.
"""

from __future__ import annotations

from sphinx.application import Sphinx

project = "vlpeft"
author = "the authors of vlpeft"
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**.md"]
exclude_patterns = [
    ".*",
    "baselines",
    "benchmark",
    "build",
    "dist",
    "methods",
    "results",
    "runs",
    "slurm",
    "tests",
    "vlpeft",
]
nitpicky = True
# The README's tables and pages of tables may start at any level.
suppress_warnings = ["myst.header"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "vlpeft"
html_extra_path = ["site"]  # index.html redirects to README.html
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"

CONTENTS = {
    "Results": ("results", "published", "speed", "full_size", "limits"),
    "Use": (
        "commands",
        "sweeps",
        "slurm",
        "data",
        "formats",
        "report",
        "export",
        "api",
        "environments",
        "glossary",
    ),
    "Papers and code": (
        "papers/p_adapter",
        "papers/routing",
        "papers/clip_bart",
        "model_card_tiny",
    ),
    "Development": ("design", "/CONTRIBUTING", "/CHANGELOG"),
}


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Append the tables of contents to the first page.

    They are not in the file, because a code host would show them as text.
    """
    if name == app.config.root_doc:
        source[0] += "\n" + "\n".join(
            _toctree(caption, pages) for caption, pages in CONTENTS.items()
        )


def _toctree(caption: str, pages: tuple[str, ...]) -> str:
    lines = (page if page.startswith("/") else f"/docs/{page}" for page in pages)
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"])


def setup(app: Sphinx) -> None:
    """Register the hook; Sphinx calls this function."""
    app.connect("source-read", add_contents)
