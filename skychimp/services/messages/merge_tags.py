"""Find the merge tags of other mailing tools in a text, where they would be sent as they are; pure."""

import re

_NAME = (
    "(?:(?:first|last|full|sur|nick)?[ _-]?name|[fl]name|e-?mail(?:[ _-]?address)?|company"
    "|unsubscribe(?:[ _-]?(?:url|link))?)"
)
"""What merge tags stand for. Tags in signs that other texts have too are found only with one of these names."""

_ANY_CASE = (
    r"%recipient[._]\w+%",
    r"%\w{0,40}unsubscribe\w{0,40}%",
    r"%%[A-Z_][\w -]*%%",
    rf"%{_NAME}%",
    r"\{\$[A-Z_]\w*\}",  # {$name}
    rf"(?<![{{$])\{{!?{_NAME}\}}(?!\}})",  # {FIRST_NAME}, {!firstname}
    r"\{contactfield=\w+\}",
    rf"\[\[\s*(?:(?:var|data):[^\[\]]*|{_NAME})\s*\]\]",
    rf"\[(?:subscriber:\w+|{_NAME},\s*fallback=[^\[\]]*)\]",
    rf"\$\[{_NAME}[^\[\]]*\]\$",
    rf"<<\s*{_NAME}\s*>>",
    rf"«\s*{_NAME}\s*»",
)
_CAPITALS = (
    r"\*\|[A-Z][A-Z0-9_:,. -]*\|\*",  # *|FNAME|*
    rf"\[{_NAME.upper()}\](?![(\[:])",  # [NAME], but not [NAME](https://example.org) in Markdown
)
_MERGE_TAG = re.compile("|".join((*_CAPITALS, f"(?i:{'|'.join(_ANY_CASE)})")))


def foreign_merge_tags(text: str) -> list[str]:
    """Return the merge tags of other tools in a text, each once."""
    return list(dict.fromkeys(_MERGE_TAG.findall(text)))
