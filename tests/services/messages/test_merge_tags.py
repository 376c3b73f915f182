"""Merge tags of other tools are found, and nothing else is taken for one."""

import pytest

from skychimp.services.messages.merge_tags import foreign_merge_tags


@pytest.mark.parametrize(
    "tag",
    [
        "*|FNAME|*", "*|UNSUB|*", "*|MC:SUBJECT|*", "*|LIST:ADDRESS|*", "%recipient.name%", "%recipient_email%",
        "%unsubscribe_url%", "%mailing_list_unsubscribe_url%", "%%first_name%%", "%%First Name%%", "%FIRSTNAME%",
        "{$name}", "{$unsubscribe}", "{FIRST_NAME}", "{email}", "{!firstname}", "{contactfield=firstname}",
        "[[firstname]]", '[[data:firstname:"there"]]', "[[var:name]]", "[NAME]", "[FIRST_NAME]", "[EMAIL]",
        "[subscriber:firstname]", "[Name,fallback=there]", "$[FNAME|friend]$", "<<First Name>>", "«Last_Name»",
    ],
)  # fmt: skip
def test_merge_tag_is_found(tag: str) -> None:
    assert foreign_merge_tags(f"Dear {tag}, {tag}: hello") == [tag]


@pytest.mark.parametrize(
    "text",
    [
        "{{ client.name }} {{ unsubscribe_url }} {{name}}",
        "{% if client.name %}{# a note #}{% endif %}",
        "a{color:red} @media print{#name{display:none}} .name{b:c} {name: 1}",
        "`${name}` $('{$a b}') {$}",
        "100% name 50% %D0%98 ?a=%20name%20 %USERNAME%",
        "[NAME](https://example.org) [EMAIL]: mailto:a@example.org [NAME][1] [name] [1] [x] [[wiki page]]",
        "*|* |a|b| **|bold|** << x >> «Имя» «a»",
    ],
)
def test_other_text_is_no_merge_tag(text: str) -> None:
    assert foreign_merge_tags(text) == []


def test_each_tag_is_named_once() -> None:
    assert foreign_merge_tags("*|A|*{$b}*|A|*\n[NAME]") == ["*|A|*", "{$b}", "[NAME]"]
