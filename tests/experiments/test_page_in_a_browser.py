"""The pages in a real browser: what they say equals the data, what they do is done, and every word can be read."""

import json
import os
import re
import shutil
import statistics
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

import pennyweight as pw
from pennyweight.experiments import report
from pennyweight.experiments.analyze import analyze
from pennyweight.experiments.results import write
from pennyweight.training import Data, Diagnosis, Evaluation, Run

Make = Callable[..., dict[str, Any]]
PAGES = ["compare/report.html", "run/report.html", "run/analysis.html", "sweep/report.html"]
STEPS = 6
HOSTILE = "</title></script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-quic", "--window-size=1280,900",
)  # fmt: skip
CONTRASTS = r"""
const parts = (text) => {
  const [r, g, b, a] = text.match(/[\d.e-]+/g).map(Number);
  const whole = text.startsWith("color(") ? 1 : 255;
  return [[r, g, b].map((part) => part / whole), a ?? 1];
};
const light = (rgb) => {
  const [r, g, b] = rgb.map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (let one = element; one; one = one.parentElement) {
    const [rgb, alpha] = parts(getComputedStyle(one).backgroundColor);
    if (alpha === 1) return rgb;
    if (alpha !== 0) throw new Error(`a background that is seen through: ${one.outerHTML.slice(0, 80)}`);
  }
  return [1, 1, 1];
};
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const [text, element] = [walk.currentNode.textContent.trim(), walk.currentNode.parentElement];
  const range = document.createRange();
  range.selectNodeContents(walk.currentNode);
  if (!text || !range.getClientRects().length || element.closest("svg")) continue;
  const [a, b] = [light(parts(getComputedStyle(element).color)[0]), light(behind(element))].sort((x, y) => y - x);
  found.push([(a + 0.05) / (b + 0.05), text]);
}
return found;
"""


class Browser:
    """A real Chromium that looks at files of this machine and asks nobody for anything."""

    def __init__(self, chromium: str, chromedriver: str, profile: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(executable_path=chromedriver))

    def open(self, page: Path, *, dark: bool = False, width: int = 1280) -> None:
        """Shows a page in one of its themes, every fold opened."""
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[theme])
        shape = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.tell("Emulation.setDeviceMetricsOverride", **shape)
        self.driver.get(page.as_uri())
        self.run("for (const fold of document.querySelectorAll('details')) fold.open = true")

    def tell(self, command: str, **said: Any) -> Any:
        """A command of the browser's own protocol."""
        return self.driver.execute_cdp_cmd(command, said)

    def run(self, script: str, *given: Any) -> Any:
        """What a function of this body returns in the page."""
        return self.driver.execute_script(script, *given)

    def complaints(self) -> list[str]:
        """What the console was told since it was last asked."""
        return [line["message"] for line in self.driver.get_log("browser")]

    def tables(self) -> list[list[list[str]]]:
        """The texts of every table: lines of cells, the head first."""
        lines = "[...table.rows].map((row) => [...row.cells].map((cell) => cell.innerText.trim()))"
        return self.run(f"return [...document.querySelectorAll('table.sorted')].map((table) => {lines})")

    def table(self, *names: str) -> list[dict[str, str]]:
        """The first table whose head has these names: a line as name -> text."""
        head, *lines = next(table for table in self.tables() if {*names} <= {*table[0]})
        return [dict(zip(head, line, strict=True)) for line in lines]

    def head(self, *names: str) -> WebElement:
        """The button in the head that has the first of these names, in the first table that has all of them."""
        for table in self.driver.find_elements(By.CSS_SELECTOR, "table.sorted"):
            heads = {head.text: head for head in table.find_elements(By.TAG_NAME, "th")}
            if {*names} <= {*heads}:
                return heads[names[0]].find_element(By.TAG_NAME, "button")
        raise AssertionError(f"no table has {names}")

    def hover(self, element: WebElement, across: float, down: float) -> list[str]:
        """What is told where the pointer stands at these shares of a drawing; a line a string."""
        self.run("arguments[0].scrollIntoView({ block: 'center' })", element)
        size = element.size
        move = ActionChains(self.driver, duration=0)
        move.move_to_element_with_offset(
            element, round((across - 0.5) * (size["width"] - 2)), round((down - 0.5) * (size["height"] - 2))
        ).perform()
        return self.tip(element)

    def tip(self, drawing: WebElement) -> list[str]:
        """What is told beside a drawing now."""
        lines = "return tip.hidden ? [] : [...tip.children].map((line) => line.textContent)"
        return self.run(f"const tip = arguments[0].parentElement.querySelector('output'); {lines}", drawing)

    def picture(self, path: Path) -> Image.Image:
        """A screenshot."""
        path.write_bytes(b64decode(self.tell("Page.captureScreenshot")["data"]))
        return Image.open(path).convert("RGB")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None:
        if os.environ.get("PENNYWEIGHT_BROWSER") == "required":
            pytest.fail("PENNYWEIGHT_BROWSER=required, but no chromium is on PATH")
        pytest.skip("no chromium is on PATH (apt-get install chromium chromium-driver)")
    assert chromedriver, "chromium is on PATH without its chromedriver (apt-get install chromium-driver)"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SE_OFFLINE", "true")
        patch.setenv("SE_AVOID_STATS", "true")
        shown = Browser(chromium, chromedriver, tmp_path_factory.mktemp("profile"))
        yield shown
        shown.driver.quit()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A comparison, a single run that was looked at and analyzed, and a sweep, all of them really trained."""
    folder = tmp_path_factory.mktemp("made")
    shape = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "text").mkdir()
    for name in range(40):
        lines = (f"the {name} bits of line {line} are written in {name * line} ways\n" for line in range(30))
        (folder / "text" / f"{name}.txt").write_text("".join(lines))
    run = Run(
        model=str(folder / "config.json"), data=Data(source=str(folder / "text"), tokenizer="bpe-300", context=16),
        steps=STEPS, batch=2, evaluation=Evaluation(every=2, tokens=64),
        diagnosis=Diagnosis(every=2, fidelity_every=2, sharpness_every=6),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENNYWEIGHT_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        pw.compare(["bf16", "w2ta2t"], run, seeds=2, out=folder / "compare")
        shutil.copytree(folder / "compare" / "runs" / "w2ta2t-seed0", folder / "run")
        report(folder / "run")
        analyze(folder / "run")
        pw.sweep(["weights=none,2", "activations=none,2"], run, out=folder / "sweep", jobs=1)
        yield folder


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "results.json").read_text())


def looks_of(folder: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (folder / "ledger.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] == "diagnosis"]


@pytest.mark.long
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("page", PAGES)
def test_every_word_can_be_read_and_nobody_is_asked(
    browser: Browser, made: Path, tmp_path: Path, page: str, dark: bool
) -> None:
    browser.open(made / page, dark=dark)
    picture = browser.picture(tmp_path / "page.png")
    colours = sorted(((count, colour) for count, colour in picture.getcolors(2**24) or []), reverse=True)
    assert len(colours) > 100, "a page with words and drawings has many colours"
    assert 0.5 < colours[0][0] / (picture.width * picture.height) < 0.99
    assert (max(colours[0][1]) < 50) if dark else (min(colours[0][1]) > 230)
    found = browser.run(CONTRASTS)
    assert len(found) > 50
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []
    assert browser.run("return performance.getEntriesByType('resource').map((one) => one.name)") == []
    assert not re.search(r"https?:|url\(|@import|src=", (made / page).read_text().split("<script>")[0])
    assert browser.complaints() == []


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_a_phone_shows_every_page_without_scrolling_sideways(browser: Browser, made: Path, page: str) -> None:
    browser.open(made / page, width=390)
    beyond = browser.run(
        "const out = (box) => box.left < 0 || box.right > 390;"
        "const scrolls = (one) => one && getComputedStyle(one).overflowX === 'auto';"
        "return [...document.querySelectorAll('main *')].filter((one) => !scrolls(one.parentElement.closest('.scroll'))"
        "&& out(one.getBoundingClientRect())).map((one) => one.outerHTML)"
    )
    assert beyond == []
    for drawing in browser.driver.find_elements(By.CSS_SELECTOR, ".plot > svg"):
        for across in (0.02, 0.45, 0.55, 0.98) if drawing.is_displayed() else ():
            assert browser.hover(drawing, across, 0.5)
            box = browser.run(
                "return arguments[0].parentElement.querySelector('output').getBoundingClientRect()", drawing
            )
            assert 0 <= box["left"] < box["right"] <= 390
    assert browser.run("return [innerWidth, document.documentElement.scrollWidth]") == [390, 390]


@pytest.mark.long
@pytest.mark.parametrize("page", PAGES)
def test_verdicts_stand_first_and_are_signs_too(browser: Browser, made: Path, page: str) -> None:
    browser.open(made / page)
    signs = browser.run(
        "const first = document.querySelector('.lead li');"
        "const later = first.compareDocumentPosition(document.querySelector('table')) & 4;"
        "return later && [...document.querySelectorAll('.lead .mark')].map((one) => [one.getAttribute('aria-label'),"
        "one.querySelectorAll(':scope > circle').length, one.parentElement.innerText.trim().length])"
    )
    assert signs
    assert all((said == "holds") == bool(circles) and length > 20 for said, circles, length in signs)


@pytest.mark.long
def test_the_tables_of_a_comparison_are_its_results(browser: Browser, made: Path) -> None:
    browser.open(made / "compare/report.html")
    rows = rows_of(made / "compare")
    told = browser.table("recipe", "verdict", "validation loss")
    assert [line["recipe"] for line in told] == ["bf16", "w2ta2t"]
    for line in told:
        losses = [row["val_loss"] for row in rows if row["recipe"] == line["recipe"]]
        mean, deviation = statistics.mean(losses), statistics.stdev(losses)
        assert line["validation loss"].splitlines()[0] == f"{mean:.4f} ± {deviation:.4f}"
    runs = browser.table("recipe", "seed", "status")
    assert [(line["recipe"], line["seed"], line["validation loss"], line["tokens"]) for line in runs] == [
        (row["recipe"], str(row["seed"]), f"{row['val_loss']:.4f}", f"{row['tokens']:,}") for row in rows
    ]
    said = browser.run("return document.querySelector('.lead li').innerText")
    assert "w2ta2t" in said
    assert told[1]["verdict"] in said


@pytest.mark.long
def test_the_table_of_a_sweep_is_its_results(browser: Browser, made: Path) -> None:
    browser.open(made / "sweep/report.html")
    told = browser.table("cell", "weights", "activations")
    assert {(line["weights"], line["activations"], line["validation loss"].split()[0]) for line in told} == {
        (row["axes"]["weights"], row["axes"]["activations"], f"{row['val_loss']:.4f}")
        for row in rows_of(made / "sweep")
    }
    assert len(told) == 4


@pytest.mark.long
def test_the_columns_of_a_table_sort_by_click_and_by_key(browser: Browser, made: Path) -> None:
    browser.open(made / "compare/report.html")
    head = browser.head("validation loss", "recipe", "seed")
    losses = [row["val_loss"] for row in rows_of(made / "compare")]

    def column() -> list[str]:
        return [line["validation loss"] for line in browser.table("recipe", "seed", "status")]

    def way() -> str:
        return browser.run("return arguments[0].closest('th').getAttribute('aria-sort')", head)

    assert way() == "none"
    browser.run("arguments[0].scrollIntoView({ block: 'center' })", head)
    head.click()
    assert (way(), column()) == ("ascending", [f"{loss:.4f}" for loss in sorted(losses)])
    head.send_keys(Keys.ENTER)
    assert (way(), column()) == ("descending", [f"{loss:.4f}" for loss in sorted(losses, reverse=True)])
    head.send_keys(Keys.SPACE)
    assert (way(), column()) == ("none", [f"{loss:.4f}" for loss in losses])


@pytest.mark.long
def test_a_pointer_on_a_curve_is_told_the_losses_of_the_ledger(browser: Browser, made: Path) -> None:
    browser.open(made / "compare/report.html")
    drawing = browser.driver.find_element(By.CSS_SELECTOR, 'svg[aria-label="Validation loss"]')
    assert browser.tip(drawing) == []
    rows = rows_of(made / "compare")
    for across in (0.66, 1.0):
        recipe, step, *seeds = browser.hover(drawing, across, 0.9)
        place = int(step.split()[1].rstrip(":"))
        assert abs(place / STEPS - across) < 0.2
        losses = [dict(row["validation"])[place] for row in rows if row["recipe"] == recipe]
        assert step == f"step {place}: {statistics.fmean(losses):.4f}"
        assert seeds == [f"seed 0: {losses[0]:.4f}", f"seed 1: {losses[1]:.4f}"]
    browser.run("arguments[0].focus()", drawing)
    ActionChains(browser.driver).send_keys(Keys.ARROW_LEFT).perform()
    assert browser.tip(drawing)[1].startswith(f"step {STEPS - 2}: ")
    browser.run("arguments[0].blur()", drawing)
    assert browser.tip(drawing) == []


@pytest.mark.long
def test_a_pointer_on_a_map_is_told_the_layer_the_step_and_the_number(browser: Browser, made: Path) -> None:
    browser.open(made / "run/report.html")
    looks = looks_of(made / "run")
    assert [look["step"] for look in looks][:3] == [2, 4, 6]
    drawing = browser.driver.find_element(By.CSS_SELECTOR, 'svg[aria-label="input: decibels left"]')
    layers = looks[0]["layers"]
    for row, layer in enumerate(layers):
        told = browser.hover(drawing, 0.5, (row + 0.5) / len(layers))
        value = looks[1]["measures"]["x.db"][row]
        assert told == [layer, f"step 4: {value:.3g}", "input: decibels left"]
    measures = Select(browser.driver.find_element(By.CSS_SELECTOR, ".seen select"))
    measures.select_by_visible_text("weight: decibels left")
    assert not drawing.is_displayed()
    assert browser.driver.find_element(By.CSS_SELECTOR, 'svg[aria-label="weight: decibels left"]').is_displayed()


@pytest.mark.long
def test_without_its_script_a_page_still_says_everything(browser: Browser, made: Path) -> None:
    browser.tell("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(made / "compare/report.html")
        assert browser.driver.find_elements(By.CSS_SELECTOR, "th button") == []
        text = browser.driver.find_element(By.TAG_NAME, "body").get_attribute("textContent") or ""
        assert [row for row in rows_of(made / "compare") if f"{row['val_loss']:.4f}" not in text] == []
    finally:
        browser.tell("Emulation.setScriptExecutionDisabled", value=False)


def test_names_that_look_like_markup_stay_words(browser: Browser, tmp_path: Path, row: Make) -> None:
    folder = tmp_path / "<img src=x onerror=alert(1)>"
    folder.mkdir()
    write([row("bf16"), row(HOSTILE, with_run=False, val_loss=4.2)], folder / "results.json")
    browser.open(report(folder))
    assert browser.run("return [document.scripts.length, document.images.length, document.title]") == [
        1, 0, f"What {HOSTILE} costs against bf16",
    ]  # fmt: skip
    assert [line["recipe"] for line in browser.table("recipe", "verdict")] == ["bf16", HOSTILE]
    drawing = browser.driver.find_element(By.CSS_SELECTOR, 'svg[aria-label="Validation loss against bf16"]')
    assert browser.hover(drawing, 1.0, 0.1)[0] == HOSTILE
    assert browser.run("return document.querySelectorAll('output img, output script').length") == 0
    assert browser.complaints() == []


def test_numbers_sort_as_numbers_whatever_their_unit(browser: Browser, tmp_path: Path, row: Make) -> None:
    told = {"a": (900 * 2**20, 3725.0, 987.0), "b": (1.2 * 2**30, 59.0, 12345.0), "c": (512 * 2**10, 125.0, 1234.0)}
    rows = [
        row(name, peak_memory_bytes=int(peak), seconds=seconds, tokens_per_second=speed, with_run=False)
        for name, (peak, seconds, speed) in told.items()
    ]
    write([*rows, {"recipe": "d", "seed": 0, "status": "failed"}], tmp_path / "results.json")
    browser.open(report(tmp_path))
    for name, order in (("peak memory", "cabd"), ("time", "bcad"), ("tokens/s", "acbd"), ("recipe", "abcd")):
        head = browser.head(name, "status")
        browser.run("arguments[0].click()", head)
        assert "".join(line["recipe"] for line in browser.table("recipe", "status")) == order, name
    browser.run("arguments[0].click()", browser.head("time", "status"))
    browser.run("arguments[0].click()", browser.head("time", "status"))
    assert "".join(line["recipe"] for line in browser.table("recipe", "status")) == "acbd", "without a number: last"
