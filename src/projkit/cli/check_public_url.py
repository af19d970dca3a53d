"""The part of ``projkit check`` that requests PUBLIC_URL and compares how the request arrived with the settings.

A request that cannot be made, because nothing is deployed yet or because this machine cannot reach the proxy, is a
warning. What would break browsers is a failure. No credentials are sent: see :mod:`projkit.validation.public_url`.
"""

import ipaddress
import ssl
from functools import partial
from typing import Final
from urllib.parse import urlsplit

import httpx2
from pydantic import ValidationError

from projkit.auth.keys import load_keys
from projkit.cli.findings import Finding
from projkit.http.url_paths import encode_path
from projkit.settings import UNIX_SOCKETS, Settings, origin_of
from projkit.validation.public_url import HEADER, LABEL, PATH, RequestReport, issue

_SECONDS: Final = 3.0
# An address for documentation (RFC 5737): a proxy that passes it on lets clients choose their address.
_CLAIMED_ADDRESS: Final = "192.0.2.1"
_NAME: Final = "public url"
_DOCS: Final = "see docs/proxies.md"
_CERTIFICATE_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_CERTIFICATE_NAMES: Final = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


async def check_public_url(settings: Settings) -> Finding:
    """Request PUBLIC_URL and say which setting of the proxy or of the kit to fix."""
    target = settings.public_base + settings.api_prefix + PATH
    token = issue(partial(load_keys(settings).secrets, LABEL))
    try:
        response = await _get(target, token)
    except (httpx2.HTTPError, OSError) as error:
        return _explain_error(settings, error)
    report = _read(response)
    if report is None:
        return await _explain_response(settings, response, token)
    failures, warnings = _compare(settings, report)
    if failures or warnings:
        detail = "; ".join([*failures, *warnings, _DOCS])
        return Finding(_NAME, ok=not failures, detail=detail, warning=not failures)
    return Finding(_NAME, ok=True, detail=f"{settings.public_base} reaches this kit, and the proxy is set up")


async def _get(url: str, token: str) -> httpx2.Response:
    headers = {HEADER: token, "Accept": "application/json"}
    # Plain http is for this machine, where the address decides whether cookies are Secure.
    if url.startswith("https:"):
        headers["X-Forwarded-For"] = _CLAIMED_ADDRESS
    async with httpx2.AsyncClient(timeout=_SECONDS, follow_redirects=False) as client:
        return await client.get(url, headers=headers)


def _read(response: httpx2.Response) -> RequestReport | None:
    if response.status_code != 200:
        return None
    try:
        return RequestReport.model_validate_json(response.content)
    except ValidationError:
        return None


def _explain_error(settings: Settings, error: Exception) -> Finding:
    url = settings.public_base
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        reason = str(error) or type(error).__name__
        detail = f"{url} could not be requested ({reason}), so the proxy was not checked; is it running?"
        return Finding(_NAME, ok=True, detail=detail, warning=True)
    if cause.verify_code == _CERTIFICATE_EXPIRED:
        return Finding(_NAME, ok=False, detail=f"the certificate of {url} has expired; renew it")
    if cause.verify_code in _CERTIFICATE_NAMES:
        host = urlsplit(url).hostname
        detail = f"the certificate of {url} is not for {host}; get one for this name, or correct PROJKIT_PUBLIC_URL"
        return Finding(_NAME, ok=False, detail=detail)
    detail = (
        f"the certificate of {url} is not trusted here ({cause.verify_message}), so the proxy was not checked; "
        "if its issuer is your own, set SSL_CERT_FILE to the issuer's certificate, otherwise add the intermediate "
        "certificates to the proxy's ssl_certificate"
    )
    return Finding(_NAME, ok=True, detail=detail, warning=True)


async def _explain_response(settings: Settings, response: httpx2.Response, token: str) -> Finding:
    url, status = settings.public_base, response.status_code
    failed, warning = partial(Finding, _NAME, ok=False), partial(Finding, _NAME, ok=True, warning=True)
    if response.has_redirect_location:
        to = response.headers["location"].removesuffix(settings.api_prefix + PATH)
        return failed(detail=f"{url} redirects to {to}; set PROJKIT_PUBLIC_URL to the URL without a redirect")
    if status >= 500:
        return warning(
            detail=f"{url} responds with {status}, so the proxy was not checked; is the server running, and is it "
            f"where the proxy looks for it (nginx: proxy_pass)? {_DOCS}"
        )
    if status != 404:
        return warning(
            detail=f"{url} responds with {status} and not as projkit; is something else served there?"
        )
    path = settings.public_path or ""
    expected = encode_path(path) + settings.api_prefix + PATH
    instance = _instance(response)
    if instance == expected:
        return warning(
            detail=f"a projkit responds at {url} that does not have these keys, or is of another version; does it "
            "run with the same PROJKIT_SECRET or PROJKIT_KEYS_FILE?"
        )
    if instance is not None:
        return failed(
            detail=f"{url} reaches a projkit, but at {instance} instead of {expected}; the proxy changes the path: "
            f"nginx: location {path}/ {{ proxy_pass http://SERVER/; }} removes {path or 'nothing'}, and without the "
            f"last slash it is kept; {_DOCS}"
        )
    if path and await _is_served_at(origin_of(url), settings, token):
        return failed(
            detail=f"the kit is served at {origin_of(url)}, not at {url}; set PROJKIT_PUBLIC_URL={origin_of(url)}, or "
            f"serve it below {path} (nginx: location {path}/ {{ proxy_pass http://SERVER/; }}); {_DOCS}"
        )
    if _is_of_application(response):
        return failed(
            detail=f"an application without the kit at this path responds at {url}{settings.api_prefix}; "
            "PROJKIT_PUBLIC_URL must end in the path of the kit's mount, and if the proxy keeps a prefix, the "
            f"application must know it (--root-path); {_DOCS}"
        )
    server = response.headers.get("server", "a server")
    return failed(
        detail=f"nothing is served at {url}{settings.api_prefix} (404 from {server}); nginx: "
        f"location {path}/ {{ proxy_pass http://SERVER; }}, or correct PROJKIT_PUBLIC_URL; {_DOCS}"
    )


def _is_of_application(response: httpx2.Response) -> bool:
    """Return whether an application has responded and not the proxy, whose own error pages are HTML or empty."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    return "x-process-time" in response.headers or kind in {"application/json", "text/plain"}


async def _is_served_at(url: str, settings: Settings, token: str) -> bool:
    try:
        return _read(await _get(url + settings.api_prefix + PATH, token)) is not None
    except (httpx2.HTTPError, OSError):
        return False


def _instance(response: httpx2.Response) -> str | None:
    """Return the path of a problem of the kit, or None if the response is not one."""
    if response.headers.get("content-type", "").partition(";")[0] != "application/problem+json":
        return None
    try:
        instance = response.json()["instance"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(instance)


def _compare(settings: Settings, report: RequestReport) -> tuple[list[str], list[str]]:
    """Return the failures and the warnings."""
    failures = []
    path = settings.public_path or ""
    if report.root_path != path:
        failures.append(
            f"URLs and cookie paths begin with {report.root_path or '/'}, but browsers use {path or '/'}; start the "
            f"server with PROJKIT_PUBLIC_URL={settings.public_base}, which must include the path of a mount"
        )
    is_https = settings.public_base.startswith("https:")
    if is_https and not report.secure:
        failures.append(_explain_scheme(report))
    if is_https and not report.secure_cookies:
        failures.append("cookies are sent without Secure; unset PROJKIT_COOKIE_SECURE")
    if not is_https and report.secure_cookies:
        failures.append(
            "cookies are Secure, so browsers discard them at an http URL; serve over https, and set PROJKIT_PUBLIC_URL "
            "to that URL"
        )
    address_failures, address_warnings = _examine_address(report, is_https=is_https)
    return [*failures, *address_failures], address_warnings


def _explain_scheme(report: RequestReport) -> str:
    scheme = report.forwarded.get("x-forwarded-proto")
    if scheme is None:
        return "the proxy does not say that clients use https; nginx: proxy_set_header X-Forwarded-Proto $scheme;"
    if not report.trusted:
        return (
            f"the proxy's X-Forwarded-Proto is ignored; set PROJKIT_TRUSTED_PROXIES={_network(report.peer)}"
        )
    return (
        f"the proxy says that clients use {scheme}, perhaps because another proxy in front of it serves https; nginx: "
        "proxy_set_header X-Forwarded-Proto https;"
    )


def _examine_address(report: RequestReport, *, is_https: bool) -> tuple[list[str], list[str]]:
    """Return the failures and the warnings about the addresses of clients."""
    directive = "nginx: proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
    hops = [hop.strip() for hop in report.forwarded.get("x-forwarded-for", "").split(",")]
    if hops[-1] in {"", _CLAIMED_ADDRESS}:  # whatever forwarded the request added nothing
        if "x-forwarded-proto" not in report.forwarded and (report.scheme == "https" or not is_https):
            return [], []  # there is no proxy
        if hops[-1] and (report.trusted or report.peer == _CLAIMED_ADDRESS):
            return [
                f"clients can choose their address, because the proxy passes on their X-Forwarded-For; {directive}"
            ], []
        return [], [
            f"the proxy does not pass on the addresses of clients, which share one rate limit; {directive}"
        ]
    if report.trusted or report.peer in hops:  # the server itself may have evaluated the header
        return [], []
    network = _network(report.peer)
    return [], [
        f"the proxy's address is that of all clients in rate limits; set PROJKIT_TRUSTED_PROXIES={network}"
    ]


def _network(peer: str) -> str:
    try:
        return str(ipaddress.ip_address(peer))
    except ValueError:
        return UNIX_SOCKETS
