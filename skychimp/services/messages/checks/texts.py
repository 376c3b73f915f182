"""Check the subject, the size and the words of an email; pure."""

import re
from collections.abc import Collection, Iterable, Iterator
from urllib.parse import unquote

from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.checks.links import line_of, scheme_of, show_url
from skychimp.services.messages.checks.shown_parts import ShownPart
from skychimp.services.messages.merge_tags import foreign_merge_tags
from skychimp.services.operations.findings import PROBLEM, WARNING
from skychimp.text import count_of
from skychimp.translation import Phrase, tr, verbatim

MAX_SUBJECT_LENGTH = 70
"""Characters of a subject that most phones show."""
MAX_HTML_SIZE = 102_000
"""Bytes of an HTML part that Gmail shows. It hides the rest behind a link, and the unsubscribe link with it."""
MIN_WORDS = 10
"""A part with fewer words is too short to compare."""
SHOWN_LINKS = 3

HTML, TEXT = verbatim("HTML"), tr("text")
"""The names of the parts."""
SUBJECT, SIZE, PARTS = tr("subject"), tr("size"), tr("parts")

_WORD = re.compile(r"[^\W\d_]{3,}")
_URL = re.compile(r"(?:https?|mailto):\S+", re.IGNORECASE)


def check_subject(subject: str) -> Iterator[MessageFinding]:
    """Yield what is wrong with a rendered subject."""
    if not subject.strip():
        remedy = tr('add other words, or | default("...", true) to a placeholder')
        yield MessageFinding(SUBJECT, PROBLEM, tr("the subject is empty"), remedy, SUBJECT)
    elif len(subject) > MAX_SUBJECT_LENGTH:
        found = tr("the subject has {length:,} characters, and phones cut it", length=len(subject))
        remedy = tr(
            "use at most {most} characters, or begin with what matters",
            most=MAX_SUBJECT_LENGTH,
        )
        yield MessageFinding(SUBJECT, WARNING, found, remedy, SUBJECT)


def check_size(html: str, largest: Iterable[str]) -> Iterator[MessageFinding]:
    """Yield a finding if Gmail cuts the HTML part. `largest` is that part for clients with the longest values."""
    remedy = tr("make the HTML part shorter: Gmail hides the end, with the unsubscribe link")
    if (size := _size(html)) > MAX_HTML_SIZE:
        found = tr("the HTML part has {kilobytes:,} kB", kilobytes=_kilobytes(size))
        yield MessageFinding(SIZE, PROBLEM, found, remedy, HTML)
    elif (size := max(map(_size, largest), default=0)) > MAX_HTML_SIZE:
        found = tr(
            "the HTML part has {kilobytes:,} kB for a client with the longest values", kilobytes=_kilobytes(size)
        )
        yield MessageFinding(SIZE, WARNING, found, remedy, HTML)


def check_merge_tags(page: ShownPart, part: str) -> Iterator[MessageFinding]:
    """Yield the merge tags of other tools, in what readers see of a part and in its links."""
    remedy = tr('use {{ client.name }} or {{ client.email }}, or run "skychimp help templates"')
    lines = list(enumerate(page.text.split("\n"), 1))
    seen = set()
    for line, text in (*lines, *((link.line, link.url) for link in page.links)):
        for tag in foreign_merge_tags(text):
            if tag not in seen:
                seen.add(tag)
                found = tr("{tag} is a merge tag of another program", tag=show_url(tag))
                yield MessageFinding(tr("merge tag"), PROBLEM, found, remedy, line_of(part, line))


def check_parts_agree(text: ShownPart, html: ShownPart) -> Iterator[MessageFinding]:
    """Yield a finding for each part that has not the links, or most of the words, of the other one."""
    for part, page, other_part, other in ((TEXT, text, HTML, html), (HTML, html, TEXT, text)):
        known = {_same_link(link.url) for link in other.links}
        links = (link.url for link in page.links if scheme_of(link.url) in ("http", "https"))
        missing = {url: None for url in links if _same_link(url) not in known and url not in other.text}
        if missing:
            found = tr("the {part} part lacks {links}", part=other_part, links=_some_links(missing))
            yield MessageFinding(PARTS, WARNING, found, tr("add it to the {part} part", part=other_part), other_part)
        words, other_words = _words(page.text), _words(other.text)
        if len(words) >= MIN_WORDS and len(words & other_words) < len(words) / 2:
            found = tr("the {part} part lacks most words of the {other_part} part", part=other_part, other_part=part)
            yield MessageFinding(PARTS, WARNING, found, tr("write the same in both parts"), other_part)


def _some_links(urls: Collection[str]) -> Phrase:
    links, shown = count_of(len(urls), "link"), ", ".join(map(show_url, list(urls)[:SHOWN_LINKS]))
    if len(urls) <= SHOWN_LINKS:
        return tr("{links}: {shown}", links=links, shown=shown)
    return tr("{links}: {shown} and {more:,} more", links=links, shown=shown, more=len(urls) - SHOWN_LINKS)


def _same_link(url: str) -> str:
    """Return what is the same for two spellings of a link."""
    return unquote(url).rstrip("/")


def _words(text: str) -> set[str]:
    return set(map(str.casefold, _WORD.findall(_URL.sub(" ", text))))


def _size(html: str) -> int:
    return len(html.encode("utf-8", "surrogatepass"))


def _kilobytes(size: int) -> int:
    return round(size / 1000)
