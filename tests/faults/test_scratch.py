from sending import *
from servers import *
import collections, time

HEALTHY = (GREETING, obey())

def test_put_back(store, ada):
    mailing(store, ada)
    # the first connection slow in answering; second refused
    slow = (GREETING, obey(lambda c, r: time.sleep(0.3) if c == "." else None))
    with ScriptedServer(slow, [b"421 too many\r\n"]) as server:
        tally = send(store, settings(server.port, smtp__connections=5))
    print(tally, states(store), len(server.conversations))
    assert states(store) == {"sent": 2}

def test_pause_once(store, ada):
    mailing(store, ada, addresses(20))
    with ScriptedServer((GREETING, obey(lambda c, r: b"530 5.7.0 log in\r\n" if c == "MAIL" else None))) as server:
        tally = send(store, settings(server.port, smtp__connections=10))
    print(tally, states(store), len(server.conversations), rows(store, RelayState))
    assert rows(store, RelayState)[0].probes == 1

def test_nul(store, ada):
    mailing(store, ada, ["bob@example.org"])
    with ScriptedServer((GREETING, obey(lambda c, r: b"550 5.7.1 ba\0d \xff \xc3\xa9\r\n" if c == "." else None))) as server:
        tally = send(store, settings(server.port))
    print(log(store))
    assert log(store)[0][3] == "550 5.7.1 ba\0d \\xff é"
