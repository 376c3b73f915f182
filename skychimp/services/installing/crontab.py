"""Write the line of the crontab that runs this installation."""

from skychimp.config.settings import Settings
from skychimp.services.installing.command import command_words, on_one_line
from skychimp.shell import command_line


def make_line(settings: Settings) -> str:
    """Return the line that sends due mailings every minute. Raises InvalidValue for a path that it cannot have."""
    command = on_one_line(command_line(*command_words(settings), "-q", "run"))
    escaped = command.replace("%", r"\%")  # a plain % ends the command (crontab(5))
    return f"* * * * * {escaped} >/dev/null"
