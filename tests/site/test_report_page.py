"""Test that the page of a report is self-contained, valid and safe, and that its plots are correct."""

import re
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from xml.etree import ElementTree
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skychimp.models import DeliveryState, MailingStatus, OccurrenceState, Outcome
from skychimp.return_rates import ReturnCounts
from skychimp.services.reporting import returns
from skychimp.services.reporting.reports import DomainReport, OccurrenceReport, RatePoint, ReplyGroup, Report
from skychimp.site import reports as report_page
from skychimp.translation import in_language, verbatim

NINE = datetime(2026, 1, 1, 9, tzinfo=UTC)
RATES = returns.report_rates(ReturnCounts(sent=997, refused=3, bounced=22, complaints=1))
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>\x1b[31m\u202eevil & co'
VOID = {"meta", "link", "img", "br", "rect", "line"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data


def counts(**some: int) -> dict[str, int]:
    return {str(state): some.get(state, 0) for state in DeliveryState}


def point(minute: int, **some: int) -> RatePoint:
    return RatePoint(NINE + timedelta(minutes=minute), 60, {str(one): some.get(one, 0) for one in Outcome})


def make_report(text: str = HOSTILE) -> Report:
    occurrence = OccurrenceReport(
        id=1,
        due_at=NINE,
        state=OccurrenceState.FINISHED,
        subject=text,
        opened_at=NINE,
        finished_at=NINE + timedelta(minutes=3, seconds=1.7),
        deadline=NINE,
        deliveries=1000,
        attempts=1001,
        counts=counts(sent=998, failed=1, claimed=1),
        rate=[point(0, sent=600, failed=1), point(1, sent=300, deferred=60), point(2, sent=39)],
        peak=12.5,
        returned={"bounced": 1},
        rates=RATES,
    )
    group = ReplyGroup(Outcome.FAILED, "rcpt", 550, "5.1.1", text, 1, verbatim("no such mailbox"), verbatim("ask"))
    return Report(
        id=7,
        subject=text,
        owner="ada@skychimp.test",
        status=MailingStatus.RUNNING,
        disabled=True,
        as_of=NINE,
        deliveries=1000,
        attempts=1001,
        counts=occurrence.counts,
        tries={1: 999, 2: 1},
        occurrences=[occurrence],
        replies=[group],
        domains=[DomainReport("one.example", 1000, occurrence.counts), DomainReport("", 1, counts(sent=1))],
        returned={"bounced": 1},
        rates=RATES,
    )


def test_page_shows_rates_beside_the_published_limits() -> None:
    text = " ".join(Page(report_page.render_report(make_report(), "UTC")).text.split())

    assert "Came back after sending: 1 bounced" in text
    for words in (
        "bounces2.5 % (25 of 1,000 emails)5 %10 %Amazon SES",
        "complaints0.1 % (1 of 997 emails)0.1 %0.3 %Gmail",
    ):
        assert words in text


def test_page_in_russian() -> None:
    with in_language("ru"):
        page = Page(report_page.render_report(make_report(), "Europe/Berlin"))
    text = " ".join(page.text.split())
    for expected in (
        "Рассылка 7, владелец ada@skychimp.test, running, выключена", "Письма: 1 000, попытки: 1 001", "(другие)",
        "Вернулось после отправки: 1 bounced", "Срок 2026-01-01 10:00", "998 sent", "Часовой пояс: Europe/Berlin.",
    ):  # fmt: skip
        assert expected in text
    assert ("html", {"lang": "ru"}) in page.elements
    assert ("html", {"lang": "en"}) in Page(report_page.render_report(make_report(), "UTC")).elements


def test_page_is_self_contained_and_runs_nothing() -> None:
    page = Page(report_page.render_report(make_report(), "Europe/Berlin"))

    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {"script", "img", "link", "iframe", "object", "use", "a", "image"}
    for _, attributes in page.elements:
        assert not {name for name in attributes if name.startswith("on")} | attributes.keys() & {"src", "href"}
    policy = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert not re.search(r"url\(|@import|https?://", report_page.render_report(make_report("plain"), "UTC"))


def test_page_shows_all_figures() -> None:
    text = " ".join(Page(report_page.render_report(make_report(), "Europe/Berlin")).text.split())

    for expected in (
        "Emails: 1,000, attempts: 1,001", "Mailing 7", "disabled", "998", "99.8 %", "Due 2026-01-01 10:00", "0:03:02",
        "550 5.1.1", "no such mailbox", "one.example", "(others)", "Times are in Europe/Berlin",
        '"><script>alert(1)</script><img src=x onerror=alert(1)>\\u001b[31m\\u202eevil & co',
    ):  # fmt: skip
        assert expected in text
    assert not {"\x1b", "\u202e"} & set(text)


@given(st.text(st.characters()))
def test_no_text_breaks_the_page(text: str) -> None:
    page = Page(report_page.render_report(make_report(text), "UTC"))

    assert page.open == []
    assert "script" not in {tag for tag, _ in page.elements}
    report_page.render_report(make_report(text), "UTC").encode()


def test_plots_show_the_rate() -> None:
    page = report_page.render_report(make_report(), "UTC")
    plots = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    (plot,) = [svg for svg in plots if svg.get("role") == "img"]
    bars = [(rect.get("class"), float(rect.get("height") or 0)) for rect in plot.iter("rect")]

    assert [kind for kind, _ in bars] == ["sent", "failed", "sent", "deferred", "sent"]
    heights = [height for _, height in bars]
    assert heights[0] == max(heights)
    assert heights[2] == pytest.approx(heights[0] / 2, abs=0.02)
    labels = re.findall(r'<div class="(?:rates|times)">(.*)</div>', page)
    assert [re.findall("<span>(.*?)</span>", each) for each in labels] == [
        ["0", "10", "20"], ["09:00:00", "09:00:45", "09:01:30", "09:02:15", "09:03:00"],
    ]  # fmt: skip
    for rect in plot.iter("rect"):
        x, y, width, height = (float(rect.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + width <= report_page.WIDTH
        assert 0 <= y <= y + height <= report_page.HEIGHT + 0.02


@given(st.floats(1e-3, 1e9))
def test_axis_ends_at_a_round_number(number: float) -> None:
    end = report_page.round_up(number)

    assert number <= end <= 2.6 * number
    assert f"{end:.0e}"[0] in "125"


@given(
    st.dictionaries(
        st.sampled_from(["sent", "deferred", "failed", "unknown", "queued"]), st.integers(1, 10**6), min_size=1
    )
)
def test_blocks_fill_a_stacked_bar(numbers: dict[str, int]) -> None:
    blocks = report_page.stacked_bar(numbers)

    assert [block.kind for block in blocks] == list(numbers)
    assert all(block.width > 0 for block in blocks)
    assert sum(block.width for block in blocks) <= 100.1
    assert report_page.render_report(make_report(), str(ZoneInfo("UTC")))
