"""Check the subject, the size and the words of an email; pure."""

import re
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import unquote

from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.checks.links import scheme_of, show_url
from skychimp.services.messages.checks.shown_parts import ShownPart
from skychimp.services.messages.merge_tags import foreign_merge_tags
from skychimp.services.operations.findings import PROBLEM, WARNING
from skychimp.text import count_of
from skychimp.translation import tr

MAX_SUBJECT_LENGTH = 70
"""Characters of a subject that most phones show."""
MAX_HTML_SIZE = 102_000
"""Bytes of an HTML part that Gmail shows. It hides the rest behind a link, and the unsubscribe link with it."""
MIN_WORDS = 10
"""A part with fewer words is too short to compare."""
SHOWN_LINKS = 3

_WORD = re.compile(r"[^\W\d_]{3,}")
_URL = re.compile(r"(?:https?|mailto):\S+", re.IGNORECASE)


def check_subject(subject: str) -> Iterator[MessageFinding]:
    """Yield what is wrong with a rendered subject."""
    if not subject.strip():
        remedy = tr('add other words, or | default("...", true) to a placeholder')
        yield MessageFinding("subject", PROBLEM, tr("the subject is empty"), remedy, "subject")
    elif len(subject) > MAX_SUBJECT_LENGTH:
        found = f"the subject has {len(subject):,} characters, and phones cut it"
        remedy = tr(
            "use at most {max_subject_length} characters, or begin with what matters",
            max_subject_length=MAX_SUBJECT_LENGTH,
        )
        yield MessageFinding("subject", WARNING, found, remedy, "subject")


def check_size(html: str, largest: Iterable[str]) -> Iterator[MessageFinding]:
    """Yield a finding if Gmail cuts the HTML part. `largest` is that part for clients with the longest values."""
    remedy = tr("make the HTML part shorter: Gmail hides the end, with the unsubscribe link")
    if (size := _size(html)) > MAX_HTML_SIZE:
        yield MessageFinding(
            "size", PROBLEM, tr("the HTML part has {kilobytes}", kilobytes=_kilobytes(size)), remedy, "HTML"
        )
    elif (size := max(map(_size, largest), default=0)) > MAX_HTML_SIZE:
        found = f"the HTML part has {_kilobytes(size)} for a client with the longest values"
        yield MessageFinding("size", WARNING, found, remedy, "HTML")


def check_merge_tags(page: ShownPart, part: str) -> Iterator[MessageFinding]:
    """Yield the merge tags of other tools, in what readers see of a part and in its links."""
    remedy = tr('use {{ client.name }} or {{ client.email }}, or run "skychimp help templates"')
    lines = list(enumerate(page.text.split("\n"), 1))
    seen = set()
    for line, text in (*lines, *((link.line, link.url) for link in page.links)):
        for tag in foreign_merge_tags(text):
            if tag not in seen:
                seen.add(tag)
                found = f"{show_url(tag)} is a merge tag of another program"
                yield MessageFinding(
                    tr("merge tag"), PROBLEM, found, remedy, tr("{part} line {line}", part=part, line=line)
                )


def check_parts_agree(text: ShownPart, html: ShownPart) -> Iterator[MessageFinding]:
    """Yield a finding for each part that has not the links, or most of the words, of the other one."""
    for part, page, other_part, other in (("text", text, "HTML", html), ("HTML", html, "text", text)):
        known = {_same_link(link.url) for link in other.links}
        links = (link.url for link in page.links if scheme_of(link.url) in ("http", "https"))
        missing = {url: None for url in links if _same_link(url) not in known and url not in other.text}
        if missing:
            found = f"the {other_part} part lacks {_some_links(missing)}"
            yield MessageFinding(
                "parts", WARNING, found, tr("add it to the {other_part} part", other_part=other_part), other_part
            )
        words, other_words = _words(page.text), _words(other.text)
        if len(words) >= MIN_WORDS and len(words & other_words) < len(words) / 2:
            found = f"the {other_part} part lacks most words of the {part} part"
            yield MessageFinding("parts", WARNING, found, tr("write the same in both parts"), other_part)


def _some_links(urls: Collection[str]) -> str:
    shown = ", ".join(map(show_url, list(urls)[:SHOWN_LINKS]))
    more = f" and {len(urls) - SHOWN_LINKS:,} more" if len(urls) > SHOWN_LINKS else ""
    return f"{count_of(len(urls), 'link')}: {shown}{more}"


def _same_link(url: str) -> str:
    """Return what is the same for two spellings of a link."""
    return unquote(url).rstrip("/")


def _words(text: str) -> set[str]:
    return set(map(str.casefold, _WORD.findall(_URL.sub(" ", text))))


def _size(html: str) -> int:
    return len(html.encode("utf-8", "surrogatepass"))


def _kilobytes(size: int) -> str:
    return f"{size / 1000:,.0f} kB"
