"""One request over HTTP, with failures sorted into those that pass and those that stay."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import cmae_mm
from cmae_mm.errors import UserError

TIMEOUT_S = 30.0
LONGEST_WAIT_S = 60.0
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_OFFLINE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN}


class Passing(Exception):
    """A failure that another attempt may not meet again.

    Args:
        reason: In words.
        wait: Seconds the server asks to wait; None if it does not.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Unreachable(Passing):
    """There is no way to the server at all."""


class OutOfRange(Passing):
    """The server has no such part of the file."""


def open_url(url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Send a GET request; redirects stay on the web and never leave encryption.

    Args:
        url: ``http`` or ``https``.
        headers: Beside the usual ones.

    Returns:
        The answer with code 200 or 206, whose body is still to be read.

    Raises:
        UserError: For an answer that will not change.
        Passing: For one that may.
    """
    common = {"User-Agent": f"cmae_mm/{cmae_mm.__version__}", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers={**common, **headers})
    try:
        answer: http.client.HTTPResponse = _opener().open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise _sorted_answer(url, error) from None
    except (ValueError, http.client.InvalidURL):
        raise UserError(
            f"{shown(url)}: this address, or one that it sends on to, is not valid; check it"
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise _sorted_failure(url, error) from None
    if answer.headers.get("Content-Encoding", "identity") != "identity":
        answer.close()
        raise UserError(f"{shown(url)}: the server sends the file in another encoding; download it by hand")
    if answer.headers.get_content_type() == "text/html":
        answer.close()
        raise UserError(
            f"{shown(url)}: the server answers with a web page, not with a file; open the address in a browser"
        )
    return answer


def shown(url: str) -> str:
    """Returns: The address without what may be secret: user, password, query."""
    return re.sub(r"(?<=://)[^/?#]*@|[?#].*", "", url)


class _StaysOnTheWeb(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = urlsplit(newurl).scheme
        if scheme != "https" and (scheme != "http" or req.type == "https"):
            raise UserError(
                f"{shown(req.full_url)}: refused, the server sends on to {shown(newurl)}; only web addresses are "
                f"followed, and none without encryption from one with it"
            )
        return super().redirect_request(req, fp, 307 if code == 308 else code, msg, headers, newurl)

    def http_error_308(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        """Permanent redirect, which Python 3.10 does not know."""
        return self.http_error_302(req, fp, code, msg, headers)


def _opener() -> urllib.request.OpenerDirector:
    """An opener that has no handlers for files, FTP or data."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _StaysOnTheWeb(),
    ):
        opener.add_handler(handler)
    return opener


def _sorted_answer(url: str, error: urllib.error.HTTPError) -> Exception:
    code = error.code
    if code == 416:
        return OutOfRange("the server has no such part of the file", wait=0)
    if code in _PASSING:
        asked = str(error.headers.get("Retry-After", ""))
        return Passing(
            f"the server answers {code}", min(float(asked), LONGEST_WAIT_S) if asked.isdigit() else None
        )
    if 300 <= code < 400:
        target = shown(error.headers.get("Location") or "")
        return UserError(
            f"{shown(url)}: refused, the server sends on to {target}, again and again or off the web"
        )
    if code in (401, 403):
        return UserError(
            f"{shown(url)}: the server wants a permission ({code}); download the file by hand and give its path"
        )
    if code in (404, 410):
        return UserError(f"{shown(url)}: the server has no such file ({code}); check the address")
    return UserError(f"{shown(url)}: the server refuses ({code}); check the address")


def _sorted_failure(url: str, error: OSError | http.client.HTTPException) -> Exception:
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, ssl.SSLCertVerificationError):
        return UserError(
            f"{shown(url)}: the server's certificate is not trusted ({reason.verify_message}); check the address"
        )
    if isinstance(reason, socket.gaierror) or getattr(reason, "errno", None) in _OFFLINE:
        return Unreachable(f"{urlsplit(url).hostname} cannot be reached")
    return Passing(str(reason) or type(reason).__name__)
