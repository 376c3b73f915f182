"""Write the CSS of an HTML template into the `style` attributes of its elements, as mail programs need it; pure.

It is done once, before the values of a client are filled in. What an attribute cannot say stays in the `<style>`
element: media queries, and selectors such as `a:hover`.
"""

import re
from collections.abc import Iterator
from functools import partial

import css_inline

from skychimp.delivery.composing.conversions import MarkedTemplate
from skychimp.delivery.composing.layouts import markup
from skychimp.delivery.composing.layouts.markup import Kind, Part
from skychimp.errors import InvalidValue
from skychimp.translation import tr

MAX_WORK = 3_000_000_000
"""The most work for the CSS of one message, as `_work` estimates it. That takes some seconds at worst."""
MAX_TAGS = 50_000
_RULE_WORK = 20

_STYLE_TAG = re.compile(r"<style(?=[\s>])(?!.*data-css-inline=[\"']?ignore)", re.IGNORECASE | re.DOTALL)
_EMPTY_STYLE = re.compile(r"<style[^>]*>\s*</style>\n?", re.IGNORECASE)


def inline_css(template: MarkedTemplate, noun: str) -> str | None:
    """Return the source of an HTML template with its CSS inlined, or None if it has none to inline.

    `noun` names the template in errors. Raises InvalidValue if a parser of HTML would change it, or if it takes too
    long.
    """
    html = with_comments(template)
    if not any(_has_rules(part.text) for part in _styles(html)):
        return None
    markup.require_nested(html, template.mark, noun)
    for part in _styles(html):
        if any(not template.expression(word).is_output for word in re.findall(template.word, part.text)):
            raise markup.not_nested(html, part.start, "{% %} in a <style> element", noun)
    if _work(html) > MAX_WORK or html.count("<") > MAX_TAGS:
        raise InvalidValue(
            tr("the {noun} has too much CSS for its size", noun=noun), tr("use fewer rules, or make it shorter")
        )
    inlined = _inliner(inline_style_tags=True).inline(html)
    if _without_styles(inlined) == _without_styles(_inliner(inline_style_tags=False).inline(html)):
        return None
    if html.isascii():  # also where entities were not: other characters need another encoding in the email
        inlined = inlined.encode("ascii", "xmlcharrefreplace").decode("ascii")
    return source_of(template, _EMPTY_STYLE.sub("", inlined))


def source_of(template: MarkedTemplate, html: str) -> str:
    """Return HTML as the source of a template: with its expressions, and with no brace that could begin another one."""
    html = re.sub(f"<!--({template.word})-->", r"\1", html)
    shown = partial(_with_safe_braces, mark=template.mark)
    return template.with_expressions("".join(map(shown, markup.split(html))))


def with_comments(template: MarkedTemplate) -> str:
    """Return the HTML with a comment for each `{% %}` tag between elements. Between table rows, a text would move."""
    word = re.compile(template.word)

    def as_comment(match: re.Match[str]) -> str:
        return match[0] if template.expression(match[0]).is_output else f"<!--{match[0]}-->"

    return "".join(
        word.sub(as_comment, part.text) if part.kind == Kind.TEXT else part.text for part in markup.split(template.text)
    )


def _inliner(*, inline_style_tags: bool) -> css_inline.CSSInliner:
    return css_inline.CSSInliner(
        inline_style_tags=inline_style_tags,
        load_remote_stylesheets=False,
        keep_link_tags=True,
        keep_style_tags=True,
        remove_inlined_selectors=True,
        minify_css=True,
    )


def _styles(html: str) -> Iterator[Part]:
    """Yield the CSS of the style elements that are to be inlined."""
    is_style = False
    for part in markup.split(html):
        if part.kind == Kind.RAW and is_style:
            yield part
        is_style = part.kind == Kind.TAG and _STYLE_TAG.match(part.text) is not None


def _has_rules(css: str) -> bool:
    """Return whether CSS has a rule that is not inside an at-rule such as a media query."""
    depth = 0
    texts = re.split(r"([{};])", re.sub(r"/\*.*?(?:\*/|\Z)", "", css, flags=re.DOTALL))
    for text, sign in zip(texts[::2], texts[1::2], strict=False):
        if not depth and sign == "{" and not text.lstrip().startswith("@"):
            return True
        depth = max(0, depth + (sign == "{") - (sign == "}"))
    return False


def _work(html: str) -> int:
    """Return how long inlining can take. An element may get each declaration, and each is compared with the others."""
    css = "".join(part.text for part in markup.split(html) if part.kind == Kind.RAW)
    return html.count("<") * (_RULE_WORK * len(css) + css.count(":") ** 2)


def _without_styles(html: str) -> str:
    """Return HTML, as the inliner writes it, without style elements."""
    return re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)


def _with_safe_braces(part: Part, mark: str) -> str:
    if part.kind in (Kind.TEXT, Kind.TAG):
        return part.text.replace("{", "&#123;")
    return re.sub(rf"\{{(?=[{{%#]|{mark})", "{ ", part.text)  # CSS, or a comment with CSS
