"""Codes that are mailed: what they look like, and how seldom one is good."""

import math
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.sending import rows

from skychimp.models import Code, CodePurpose
from skychimp.permissions import Actor
from skychimp.services.accounts import codes
from skychimp.store.database import Store
from skychimp.store.schema import open_store

NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)
VERIFY, RESET = CodePurpose.VERIFY, CodePurpose.RESET


def issue(store: Store, actor: Actor, purpose: CodePurpose = VERIFY, at: datetime = NOW) -> str | None:
    with store.write() as db:
        issued = codes.issue(db, actor.user_id, purpose, at)
    return None if issued is None else issued.text


def issued(store: Store, actor: Actor, purpose: CodePurpose = VERIFY, at: datetime = NOW) -> str:
    text = issue(store, actor, purpose, at)
    assert text is not None
    return text


def use(store: Store, actor: Actor, text: str, purpose: CodePurpose = VERIFY, at: datetime = NOW) -> bool:
    with store.write() as db:
        return codes.use(db, actor.user_id, purpose, text, at)


def test_a_code_can_be_read_and_not_be_guessed() -> None:
    made = {codes.make() for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"[A-Z0-9]{5}-[A-Z0-9]{5}", code) for code in made)
    assert not set("".join(made)) & set("01OILU")
    assert len(set("".join(made)) - {"-"}) == len(codes.ALPHABET)
    assert codes.LENGTH * math.log2(len(codes.ALPHABET)) >= 40


def test_it_is_good_once(store: Store, ada: Actor) -> None:
    code = issued(store, ada)
    assert [use(store, ada, code) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    "write", [str.lower, lambda code: code.replace("-", ""), lambda code: f" {code[:3]} {code[3:]}"]
)
def test_it_may_be_typed_in_other_ways(store: Store, ada: Actor, write: Callable[[str], str]) -> None:
    assert use(store, ada, write(issued(store, ada)))


def test_it_does_not_lie_in_the_store(store: Store, ada: Actor) -> None:
    code = issued(store, ada)
    held = b"".join(path.read_bytes() for path in store.path.parent.iterdir() if path.is_file())
    assert not [form for form in (code, code.replace("-", "")) if form.encode() in held]


def test_the_same_code_of_another_store_or_user_has_another_hash(store: Store, ada: Actor, bob: Actor) -> None:
    """So that nothing can be computed for many at once, nor moved from one to another."""
    with store.write() as db:
        hashes = {
            codes._hash(db, user, purpose, "22222-22222")
            for user in (ada.user_id, bob.user_id)
            for purpose in CodePurpose
        }
    assert len(hashes) == 2 * len(CodePurpose)


@pytest.mark.parametrize(("age", "good"), [(codes.LIFE - SECOND, True), (codes.LIFE, False)])
def test_it_is_good_for_fifteen_minutes(store: Store, ada: Actor, age: timedelta, good: bool) -> None:
    assert timedelta(minutes=15) == codes.LIFE
    assert use(store, ada, issued(store, ada), at=NOW + age) == good


@pytest.mark.parametrize(("wrong", "good"), [(4, True), (5, False)])
def test_it_stands_four_wrong_tries(store: Store, ada: Actor, wrong: int, good: bool) -> None:
    code = issued(store, ada)
    assert not any(use(store, ada, "22222-22222") for _ in range(wrong))
    assert use(store, ada, code) == good


def test_it_is_for_one_user_and_purpose(store: Store, ada: Actor, bob: Actor) -> None:
    code = issued(store, ada)
    issued(store, bob)
    issued(store, ada, RESET)
    assert not use(store, bob, code)
    assert not use(store, ada, code, RESET)
    assert use(store, ada, code)


def test_only_the_newest_is_good(store: Store, ada: Actor) -> None:
    first, second = issued(store, ada), issued(store, ada, at=NOW + SECOND)
    assert not use(store, ada, first, at=NOW + SECOND)
    assert use(store, ada, second, at=NOW + SECOND)


def test_there_are_three_an_hour(store: Store, ada: Actor, bob: Actor) -> None:
    kept = [issue(store, ada, at=NOW + minute * timedelta(minutes=10)) for minute in range(3)]
    assert all(kept)
    assert issue(store, ada, at=NOW + timedelta(minutes=59)) is None
    assert use(store, ada, kept[-1] or "", at=NOW + timedelta(minutes=21))  # it is not taken away by asking for more
    assert issue(store, ada, RESET)
    assert issue(store, bob)
    assert issue(store, ada, at=NOW + timedelta(hours=1))


def test_one_that_never_went_out_does_not_count(store: Store, ada: Actor) -> None:
    for _ in range(5):
        with store.write() as db:
            lost = codes.issue(db, ada.user_id, VERIFY, NOW)
            assert lost is not None
            codes.withdraw(db, lost.id)
    assert issue(store, ada)


def test_one_code_is_good_for_one_of_many_at_once(store: Store, ada: Actor) -> None:
    code, good = issued(store, ada), []
    start = threading.Barrier(8)

    def try_it() -> None:
        own = open_store(f"sqlite:///{store.path}")
        start.wait()
        good.append(use(own, ada, code))
        own.close()

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(good) == [False] * 7 + [True]


def test_those_that_count_no_more_are_forgotten(store: Store, ada: Actor) -> None:
    issued(store, ada)
    kept = issued(store, ada, at=NOW + SECOND)
    with store.write() as db:
        codes.forget(db, NOW + timedelta(hours=1))
    assert [code.created_at for code in rows(store, Code)] == [NOW + SECOND]
    assert use(store, ada, kept, at=NOW + 2 * SECOND)
