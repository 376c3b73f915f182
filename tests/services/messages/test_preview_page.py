"""Test the page that shows a composed email in a browser."""

from email.message import EmailMessage
from email.policy import SMTP
from html.parser import HTMLParser

from skychimp.services.messages.preview_page import make_page


class Elements(HTMLParser):
    """The attributes of each element of a page, by tag, and all its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[dict[str, str | None]]] = {}
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.setdefault(tag, []).append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


def compose(html: str | None, text: str = "Hello") -> EmailMessage:
    email = EmailMessage(SMTP)
    email["From"], email["To"], email["Subject"] = "Ada <ada@example.org>", "c@example.org", "<b>News & more</b>"
    email.set_content(text)
    if html is not None:
        email.add_alternative(html, subtype="html")
    return email


def test_html_is_only_in_frames_without_scripts_and_network() -> None:
    html = "<p>Hi</p><script>alert(1)</script>\"'<img src='https://x.example/a.png'>"
    page = make_page(compose(html).as_bytes())
    elements = Elements(page)
    assert elements.found["iframe"] == [
        {"sandbox": None, "title": f"HTML part, on a {device}", "srcdoc": html + "\r\n"}
        for device in ("desktop", "phone")
    ]
    assert "script" not in elements.found
    assert "img" not in elements.found
    policy = next(each["content"] for each in elements.found["meta"] if "http-equiv" in each)
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    assert "Pictures from the web are not loaded here: 1." in elements.text


def test_headers_text_and_attachments_are_shown_as_text() -> None:
    email = compose(None, "1 < 2 & <script>")
    email.add_attachment(b"x", maintype="application", subtype="pdf", filename="bill <1>.pdf")
    elements = Elements(make_page(email.as_bytes()))
    assert elements.found.keys() >= {"h1", "dl", "pre"}
    assert not elements.found.keys() & {"b", "script", "iframe"}
    for text in ("<b>News & more</b>", "Ada <ada@example.org>", "1 < 2 & <script>", "bill <1>.pdf"):
        assert text in elements.text


def test_inline_picture_is_in_the_page() -> None:
    email = compose('<img src="cid:pic@x" alt="">')
    email.get_payload()[1].add_related(b"\x89PNG", maintype="image", subtype="png", cid="<pic@x>")  # type: ignore[union-attr, index]
    page = make_page(email.as_bytes())
    assert "data:image/png;base64,iVBORw==" in page
    assert "cid:" not in page


def test_inline_picture_is_no_attachment() -> None:
    email = compose('<img src="cid:pic@x" alt="">')
    for disposition, name in (("inline", "pic.png"), ("attachment", "other.png")):
        email.add_attachment(
            b"\x89PNG", maintype="image", subtype="png", filename=name, disposition=disposition, cid=f"<{name}@x>"
        )
    text = Elements(make_page(email.as_bytes())).text
    assert "1 attachment" in text
    assert "other.png" in text
    assert "pic.png" not in text
