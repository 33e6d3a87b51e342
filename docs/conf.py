"""
Builds the site: ``make docs``, or ``sphinx-build -W -n docs build/docs``.

The pages are Markdown that reads well in a forge's web view too, so links point to files of the repository. What Sphinx would
not know to do with them is done here.
"""

import importlib.metadata
import os
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parent.parent
SHOWN = re.compile(r"\[[^\]]*\]\(\.\./([A-Z]+\.md)\)\s*")  # a page that is nothing but such a link shows that file
LINK = re.compile(r"(!?)\[((?:`[^`]*`|[^\]`])*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)

project = "sb3_pgr"
project_copyright = "the authors of sb3_pgr, MIT licence"
release = version = importlib.metadata.version("sb3_pgr")

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_static"]
myst_heading_anchors = 3
myst_enable_extensions = ["tasklist"]
highlight_language = "bash"  # of blocks that do not say: commands

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 100
toc_object_entries = False
# Names of other libraries have no pages here, and no inventories are downloaded.
nitpick_ignore_regex = [(r"py:.*", r"(?!sb3_pgr).*")]

html_theme = "furo"
html_title = f"sb3_pgr {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False


def pages_of_files() -> dict[Path, str]:
    """Which page shows which file of the repository."""
    pages = {path: path.name for path in (ROOT / "docs").glob("*.md")}
    for path in list(pages):
        shown = SHOWN.fullmatch(path.read_text())
        if shown:
            pages[ROOT / shown[1]] = path.name
    return pages


def link_inside(text: str, folder: Path) -> str:
    """
    Point links at pages of the site. What is no page is offered for download, which MyST does by itself; a folder cannot be,
    so its path stands beside the text instead.
    """
    pages = pages_of_files()

    def link(match: re.Match[str]) -> str:
        picture, label, target, anchor = match.groups(default="")
        path = Path(os.path.normpath(folder / target))
        if path in pages:
            return f"[{label}]({pages[path]}{anchor})"
        if path.is_dir():
            place = f"`{path.relative_to(ROOT)}`"
            return label if label == place else f"{label} ({place})"
        return f"{picture}[{label}]({os.path.relpath(path, ROOT / 'docs')}{anchor})"

    return "".join(part if part.startswith("```") else LINK.sub(link, part) for part in FENCE.split(text))


def read_source(app: Sphinx, docname: str, source: list[str]) -> None:
    """Sphinx calls this with the text of each page; one that is nothing but a link becomes the file behind it."""
    shown = SHOWN.fullmatch(source[0])
    if shown:
        app.env.note_dependency(ROOT / shown[1], docname=docname)
        source[0] = link_inside((ROOT / shown[1]).read_text(), ROOT)
    else:
        source[0] = link_inside(source[0], ROOT / "docs")


def shorten_signature(*event: Any) -> tuple[str, str | None] | None:
    """Leave out what SB3 passes to itself when it loads a model."""
    signature, annotation = event[-2:]
    return (signature.replace(", _init_setup_model=True", ""), annotation) if signature else None


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this first."""
    app.connect("source-read", read_source)
    app.connect("autodoc-process-signature", shorten_signature)
    return {"parallel_read_safe": True}
