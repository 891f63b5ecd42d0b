"""The page of `mgpack report` through Python's own HTML parser, and its drawing through an XML parser."""

from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Page(HTMLParser):
    """Holds every element against the one that it ends, and gathers ids and what refers to them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.ids, self.referred, self.tags, self.reached = [], [], [], [], []
        self.texts = {}

    def handle_starttag(self, tag, attributes):
        named = dict(attributes)
        assert len(named) == len(attributes), f"an attribute twice in {self.get_starttag_text()}"
        self.tags.append(tag)
        self.ids += [named["id"]] if "id" in named else []
        self.referred += named.get("aria-labelledby", "").split()
        if "tabindex" in named:
            assert named["tabindex"] == "0", "the order of the page is the order of the keyboard"
            assert "aria-labelledby" in named or named.get("aria-label"), f"{tag} is reached and has no name"
            self.reached.append(tag)
        for name, value in attributes:
            assert name not in ("src", "href", "srcset", "action") and not name.startswith("on"), f"{name}={value}"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> ends {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


@pytest.fixture(scope="module")
def written(mgpack, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        mgpack("convert", "tiny", "--int8", "-o", folder / "bundle", "--progress", "none", check=True)
        (tiny,) = (folder / "cache/mgpack").glob("MGM*")
        paths = ["-o", folder / "page.html", "--svg", folder / "figure.svg"]
        mgpack("report", folder / "bundle", "--against", tiny, *paths, "--progress", "none", check=True)
    return folder


def test_the_page_is_sound_and_every_name_leads_somewhere(written):
    page = Page()
    page.feed((written / "page.html").read_text())
    page.close()
    assert page.open == []
    assert len(page.ids) == len(set(page.ids)) and len(page.ids) > 10
    assert set(page.referred) <= set(page.ids) and len(page.referred) >= 10
    assert page.tags.count("figure") == page.reached.count("figure") == 10
    assert page.tags.count("script") == page.tags.count("iframe") == 0
    # Every drawing has its numbers as a table beside it, and every table its heads.
    assert page.tags.count("details") == 10 and page.tags.count("table") == 11
    assert page.tags.count("thead") == 11
    assert len(page.texts["h1"]) == 1 and page.texts["h1"][0].startswith("MGM-7B")


def test_the_drawing_is_sound_and_says_what_it_shows(written):
    root = ElementTree.parse(written / "figure.svg").getroot()
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == f"{space}svg" and root.get("role") == "img"
    told = {child.get("id"): child.text for child in root if child.tag in (f"{space}title", f"{space}desc")}
    assert set(root.get("aria-labelledby").split()) == set(told)
    assert "4 layers" in " ".join(told.values()) and "dB" in " ".join(told.values())
    width = float(root.get("viewBox").split()[2])
    cells = [cell for cell in root.iter(f"{space}rect") if cell.find(f"{space}title") is not None]
    # Seven linears a layer.
    assert len(cells) == 4 * 7
    assert all(float(cell.get("x")) + float(cell.get("width")) <= width for cell in cells)
    labels = [text for text in root.iter(f"{space}text") if text.get("class") == "label"]
    left = min(float(cell.get("x")) for cell in cells)
    # A letter of the drawing's font is 0.6 of its size wide.
    assert all(len(label.text) * 11.5 * 0.6 < left for label in labels) and len(labels) == 7
