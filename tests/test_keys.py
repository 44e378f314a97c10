"""Keys in files: written so that others can read them, read as others write them, and never shown."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import zmq
import zmq.auth
from hypothesis import given
from hypothesis import strategies as st

from tunnel import keys
from tunnel.config.plan import KeyPair
from tunnel.errors import KeyFileError
from tunnel.limits import KEY_FILE_BYTES


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_we_write_zmq_auth_reads(tmp_path: Path) -> None:
    public_path, secret_path = keys.write_pair(tmp_path / "keys", "dmz")
    assert (public_path, secret_path) == (tmp_path / "keys" / "dmz.key", tmp_path / "keys" / "dmz.key_secret")
    public, none = zmq.auth.load_certificate(public_path)
    both = zmq.auth.load_certificate(secret_path)
    assert none is None
    assert both[0] == public
    assert both[1] is not None
    assert zmq.curve_public(both[1]) == public
    assert zmq.auth.load_certificates(tmp_path / "keys") == {public: True}


def test_what_zmq_auth_writes_we_read(tmp_path: Path) -> None:
    public_path, secret_path = map(Path, zmq.auth.create_certificates(tmp_path, "dmz", metadata={"by": "them"}))
    secret_path.chmod(0o600)
    pair = keys.read_pair(secret_path)
    assert keys.read_public(public_path) == keys.read_public(secret_path) == pair.public
    assert pair.secret.reveal().encode() == zmq.auth.load_certificate(secret_path)[1]


def test_the_secret_is_closed_from_its_first_moment(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public_path, secret_path = keys.write_pair(tmp_path, "dmz")
    finally:
        os.umask(before)
    assert mode(secret_path) == 0o600
    assert mode(public_path) == 0o644


def test_every_pair_is_another(tmp_path: Path) -> None:
    pairs = {keys.read_pair(keys.write_pair(tmp_path, f"s{i}")[1]) for i in range(5)}
    assert len(pairs) == 5


@pytest.mark.parametrize("name", ["dmz.key", "dmz.key_secret"])
def test_nothing_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(KeyFileError, match="exists already and is not overwritten"):
        keys.write_pair(tmp_path, "dmz")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_a_link_that_leads_nowhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "dmz.key_secret").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(KeyFileError, match="exists already"):
        keys.write_pair(tmp_path, "dmz")
    assert not (tmp_path / "elsewhere").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    with pytest.raises(KeyFileError, match="cannot write keys to"):
        keys.write_pair(tmp_path / "keys" / "deeper", "dmz")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o777])
def test_a_secret_that_others_may_read_is_refused_with_the_cure(tmp_path: Path, bits: int) -> None:
    folder = tmp_path / "my keys"
    _, secret_path = keys.write_pair(folder, "dmz")
    secret_path.chmod(bits)
    with pytest.raises(KeyFileError) as caught:
        keys.read_pair(secret_path)
    cure = str(caught.value).partition("run: ")[2]
    assert cure == f"chmod 600 '{secret_path}'"
    assert os.system(cure) == 0
    assert keys.read_pair(secret_path).secret


@pytest.mark.parametrize("bits", [0o600, 0o400, 0o700])
def test_a_secret_of_ones_own_is_read(tmp_path: Path, bits: int) -> None:
    _, secret_path = keys.write_pair(tmp_path, "dmz")
    secret_path.chmod(bits)
    assert len(keys.read_pair(secret_path).public) == 40


def test_a_link_to_an_open_secret_is_refused_too(tmp_path: Path) -> None:
    _, secret_path = keys.write_pair(tmp_path, "dmz")
    secret_path.chmod(0o644)
    (tmp_path / "link").symlink_to(secret_path)
    with pytest.raises(KeyFileError, match="chmod 600"):
        keys.read_pair(tmp_path / "link")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for read in (keys.read_public, keys.read_pair):
        with pytest.raises(KeyFileError, match="is not there; make it with ztunnel keygen"):
            read(tmp_path / "no.key")


def test_the_public_half_is_no_pair(tmp_path: Path) -> None:
    public_path, _ = keys.write_pair(tmp_path, "dmz")
    public_path.chmod(0o600)
    with pytest.raises(KeyFileError, match=r"the file with the secret half ends in \.key_secret"):
        keys.read_pair(public_path)


PUBLIC, SECRET = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID", "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
OTHER = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
"""The keys of libzmq's manual (zmq_curve(7))."""


def closed(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no public-key"),
        ("hello", "holds no public-key"),
        ('public-key = "short"', "is damaged"),
        ('public-key = "' + "#" * 40 + '"', "is damaged"),
        (f'public-key = "{PUBLIC}"\npublic-key = "{OTHER}"', "two different public-keys"),
        ("x" * (KEY_FILE_BYTES + 1), "too long for a key"),
    ],
)
def test_damaged_public_keys(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(KeyFileError, match=words):
        keys.read_public(closed(tmp_path / "a.key", text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f'public-key = "{OTHER}"\nsecret-key = "{SECRET}"', "do not belong together"),
        (f'secret-key = "{SECRET[:-1]}"', "is damaged"),
        (f'public-key = "{PUBLIC}"', "holds no secret-key"),
    ],
)
def test_damaged_pairs_are_told_without_the_secret(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(KeyFileError, match=words) as caught:
        keys.read_pair(closed(tmp_path / "a.key_secret", text))
    assert SECRET[:-1] not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        f"{SECRET}\n",
        f'secret-key = "{SECRET}"',
        f"curve\n\tpublic-key='{PUBLIC}'\n\tsecret-key = {SECRET}\n",
        f'# public-key = "{OTHER}"\ncurve\r\n    secret-key = "{SECRET}"\r\n',
    ],
)
def test_forms_of_a_secret(text: str) -> None:
    pair = keys.pair_from_text(text, "a variable")
    assert (pair.public, pair.secret.reveal()) == (PUBLIC, SECRET)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for read in (keys.read_public, keys.read_pair):
        with pytest.raises(KeyFileError, match="is not a file"):
            read(tmp_path / "pipe")


def test_a_pair_prints_masked() -> None:
    pair = keys.pair_from_text(SECRET, "x")
    for text in (
        repr(pair),
        str(pair),
        f"{pair.secret}",
        f"{pair.secret!r:>10}",
        f"{[pair.secret]}",
        "{}".format(pair.secret),  # noqa: UP032
        "%s" % pair.secret,  # noqa: UP031
    ):
        assert SECRET not in text
    assert isinstance(pair, KeyPair)


@pytest.mark.parametrize(
    ("text", "fine"),
    [(PUBLIC, True), ("#" * 40, False), (PUBLIC[:-1], False), (PUBLIC + "\n", False), ("ä" * 40, False)],
)
def test_is_z85(text: str, fine: bool) -> None:
    assert keys.is_z85(text) is fine


@given(text=st.text(max_size=400))
def test_any_text_is_a_pair_or_told(text: str) -> None:
    try:
        keys.pair_from_text(text, "x")
    except KeyFileError:
        return
    assert "secret-key" in text or len(text.strip()) == 40


def test_a_connection_is_made_with_keys_from_files(tmp_path: Path) -> None:
    """The pair works: a CURVE server with what we wrote lets in a client that knows its public half."""
    server_public, server_secret = keys.write_pair(tmp_path, "server")
    pair, client = keys.read_pair(server_secret), keys.read_pair(keys.write_pair(tmp_path, "client")[1])
    with zmq.Context() as context, context.socket(zmq.REP) as rep, context.socket(zmq.REQ) as req:
        for socket in (rep, req):
            socket.linger = 0
            socket.rcvtimeo = 10_000
        rep.curve_server = True
        rep.curve_publickey, rep.curve_secretkey = pair.public.encode(), pair.secret.reveal().encode()
        port = rep.bind_to_random_port("tcp://127.0.0.1")
        req.curve_publickey, req.curve_secretkey = client.public.encode(), client.secret.reveal().encode()
        req.curve_serverkey = keys.read_public(server_public).encode()
        req.connect(f"tcp://127.0.0.1:{port}")
        req.send(b"hello")
        assert rep.recv() == b"hello"
