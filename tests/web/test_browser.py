"""A person in a real browser: log in, create an experiment through the form, start it, read the page."""

from __future__ import annotations

import pytest
from django.conf import LazySettings
from django.contrib.auth.models import User
from pytest_django.live_server_helper import LiveServer

from experiments.models import Experiment, UseCase
from tests.web.conftest import PASSWORD, StoreLook

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

pytestmark = [pytest.mark.browser, pytest.mark.django_db(transaction=True)]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def test_person_creates_starts_and_reads_an_experiment(
    live_server: LiveServer,
    chromium: str,
    settings: LazySettings,
    person: User,
    use_case: UseCase,
    store_look: StoreLook,
) -> None:
    # The test server speaks plain HTTP.
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = False
    problems: list[str] = []
    expect = sync_api.expect
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: message.type == "error" and problems.append(message.text))

        page.goto(live_server.url)
        page.get_by_label("User name").fill("ada")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("link", name="Create the first one").click()

        page.get_by_label("Name").fill("Stop when sure")
        page.get_by_role("button", name="Add a treatment").click()
        second = page.get_by_role("group", name="Treatment 2")
        expect(second.get_by_label("Key")).to_be_focused()
        second.get_by_label("Stopping policy").select_option(label="Token budget")
        second.get_by_role("textbox", name="Max thinking tokens").fill("96")
        page.get_by_role("button", name="Save draft").last.click()

        expect(page.get_by_role("heading", level=1)).to_contain_text("Stop when sure")
        expect(page.get_by_text("nothing is served by it yet")).to_be_visible()
        page.get_by_role("button", name="Start").click()
        expect(page.get_by_role("heading", name="No look yet")).to_be_visible()
        expect(page.get_by_role("row", name="Token budget: max thinking tokens 96")).to_be_visible()
        address = page.url
        browser.close()
    assert problems == []
    experiment = Experiment.objects.get()
    assert address == f"{live_server.url}/experiments/{experiment.pk}/"
    assert experiment.state == "running"
    assert [variant.key for variant in experiment.variants.all()] == ["full", "conservative", "aggressive"]


def test_page_fits_a_phone_in_both_themes(
    live_server: LiveServer, chromium: str, settings: LazySettings, running: Experiment, person: User,
    store_look: StoreLook,
) -> None:  # fmt: skip
    settings.SESSION_COOKIE_SECURE = settings.CSRF_COOKIE_SECURE = False
    store_look(running)
    paths = ("/", "/experiments/new/", f"/experiments/{running.pk}/")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        grounds = set()
        for theme in ("light", "dark"):
            page = browser.new_page(viewport={"width": 375, "height": 700}, color_scheme=theme)
            page.goto(live_server.url)
            page.get_by_label("User name").fill("ada")
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Log in").click()
            for path in paths:
                page.goto(live_server.url + path)
                width = page.evaluate("document.documentElement.scrollWidth")
                assert (path, width) == (path, 375)
            grounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            page.close()
        browser.close()
    assert len(grounds) == 2
