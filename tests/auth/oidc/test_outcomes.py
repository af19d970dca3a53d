"""Outcomes of logins at a provider are counted."""

import pytest

from projkit import ProjKit
from tests.auth.oidc.conftest import AUTH, Browser, refused
from tests.auth.users import logins

pytestmark = pytest.mark.anyio


async def test_logins(kit: ProjKit, browser: Browser) -> None:
    """Each callback is counted once; a repeated or unsolicited one counts as failed."""
    back = await browser.to_provider()
    assert logins(kit) == {}, "nobody has come back yet"
    assert (await browser.get(back)).status_code == 303
    assert logins(kit) == {("oidc", "succeeded"): 1}
    assert refused(await browser.get(back))
    assert refused(await browser.get(f"{AUTH}/oidc/corp/callback?state=x&code=y"))
    assert (await browser.get(f"{AUTH}/oidc/unknown/callback?state=x&code=y")).status_code == 404
    assert logins(kit) == {("oidc", "succeeded"): 1, ("oidc", "failed"): 2}
    denied = (await browser.to_provider()).partition("code=")[0] + "error=access_denied"
    assert refused(await browser.get(denied))
    assert logins(kit) == {("oidc", "succeeded"): 1, ("oidc", "failed"): 3}
