"""Builds the documentation into a folder: guide pages of the Markdown files that are there, and the API of what users import.

    python docs/build.py build/docs

A warning of pdoc, and a link that leads nowhere, is an error.
"""

import argparse
import importlib
import re
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pdoc
from pdoc import doc, render

ROOT = Path(__file__).parents[1]
PACKAGE = "aligner_integrations"

# Page -> what it is called, its file, and the second-level headings that are taken of it (none named: all of it).
GUIDE: dict[str, tuple[str, ...]] = {
    "start": ("Start", "README.md"),
    "paper": ("The paper, claim by claim", "docs/paper.md"),
    "learning_loop": ("The learning loop", "cookbook/learning_loop.md"),
    "servers": ("An aligner on a server", "cookbook/servers.md"),
    "embedded_aligner": ("The embedded aligner", f"{PACKAGE}/assets/embedded/README.md"),
    "figures": ("What was measured", "CONTRIBUTING.md", "Speed", "Measures"),
    "changes": ("What is new", "CHANGELOG.md"),
}
# What users import. The rest is how it is done, and CONTRIBUTING.md says where.
API = (
    "",
    "aligner",
    "backends",
    "backends.base",
    "correction",
    "corpus",
    "errors",
    "evaluation",
    "evaluation.calibration",
    "evaluation.harmless",
    "evaluation.html",
    "evaluation.html.charts",
    "evaluation.own_rows",
    "evaluation.quality",
    "evaluation.report",
    "evaluation.rows",
    "evaluation.win_rate",
    "langchain",
    "llama_index",
    "models",
    "recording",
    "templates",
    "training",
    "training.recipes",
    "training.run",
    "triples",
)


def guide() -> dict[str, doc.Module]:
    """The guide pages, as modules that are nothing but a docstring."""
    pages = {}
    for name, (words, file, *headings) in GUIDE.items():
        text = (ROOT / file).read_text("utf-8")
        if headings:
            parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
            taken = [part for part in parts if part.partition("\n")[0].removeprefix("## ") in headings]
            text = f"# {words}\n\n" + "".join(taken)
        module = ModuleType(f"guide.{name}", _for_pdoc(text, Path(file)))
        pages[module.__name__] = doc.Module(module)
    return pages


def _for_pdoc(text: str, file: Path) -> str:
    """Links to other files of the source lead to their pages; a link to what has none becomes its words."""
    pages = {(ROOT / of).resolve(): f"{name}.html" for name, (_, of, *_) in GUIDE.items()}

    def lead(match: re.Match[str]) -> str:
        words, target = match.groups()
        if urlsplit(target).scheme or target.startswith("#"):
            return match[0]
        page = pages.get((ROOT / file.parent / target).resolve())
        return f"[{words}]({page})" if page else words

    return re.sub(r"(?<!!)\[([^\]\n]+)\]\(([^)\s]+)\)", lead, re.sub(r"!\[[^\]]*\]\([^)]*\)\n?", "", text))


def build(folder: Path) -> None:
    """Write all pages.

    Raises:
        SystemExit: A link leads nowhere.
    """
    templates = Path(__file__).with_name("templates")
    render.configure(docformat="google", show_source=False, template_directory=templates)
    render.env.globals["guide"] = {f"guide.{name}": words for name, (words, *_) in GUIDE.items()}
    modules = guide()
    for name in API:
        module = importlib.import_module(f"{PACKAGE}.{name}".rstrip("."))
        for public in getattr(module, "__all__", ()):
            setattr(module, public, getattr(module, public))  # those that are resolved when first used
        modules[module.__name__] = doc.Module(module)
    for name, module in modules.items():
        path = folder / f"{name.replace('.', '/')}.html"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_without_ghosts(render.html_module(module, modules)), "utf-8")
    (folder / "index.html").write_text('<meta http-equiv="refresh" content="0; url=guide/start.html">\n', "utf-8")
    (folder / "search.js").write_bytes(render.search_index(modules).encode())
    if dead := sorted(dead_links(folder)):
        raise SystemExit("These links lead nowhere:\n" + "\n".join(dead))
    sys.stdout.write(f"{len(modules)} pages, pdoc {pdoc.__version__}: {folder / 'index.html'}\n")


def _without_ghosts(page: str) -> str:
    """Inherited docstrings name members that pdoc links to and does not show: such a link becomes its words."""
    places = _Page(page).places

    def keep(match: re.Match[str]) -> str:
        return match[0] if unquote(match[1]) in places else match[2]

    return re.sub(r'<a href="#([\w.]+)">(.*?)</a>', keep, page)


class _Page(HTMLParser):
    """The links of a page, and the places in it that can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := found.get(name))}
        if tag == "a" and (link := found.get("href")):
            self.links.append(link)


def dead_links(folder: Path) -> set[str]:
    """Links between the pages that lead nowhere, each with the page that it is on."""
    pages = {path.relative_to(folder).as_posix(): _Page(path.read_text("utf-8")) for path in folder.rglob("*.html")}
    dead = set()
    for name, page in pages.items():
        for link in page.links:
            if urlsplit(link).scheme:
                continue
            target, place = urldefrag(urljoin(name, link))
            found = pages.get(unquote(target) or name)
            if found is None or (place and unquote(place) not in found.places):
                dead.add(f"{name}: {link}")
    return dead


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Build the documentation.")
    parser.add_argument("folder", type=Path)
    warnings.simplefilter("error")
    build(parser.parse_args().folder)
