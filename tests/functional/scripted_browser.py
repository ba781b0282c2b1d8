"""A person at a browser, as a script: opens a page, fills in each form that comes, and follows where it leads.

    python scripted_browser.py [--person NAME] [--state TEXT] [--iss TEXT] URL

With `--state` or `--iss` the answer to the login is tampered with on its way back to the command line (an empty text leaves it
out). `--before` knocks at the port of the login with a foreign answer first.
"""

from __future__ import annotations

import argparse
import urllib.error
import urllib.request
from collections.abc import Mapping
from html.parser import HTMLParser
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urljoin, urlsplit

MAX_PAGES = 12


class Forms(HTMLParser):
    """The forms of a page: action and fields."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append((said.get("action", ""), {}))
        elif (
            tag in ("input", "button") and self.found and said.get("name", "abort") != "abort"
        ):  # of several buttons, the last that goes on
            self.found[-1][1][said["name"]] = said.get("value", "")


class Tampering(urllib.request.HTTPRedirectHandler):
    """Changes the answer of a login on its way back."""

    def __init__(self, redirect_uri: str, changes: Mapping[str, str]) -> None:
        self._redirect_uri = redirect_uri
        self._changes = changes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        if self._redirect_uri and newurl.startswith(self._redirect_uri + "?"):
            said = dict(parse_qsl(urlsplit(newurl).query)) | self._changes
            newurl = f"{self._redirect_uri}?{urlencode({name: value for name, value in said.items() if value})}"
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def visit(url: str, *, person: str = "ann", fields: Mapping[str, str] | None = None, changes: Mapping[str, str] | None = None) -> str:
    """Log `person` in from `url` on; returns the last page. `fields` are filled in wherever a form asks for them."""
    redirect_uri = parse_qs(urlsplit(url).query).get("redirect_uri", [""])[0]
    cookies = urllib.request.HTTPCookieProcessor(CookieJar(DefaultCookiePolicy()))
    opener = urllib.request.build_opener(cookies, Tampering(redirect_uri, changes or {}), urllib.request.ProxyHandler({}))
    known = {"login": person, "password": "anything", **(fields or {})}
    request = urllib.request.Request(url)
    for _ in range(MAX_PAGES):
        try:
            with opener.open(request, timeout=30) as response:
                page, here = response.read().decode(), response.url
        except urllib.error.HTTPError as error:
            with error:
                page, here = error.read().decode(), error.url or ""
        forms = Forms()
        forms.feed(page)
        if not forms.found or here.startswith(redirect_uri or "-") or "The Sign-in request was interrupted" in page:
            return page
        action, asked = forms.found[0]
        filled = asked | {name: value for name, value in known.items() if name in asked or name == "abort"}
        request = urllib.request.Request(urljoin(here, action), data=urlencode(filled).encode())
    raise AssertionError(f"no end after {MAX_PAGES} pages")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--state")
    parser.add_argument("--iss")
    parser.add_argument("--person", default="ann")
    parser.add_argument("--before", action="store_true")
    parser.add_argument("url")
    said = parser.parse_args()
    if said.before:
        redirect_uri = parse_qs(urlsplit(said.url).query)["redirect_uri"][0]
        visit(f"{redirect_uri}?code=stolen&state=guessed")
    visit(said.url, person=said.person, changes={name: value for name in ("state", "iss") if (value := getattr(said, name)) is not None})


if __name__ == "__main__":
    main()
