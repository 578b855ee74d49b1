"""Generated pages are current, and everything that exists is documented."""

from __future__ import annotations

import inspect
import re

import pytest
from docs.pages import PAGES, ROOT, module

from perdure import errors, registry

generate = module(ROOT / "docs" / "generate.py")
NAMES = ["methods.md", "settings.md", "errors.md", "cli.md"]


@pytest.mark.parametrize("name", NAMES)
def test_page_is_current(name):
    made = getattr(generate, name.removesuffix(".md"))()
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == made, "run: python docs/generate.py"


def test_every_setting_has_a_meaning():
    """Told to its end: a line of a docstring that happens to begin with `word:` ends no entry."""
    rows = [line for line in generate.settings().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert not [row for row in rows if not row.endswith((". |", ".) |"))]


def test_every_option_of_every_verb_has_a_meaning():
    rows = [line for line in generate.cli().splitlines() if line.startswith("| `")]
    assert rows
    assert not [row for row in rows if row.rstrip().endswith("|  |")]


@pytest.mark.parametrize("kind", ["methods", "encoders", "objectives", "formats"])
def test_everything_registered_is_on_its_page(kind):
    page = generate.methods()
    missing = [name for name in registry.names(kind) if f"`{name}`" not in page]
    assert not missing


def test_every_error_is_on_its_page():
    names = [name for name, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, errors.PerdureError)]
    page = generate.errors()
    assert not [name for name in names if f"`{name}`" not in page]
    text = generate.errors()
    assert not [line for line in text.splitlines() if line.startswith("| `") and line.rstrip().endswith("|  |")]


def test_links_lead_somewhere():
    broken = []
    for page in PAGES:
        text = re.sub(r"(?ms)^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"))
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if target.startswith(("http://", "https://", "#", "mailto:")):
                continue
            path = (page.parent / target.split("#")[0]).resolve()
            if not path.exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken, "\n".join(broken)


def test_anchors_lead_somewhere():
    broken = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        heads = {
            re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in re.findall(r"(?m)^#+ (.*)$", text)
        }
        broken += [f"{page.name}: #{a}" for a in re.findall(r"\]\(#([^)]+)\)", text) if a not in heads]
    assert not broken, "\n".join(broken)


def test_every_page_is_in_the_site():
    told = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in ROOT.glob("docs/**/*.md")]
    assert not [page for page in pages if f'"{page}"' not in told]
