"""A page is read back by a parser: whatever its texts hold, it is text, and nothing is fetched from anywhere."""

import stat
import sys
from html.parser import HTMLParser

import pytest

from aligner_integrations.errors import MissingDependencyError
from aligner_integrations.evaluation.html import (
    MOST_EXAMPLES,
    Example,
    Page,
    Table,
    charts,
    render,
    require_packages,
    write,
)

HOSTILE = [
    "</div></article></body></html><script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% include '/etc/passwd' %}",
    "<!-- --><style>*{display:none}</style>",
    "javascript:alert(1)",
    "\x00\x1b[31m\u202egpj.exe\ud800",
    "]]><svg onload=alert(1)>",
]
VOID = {"meta", "img", "br", "hr", "input", "link", "base"}


class Read(HTMLParser):
    """What a browser would make of a page: tags with their attributes, and the text in each."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts, self.broken = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.broken.append(tag)

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else None, data))

    def named(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]

    @property
    def text(self):
        return "".join(text for _, text in self.texts)


def page_of(text):
    return Page(
        title=text,
        lead=[text],
        tiles=[(text, text)],
        tables=[Table(text, [["", text], [text, text]], note=text)],
        charts=[
            charts.bars(text, {text: 1.0, "b": -2.0}, intervals={text: (0.5, 1.5)}),
            charts.histogram(text, {text: [1, 2]}),
        ],
        examples=[Example(text, text, text, f"new {text}", {text: text}, {text: text})],
        examples_title=text,
        notes=[text],
    )


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text):
    read = Read(render(page_of(text)))
    plain = Read(render(page_of("plain")))
    assert [tag for tag, _ in read.tags if tag not in ("ins", "del", "text", "tspan", "g", "path", "use")] == [
        tag for tag, _ in plain.tags if tag not in ("ins", "del", "text", "tspan", "g", "path", "use")
    ]
    assert not read.broken and not read.open
    assert not [name for _, attributes in read.tags for name in attributes if name.startswith("on")]
    assert len(read.named("script")) == 1 and "alert" not in "".join(t for tag, t in read.texts if tag == "script")
    assert not set(read.text) & set("\x00\x1b\u202e")


def test_what_is_shown_is_what_was_said():
    read = Read(render(page_of(HOSTILE[0])))
    assert read.text.count(HOSTILE[0]) >= 10


@pytest.mark.parametrize("text", [*HOSTILE, "plain"])
def test_nothing_is_fetched(text):
    read = Read(render(page_of(text)))
    for tag, attributes in read.tags:
        for name in ("src", "href", "xlink:href", "action", "data", "poster", "srcset", "background"):
            assert (attributes.get(name) or "#").startswith("#"), (tag, attributes)
        assert "url(http" not in (attributes.get("style") or "")
    (policy,) = [one["content"] for one in read.named("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'") and "unsafe-inline'; script-src 'sha256-" in policy


def test_diff_is_coloured_and_rows_can_be_filtered():
    rows = [
        Example("won", "q", "it is bad", "it is good"),
        Example("lost", "q", "a", "b"),
        Example("won", "q", "c", "d"),
    ]
    read = Read(render(Page("t", examples=rows)))
    assert [text for tag, text in read.texts if tag == "del"][1:] == ["bad", "a", "c"]  # the first explains the colour
    assert [text for tag, text in read.texts if tag == "ins"][1:] == ["good", "b", "d"]
    assert [one["data-outcome"] for one in read.named("article")] == ["won", "lost", "won"]
    buttons = {one["data-show"]: one["aria-pressed"] for one in read.named("button")}
    assert buttons == {"": "true", "won": "false", "lost": "false"}
    assert "won 2" in read.text


def test_light_and_dark():
    text = render(page_of("plain"))
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text and "#010203" not in text  # plots take the page's own ink


def test_long_texts_and_many_rows_are_cut_and_it_says_so():
    rows = [Example("won", "q", "word " * 5000, "word " * 5001)] + [Example("tied", "q", "a", "a")] * 500
    text = render(Page("t", examples=rows))
    assert len(text) < 400_000
    read = Read(text)
    assert len(read.named("article")) == MOST_EXAMPLES
    assert f"{MOST_EXAMPLES} of 501 rows" in read.text
    assert "characters more" in read.text


def test_a_page_of_nothing():
    read = Read(render(Page("t")))
    assert not read.named("article") and not read.named("table") and not read.named("svg")


def test_plots_of_nothing_and_of_one_value():
    for values in ({}, {"a": []}, {"a": [1.0]}):
        assert "<svg" in charts.histogram("t", values).svg
    assert "<svg" in charts.bars("t", {}).svg
    assert "<svg" in charts.lines("t", {"a": [(0, 1), (1, 0)]}, marks={"here": 0.5}).svg
    for counts in ({}, {"a": {}}, {"a": {0.0: 1}, "b": {0.0: 2, 60.0: 1}}):
        assert "<svg" in charts.over_time("t", counts, width=60).svg


def test_a_chart_in_a_notebook_is_a_picture_with_its_title():
    with_title = charts.bars("Some $ title", {"a": 1.0})
    assert with_title._repr_png_().startswith(b"\x89PNG")
    assert with_title._repr_png_() == charts.bars("Some $ title", {"a": 1.0})._repr_png_()
    assert with_title._repr_png_() != charts.bars("Another", {"a": 1.0})._repr_png_()
    assert "title" not in with_title.svg  # the page has it above


def test_written_for_its_owner_only_and_whole(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("old")
    write(path, page_of("plain"))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text("utf-8") == render(page_of("plain"))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_missing_package_is_named_at_once(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"aligner-integrations\[evaluate\]"):
        require_packages()
