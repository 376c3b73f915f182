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
from skychimp.services.messages import messages, online_links, rendering, spamassassin, variants
from skychimp.services.messages.checks import links, texts
from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.messages.checks.shown_parts import ShownPart, read_html, read_text
from skychimp.services.messages.checks.texts import HTML, SUBJECT, TEXT
from skychimp.services.messages.rendering import Preview, Samples
from skychimp.services.operations.findings import PROBLEM, WARNING
from skychimp.store.database import Store
from skychimp.text import with_and
from skychimp.translation import Phrase, tr

SAMPLE_POSTAL_ADDRESS = "Example Ltd, 1 Main Street, London"
UNSUBSCRIBING = tr("unsubscribing")

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
    rendered: dict[str | None, Samples] = {}
    for variant in (None, *variants.values_in_use(store, message_id)):
        try:
            rendered[variant] = rendering.render_samples(
                store, actor, message_id, variant, blog_url=blog_url, extras=extras, language=settings.mail.language
            )
        except InvalidValue as error:
            yield MessageFinding(tr("content"), PROBLEM, error.message, error.hint, variant=variant)
    if None not in rendered:
        return
    is_transactional = _is_transactional(store, message_id)
    if not is_transactional:
        yield from _check_setup(store, actor, message_id, settings)
    for variant, samples in rendered.items():
        found = [*check_samples(samples), *(() if is_transactional else check_unsubscribing(samples.full, extras))]
        yield from (replace(finding, variant=variant) for finding in found)
    if shared.find_restriction() is None:
        sender = settings.mail.sender or "check@localhost"
        email = rendering.compose_preview(
            store,
            actor,
            message_id,
            sender=sender,
            blog_url=blog_url,
            extras=extras._replace(is_bulk=True),
            language=settings.mail.language,
        )
        if verdict := spamassassin.check_spam(email, is_online=is_online):
            yield verdict
    if is_online:
        own = online_links.Own(settings.web.url or "", extras.web_link.removesuffix(GAP))
        yield from online_links.check_online(_all_web_links(rendered), own)


def check_samples(samples: Samples) -> Iterator[MessageFinding]:
    """Yield what is wrong with a rendered message; pure."""
    yield from _check_sample(samples.full)
    for finding in _check_sample(samples.minimal):
        yield replace(finding, where=tr("{place}, for a client without values", place=finding.where))
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
        where = with_and(without_link)
        yield MessageFinding(UNSUBSCRIBING, WARNING, tr("the body has no unsubscribe link"), remedy, where)
    if without_address:
        remedy = tr("add {{ postal_address }}: some countries require it")
        where = with_and(without_address)
        yield MessageFinding(UNSUBSCRIBING, WARNING, tr("the body has no postal address"), remedy, where)


def _check_sample(sample: Preview) -> Iterator[MessageFinding]:
    yield from texts.check_subject(sample.subject)
    pages = _pages(sample)
    yield from texts.check_merge_tags(read_text(sample.subject), SUBJECT)
    for part, page in pages.items():
        yield from texts.check_merge_tags(page, part)
        yield from links.check_links(page, part)
    if HTML in pages:
        yield from texts.check_parts_agree(pages[TEXT], pages[HTML])


def _pages(sample: Preview) -> Mapping[Phrase, ShownPart]:
    """Return the parts as they are read, by name: the HTML part first, as most people read that."""
    html = {} if sample.html is None else {HTML: read_html(sample.html)}
    return html | {TEXT: read_text(sample.text)}


def _web_links(sample: Preview) -> Mapping[str, str]:
    """Return where each link to the web is, by URL."""
    found: dict[str, str] = {}
    for part, page in _pages(sample).items():
        found = links.web_links(page, part) | found
    return found


def _all_web_links(rendered: Mapping[str | None, Samples]) -> Mapping[str, str]:
    """Return where each link to the web is, by URL, in a message and its variants."""
    found: dict[str, str] = {}
    for variant, samples in rendered.items():
        for url, where in _web_links(samples.full).items():
            place = where if variant is None else tr("variant {variant}, {place}", variant=variant, place=where)
            found.setdefault(url, place)
    return found


def _check_setup(store: Store, actor: Actor, message_id: int, settings: Settings) -> Iterator[MessageFinding]:
    """Yield what `mailings create` would say about unsubscribing."""
    try:
        for gap in unsubscribing.find_gaps(store, actor, message_id, settings):
            yield MessageFinding(UNSUBSCRIBING, WARNING, gap.found, gap.remedy)
    except InvalidValue as error:
        yield MessageFinding(UNSUBSCRIBING, PROBLEM, error.message, error.hint)


def _is_transactional(store: Store, message_id: int) -> bool:
    """Return whether all mailings of a message are transactional, and there is one."""
    with store.read() as db:
        query = select(_M.c.transactional).where(_M.c.message_id == message_id, _M.c.deleted_at.is_(None)).distinct()
        return db.scalars(query).all() == [True]


def _without_repeats(findings: Iterable[MessageFinding]) -> Iterator[MessageFinding]:
    """Yield the findings, and of those that say the same about the same only the first."""
    seen = set()
    for finding in findings:
        if (key := (finding.about, finding.found, finding.variant)) not in seen:
            seen.add(key)
            yield finding
