"""Measure how well returned mail is understood, on public collections of it.

    python tests/bench/bounces.py FOLDER...               right, missed and false, by collection and class
    python tests/bench/bounces.py FOLDER... --show        also each email that is missed or false
    python tests/bench/bounces.py FOLDER... --half tuned  only the half of the emails that patterns may be tuned on

A folder is an unpacked copy of Sisimai for Perl (p5-sisimai), flufl.bounce, PHP-Bounce-Handler or EmailEngine, with
the name of its repository. The labels of the first two come from their own tests. `bounce_labels.csv` has our labels
for the others, and those where the text of an email says something else than the label of its collection.
`--their-labels` leaves the latter out. The collections are not part of this project.

The classes are what a report should do to an address:

- hard: it is marked as bad. A hard bounce is *missed* if it is anything else here.
- soft: it is at most scored: full, refused by policy, not reached. It is *false* if it counts as hard here.
- doubt: a label that says less than the text, such as Sisimai's "filtered". It is only counted.
- complaint and automatic: must be read as such. Nothing of them may count as hard.
- none: not hard, whatever it is.

The halves are by a hash of the file's name, so that patterns that are tuned on one half can be checked on the other.
"""

import argparse
import csv
import re
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from skychimp.delivery.inbound import reading
from skychimp.delivery.inbound.reading import IncomingMail, Kind
from skychimp.delivery.inbound.severity import Severity

OUR_LABELS = Path(__file__).with_name("bounce_labels.csv")
CLASSES = ("hard", "soft", "doubt", "complaint", "automatic", "none")
HEADINGS = ("collection", "class", "emails", "right", "missed", "false", "hard here")
ROW = "{:<22}{:<12}{:>8}{:>8}{:>8}{:>8}{:>11}"

_SISIMAI_CASE = re.compile(r"'(\d+)'\s*=>\s*\[((?:\[[^\]]*\],?\s*)+)\]")
_SISIMAI_RESULT = re.compile(r"\['([\d.]*)',\s*'\d*',\s*'(\w+)',\s*(\d)")
_SISIMAI_CLASSES = {"filtered": "doubt", "suspend": "doubt", "feedback": "complaint", "vacation": "automatic"}
_FLUFL_CASE = re.compile(r"\(\s*'[\w.]+',\s*'([\w.]+\.txt)',\s*\[[^\]]*\],\s*(True|False)")


class Sample(NamedTuple):
    """An email of a collection. `hard` is how many of its failures are hard, None if that is not known."""

    name: str
    data: bytes
    label: str
    hard: int | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser.add_argument("--half", choices=("tuned", "other"), help="only the emails of one half")
    parser.add_argument(
        "--their-labels", action="store_true", help="the labels of the collections, where they have any"
    )
    parser.add_argument("--show", action="store_true", help="show what is missed, false or in doubt")
    options = parser.parse_args()
    print(ROW.format(*HEADINGS))
    read, seconds = 0, 0.0
    for folder in options.folders:
        collection = _samples(folder, their_labels=options.their_labels)
        samples = [each for each in collection if options.half in (None, _half(each.name))]
        started = time.process_time()
        mails = [reading.read(each.data) for each in samples]
        read, seconds = read + len(mails), seconds + time.process_time() - started
        _print_figures(folder.name, list(zip(samples, mails, strict=True)), show=options.show)
    print(f"{read} emails read, {read / seconds:,.0f} per second of CPU time")


def _half(name: str) -> str:
    return ("tuned", "other")[zlib.crc32(name.encode()) & 1]


def _samples(folder: Path, *, their_labels: bool) -> Iterator[Sample]:
    """Yield the emails of a collection."""
    with OUR_LABELS.open(newline="") as file:
        ours = {row["file"]: row["label"] for row in csv.DictReader(file)}
    if (folder / "set-of-emails").is_dir():
        collection = _sisimai(folder)
    elif (folder / "tests/test_detectors.py").is_file():
        collection = _flufl(folder)
    else:
        collection = _unlabelled(folder, ours)
    for each in collection:
        is_ours = each.name in ours and not their_labels
        yield each._replace(label=ours[each.name], hard=None) if is_ours else each


def _sisimai(folder: Path) -> Iterator[Sample]:
    """Yield the emails that Sisimai's own tests name. Each recipient has a status, a reason and whether it is hard."""
    for test in sorted((folder / "t").glob("*.t")):
        system = re.sub(r"^\d+-", "", test.stem)
        for number, results in _SISIMAI_CASE.findall(test.read_text(errors="replace")):
            name = f"{system}-{number}.eml"
            path = folder / "set-of-emails/maildir/bsd" / name
            found = _SISIMAI_RESULT.findall(results)
            if found and path.is_file():
                yield _sisimai_sample(name, path.read_bytes(), found)


def _sisimai_sample(name: str, data: bytes, results: list[tuple[str, str, str]]) -> Sample:
    # A status of 4.x.x is temporary, whatever it is about.
    hard = sum(is_hard == "1" and not status.startswith("4") for status, _, is_hard in results)
    special = next((_SISIMAI_CLASSES[reason] for _, reason, _ in results if reason in _SISIMAI_CLASSES), "soft")
    return Sample(name, data, "hard" if hard else special, hard if special == "soft" else None)


def _flufl(folder: Path) -> Iterator[Sample]:
    """Yield the emails of flufl.bounce. It has no word for a full mailbox, so its failures are in doubt."""
    for name, is_temporary in dict(_FLUFL_CASE.findall((folder / "tests/test_detectors.py").read_text())).items():
        path = folder / "tests/data" / name
        if path.is_file():
            yield Sample(name, path.read_bytes(), "soft" if is_temporary == "True" else "doubt")


def _unlabelled(folder: Path, ours: dict[str, str]) -> Iterator[Sample]:
    """Yield the emails of a folder that we have labels for."""
    for path in sorted(folder.rglob("*.*")):
        name = f"{folder.name}/{path.relative_to(folder)}"
        if name in ours:
            yield Sample(name, path.read_bytes(), ours[name])


def _print_figures(collection: str, results: list[tuple[Sample, IncomingMail]], *, show: bool) -> None:
    for label in CLASSES:
        same = [(sample, mail) for sample, mail in results if sample.label == label]
        verdicts = Counter(_verdict(sample, mail) for sample, mail in same)
        numbers = (verdicts["right"], verdicts["missed"], verdicts["false"], sum(_hard(mail) > 0 for _, mail in same))
        if same:
            print(ROW.format(collection, label, len(same), *numbers))
        for sample, mail in same if show else ():
            if (verdict := _verdict(sample, mail)) != "right" or (label == "doubt" and _hard(mail)):
                _show(verdict, sample, mail)


def _verdict(sample: Sample, mail: IncomingMail) -> str:
    hard = _hard(mail)
    if sample.label == "doubt":
        return "right"
    if sample.label == "hard":
        expected = sample.hard or max(1, hard)
        return "right" if hard == expected else "missed" if hard < expected else "false"
    expected_kind = {"complaint": Kind.COMPLAINT, "automatic": Kind.AUTOMATIC}.get(sample.label, mail.kind)
    return "false" if hard else "right" if mail.kind == expected_kind else "missed"


def _hard(mail: IncomingMail) -> int:
    return sum(failure.severity == Severity.HARD for failure in mail.failures)


def _show(verdict: str, sample: Sample, mail: IncomingMail) -> None:
    print(f"  {verdict} {sample.name} ({sample.label} {sample.hard or ''}): {mail.kind}", file=sys.stderr)
    for failure in mail.failures:
        print(f"    {failure.severity.name} {failure.recipient!r} {failure.reply[:300]!r}", file=sys.stderr)


if __name__ == "__main__":
    main()
