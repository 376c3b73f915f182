"""Settings: which source wins, how invalid values are reported, and that no password is shown."""

import contextlib
import os
import time
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
from skychimp.config import config_file, example, sources, trust
from skychimp.config.settings import Settings
from skychimp.config.types import Rate, Security
from skychimp.errors import ConfigError

EXAMPLE = Path(skychimp.__file__).parents[1] / "skychimp.example.toml"
SECRET = "hunter2-and-more"
PATHS = ("store.url", "smtp.password_file", "smtp.ca_file")
OUR_HEADERS = (
    "From", "to", "SUBJECT", "Bcc", "Reply-To", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Precedence",
    "Content-Type", "Received", "DKIM-Signature", "ARC-Seal", "Authentication-Results", "Resent-To",
)  # fmt: skip
CONTROLS = (r"\n", r"\r", r"\t", r"\u0000", r"\u001b[2J", r"\u007f", r"\u0085", r"\u009b", r"\u2028", r"\u2029")


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test its own working folder and home, and no settings from the environment."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in (
        "XDG_CONFIG_HOME",
        "XDG_DATA_HOME",
        "XDG_STATE_HOME",
        "TZ",
        *(name for name in os.environ if name.startswith("SKYCHIMP")),
    ):
        monkeypatch.delenv(name, raising=False)


def load(text: str | None = None, environ: Mapping[str, str] | None = None, **flags: str) -> Settings:
    """Return the settings of a config in the working folder, an environment, and flags such as `store__url`."""
    if text is not None:
        Path("skychimp.toml").write_text(text, encoding="utf-8")
    return sources.load_settings(
        {name.replace("__", "."): value for name, value in flags.items()},
        config_file=Path("skychimp.toml") if os.path.lexists("skychimp.toml") else None,
        environ=environ or {},
    )


def load_error(text: str | None = None, environ: Mapping[str, str] | None = None, **flags: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, environ, **flags)
    assert caught.value.exit_status == 3
    assert "\n" not in caught.value.message
    return caught.value


# Sources


def test_flags_override_environment_override_dot_env_override_file_override_defaults() -> None:
    Path("skychimp.toml").write_text("store.url = 'file.db'")
    Path(".env").write_text("SKYCHIMP_STORE__URL=dot-env.db")
    environ = {"SKYCHIMP_STORE__URL": "environment.db"}
    names = [load(environ=environ, store__url="flag.db").store.url, load(environ=environ).store.url, load().store.url]
    Path(".env").unlink()
    names.append(load().store.url)
    Path("skychimp.toml").unlink()
    assert [Path(name or "").name for name in names] == ["flag.db", "environment.db", "dot-env.db", "file.db"]
    assert load().store.url is None


def test_source_overrides_only_the_settings_it_has() -> None:
    settings = load("[smtp]\nhost = 'a'\nport = 1\n", {"SKYCHIMP_SMTP__PORT": "2", "SKYCHIMP_MAIL__TRANSPORT": "smtp"})
    assert (settings.smtp.host, settings.smtp.port, settings.mail.transport) == ("a", 2, "smtp")


def test_invalid_value_that_is_overridden_is_ignored() -> None:
    assert load("smtp.port = 'x'", {"SKYCHIMP_SMTP__PORT": "25"}).smtp.port == 25


def test_empty_variable_counts_as_unset() -> None:
    assert load("smtp.port = 26", {"SKYCHIMP_SMTP__PORT": "", "SKYCHIMP_STORE": ""}).smtp.port == 26


@pytest.mark.parametrize(
    ("text", "address"),
    [("9.9.9.9", ("9.9.9.9", 53)), ("127.0.0.1:5353", ("127.0.0.1", 5353)), ("[::1]:5353", ("::1", 5353))],
)
def test_name_server_is_an_address_with_or_without_a_port(text: str, address: tuple[str, int]) -> None:
    assert load(f"dns.nameserver = '{text}'").dns.address == address


def test_every_setting_has_a_variable() -> None:
    values = {
        "store.url": "/a/store.db", "store.password_file": "/a/s",
        "mail.transport": "smtp", "mail.sender": "A <a@example.org>",
        "mail.return_path": "b@example.org", "mail.reply_to": "R <r@example.org>",
        "mail.postal_address": "1 Main Street", "mail.headers": '{"X-A": "b"}', "mail.language": "ru",
        "mail.attachments_folder": "/a/f",
        "mail.max_attachment_size": "22 MB", "mail.timezone": "Asia/Tokyo",
        "mail.allow_local": "true", "mail.account_emails_per_hour": "19", "smtp.host": "::1", "smtp.port": "2525",
        "smtp.security": "none", "smtp.username": "u", "smtp.password": "p", "smtp.password_file": "/a/p",
        "smtp.auth": "login", "smtp.token_command": "/a/token --for 'a b'", "smtp.ca_file": "/a/ca",
        "smtp.connections": "3", "smtp.emails_per_connection": "4",
        "smtp.connection_age": "5m", "smtp.rate": "6/min", "smtp.timeout": "7s", "smtp.dot_timeout": "8m",
        "dkim.domain": "example.org", "dkim.selector": '["s1", "s2"]', "dkim.key_file": '["/a/k1", "/a/k2"]',
        "monitor.ping_url": "https://hc.example.org/u", "monitor.metrics_file": "/a/m.prom",
        "web.url": "https://mail.example.org", "web.listen": "unix:/a/web.sock",
        "delivery.unknown": "hold", "delivery.unknown_after": "0s", "delivery.retry_after": '["9s", "10m"]',
        "delivery.give_up_after": "11h", "delivery.keep_attempts": "16d",
        "delivery.require_consent": "true", "delivery.disable_failures": "12",
        "delivery.disable_failure_rate": "0.13", "delivery.canary_failure_rate": "0.18",
        "delivery.bounce_rate": "0.22", "delivery.complaint_rate": "0.23",
        "inbound.address": "in@example.org", "inbound.maildir": "/a/m", "inbound.imap_url": "imaps://a@example.org/B",
        "inbound.password_file": "/a/i", "inbound.soft_bounces": "20", "inbound.soft_bounce_period": "21d",
        "run.patience": "14s", "daemon.interval": "15s",
        "blog.url": "https://blog.example.org", "blog.title": "B", "blog.tagline": "T", "blog.description": "D",
        "blog.language": "pt-BR",
        "cache.url": "rediss://example.org:6380/1",
        "dns.nameserver": "17.0.0.1:18",
        "service.shared": "true", "service.operators": '["ada", "grace"]',
    }  # fmt: skip
    known = [f"{section}.{key}" for section, keys in sections().items() for key in keys]
    assert list(values) == known
    settings = load(environ={f"SKYCHIMP_{name.replace('.', '__')}".upper(): value for name, value in values.items()})
    given = settings.model_dump(mode="json")
    assert (settings.smtp.security, settings.smtp.rate) == (Security.NONE, (Rate(6, "min"),))
    assert settings.delivery.retry_after == (timedelta(seconds=9), timedelta(minutes=10))
    assert settings.smtp.read_password() == "p"
    defaults = load().model_dump(mode="json")
    assert not [name for name in known if value_of(given, name) == value_of(defaults, name)]


def test_key_files_are_paths() -> None:
    """So is each of a list, which is JSON in the environment."""
    assert load('dkim.key_file = "k1"').dkim.key_file == (Path.cwd() / "k1",)
    assert load('dkim.key_file = ["k1", "/k2"]').dkim.key_file == (Path.cwd() / "k1", Path("/k2"))
    listed = load(environ={"SKYCHIMP_DKIM__KEY_FILE": '["k1", "~/k2"]'}).dkim.key_file
    assert listed == (Path.cwd() / "k1", Path.home() / "k2")


def value_of(tree: dict[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    return tree[section][key]


def sections() -> dict[str, Any]:
    return {name: section for name, section in load().model_dump().items() if isinstance(section, dict)}


def test_documented_defaults() -> None:
    settings = load()
    mail, smtp, delivery = settings.mail, settings.smtp, settings.delivery
    assert (settings.store.url, mail.transport, mail.sender, mail.return_path) == (None, "outbox", None, None)
    assert (smtp.host, smtp.port, smtp.security, smtp.username, smtp.read_password()) == (
        "localhost", None, "starttls", None, None,
    )  # fmt: skip
    assert (smtp.connections, smtp.rate, smtp.timeout, smtp.dot_timeout) == (
        10, None, timedelta(seconds=60), timedelta(minutes=10),
    )  # fmt: skip
    assert (delivery.unknown, delivery.unknown_after) == ("resend", timedelta(minutes=15))
    assert [durations.format_duration(wait) for wait in delivery.retry_after] == ["6m", "15m", "45m", "2h", "4h"]
    assert (delivery.give_up_after, delivery.disable_failures, delivery.disable_failure_rate) == (
        timedelta(hours=72), 100, 0.5,
    )  # fmt: skip
    assert (settings.run.patience, settings.daemon.interval) == (timedelta(minutes=1), timedelta(seconds=1))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("token ada", ("token", "ada")),
        ("/usr/bin/token 'a b' $HOME; rm", ("/usr/bin/token", "a b", "$HOME;", "rm")),
        ("~/token ~", ("/home/ada/token", "~")),
        ('["token", "a b"]', ("token", "a b")),
    ],
)
def test_command_is_split_into_words_without_a_shell(
    monkeypatch: pytest.MonkeyPatch, value: str, words: tuple[str, ...]
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert load(environ={"SKYCHIMP_SMTP__TOKEN_COMMAND": value}).smtp.token_command == words
    assert load(f"smtp.token_command = {list(words)!r}").smtp.token_command == words


def test_addresses_of_links_are_normalized() -> None:
    settings = load("web.url = 'https://mail.example.org/post/'\ninbound.address = 'in@b\u00fccher.example'")
    assert settings.web.url == "https://mail.example.org/post"
    assert settings.inbound.address == "in@xn--bcher-kva.example"
    assert load("web.url = 'http://localhost:8025'").web.url == "http://localhost:8025"


@pytest.mark.parametrize(("security", "port"), [("tls", 465), ("starttls", 587), ("none", 25)])
def test_default_port_depends_on_security(security: str, port: int) -> None:
    assert load(f"smtp.security = '{security}'").smtp.effective_port == port
    assert load(f"smtp = {{security = '{security}', port = 2525}}").smtp.effective_port == 2525


def test_default_time_zone_is_the_system_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Kathmandu")
    assert load().mail.read_timezone() == "Asia/Kathmandu"
    assert load("mail.timezone = 'Asia/Tokyo'").mail.read_timezone() == "Asia/Tokyo"


# Files


def test_config_file_is_found_in_order(tmp_path: Path) -> None:
    paths = [tmp_path / "named.toml", tmp_path / "variable.toml", Path("skychimp.toml")]
    paths.append(tmp_path / "home/.config/skychimp/skychimp.toml")
    for number, path in enumerate(paths, 1):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"smtp.port = {number}")
    trust.trust(config_file.read_files(paths[2].absolute()))
    environ = {"SKYCHIMP_CONFIG": str(paths[1])}
    loaded = [
        sources.load_settings(config_file=paths[0], environ=environ),
        sources.load_settings(environ=environ),
        sources.load_settings(environ={}),
    ]
    paths[2].unlink()
    loaded.append(load())
    assert [settings.smtp.port for settings in loaded] == [1, 2, 3, 4]
    assert [settings.config_file for settings in loaded] == [path.absolute() for path in paths]
    paths[3].unlink()
    assert load().config_file is None


def test_named_config_file_must_exist() -> None:
    for environ, path in (({"SKYCHIMP_CONFIG": "gone.toml"}, None), ({}, Path("gone.toml"))):
        with pytest.raises(ConfigError, match=r"config file .*gone\.toml not found") as caught:
            sources.load_settings(config_file=path, environ=environ)
        assert caught.value.hint == 'run "skychimp init --email YOU@EXAMPLE.ORG" to create it'


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"smtp.host = 'a'\n[", "is not valid TOML"),
        (b"smtp.host = 'a'\nsmtp.host = 'b'", "is not valid TOML"),
        (b"smtp.host = '\xff'", "is not valid UTF-8"),
        (None, "not a regular file"),
        (b"a = " + b"[" * 100_000, "is not valid TOML"),
        (b"smtp.port = " + b"1" * 5_000, "is not valid TOML"),
    ],
)
def test_config_file_that_cannot_be_read_is_reported(content: bytes | None, reason: str) -> None:
    path = Path("skychimp.toml")
    path.mkdir() if content is None else path.write_bytes(content)
    error = load_error()
    assert str(path.absolute()) in error.message
    assert reason in error.message


def test_byte_order_mark_is_ignored() -> None:
    assert load("\ufeffsmtp.port = 1").smtp.port == 1


def test_relative_paths_start_at_their_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "etc").mkdir()
    path = tmp_path / "etc/c.toml"
    path.write_text("store.url = 's.db'\nsmtp.ca_file = '~/ca'\nsmtp.password_file = '/p'")
    settings = sources.load_settings(config_file=path, environ={})
    assert settings.store_url == f"sqlite:///{tmp_path}/etc/s.db"
    assert settings.smtp.ca_file == tmp_path / "home/ca"
    assert settings.smtp.password_file == Path("/p")
    (tmp_path / "etc/.env").write_text("SKYCHIMP_SMTP__CA_FILE=ca")
    environ = {"SKYCHIMP_SMTP__PASSWORD_FILE": "p"}
    settings = sources.load_settings({"store.url": "f.db"}, config_file=path, environ=environ)
    assert settings.smtp.ca_file == tmp_path / "etc/ca"
    assert settings.smtp.password_file == tmp_path / "work/p"
    assert settings.store_url == f"sqlite:///{tmp_path}/work/f.db"


def test_dot_env_is_read_only_beside_the_config_file(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/c.toml").touch()
    Path(".env").write_text("# ours\nexport SKYCHIMP_SMTP__PORT='1'  # a port\nOTHER\n")
    assert sources.load_settings(config_file=tmp_path / "etc/c.toml", environ={}).smtp.port is None
    assert sources.load_settings(environ={}).smtp.port is None
    (tmp_path / "etc/.env").write_text(
        "# ours\nexport SKYCHIMP_SMTP__PORT='2'\nSKYCHIMP_SMTP__USERNAME=\"$HOME ${A}\"\n"
    )
    settings = sources.load_settings(config_file=tmp_path / "etc/c.toml", environ={})
    assert (settings.smtp.port, settings.smtp.username) == (2, "$HOME ${A}")
    (tmp_path / "etc/c.toml").unlink()
    environ = {"SKYCHIMP_CONFIG": "/dev/null"}
    assert sources.load_settings(environ=environ).smtp.port is None


def test_folder_named_dot_env_is_ignored() -> None:
    Path(".env").mkdir()
    assert load("smtp.port = 3").smtp.port == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\n\nSKYCHIMP_SMTP__PASSWORD 'hunter2-and-more\n", "line 3"),
        (b"SKYCHIMP_SMTP__PASSWORD='hunter2-and-more\nSKYCHIMP_SMTP__PORT=1\n", "line 1"),
        (b"SKYCHIMP_SMTP__PORT=x\n", "SKYCHIMP_SMTP__PORT in "),
        (b"SKYCHIMP_SMTP__PROT=1\n", "SKYCHIMP_SMTP__PROT in "),
        (b"A=\xff", "is not valid UTF-8"),
    ],
)
def test_invalid_dot_env_is_reported(content: bytes, expected: str) -> None:
    Path(".env").write_bytes(content)
    error = load_error("")
    assert expected in error.message
    assert str(Path(".env").absolute()) in error.message
    assert SECRET not in error.message


def test_lines_of_other_programs_in_a_dot_env_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    Path(".env").write_text("this is no assignment\nSKYCHIMP_TOKEN=x\nSKYCHIMP_SMTP__PORT=7\nDOCKER='\n")
    assert load("").smtp.port == 7
    assert caplog.messages == []


SLOW = {
    "a deep key": ("skychimp.toml", "a." * 100_000 + "a = 1"),
    "many deep keys": ("skychimp.toml", ("a." * 90 + "a = 1\n") * 5_000),
    "a deep section": ("skychimp.toml", "[" + "a." * 100_000 + "a]"),
    "many sections": ("skychimp.toml", "[[a]]\n" * 150_000),
    "as many sections as a file may have": ("skychimp.toml", "[[a]]\n" * 9_999),
    "nested lists": ("skychimp.toml", "a = " + "[" * 500_000),
    "quotes": ("skychimp.toml", "a = " + "'" * 900_000),
    "many lines": (".env", "A\n" * 400_000),
    "open quotes": (".env", "A='\n" * 300_000),
    "escapes": (".env", 'A="\\"\n' * 9_999),
    "spaces": (".env", " " * 900_000),
}


@pytest.mark.parametrize("kind", SLOW)
def test_hostile_file_takes_no_long_time(kind: str) -> None:
    """The time is generous. Without a limit it would be minutes."""
    name, text = SLOW[kind]
    Path("skychimp.toml").touch()
    Path(name).write_text(text)
    start = time.process_time()
    with contextlib.suppress(ConfigError):
        load()
    assert time.process_time() - start < 3


# The store


@pytest.mark.parametrize(
    ("location", "url"),
    [
        ("/a/b.db", "sqlite:////a/b.db"),
        ("b.db", "sqlite:///{here}/b.db"),
        ("./x/../b.db", "sqlite:///{here}/b.db"),
        ("sqlite:///b.db", "sqlite:///{here}/b.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("sqlite:////a%20b.db", "sqlite:////a b.db"),
        ("/a?b%41.db", "sqlite:////a%3Fb%2541.db"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg://u@h/d"),
        ("postgresql://u@h/d?sslmode=require", "postgresql+psycopg://u@h/d?sslmode=require"),
        ("postgres://u@h/d", "postgresql+psycopg://u@h/d"),
    ],
)
@pytest.mark.parametrize("source", ["flag", "SKYCHIMP_STORE", "SKYCHIMP_STORE__URL", "file"])
def test_store_location_becomes_a_url(location: str, url: str, source: str) -> None:
    if source == "flag":
        settings = load(store__url=location)
    elif source == "file":
        settings = load(f"store.url = '{location}'")
    else:
        settings = load(environ={source: location})
    assert settings.store_url == url.format(here=Path.cwd())


@given(st.text(st.characters(blacklist_categories=["Cc", "Cs", "Zl", "Zp"], blacklist_characters="/"), min_size=1))
def test_store_url_is_the_url_of_exactly_this_file(name: str) -> None:
    from sqlalchemy.engine import make_url

    settings = sources.load_settings({"store.url": f"/folder/{name}"}, environ={})
    assert make_url(settings.store_url).database == str(Path(f"/folder/{name}"))
    assert settings.store_name == str(Path(f"/folder/{name}"))


def test_link_to_a_store_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to("data")
    Path("s.db").symlink_to(tmp_path / "link/s.db")
    assert load(store__url="s.db").store_url == f"sqlite:///{tmp_path}/data/s.db"


def test_default_store_is_in_the_data_folder(tmp_path: Path) -> None:
    assert load().store_url == f"sqlite:///{tmp_path}/home/.local/share/skychimp/skychimp.db"


# Invalid values


@pytest.mark.parametrize(
    ("line", "hint"),
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
        ("mail.reply_to = 'Ada'", "Name <address>"),
        (r'mail.postal_address = "a\nb"', "one line"),
        ("mail.headers = 'X-A: b'", "a table"),
        ("mail.headers = ['X-A']", "a table"),
        ("mail.headers = {'X A' = 'b'}", "such as X-Campaign"),
        (r'mail.headers = {"X-A\r\nBcc" = "b"}', "such as X-Campaign"),
        (r'mail.headers = {"X-A" = "b\r\nBcc: c@d"}', "one line"),
        ("mail.headers = {X-A = 1}", "one line"),
        ("mail.headers = {X-A = ''}", "one line"),
        ("mail.headers = {X-A = 'b', x-a = 'c'}", "each header only once"),
        *((f"mail.headers = {{{name} = 'b'}}", f"use other headers than {name}") for name in OUR_HEADERS),
        ("mail.headers = {" + ", ".join(f"X-{n} = 'b'" for n in range(21)) + "}", "at most 20 headers"),
        ("web.url = 'http://mail.example.org'", "https://mail.example.org"),
        ("web.url = 'http://localhost.example.org'", "https://mail.example.org"),
        ("web.url = 'https://mail.example.org/?a=b'", "https://mail.example.org"),
        ("web.url = 'https://" + "a" * 200 + "'", "at most 200 characters"),
        ("inbound.address = 'In <in@example.org>'", "an email address"),
        ("inbound.address = 'in+x@example.org'", "use an address with at most 27"),
        ("inbound.address = '" + "a" * 28 + "@example.org'", "at most 27"),
        ("service.shared = 1", "true or false"),
        ("service.shared = 'yes'", "true or false"),
        ("service.operators = 'ada'", '["ada", "grace"]'),
        ("service.operators = [1]", '["ada", "grace"]'),
        ("service.operators = ['']", '["ada", "grace"]'),
        ("mail.timezone = 'Mars/Olympus'", "Europe/Berlin"),
        ("mail.timezone = '+03:00'", "Europe/Berlin"),
        ("mail.timezone = 'localtime'", "Europe/Berlin"),
        ("mail.timezone = 'right/UTC'", "Europe/Berlin"),
        ("mail.timezone = '../UTC'", "Europe/Berlin"),
        ("mail.timezone = ''", "Europe/Berlin"),
        ("mail.timezone = 3", "Europe/Berlin"),
        ("smtp.host = ''", "mail.example.org"),
        ("dkim.domain = 'example'", "example.org"),
        ("dkim.domain = 'a@example.org'", "example.org"),
        ("dkim.selector = 's1; t=x'", "a name such as s1"),
        ("dkim.selector = ['s1', 7]", "a name such as s1"),
        ("dkim.key_file = []", "use a file name"),
        ("dkim.key_file = ['']", "use a file name"),
        ("dns.nameserver = 'ns.example.org'", "9.9.9.9"),
        ("dns.nameserver = '9.9.9.9:70000'", "127.0.0.1:5353"),
        ("dns.nameserver = 53", "9.9.9.9"),
        ("web.listen = '8025'", "127.0.0.1:8025"),
        ("web.listen = 'example.org:8025'", "127.0.0.1:8025"),
        ("web.listen = '127.0.0.1:70000'", "127.0.0.1:8025"),
        ("web.listen = 'unix:web.sock'", "unix:/run/skychimp/web.sock"),
        ("web.listen = 'unix:/a;}'", "unix:/run/skychimp/web.sock"),
        ("smtp.host = 'mail.example.org:587'", "smtp.port"),
        ("smtp.host = 'smtp://mail.example.org'", "mail.example.org"),
        ("blog.url = 'blog.example.org'", "https://example.org/blog"),
        ("blog.url = 'ftp://blog.example.org'", "https://example.org/blog"),
        ("blog.url = 'https://a@blog.example.org'", "https://example.org/blog"),
        ("blog.url = 'https://blog.example.org/{{ x }}'", "https://example.org/blog"),
        ("blog.title = ' '", "one line"),
        ('blog.tagline = "a\\nb"', "one line"),
        ("blog.language = 'english language'", "such as en, ru or pt-BR"),
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
        ("smtp.password_file = 7", "a file name"),
        *((f'{setting} = "/a{text}b"', "without line breaks") for setting in PATHS for text in CONTROLS),
        (r"store.url = 'sqlite:////a%0Ab'", "without line breaks"),
        (r'store.url = "postgresql+psycopg://u@h/d\nx"', "without line breaks"),
        ("smtp.ca_file = ''", "a file name"),
        ("smtp.connections = 0", "a whole number from 1 to 1000"),
        ("smtp.emails_per_connection = '-1'", "a whole number from 1"),
        ("smtp.auth = 'cram-md5'", "'plain', 'login' or 'xoauth2'"),
        ("smtp.token_command = ''", "a program and its arguments"),
        ("smtp.token_command = []", "a program and its arguments"),
        ("smtp.token_command = ['']", "a program and its arguments"),
        ("smtp.token_command = ['token', 1]", "a program and its arguments"),
        ("smtp.token_command = 'token \"open'", "a program and its arguments"),
        (r'smtp.token_command = "token \u0000"', "a program and its arguments"),
        ("smtp.token_command = 'bin/token'", 'an absolute path of the program "bin/token"'),
        ("smtp.token_command = ['./token']", 'an absolute path of the program "./token"'),
        ("smtp.rate = 100", "100/s, 300/min, 5000/h or 2000/d"),
        ("smtp.rate = '100/w'", "100/s, 300/min, 5000/h or 2000/d"),
        ("smtp.rate = '0/s'", "100/s, 300/min, 5000/h or 2000/d"),
        ("smtp.rate = ['10/s', 7]", '["10/s", "2000/d"]'),
        ("smtp.rate = '[\"10/s\"'", '["10/s", "2000/d"]'),
        ("smtp.timeout = 60", "30s, 5m, 2h, 3d or 1h30m"),
        ("smtp.timeout = '1.5s'", "30s, 5m, 2h, 3d or 1h30m"),
        ("smtp.timeout = '0s'", "longer than 0s"),
        ("delivery.unknown = 'drop'", "'resend' or 'hold'"),
        ("delivery.unknown_after = '-5m'", "30s, 5m, 2h, 3d or 1h30m"),
        ("delivery.give_up_after = '36501d'", "at most 36500d"),
        ("delivery.retry_after = '5m'", '["5m", "1h"]'),
        ("delivery.retry_after = []", '["5m", "1h"]'),
        ("delivery.retry_after = ['5m', '0s']", "longer than 0s"),
        ("delivery.retry_after = ['5m', 'soon']", "30s, 5m, 2h, 3d or 1h30m"),
        ("delivery.disable_failures = 'many'", "a whole number from 1"),
        ("delivery.disable_failure_rate = 50", "a number from 0 to 1"),
        ("delivery.disable_failure_rate = nan", "a number from 0 to 1"),
        ("delivery.disable_failure_rate = 'half'", "a number from 0 to 1"),
    ],
)
def test_invalid_value_is_reported_with_its_source_and_what_is_valid(line: str, hint: str) -> None:
    error = load_error(line)
    assert error.message.startswith(f"invalid {line.partition(' ')[0]} ")
    assert f"(from {Path('skychimp.toml').absolute()})" in error.message
    assert error.hint is not None
    assert error.hint.startswith("use ")
    assert hint in error.hint


@pytest.mark.parametrize(
    ("environ", "source"),
    [
        ({"SKYCHIMP_SMTP__PORT": "x"}, "SKYCHIMP_SMTP__PORT in the environment"),
        ({"SKYCHIMP_DELIVERY__RETRY_AFTER": "5m"}, "SKYCHIMP_DELIVERY__RETRY_AFTER in the environment"),
        ({"SKYCHIMP_DELIVERY__RETRY_AFTER": "[" * 100_000}, "SKYCHIMP_DELIVERY__RETRY_AFTER in the environment"),
        ({"SKYCHIMP_DELIVERY__RETRY_AFTER": '{"5m": 1}'}, "SKYCHIMP_DELIVERY__RETRY_AFTER in the environment"),
        ({"SKYCHIMP_STORE": "mysql://h/d", "SKYCHIMP_STORE__URL": "a.db"}, "SKYCHIMP_STORE in the environment"),
    ],
)
def test_error_names_the_variable(environ: dict[str, str], source: str) -> None:
    assert f"(from {source})" in load_error(environ=environ).message


def test_error_names_the_command_line() -> None:
    assert "(from the command line)" in load_error(store__url="mysql://h/d").message


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("smtp.hosst = 'x'", "unknown setting smtp.hosst", "did you mean smtp.host?"),
        ("[stmp]\nhost = 'x'", "unknown setting stmp.host", "did you mean smtp.host?"),
        ("[smtp.hosts]\na = 1", "unknown setting smtp.hosts", "did you mean smtp.host?"),
        ("zzz.zzz = 1", "unknown setting zzz.zzz", "skychimp help config"),
        ("port = 25", 'unknown section "port"', "[smtp]"),
        ("[[smtp]]\nport = 25", 'unknown section "smtp"', "[smtp]"),
    ],
)
def test_unknown_setting_is_reported(text: str, message: str, hint: str) -> None:
    error = load_error(text)
    assert message in error.message
    assert hint in (error.hint or "")


def test_unknown_variable_of_a_known_section_is_reported() -> None:
    error = load_error(environ={"SKYCHIMP_SMTP__HOSST": "x"})
    assert error.message == "unknown setting SKYCHIMP_SMTP__HOSST in the environment"
    assert error.hint == "did you mean SKYCHIMP_SMTP__HOST?"
    load(environ={"SKYCHIMP_TOKEN": "x", "SKYCHIMP_ANYTHING": "x", "SKYCHIMP_OTHER__THING": "x"})


@pytest.mark.parametrize(("old", "new"), sources.RENAMED_SETTINGS.items())
def test_old_name_of_a_setting_is_accepted(old: str, new: str) -> None:
    def variable(setting: str) -> str:
        return f"SKYCHIMP_{setting.replace('.', '__')}".upper()

    assert value_of(load(f"{old} = 4").model_dump(), new) == 4
    Path("skychimp.toml").unlink()
    assert value_of(load(environ={variable(old): "5"}).model_dump(), new) == 5
    assert value_of(load(environ={variable(new): "6", variable(old): "5"}).model_dump(), new) == 6
    assert old not in example.example_config()


def test_error_names_the_variable_with_the_old_name() -> None:
    error = load_error(environ={"SKYCHIMP_SMTP__LETTERS_PER_CONNECTION": "x"})
    assert error.message == (
        'invalid smtp.emails_per_connection "x" (from SKYCHIMP_SMTP__LETTERS_PER_CONNECTION in the environment)'
    )


# Secrets


def test_password_is_never_shown() -> None:
    settings = load(f"smtp.password = '{SECRET}'\nstore.url = 'postgresql+psycopg://ada:{SECRET}@db/x'")
    assert settings.smtp.read_password() == SECRET
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
        f"store.url = 'mysql://ada:{SECRET}@db/x'",
        f"store.url = 'mysql://ada:p@{SECRET}@db/x'",
        f"smtp.password = '{SECRET}",
    ],
)
def test_error_shows_no_password(text: str) -> None:
    error = load_error(text)
    assert SECRET not in f"{error.message} {error.hint} {error!r}"


@pytest.mark.parametrize(
    "url", [f"postgresql://ada:{SECRET}@db/x", f"postgresql:///x?user=ada&password={SECRET}&sslmode=require"]
)
def test_password_of_a_database_is_refused_where_others_see_it(url: str) -> None:
    assert SECRET not in load(f"store.url = '{url}'").store_name
    with pytest.raises(ConfigError, match="other users can see a password on the command line") as raised:
        load(store__url=url)
    assert SECRET not in f"{raised.value.message} {raised.value.hint}"


def test_password_is_read_from_its_file(tmp_path: Path) -> None:
    Path("p").write_bytes(f"{SECRET}\r\n".encode())
    assert load("smtp.password_file = 'p'").smtp.read_password() == SECRET
    assert load("smtp = {password_file = 'p', password = 'other'}").smtp.read_password() == "other"
    Path("p").write_bytes(b"\xff")
    for name, reason in (("p", "not valid UTF-8"), ("gone", "No such file"), (".", "not a regular file")):
        with pytest.raises(ConfigError, match=reason):
            load(f"smtp.password_file = '{name}'").smtp.read_password()
        with pytest.raises(ConfigError, match=reason):
            load(f"store.password_file = '{name}'").store.read_password()


# The example


def test_example_file_is_up_to_date() -> None:
    assert EXAMPLE.read_text(encoding="utf-8") == example.example_config()


def test_example_has_the_default_values() -> None:
    defaults = load()
    assert load(example.example_config()).model_copy(update={"config_file": None}) == defaults


def test_example_shows_every_setting_with_a_valid_value_and_its_meaning() -> None:
    lines = example.example_config().splitlines()
    shown = "\n".join(line.removeprefix("# ") for line in lines if " = " in line or line.startswith("["))
    tree = tomllib.loads(shown)
    assert {name: list(keys) for name, keys in tree.items()} == {name: list(keys) for name, keys in sections().items()}
    load(shown)
    for before, line in pairwise(lines):
        assert " = " not in line or before.startswith("# ")  # each setting is explained


@given(st.text(st.characters(blacklist_categories=["Cs"])))
def test_value_in_a_generated_config_is_read_back(text: str) -> None:
    assert tomllib.loads(example.example_config({"mail.sender": text}))["mail"]["sender"] == text


# Rates


@pytest.mark.parametrize(
    ("value", "rates"),
    [
        ("'100/s'", [(100, 1)]),
        ("'300/min'", [(300, 60)]),
        ("['10/s', '5000/h', '2000/d']", [(10, 1), (5000, 3600), (2000, 86400)]),
        ("[]", []),
    ],
)
def test_rates_are_parsed(value: str, rates: list[tuple[int, int]]) -> None:
    assert [(rate.emails, rate.period_s) for rate in load(f"smtp.rate = {value}").smtp.rate or ()] == rates


def test_rates_of_the_environment_are_json() -> None:
    settings = load(environ={"SKYCHIMP_SMTP__RATE": '["10/s", "2000/d"]'})
    assert settings.smtp.rate == (Rate(10, "s"), Rate(2000, "d"))
