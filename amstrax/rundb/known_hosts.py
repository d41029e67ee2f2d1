"""Verify host keys against known_hosts by the rules of ssh (sshd(8)).

paramiko.HostKeys knows neither patterns nor the markers ``@cert-authority`` (the key signs
certificates of these hosts) and ``@revoked`` (the key is never accepted).
"""

import base64
import re
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import paramiko
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    SSHCertificate,
    SSHCertificateType,
    load_ssh_public_identity,
)

from amstrax.exceptions import HostKeyRefused, RunDatabaseNotSet
from amstrax.rundb.ssh_config import SSHHost

AUTHORITY, REVOKED = "@cert-authority", "@revoked"


class KnownKey(NamedTuple):
    """A key in known_hosts: the line's marker, the key's kind and bytes, and the line's place."""

    marker: str
    kind: str
    data: bytes
    place: str


def known_keys(to: SSHHost) -> list[KnownKey]:
    """Load the keys for a host from known_hosts: its own, those of authorities, revoked ones.

    Without keys for the port, those for the host apply. Raises RunDatabaseNotSet when an existing
    file cannot be read, since it may revoke keys.
    """
    lines = [(hosts, key) for path in to.known_hosts for hosts, key in _entries(path)]
    found = [[key for hosts, key in lines if matches(hosts, name)] for name in to.key_names]
    revoked = [key for keys in found for key in keys if key.marker == REVOKED]
    known = [[key for key in keys if key.marker != REVOKED] for keys in found]
    return revoked + next((keys for keys in known if keys), [])


def verify(to: SSHHost, key: paramiko.PKey) -> str:
    """Check a host's key and return the place of the line that vouches for it.

    Raises HostKeyRefused when the key is revoked, unknown (the message has the line to add) or
    differs from the known one.
    """
    known = known_keys(to)
    name = to.key_names[0]
    _check_not_revoked(to, known, key, f"the key {key.fingerprint}")
    why_not = ""
    if key.public_blob is not None:
        certificate, authority = _certificate(name, key.public_blob)
        what = f"a certificate of the key {authority.fingerprint}"
        _check_not_revoked(to, known, authority, what)
        why_not = "signed by an unknown authority"
        for each in known:
            if each.marker == AUTHORITY and each.data == authority.asbytes():
                why_not = _fault(certificate, key.public_blob.key_blob, to.key_names[-1])
                if not why_not:
                    return f"by a certificate of {each.place}"
        why_not = f"; its certificate is {why_not}"
    own = [each for each in known if not each.marker]
    for each in own:
        if each.data == key.asbytes():
            return each.place
    if own:
        places = ", ".join(dict.fromkeys(each.place for each in own))
        raise HostKeyRefused(
            f"{name} shows the key {key.get_name()} {key.fingerprint}, which differs from the "
            f"known one ({places}){why_not}: this may be an attack. Ask its administrator; only if "
            f"the key has changed, remove the old one: ssh-keygen -R '{name}' "
            f"-f {own[0].place.rpartition(',')[0]}"
        )
    raise HostKeyRefused(
        f"{name} is not a known host{why_not}; it shows the key {key.fingerprint}. If its "
        f"administrator confirms this key, add to {to.known_hosts[0]} the line\n"
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
        certificates = [f"{kind}-cert-v01@openssh.com" for kind in algorithms]
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
        return paramiko.HostKeys.hash_host(name, pattern) == pattern
    except (ValueError, AssertionError):  # no base64, no salt of 20 bytes
        return False


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
        except ValueError:
            continue
        yield hosts, KnownKey(marker, kind, data, f"{path}, line {number}")


def _check_not_revoked(
    to: SSHHost, known: Iterable[KnownKey], key: paramiko.PKey, what: str
) -> None:
    """Raise HostKeyRefused if a key is revoked, by known_hosts or by RevokedHostKeys."""
    data = key.asbytes()
    places = [each.place for each in known if each.marker == REVOKED and each.data == data]
    if not places and to.revoked is not None and _is_listed(to.revoked, key):
        places = [str(to.revoked)]
    if places:
        raise HostKeyRefused(
            f"{to.key_names[0]} shows {what}, which is revoked ({places[0]}): this may be an "
            "attack. Ask its administrator for the new key"
        )


def _is_listed(path: Path, key: paramiko.PKey) -> bool:
    """Return whether a file of revoked keys, as text or in ssh-keygen's format, has a key."""
    try:
        listed = path.read_bytes()
    except OSError as error:
        raise RunDatabaseNotSet(
            f"the file of revoked keys {path} cannot be read ({error.strerror}): check "
            "RevokedHostKeys in ssh's settings"
        ) from error
    encoded = base64.b64encode(key.asbytes())
    if not listed.startswith(b"SSHKRL\n\0"):
        return encoded in listed.split()
    with tempfile.NamedTemporaryFile(suffix=".pub") as file:
        file.write(key.get_name().encode() + b" " + encoded + b"\n")
        file.flush()
        command = ["ssh-keygen", "-Q", "-f", str(path), file.name]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    return done.returncode != 0


def _certificate(name: str, public: Any) -> tuple[SSHCertificate, paramiko.PKey]:
    """Return the certificate of a host, and the key that it names as signer."""
    line = public.key_type.encode() + b" " + base64.b64encode(public.key_blob)
    try:
        certificate: Any = load_ssh_public_identity(line)
        signer = certificate.signature_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        kind, encoded = signer.decode().split()
        return certificate, paramiko.PKey.from_type_string(kind, base64.b64decode(encoded))
    except (ValueError, UnsupportedAlgorithm, paramiko.SSHException) as error:
        raise HostKeyRefused(
            f"{name} shows a certificate that cannot be read ({error}): ask its administrator"
        ) from error


def _fault(certificate: SSHCertificate, blob: bytes, host: str) -> str:
    """Return why a certificate does not vouch for a host; empty if it does."""
    names = [each.decode(errors="replace").lower() for each in certificate.valid_principals]
    if certificate.type != SSHCertificateType.HOST:
        return "not for a host"
    if time.time() < certificate.valid_after:
        return "not valid yet"
    if time.time() >= certificate.valid_before:
        return "expired"
    if host not in names:
        return f"for {', '.join(names) or 'no host'}, not {host}"
    if certificate.critical_options:
        return "restricted by unknown options"
    authority = certificate.signature_key()
    # The blob ends with the algorithm, the length of the signature in 4 bytes, and the signature
    size = authority.key_size // 8 + 4 if isinstance(authority, RSAPublicKey) else 0
    if size and blob[:-size].endswith(b"ssh-rsa"):
        return "signed with SHA-1"
    try:
        certificate.verify_cert_signature()
    except (InvalidSignature, ValueError):
        return "not signed by its authority"
    return ""
