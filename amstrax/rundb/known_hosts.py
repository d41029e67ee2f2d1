"""Verify host keys against known_hosts by the rules of ssh (sshd(8)).

Lines of known_hosts name hosts by hashes or by patterns with ``*``, ``?`` and ``!``. They may begin
with ``@cert-authority`` (the key signs certificates of these hosts) or ``@revoked`` (the key is
never accepted).
"""

import base64
import binascii
import hashlib
import hmac
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from amstrax.exceptions import HostKeyRefused, RunDatabaseNotSet
from amstrax.rundb.ssh_config import SSHHost

if TYPE_CHECKING:
    import paramiko

AUTHORITY, REVOKED = "@cert-authority", "@revoked"
CERTIFICATE = "-cert-v01@openssh.com"
#: Number of fields of the public key in a certificate
_KEY_FIELDS = {"ssh-ed25519": 1, "ecdsa-sha2-nistp": 2, "ssh-rsa": 2}
#: Signature algorithms accepted from authorities: not SHA-1
_SIGNATURES = frozenset(
    ("ssh-ed25519", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521")
    + ("rsa-sha2-256", "rsa-sha2-512")
)
_HOST_CERTIFICATE = 2


class KnownKey(NamedTuple):
    """A key in known_hosts: the line's marker, the key's kind and bytes, and the line's place."""

    marker: str
    kind: str
    data: bytes
    place: str


def known_keys(to: SSHHost) -> list[KnownKey]:
    """Load the keys for a host from known_hosts: its own, those of authorities, revoked ones.

    Keys for the host without port are used if there are none for its port.

    Raises
    ------
    RunDatabaseNotSet
        When an existing file cannot be read, since it may revoke keys.
    """
    lines = [(hosts, key) for path in to.known_hosts for hosts, key in _entries(path)]
    found = [[key for hosts, key in lines if matches(hosts, name)] for name in to.key_names]
    revoked = [key for keys in found for key in keys if key.marker == REVOKED]
    known = [[key for key in keys if key.marker != REVOKED] for keys in found]
    return revoked + next((keys for keys in known if keys), [])


def verify(to: SSHHost, key: "paramiko.PKey") -> str:
    """Check a host's key and return the place of the line that vouches for it.

    Raises
    ------
    HostKeyRefused
        When the key is revoked, unknown (the message has the line to add) or differs from the known
        one.
    """
    known = known_keys(to)
    name, shown = to.key_names[0], key.asbytes()
    blob = getattr(key.public_blob, "key_blob", None)
    try:
        certificate = None if blob is None else Certificate(blob)
    except (ValueError, struct.error) as error:
        raise HostKeyRefused(
            f"{name} shows a certificate that cannot be read ({error}): ask who runs the host"
        ) from error
    for data in (shown, *([certificate.authority] if certificate else [])):
        place = _revoked_by(to, known, data)
        if place:
            what = f"the key {key.fingerprint}"
            if data is not shown:
                what = f"a certificate of the key {_fingerprint(data)}"
            raise HostKeyRefused(
                f"{name} shows {what}, which is revoked ({place}): somebody may be listening in. "
                "Ask who runs the host for its new key"
            )
    why_not = ""
    if certificate is not None:
        for each in known:
            if each.marker == AUTHORITY and each.data == certificate.authority:
                why_not = certificate.fault(to.principal)
                if not why_not:
                    return f"by a certificate of {each.place}"
        why_not = why_not or "by an authority that is not known"
        why_not = f"; its certificate is of no use: it is {why_not}"
    own = [each for each in known if not each.marker]
    for each in own:
        if each.data == shown:
            return each.place
    if own:
        places = ", ".join(dict.fromkeys(each.place for each in own))
        raise HostKeyRefused(
            f"{name} shows the key {key.get_name()} {key.fingerprint}, which is not the one known "
            f"of it ({places}){why_not}: somebody may be listening in. Ask who runs the host; only "
            f"if its key is a new one, take the old one away: ssh-keygen -R '{name}' "
            f"-f {own[0].place.rpartition(',')[0]}"
        )
    raise HostKeyRefused(
        f"{name} is not a known host{why_not}; it shows the key {key.fingerprint}. If who runs the "
        f"host says that this is its key, add to {to.known_hosts[0]} the line\n"
        f"{name} {key.get_name()} {key.get_base64()}"
    )


def preferred(to: SSHHost, algorithms: Iterable[str]) -> tuple[str, ...]:
    """Return host key algorithms in order of preference: verifiable ones first."""
    algorithms = list(algorithms)
    keys = known_keys(to)
    kinds = {key.kind for key in keys if not key.marker}
    if "ssh-rsa" in kinds:
        kinds |= {"rsa-sha2-512", "rsa-sha2-256"}
    certificates = []
    if any(key.marker == AUTHORITY for key in keys):
        certificates = [f"{kind}{CERTIFICATE}" for kind in algorithms]
    return (*certificates, *sorted(algorithms, key=lambda kind: kind not in kinds))


def matches(patterns: str, name: str) -> bool:
    """Return whether the hosts of a line of known_hosts match a host, given in lower case."""
    found = False
    for pattern in patterns.split(","):
        if pattern.startswith("|1|"):
            found |= _is_hash_of(pattern, name)
            continue
        text = re.escape(pattern.lstrip("!").lower()).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(text, name, re.DOTALL):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _is_hash_of(pattern: str, name: str) -> bool:
    try:
        salt, digest = (base64.b64decode(part) for part in pattern.split("|")[2:4])
    except (ValueError, binascii.Error):
        return False
    return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)


def _entries(path: Path) -> Iterator[tuple[str, KnownKey]]:
    """Yield hosts and key of each line of a file; skip invalid lines."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunDatabaseNotSet(
            f"the file of known hosts {path} cannot be read ({error.strerror}), and may revoke "
            "keys: make it readable, or check DAQ_KNOWN_HOSTS"
        ) from error
    for number, line in enumerate(text.splitlines(), 1):
        fields = line.split()
        marker = fields.pop(0) if fields and fields[0].startswith("@") else ""
        if len(fields) < 3 or fields[0].startswith("#") or marker not in ("", AUTHORITY, REVOKED):
            continue
        hosts, kind, encoded = fields[:3]
        try:
            data = base64.b64decode(encoded, validate=True)
        except (ValueError, binascii.Error):
            continue
        yield hosts, KnownKey(marker, kind, data, f"{path}, line {number}")


def _revoked_by(to: SSHHost, known: Iterable[KnownKey], data: bytes) -> str:
    """Return the place that revokes a key; empty if it is not revoked."""
    for each in known:
        if each.marker == REVOKED and each.data == data:
            return each.place
    if to.revoked is None:
        return ""
    try:
        listed = to.revoked.read_bytes()
    except OSError as error:
        raise RunDatabaseNotSet(
            f"the file of revoked keys {to.revoked} cannot be read ({error.strerror}): check "
            "RevokedHostKeys in ssh's settings"
        ) from error
    encoded = base64.b64encode(data)
    if not listed.startswith(b"SSHKRL\n\0"):
        return str(to.revoked) if encoded in listed.split() else ""
    size = int.from_bytes(data[:4], "big")
    with tempfile.NamedTemporaryFile(suffix=".pub") as file:
        file.write(data[4 : 4 + size] + b" " + encoded + b"\n")
        file.flush()
        command = ["ssh-keygen", "-Q", "-f", str(to.revoked), file.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return str(to.revoked) if done.returncode else ""


def _fingerprint(data: bytes) -> str:
    digest = base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


class Certificate:
    """Certificate of a host's key, see OpenSSH's PROTOCOL.certkeys."""

    def __init__(self, blob: bytes):
        import paramiko  # slow to import

        message: Any = paramiko.Message(blob)
        kind = message.get_text().removesuffix(CERTIFICATE)
        message.get_string()  # nonce
        fields = next((n for name, n in _KEY_FIELDS.items() if kind.startswith(name)), 0)
        for _ in range(fields):
            message.get_string()
        message.get_int64()  # serial number
        self._type = message.get_int()
        message.get_string()  # key id
        self._principals = _strings(message.get_string())
        self._after, self._before = message.get_int64(), message.get_int64()
        self._critical = message.get_string()
        message.get_string()  # extensions
        message.get_string()  # reserved
        #: Key that has signed the certificate
        self.authority: bytes = message.get_string()
        self._signed = message.get_so_far()
        self._signature = message.get_string()

    def fault(self, host: str) -> str:
        """Return why the certificate does not vouch for a host; empty if it does."""
        now = time.time()
        if self._type != _HOST_CERTIFICATE:
            return "not one of a host"
        if now < self._after:
            return "not valid yet"
        if now >= self._before:
            return "expired"
        if host not in [name.lower() for name in self._principals]:
            return f"for {', '.join(self._principals) or 'no host'}, not {host}"
        if self._critical:
            return "restricted in a way that is not known"
        return "" if self._is_signed() else "not signed by its authority"

    def _is_signed(self) -> bool:
        import paramiko  # slow to import

        kind = paramiko.Message(self.authority).get_text()
        algorithm = paramiko.Message(self._signature).get_text()
        if algorithm not in _SIGNATURES:
            return False
        try:
            key: Any = paramiko.PKey.from_type_string(kind, self.authority)
            return bool(key.verify_ssh_sig(self._signed, paramiko.Message(self._signature)))
        except (paramiko.SSHException, ValueError, TypeError):
            return False


def _strings(data: bytes) -> list[str]:
    import paramiko  # slow to import

    message = paramiko.Message(data)
    found = []
    while message.get_remainder():
        found.append(message.get_text())
    return found
