"""Codes: their format, and how long they are valid."""

import math
import re
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from support.contents import contains
from support.sending import rows

from skychimp.models import Code, CodePurpose
from skychimp.permissions import Actor
from skychimp.services.accounts import codes
from skychimp.store.database import Store
from skychimp.store.schema import open_store

NOW = datetime.now(UTC)
SECOND = timedelta(seconds=1)
VERIFY, RESET = CodePurpose.VERIFY, CodePurpose.RESET


def issue(store: Store, actor: Actor, purpose: CodePurpose = VERIFY, at: datetime = NOW) -> str:
    with store.write() as db:
        return codes.issue(db, actor.user_id, purpose, at).text


def redeem(store: Store, actor: Actor, text: str, purpose: CodePurpose = VERIFY, at: datetime = NOW) -> bool:
    with store.write() as db:
        return codes.redeem(db, actor.user_id, purpose, text, at)


def test_codes_are_readable_and_hard_to_guess() -> None:
    generated = {codes.generate() for _ in range(1000)}
    assert len(generated) == 1000
    assert all(re.fullmatch(r"[A-Z0-9]{5}-[A-Z0-9]{5}", code) for code in generated)
    assert not set("".join(generated)) & set("01OILU")
    assert len(set("".join(generated)) - {"-"}) == len(codes.ALPHABET)
    assert codes.LENGTH * math.log2(len(codes.ALPHABET)) >= 40


def test_code_is_valid_once(store: Store, ada: Actor) -> None:
    code = issue(store, ada)
    assert [redeem(store, ada, code) for _ in range(3)] == [True, False, False]


@pytest.mark.parametrize(
    "write", [str.lower, lambda code: code.replace("-", ""), lambda code: f" {code[:3]} {code[3:]}"]
)
def test_code_may_be_typed_in_other_ways(store: Store, ada: Actor, write: Callable[[str], str]) -> None:
    assert redeem(store, ada, write(issue(store, ada)))


def test_code_is_not_stored(store: Store, ada: Actor) -> None:
    code = issue(store, ada)
    assert not [text for text in (code, code.replace("-", "")) if contains(store, text)]


def test_same_code_has_another_hash_for_each_user_and_purpose(store: Store, ada: Actor, bob: Actor) -> None:
    """So hashes cannot be computed for many users at once, nor copied from one to another."""
    with store.write() as db:
        hashes = {
            codes._hash(db, user, purpose, "22222-22222")
            for user in (ada.user_id, bob.user_id)
            for purpose in CodePurpose
        }
    assert len(hashes) == 2 * len(CodePurpose)


@pytest.mark.parametrize(("age", "is_valid"), [(codes.LIFETIME - SECOND, True), (codes.LIFETIME, False)])
def test_code_is_valid_for_fifteen_minutes(store: Store, ada: Actor, age: timedelta, is_valid: bool) -> None:
    assert timedelta(minutes=15) == codes.LIFETIME
    assert redeem(store, ada, issue(store, ada), at=NOW + age) == is_valid


@pytest.mark.parametrize(("wrong_tries", "is_valid"), [(4, True), (5, False)])
def test_code_is_invalid_after_five_wrong_tries(store: Store, ada: Actor, wrong_tries: int, is_valid: bool) -> None:
    code = issue(store, ada)
    assert not any(redeem(store, ada, "22222-22222") for _ in range(wrong_tries))
    assert redeem(store, ada, code) == is_valid


def test_code_is_for_one_user_and_purpose(store: Store, ada: Actor, bob: Actor) -> None:
    code = issue(store, ada)
    issue(store, bob)
    issue(store, ada, RESET)
    assert not redeem(store, bob, code)
    assert not redeem(store, ada, code, RESET)
    assert redeem(store, ada, code)


def test_only_the_newest_code_is_valid(store: Store, ada: Actor) -> None:
    first, second = issue(store, ada), issue(store, ada, at=NOW + SECOND)
    assert not redeem(store, ada, first, at=NOW + SECOND)
    assert redeem(store, ada, second, at=NOW + SECOND)


def test_check_leaves_a_code_valid_and_counts_wrong_ones(store: Store, ada: Actor) -> None:
    code = issue(store, ada)
    with store.write() as db:
        for _ in range(codes.MAX_TRIES - 1):
            assert codes.check(db, ada.user_id, VERIFY, code, NOW)
            assert not codes.check(db, ada.user_id, VERIFY, "22222-22222", NOW)
        assert codes.check(db, ada.user_id, VERIFY, code, NOW)
        codes.count_try(db, ada.user_id, VERIFY, NOW)
        assert not codes.check(db, ada.user_id, VERIFY, code, NOW)
        codes.count_try(db, ada.user_id, VERIFY, NOW)
    assert not redeem(store, ada, code)


def test_withdrawn_code_is_invalid(store: Store, ada: Actor) -> None:
    with store.write() as db:
        unsent = codes.issue(db, ada.user_id, VERIFY, NOW)
        codes.withdraw(db, unsent.id)
    assert not redeem(store, ada, unsent.text)


def test_concurrent_tries_use_a_code_once(store: Store, store_url: str, ada: Actor) -> None:
    code, results = issue(store, ada), []
    start = threading.Barrier(8)

    def try_code() -> None:
        own_store = open_store(store_url)
        start.wait()
        results.append(redeem(own_store, ada, code))
        own_store.close()

    threads = [threading.Thread(target=try_code) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]


def test_expired_codes_are_deleted(store: Store, ada: Actor) -> None:
    issue(store, ada)
    newer = issue(store, ada, at=NOW + SECOND)
    with store.write() as db:
        codes.delete_expired(db, NOW + codes.LIFETIME)
    assert [code.created_at for code in rows(store, Code)] == [NOW + SECOND]
    assert redeem(store, ada, newer, at=NOW + 2 * SECOND)
