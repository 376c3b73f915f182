"""`skychimp help schemas`: what each command prints with --json, by the types of the services' results."""

from datetime import datetime
from functools import cache
from typing import Any

from skychimp.cli.commands import run, service_install, trust
from skychimp.cli.commands.messages import SentTest
from skychimp.cli.display.json_schemas import Either, Flattened, Merged, Shape, make_schema
from skychimp.cli.display.mailing_view import DueTimeRow
from skychimp.models import DeliveryState
from skychimp.services.accounts import accounts, own_sessions
from skychimp.services.audit import AuditInfo
from skychimp.services.blog import posts
from skychimp.services.clients import clients, consents, fields, importing, segments, suppression_import, suppressions
from skychimp.services.inbound import processing
from skychimp.services.mailings import forecast, queries, recipients, retries
from skychimp.services.mailings.outbox_mail import FromOutbox
from skychimp.services.messages import layouts, messages, rendering, variants
from skychimp.services.messages.checks.findings import MessageFinding
from skychimp.services.operations import (
    backups,
    clock,
    compaction,
    deliverability,
    findings,
    integrity,
    status,
    store_copy,
    token_key,
    unknown_deliveries,
)
from skychimp.services.reporting import address_history, delivery_log, home, reports
from skychimp.services.users import privacy, users
from skychimp.shell import command
from skychimp.site import build
from skychimp.store.holds import HeldMailing
from skychimp.store.occurrences.canary import Waiting
from skychimp.store.relay_pauses import RelayPause, UnavailableRelay
from skychimp.store.runs import OtherRun

ERROR = "error"
"""The name of the schema of an error, which any command can print on stderr."""

_EMAIL = {"email": str}
_DUE = {"mailing_id": int, "due_at": datetime, "would_send": int, "left_out": int}
_FILE = {"file": str}
_LEFT_OUT = {"suppressed": int, "bad_address": int, "no_consent": int, "excluded": int}
_WHOLE_CLIENT = Merged(
    (clients.ClientInfo, {"suppressions": [suppressions.SuppressionInfo], "consents": [consents.ConsentInfo]})
)
_COUNTS = {"recipients": int, "left_out": _LEFT_OUT}
_COUNTED_MAILING = Merged((queries.MailingInfo, _COUNTS))
_MAILING = Merged((queries.MailingInfo, {"recipients?": int, "left_out?": _LEFT_OUT}))
_SUMMARY = dict(run.Summary.__annotations__) | {
    "other_run": Either((None, OtherRun)),
    "from_outbox": Either((None, FromOutbox)),
}
_MESSAGE_SHOWN = Merged(
    (messages.MessageInfo, {"variants?": [variants.VariantCount], "fallback_clients?": int}),
)
_SUPPRESSIONS = Either((suppressions.SuppressionInfo, [suppressions.SuppressionInfo]))
_DOMAIN = Flattened(reports.DomainReport)

SHAPES: dict[str, Shape] = {
    ERROR: {"error": {"code": str, "message": str, "hint": str | None}},
    "audit list": [AuditInfo],
    "backup": backups.Backup,
    "blog build": build.BuildResult,
    "blog create": posts.PostDetail,
    "blog delete": Either((posts.PostDetail, [posts.PostDetail])),
    "blog list": [posts.PostInfo],
    "blog publish": posts.PostDetail,
    "blog show": Either((posts.PostDetail, [posts.PostDetail])),
    "blog unpublish": posts.PostDetail,
    "blog update": Either((posts.PostDetail, [posts.PostDetail])),
    "clients consents": [consents.AddressConsent],
    "clients create": clients.ClientInfo,
    "clients delete": Either((clients.ClientInfo, [clients.ClientInfo])),
    "clients export": {"clients": int, "file": str},
    "clients fields": Either(([fields.FieldInfo], fields.FieldInfo)),
    "clients forget": privacy.RecordCounts,
    "clients import": importing.ImportResult,
    "clients list": [clients.ClientInfo],
    "clients show": Either((_WHOLE_CLIENT, [_WHOLE_CLIENT])),
    "clients tags": [clients.TagCount],
    "clients update": Either((clients.ClientInfo, [clients.ClientInfo], {"selected": int, "other_tags": int})),
    "demo": {"emails": int, "letters": int, "commands": [str]},
    "dkim keygen": {
        "domain": str,
        "selector": str,
        "type": str,
        "key_file": str,
        "record": {"name": str, "type": str, "value": str, "strings": [str]},
    },
    "doctor": Either(
        (
            {"ok": bool, "findings": [Merged((findings.Finding, {"ok": bool}))]},
            [deliverability.Requirement],
            Merged(({"clock": str}, clock.AcceptedClock)),
        )
    ),
    "help": Either(
        (
            [{"name": str, "title": str}],
            {"topic": str, "text": str},
            {"pages": int, "folder": str},
            dict[str, Any],
        )
    ),
    "inbound imap": processing.Summary,
    "inbound maildir": processing.Summary,
    "inbound read": processing.Summary,
    "init": {"email": str, "role": str, "config": str | None, "store": str},
    "layouts create": layouts.LayoutInfo,
    "layouts delete": Either((layouts.LayoutInfo, [layouts.LayoutInfo])),
    "layouts list": [layouts.LayoutInfo],
    "layouts show": Either((layouts.LayoutInfo, [layouts.LayoutInfo])),
    "layouts update": Either((layouts.LayoutInfo, [layouts.LayoutInfo])),
    "login": Merged((accounts.Account, {"token?": str})),
    "logout": {"email": str | None},
    "mailings audience": [recipients.Recipient],
    "mailings create": Merged((_MAILING, {"run?": _SUMMARY})),
    "mailings delete": Either((_MAILING, [_MAILING])),
    "mailings disable": Either((_MAILING, [_MAILING])),
    "mailings duplicate": _MAILING,
    "mailings enable": Either((_MAILING, [_MAILING])),
    "mailings list": [queries.MailingInfo],
    "mailings log": [delivery_log.AttemptInfo],
    "mailings preview": [DueTimeRow],
    "mailings retry": retries.Retry,
    "mailings show": Either((_COUNTED_MAILING, [_COUNTED_MAILING])),
    "mailings update": Either((_MAILING, [_MAILING])),
    "messages check": {"ok": bool, "findings": [Merged((MessageFinding, {"ok": bool}))]},
    "messages create": messages.MessageInfo,
    "messages delete": Either((messages.MessageInfo, [messages.MessageInfo])),
    "messages list": [messages.MessageInfo],
    "messages preview": Either((rendering.Preview, _FILE)),
    "messages show": Either((_MESSAGE_SHOWN, [_MESSAGE_SHOWN])),
    "messages test": Either((SentTest, [SentTest])),
    "messages update": Either((messages.MessageInfo, [messages.MessageInfo])),
    "messages variants delete": Either((variants.VariantInfo, [variants.VariantInfo])),
    "messages variants list": [variants.VariantInfo],
    "messages variants set": variants.VariantInfo,
    "password change": accounts.Account,
    "password reset": Either((accounts.Account, _EMAIL)),
    "register": Either(({"email": str, "name": str, "verified": bool}, accounts.Account)),
    "report": Merged(
        (
            Flattened(reports.Report),
            {
                "occurrences": [
                    Merged((Flattened(reports.OccurrenceReport), {"rate": [Flattened(reports.RatePoint)]}))
                ],
                "domains": [_DOMAIN],
            },
        )
    ),
    "resolve": Either(([unknown_deliveries.UnknownDelivery], unknown_deliveries.Resolved, backups.Resumed)),
    "restore": backups.Restored,
    "run": Either(
        (
            _SUMMARY,
            Merged((_SUMMARY, {"clients": [forecast.Forecast], "due": [_DUE], "would_send": int})),
        )
    ),
    "segments create": segments.SegmentCount,
    "segments delete": Either((segments.SegmentInfo, [segments.SegmentInfo])),
    "segments list": [segments.SegmentInfo],
    "segments show": Either((segments.SegmentCount, [segments.SegmentCount])),
    "segments update": Either((segments.SegmentCount, [segments.SegmentCount])),
    "service cron": {"crontab": str},
    "service install": service_install.Changed,
    "service remove": service_install.Changed,
    "service sudoers": {"sudoers": str},
    "service systemd": dict[str, str],
    "service web": dict[str, str],
    "sessions end": [own_sessions.SessionInfo],
    "sessions list": [own_sessions.SessionInfo],
    "stats": Either(
        (
            home.Home,
            {
                "since": str,
                "until": str,
                "days": [Merged((Flattened(reports.Day), {"day": str}))],
                "failures": [reports.ReplyGroup],
                "best": [_DOMAIN],
                "worst": [_DOMAIN],
            },
        )
    ),
    "status": Merged(
        (
            status.Status,
            {
                "queue": dict[DeliveryState, int],
                "relay": Either((None, dict(RelayPause.__annotations__))),
                "unavailable_relay": Either((None, dict(UnavailableRelay.__annotations__))),
                "held_mailings": [dict(HeldMailing.__annotations__)],
                "canaries": [dict(Waiting.__annotations__)],
                "ok": bool,
                "configured_relay": str,
            },
        )
    ),
    "store check": {"ok": bool, "faults": [integrity.Fault]},
    "store copy": store_copy.CopiedStore,
    "store rotate-key": token_key.NewKey,
    "store vacuum": compaction.Compacted,
    "suppressions add": _SUPPRESSIONS,
    "suppressions export": {"suppressions": int, "file": str},
    "suppressions import": suppression_import.SuppressionImportResult,
    "suppressions list": [suppressions.SuppressionInfo],
    "suppressions remove": _SUPPRESSIONS,
    "suppressions show": [suppressions.SuppressionInfo],
    "trust": Either(
        (
            [trust.TrustRow],
            {"path": str, "state": str, "trusted_at?": datetime, "settings?": dict[str, str]},
        )
    ),
    "users block": Either((users.UserInfo, [users.UserInfo])),
    "users export": Either((_FILE, dict[str, Any])),
    "users list": [users.UserInfo],
    "users role": users.UserInfo,
    "users show": Either((users.UserInfo, [users.UserInfo])),
    "users unblock": Either((users.UserInfo, [users.UserInfo])),
    "verify": {"email": str, "verified?": bool},
    "whoami": accounts.CurrentUser,
    "why": address_history.AddressHistory,
}
"""What each command prints."""


def names() -> list[str]:
    """Return the commands with a schema, such as `clients list`, and `error`."""
    return list(SHAPES)


@cache
def find(name: str) -> dict[str, Any]:
    """Return the schema of a command."""
    return make_schema(SHAPES[name], name if name == ERROR else command(*name.split(), "--json"))
