"""A name server on loopback that answers from a table, and says NXDOMAIN of all other names."""

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
"""By name and type, each as it would stand in a zone file."""


class NameServer:
    """Answers over UDP for the length of a `with` block; a name with `{}` is there and has no records."""

    def __init__(self, records: Records) -> None:
        self._records = {name.rstrip("."): kinds for name, kinds in records.items()}
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.place = "127.0.0.1:{1}".format(*self._socket.getsockname())
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            asked, who = self._socket.recvfrom(4096)
            if not asked:
                return
            self._socket.sendto(self._answer(dns.message.from_wire(asked)).to_wire(), who)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        question = query.question[0]
        kinds = self._records.get(question.name.to_text(omit_final_dot=True))
        if kinds is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif found := kinds.get(dns.rdatatype.to_text(question.rdtype)):
            response.answer.append(dns.rrset.from_text_list(question.name, 60, "IN", question.rdtype, found))
        return response
