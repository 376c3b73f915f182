"""Make keys that sign emails with DKIM."""

from pathlib import Path

from skychimp import files
from skychimp.delivery.composing import dkim
from skychimp.delivery.composing.dkim import DkimKey
from skychimp.errors import Conflict, InvalidValue
from skychimp.translation import tr


def create_key_file(path: Path, *, domain: str, selector: str, rsa: bool) -> DkimKey:
    """Make a key and write it to a new file, which only its owner can read. Return the key.

    Raises Conflict if the file exists, and InvalidValue if it cannot be written.
    """
    key = DkimKey(domain, selector, dkim.make_key(rsa=rsa))
    try:
        files.write_file(path, dkim.to_pem(key.private), replace=False)
    except FileExistsError:
        raise Conflict(tr("{path} already exists", path=path), tr("use --out or --selector for another file")) from None
    except OSError as error:
        raise InvalidValue(
            tr("cannot write {path}: {strerror}", path=path, strerror=error.strerror), tr("use --out for another file")
        ) from None
    return key
