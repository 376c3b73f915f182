"""Tell whose fault a refusal is by the words of the reply; pure.

In doubt, the fault is neither the address's nor the relay's: a client who is marked as bad gets no more email, and a
relay that is held stops everybody.
"""

from typing import NamedTuple

from skychimp.delivery.sending.refusals.remedies import (
    ASK_CLIENT,
    ASK_RELAY,
    AUTHENTICATE,
    DELIST,
    DKIM,
    FEWER,
    LOGIN,
    MARKED_BAD,
    OWN_SENDER,
    PREVIEW,
    QUOTA,
    READ_REPLY,
    RECONNECT,
    SENDER,
    SHORTER,
    SLOWER,
    SPF,
    USE_TLS,
    VERIFY,
    WAIT,
)
from skychimp.delivery.sending.refusals.verdicts import Fault
from skychimp.translation import Phrase, tr


class Rule(NamedTuple):
    """A row of the table. `codes` is matched with the code, the enhanced code and the phase, as "550 5.1.1 rcpt"."""

    fault: Fault
    codes: str
    words: str
    meaning: str
    remedy: Phrase


RULES = [
    # The recipient's doing, in words that also name a limit, a block list or a login
    Rule(
        Fault.REFUSED, "5",
        r"resolver\.rst\.(?!recipsize)|(?:blocked|blacklisted|rejected|refused) by (?:the |this )?(?:recipient|user)\b"
        r"|(?:customer|recipient's|user's) (?:block|black) ?list|recipient preferences|relay not permitted for user",
        tr("the recipient does not accept email from everybody"), ASK_CLIENT,
    ),
    # Sendmail gives it the code that RFC 7505 has for senders.
    Rule(
        Fault.ADDRESS, r"5.. \S+ (?:rcpt|data|dot)", r"^host does not accept mail",
        tr("the domain does not accept email"), MARKED_BAD,
    ),
    Rule(Fault.REFUSED, "5", r"may not exist", tr("the server may not know the address"), READ_REPLY),
    Rule(
        Fault.REFUSED, r"5.. \S+ (?:rcpt|data|dot)",
        r"temporar(?:y|ily) (?:disabled|inactive|locked|suspended)",
        tr("the mailbox is disabled for now"), ASK_CLIENT,
    ),
    Rule(
        Fault.MAILBOX, "",
        r"receiving (?:e?mail|messages) (?:too quickly|at a rate)|recipient (?:thread limit|has exceeded)"
        r"|ratelimit exceeded for mailbox",
        tr("the mailbox gets too much email at the moment"), WAIT,
    ),
    Rule(Fault.RATE_LIMIT, "4", r"smtp relay limit", tr("your account sends faster than the server allows"), SLOWER),
    Rule(
        Fault.MAILBOX, r"4.. 4\.2\.1 (?:rcpt|data|dot)", "",
        tr("the mailbox does not take email at the moment"), WAIT,
    ),
    Rule(Fault.MAILBOX, r"... .\.2\.2 (?:rcpt|data|dot)", "", tr("the mailbox is full"), ASK_CLIENT),
    Rule(Fault.MAILBOX, "", r"too much mail data|too many messages on the server", tr("the mailbox is full"), ASK_CLIENT),
    Rule(Fault.MAILBOX, "4", r"gr[ea]y-?list", tr("the server uses greylisting: it takes the email later"), WAIT),
    # Encryption, and login by the code
    Rule(
        Fault.RELAY, "",
        r"must issue a starttls|(?:tls|encryption) (?:is )?(?:needed|required)(?! for rcpt| but)",
        tr("the server requires encryption"), USE_TLS,
    ),
    Rule(Fault.LOGIN, "530", "", tr("the server requires a login"), LOGIN),
    Rule(Fault.LOGIN, "534", "", tr("the server requires another kind of login"), LOGIN),
    Rule(Fault.LOGIN, "535", "", tr("the username or password is wrong"), LOGIN),
    # Limits
    Rule(
        Fault.SESSION_LIMIT, "",
        r"(?:messages?|e?mails?|count) (?:per|in this|on this|for this) (?:smtp )?(?:session|connection)"
        r"|too many messages sent",
        tr("the server limits the number of emails over one connection"), RECONNECT,
    ),
    Rule(
        Fault.CONNECTION_LIMIT, "",
        r"too many (?:open |concurrent |simultaneous )?(?:smtp )?(?:connections|sessions)"
        r"|(?:concurrent|simultaneous) (?:smtp |server )?connections|concurrency limit",
        tr("the server allows fewer connections at once"), FEWER,
    ),
    Rule(
        Fault.QUOTA, "",
        r"(?:daily|hourly|monthly|hour|per day) (?:\w+ ){0,5}(?:limit|quota|exceeded)"
        r"|\b(?:limits?|quota|exceeded|exceeds|too many|only)\b.{0,60}\b(?:per|this|each) (?:day|hour|month)"
        r"|submission ?quota|outgoing e?mail quota|credits exceeded|send limit exceeded|tenant (?:has )?exceeded"
        r"|unusual sending activity",
        tr("the account has used up what it may send"), QUOTA,
    ),
    Rule(
        Fault.QUOTA, r"... .\.7\.", r"^(?!.*\b(?:mailbox|inbox|disk|user)\b).*\bquota\b",
        tr("the account has used up what it may send"), QUOTA,
    ),
    Rule(Fault.QUOTA, r"5.. 5\.4\.5 ", "", tr("the account has used up what it may send"), QUOTA),
    Rule(
        Fault.RATE_LIMIT, "", r"rate limited because .{0,60}(?:authenticat|\bspf\b|\bdkim\b|\bdmarc\b)",
        tr("the server slows the email down, because SPF, DKIM or DMARC fails for the sender's domain"), AUTHENTICATE,
    ),
    Rule(
        Fault.RATE_LIMIT, "",
        r"rate[ -]?limit|(?:sending|submission|unusual) rate|rate (?:exceed|over ?limit)|throttl|frequency limited"
        r"|too frequent"
        r"|too (?:much|many) (?:e?mails?|messages|recipients)"
        r"|too many (?:new tls sessions|auth commands|login attempts)|too (?:fast|quickly)|slow down"
        r"|temporarily deferred|excessive volume|server busy",
        tr("too much email in a short time"), SLOWER,
    ),
    # Login, by the words
    Rule(
        Fault.LOGIN, "5",
        r"^(?!.*\b(?:spf|dkim|dmarc)\b).*(?:authentication (?:is )?required|authenticate first|without authentication"
        r"|client (?:was )?not authenticated|unauthenticated senders|smtp auth(?:entication)? is required"
        r"|requires authentication|turn on smtp authentication|auth command first|not logged in)",
        tr("the server requires a login"), LOGIN,
    ),
    Rule(
        Fault.LOGIN, "5", r"sending account has been|sending for this account is disabled|account not subscribed",
        tr("your account on the mail server is blocked"), ASK_RELAY,
    ),
    # The message, in words that also name the sender or a block list
    Rule(
        Fault.MESSAGE, r"5.. \S+ (?:data|dot)",
        r"duplicate header|\brfc .{0,20}compliant|\burls?\b|message contains",
        tr("the email's content was refused"), PREVIEW,
    ),
    # The sender
    Rule(
        Fault.SENDER, "",
        r"not owned by|send ?as\b|sendasdenied|permissions? to send|relaying disallowed as"
        r"|sender (?:address )?is not allowed|from address is not one of|mail from (?:address )?must|not local sender"
        r"|not authorized to send from",
        tr("your account may not send from the sender's address"), OWN_SENDER,
    ),
    Rule(
        Fault.SENDER, "5",
        r"address is not verified|verified sender identity|from domain not trusted|unregistered domain",
        tr("the sender's address is not verified"), VERIFY,
    ),
    Rule(
        Fault.SENDER, "4", r"sender address rejected: domain not found",
        tr("the sender's domain does not exist"), SENDER,
    ),
    Rule(
        Fault.SENDER, "5",
        r"(?:sender address|mailfrom domain|(?:your|sender|sending) domain).{0,40}(?:blocked using|listed|block ?list)"
        r"|reputation of the sending domain",
        tr("the sender's domain is on a block list or has a bad reputation"), AUTHENTICATE,
    ),
    Rule(
        Fault.SENDER, "5",
        r"sender (?:email )?(?:address )?(?:is )?(?:rejected|refused|denied|blocked|must)|outbound sender"
        r"|domain of sender|\bsender(?:'s)? (?:\S+ ){0,3}(?:unknown|not found|does not exist|verify failed)",
        tr("the sender's address is refused"), SENDER,
    ),
    Rule(Fault.SENDER, "5", r"\bdmarc\b", tr("DMARC fails for the sender's domain"), AUTHENTICATE),
    Rule(
        Fault.SENDER, "5", r"either spf or dkim|authentication (?:information|checks)",
        tr("SPF and DKIM fail for the sender's domain"), AUTHENTICATE,
    ),
    Rule(Fault.SENDER, "5", r"\bspf\b", tr("SPF does not allow your server"), SPF),
    Rule(Fault.SENDER, "5", r"\bdkim\b", tr("no DKIM signature is valid"), DKIM),
    # This computer, or the relay
    Rule(
        Fault.RELAY, "",
        r"relay(?:ing)? (?:to … )?(?:access )?(?:is )?(?:denied|not permitted|not allowed|prohibited)|unable to relay"
        r"|allowed rcpthosts|credentials for relay|not configured to relay|do(?:n't| not) relay|not a gateway",
        tr("the server does not relay email for you"), tr("set smtp.username, or {ask_relay}", ask_relay=ASK_RELAY),
    ),
    Rule(
        Fault.RELAY, "",
        r"reverse (?:dns|hostname)|\bptr\b|ip name lookup failed|cannot find your",
        tr("the server finds no host name for the IP address (reverse DNS)"), ASK_RELAY,
    ),
    Rule(
        Fault.RELAY, "5", r"helo command rejected|bad helo",
        tr("the server refuses this computer's host name"), ASK_RELAY,
    ),
    Rule(
        Fault.RELAY, "",
        r"spamhaus|block(?:ed)? ?list|black ?list|dnsbls?\b|\brbl\b|blocked using|permanently deferred"
        r"|\bbanned\b|blocked - see|(?:poor|bad) reputation|reputation of the sending ip|traffic not accepted"
        r"|\bip\b.{0,20}is listed",
        tr("the mail server's IP address is on a block list"), DELIST,
    ),
    Rule(
        Fault.RELAY, "5",
        r"client host (?:\S+ )?(?:rejected|blocked)|host network not allowed|not allowed to connect"
        r"|your access to .{0,40}has been rejected|not authorized to send email directly",
        tr("the server refuses this computer"), ASK_RELAY,
    ),
    # The recipient
    Rule(
        Fault.MAILBOX, r"... \S+ (?:rcpt|data|dot)",
        r"(?:mailbox|inbox|storage)(?: for user)?(?: …)?(?: is)? full|over ?quota|quota (?:limit )?exceeded"
        r"|exceeds quota|exceeded storage|exhausted allowed storage",
        tr("the mailbox is full"), ASK_CLIENT,
    ),
    Rule(
        Fault.ADDRESS, r"5(?:11|5[0-4]) \S+ (?:rcpt|data|dot)",
        r"^(?!.*\bsender\b).*(?:"
        r"(?:user|recipient|addressee|mailbox|account)[ …()]{1,9}(?:is )?(?:unknown|not found)"
        r"|(?:user|recipient|mailbox|account) (?:does)?(?: ?not|n't) exist"
        r"|unknown (?:user|recipient)|no such (?:user|recipient|mailbox)|no mailbox here|not our (?:user|customer)"
        r"|does(?:n't| not) have an? (?:\S+ )?account)",
        tr("the mailbox does not exist"), MARKED_BAD,
    ),
    Rule(
        Fault.ADDRESS, r"5(?:25|5[0-4]) \S+ (?:rcpt|data|dot)",
        r"disabled or discontinued|user is terminated|disabled recipient address",
        tr("the mailbox is disabled"), MARKED_BAD,
    ),
    Rule(Fault.REFUSED, r"5.. 5\.2\.1 (?:data|dot)", "", tr("the mailbox does not accept the email"), ASK_CLIENT),
    # The message
    Rule(
        Fault.MESSAGE, "5", r"too (?:large|big)|size (?:exceeds|limit)|exceeds .{0,30}size|line (?:length|is too long)",
        tr("the email is too large"), SHORTER,
    ),
    Rule(
        Fault.MESSAGE, r"5.. \S+ (?:data|dot)",
        r"\bspam\b|spamassassin|\bjunk\b|unsolicited|virus|content (?:is |was )?rejected|security issue"
        r"|attachment",
        tr("the email's content was refused"), PREVIEW,
    ),
    # The server itself
    Rule(Fault.TEMPORARY, "4", r"disk space", tr("the server has no storage left"), WAIT),
]  # fmt: skip
"""The first rule that fits decides. The words are `replies.pattern` in lower case, so without numbers and addresses."""
