"""The report in headless Chromium: sorting, filters, pictures, a phone, a dark page, no JavaScript, names, keyboard.

Chromium is Debian's. Where it is missing, it is installed by apt-get, if this process may; else the tests are skipped.
CMAE_MM_CHROMIUM names another one; CMAE_MM_SCREENSHOTS names a folder that gets the screenshots of docs/images.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock
from report_sample import write_sample

from cmae_mm.report.command import write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
NONE = "\u2013"
NAMES = ("chromium", "chromium-browser", "google-chrome")
INSTALL = "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium"


def chromium():
    """Path of a Chromium; installed by apt-get where it is missing and may be."""
    found = os.environ.get("CMAE_MM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found:
        return found
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        pytest.skip("no Chromium here, and only root with apt-get could install it")
    with (
        FileLock(Path(tempfile.gettempdir()) / "cmae_mm_chromium.lock"),
        contextlib.suppress(subprocess.TimeoutExpired),
    ):
        if not shutil.which("chromium"):
            command = f"{INSTALL} || (apt-get update -qq && {INSTALL})"
            subprocess.run(["bash", "-c", command], capture_output=True, timeout=300, check=False)
    return shutil.which("chromium") or pytest.skip("no Chromium here, and apt-get could not install it")


@pytest.fixture(scope="module")
def browser():
    path = chromium()
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    return write_report(write_sample(tmp_path_factory.mktemp("browser") / "sample")).as_uri()


def opened(browser, wrong, **options):
    """A page that notes errors, and requests over the network."""
    page = browser.new_context(viewport={"width": 1280, "height": 900}, **options).new_page()
    page.set_default_timeout(10_000)
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
    return page


@pytest.fixture(scope="module")
def tab(browser):
    wrong = []
    yield opened(browser, wrong, permissions=["clipboard-read", "clipboard-write"])
    assert wrong == []


@pytest.fixture
def page(tab, address):
    """The report as it opens, on a wide light page."""
    tab.set_viewport_size({"width": 1280, "height": 900})
    tab.emulate_media(color_scheme="light")
    tab.goto("about:blank")
    tab.goto(address)
    return tab


def column(page, title, table=0):
    """Shown texts of a column of a table, without the small print."""
    place = page.locator("table").nth(table)
    titles = [text.strip() for text in place.locator("thead th").all_inner_texts()]
    cells = place.locator(f"tbody tr > :nth-child({titles.index(title) + 1})")
    return [text.split("\n")[0].strip() for text in cells.all_inner_texts()]


def test_sorting_by_mouse_and_keyboard(page):
    head = page.locator("table").nth(1).locator("thead").get_by_role("columnheader", name="Published")
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    values = column(page, "Published", 1)
    numbers = [float(v.rstrip("†")) for v in values if v != NONE]
    assert numbers == sorted(numbers, reverse=True)
    assert values[-1] == NONE
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    values = column(page, "Published", 1)
    assert [float(v.rstrip("†")) for v in values if v != NONE] == numbers[::-1]
    assert values[-1] == NONE
    page.locator("table").nth(1).get_by_role("button", name="Method").click()
    assert head.get_attribute("aria-sort") is None
    names = column(page, "Method", 1)
    assert names == sorted(names, key=str.lower)


def test_filters(page):
    rows, count = page.locator("tbody tr:visible"), page.locator("#count")
    total = rows.count()
    assert count.inner_text() == f"{total} of {total} rows"
    page.get_by_label("Find").fill("mae seg-up")
    assert rows.locator("th").evaluate_all("all => all.map(head => head.dataset.v)") == [
        "Multi-View MAE",
        "CMAE",
        "MAE",
    ]
    assert page.locator("article.protocol:visible").count() == 1
    page.get_by_label("Find").fill("")
    page.get_by_label("Metric").select_option("mask AP")
    assert rows.count() == 3
    page.get_by_label("Metric").select_option("")
    page.get_by_label("Show").select_option("beyond the noise")
    assert rows.count() == 1
    assert "\u22120.44" in rows.first.inner_text()
    assert count.inner_text() == f"1 of {total} rows"
    page.get_by_label("Show").select_option("measured rows")
    assert rows.count() == 11
    page.get_by_label("Find").fill("nothing like this")
    assert rows.count() == 0


def test_pictures_open_turn_and_close(page):
    viewer = page.get_by_role("dialog", name="Picture")
    link = page.get_by_role("link", name="Enlarge: Ground truth above detections")
    small = link.locator("img").bounding_box()["width"]
    link.click()
    assert viewer.is_visible()
    large = viewer.get_by_role("img", name="Ground truth above detections")
    assert large.bounding_box()["width"] > 2 * small
    page.keyboard.press("ArrowRight")
    assert viewer.get_by_role("img", name="Label maps above predictions").is_visible()
    viewer.get_by_role("button", name="Previous picture").click()
    assert "(2 of 3)" in viewer.inner_text()
    page.keyboard.press("Escape")
    assert not viewer.is_visible()
    assert link.evaluate("link => link === document.activeElement")
    page.keyboard.press("Enter")
    viewer.get_by_role("button", name="Close the picture").click()
    assert not viewer.is_visible()


def test_commands_are_copied(page):
    page.locator("summary", has_text="CMAE, ViT-B/16, COCO").first.click()
    page.get_by_role("button", name="Copy the command of CMAE, ViT-B/16, COCO, seed 1").click()
    page.get_by_text("Copied").wait_for()
    config = "configs/coco/mask-rcnn_vitdet-b-p16_lsj-100e_coco.py"
    wanted = f"python tools/train.py {config} --seed 1 --backbone backbones/cmae-seed1.safetensors"
    assert page.evaluate("navigator.clipboard.readText()") == wanted


def test_the_page_never_scrolls_sideways(page):
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    for width in (1280, 800, 390, 320):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        wide = page.locator(".scroll").evaluate_all(
            "all => all.filter(box => box.scrollWidth > box.clientWidth).length"
        )
        assert wide == 0 or width < 390
        assert page.locator("tbody tr").first.get_by_text("52.44").is_visible()


def test_a_dark_page_is_dark_and_both_are_readable(page):
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ratios = page.evaluate(CONTRAST)
        assert (ratios.pop("paper") < 0.1) == (scheme == "dark")
        assert len(ratios) > 15
        assert {name: ratio for name, ratio in ratios.items() if ratio < 4.5} == {}


# Contrast of text against what lies behind it, WCAG 2 (relative luminance).
CONTRAST = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((rgb(color)[3] ?? 1) > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const found = { paper: light(getComputedStyle(document.body).backgroundColor) };
  const texts = "h1, h2, h3, p, td, th, a, dt, dd, b, .sub, .none, button, label, summary, figcaption, li, code";
  for (const node of document.querySelectorAll(texts)) {
    const color = getComputedStyle(node);
    if (color.color === "rgba(0, 0, 0, 0)" || !node.textContent.trim()) continue;
    const [a, b] = [light(color.color), light(behind(node))].sort((x, y) => y - x);
    const key = node.tagName + " " + node.className + " in " + node.parentElement.className;
    found[key] = Math.min(found[key] ?? 99, (a + 0.05) / (b + 0.05));
  }
  return found;
}"""


def test_without_javascript_tables_and_pictures_work(browser, address):
    wrong = []
    page = opened(browser, wrong, java_script_enabled=False)
    page.goto(address)
    assert page.locator("table").count() == 3
    assert page.locator("tbody tr").first.get_by_text("52.44").is_visible()
    for hidden in (".filters", ".copy", "dialog"):
        assert not page.locator(hidden).first.is_visible()
    page.locator("summary").nth(1).click()
    assert page.get_by_text("--seed 2 --backbone backbones/cmae-seed2").first.is_visible()
    page.get_by_role("link", name="Enlarge: Ground truth above detections").click()
    figure = page.locator("figure:target")
    assert figure.bounding_box()["width"] == 1280
    assert figure.locator("img").bounding_box()["height"] > 600
    figure.get_by_role("link", name="Close the picture").click()
    assert page.locator("figure:target").count() == 0
    assert wrong == []


def test_names_for_those_who_listen(page):
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.get_by_role("main").count() == page.get_by_role("heading", level=1).count() == 1
    assert page.get_by_role("table", name="COCO, ViTDet, 100 epochs").is_visible()
    for section in ("Results", "Curves", "Pictures", "Runs", "Sources", "Not in the tables"):
        assert page.get_by_role("region", name=section, exact=True).count() == 1
    chart = page.get_by_role("img", name="COCO, training loss by iteration: CMAE, seed 0 ends at")
    assert chart.count() == 1
    assert page.get_by_role("row", name="CMAE").first.get_by_role("rowheader").count() == 1
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, a, input, select, img, [role=img]')].filter(node => !node.alt && "
        "!node.ariaLabel && !node.textContent.trim() && !node.labels?.length && !node.closest('dialog'))"
        ".map(node => node.outerHTML)"
    )
    assert unnamed == []


def test_everything_is_reached_by_keyboard(page):
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    order = []
    for _ in range(6):
        page.keyboard.press("Tab")
        order.append(
            page.evaluate(
                "(({id, className, textContent}) => id || className || textContent)(document.activeElement)"
            )
        )
    assert order == ["find", "metric", "show", "scroll", "Method", "Backbone"]
    page.locator("#pictures-title").click()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "open"
    page.locator("#runs-title").click()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("details").first.get_attribute("open") is not None


@pytest.mark.skipif("CMAE_MM_SCREENSHOTS" not in os.environ, reason="CMAE_MM_SCREENSHOTS names no folder")
def test_screenshots_for_the_documentation(page):
    folder = Path(os.environ["CMAE_MM_SCREENSHOTS"])
    for name, width, where, scheme in (
        ("table", 1200, ".top", "light"),
        ("dark", 1200, "#curves", "dark"),
        ("phone", 390, "#results", "light"),
    ):
        page.set_viewport_size({"width": width, "height": 1300})
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.locator(where).evaluate("node => node.scrollIntoView()")
        page.screenshot(path=folder / f"report_{name}.png")
