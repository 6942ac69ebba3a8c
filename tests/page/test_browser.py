"""The page as a visitor has it, in a headless Chromium."""

import re

import pytest
from PIL import Image

from otprune import demo

pytestmark = pytest.mark.page

QUESTION = "Is the blue star left of the red circle?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("uploads")


@pytest.fixture(scope="module")
def address(folder):
    from tests.page.browser import served

    with served(folder=folder) as found:
        yield found
    assert list(folder.iterdir()) == []  # what visitors sent is gone


@pytest.fixture(scope="module")
def browser():
    from tests.page.browser import ARGUMENTS, CHROMIUM, playwright

    assert CHROMIUM, "no Chromium: make test-page installs it"
    with playwright.sync_playwright() as p:
        made = p.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield made
        made.close()


@pytest.fixture
def visit(browser, address):
    """`visit(**context)`: a visitor, whose page is checked at the end."""
    from tests.page.browser import Visitor

    visitors = []

    def come(**context):
        visitors.append(Visitor(browser, address, **context))
        return visitors[-1]

    yield come
    for visitor in visitors:
        visitor.close()


def patches(visitor):
    return visitor.page.locator(".otp-figure:visible .otp-cell")


def test_a_sample_is_asked_about_both_ways(visit):
    visitor = visit()
    visitor.sample("coffee", QUESTION)
    visitor.ask()
    visitor.answers("yes", "yes")
    visitor.finished()
    visitor.expect(patches(visitor)).to_have_count(14)
    text = visitor.page.locator("body")
    visitor.expect(text).to_contain_text("14 of 144 visual tokens kept (9.7%)")
    rows = visitor.page.locator("table.otp-figures:visible tbody tr")
    visitor.expect(rows).to_have_count(4)
    assert all(len(row.split("\t")[2]) > 40 for row in rows.all_inner_texts())  # a meaning each
    visitor.expect(visitor.page.locator(".otp-bar")).to_have_count(2)
    check_contrast(visitor)


def test_a_kept_token_shows_what_it_stands_for(visit):
    visitor = visit()
    visitor.sample("coffee", QUESTION)
    visitor.ask()
    visitor.finished()
    says = visitor.page.locator(".otp-says")
    visitor.expect(says).to_contain_text("Point at a patch")
    area = patches(visitor).nth(3).locator(".otp-area")
    clear = area.evaluate("one => getComputedStyle(one).fill")
    kept = patches(visitor).nth(3).locator(".otp-kept").bounding_box()
    middle = kept["x"] + kept["width"] / 2, kept["y"] + kept["height"] / 2
    visitor.page.mouse.move(*middle)
    title = patches(visitor).nth(3).locator("title").text_content()
    assert re.fullmatch(r"Row \d+, column \d+ stands for .* of 144: mass \d+\.\d%\.", title)
    visitor.expect(says).to_have_text(title)
    assert area.evaluate("one => getComputedStyle(one).fill") != clear
    visitor.page.mouse.click(*middle)
    visitor.page.mouse.move(1, 1)
    visitor.expect(says).to_have_text(title)  # a click holds it
    assert area.evaluate("one => getComputedStyle(one).fill") != clear


def test_the_slider_asks_anew(visit):
    visitor = visit()
    number = visitor.page.get_by_role("spinbutton").locator("visible=true").first
    number.fill("0.2")  # nobody has asked yet
    number.press("Tab")
    visitor.sample("cat", "How many things are there?")
    visitor.ask()
    visitor.finished()
    slider = visitor.page.get_by_role("slider").locator("visible=true").first
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    visitor.page.mouse.move(box["x"] + 0.1 * box["width"], box["y"] + box["height"] / 2)
    visitor.page.mouse.down()
    visitor.page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + box["height"] / 2)
    visitor.page.mouse.up()
    text = visitor.page.locator("body")
    visitor.expect(text).to_contain_text(re.compile(r"7\d of 144 visual tokens kept"))
    visitor.finished()
    visitor.expect(visitor.alert).to_have_count(0)


def test_images_of_every_kind_are_uploaded(visit, tmp_path):
    visitor = visit()
    for mode, size, name in (
        ("RGB", (1, 1), "one.png"),
        ("P", (40, 300), "moving.gif"),
        ("L", (6000, 4000), "large.png"),
    ):
        image = Image.new("L", size, 90).convert(mode)
        rest = {"save_all": True, "append_images": [Image.new("L", size)]} if mode == "P" else {}
        image.save(tmp_path / name, **rest)
        visitor.open()
        visitor.upload(tmp_path / name)
        visitor.ask("How many things are there?")
        visitor.finished()
        visitor.expect(patches(visitor)).to_have_count(14)
        visitor.expect(visitor.alert).to_have_count(0)
        several = "Of the file's frame 1 of 2: 14 of 144" if mode == "P" else "14 of 144"
        visitor.expect(visitor.page.locator(".otp-figure + p:visible")).to_contain_text(several)


def test_what_is_wrong_is_said_in_the_page(visit, tmp_path):
    visitor = visit()
    visitor.ask("Is there a star?")
    visitor.expect(visitor.alert).to_contain_text("There is no image")
    visitor.ask("")
    visitor.expect(visitor.alert).to_contain_text("The question is empty")
    text = tmp_path / "text.png"
    text.write_text("<b>no image</b>")
    visitor.upload(text)
    visitor.ask("Is there a star?")
    visitor.expect(visitor.alert).to_have_text(
        "text.png is not an image that can be read: give a PNG, JPEG, WebP or the like"
    )
    visitor.ask("Is there a zebra?")
    visitor.expect(visitor.alert).to_contain_text("does not know 'zebra'")
    visitor.sample("rocket", "What digit is shown?")
    visitor.page.get_by_role("button", name="More settings").click()
    visitor.page.get_by_label("Method", exact=True).locator("visible=true").click()
    visitor.page.get_by_role("option", name="fastervlm").click()
    stage = visitor.page.get_by_role("spinbutton").locator("visible=true").nth(1)
    stage.fill("0.5")
    stage.press("Tab")
    visitor.ask()
    visitor.expect(visitor.alert).to_contain_text("encoder")
    stage.fill("1")
    stage.press("Tab")
    visitor.ask()
    visitor.answers("3", re.compile("."))
    visitor.finished()
    visitor.expect(visitor.alert).to_have_count(0)
    visitor.ask("Is there a zebra?")
    visitor.expect(visitor.alert).to_contain_text("does not know 'zebra'")
    visitor.answers("", "")  # those of another question are gone
    visitor.expect(patches(visitor)).to_have_count(0)


def test_methods_are_compared(visit):
    visitor = visit()
    visitor.sample("coffee", QUESTION)
    visitor.tab("Compare")
    visitor.button("Compare").click()
    cards = visitor.page.locator(".otp-card")
    visitor.expect(cards).to_have_count(4)
    visitor.expect(patches(visitor)).to_have_count(4 * 14)
    heads = [card.split("\n")[0] for card in cards.all_inner_texts()]
    assert heads == ["recommended", "otprune", "transport", "random"]
    tops = {round(card.bounding_box()["y"]) for card in cards.all()}
    assert len(tops) == 1  # in a row


def test_a_sweep_is_a_curve(visit):
    visitor = visit()
    visitor.sample("camera", "Is there a blue square?")
    visitor.tab("Sweep")
    visitor.button("Sweep").click()
    rows = visitor.page.locator("table.otp-figures:visible tbody tr")
    visitor.expect(rows).to_have_count(8)
    visitor.expect(visitor.page.locator(".otp-curve circle")).to_have_count(3 * 8)
    visitor.expect(rows.last).to_contain_text("144")


def test_a_clip_is_watched(visit):
    visitor = visit()
    visitor.tab("Stream")
    visitor.button("Use the sample clip").click()
    visitor.expect(visitor.page.get_by_text("stickers").first).to_be_visible()
    every = visitor.page.get_by_label("number input for A frame every so many seconds")
    every.fill("0.1")  # 120 frames: time to stop it
    every.press("Tab")
    seen = visitor.page.get_by_text("remembered")
    for _ in range(2):
        visitor.button("Watch").click()
        visitor.expect(seen).to_have_text(re.compile(r"\d+\.\d\d s: 16 of 144 tokens kept"))
        visitor.expect(visitor.page.get_by_label("Answer now")).to_have_value(re.compile(r"\d"))
        visitor.button("Stop").click()
        visitor.expect(visitor.page.get_by_text("Working ...")).to_have_count(0)
        assert float(seen.text_content().partition(" s:")[0]) < 11


def test_the_camera_is_watched(visit):
    visitor = visit()
    visitor.tab("Stream")
    visitor.tab("Camera")
    visitor.page.get_by_text("Click to Access Webcam").locator("visible=true").click()
    visitor.page.get_by_text("Record", exact=True).locator("visible=true").first.click()
    visitor.expect(visitor.page.locator("body")).to_contain_text("16 of 144 tokens kept")


def test_a_photograph_of_the_camera_is_asked_about(visit):
    visitor = visit()
    visitor.page.get_by_label("Capture from camera").locator("visible=true").click()
    visitor.page.get_by_text("Click to Access Webcam").locator("visible=true").click()
    playing = "[...document.querySelectorAll('video')].some((one) => one.readyState > 2)"
    visitor.page.wait_for_function(playing)
    visitor.page.get_by_label("capture photo").click()
    visitor.expect(visitor.page.locator(".image-frame img").first).to_be_attached()
    visitor.ask("How many things are there?")
    visitor.finished()
    visitor.expect(patches(visitor)).to_have_count(14)


def test_the_keyboard_alone_is_enough(visit):
    visitor = visit()
    page = visitor.page

    def reach(wanted):
        """Tab until an element has the focus, which then shows it."""
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate(f"document.activeElement.matches({wanted!r})"):
                return
        raise AssertionError(f"the keyboard does not reach {wanted}")

    reach("input[type=radio]")
    page.keyboard.press("Space")
    visitor.expect(visitor.label("Question")).to_have_value(QUESTION)
    reach("textarea, input[type=text]")
    page.keyboard.press("Enter")
    visitor.answers("yes", "yes")
    visitor.finished()
    reach('[role=combobox][aria-label^="Kept token"]')
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    held = page.locator(".otp-held")
    visitor.expect(held).to_have_count(1)
    visitor.expect(page.locator(".otp-says")).to_have_text(held.locator("title").text_content())


def test_a_narrow_dark_screen_has_no_sideways_scroll(visit):
    visitor = visit(viewport={"width": 390, "height": 844}, color_scheme="dark")
    visitor.sample("coffee", QUESTION)
    visitor.ask()
    visitor.finished()
    assert contrast(visitor.page.locator("body")) >= 7  # it is dark, as asked for
    check_contrast(visitor)
    for tab, button, there in (
        ("Compare", "Compare", ".otp-card >> nth=3"),
        ("Sweep", "Sweep", "table.otp-figures:visible tbody tr >> nth=7"),
    ):
        visitor.tab(tab)
        visitor.button(button).click()
        visitor.expect(visitor.page.locator(there)).to_be_visible()
        assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    visitor.tab("Ask")
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390


def check_contrast(visitor):
    """What this package writes is readable on what is behind it."""
    for ours in (".otp-soft", ".otp-figures td", ".otp-says", ".otp-bar-label"):
        assert contrast(visitor.page.locator(f"{ours}:visible").first) >= 4.5, ours


def contrast(locator):
    """The contrast ratio (WCAG 2) of an element's text on what is behind it."""
    colours = locator.evaluate(
        """one => {
          let behind = one;
          while (behind && /, 0\\)|transparent/.test(getComputedStyle(behind).backgroundColor))
            behind = behind.parentElement;
          return [one, behind ?? document.body].map((element, i) =>
            getComputedStyle(element)[i ? "backgroundColor" : "color"]);
        }"""
    )

    def luminance(colour):
        values = [float(x) / 255 for x in re.findall(r"[\d.]+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in values]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_two_visitors_at_once_see_their_own(visit):
    one, other = visit(), visit()
    one.sample("coffee", QUESTION)
    other.sample("cat", "How many things are there?")
    slider = other.page.get_by_role("spinbutton").locator("visible=true").first
    slider.fill("0.5")
    slider.press("Tab")
    for _ in range(2):
        one.ask()
        other.ask()
        one.answers("yes", "yes")
        other.answers("5", "5")
    for visitor, count in ((one, 14), (other, 72)):
        visitor.finished()
        visitor.expect(patches(visitor)).to_have_count(count)
    newcomer = visit()
    newcomer.expect(newcomer.label("Question")).to_have_value("")
    newcomer.expect(patches(newcomer)).to_have_count(0)


def test_no_file_but_uploads_is_served(visit, address):
    visitor = visit()
    for path in (__file__, "pyproject.toml", str(demo.MODEL_DIR / "config.json")):
        answer = visitor.page.request.get(f"{address}/gradio_api/file={path}")
        assert answer.status in (403, 404), path


def test_who_clicks_ten_times_or_leaves_harms_nobody(visit, browser, address):
    from tests.page.browser import Visitor

    leaver = Visitor(browser, address)
    leaver.sample("cat", "How many things are there?")
    leaver.ask("List all things.")
    leaver.expect(leaver.page.get_by_text("Answering ...")).to_be_visible()
    leaver.close()
    visitor = visit()
    visitor.sample("coffee", QUESTION)
    for _ in range(10):
        visitor.button("Ask").click(no_wait_after=True)
    visitor.answers("yes", "yes")
    visitor.finished()


def test_another_model_by_its_folder(browser):
    from tests.page.browser import Visitor, served

    with served("--model", demo.DENSE_DIR, "--host", "localhost", quiet=False) as address:
        visitor = Visitor(browser, address)
        visitor.sample("coffee", "What is in the picture?")
        visitor.ask("Is there a star?")
        visitor.finished()
        visitor.expect(patches(visitor)).to_have_count(32)
        visitor.close()
        no_file_but_uploads_is_read(visitor, address)


def no_file_but_uploads_is_read(visitor, address):
    """Whatever a request names, and in the place of whatever."""
    import httpx

    config = httpx.get(f"{address}/config").json()
    (ask,) = [one["id"] for one in config["dependencies"] if one["api_name"] == "ask"]
    sample = str(demo.SAMPLES_DIR / "cat.jpg")
    given = [None, "Is there a star?", "otprune", 0.1, False, "none", 1, 0]
    for path in (__file__, sample, "http://127.0.0.1:9/image.png"):
        for place in (0, 1, 2):
            session = f"session{place}{len(path)}"
            file = {"path": path, "meta": {"_type": "gradio.FileData"}}
            data = [*given[:place], file, *given[place + 1 :]]
            query = {"data": data, "fn_index": ask, "session_hash": session}
            httpx.post(f"{address}/gradio_api/queue/join", json=query).raise_for_status()
            said = httpx.get(
                f"{address}/gradio_api/queue/data?session_hash={session}", timeout=60
            ).text
            assert '"success":false' in said, (path, place)
            assert "gradio_api/file" not in said, (path, place)
