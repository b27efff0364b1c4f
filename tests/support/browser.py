"""Headless Chromium from Debian, which runs in a tools tree and is driven by Playwright."""

import base64
import hashlib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from playwright.sync_api import Browser, ConsoleMessage, Page, Playwright

from osbuild.host.cache import Cache
from osbuild.sandbox.tools_tree import unlocked_tools_tree
from tests.support.checkout import PROJECT
from tests.support.update_server import RunningServer

PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
SCREENSHOTS = PROJECT / "build/screenshots"
PATIENCE = 60_000  # milliseconds to wait for what takes less than one if nothing else runs
# Chromium runs without privileges and in its own sandbox; /tmp of the tools tree is root's.
START = 'chmod 1777 /tmp && exec setpriv --reuid=nobody --regid=nogroup --clear-groups chromium-headless-shell "$@"'
QUIET = (
    "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def running_browser(playwright: Playwright, server: RunningServer, folder: Path) -> Iterator[Browser]:
    """Run Chromium. Of all servers it trusts only the key of `server`. The first call needs root and the network."""
    tools = unlocked_tools_tree(Cache(), "browser", PACKAGES, "browser for tests")
    program = folder / "chromium"
    command = tools.wrap_command(["sh", "-c", START, "sh"])
    program.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    program.chmod(0o755)
    options = [*QUIET, f"--ignore-certificate-errors-spki-list={key_pin(server)}"]
    browser = playwright.chromium.launch(
        executable_path=program, args=options, chromium_sandbox=True, timeout=5 * PATIENCE
    )
    try:
        yield browser
    finally:
        browser.close()


def key_pin(server: RunningServer) -> str:
    """Return the hash of the server's public key (RFC 7469, section 2.4)."""
    certificate = x509.load_pem_x509_certificate((server.data / "tls/server.crt").read_bytes())
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(key).digest()).decode()


@contextmanager
def open_page(browser: Browser, server: RunningServer, **options: Any) -> Iterator[Page]:
    """Open a page of a new visitor. Nothing may be written to the console: neither errors nor violations of the CSP.

    `options` are those of Playwright's `new_context`.
    """
    problems: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A page that is refused is what some tests want, and Chromium reports its status as an error.
        if message.type in ("error", "warning") and "the server responded with a status of 4" not in message.text:
            problems.append(message.text)

    context = browser.new_context(base_url=server.url, **options)
    context.set_default_timeout(PATIENCE)
    try:
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        yield page
        if problems:
            raise AssertionError("\n".join(problems))
    finally:
        context.close()


def sign_in(page: Page, token: str) -> None:
    """Sign in, which leads to the first page."""
    page.goto("/signin")
    page.get_by_label("Access token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="Fleet", exact=True).wait_for()


def find_barriers(page: Page) -> list[str]:
    """Return what axe-core says about the accessibility of a page: rules that it violates, and where."""
    violations = Axe().run(page).response["violations"]
    return [f"{entry['id']}: {entry['help']}: {node['html']}" for entry in violations for node in entry["nodes"]]


def save_screenshot(page: Page, name: str) -> None:
    """Save the whole page as build/screenshots/`name`.png."""
    path = SCREENSHOTS / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=True)
