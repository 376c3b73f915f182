"""Values that an attacker would choose, for every place that stores or shows text."""

SHELL_CODE = (
    "`touch${IFS}ran`",
    "$(touch${IFS}ran)",
    "a;touch ran",
    "a|touch ran",
    "a&touch ran",
    "a\ntouch ran",
    ">ran",
    "$'\\ntouch ran'",
    "'`touch ran`'",
    '"`touch ran`"',
    "'; touch ran; '",
    '"; touch ran; "',
    "\\`touch ran\\`",
    "\\'; touch ran #",
    "{touch,ran}",
    "~/ran",
    "!touch",
    "*",
    "-rf",
    "--help",
    "\\",
    "'",
    '"',
    "",
)
"""Text that a shell would run, expand or take for an option. What is run creates the file "ran"."""

ADDRESSES = (
    "`touch${IFS}ran`@x.example",
    "'`touch${IFS}ran`'@x.example",
    "$IFS@x.example",
    "!!@x.example",
    "{touch}@x.example",
    "a&touch@x.example",
    "a|b@x.example",
    "--store=/etc/passwd@x.example",
    "--yes@x.example",
    "-y@x.example",
    "*@x.example",
    "~root@x.example",
    "#a@x.example",
    "it's@x.example",
    "ünï`id`@bücher.example",
)
"""Valid addresses (RFC 5321, section 4.1.2) that do harm in a command line without quotes."""

NAMES = (
    "`touch ran`",
    "$(touch ran)",
    "a'; touch ran; '",
    'a"; touch ran; "',
    "a b",
    "a\ttouch ran",
    "a$IFS",
    "a\\",
    "%n%s%d",
    "%41%2e%00",
    "{{ 7*7 }}",
    "[bold red]x[/]",
    "\u202egnp.exe",
)
"""Names of files and folders."""
