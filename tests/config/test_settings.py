"""Settings: which source wins, what a wrong value is told, and that nothing secret is shown."""

import os
import tomllib
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import skychimp
from skychimp import durations
from skychimp.config import example, sources, types
from skychimp.config.settings import Settings
from skychimp.config.types import Rate, Security
from skychimp.errors import ConfigError, InvalidValue

EXAMPLE = Path(skychimp.__file__).parents[1] / "skychimp.example.toml"
SECRET = "hunter2-and-more"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working folder and a home of the test's own."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "TZ",
        *(name for name in os.environ if name.startswith("SKYCHIMP")),
    ):
        monkeypatch.delenv(name, raising=False)


def load(text: str | None = None, environ: Mapping[str, str] | None = None, **flags: str) -> Settings:
    """The settings of a config in the working folder, an environment and flags (`store__url`)."""
    if text is not None:
        Path("skychimp.toml").write_text(text, encoding="utf-8")
    return sources.load({name.replace("__", "."): value for name, value in flags.items()}, environ=environ or {})


def refused(text: str | None = None, environ: Mapping[str, str] | None = None, **flags: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, environ, **flags)
    assert caught.value.exit_status == 3
    assert "\n" not in caught.value.message
    return caught.value


# Which source wins


def test_flags_over_environment_over_dot_env_over_file_over_defaults() -> None:
    Path("skychimp.toml").write_text("store.url = 'file.db'")
    Path(".env").write_text("SKYCHIMP_STORE__URL=dot-env.db")
    environ = {"SKYCHIMP_STORE__URL": "environment.db"}
    names = [load(environ=environ, store__url="flag.db").store.url, load(environ=environ).store.url, load().store.url]
    Path(".env").unlink()
    names.append(load().store.url)
    Path("skychimp.toml").unlink()
    assert [Path(name or "").name for name in names] == ["flag.db", "environment.db", "dot-env.db", "file.db"]
    assert load().store.url is None


def test_a_source_says_only_what_it_says() -> None:
    settings = load("[smtp]\nhost = 'a'\nport = 1\n", {"SKYCHIMP_SMTP__PORT": "2", "SKYCHIMP_MAIL__TRANSPORT": "smtp"})
    assert (settings.smtp.host, settings.smtp.port, settings.mail.transport) == ("a", 2, "smtp")


def test_a_wrong_value_that_is_overruled_does_no_harm() -> None:
    assert load("smtp.port = 'x'", {"SKYCHIMP_SMTP__PORT": "25"}).smtp.port == 25


def test_an_empty_variable_says_nothing() -> None:
    assert load("smtp.port = 26", {"SKYCHIMP_SMTP__PORT": "", "SKYCHIMP_STORE": ""}).smtp.port == 26


@pytest.mark.parametrize(
    ("said", "place"),
    [("9.9.9.9", ("9.9.9.9", 53)), ("127.0.0.1:5353", ("127.0.0.1", 5353)), ("[::1]:5353", ("::1", 5353))],
)
def test_a_name_server_is_an_address_with_or_without_a_port(said: str, place: tuple[str, int]) -> None:
    assert load(f"dns.nameserver = '{said}'").dns.place == place


def test_every_setting_has_a_variable() -> None:
    said = {
        "store.url": "/a/store.db", "mail.transport": "smtp", "mail.sender": "A <a@example.org>",
        "mail.return_path": "b@example.org", "mail.timezone": "Asia/Tokyo", "smtp.host": "::1", "smtp.port": "2525",
        "smtp.security": "none", "smtp.username": "u", "smtp.password": "p", "smtp.password_file": "/a/p",
        "smtp.ca_file": "/a/ca", "smtp.connections": "3", "smtp.letters_per_connection": "4",
        "smtp.connection_age": "5m", "smtp.rate": "6/min", "smtp.timeout": "7s", "smtp.dot_timeout": "8m",
        "delivery.unknown": "hold", "delivery.unknown_after": "0s", "delivery.retry_after": '["9s", "10m"]',
        "delivery.give_up_after": "11h", "delivery.keep_attempts": "16d", "delivery.disable_failures": "12",
        "delivery.disable_failure_rate": "0.13",
        "run.patience": "14s", "daemon.interval": "15s",
        "blog.url": "https://blog.example.org", "blog.title": "B", "blog.tagline": "T", "blog.description": "D",
        "blog.language": "pt-BR",
        "cache.url": "rediss://example.org:6380/1",
        "dns.nameserver": "17.0.0.1:18",
    }  # fmt: skip
    known = [f"{section}.{key}" for section, keys in sections().items() for key in keys]
    assert list(said) == known
    settings = load(environ={f"SKYCHIMP_{name.replace('.', '__')}".upper(): value for name, value in said.items()})
    as_said = settings.model_dump(mode="json")
    assert (settings.smtp.security, settings.smtp.rate) == (Security.NONE, Rate(6, "min"))
    assert settings.delivery.retry_after == (timedelta(seconds=9), timedelta(minutes=10))
    assert settings.smtp.secret() == "p"
    defaults = load().model_dump(mode="json")
    assert not [name for name in known if value(as_said, name) == value(defaults, name)]


def value(tree: dict[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    return tree[section][key]


def sections() -> dict[str, Any]:
    return {name: part for name, part in load().model_dump().items() if isinstance(part, dict)}


def test_the_defaults_that_scripts_rely_on() -> None:
    settings = load()
    mail, smtp, delivery = settings.mail, settings.smtp, settings.delivery
    assert (settings.store.url, mail.transport, mail.sender, mail.return_path) == (None, "outbox", None, None)
    assert (smtp.host, smtp.port, smtp.security, smtp.username, smtp.secret()) == (
        "localhost", None, "starttls", None, None,
    )  # fmt: skip
    assert (smtp.connections, smtp.rate, smtp.timeout, smtp.dot_timeout) == (
        10, None, timedelta(seconds=60), timedelta(minutes=10),
    )  # fmt: skip
    assert (delivery.unknown, delivery.unknown_after) == ("resend", timedelta(minutes=15))
    assert [durations.format_duration(wait) for wait in delivery.retry_after] == ["5m", "15m", "45m", "2h", "4h"]
    assert (delivery.give_up_after, delivery.disable_failures, delivery.disable_failure_rate) == (
        timedelta(hours=72), 100, 0.5,
    )  # fmt: skip
    assert (settings.run.patience, settings.daemon.interval) == (timedelta(minutes=1), timedelta(seconds=1))


@pytest.mark.parametrize(("security", "port"), [("tls", 465), ("starttls", 587), ("none", 25)])
def test_the_port_follows_security_until_it_is_set(security: str, port: int) -> None:
    assert load(f"smtp.security = '{security}'").smtp.effective_port == port
    assert load(f"smtp = {{security = '{security}', port = 2525}}").smtp.effective_port == 2525


def test_the_system_zone_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Kathmandu")
    assert load().mail.timezone == "Asia/Kathmandu"
    monkeypatch.setenv("TZ", "CET-1CEST")  # POSIX's own words are no zone's name
    assert types.is_zone(load().mail.timezone)


# Where the files are


def test_where_the_config_is_looked_for(tmp_path: Path) -> None:
    places = [tmp_path / "named.toml", tmp_path / "variable.toml", Path("skychimp.toml")]
    places.append(tmp_path / "home/.config/skychimp/skychimp.toml")
    for number, path in enumerate(places, 1):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"smtp.port = {number}")
    environ = {"SKYCHIMP_CONFIG": str(places[1])}
    found = [sources.load(config_file=places[0], environ=environ), load(environ=environ), load()]
    places[2].unlink()
    found.append(load())
    assert [settings.smtp.port for settings in found] == [1, 2, 3, 4]
    assert [settings.config_file for settings in found] == [path.absolute() for path in places]
    places[3].unlink()
    assert load().config_file is None


def test_a_named_config_must_be_there() -> None:
    for environ, named in (({"SKYCHIMP_CONFIG": "gone.toml"}, None), ({}, Path("gone.toml"))):
        with pytest.raises(ConfigError, match=r"there is no config file .*gone\.toml") as caught:
            sources.load(config_file=named, environ=environ)
        assert caught.value.hint == "make it: skychimp init --email YOU@EXAMPLE.ORG"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"smtp.host = 'a'\n[", "is not TOML"),
        (b"smtp.host = 'a'\nsmtp.host = 'b'", "is not TOML"),
        (b"smtp.host = '\xff'", "it is not UTF-8"),
        (None, "Is a directory"),
    ],
)
def test_a_config_that_can_not_be_read(content: bytes | None, words: str) -> None:
    path = Path("skychimp.toml")
    path.mkdir() if content is None else path.write_bytes(content)
    error = refused()
    assert str(path.absolute()) in error.message
    assert words in error.message


def test_a_byte_order_mark_is_no_content() -> None:
    assert load("\ufeffsmtp.port = 1").smtp.port == 1


def test_file_names_count_from_where_they_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    named = tmp_path / "etc/c.toml"
    named.write_text("store.url = 's.db'\nsmtp.ca_file = '~/ca'\nsmtp.password_file = '/p'")
    settings = sources.load(config_file=named, environ={})
    assert settings.store_url == f"sqlite:///{tmp_path}/etc/s.db"
    assert settings.smtp.ca_file == tmp_path / "home/ca"
    assert settings.smtp.password_file == Path("/p")
    (tmp_path / "etc/.env").write_text("SKYCHIMP_SMTP__CA_FILE=ca")
    environ = {"SKYCHIMP_SMTP__PASSWORD_FILE": "p"}
    settings = sources.load({"store.url": "f.db"}, config_file=named, environ=environ)
    assert settings.smtp.ca_file == tmp_path / "etc/ca"
    assert settings.smtp.password_file == tmp_path / "work/p"
    assert settings.store_url == f"sqlite:///{tmp_path}/work/f.db"


def test_dot_env_beside_the_config_or_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/c.toml").touch()
    Path(".env").write_text("# ours\nexport SKYCHIMP_SMTP__PORT='1'  # a port\nOTHER\n")
    assert sources.load(config_file=tmp_path / "etc/c.toml", environ={}).smtp.port == 1
    (tmp_path / "etc/.env").write_text('SKYCHIMP_SMTP__USERNAME="$HOME ${A}"\n')
    settings = sources.load(config_file=tmp_path / "etc/c.toml", environ={})
    assert (settings.smtp.port, settings.smtp.username) == (None, "$HOME ${A}")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n\nSKYCHIMP_SMTP__PASSWORD 'hunter2-and-more\n", "line 3"),
        (b"SKYCHIMP_SMTP__PORT=x\n", "SKYCHIMP_SMTP__PORT in "),
        (b"SKYCHIMP_SMTP__PROT=1\n", "SKYCHIMP_SMTP__PROT in "),
        (b"A=\xff", "it is not UTF-8"),
    ],
)
def test_a_dot_env_that_can_not_be_meant(content: bytes, words: str) -> None:
    Path(".env").write_bytes(content)
    error = refused()
    assert words in error.message
    assert str(Path(".env").absolute()) in error.message
    assert SECRET not in error.message


def test_what_else_stands_in_a_dot_env_is_not_ours() -> None:
    Path(".env").write_text("this is no assignment\nSKYCHIMP_TOKEN=x\nSKYCHIMP_SMTP__PORT=7\nDOCKER='\n")
    assert load().smtp.port == 7


# The store


@pytest.mark.parametrize(
    ("said", "url"),
    [
        ("/a/b.db", "sqlite:////a/b.db"),
        ("b.db", "sqlite:///{here}/b.db"),
        ("./x/../b.db", "sqlite:///{here}/b.db"),
        ("sqlite:///b.db", "sqlite:///{here}/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:////a%20b.db", "sqlite:////a b.db"),
        ("/a?b%41.db", "sqlite:////a%3Fb%2541.db"),
        ("postgresql+psycopg://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
    ],
)
@pytest.mark.parametrize("by", ["flag", "SKYCHIMP_STORE", "SKYCHIMP_STORE__URL", "file"])
def test_how_a_store_is_named(said: str, url: str, by: str) -> None:
    if by == "flag":
        settings = load(store__url=said)
    elif by == "file":
        settings = load(f"store.url = '{said}'")
    else:
        settings = load(environ={by: said})
    assert settings.store_url == url.format(here=Path.cwd())


@given(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0/"), min_size=1))
def test_the_store_url_names_the_very_file(name: str) -> None:
    from sqlalchemy.engine import make_url

    settings = sources.load({"store.url": f"/folder/{name}"}, environ={})
    assert make_url(settings.store_url).database == str(Path(f"/folder/{name}"))
    assert settings.store_name == str(Path(f"/folder/{name}"))


def test_a_link_is_the_store_itself(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    Path("s.db").symlink_to(tmp_path / "link/s.db")
    assert load(store__url="s.db").store_url == f"sqlite:///{tmp_path}/data/s.db"


def test_the_usual_store_lies_in_the_data_folder(tmp_path: Path) -> None:
    assert load().store_url == f"sqlite:///{tmp_path}/home/.local/share/skychimp/skychimp.db"


# Wrong values


@pytest.mark.parametrize(
    ("said", "may_be"),
    [
        ("store.url = ''", "sqlite:///PATH"),
        ("store.url = 7", "sqlite:///PATH"),
        ("store.url = 'sqlite:///:memory:'", "sqlite:///PATH"),
        ("store.url = 'sqlite://'", "sqlite:///PATH"),
        ("store.url = 'mysql://h/d'", "postgresql+psycopg://"),
        ("mail.transport = 'smpt'", "'outbox' or 'smtp'"),
        ("mail.sender = 'Ada'", "Name <address>"),
        ("mail.sender = 'Ada <a@b> <c@d>'", "Name <address>"),
        ('mail.sender = "a@b\\r\\nBcc: c@d"', "Name <address>"),
        ("mail.return_path = 'Ada <a@b>'", "bounces@example.org"),
        ("mail.timezone = 'Mars/Olympus'", "Europe/Berlin"),
        ("mail.timezone = '+03:00'", "Europe/Berlin"),
        ("mail.timezone = 'localtime'", "Europe/Berlin"),
        ("mail.timezone = 'right/UTC'", "Europe/Berlin"),
        ("mail.timezone = '../UTC'", "Europe/Berlin"),
        ("mail.timezone = ''", "Europe/Berlin"),
        ("mail.timezone = 3", "Europe/Berlin"),
        ("smtp.host = ''", "mail.example.org"),
        ("dns.nameserver = 'ns.example.org'", "9.9.9.9"),
        ("dns.nameserver = '9.9.9.9:70000'", "127.0.0.1:5353"),
        ("dns.nameserver = 53", "9.9.9.9"),
        ("smtp.host = 'mail.example.org:587'", "smtp.port"),
        ("smtp.host = 'smtp://mail.example.org'", "mail.example.org"),
        ("blog.url = 'blog.example.org'", "https://example.org/blog"),
        ("blog.url = 'ftp://blog.example.org'", "https://example.org/blog"),
        ("blog.url = 'https://a@blog.example.org'", "https://example.org/blog"),
        ("blog.url = 'https://blog.example.org/{{ x }}'", "https://example.org/blog"),
        ("blog.title = ' '", "one line"),
        ('blog.tagline = "a\\nb"', "one line"),
        ("blog.language = 'english language'", "as en, ru or pt-BR"),
        ("cache.url = 'memcached://h'", "redis://HOST:PORT"),
        ("cache.url = 'redis:///0'", "redis://HOST:PORT"),
        ("smtp.port = 'submission'", "a whole number from 1 to 65535"),
        ("smtp.port = 0", "a whole number from 1 to 65535"),
        ("smtp.port = 65536", "a whole number from 1 to 65535"),
        ("smtp.port = 25.5", "a whole number from 1 to 65535"),
        ("smtp.port = true", "a whole number from 1 to 65535"),
        ("smtp.security = 'ssl'", "'tls', 'starttls' or 'none'"),
        ("smtp.security = false", "'tls', 'starttls' or 'none'"),
        ("smtp.username = 7", "string"),
        ("smtp.password_file = 7", "a file's name"),
        ("smtp.ca_file = ''", "a file's name"),
        ("smtp.connections = 0", "a whole number from 1 to 1000"),
        ("smtp.letters_per_connection = '-1'", "a whole number from 1"),
        ("smtp.rate = 100", "100/s, 300/min or 5000/h"),
        ("smtp.rate = '100/d'", "100/s, 300/min or 5000/h"),
        ("smtp.rate = '0/s'", "100/s, 300/min or 5000/h"),
        ("smtp.timeout = 60", "30s, 5m, 2h or 3d"),
        ("smtp.timeout = '1.5s'", "30s, 5m, 2h or 3d"),
        ("smtp.timeout = '0s'", "more than 0s"),
        ("delivery.unknown = 'drop'", "'resend' or 'hold'"),
        ("delivery.unknown_after = '-5m'", "30s, 5m, 2h or 3d"),
        ("delivery.give_up_after = '36501d'", "36500d at most"),
        ("delivery.retry_after = '5m'", '["5m", "1h"]'),
        ("delivery.retry_after = []", '["5m", "1h"]'),
        ("delivery.retry_after = ['5m', '0s']", "more than 0s"),
        ("delivery.retry_after = ['5m', 'soon']", "30s, 5m, 2h or 3d"),
        ("delivery.disable_failures = 'many'", "a whole number from 1"),
        ("delivery.disable_failure_rate = 50", "a number from 0 to 1"),
        ("delivery.disable_failure_rate = nan", "a number from 0 to 1"),
        ("delivery.disable_failure_rate = 'half'", "a number from 0 to 1"),
    ],
)
def test_a_wrong_value_is_told_where_it_was_and_what_it_may_be(said: str, may_be: str) -> None:
    error = refused(said)
    assert error.message.startswith(said.partition(" ")[0] + ": ")
    assert may_be in error.message
    assert f"(from {Path('skychimp.toml').absolute()})" in error.message
    assert error.hint is not None
    assert error.hint.startswith(said.partition(" ")[0] + ": ")


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({"SKYCHIMP_SMTP__PORT": "x"}, "SKYCHIMP_SMTP__PORT in the environment"),
        ({"SKYCHIMP_DELIVERY__RETRY_AFTER": "5m"}, "SKYCHIMP_DELIVERY__RETRY_AFTER in the environment"),
        ({"SKYCHIMP_DELIVERY__RETRY_AFTER": '{"5m": 1}'}, "SKYCHIMP_DELIVERY__RETRY_AFTER in the environment"),
        ({"SKYCHIMP_STORE": "mysql://h/d", "SKYCHIMP_STORE__URL": "a.db"}, "SKYCHIMP_STORE in the environment"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], source: str) -> None:
    assert f"(from {source})" in refused(environ=environ).message


def test_a_wrong_flag_is_named() -> None:
    assert "(from the command line)" in refused(store__url="mysql://h/d").message


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("smtp.hosst = 'x'", "there is no setting smtp.hosst", "did you mean smtp.host?"),
        ("[stmp]\nhost = 'x'", "there is no setting stmp.host", "did you mean smtp.host?"),
        ("[smtp.hosts]\na = 1", "there is no setting smtp.hosts", "did you mean smtp.host?"),
        ("zzz.zzz = 1", "there is no setting zzz.zzz", "skychimp.example.toml lists them all"),
        ("port = 25", "port is no section", "[smtp]"),
        ("[[smtp]]\nport = 25", "smtp is no section", "[smtp]"),
    ],
)
def test_an_unknown_setting(text: str, message: str, hint: str) -> None:
    error = refused(text)
    assert message in error.message
    assert hint in (error.hint or "")


def test_an_unknown_variable_of_a_known_section() -> None:
    error = refused(environ={"SKYCHIMP_SMTP__HOSST": "x"})
    assert "SKYCHIMP_SMTP__HOSST in the environment is no setting" in error.message
    assert error.hint == "did you mean SKYCHIMP_SMTP__HOST?"
    load(environ={"SKYCHIMP_TOKEN": "x", "SKYCHIMP_ANYTHING": "x", "SKYCHIMP_OTHER__THING": "x"})


# Secrets


def test_a_password_is_never_shown() -> None:
    settings = load(f"smtp.password = '{SECRET}'\nstore.url = 'postgresql+psycopg://ada:{SECRET}@db/x'")
    assert settings.smtp.secret() == SECRET
    assert settings.store_name == "postgresql+psycopg://ada:***@db/x"
    shown = f"{settings.smtp!r} {settings.smtp} {settings.smtp.model_dump()} {settings.smtp.model_dump_json()}"
    assert SECRET not in shown


@pytest.mark.parametrize(
    "text",
    [
        f"smtp.password = ['{SECRET}']",
        f"[smtp.password]\nvalue = '{SECRET}'",
        f"smtp.pasword = '{SECRET}'",
        f"smtp.password_file = ['{SECRET}']",
        f"store.url = 'postgres://ada:{SECRET}@db/x'",
        f"store.url = 'postgres://ada:p@{SECRET}@db/x'",
        f"smtp.password = '{SECRET}",
    ],
)
def test_an_error_tells_no_password(text: str) -> None:
    error = refused(text)
    assert SECRET not in f"{error.message} {error.hint} {error!r}"


def test_a_password_file(tmp_path: Path) -> None:
    Path("p").write_bytes(f"{SECRET}\r\n".encode())
    assert load("smtp.password_file = 'p'").smtp.secret() == SECRET
    assert load("smtp = {password_file = 'p', password = 'other'}").smtp.secret() == "other"
    Path("p").write_bytes(b"\xff")
    for name, words in (("p", "it is not UTF-8"), ("gone", "No such file"), (".", "Is a directory")):
        with pytest.raises(ConfigError, match=words):
            load(f"smtp.password_file = '{name}'").smtp.secret()


# The example


def test_the_example_is_what_the_code_says() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example.example_config()


def test_the_example_changes_nothing() -> None:
    defaults = load()
    assert load(example.example_config()).model_copy(update={"config_file": None}) == defaults


def test_the_example_shows_every_setting_with_a_value_that_can_be() -> None:
    lines = example.example_config().splitlines()
    shown = "\n".join(line.removeprefix("# ") for line in lines if " = " in line or line.startswith("["))
    tree = tomllib.loads(shown)
    assert {name: list(keys) for name, keys in tree.items()} == {name: list(keys) for name, keys in sections().items()}
    load(shown)
    for before, line in pairwise(lines):
        assert " = " not in line or before.startswith("# ")  # each with its line of meaning


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_what_init_says_is_read_back(text: str) -> None:
    assert tomllib.loads(example.example_config({"mail.sender": text}))["mail"]["sender"] == text


# Durations and rates


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from("smhd")), min_size=1, max_size=5))
def test_a_duration_is_the_sum_of_its_parts(parts: list[tuple[int, str]]) -> None:
    sizes = {"s": timedelta(seconds=1), "m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    total = sum((number * sizes[unit] for number, unit in parts), timedelta())
    assert durations.parse_duration("".join(f"{number}{unit}" for number, unit in parts)) == total
    assert durations.parse_duration(durations.format_duration(total)) == total


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "5min", "-5m", "1.5h", "5M", "٣s", "5m\n", "999999999d", "1e9s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(InvalidValue):
        durations.parse_duration(text)


@pytest.mark.parametrize(("text", "per_second"), [("100/s", 100), ("300/min", 5), ("5400/h", 1.5)])
def test_a_rate(text: str, per_second: float) -> None:
    rate = load(f"smtp.rate = '{text}'").smtp.rate
    assert rate is not None
    assert (rate.per_second, str(rate)) == (per_second, text)
