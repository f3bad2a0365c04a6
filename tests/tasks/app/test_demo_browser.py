"""The demo's page in a real browser: two sizes, light and dark, by mouse and by keyboard."""

import os
import shutil

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="needs blockzoo[browser]")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = os.environ.get("BLOCKZOO_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
if BROWSER is None:
    pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed", allow_module_level=True)

SIZES = {"laptop": (1280, 900), "phone": (390, 844)}


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as engine:
        arguments = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        opened = engine.chromium.launch(executable_path=BROWSER, args=arguments)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, demo_run):
    """Opens the page; gives it with all it said and asked for."""
    contexts = []

    def open_page(size="laptop", scheme="light", **options):
        width, height = SIZES[size]
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **options)
        context.set_default_timeout(120_000)  # of a busy machine
        contexts.append(context)
        page = context.new_page()
        said: list[str] = []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if not request.url.startswith("data:") else None)
        page.goto(demo_run.file.as_uri())
        return page, said

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
def test_it_fits_and_is_quiet(visit, demo_run, size, scheme):
    page, said = visit(size, scheme)
    page.evaluate("document.querySelectorAll('main details').forEach(d => d.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0]
    # Nothing scrolls sideways in itself either.
    shown = "[...document.querySelectorAll('main *')].filter(e => !e.closest('svg, thead')"
    wide = "e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).overflowX !== 'visible'"
    assert page.evaluate(f"{shown} && {wide}).map(e => e.tagName)") == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper.strip("rgb()").split(","))) > 384) == (scheme == "light")
    assert said == [demo_run.file.as_uri()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs blockzoo[browser]")
    page, _ = visit("phone", scheme, bypass_csp=True)
    found = axe.Axe().run(page).response
    assert len(found["passes"]) > 20 and [item["id"] for item in found["violations"]] == []


def test_code_is_copied_with_and_without_the_clipboard_of_today(visit):
    page, _ = visit(permissions=["clipboard-read", "clipboard-write"])
    block = page.locator(".code").nth(3)
    block.get_by_role("button").click()
    playwright.expect(block.get_by_role("button")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == block.locator("code").text_content()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    other = page.locator(".code").nth(5)
    other.get_by_role("button").click()
    playwright.expect(other.get_by_role("button")).to_have_text("Copied")


def test_the_keyboard_reaches_everything(visit):
    page, _ = visit(reduced_motion="reduce")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")
    page.keyboard.press("Tab")  # the first thing in the content
    assert page.evaluate("document.querySelector('main').contains(document.activeElement)")
    style = "getComputedStyle(document.activeElement)"
    assert page.evaluate(f"{style}.outlineStyle") == "solid" and page.evaluate(f"{style}.outlineWidth") == "3px"
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    reachable = page.evaluate("[...document.querySelectorAll('button, a, summary')].every(e => e.tabIndex >= 0)")
    assert reachable and page.locator("button[hidden]").count() == 0


def test_without_scripts_no_dead_button_is_shown(visit):
    page, said = visit("phone", java_script_enabled=False)
    assert len(said) == 1 and page.locator("button:visible").count() == 0 and page.locator("nav a:visible").count() > 10
