"""What a table may say of kind: imap (docs/mail.md); the words of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from tunnel.config.fields import (
    STRING,
    ConnectEndpoint,
    Flag,
    OneOrMore,
    Size,
    Span,
    Text,
    TopicPrefix,
    of_text,
    whole,
    word_of,
)
from tunnel.config.model import Bridge, Model, SecretRef
from tunnel.config.values import suggest

if TYPE_CHECKING:
    pass

Mode = Literal["implicit", "starttls", "none"]
After = Literal["seen", "keyword", "move", "delete", "none"]
Rebaseline = Literal["skip", "reprocess", "stop"]
MODES: Final = ("implicit", "starttls", "none")
_AFTER: Final = ("seen", "delete", "none")
_AFTER_FORMS: Final = "seen, delete, none, {keyword: NAME} or {move: FOLDER}"
_CONTROLS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9$!#&'+,./:;<=>?@^_`|~-]{1,64}", re.ASCII)
"""An atom of RFC 9051 without what stands for something else; a flag of the system begins with a backslash."""


def _word(what: str, text: str, most: int) -> str:
    """Text that goes to the server: without what could end a line of its protocol (IMAPClient #657)."""
    if _CONTROLS.search(text):
        raise ValueError(f"{what} has a control character in it, such as the end of a line.")
    if not text or len(text.encode()) > most:
        raise ValueError(f"{what} has 1 to {most} bytes.")
    return text


def _folder(text: str) -> str:
    return _word("the name of a folder", text, 255)


def _keyword(text: str) -> str:
    if not _KEYWORD.fullmatch(text):
        raise ValueError(f"{text!r} is no keyword: letters, digits, '$', '_' and '-', at most 64, such as $Done.")
    return text


def _after(value: object) -> tuple[str, str]:
    """(what is done, keyword or folder)."""
    if isinstance(value, str):
        if value not in _AFTER:
            raise ValueError(
                f"{value!r} is nothing that can be done; there are {_AFTER_FORMS}.{suggest(value, _AFTER)}"
            )
        return str(value), ""
    if isinstance(value, dict) and len(value) == 1:
        ((key, said),) = value.items()
        if key == "keyword":
            return "keyword", of_text(_keyword)(said)
        if key == "move":
            return "move", of_text(_folder)(said)
    raise ValueError(f"what is done with a mail that was taken is one of {_AFTER_FORMS}.")


Folder = Annotated[str, PlainValidator(of_text(_folder)), WithJsonSchema(STRING)]
User = Annotated[str, PlainValidator(of_text(lambda text: _word("a user", text, 255))), WithJsonSchema(STRING)]
AfterSaid = Annotated[
    tuple[str, str],
    PlainValidator(_after),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_AFTER)},
                *(
                    {
                        "type": "object",
                        "properties": {word: STRING},
                        "required": [word],
                        "additionalProperties": False,
                    }
                    for word in ("keyword", "move")
                ),
            ]
        }
    ),
]


class ImapTls(Model):
    """How the connection is protected."""

    mode: Annotated[Mode, word_of("mode", MODES)] | None = None
    """Left out: starttls at port 143, else implicit."""
    ca: Text | None = None
    """Trust these certificate authorities only."""
    server_name: Text | None = None
    """The name in the server's certificate, where the address has another."""
    insecure: Flag = False
    """mode: none, beyond this box: who listens on the way reads password and mails."""


class ImapLogin(Model):
    """Who we are there."""

    user: User
    password: SecretRef | None = None
    token_command: OneOrMore[Text] = ()
    """A program and its arguments, run without a shell; it prints an OAuth access token."""


class Imap(Bridge):
    """A mailbox becomes messages."""

    model_config = ConfigDict(extra="forbid")
    connect: ConnectEndpoint
    """The server: tcp://HOST:993."""
    tls: ImapTls = ImapTls()
    login: ImapLogin
    folder: OneOrMore[Folder] = ("INBOX",)
    topic: TopicPrefix | None = None
    """The first frame of every message; left out, the folder's name."""
    after: AfterSaid = ("seen", "")
    """What is done on the server with a mail that was taken."""
    since: Annotated[Literal["now", "all"], word_of("choice for since", ("now", "all"))] = "now"
    """First start: the mails that come from now on, or all that lie there."""
    rebaseline: Annotated[Rebaseline, word_of("choice for rebaseline", ("skip", "reprocess", "stop"))] = "stop"
    """When the server numbers a folder anew (UIDVALIDITY)."""
    quarantine: Folder | None = None
    """The folder for mails that fail, or are too large."""
    attempts: Annotated[int, Field(ge=1, le=1000), BeforeValidator(whole)] | None = None
    """A mail that fails so often is put aside."""
    timeout: Span | None = None
    """A mail that nobody answers for so long is given again."""
    poll: Span | None = None
    """We look for new mails so often, whatever the server says."""
    idle: Flag = True
    """Let the server tell of new mails (IDLE)."""
    max_message: Size | None = None
    """A larger mail is not fetched."""
    parse: Flag = False
    """Headers, text and attachments go along as well."""
    DUMMY: ClassVar[dict[str, Any]] = {**Bridge.DUMMY, "connect": "tcp://127.0.0.1:993", "login": {"user": "x"}}
    HOLES: ClassVar[dict[str, Any]] = {**Bridge.HOLES, "connect": "", "login": None}
