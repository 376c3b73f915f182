"""Check how the links and pictures of an email are written; pure."""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import SplitResult, urlsplit

from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.checks.shown_parts import Link, Picture, ShownPart
from skychimp.services.messages.merge_tags import foreign_merge_tags
from skychimp.services.operations.findings import PROBLEM, WARNING, Level
from skychimp.text import shortened
from skychimp.translation import Phrase, tr

MAX_SHOWN_URL = 200

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{%|%7B%7B|%7D%7D", re.IGNORECASE)
_GAP = re.compile(r"[\s\x00-\x1f\x7f]")
_SCHEME = re.compile(r"([a-z][a-z0-9+-]*):", re.IGNORECASE)
_HOST = re.compile(r"[^\W_](?:[\w-]*\w)?(?:\.[\w-]+)*\.?")
_NOT_OPENED = {"data", "file", "javascript", "vbscript"}


class Flaw(NamedTuple):
    """What is wrong with a link, as the end of a sentence that begins with it."""

    level: Level
    found: str
    remedy: Phrase


def check_links(page: ShownPart, part: str) -> Iterator[MessageFinding]:
    """Yield what is wrong with the links and the pictures of a part."""
    for link in page.links:
        yield from _finding("link", link.url, f"{part} line {link.line}", find_link_flaw(link.url))
    for picture in page.pictures:
        yield from _finding("picture", picture.src, f"{part} line {picture.line}", find_picture_flaw(picture))


def web_links(page: ShownPart, part: str) -> dict[str, str]:
    """Return where each http and https link and picture of a part is, without those that cannot be valid."""
    links: Iterable[Link] = (*page.links, *(Link(picture.src, picture.line) for picture in page.pictures))
    found: dict[str, str] = {}
    for url, line in links:
        if scheme_of(url) in ("http", "https"):
            flaw = find_link_flaw(url)
            if flaw is None or flaw.level != PROBLEM:
                found.setdefault(url, f"{part} line {line}")
    return found


def scheme_of(url: str) -> str:
    """Return the scheme of a URL in lower case, "" if it has none."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def show_url(url: str) -> str:
    """Return a URL for a finding: in quotes, and not too long."""
    return shortened(url, MAX_SHOWN_URL)


def find_link_flaw(url: str) -> Flaw | None:
    """Return what is wrong with a link, None if nothing is. A merge tag of another tool has a finding of its own."""
    if url in ("", "#"):
        return Flaw(WARNING, tr("goes nowhere"), tr("add an address, or remove it"))
    if url.startswith("#") or foreign_merge_tags(url):
        return None
    if _PLACEHOLDER.search(url):
        return Flaw(
            PROBLEM, tr("has a placeholder that is not filled in"), tr("write the placeholder outside of {% raw %}")
        )
    if _GAP.search(url):
        return Flaw(
            PROBLEM, tr("contains a space"), tr("write %20, or {{ ... | urlencode }} for a value of the client")
        )
    scheme = scheme_of(url)
    if scheme in ("http", "https"):
        return _web_flaw(url)
    if scheme == "mailto":
        return _mail_flaw(url)
    if scheme in _NOT_OPENED:
        return Flaw(PROBLEM, tr("is not opened by mail programs"), tr("link to an https:// page"))
    if not scheme or url[len(scheme) + 1 :].isdigit():  # example:8080
        return Flaw(PROBLEM, tr("is not a complete address"), tr("begin it with https://"))
    return None


def find_picture_flaw(picture: Picture) -> Flaw | None:
    """Return what is wrong with a picture: its address, or else that it has no text for those who do not see it."""
    scheme = scheme_of(picture.src)
    flaw = None
    if not picture.src:
        return Flaw(PROBLEM, tr("has no address"), tr("set its src to an https:// address"))
    if scheme == "data":
        return Flaw(
            WARNING, tr("is not shown by Gmail and Outlook, as it is in the HTML"), tr("use an https:// address")
        )
    if scheme != "cid":
        flaw = find_link_flaw(picture.src)
    if flaw is None and picture.alt is None:
        return Flaw(WARNING, tr("has no alt text"), tr('add alt="...", or alt="" to a decoration'))
    return flaw


def _finding(about: str, url: str, where: str, flaw: Flaw | None) -> Iterator[MessageFinding]:
    if flaw is not None:
        yield MessageFinding(about, flaw.level, f"{show_url(url)} {flaw.found}", flaw.remedy, where)


def _web_flaw(url: str) -> Flaw | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid one
    except ValueError:
        return Flaw(PROBLEM, tr("is not a valid address"), tr("correct its host and port"))
    if not parts.hostname:
        return Flaw(PROBLEM, tr("has no host"), tr("add the host after //, also for clients without a value"))
    return _host_flaw(parts)


def _host_flaw(parts: SplitResult) -> Flaw | None:
    host = parts.hostname or ""
    is_address = ":" in host  # urlsplit has checked it
    if not is_address and not _HOST.fullmatch(host):
        return Flaw(PROBLEM, tr("has an invalid host"), tr("correct the host"))
    if not is_address and "." not in host.rstrip("."):
        return Flaw(WARNING, tr("has a host without a domain, which others cannot reach"), tr("add the domain"))
    if parts.scheme == "http":
        return Flaw(WARNING, tr("is not encrypted"), tr("use https://"))
    return None


def _mail_flaw(url: str) -> Flaw | None:
    """Check a mailto link. It may have no recipient (RFC 6068, section 2)."""
    recipients = url.partition(":")[2].partition("?")[0]
    if recipients and not all(re.fullmatch(r"[^@,]+(@|%40)[^@,]+", each) for each in recipients.split(",")):
        return Flaw(PROBLEM, tr("has an invalid email address"), tr("write mailto:NAME@DOMAIN"))
    return None
