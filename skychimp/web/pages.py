"""Render the pages as HTML without scripts; pure apart from reading the templates."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from skychimp.services.unsubscribing.preferences import Preferences
from skychimp.services.unsubscribing.recipients import Recipient
from skychimp.web.addresses import masked
from skychimp.web.languages import TEXTS

_TEMPLATES = Path(__file__).with_name("templates")

STYLE = Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))  # noqa: S704
_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

CONTENT_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""The Content-Security-Policy of the pages: their own style, and forms to this server."""


def unsubscribe_page(language: str, token: str, recipient: Recipient, *, is_done: bool) -> str:
    """Return the page that asks whether to unsubscribe, or says that it is done."""
    texts = TEXTS[language]
    text = texts[("stopped" if is_done else "ask") + ("_topic" if recipient.topic else "_all")]
    status = text.format(address=_address(language, recipient), topic=recipient.topic)
    return _render("unsubscribe.html", language, texts["unsubscribe"], status=status, token=token, is_done=is_done)


def preferences_page(language: str, recipient: Recipient, preferences: Preferences, *, is_saved: bool) -> str:
    """Return the page on which a person chooses what to get."""
    texts = TEXTS[language]
    return _render(
        "preferences.html",
        language,
        texts["preferences"],
        person=texts["for"].format(address=_address(language, recipient)),
        state=_state(language, preferences),
        topics=preferences.topics,
        is_stopped=preferences.is_stopped,
        is_paused=preferences.paused_until is not None,
        can_resume=preferences.can_resume,
        is_saved=is_saved,
    )


def error_page(language: str, kind: str) -> str:
    """Return a page about a request that failed: it is "invalid" or "refused", or has to "wait"."""
    texts = TEXTS[language]
    return _render("page.html", language, texts[f"{kind}_title"], text=texts[kind])


def _address(language: str, recipient: Recipient) -> str:
    return TEXTS[language]["forgotten"] if recipient.address is None else masked(recipient.address)


def _state(language: str, preferences: Preferences) -> str:
    texts = TEXTS[language]
    if preferences.paused_until is not None:
        date = f"{preferences.paused_until:%d.%m.%Y}" if language == "ru" else f"{preferences.paused_until:%Y-%m-%d}"
        return texts["is_paused"].format(date=date)
    return texts["is_stopped" if preferences.is_stopped else "is_active"]


def _render(template: str, language: str, title: str, **values: Any) -> str:
    shown = {"language": language, "title": title, "texts": TEXTS[language], "style": STYLE}
    return _environment().get_template(template).render(shown | values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
