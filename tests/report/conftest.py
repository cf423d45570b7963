"""What the browser tests share: one Chromium a module, and its page (fixture `address`) in either colour scheme."""

from __future__ import annotations

import pytest

from tests.report.browser import DRAWN, Chromium, needed


@pytest.fixture(scope="module")
def browser():
    needed()
    with Chromium() as running:
        yield running


@pytest.fixture(params=[False, True], ids=["light", "dark"])
def page(browser, address, request):
    opened = browser.open(address, dark=request.param)
    opened.wait_for(DRAWN)
    return opened
