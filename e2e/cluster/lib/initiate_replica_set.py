"""Initiates a replica set: initiate_replica_set.py SET ELECTION-TIMEOUT-MILLISECONDS HOST:PORT... Nothing but Python is needed.

The stand-in image has no mongosh and a driver would need a virtual environment, for two commands of a dozen bytes.
"""

import socket
import struct
import sys
import time


def encode(document: dict) -> bytes:
    body = b""
    for key, value in document.items():
        name = key.encode() + b"\0"
        if isinstance(value, str):
            text = value.encode() + b"\0"
            body += b"\x02" + name + struct.pack("<i", len(text)) + text
        elif isinstance(value, int):
            body += b"\x10" + name + struct.pack("<i", value)
        elif isinstance(value, list):
            body += b"\x04" + name + encode({str(i): item for i, item in enumerate(value)})
        else:
            body += b"\x03" + name + encode(value)
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def command(member: str, document: dict) -> bytes:
    """Sends one command and returns the raw answer; what is asked of it is only whether a field is in it."""
    message = struct.pack("<i", 0) + b"\0" + encode({**document, "$db": "admin"})
    host, port = member.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(struct.pack("<iiii", len(message) + 16, 1, 0, 2013) + message)
        answer = b""
        while len(answer) < 4 or len(answer) < struct.unpack("<i", answer[:4])[0]:
            part = connection.recv(65536)
            if not part:
                raise ConnectionError("the server closed the connection")
            answer += part
        return answer


def main() -> None:
    name, election_timeout, *members = sys.argv[1:]
    config = {
        "_id": name,
        "members": [{"_id": number, "host": member} for number, member in enumerate(members)],
        "settings": {"electionTimeoutMillis": int(election_timeout)},
    }
    answer = command(members[0], {"replSetInitiate": config})
    if b"ok\0" + struct.pack("<d", 1.0) not in answer and b"AlreadyInitialized" not in answer:
        sys.exit(f"replSetInitiate was refused: {answer!r}")
    end = time.monotonic() + 30
    while not any(b"isWritablePrimary\0\x01" in command(member, {"hello": 1}) for member in members):
        if time.monotonic() > end:
            sys.exit("no primary after 30 s")
        time.sleep(0.05)


main()
