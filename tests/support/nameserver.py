"""Run a name server on loopback that answers from a table, and with NXDOMAIN for all other names."""

import socket
import threading
from collections.abc import Mapping, Sequence
from typing import Self

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

Records = Mapping[str, Mapping[str, Sequence[str]]]
"""Records by name and type, each as it is written in a zone file."""


class NameServer:
    """A name server on UDP that runs during a `with` block. A name with `{}` exists, but has no records."""

    def __init__(self, records: Records) -> None:
        self._records = {name.rstrip("."): by_type for name, by_type in records.items()}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = "127.0.0.1:{1}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stop:
            stop.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(dns.message.from_wire(query)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        by_type = self._records.get(question.name.to_text(omit_final_dot=True))
        if by_type is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found := by_type.get(dns.rdatatype.to_text(question.rdtype)):
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", question.rdtype, found))
        return response
