"""The page in a real browser: every tab, clicks, the keyboard, errors, dark and narrow."""

import time

import pytest

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
TABS = ["Read", "Patch", "Map", "Remove", "Features", "Results"]


class Page:
    """What a visitor does and sees."""

    def __init__(self, browser, url):
        self.browser = browser
        self.url = url

    def open(self, theme="light", width=1200):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.get(f"{self.url}/?__theme={theme}")
        self.wait("#read-answer .trial")

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector, text="", seconds=120):
        """The first element of this selector that holds this text, as soon as there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [each for each in self.all(selector) if text in each.get_attribute("textContent")]
            if found:
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"{text!r} did not come up in {selector}: {self.text(selector) or self.text('body')!r}")

    def text(self, selector):
        return " ".join(each.get_attribute("textContent") for each in self.all(selector))

    def click(self, selector, text=""):
        element = self.wait(selector, text)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)
        return element

    def tab(self, name):
        self.click("button[role=tab]", name)

    def pressed(self, selector):
        return self.text(f"{selector} [aria-pressed=true] span")

    def script(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def type(self, selector, text):
        """Type over what stands in a box, and press Enter."""
        box = self.wait(selector)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text.replace("\n", Keys.SHIFT + Keys.ENTER + Keys.NULL), Keys.ENTER)


@pytest.fixture(scope="module")
def page(browser, server):
    opened = Page(browser, server)
    opened.open()
    return opened


def test_the_page_opens_with_an_answer(page):
    assert "Sweden" in page.text("#read-answer .claim") and page.text("#read-answer .control .said")
    assert page.pressed("#read-tokens") == "in" and page.pressed("#read-layers") == "3"


def test_a_click_on_a_layer_and_on_a_token_asks_again(page):
    page.tab("Read")
    page.click("#read-layers button", "0")
    page.wait("#read-layers [aria-pressed=true]", "0")
    page.click("#read-tokens button", "Brave")
    page.wait("#read-tokens [aria-pressed=true]", "Brave")
    page.wait("#read-layers [aria-pressed=true]", "0")


def test_tokens_are_reached_and_picked_by_keyboard(page):
    page.tab("Read")
    page.click(".examples button", "What a sentence is about")
    page.wait("#read-answer .said", "the word Nepal")
    picked = page.wait("#read-tokens [aria-pressed=true]", "the")
    picked.send_keys(Keys.ARROW_LEFT)
    focused = page.script("return document.activeElement.textContent")
    assert focused == "is" and page.script("return document.activeElement.tabIndex") == 0
    page.script("return document.activeElement").send_keys(Keys.ENTER)
    page.wait("#read-tokens [aria-pressed=true]", "is")
    page.wait("#read-answer .said", "the word colon")
    assert page.script("return document.activeElement.textContent") == "is"  # the focus stays where it was


def test_typed_text_is_text(page):
    page.tab("Read")
    page.type("textarea", "<b>Peru</b> ${window.hacked=1}{{Kenya}}")
    page.wait("#read-tokens button", "$")
    page.wait("#read-answer .trial")
    assert page.script("return window.hacked === undefined && !document.querySelector('#read-tokens b')")


def test_an_error_is_told_and_the_page_goes_on(page):
    page.tab("Read")
    page.type("textarea", "a b " * 60)
    told = page.wait("#read-answer .problem", "room for 128")
    assert told.get_attribute("role") == "alert" and "Traceback" not in page.script("return document.body.innerText")
    page.click(".examples button", "A fact that")
    page.wait("#read-answer .said", "the word Sweden")


def test_a_patch_is_moved_by_clicking(page):
    page.tab("Patch")
    page.wait("#patch-answer .claim", "Swahili")
    page.wait("#patch-answer .reality", "Swahili")
    assert "wrong" in page.text("#patch-answer .control .mark")
    page.click("#source-tokens button", "language")
    page.wait("#source-tokens [aria-pressed=true]", "language")
    page.click("#patch-layers button", "6")
    page.wait("#patch-layers [aria-pressed=true]", "6")
    page.wait("#patch-answer .reality", "stays")


def test_the_map_leads_to_a_patch(page):
    page.tab("Patch")
    page.click(".examples button", "Kenya in the place")
    page.wait("#patch-answer .reality", "Swahili")
    page.tab("Map")
    page.click("#map-run")
    page.wait("#map-view .verdict", "of such pairs")
    assert len(page.all("#map-view button.real")) == 29 * 4
    page.click("#map-view button.real[aria-label='Nepal, layers 0 to 1: changes']")
    page.wait("button[role=tab][aria-selected=true]", "Patch")
    page.wait("#patch-tokens [aria-pressed=true]", "Nepal")


def test_a_line_is_removed_by_clicking(page):
    page.tab("Remove")
    page.wait("#ablation-answer .reality", "Dhaka")
    page.click("#parts button", "Antananarivo")
    page.wait("#parts [aria-pressed=true]", "Antananarivo")
    page.click(".examples button", "A hint that was ignored")
    page.wait("#ablation-answer .reality", "Yerevan")


def test_features_are_searched_and_opened(page):
    page.tab("Features")
    page.wait("#feature-view .heat")
    box = page.wait("#browser input, #browser textarea")
    box.send_keys("Dodoma")
    page.wait("#feature-list .count", "1 of 100")
    page.click("#feature-list button", "Dodoma")
    page.wait("#feature-view .reality", "the word Dodoma")
    box.send_keys(" nothing")
    page.wait("#feature-list .waiting", "No description")


def test_results_stand_beside_their_controls(page):
    page.tab("Results")
    assert page.wait(".board tr.shuffled_vector").is_displayed()


def test_python_is_shown_to_copy(page):
    page.tab("Read")
    page.click("#read-answer summary")
    assert "from_pretrained('selfexplain/tiny-selfexplainer')" in page.text("#read-answer code")
    page.click("#read-answer [data-copy]")
    button = page.wait("#read-answer [data-copy]")
    for _ in range(60):
        if button.text != "Copy":
            break
        time.sleep(0.05)
    assert button.text in ("Copied", "Selected: press Ctrl+C")


CONTRAST = """
const channel = value => { value /= 255; return value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4 };
const light = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
const behind = element => {
  let layers = [];
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
    layers.push([r, g, b, a]);
    if (a === 1) break;
  }
  const over = (under, [r, g, b, a]) => [r, g, b].map((value, i) => value * a + (under[i] ?? 255) * (1 - a));
  return layers.reverse().reduce(over, []);
};
const poor = [];
for (const element of document.querySelectorAll(arguments[0])) {
  if (!element.checkVisibility() || !element.innerText.trim()) continue;
  const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) poor.push(`${element.tagName}.${element.className} ${element.innerText.slice(0, 30)} ${ratio}`);
}
return poor;
"""
WORDS = "h1, h3, .top p, .lead, .legend, .picker button, .picker small, .said, .said span, .mark, .mark span, .from, "
WORDS += ".verdict, .heat span, .confidence, summary, .board th, .board td, .board caption, .bottom p, "
WORDS += "button[role=tab], #map-run"


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360])
def test_it_reads_well_in_dark_and_light_wide_and_narrow(page, theme, width):
    page.open(theme, width)
    assert page.script("return document.body.classList.contains('dark')") is (theme == "dark")
    for name in TABS:
        if width < 500 and not [t for t in page.all("button[role=tab]") if t.text == name]:
            page.click(".overflow-menu > button")
            page.click(".overflow-dropdown button", name)
        else:
            page.tab(name)
        assert page.script("return document.documentElement.scrollWidth") <= width
        assert page.script(CONTRAST, WORDS) == [], name


def test_nothing_failed_in_the_console(page):
    severe = [line["message"] for line in page.browser.get_log("browser") if line["level"] == "SEVERE"]
    assert [line for line in severe if "favicon" not in line and "manifest" not in line] == []
