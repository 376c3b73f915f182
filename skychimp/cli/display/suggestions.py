"""Suggest what a person may have meant by a command or a value that does not exist."""

import re
from typing import Any

from skychimp.cli.registry import COMMANDS, load_command
from skychimp.shell import command as command_text
from skychimp.text import NO_TEXT, did_you_mean, with_or
from skychimp.translation import Phrase, tr

MAX_SUGGESTIONS = 3
MIN_SIMILARITY = 0.7


def suggest_command(group: Any, name: str) -> Phrase:
    """Return `did you mean X?` for a mistyped command of a group, "" if nothing is like it.

    At the top level, `import` means `clients import` and others that are called so.
    """
    if suggestion := did_you_mean(name, group.commands, most=MAX_SUGGESTIONS, cutoff=MIN_SIMILARITY):
        return suggestion
    found = [command_text(each, name) for each in COMMANDS if name in getattr(load_command(each), "commands", {})]
    if not set(COMMANDS) <= set(group.commands) or not 1 <= len(found) <= MAX_SUGGESTIONS:
        return NO_TEXT
    return tr("did you mean {words}?", words=with_or(found))


def suggest_choice(message: str) -> Phrase:
    """Return `did you mean X?` for an error that lists the valid values: `"editer" is not one of "user", "editor"`."""
    if match := re.search(r'"([^"]+)" is not one of (.+)', message):
        return did_you_mean(match[1], re.findall(r'"([^"]+)"', match[2]))
    return NO_TEXT
