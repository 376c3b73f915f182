"""Say what a person can do about a refusal; pure."""

ASK_CLIENT = 'ask the client for another address, then run "skychimp clients update"'
MARKED_BAD = f"the client is marked as bad and gets no more email; {ASK_CLIENT}"
CLIENT_REMEDIES = (ASK_CLIENT, MARKED_BAD)
WAIT = "nothing to do: the email is retried automatically"
RECONNECT = "nothing to do: fewer emails are sent over one connection"
SENDER = 'check mail.sender and its domain: run "skychimp doctor"'
OWN_SENDER = "set mail.sender to an address that your account may use"
VERIFY = "verify the address in mail.sender, or its domain, with the provider of your mail server"
REPUTATION = 'check that your server is not on a block list and that SPF, DKIM and DMARC pass: run "skychimp doctor"'
AUTHENTICATE = 'set up SPF, DKIM and DMARC for the domain of mail.sender: run "skychimp doctor"'
SPF = 'add your mail server to the SPF record of the domain: run "skychimp doctor"'
DKIM = 'set up DKIM signing on your mail server: run "skychimp doctor"'
DELIST = "ask the provider of your mail server to get its IP address off the block list"
ASK_RELAY = "ask the administrator of your mail server"
LOGIN = 'check smtp.username and smtp.password: run "skychimp doctor"'
USE_TLS = 'set smtp.security to "starttls" or "tls"'
SLOWER = "send more slowly: set smtp.rate"
FEWER = "use fewer connections: set smtp.connections"
QUOTA = "wait, or ask the provider of your mail server for a higher limit; smtp.rate keeps you below it"
SHORTER = "make the email smaller"
PREVIEW = 'check the email: run "skychimp messages preview"'
READ_REPLY = "read the server's reply"
