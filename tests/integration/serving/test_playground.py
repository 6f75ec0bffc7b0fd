"""The playground in a real headless Chromium: the one on the PATH, else the one of `playwright install chromium`."""

import json
import os
import re
import shutil
import subprocess

import pytest
from playwright.sync_api import expect, sync_playwright

from serving.asking import KEY

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    with sync_playwright() as playwright:
        # Containers have neither the kernel's sandbox nor much shared memory.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def page(browser, url):
    """The page with the key entered; what goes wrong in its scripts fails the test."""
    page = browser.new_page(viewport={"width": 1600, "height": 1000})
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(url + "/")
    page.get_by_label("API key").fill(KEY)
    page.get_by_label("API key").press("Tab")
    expect(page.get_by_label("Model")).to_have_value("base")
    yield page
    page.close()
    assert problems == []


def move(side, label, value):
    """Press the slider's arrow keys until it says `value`."""
    slider = side.get_by_label(re.compile(label))
    while (said := slider.get_attribute("aria-valuetext")) != str(value):
        up = said != "any number of" and int(said) < value
        slider.press("ArrowRight" if up else "ArrowLeft")
        assert slider.get_attribute("aria-valuetext") != said, f"the slider ends at {said}"


def count(side, name):
    return int(side.locator(f"[data-count={name}]").inner_text())


def test_a_budget_is_kept_and_what_was_forced_is_marked(page):
    """From the keyboard alone."""
    (side,) = page.locator(".side:visible").all()
    move(side, "At most", 16)
    move(side, "At least", 16)
    page.get_by_label("Prompt").press("Control+Enter")
    expect(page.get_by_role("status")).to_have_text("Done.", timeout=300_000)
    assert count(side, "thinking") == 16 and side.locator("[data-count=ended]").inner_text() == "budget"
    expect(side.get_by_label("Answer with budget A").locator(".forced")).to_have_text("Final Answer:")
    sampled = side.get_by_label("Thinking with budget A").locator(".sampled").first
    assert sampled.inner_text() and count(side, "forced") > 0


def test_two_budgets_stand_side_by_side(page):
    page.get_by_label("Compare two budgets").check()
    sides = page.locator(".side:visible").all()
    assert len(sides) == 2
    for side, budget in zip(sides, (8, 40), strict=True):
        move(side, "At most", budget)
        move(side, "At least", budget)
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text("Done.", timeout=300_000)
    assert [count(side, "thinking") for side in sides] == [8, 40]
    left, right = (side.bounding_box() for side in sides)
    assert left["y"] == right["y"] and left["x"] < right["x"]


def test_ignored_ends_are_written_as_told_and_stand_in_the_meter(page):
    side = page.locator(".side:visible").first
    for label, value in (("At least", 96), ("At most", 128), ("Ignore", 1)):
        move(side, label, value)
    side.get_by_label("in place of each").fill("Hmm, let me see.")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text("Done.", timeout=300_000)
    thinking, meter = side.get_by_label("Thinking with budget A"), side.get_by_role("img")
    ignored = count(side, "rounds")
    # Those that follow each other at once are one mark.
    assert "".join(thinking.locator(".forced.thinking").all_inner_texts()) == "Hmm, let me see." * ignored
    assert min(ignored, 1) <= meter.locator(".forcing").count() <= ignored
    expected = f"{count(side, 'thinking')} thinking tokens; at least 96, at most 128"
    expect(meter).to_have_attribute("aria-label", expected)
    said, cap = (meter.locator(kind).bounding_box()["width"] for kind in (".said", ".cap"))
    assert abs(said / cap - count(side, "thinking") / 128) < 0.02


def test_the_command_that_is_shown_asks_for_the_same(page):
    side = page.locator(".side:visible").first
    page.get_by_label("Prompt").fill("It's 2 + 2.")
    move(side, "At most", 8)
    side.get_by_text("The same with curl").click()
    command = side.locator(".curl").inner_text()
    assert KEY not in command
    environment = {**os.environ, "KEY": KEY}
    said = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    *_, report, done, _ = said.stdout.split("\n\n")
    assert done == "data: [DONE]"
    assert json.loads(report.removeprefix("data: "))["budget_forcing"]["max_tokens"] == 8


def test_the_thinking_streams_and_can_be_stopped(page):
    side = page.locator(".side:visible").first
    move(side, "At least", 384)
    page.get_by_role("button", name="Run").click()
    counter = side.locator("[data-count=thinking]")
    expect(counter).not_to_have_text("0", timeout=300_000)
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_have_text("Stopped.")
    assert 0 < count(side, "thinking") < 384


@pytest.mark.parametrize("cut_at", ["data: [DONE]", '"answer_tokens"'])
def test_a_stream_that_breaks_off_is_not_called_done(page, cut_at):
    """A proxy on the way loses the rest of the stream."""

    def cut(route):
        response = route.fetch(timeout=300_000)
        route.fulfill(response=response, body=response.text().rpartition(cut_at)[0])

    page.route("**/v1/chat/completions", cut)
    side = page.locator(".side:visible").first
    move(side, "At most", 8)
    move(side, "At least", 8)
    page.get_by_label("Answer tokens").fill("1")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_role("status")).to_have_text("Not finished.", timeout=300_000)
    expect(side.locator(".state")).to_have_text("broken off")
    expect(side.get_by_role("alert")).to_contain_text("broke off")
    assert side.get_by_label("Thinking with budget A").inner_text()


def test_budgets_reach_to_the_model_s_context(page):
    def longer(route):
        response = route.fetch()
        listed = response.json()
        assert listed["data"][0]["max_model_len"] == 512
        listed["data"][0]["max_model_len"] = 32_768
        route.fulfill(response=response, json=listed)

    side = page.locator(".side:visible").first
    slider, command = side.get_by_label(re.compile("At most")), side.locator(".curl")
    slider.press("End")
    slider.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "512")
    page.route("**/v1/models", longer)
    places = slider.get_attribute("max")
    page.get_by_label("API key").fill(KEY + " ")  # the models are listed anew
    page.get_by_label("API key").press("Tab")
    expect(slider).not_to_have_attribute("max", places)
    expect(slider).to_have_attribute("aria-valuetext", "512")
    for budget in (1024, 8192, 8, 16, 24):
        move(side, "At most", budget)
        assert f'"max_tokens":{budget}}}' in command.text_content()
    slider.press("End")
    expect(slider).to_have_attribute("aria-valuetext", "any number of")
    assert '"max_tokens"' not in command.text_content()
    slider.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "32768")


def test_a_minimum_pushes_the_maximum_and_a_refusal_is_shown(page):
    side = page.locator(".side:visible").first
    move(side, "At most", 64)
    move(side, "At least", 128)
    expect(side.get_by_label(re.compile("At most"))).to_have_attribute("aria-valuetext", "128")
    side.get_by_label(re.compile("At most")).press("End")
    expect(side.get_by_label(re.compile("At most"))).to_have_attribute("aria-valuetext", "any number of")
    page.get_by_label("Prompt").fill("and " * 600)
    page.get_by_role("button", name="Run").click()
    expect(side.get_by_role("alert")).to_contain_text("context 512")
    page.get_by_label("API key").fill("wrong")
    page.get_by_label("API key").press("Tab")
    expect(page.get_by_role("status")).to_contain_text("API key")


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_can_be_read(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    page.get_by_label("Compare two budgets").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for element in ("body", "h1", "header p", "legend ~ label", "mark", "button[type=submit]", ".text"):
        assert page.locator(element).first.evaluate(CONTRAST) >= 4.5, element


# WCAG's contrast of an element's text to the nearest background behind it.
CONTRAST = """element => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const pair = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(channels).map(light);
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
}"""
