"""The demo in a real browser: every tab, clicks, the keyboard, errors, dark mode and narrow screens."""

import time

import pytest

By = pytest.importorskip("selenium.webdriver.common.by").By
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
TABS = ["Read", "Patch", "Map", "Remove", "Features", "Results"]


class Demo:
    """Actions of a visitor."""

    def __init__(self, browser, url):
        self.browser = browser
        self.url = url

    def open(self, theme="light", width=1280):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.browser.get(f"{self.url}/?__theme={theme}")
        self.wait("#read-answer .trial")

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector, text="", seconds=120):
        """Return the first element with this selector that contains this text, once there is one."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            matches = [element for element in self.all(selector) if text in element.get_attribute("textContent")]
            if matches:
                return matches[0]
            time.sleep(0.05)
        raise AssertionError(f"{text!r} did not appear in {selector}: {self.text(selector) or self.text('body')!r}")

    def text(self, selector):
        return " ".join(element.get_attribute("textContent") for element in self.all(selector))

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
        """Replace the text in a box, and press Enter."""
        box = self.wait(selector)
        box.send_keys(Keys.CONTROL, "a")
        box.send_keys(text.replace("\n", Keys.SHIFT + Keys.ENTER + Keys.NULL), Keys.ENTER)


@pytest.fixture(scope="module")
def demo(browser, server):
    opened = Demo(browser, server)
    opened.open()
    return opened


def test_the_demo_opens_with_an_answer(demo):
    assert "Sweden" in demo.text("#read-answer .claim") and demo.text("#read-answer .control .answer")
    assert demo.pressed("#read-tokens") == "in" and demo.pressed("#read-layers") == "3"


def test_a_click_on_a_layer_or_a_token_asks_again(demo):
    demo.tab("Read")
    demo.click("#read-layers button", "0")
    demo.wait("#read-layers [aria-pressed=true]", "0")
    demo.click("#read-tokens button", "Brave")
    demo.wait("#read-tokens [aria-pressed=true]", "Brave")
    demo.wait("#read-layers [aria-pressed=true]", "0")


def test_tokens_can_be_picked_with_the_keyboard(demo):
    demo.tab("Read")
    demo.click(".examples button", "The topic of a sentence")
    demo.wait("#read-answer .answer", "the word Nepal")
    picked = demo.wait("#read-tokens [aria-pressed=true]", "the")
    picked.send_keys(Keys.ARROW_LEFT)
    focused = demo.script("return document.activeElement.textContent")
    assert focused == "is" and demo.script("return document.activeElement.tabIndex") == 0
    demo.script("return document.activeElement").send_keys(Keys.ENTER)
    demo.wait("#read-tokens [aria-pressed=true]", "is")
    demo.wait("#read-answer .answer", "the word colon")
    assert demo.script("return document.activeElement.textContent") == "is"  # the focus does not move


def test_html_and_scripts_in_a_text_are_shown_as_text(demo):
    demo.tab("Read")
    demo.type("textarea", "<b>Peru</b> ${window.hacked=1}{{Kenya}}")
    demo.wait("#read-tokens button", "$")
    demo.wait("#read-answer .trial")
    assert demo.script("return window.hacked === undefined && !document.querySelector('#read-tokens b')")


def test_after_an_error_the_demo_keeps_working(demo):
    demo.tab("Read")
    demo.type("textarea", "a b " * 60)
    error = demo.wait("#read-answer .problem", "the limit is 128")
    assert error.get_attribute("role") == "alert" and "Traceback" not in demo.script("return document.body.innerText")
    demo.click(".examples button", "A fact that")
    demo.wait("#read-answer .answer", "the word Sweden")


def test_a_click_moves_a_patch(demo):
    demo.tab("Patch")
    demo.wait("#patch-answer .claim", "Swahili")
    demo.wait("#patch-answer .reality", "Swahili")
    assert "incorrect" in demo.text("#patch-answer .control .mark")
    demo.click("#source-tokens button", "language")
    demo.wait("#source-tokens [aria-pressed=true]", "language")
    demo.click("#patch-layers button", "6")
    demo.wait("#patch-layers [aria-pressed=true]", "6")
    demo.wait("#patch-answer .reality", "stays")


def test_a_cell_of_the_map_opens_in_the_patch_tab(demo):
    demo.tab("Patch")
    demo.click(".examples button", "Kenya replaces Nepal")
    demo.wait("#patch-answer .reality", "Swahili")
    demo.tab("Map")
    demo.click("#map-run")
    demo.wait("#map-view .verdict", "AUROC")
    assert len(demo.all("#map-view button.measured")) == 29 * 4
    demo.click("#map-view button.measured[aria-label='Nepal, layers 0 to 1: changes']")
    demo.wait("button[role=tab][aria-selected=true]", "Patch")
    demo.wait("#patch-tokens [aria-pressed=true]", "Nepal")


def test_a_click_removes_a_line(demo):
    demo.tab("Remove")
    demo.wait("#ablation-answer .reality", "Dhaka")
    demo.click("#parts button", "Antananarivo")
    demo.wait("#parts [aria-pressed=true]", "Antananarivo")
    demo.click(".examples button", "A hint that the target ignores")
    demo.wait("#ablation-answer .reality", "Yerevan")


def test_features_can_be_searched_and_opened(demo):
    demo.tab("Features")
    demo.wait("#feature-view .heat")
    box = demo.wait("#browser input, #browser textarea")
    box.send_keys("Dodoma")
    demo.wait("#feature-list .count", "1 of 100")
    demo.click("#feature-list button", "Dodoma")
    demo.wait("#feature-view .reality", "the word Dodoma")
    box.send_keys(" nothing")
    demo.wait("#feature-list .waiting", "No description")


def test_results_include_the_controls(demo):
    demo.tab("Results")
    assert demo.wait(".board tr.shuffled_vector").is_displayed()


def test_python_code_can_be_copied(demo):
    demo.tab("Read")
    demo.click("#read-answer summary")
    assert "from_pretrained('selfexplain/tiny-selfexplainer')" in demo.text("#read-answer code")
    demo.click("#read-answer [data-copy]")
    button = demo.wait("#read-answer [data-copy]")
    for _ in range(60):
        if button.text != "Copy":
            break
        time.sleep(0.05)
    assert button.text in ("Copied", "Selected: press Ctrl+C")


CONTRAST = """
const channel = value => { value /= 255; return value <= .03928 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4 };
const luminance = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
const parse = text => (text.match(/[\\d.]+/g) || []).map(Number);
const background = element => {
  let layers = [];
  for (let at = element; at; at = at.parentElement) {
    const [r, g, b, a = 1] = parse(getComputedStyle(at).backgroundColor);
    layers.push([r, g, b, a]);
    if (a === 1) break;
  }
  const over = (under, [r, g, b, a]) => [r, g, b].map((value, i) => value * a + (under[i] ?? 255) * (1 - a));
  return layers.reverse().reduce(over, []);
};
const low = [];
for (const element of document.querySelectorAll(arguments[0])) {
  if (!element.checkVisibility() || !element.innerText.trim()) continue;
  const colours = [parse(getComputedStyle(element).color), background(element)];
  const [a, b] = colours.map(luminance).sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 4.5) low.push(`${element.tagName}.${element.className} ${element.innerText.slice(0, 30)} ${ratio}`);
}
return low;
"""
TEXT_ELEMENTS = (
    "h1, h2, h3, .top p, .lead, .legend, .picker button, .picker small, .answer, .answer span, .mark, .mark span, "
    ".from, .verdict, .heat span, .confidence, summary, .board th, .board td, .board caption, .glossary dd, "
    ".bottom p, button[role=tab], #map-run"
)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 360])
def test_every_tab_fits_the_screen_with_enough_contrast(demo, theme, width):
    demo.open(theme, width)
    assert demo.script("return document.body.classList.contains('dark')") is (theme == "dark")
    for name in TABS:
        if width < 500 and not [tab for tab in demo.all("button[role=tab]") if tab.text == name]:
            demo.click(".overflow-menu > button")
            demo.click(".overflow-dropdown button", name)
        else:
            demo.tab(name)
        assert demo.script("return document.documentElement.scrollWidth") <= width
        shown = [tab.text for tab in demo.all("button[role=tab]") if tab.is_displayed()]
        assert len(shown) == len(set(shown)) and (width < 500 or shown == TABS)
        assert demo.script(CONTRAST, TEXT_ELEMENTS) == [], name


def test_the_console_has_no_errors(demo):
    severe = [line["message"] for line in demo.browser.get_log("browser") if line["level"] == "SEVERE"]
    assert [line for line in severe if "favicon" not in line and "manifest" not in line] == []
