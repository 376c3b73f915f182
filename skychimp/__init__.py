"""Send recurring mailings from the command line.

Clients, messages, mailings, users and a blog are stored in one SQLite file, the store. `skychimp run` sends what is due
once, and `skychimp daemon` keeps sending on schedule.

This is the map of the package. A folder imports only from the folders below it, and tests/test_layers.py checks that.

    cli/          The command line. main.py starts it, registry.py lists the commands, and commands/ has a file for each
                  of them. The rest reads options, asks questions and formats output.
    site/         The blog and reports as static HTML pages.
    services/     What users can do, with access checks: accounts, users, clients, messages, mailings, reporting, blog,
                  and operations (backups, checks, maintenance).
    delivery/     Sending. scheduling/ decides when mailings are due, composing/ turns messages into emails, and
                  sending/ keeps the connections, records the results and retries.
    store/        The database: the queue, the ledger of attempts, audiences, runs, backups and migrations.
    transport/    The way out: the SMTP client, the outbox, and the mail server of the demo. store/ and transport/ do
                  not import each other.
    config/       The settings: names, types and defaults, and where values come from.
    files.py      Safe reading and writing of files.
    models/       The tables and enumerations.
    roles.py      The roles of users.
    errors.py     The errors that users see, with their exit statuses.

Modules without any I/O may be imported from everywhere. Their docstrings call them pure: addresses, durations,
markdown, permissions, safe_json, shell, text and timezones, and some in delivery/ and transport/.

How an email is sent: delivery/scheduling/planner.py opens an occurrence of a due mailing. store/queue.py creates
its deliveries, one for each client. delivery/sending/dispatcher.py claims them, has their emails composed and sent, and
records the replies in store/ledger.py. delivery/sending/refusals/ decides whose fault a reply is, and
delivery/sending/retry_policy.py what follows from it.
"""

__version__ = "0.1.0"
