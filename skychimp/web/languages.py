"""The texts of the pages in each language, and which one a browser asks for; pure."""

import re
from collections.abc import Mapping

DEFAULT = "en"

TEXTS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "unsubscribe": "Unsubscribe",
        "ask_all": "Stop all email from this sender to {address}?",
        "ask_topic": "Stop email about “{topic}” to {address}?",
        "stopped_all": "No more email from this sender goes to {address}.",
        "stopped_topic": "No more email about “{topic}” goes to {address}.",
        "more": "Choose what to get",
        "preferences": "Email preferences",
        "for": "For {address}.",
        "forgotten": "your address",
        "topics": "Topics",
        "save": "Save",
        "saved": "Saved.",
        "all": "All email",
        "pause": "Pause for 30 days",
        "stop": "Stop all email",
        "resume": "Get email again",
        "is_stopped": "You get no email from this sender.",
        "is_paused": "You get no email from this sender until {date}.",
        "is_active": "You get email from this sender.",
        "invalid_title": "This link is not valid",
        "invalid": "It may be incomplete or too old. Use the link in a newer email, or reply to the email.",
        "wait_title": "Please try again in a moment",
        "wait": "Nothing was changed.",
        "refused_title": "This request cannot be handled",
        "refused": "Open the link in the email again.",
    },
    "ru": {
        "unsubscribe": "Отписаться",
        "ask_all": "Больше не присылать письма этого отправителя на {address}?",
        "ask_topic": "Больше не присылать письма на тему «{topic}» на {address}?",
        "stopped_all": "Письма этого отправителя больше не приходят на {address}.",
        "stopped_topic": "Письма на тему «{topic}» больше не приходят на {address}.",
        "more": "Выбрать, что получать",
        "preferences": "Настройки рассылки",
        "for": "Для {address}.",
        "forgotten": "ваш адрес",
        "topics": "Темы",
        "save": "Сохранить",
        "saved": "Сохранено.",
        "all": "Все письма",
        "pause": "Приостановить на 30 дней",
        "stop": "Отписаться от всех писем",
        "resume": "Снова получать письма",
        "is_stopped": "Вы не получаете писем этого отправителя.",
        "is_paused": "Вы не получаете писем этого отправителя до {date}.",
        "is_active": "Вы получаете письма этого отправителя.",
        "invalid_title": "Ссылка недействительна",
        "invalid": "Возможно, она неполная или устарела. Откройте ссылку из нового письма или ответьте на письмо.",
        "wait_title": "Попробуйте ещё раз чуть позже",
        "wait": "Ничего не изменено.",
        "refused_title": "Запрос не может быть выполнен",
        "refused": "Откройте ссылку из письма ещё раз.",
    },
}
"""The parts in braces are filled in."""

MOST_CHARACTERS = 200
_RANGE = re.compile(r"\s*([a-z]{2,3})(?:-[a-z0-9-]*)?\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?", re.IGNORECASE)


def choose(accept_language: str) -> str:
    """Return the language of TEXTS that a browser likes best (RFC 9110, section 12.5.4)."""
    ranges = [_RANGE.fullmatch(part) for part in accept_language[:MOST_CHARACTERS].split(",")]
    liked = [(float(found[2] or 1), found[1].lower()) for found in ranges if found]
    known = [(quality, language) for quality, language in liked if language in TEXTS and quality > 0]
    return max(known, key=lambda each: each[0])[1] if known else DEFAULT  # the first one, if two are liked the same
