"""The page with the front in a real browser."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qtrap_agents.plans import PrecisionPlan
from qtrap_agents.report.front_page import front_page

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


def plan() -> PrecisionPlan:
    estimate = {"mean": 0.9, "low": 0.85, "high": 0.93, "chains": 1000}
    front = [
        {"cost": 1e6, "success": 0.7, "low": 0.6, "high": 0.8, "label": "all <awq>"},
        {"cost": 2e6, "success": 0.9, "low": 0.85, "high": 0.93, "label": "plan"},
        {"cost": 4e6, "success": 0.99, "low": 0.98, "high": 1.0, "label": "all fp16"},
    ]
    outlook = {"success": estimate, "cost": 2e6}
    return PrecisionPlan.model_validate(
        {
            "suite": "arith",
            "depth": 8,
            "arms": [{"name": "fp16", "checkpoint": "reference:small/fp16"}],
            "baseline": "fp16",
            "default": "fp16",
            "predicted": {"plan": outlook, "baseline": outlook, "target": 0.9, "front": front},
        }
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_front_can_be_read(browser: Any, tmp_path: Path, scheme: str) -> None:
    path = tmp_path / "front.html"
    path.write_text(front_page(plan()), encoding="utf-8")
    page = browser.new_page(color_scheme=scheme)
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    assert asked == [path.as_uri()]
    assert said == []
    assert page.locator("svg circle").count() == 3
    box = page.locator("svg").bounding_box()
    assert box["width"] > 300
    for text in page.locator("svg text").all():
        words = text.bounding_box()
        assert box["x"] <= words["x"]
        assert words["x"] + words["width"] <= box["x"] + box["width"]
    assert "all <awq>" in page.locator("table").first.inner_text()
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    assert contrast(ink, paper) > 7
    assert contrast(page.evaluate("getComputedStyle(document.querySelector('.predicted')).fill"), paper) > 3
    page.close()


def contrast(one: str, other: str) -> float:
    """Of two `rgb(…)` colours, as WCAG 2 has it."""
    bright, dark = sorted(map(luminance, (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    """Relative luminance."""
    parts = [int(part) / 255 for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
