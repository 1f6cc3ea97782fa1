"""``vv certs``: whom its certificates convince, and what becomes of them when it is run again."""

import json
import shutil
import socket
import ssl
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from vv import certs
from vv.__main__ import main
from vv.authority import CLIENT, Authority, Pair, hosts_of, read_certificate, share_left
from vv.errors import Unavailable

SERVERS = [name for name in certs.NAMES if name not in certs.CLIENTS]
YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything in it, which no test changes."""
    folder = tmp_path_factory.mktemp("stack") / "certs"
    certs.ensure(folder, ["shop.example", "10.1.2.3"])
    return folder


def read(folder: Path, name: str) -> Pair:
    pair = Pair.read(folder, name)
    assert pair is not None
    return pair


def issue_anew(folder: Path, name: str, **how: Any) -> None:
    """Have the folder's authority replace a certificate by another one."""
    hosts = hosts_of(read(folder, name).certificate)
    Authority(read(folder, certs.CA)).issue(name, hosts, **({"valid": YEAR} | how)).write(folder, name)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def changed(before: dict[str, bytes], folder: Path) -> set[str]:
    """Whose certificates and keys are not what they were."""
    after = content(folder)
    return {name.rsplit(".", 1)[0] for name, data in after.items() if before.get(name) != data}


def shake_hands(server: Path, client: Path, *, name: str, as_server: str, as_client: str | None) -> dict[str, Any]:
    """A TLS 1.3 handshake over sockets, both sides verified. What the server knows of its client; raises SSLError."""
    serving = _context(ssl.Purpose.CLIENT_AUTH, server, as_server)
    serving.verify_mode = ssl.CERT_REQUIRED
    calling = _context(ssl.Purpose.SERVER_AUTH, client, as_client)
    left, right = socket.socketpair()

    def serve() -> dict[str, Any]:
        with left, serving.wrap_socket(left, server_side=True) as connection:
            connection.sendall(b"hello")
            return dict(connection.getpeercert() or {})

    with ThreadPoolExecutor(1) as pool:
        known = pool.submit(serve)
        with right, calling.wrap_socket(right, server_hostname=name) as connection:
            # With TLS 1.3 a refusal of the client comes after the handshake.
            assert connection.recv(5) == b"hello"
        return known.result()


def _context(purpose: ssl.Purpose, folder: Path, name: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(purpose, cafile=str(folder / "ca.crt"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if name is not None:
        context.load_cert_chain(folder / f"{name}.crt", folder / f"{name}.key")
    return context


class TestWhomTheyConvince:
    @pytest.mark.parametrize("server", SERVERS)
    @pytest.mark.parametrize("name", ["own name", "localhost", "127.0.0.1", "::1", "shop.example", "10.1.2.3"])
    def test_a_server_under_each_of_its_hosts(self, made: Path, server: str, name: str) -> None:
        """By its own name, on this machine, and by the names that were asked for; by OpenSSL's strictest rules."""
        name = server if name == "own name" else name
        known = shake_hands(made, made, name=name, as_server=server, as_client="order")
        assert ("DNS", "order") in known["subjectAltName"]

    @pytest.mark.parametrize("client", certs.NAMES)
    def test_a_server_learns_who_calls(self, made: Path, client: str) -> None:
        """By exactly one of the names, whoever calls."""
        known = shake_hands(made, made, name="order", as_server="order", as_client=client)
        borne = {value for kind, value in known["subjectAltName"] if kind == "DNS"}
        assert borne & set(certs.NAMES) == {client}

    def test_the_rules_of_the_web_are_kept(self, made: Path) -> None:
        """Those of browsers, too, as cryptography knows them: usages, key identifiers, critical extensions."""
        store = Store([read(made, certs.CA).certificate])
        for name in SERVERS:
            verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("localhost"))
            chain = verifier.verify(read(made, name).certificate, [])
            assert len(chain) == 2
        for name in certs.NAMES:
            assert PolicyBuilder().store(store).build_client_verifier().verify(read(made, name).certificate, [])

    @pytest.mark.parametrize("name", ["operator", "prometheus"])
    def test_clients_serve_nothing(self, name: str, made: Path) -> None:
        """The operator's key opens every door, so that it must not stand behind one; Prometheus has none."""
        with pytest.raises(ssl.SSLError, match="unsuitable certificate purpose"):
            shake_hands(made, made, name=name, as_server=name, as_client="order")
        assert hosts_of(read(made, name).certificate) == [name]

    def test_no_certificate(self, made: Path) -> None:
        """Is nobody."""
        with pytest.raises(ssl.SSLError, match="certificate required"):
            shake_hands(made, made, name="order", as_server="order", as_client=None)

    def test_another_host(self, made: Path) -> None:
        """Is not believed to be that server."""
        with pytest.raises(ssl.SSLCertVerificationError, match="match"):
            shake_hands(made, made, name="inventory", as_server="order", as_client="order")

    def test_another_authority(self, made: Path, tmp_path: Path) -> None:
        """Convinces nobody, though its name is the same: neither servers nor clients."""
        certs.ensure(tmp_path)
        with pytest.raises(ssl.SSLCertVerificationError):
            shake_hands(tmp_path, made, name="order", as_server="order", as_client="order")
        with pytest.raises(ssl.SSLError):
            shake_hands(made, _mixed(tmp_path, made), name="order", as_server="order", as_client="order")

    @pytest.mark.parametrize(("start", "why"), [(-2 * YEAR, "expired"), (YEAR, "not yet valid")])
    def test_at_another_time(self, tmp_path: Path, start: timedelta, why: str) -> None:
        """What has expired, or is not valid yet, convinces nobody."""
        certs.ensure(tmp_path)
        issue_anew(tmp_path, "order", start=datetime.now(UTC) + start)
        with pytest.raises(ssl.SSLCertVerificationError, match=why):
            shake_hands(tmp_path, tmp_path, name="order", as_server="order", as_client="inventory")

    def test_nobody_but_the_authority_issues(self, made: Path) -> None:
        """A certificate that a service has issued with its own key is worth nothing."""
        forged = Authority(read(made, "order")).issue("payment", ["payment"], valid=YEAR)
        store = Store([read(made, certs.CA).certificate])
        verifier = PolicyBuilder().store(store).build_server_verifier(x509.DNSName("payment"))
        with pytest.raises(VerificationError):
            verifier.verify(forged.certificate, [read(made, "order").certificate])


def _mixed(keys: Path, authority: Path) -> Path:
    """The keys of one folder, which trusts the authority of another one."""
    (keys / "ca.crt").write_bytes((authority / "ca.crt").read_bytes())
    return keys


class TestFiles:
    def test_keys_are_for_their_user_only(self, made: Path) -> None:
        """And so is the folder; certificates are no secret."""
        assert made.stat().st_mode & 0o777 == 0o700
        modes = {path.name: path.stat().st_mode & 0o777 for path in made.iterdir()}
        assert {mode for name, mode in modes.items() if name.endswith(".key")} == {0o600}
        assert {name for name in modes if name.endswith(".crt")} == {f"{name}.crt" for name in ("ca", *certs.NAMES)}

    def test_how_long_they_are_valid(self, made: Path, tmp_path: Path) -> None:
        """The authority for ten years, the others for one, or as asked, but never longer than the authority."""
        certs.ensure(tmp_path, days=10_000)
        valid = {name: _valid(made, name) for name in (certs.CA, *certs.NAMES)}
        assert valid == {certs.CA: timedelta(days=3650)} | dict.fromkeys(certs.NAMES, YEAR)
        assert _valid(tmp_path, "order") <= timedelta(days=3650)


def _valid(folder: Path, name: str) -> timedelta:
    certificate = read(folder, name).certificate
    return certificate.not_valid_after_utc - certificate.not_valid_before_utc


class TestOnceMore:
    def test_what_is_good_is_kept(self, tmp_path: Path) -> None:
        """To the byte, also when fewer hosts are asked for."""
        assert certs.ensure(tmp_path, ["shop.example"]) == [certs.CA, *certs.NAMES]
        before = content(tmp_path)
        assert certs.ensure(tmp_path) == []
        assert changed(before, tmp_path) == set()

    @pytest.mark.parametrize("file", ["order.key", "order.crt"])
    @pytest.mark.parametrize("damage", ["gone", "garbage", "another's"])
    def test_what_is_missing_or_damaged_is_made(self, tmp_path: Path, file: str, damage: str) -> None:
        """The pair, and nothing else."""
        certs.ensure(tmp_path)
        path, before = tmp_path / file, content(tmp_path)
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"garbage" if damage == "garbage" else before[file.replace("order", "payment")])
        assert certs.ensure(tmp_path) == ["order"]
        assert changed(before, tmp_path) == {"order"}
        assert read(tmp_path, "order")

    @pytest.mark.parametrize(("days_ago", "is_made"), [(240, False), (250, True), (400, True)])
    def test_what_expires_soon_is_made(self, tmp_path: Path, days_ago: int, is_made: bool) -> None:
        """Once less than a third of its life is left, under the hosts that it had."""
        certs.ensure(tmp_path)
        issue_anew(tmp_path, "order", start=datetime.now(UTC) - timedelta(days=days_ago))
        assert certs.ensure(tmp_path) == (["order"] if is_made else [])
        assert share_left(read(tmp_path, "order").certificate) > 1 / 3

    def test_what_lacks_a_host_is_made(self, tmp_path: Path) -> None:
        """All but those that only call, and each host comes on top of those that were asked for before."""
        certs.ensure(tmp_path, ["shop.example"])
        assert certs.ensure(tmp_path, ["10.1.2.3", "Shop.Example."]) == SERVERS
        for name in SERVERS:
            hosts = {str(host) for host in hosts_of(read(tmp_path, name).certificate)}
            assert hosts == {name, "localhost", "127.0.0.1", "::1", "shop.example", "10.1.2.3"}

    def test_all_are_renewed(self, tmp_path: Path) -> None:
        """New keys under the same authority, so that old and new trust each other; hosts stay."""
        certs.ensure(tmp_path, ["shop.example"])
        before, old = content(tmp_path), Path(shutil.copytree(tmp_path, f"{tmp_path}-old"))
        assert certs.ensure(tmp_path, renew=True) == list(certs.NAMES)
        assert changed(before, tmp_path) == set(certs.NAMES)
        assert "shop.example" in hosts_of(read(tmp_path, "gateway").certificate)
        shake_hands(old, tmp_path, name="order", as_server="order", as_client="order")

    def test_another_authority_makes_all_anew(self, tmp_path: Path) -> None:
        """What another one has issued is of no use."""
        certs.ensure(tmp_path)
        (tmp_path / "ca.crt").unlink()
        assert certs.ensure(tmp_path) == [certs.CA, *certs.NAMES]
        shake_hands(tmp_path, tmp_path, name="order", as_server="order", as_client="operator")

    def test_the_authoritys_key_may_be_kept_elsewhere(self, tmp_path: Path) -> None:
        """It is missed once something must be issued, and nothing is changed then."""
        certs.ensure(tmp_path)
        (tmp_path / "ca.key").unlink()
        assert certs.ensure(tmp_path) == []
        before = content(tmp_path)
        with pytest.raises(Unavailable, match=r"ca\.key is not there"):
            certs.ensure(tmp_path, renew=True)
        assert changed(before, tmp_path) == set()

    def test_many_at_once(self, tmp_path: Path) -> None:
        """Make one authority and one certificate each."""
        with ThreadPoolExecutor(8) as pool:
            made = list(pool.map(lambda _: certs.ensure(tmp_path), range(8)))
        assert sorted(map(len, made)) == [0] * 7 + [len(certs.NAMES) + 1]


class TestCommand:
    def test_what_it_says(self, tmp_path: Path) -> None:
        """What it made, where the authority's key lies, and that none of it is for production."""
        said = _vv("--data-dir", str(tmp_path), "--host", "shop.example").stdout
        assert "for development" in said
        assert f"{tmp_path}/certs/ca.key" in said
        assert said.count("made") == len(certs.NAMES) + 1
        assert _vv("--data-dir", str(tmp_path)).stdout.count("kept") == len(certs.NAMES) + 1

    def test_what_it_says_to_scripts(self, tmp_path: Path) -> None:
        """One document that names every file."""
        document = json.loads(_vv("--dir", str(tmp_path), "--json").stdout)
        assert document["made"] == [certs.CA, *certs.NAMES]
        assert document["certificates"].keys() == set(certs.NAMES)
        for each in document["certificates"].values():
            certificate = read_certificate(Path(each["certificate"]))
            assert certificate is not None
            assert each["expires_at"] == certificate.not_valid_after_utc.isoformat()

    @pytest.mark.parametrize("hosts", [["operator"], ["ORDER"], ["payment-gateway."], ["a b"], ["*.example"], [""]])
    def test_hosts_that_are_refused(self, tmp_path: Path, hosts: Sequence[str]) -> None:
        """What is no name, and names that stand for somebody: with them every service could pass for the operator."""
        with pytest.raises(click.UsageError):
            certs.ensure(tmp_path / "certs", hosts)
        result = _vv("--dir", str(tmp_path / "certs"), *(part for host in hosts for part in ("--host", host)))
        assert result.exit_code == 2
        assert not (tmp_path / "certs").exists()

    def test_a_folder_that_cannot_be_used(self, tmp_path: Path) -> None:
        """Is named, with exit code 3."""
        (tmp_path / "file").touch()
        result = _vv("--dir", str(tmp_path / "file" / "certs"))
        assert (result.exit_code, "certs" in result.stderr) == (3, True)


def _vv(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["certs", *arguments])


def test_usages_are_told_apart(tmp_path: Path) -> None:
    """A certificate that may only call convinces no caller."""
    certs.ensure(tmp_path)
    issue_anew(tmp_path, "order", usages=[CLIENT])
    with pytest.raises(ssl.SSLError, match="purpose"):
        shake_hands(tmp_path, tmp_path, name="order", as_server="order", as_client="payment")
