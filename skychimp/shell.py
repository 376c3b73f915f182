"""Quote the commands that are shown to a person, so that they can be pasted into a shell; pure."""

import shlex


def command(*words: object) -> str:
    """Return a `skychimp` command line with each word quoted for the shell."""
    return shlex.join(["skychimp", *map(str, words)])


def run_hint(*words: object) -> str:
    """Return the hint to run a `skychimp` command."""
    return f'run "{command(*words)}"'
