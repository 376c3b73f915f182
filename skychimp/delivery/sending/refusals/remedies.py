"""Say what a person can do about a refusal; pure."""

from skychimp.translation import tr

ASK_CLIENT = tr('ask the client for another address, then run "skychimp clients update"')
MARKED_BAD = tr("the client is marked as bad and gets no more email; {ask_client}", ask_client=ASK_CLIENT)
CLIENT_REMEDIES = (ASK_CLIENT, MARKED_BAD)
WAIT = tr("nothing to do: the email is retried automatically")
RECONNECT = tr("nothing to do: fewer emails are sent over one connection")
SENDER = tr('check mail.sender and its domain: run "skychimp doctor"')
OWN_SENDER = tr("set mail.sender to an address that your account may use")
VERIFY = tr("verify the address in mail.sender, or its domain, with the provider of your mail server")
REPUTATION = tr(
    'check that your server is not on a block list and that SPF, DKIM and DMARC pass: run "skychimp doctor"'
)
AUTHENTICATE = tr('set up SPF, DKIM and DMARC for the domain of mail.sender: run "skychimp doctor"')
SPF = tr('add your mail server to the SPF record of the domain: run "skychimp doctor"')
DKIM = tr('set up DKIM signing on your mail server: run "skychimp doctor"')
DELIST = tr("ask the provider of your mail server to get its IP address off the block list")
ASK_RELAY = tr("ask the administrator of your mail server")
LOGIN = tr('check smtp.username and smtp.password: run "skychimp doctor"')
USE_TLS = tr('set smtp.security to "starttls" or "tls"')
SLOWER = tr("send more slowly: set smtp.rate")
FEWER = tr("use fewer connections: set smtp.connections")
QUOTA = tr("wait, or ask the provider of your mail server for a higher limit; smtp.rate keeps you below it")
SHORTER = tr("make the email smaller")
PREVIEW = tr('check the email: run "skychimp messages preview"')
READ_REPLY = tr("read the server's reply")
