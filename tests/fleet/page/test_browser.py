"""The web page in Chromium: with and without JavaScript, by keyboard, narrow, dark, and judged by axe-core."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, FilePayload, Page, Playwright, sync_playwright

from osbuild.keys.key_folder import load_keys
from tests.support.browser import (
    PATIENCE,
    find_barriers,
    open_page,
    running_browser,
    save_screenshot,
    sign_in,
)
from tests.support.fleets import enrol_shops, insert_fleet, publish_versions, report_attributes
from tests.support.signed_bundles import make_bundle
from tests.support.update_server import RunningServer, running_server

NARROW = {"viewport": {"width": 360, "height": 740}}
WIDE = {"viewport": {"width": 1280, "height": 800}}
PAGES = {
    "fleet": "/", "devices": "/devices", "device": "/devices/{device}", "rollouts": "/rollouts",
    "rollout": "/rollouts/spring", "new-rollout": "/rollouts/new?bundle=1", "bundles": "/bundles", "audit": "/audit",
    "refused": "/devices/nobody",
}  # fmt: skip
SIZES = {3: "shop-2", 10_000: "shop-00002"}
"""fleets, and the device of each that is shown"""
# What has the focus: whether one can see that, and its position among all elements.
FOCUS = """() => {
  const element = document.activeElement;
  const style = getComputedStyle(element), box = element.getBoundingClientRect();
  return {
    name: element.textContent.trim() || element.id, place: [...document.querySelectorAll("*")].indexOf(element),
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    visible: box.width > 0 && box.right > 0 && box.left < innerWidth && box.bottom > 0 && box.top < innerHeight,
    body: element === document.body,
  };
}"""


@dataclass
class Site:
    """A server with devices, a browser, and a session of its administrator."""

    server: RunningServer
    browser: Browser
    folder: Path
    session: Any

    @contextmanager
    def page(self, **options: Any) -> Iterator[Page]:
        with open_page(self.browser, self.server, storage_state=self.session, **options) as page:
            yield page


@contextmanager
def open_site(playwright: Playwright, folder: Path) -> Iterator[Site]:
    with running_server(folder) as server, running_browser(playwright, server, folder) as browser:
        with open_page(browser, server) as page:
            sign_in(page, server.token)
            session = page.context.storage_state()
        yield Site(server, browser, folder, session)


@pytest.fixture(scope="module")
def playwright() -> Iterator[Playwright]:
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def site(playwright: Playwright, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three devices, the bundles 1 and 2, and a rollout that has not started."""
    with open_site(playwright, tmp_path_factory.mktemp("small")) as site:
        publish_versions(site.server, site.folder, "1.1.0", "1.1.1")
        enrol_shops(site.server, site.folder)
        groups = [{"percent": 34, "success": 90, "error": 10}, {"percent": 66, "success": 90, "error": 10}]
        site.server.order("/rollouts", {"name": "spring", "bundle": 1, "groups": groups})
        yield site


def check_pages(site: Site, size: int, mode: str, **options: Any) -> None:
    """Look at every page: no barrier, nothing that is too wide; save its picture."""
    problems = []
    with site.page(**options) as page:
        for name, address in PAGES.items():
            page.goto(address.format(device=SIZES[size]))
            save_screenshot(page, f"{size}/{name}-{mode}")
            problems += [f"{name}: {barrier}" for barrier in find_barriers(page)]
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                problems.append(f"{name}: wider than the window")
    assert not problems


@pytest.mark.parametrize(
    ("mode", "options"),
    [("light", {"color_scheme": "light", **WIDE}), ("dark", {"color_scheme": "dark", **WIDE}), ("narrow", NARROW)],
)
def test_every_page_is_accessible_and_fits(site: Site, mode: str, options: dict[str, Any]) -> None:
    check_pages(site, 3, mode, **options)


@pytest.mark.sqlite
def test_every_page_is_accessible_and_fits_with_10000_devices(playwright: Playwright, tmp_path: Path) -> None:
    with open_site(playwright, tmp_path) as site:
        publish_versions(site.server, site.folder, "1.1.0")
        insert_fleet(site.server, 10_000)
        shares = [{"percent": percent, "success": 95, "error": 5} for percent in (1, 9, 90)]
        selection = {"version": "1.0.*"}
        site.server.order("/rollouts", {"name": "spring", "bundle": 1, "groups": shares, "selection": selection})
        site.server.order("/rollouts/spring/start", {})
        check_pages(site, 10_000, "light", color_scheme="light", **WIDE)
        check_pages(site, 10_000, "narrow", color_scheme="dark", **NARROW)


def test_signing_in_takes_a_token_and_signing_out_ends_the_session(site: Site) -> None:
    with open_page(site.browser, site.server) as page:
        page.goto("/devices")
        page.get_by_label("Access token").fill("edge_access_wrong")
        page.get_by_role("button", name="Sign in").click()
        assert "not valid" in page.get_by_role("alert").inner_text()
        assert not find_barriers(page)
        save_screenshot(page, "3/sign-in-light")
        sign_in(page, site.server.token)
        assert "admin, admin" in page.locator(".who").inner_text() and "until 20" in page.locator(".who").inner_text()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_role("heading", name="Sign in").wait_for()
        page.goto("/devices")
        assert page.url.endswith("/signin")


@pytest.mark.parametrize("javascript", [True, False])
def test_a_rollout_is_previewed_created_and_driven(site: Site, javascript: bool) -> None:
    name = f"driven-{javascript}"
    with site.page(java_script_enabled=javascript) as page:
        page.goto("/rollouts/new")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Devices: KEY").fill("name=shop-*")
        page.get_by_label("Groups:").fill("34,66")
        page.get_by_role("button", name="Preview").click()
        page.get_by_role("heading", name="3 devices are selected").wait_for()
        assert site.server.rollout(name)["code"] == "not-found"
        page.get_by_role("button", name="Create").click()
        page.get_by_role("heading", name=name).wait_for()
        status = page.locator("#now")
        for button, expected in (("Start", "running"), ("Pause", "paused by admin")):
            page.get_by_role("button", name=button, exact=True).click()
            status.get_by_text(expected).wait_for()
        page.get_by_label("Bundle from now on").select_option(label="edge-server 1.1.0 for edge-x86_64")
        page.get_by_role("button", name="Resume").click()
        status.get_by_text("edge-server 1.1.0").wait_for()
        assert site.server.rollout(name)["state"] == "running"
        page.get_by_role("button", name="Abort").click()
        status.get_by_text("aborted by admin").wait_for()
    assert site.server.rollout(name)["state"] == "aborted"


def test_a_form_that_is_refused_keeps_its_values(site: Site) -> None:
    with site.page() as page:
        page.goto("/rollouts/new")
        page.get_by_label("Name").fill("many")
        page.get_by_label("Groups:").fill("10,20,30,40")
        page.get_by_role("button", name="Create").click()
        assert "fewer than the 4 groups" in page.get_by_role("alert").inner_text()
        assert page.get_by_label("Name").input_value() == "many"


def test_the_preview_follows_the_form(site: Site) -> None:
    with site.page() as page:
        page.goto("/rollouts/new?bundle=1")
        page.get_by_role("heading", name="3 devices are selected").wait_for()
        page.get_by_label("Devices: KEY").fill("health=healthy")
        page.get_by_label("Groups:").fill("50,50")
        page.get_by_label("Name").focus()
        page.get_by_role("heading", name="2 devices are selected").wait_for()


@pytest.mark.parametrize("javascript", [True, False])
def test_an_uploaded_bundle_leads_to_its_rollout(site: Site, javascript: bool, tmp_path: Path) -> None:
    version = f"2.{int(javascript)}.0"
    contents = make_bundle(tmp_path / "new.raucb", load_keys(site.folder / "keys"), version)
    damaged = contents[:5000] + bytes([contents[5000] ^ 1]) + contents[5001:]
    # As bytes, since the sandbox of Chromium has no files of the tests.
    good, bad = (FilePayload(name="new.raucb", mimeType="", buffer=data) for data in (contents, damaged))
    with site.page(java_script_enabled=javascript) as page:
        page.goto("/bundles")
        page.get_by_label("Bundle").set_input_files(bad)
        page.get_by_role("button", name="Upload").click()
        page.get_by_role("alert").filter(has_text="is damaged").wait_for()
        if javascript:  # axe-core needs it
            assert not find_barriers(page)
            save_screenshot(page, "3/damaged-bundle-light")
        page.get_by_label("Bundle").set_input_files(good)
        page.get_by_role("button", name="Upload").click()
        page.get_by_role("heading", name="3 devices are selected").wait_for()
        assert page.get_by_label("Name").input_value() == f"edge-server-{version}"
        chosen = page.get_by_label("Bundle").locator("option:checked").inner_text()
        assert chosen == f"edge-server {version} for edge-x86_64"


def test_open_pages_follow_what_happens(site: Site) -> None:
    site.server.create_rollout("live", 1, 100, selection={"name": "shop-1"})
    with site.page() as rollout, site.page() as fleet, site.page() as device:
        for page, address in ((rollout, "/rollouts/live"), (fleet, "/"), (device, "/devices/shop-1")):
            page.goto(address)
            page.evaluate("window.loadedOnce = true")
        site.server.order("/rollouts/live/pause", {})
        rollout.locator("#now").get_by_text("paused by admin").wait_for()
        rollout.get_by_role("button", name="Resume").wait_for()
        with site.server.client("shop-1", site.folder) as client:
            report_attributes(client, "shop-1", health="healthy", version="1.0.7")
        device.locator("#now").get_by_text("1.0.7").wait_for()
        fleet.get_by_role("link", name="1.0.7").wait_for()
        assert all(page.evaluate("window.loadedOnce") for page in (rollout, fleet, device))
        assert not find_barriers(rollout)
    site.server.order("/rollouts/live/abort", {})


@pytest.mark.parametrize("address", ["/", "/devices", "/rollouts/spring", "/rollouts/new", "/bundles", "/audit"])
def test_the_focus_is_visible_and_follows_the_order_of_the_page(site: Site, address: str) -> None:
    with site.page() as page:
        page.goto(address)
        page.keyboard.press("Tab")
        first = page.evaluate(FOCUS)
        assert first["name"] == "Skip to the content" and first["visible"] and first["outlined"]
        before, names = first, []
        while True:
            page.keyboard.press("Tab")
            focus = page.evaluate(FOCUS)
            if focus["body"] or focus["place"] <= first["place"]:
                break
            assert focus["place"] > before["place"] and focus["visible"] and focus["outlined"], focus
            before = focus
            names.append(focus["name"])
        assert names[:6] == ["Fleet", "Devices", "Rollouts", "Bundles", "Audit log", "Sign out"]
        assert len(names) > 6, "something of the content can be reached"
        page.goto(address)
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.id") == "main"


def test_a_rollout_is_started_by_keyboard(site: Site) -> None:
    def tab_to(page: Page, name: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate(FOCUS)["name"] == name:
                return
        pytest.fail(f"{name} is not reached")

    with open_page(site.browser, site.server) as page:
        page.goto("/signin")
        page.locator("#token:focus").wait_for()
        page.keyboard.type(site.server.token)
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Fleet", exact=True).wait_for()
        tab_to(page, "Rollouts")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Rollouts", exact=True).wait_for()
        tab_to(page, "New rollout")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="New rollout", exact=True).wait_for()
        tab_to(page, "name")
        page.keyboard.type("keys")
        tab_to(page, "Create")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="keys").wait_for()
        tab_to(page, "Start")
        page.keyboard.press("Space")
        page.locator("#now").get_by_text("running").wait_for()
    site.server.order("/rollouts/keys/abort", {})


def test_devices_are_searched_and_the_audit_log_is_filtered(site: Site) -> None:
    with site.page() as page:
        page.goto("/devices")
        page.get_by_label("Attributes").fill("board=x86*")
        page.get_by_label("Condition").select_option("update failed")
        page.get_by_role("button", name="Search").click()
        page.get_by_text("1 device", exact=True).wait_for()
        page.get_by_role("link", name="shop-2").click()
        assert "30-kubernetes" in page.get_by_role("region", name="Why the newest update failed").inner_text()
        page.goto("/audit")
        page.get_by_label("What").fill("enrolled")
        page.get_by_label("Subject").fill("shop-3")
        page.get_by_role("button", name="Search").click()
        page.wait_for_url(re.compile("enrolled"))
        assert page.locator(".log li").count() == 1 and "device shop-3" in page.locator(".log li").inner_text()


def test_barriers_are_found(site: Site) -> None:
    with site.page() as page:
        page.goto("/devices")
        page.evaluate("document.querySelector('label[for=version]').remove()")
        page.evaluate("document.querySelector('h1').style.color = '#eee'")
        page.evaluate("document.querySelector('#version').removeAttribute('placeholder')")
        rules = {barrier.partition(":")[0] for barrier in find_barriers(page)}
        assert {"label", "color-contrast"} <= rules


def test_a_script_in_a_page_is_blocked_and_noticed(site: Site) -> None:
    with pytest.raises(AssertionError, match="Content Security Policy"), site.page() as page:
        page.goto("/")
        page.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'window.x = 1'}))")
        page.wait_for_timeout(PATIENCE / 100)
        assert page.evaluate("window.x") is None
