"""A small reverse proxy with TLS, as a web server before the dashboard, and its certificate."""

import asyncio
import contextlib
import datetime
import ipaddress
import ssl
import threading
from pathlib import Path
from typing import NamedTuple

from servers import LOCALHOST

#: From where those who come through the proxy are, as it says
VISITOR = "203.0.113.7"


class Certificate(NamedTuple):
    """Files with a certificate and its private key."""

    certificate: Path
    key: Path

    def trust(self) -> ssl.SSLContext:
        """Return what a client trusts that trusts this one alone."""
        return ssl.create_default_context(cafile=str(self.certificate))


def make_certificate(folder: Path) -> Certificate:
    """Return a certificate that this machine has signed itself, for its own address."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "dashboard of a test")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOCALHOST))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate(folder / "certificate.pem", folder / "key.pem")
    made.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    made.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return made


class ReverseProxy:
    """Ends TLS, says in headers who asks and how, and hands all else on, websockets too.

    What a visitor says of this kind in headers of their own is left out.

    Parameters
    ----------
    certificate
        Of the proxy.
    """

    def __init__(self, certificate: Certificate):
        self.to_port = 0
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate.certificate, certificate.key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        start = asyncio.start_server(self._serve, LOCALHOST, 0, ssl=context)
        self._server = asyncio.run_coroutine_threadsafe(start, self._loop).result(60)
        self.port = self._server.sockets[0].getsockname()[1]
        self.address = f"https://localhost:{self.port}/"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Hand one request on, or one websocket; a visitor comes anew for the next."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            lines = [
                line
                for line in head.rstrip("\r\n").split("\r\n")
                if not line.lower().startswith(("x-forwarded-", "x-real-ip", "x-scheme"))
            ]
            if "upgrade: websocket" not in head.lower():
                lines = [line for line in lines if not line.lower().startswith("connection:")]
                lines.append("Connection: close")
            lines += [f"X-Forwarded-For: {VISITOR}", "X-Forwarded-Proto: https"]
            its_reader, its_writer = await asyncio.open_connection(LOCALHOST, self.to_port)
            with contextlib.closing(its_writer):
                its_writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
                pumps = [
                    asyncio.ensure_future(_pump(reader, its_writer)),
                    asyncio.ensure_future(_pump(its_reader, writer)),
                ]
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
                # What the server has said to its end is to arrive
                await writer.drain()
                for pump in pumps:
                    pump.cancel()

    def close(self) -> None:
        """Stop it."""

        async def stop() -> None:
            self._server.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), self._loop).result(60)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(60)
        self._loop.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
