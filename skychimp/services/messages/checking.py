"""Check a message: its links, pictures, size, words and unsubscribe link, and what a spam filter says."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from sqlalchemy import select

from skychimp.config import shared
from skychimp.config.settings import Settings
from skychimp.delivery.composing import settings_extras
from skychimp.delivery.composing.extras import GAP, Extras, sample_link
from skychimp.errors import InvalidValue
from skychimp.models import tables
from skychimp.permissions import Actor
from skychimp.services.mailings import unsubscribing
from skychimp.services.messages import messages, online_links, rendering, spamassassin
from skychimp.services.messages.checks import links, texts
from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.checks.shown_parts import ShownPart, read_html, read_text
from skychimp.services.messages.rendering import Preview, Samples
from skychimp.services.operations.findings import PROBLEM, WARNING
from skychimp.store.database import Store
from skychimp.translation import tr

SAMPLE_POSTAL_ADDRESS = "Example Ltd, 1 Main Street, London"
HTML, TEXT = "HTML", "text"
"""The names of the parts."""

_M = tables.mailing


def check(
    store: Store, actor: Actor, message_id: int, settings: Settings, *, is_online: bool = False
) -> Iterator[MessageFinding]:
    """Return the findings as they are made, each once. Nothing is sent. Raises NotFound.

    With `is_online`, its links are asked for. SpamAssassin is not started for a restricted caller of a shared
    installation, whose PATH could name another program.
    """
    messages.show(store, actor, message_id)
    return _without_repeats(_check(store, actor, message_id, settings, is_online=is_online))


def _check(
    store: Store, actor: Actor, message_id: int, settings: Settings, *, is_online: bool
) -> Iterator[MessageFinding]:
    extras, blog_url = settings_extras.make_sample(settings), settings.blog.url
    if not extras.postal_address:
        extras = extras._replace(postal_address=SAMPLE_POSTAL_ADDRESS)
    try:
        samples = rendering.render_samples(store, actor, message_id, blog_url=blog_url, extras=extras)
    except InvalidValue as error:
        yield MessageFinding("content", PROBLEM, error.message, error.hint)
        return
    yield from check_samples(samples)
    if not _is_transactional(store, message_id):
        yield from _check_setup(store, actor, message_id, settings)
        yield from check_unsubscribing(samples.full, extras)
    if shared.find_restriction() is None:
        sender = settings.mail.sender or "check@localhost"
        email = rendering.compose_preview(
            store, actor, message_id, sender=sender, blog_url=blog_url, extras=extras._replace(is_bulk=True)
        )
        if verdict := spamassassin.check_spam(email, is_online=is_online):
            yield verdict
    if is_online:
        own = online_links.Own(settings.web.url or "", extras.web_link.removesuffix(GAP))
        yield from online_links.check_online(_web_links(samples.full), own)


def check_samples(samples: Samples) -> Iterator[MessageFinding]:
    """Yield what is wrong with a rendered message; pure."""
    yield from _check_sample(samples.full)
    for finding in _check_sample(samples.minimal):
        yield replace(finding, where=f"{finding.where}, for a client without values")
    if samples.full.html is not None:
        yield from texts.check_size(samples.full.html, [each.html or "" for each in samples.largest])


def check_unsubscribing(sample: Preview, extras: Extras) -> Iterator[MessageFinding]:
    """Yield a finding for each part of a bulk message without the unsubscribe link or the postal address; pure.

    `extras` has those of the sample.
    """
    pages = _pages(sample)
    link, address = sample_link(extras), " ".join(extras.postal_address.split())
    without_link = [
        part for part, page in pages.items() if all(each.url != link for each in page.links) and link not in page.text
    ]
    without_address = [part for part, page in pages.items() if address not in " ".join(page.text.split())]
    if without_link:
        remedy = tr("add {{ unsubscribe_url }}, in Markdown as [Unsubscribe]({{ unsubscribe_url }})")
        where = " and ".join(without_link)
        yield MessageFinding("unsubscribing", WARNING, tr("the body has no unsubscribe link"), remedy, where)
    if without_address:
        remedy = tr("add {{ postal_address }}: some countries require it")
        where = " and ".join(without_address)
        yield MessageFinding("unsubscribing", WARNING, tr("the body has no postal address"), remedy, where)


def _check_sample(sample: Preview) -> Iterator[MessageFinding]:
    yield from texts.check_subject(sample.subject)
    pages = _pages(sample)
    yield from texts.check_merge_tags(read_text(sample.subject), "subject")
    for part, page in pages.items():
        yield from texts.check_merge_tags(page, part)
        yield from links.check_links(page, part)
    if HTML in pages:
        yield from texts.check_parts_agree(pages[TEXT], pages[HTML])


def _pages(sample: Preview) -> Mapping[str, ShownPart]:
    """Return the parts as they are read, by name: the HTML part first, as most people read that."""
    html = {} if sample.html is None else {HTML: read_html(sample.html)}
    return html | {TEXT: read_text(sample.text)}


def _web_links(sample: Preview) -> Mapping[str, str]:
    """Return where each link to the web is, by URL."""
    found: dict[str, str] = {}
    for part, page in _pages(sample).items():
        found = links.web_links(page, part) | found
    return found


def _check_setup(store: Store, actor: Actor, message_id: int, settings: Settings) -> Iterator[MessageFinding]:
    """Yield what `mailings create` would say about unsubscribing."""
    try:
        for warning in unsubscribing.check_message(store, actor, message_id, settings):
            found, _, remedy = warning.partition(": ")
            yield MessageFinding("unsubscribing", WARNING, found, remedy)
    except InvalidValue as error:
        yield MessageFinding("unsubscribing", PROBLEM, error.message, error.hint)


def _is_transactional(store: Store, message_id: int) -> bool:
    """Return whether all mailings of a message are transactional, and there is one."""
    with store.read() as db:
        query = select(_M.c.transactional).where(_M.c.message_id == message_id, _M.c.deleted_at.is_(None)).distinct()
        return db.scalars(query).all() == [True]


def _without_repeats(findings: Iterable[MessageFinding]) -> Iterator[MessageFinding]:
    """Yield the findings, and of those that say the same about the same only the first."""
    seen = set()
    for finding in findings:
        if (key := (finding.about, finding.found)) not in seen:
            seen.add(key)
            yield finding
