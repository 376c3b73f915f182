"""Name the HTML file in an error about one of its lines."""

from collections.abc import Iterator
from contextlib import contextmanager

from skychimp.translation import tr


@contextmanager
def named_in_errors(file: str | None) -> Iterator[None]:
    """Name a file in the error that its HTML is not nested properly. Without a file, or with stdin, change nothing."""
    from skychimp.delivery.composing.layouts.markup import NotNested

    try:
        yield
    except NotNested as error:
        if file in (None, "-"):
            raise
        raise NotNested(tr("{file}: {message}", file=file, message=error.message), error.hint) from None
