"""The manual tells the truth: its code runs, and nothing public is missing from it."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot
from numpydoc.validate import validate

import noisyfit
from noisyfit import methods
from noisyfit._network import check_net

matplotlib.use("Agg")

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/changes/*.md")])
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))

MODULES = ["noisyfit", *(m.name for m in pkgutil.walk_packages(noisyfit.__path__, "noisyfit."))]
ROOMS = {
    name: importlib.import_module(name)
    for name in MODULES
    if name.count(".") < 2 and "._" not in name
}
PUBLIC = [(room, name) for room, module in ROOMS.items() for name in module.__all__]
CALLABLE = [f"{room}.{name}" for room, name in PUBLIC if callable(getattr(ROOMS[room], name))]


def blocks(page):
    """Line number and code of the blocks of Python on a page."""
    text = page.read_text()
    for match in re.finditer(r"^```python\n(.*?)^```$", text, flags=re.M | re.S):
        yield text.count("\n", 0, match.start()) + 1, match[1]


def run(test, flags=0):
    """Run a doctest; its report if it fails."""
    report = []
    doctest.DocTestRunner(optionflags=flags, verbose=False).run(test, out=report.append)
    assert not report, "".join(report)


# ---- pages -----------------------------------------------------------------------------------


@every_page
def test_code_with_prompts_gives_what_the_page_shows(page):
    """All blocks of a page share their names, and run in order."""
    text = page.read_text()
    lines = [""] * len(text.splitlines())
    for start, code in blocks(page):
        lines[start : start + code.count("\n")] = code.splitlines()
    prompts = [line for line in text.splitlines() if line.startswith(">>>")]
    assert [line for line in lines if line.startswith(">>>")] == prompts
    test = doctest.DocTestParser().get_doctest("\n".join(lines), {}, page.name, str(page), 0)
    run(test, doctest.ELLIPSIS)


@every_page
def test_code_without_prompts_compiles_and_imports_what_exists(page):
    for _, code in blocks(page):
        if ">>>" in code:
            continue
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("noisyfit"):
                module = importlib.import_module(node.module)
                assert [a.name for a in node.names if not hasattr(module, a.name)] == []


@every_page
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        file, _, heading = target.partition("#")
        if "://" in target:
            continue
        linked = page.parent / file if file else page
        assert linked.exists(), target
        assert not heading or heading in anchors(linked), target


def anchors(page):
    """Anchors of the headings of a page, as forges and the manual make them."""
    for title in re.findall(r"^#+ (.*)$", page.read_text(), flags=re.M):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


# ---- completeness ----------------------------------------------------------------------------


def listed(page):
    """Names in the lists of the page of the API, with the rooms of their section."""
    for section in page.read_text().split("\n## ")[1:]:
        title, _, body = section.partition("\n")
        for name in re.findall(r"^- `(\w+)`: \w", body, flags=re.M):
            yield frozenset(re.findall(r"`([\w.]+)`", title)), name


def test_every_public_name_is_in_the_list_of_its_room_and_no_other():
    found = list(listed(ROOT / "docs/api.md"))
    assert len(found) == len(set(found))
    expected = {(room, name) for room, name in PUBLIC if room != "noisyfit.methods"}
    for rooms, name in found:
        where = {(room, name) for room in rooms} & expected
        assert where, f"{name} is not public in {sorted(rooms)}"
        expected -= where
    assert not expected


def test_every_method_has_one_row_in_the_table():
    table = (ROOT / "docs/methods.md").read_text().split("## Published")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*$", table, flags=re.M)
    assert sorted(rows) == sorted(methods.__all__)


def test_the_table_counts_the_networks_of_every_method():
    text = (ROOT / "docs/methods.md").read_text()
    cells = re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| (\d) \|", text, flags=re.M)
    assert {name: int(n) for name, n in cells} == {
        name: getattr(methods, name).n_networks for name in methods.__all__
    }


def test_published_settings_are_accepted():
    """Presets are built but not trained on the page; their parameters are checked here."""
    page = ROOT / "docs/methods.md"
    code = "".join(code for _, code in blocks(page) if ">>>" in code).split(">>> from torch.nn")[0]
    names = {}
    for example in doctest.DocTestParser().get_examples(code):
        exec(example.source, names)
    presets = [v for v in names.values() if isinstance(v, noisyfit.BaseNoisyClassifier)]
    assert {type(p).__name__ for p in presets} == {"CoTeachingClassifier", "DivideMixClassifier"}
    for preset in presets:
        preset._check_parameters()
        check_net(preset.net)


# ---- docstrings ------------------------------------------------------------------------------


@pytest.mark.parametrize("module", MODULES)
def test_examples_of_docstrings_give_what_they_show(module):
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        run(test)
    pyplot.close("all")


@pytest.mark.parametrize("name", CALLABLE)
def test_public_docstring_is_complete(name):
    """Summary, every parameter in order, what is returned, an example."""
    wanted = {"GL08", "SS01", "PR01", "PR02", "PR03", "PR04", "PR10", "RT01", "YD01", "EX01"}
    thing = inspect.unwrap(getattr(ROOMS[name.rpartition(".")[0]], name.rpartition(".")[2]))
    if hasattr(thing, "_fields"):
        wanted -= {"PR01"}  # a named tuple describes its fields as attributes
    if inspect.Parameter.VAR_KEYWORD in {
        p.kind for p in inspect.signature(thing).parameters.values()
    }:
        wanted -= {"PR02"}  # may describe some of its keywords
    errors = [text for code, text in validate(name)["errors"] if code in wanted]
    assert errors == []


@pytest.mark.parametrize("name", MODULES)
def test_module_says_what_it_is_for(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert module.__doc__.splitlines()[0].endswith((".", "?"))
