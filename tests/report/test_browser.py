"""The page in a real browser: no errors, no requests, no sideways scrolling, and the script's few powers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hasten.core.record import RunRecord
from hasten.report import write

from . import records

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

WIDTHS = (400, 1280)
HEIGHT = 900


class Reader:
    """Opens a record's page at a width and looks at it."""

    def __init__(self, chrome: Chrome, folder: Path) -> None:
        self.chrome = chrome
        self.path = folder / "report.html"

    def open(self, made: RunRecord, width: int = 1280, *, script: bool = True) -> None:
        write(made, self.path)
        size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        self.chrome.get("about:blank")
        self.logs()
        self.requests()
        self.chrome.get(self.path.as_uri())

    def logs(self) -> list[str]:
        """Console messages since the last call."""
        return [entry["message"] for entry in self.chrome.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the last call, but for the page itself."""
        events = [json.loads(e["message"])["message"] for e in self.chrome.get_log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if url not in ("about:blank", self.path.as_uri())]

    def one(self, selector: str) -> WebElement:
        return self.chrome.find_element("css selector", selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.chrome.find_elements("css selector", selector)

    def js(self, code: str, *arguments: object) -> Any:
        return self.chrome.execute_script(code, *arguments)

    def settle(self) -> None:
        """Wait until scrolling has been drawn and its events have been told."""
        self.js("return new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, condition: str) -> None:
        """Wait until a condition holds: the browser follows links in its own time."""
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.chrome, 20).until(lambda _: self.js(f"return {condition}"), condition)

    def press(self, *keys: str) -> None:
        from selenium.webdriver import ActionChains

        ActionChains(self.chrome).send_keys(*keys).perform()

    def click(self, element: WebElement) -> None:
        self.js("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()


@pytest.fixture
def reader(browser: Chrome, tmp_path: Path) -> Reader:
    return Reader(browser, tmp_path)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("variant", records.VARIANTS)
def test_fits_its_width_without_errors_or_requests(reader: Reader, variant: str, width: int) -> None:
    reader.open(records.VARIANTS[variant](), width)
    assert reader.js("return document.documentElement.scrollWidth") == width
    assert reader.js("return innerWidth") == width
    assert reader.logs() == []
    assert [url for url in reader.requests() if url != "data:,"] == []


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(
    "prefix",
    ["<script>window.hacked=1</script>", '"><img src=x onerror=window.hacked=1>', "averylongname" * 30],
)
def test_hostile_and_endless_names_change_nothing(reader: Reader, prefix: str, width: int) -> None:
    reader.open(records.renamed(records.record(), prefix), width)
    mark = reader.one(".p-chosen")
    reader.js("arguments[0].focus()", mark)
    assert prefix in str(reader.one("#tip").text)
    assert reader.js("return window.hacked === undefined && document.images.length === 0")
    assert reader.js("return document.documentElement.scrollWidth") == width
    assert reader.logs() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_hovering_a_mark_explains_it(reader: Reader, width: int) -> None:
    from selenium.webdriver import ActionChains

    reader.open(records.record(), width)
    tip = reader.one("#tip")
    assert not tip.is_displayed()
    reader.js("document.querySelector('#field').scrollIntoView({block: 'center'})")
    reader.settle()
    mark = reader.one(".point[data-name='optimize_graph + cast'] .halo")
    ActionChains(reader.chrome).move_to_element(mark).perform()
    assert tip.is_displayed()
    assert "optimize_graph + cast" in tip.text
    assert "openvino, threads=2, precision=bf16" in tip.text
    assert "2.43× faster [2.36× to 2.50×]" in tip.text
    box = tip.rect
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= width
    ActionChains(reader.chrome).move_to_element(reader.one("#plot-title")).perform()
    assert not tip.is_displayed()


def test_the_first_tap_explains_and_the_second_follows(reader: Reader) -> None:
    from selenium.webdriver.common.actions.action_builder import ActionBuilder
    from selenium.webdriver.common.actions.pointer_input import PointerInput

    reader.open(records.record(), 400)
    reader.js("document.querySelector('#field').scrollIntoView({block: 'center'})")
    reader.settle()
    mark = reader.one(".point[data-name='optimize_graph + cast'] .halo")

    def tap() -> None:
        finger = ActionBuilder(reader.chrome, mouse=PointerInput("touch", "finger"))
        finger.pointer_action.move_to(mark).pointer_down().pointer_up()
        finger.perform()
        reader.settle()

    tap()
    assert "optimize_graph + cast" in reader.one("#tip").text
    assert reader.js("return location.hash") == ""
    tap()
    reader.until("location.hash === '#trial-3'")


def test_the_plot_is_one_stop_of_the_tab_key_and_arrows_move_in_it(reader: Reader) -> None:
    from selenium.webdriver import Keys

    reader.open(records.record())
    assert len(reader.all(".point[tabindex='0']")) == 1
    reader.js("document.querySelector('#plot-title').scrollIntoView()")
    reader.js("document.querySelectorAll('#before-after [tabindex]')[0].focus()")
    reader.press(Keys.TAB)
    tip = reader.one("#tip")
    assert "status\nchosen" in tip.text
    inside = "const r = document.activeElement.querySelector('.halo').getBoundingClientRect();"
    assert reader.js(inside + "return r.top >= 0 && r.bottom <= innerHeight")
    positions = []
    for _ in range(4):
        reader.press(Keys.ARROW_RIGHT)
        assert tip.is_displayed()
        positions.append(reader.js(inside + "return r.left"))
    assert positions == sorted(positions)
    reader.press(Keys.ESCAPE)
    assert not tip.is_displayed()
    row = reader.js("return document.activeElement.getAttribute('href')")
    for _ in range(2):  # the second time the address stays as it is
        reader.press(Keys.ENTER)
        reader.until("document.activeElement.className === 'unfold'")
        unfolded = reader.js("return document.activeElement.getAttribute('aria-controls')")
        assert f"#{unfolded}" == f"{row}-more"
        assert reader.js("return document.activeElement.getAttribute('aria-expanded')") == "true"
        reader.js("document.querySelector(`.point[href='${location.hash}']`).focus()")


def test_the_table_sorts_and_leaves_unmeasured_rows_last(reader: Reader) -> None:
    reader.open(records.record())

    def column(key: str) -> list[float | None]:
        cells = reader.all(f"#trial-table td[data-key='{key}']")
        values = [str(cell.get_attribute("data-value")) for cell in cells]
        return [float(v) if v else None for v in values]

    for key in ("latency", "drop", "size", "speed", "number"):
        heading = reader.one(f".sort[data-key='{key}']")
        seen = []
        for _ in range(2):
            reader.click(heading)
            values = column(key)
            known = [v for v in values if v is not None]
            assert values[: len(known)] == known
            falling = heading.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
            assert known == sorted(known, reverse=falling)
            seen.append(falling)
        assert seen[0] != seen[1]
    assert len(reader.all("th[aria-sort]:not([aria-sort='none'])")) == 1


def test_rows_unfold_and_fold(reader: Reader) -> None:
    reader.open(records.record())
    button = reader.one(".k-chosen .unfold")
    more = reader.one(".k-chosen .more")
    assert not more.is_displayed()
    reader.click(button)
    assert more.is_displayed()
    assert "two layers were reverted to float" in more.text
    reader.click(button)
    assert not more.is_displayed()


def test_a_long_table_is_cut_filtered_and_shown_whole_on_request(reader: Reader) -> None:
    reader.open(records.many())

    def shown() -> int:
        code = (
            "return [...document.querySelectorAll('#trial-table tbody')].filter(b => b.offsetHeight).length"
        )
        return int(reader.js(code))

    assert shown() == 40
    failed = reader.one(".filter[data-kind='failed']")
    reader.click(failed)
    assert failed.get_attribute("aria-pressed") == "true"
    assert shown() == 1
    reader.click(reader.one(".filter[data-kind='']"))
    reader.click(reader.one("#show-all"))
    assert shown() == 201
    assert not reader.one("#show-all").is_displayed()


def test_a_link_to_a_row_that_is_cut_shows_it(reader: Reader) -> None:
    reader.open(records.many())
    cut = next(b for b in reader.all("#trial-table tbody") if not b.is_displayed())
    reader.js("location.hash = arguments[0].id", cut)
    reader.until("document.activeElement.className === 'unfold'")
    assert cut.is_displayed()


@pytest.mark.parametrize("width", WIDTHS)
def test_reads_completely_without_its_script(reader: Reader, width: int) -> None:
    made = records.record()
    reader.open(made, width, script=False)
    try:
        assert "two layers were reverted" in reader.one(".k-chosen .more").text
        assert len(reader.all(".point title")) == len(reader.all(".point"))
        assert not reader.one(".filters").is_displayed()
        assert reader.one("#field").size["width"] > 0.8 * width - 100
    finally:
        reader.chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_contrasts_with_what_is_behind_it(reader: Reader, scheme: str) -> None:
    """Every text of the page against its nearest opaque background: WCAG 2.1, 1.4.3, at least 4.5 to 1."""
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    reader.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    reader.open(records.unlabelled())
    checked, faint = reader.js(
        """
        const parse = (c) => c.match(/[\\d.]+/g).map(Number);
        const light = (c) => {
          const [r, g, b] = parse(c).map((v) => v / 255).map((v) =>
            v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        const found = [];
        let checked = 0;
        for (const element of document.querySelectorAll('body *')) {
          const own = [...element.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
          const unseen = ['SCRIPT', 'STYLE', 'title'].includes(element.tagName);
          if (!own || unseen || !element.checkVisibility()) continue;
          checked += 1;
          const style = getComputedStyle(element);
          let behind = element;
          while (behind && (parse(getComputedStyle(behind).backgroundColor)[3] ?? 1) === 0)
            behind = behind.parentElement;
          const paper = getComputedStyle(behind || document.body).backgroundColor;
          const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
          const [a, b] = [light(ink), light(paper)].sort((x, y) => y - x);
          const ratio = (a + 0.05) / (b + 0.05);
          if (ratio < 4.5) found.push([element.tagName, element.className.toString(), ink, paper, ratio]);
        }
        return [checked, found];
        """
    )
    reader.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert checked > 300
    assert faint == []


def test_prints(reader: Reader) -> None:
    reader.open(records.record())
    printed = reader.chrome.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(printed["data"]) > 50_000
    reader.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not reader.one("nav").is_displayed()
    assert reader.one(".pairs").is_displayed()
    reader.chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
