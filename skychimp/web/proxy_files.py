"""Write what a web server in front of `skychimp serve` needs; pure.

Only the paths of the pages are passed on, and none is logged, as the tokens are in them.
"""

import re
from urllib.parse import urlsplit

from skychimp.config.settings import WebSettings

_NGINX = """\
# In the server block of {host} that has its certificate.
location ~ ^{pattern}/[up]/ {{
    {rewrite}proxy_pass http://{upstream};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    client_max_body_size 64k;
    client_body_timeout 10s;
    # The path is as good as a password. It is logged only with errors.
    access_log off;
}}
"""
_CADDY = """\
{host} {{
    @skychimp path {prefix}/u/* {prefix}/p/*
    handle @skychimp {{
        request_body {{
            max_size 64KB
        }}
{strip}        reverse_proxy {upstream}
    }}
}}
"""


def nginx(url: str, web: WebSettings) -> str:
    """Return a part of a configuration of nginx for a public URL."""
    host, prefix = _parts(url)
    pattern = re.escape(prefix)
    address = web.address
    upstream = f"unix:{address}" if isinstance(address, str) else web.listen
    rewrite = f"rewrite ^{pattern}(/[up]/.*)$ $1 break;\n    " if prefix else ""
    return _NGINX.format(host=host, pattern=pattern, rewrite=rewrite, upstream=upstream)


def caddy(url: str, web: WebSettings) -> str:
    """Return a Caddyfile for a public URL."""
    host, prefix = _parts(url)
    address = web.address
    upstream = f"unix/{address}" if isinstance(address, str) else web.listen
    strip = f"        uri strip_prefix {prefix}\n" if prefix else ""
    return _CADDY.format(host=host, prefix=prefix, strip=strip, upstream=upstream)


def _parts(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.netloc, parts.path.rstrip("/")
