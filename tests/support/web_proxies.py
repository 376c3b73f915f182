"""Run nginx and Caddy in front of `skychimp serve`, with TLS and what `skychimp service web` prints for them."""

import http.client
import socket
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from support.daemons import TIMEOUT_S
from support.debian_servers import DebianServer
from support.web_server import FORM, Answer

if TYPE_CHECKING:
    import trustme

HOST = "news.skychimp.test"


class WebProxy(DebianServer):
    """A proxy for the host `HOST`. `text` is what was printed for it.

    `group` is the one that may use the Unix socket of the server behind it.
    """

    kind: ClassVar[str]
    """How `skychimp service web --for` names it."""

    def __init__(self, authority: "trustme.CA", group: str = "root") -> None:
        super().__init__()
        self.text = ""
        self._authority = authority
        self._group = group

    @property
    def authority_file(self) -> Path:
        """The certificate of the authority that has signed the one of this server."""
        raise NotImplementedError

    def connect(self, source: str = "127.0.0.1") -> http.client.HTTPSConnection:
        """Open a connection from an address of this machine."""
        context = ssl.create_default_context(cafile=self.authority_file)
        opened = socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S, (source, 0))
        connection = http.client.HTTPSConnection(HOST, timeout=TIMEOUT_S)
        connection.sock = context.wrap_socket(opened, server_hostname=HOST)
        return connection

    def ask(self, method: str, path: str, body: str | None = None, source: str = "127.0.0.1") -> Answer:
        """Send a request and return the response."""
        connection = self.connect(source)
        try:
            connection.request(method, path, body, FORM if body else {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read().decode())
        finally:
            connection.close()


class Nginx(WebProxy):
    name, program, kind = "nginx", "nginx", "nginx"

    @property
    def authority_file(self) -> Path:
        return self.folder / "authority.pem"

    def prepare(self) -> None:
        (self.folder / "var/lib/nginx").mkdir()
        self._authority.cert_pem.write_to_path(self.authority_file)
        certificate = self.folder / "certificate.pem"
        certificate.touch(0o600)
        self._authority.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(certificate)
        (self.folder / "snippet.conf").write_text(self.text)
        values = {"folder": self.folder, "port": self.port, "host": HOST, "group": self._group}
        (self.folder / "nginx.conf").write_text(_NGINX_CONF.format(**values))

    def command(self) -> list[str]:
        return ["nginx", "-e", "stderr", "-c", f"{self.folder}/nginx.conf"]

    def log(self) -> str:
        access = self.folder / "access.log"
        return super().log() + (access.read_text() if access.exists() else "")


_NGINX_CONF = """
user www-data {group};
daemon off;
worker_processes 1;
pid {folder}/run/nginx.pid;
events {{ }}
http {{
    access_log {folder}/access.log;
    server {{
        listen 127.0.0.1:{port} ssl;
        server_name {host};
        ssl_certificate {folder}/certificate.pem;
        ssl_certificate_key {folder}/certificate.pem;
        include {folder}/snippet.conf;
        location / {{
            return 404;
        }}
    }}
}}
"""


class Caddy(WebProxy):
    """Caddy makes its certificate itself."""

    name, program, kind = "Caddy", "caddy", "caddy"

    @property
    def authority_file(self) -> Path:
        return self.folder / "var/lib/caddy/pki/authorities/local/root.crt"

    def prepare(self) -> None:
        text = _CADDY_OPTIONS.format(folder=self.folder, port=self.port) + self.text
        (self.folder / "Caddyfile").write_text(text)

    def command(self) -> list[str]:
        arguments = ["caddy", "run", "--adapter", "caddyfile", "--config", f"{self.folder}/Caddyfile"]
        return ["env", f"HOME={self.folder}", *arguments]


_CADDY_OPTIONS = """\
{{
    admin off
    default_bind 127.0.0.1
    https_port {port}
    auto_https disable_redirects
    local_certs
    skip_install_trust
    storage file_system {folder}/var/lib/caddy
    servers {{
        protocols h1
    }}
}}
"""
