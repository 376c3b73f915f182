"""The built-in layout in Chromium: at two widths, light and dark, with a wide picture, and by the rules of axe-core."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from PIL import Image
from support.browser import CHROMIUM, check_pages, has_packages

from skychimp.delivery.composing.compose import Composer, MessageContent, Recipient
from skychimp.delivery.composing.extras import Extras
from skychimp.delivery.composing.layouts.finishing import Layout, default_layout, finish
from skychimp.models import Format

BODY = """\
# News for {{ client.name }}

The *news* of **May**: [read more](https://example.org/), `code`, ~~old~~.

![A wide picture](wide.png)

## A heading

- one
- two

1. first
2. second

> A quotation with [a link](https://example.org/quoted).

```
a_line_of_code_that_is_longer_than_any_phone_is_wide_and_has_no_space_anywhere_in_it_at_all_so_that_it_must_break
```

| Event | Outcome | What is done |
|---|--:|---|
| `421` | given_back_given_back_given_back | wait_wait_wait_wait_wait_wait_wait_wait |

---

Supercalifragilisticexpialidocious_unbreakable_word_that_goes_on_and_on_and_on_and_on_and_on_and_on_and_on

שלום עולם
"""
NOW = datetime(2026, 12, 1, 9, tzinfo=UTC)


@pytest.fixture
def page(tmp_path: Path) -> Path:
    if not CHROMIUM or not has_packages("axe-core", "playwright-core"):
        pytest.skip("needs Chromium, and node with axe-core and playwright-core, as .ci/run installs them")
    Image.linear_gradient("L").resize((2_000, 300)).save(tmp_path / "wide.png")
    layout = Layout(default_layout(), "What is new", is_default=True)
    content = finish(MessageContent("News of May", BODY, Format.MARKDOWN), layout)
    extras = Extras(web_url="https://mail.example.org", postal_address="Example Ltd, 1 Main Street, London")
    composer = Composer(content, sender="a@example.org", date=NOW, mailing_id=1, due_at=NOW, extras=extras)
    html = composer.render(Recipient("ada@example.org", "Ada", "", ()))[2]
    path = tmp_path / "email.html"
    path.write_text(html or "")
    return path


def test_email_fits_the_window_and_is_accessible_light_and_dark(page: Path, tmp_path: Path) -> None:
    results = check_pages(tmp_path, page.as_uri(), sizes={"phone": (360, 780), "desktop": (1000, 900)})

    assert [(each["size"], each["colorScheme"]) for each in results] == [
        ("phone", "light"), ("phone", "dark"), ("desktop", "light"), ("desktop", "dark"),
    ]  # fmt: skip
    for result in results:
        assert (result["messages"], result["broken"], result["faults"]) == ([], [], []), result
        assert result["overflow"] <= 0, result
        assert result["checked"] > 15, result
    pictures = [Image.open(tmp_path / result["screenshot"]).convert("RGB") for result in results]
    corners = [picture.getpixel((0, picture.height - 1)) for picture in pictures]
    assert corners == [(0xF4, 0xF4, 0xF5), (0x18, 0x18, 0x1B)] * 2
    assert [picture.width for picture in pictures] == [360, 360, 1000, 1000]
