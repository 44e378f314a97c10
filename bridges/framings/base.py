"""What all framings share: errors, options, the two interfaces, and the decoder that gathers bytes until it may cut.

Knows no kind, and neither sockets nor the time. Bytes are counted from the stream's beginning, so that an error can say
where it is; and nothing depends on how the stream was cut into reads.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Literal, NoReturn, TypeVar, cast

from tunnel.limits import FRAME_BYTES, FRAME_DELIMITER_BYTES, FRAME_MOST_BYTES

Message = bytes | list[bytes]
"""One message; a list of frames only with `multipart`."""
MAX_FRAME: Final = FRAME_BYTES
REQUIRED: Final = "required"
"""The default of an option that has none."""

T = TypeVar("T")
OptionType = Literal["bytes", "integer", "flag", "choice", "seconds"]


class FramingError(ValueError):
    """They broke the framing, or a message cannot be written in it: a sentence with what, where, and what to do.

    before: messages of the same read that were complete before the error. offset: where in the stream, on reading.
    """

    def __init__(self, sentence: str, *, before: list[Message] | None = None, offset: int | None = None) -> None:
        super().__init__(sentence)
        self.before: list[Message] = [] if before is None else before
        self.offset = offset


class OptionError(ValueError):
    """An option is wrong; `option` is its name, or None where it is the kind itself."""

    def __init__(self, sentence: str, option: str | None = None) -> None:
        super().__init__(sentence)
        self.option = option


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a kind: what a schema, a help text or the documentation says of it.

    `seconds` are a number here; a table writes them with a unit, as all its times.
    """

    type: OptionType
    default: Any
    """REQUIRED where it must be given; None where it may be left out."""
    meaning: str
    choices: tuple[int | str, ...] = ()
    least: float = 0
    most: float = 0
    """Of an integer or seconds: the value; of bytes: their number."""

    def read(self, name: str, value: object) -> Any:
        """The value as framings use it. `bytes` may be given as text, too: plain ASCII, or `hex:0d0a`."""
        if self.type == "flag":
            return self._checked(name, value, isinstance(value, bool), "true or false")
        if self.type == "choice":
            known = type(value) in (int, str) and value in self.choices
            return self._checked(name, value, known, " or ".join(map(str, self.choices)))
        if self.type == "bytes":
            return self._read_bytes(name, value)
        types = (int,) if self.type == "integer" else (int, float)
        fits = type(value) in types and self.least <= cast(float, value) <= self.most
        what = "a whole number" if self.type == "integer" else "seconds"
        return self._checked(name, value, fits, f"{what} from {self.least:,} to {self.most:,}")

    def _read_bytes(self, name: str, value: object) -> bytes:
        if isinstance(value, str) and value.startswith("hex:"):
            try:
                value = bytes.fromhex(value.removeprefix("hex:"))
            except ValueError:
                value = None
        elif isinstance(value, str):
            # A character such as "\xff" would become two bytes: nobody can tell which were meant.
            value = value.encode() if value.isascii() else None
        fits = isinstance(value, bytes) and self.least <= len(value) <= self.most
        number = f"{self.least} to {self.most} bytes" if self.most > 1 else "one byte"
        self._checked(name, value, fits, f"{number}, as ASCII text or as hex:0d0a")
        return cast(bytes, value)

    @staticmethod
    def _checked(name: str, value: T, fits: bool, wanted: str) -> T:
        if not fits:
            raise OptionError(f"{name} must be {wanted}.", name)
        return value


def option(
    type: OptionType,
    default: Any,
    meaning: str,
    *,
    choices: tuple[int | str, ...] = (),
    least: float = 0,
    most: float = 0,
) -> Any:
    """A field of a framing that the table may set."""
    if type == "bytes":
        least, most = least or 1, most or FRAME_DELIMITER_BYTES
    metadata = {"option": Option(type, default, meaning, choices, least, most)}
    return field(metadata=metadata) if default is REQUIRED else field(default=default, metadata=metadata)


def options_of(kind: type[Framing]) -> dict[str, Option]:
    return {each.name: each.metadata["option"] for each in fields(kind) if "option" in each.metadata}


COMMON: Final[Mapping[str, Option]] = {
    "max_frame": Option("integer", MAX_FRAME, "longest message, in bytes", least=1, most=FRAME_MOST_BYTES)
}
"""Options of every kind."""


class Decoder(ABC):
    """One direction of one connection: bytes in, messages out. After an error it says nothing but that error."""

    def __init__(self, framing: Framing) -> None:
        self._max = framing.max_frame
        self._offset = 0
        """In the stream: of the first byte of the frame that has begun, or else of the next."""
        self._failure: FramingError | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} offset={self._offset} pending={self.pending}>"

    @property
    def offset(self) -> int:
        """In the stream: where the frame begins that is not complete, or else the next."""
        return self._offset

    @property
    @abstractmethod
    def pending(self) -> int:
        """Bytes buffered: of a frame that is not complete."""

    def feed(self, data: bytes | memoryview) -> list[Message]:
        """The messages that these bytes complete. FramingError: they broke the framing; the connection is of no more
        use, and what came before is in the error's `before`."""
        if self._failure is not None:
            raise FramingError(str(self._failure), offset=self._failure.offset)
        frames: list[Message] = []
        self._read(data if isinstance(data, bytes) else bytes(data), frames)
        return frames

    def pause(self) -> list[Message]:
        """The line was silent for the framing's `idle_s`: only a framing that has one cares."""
        return []

    def end(self) -> list[Message]:
        """The stream ended; nothing is fed after it. FramingError: it ended within a frame."""
        if self._failure is None and self.pending:
            self._breach(
                0, [], f"a frame begins that is not complete: the stream ended after {self.pending:,} bytes of it."
            )
        return []

    @abstractmethod
    def _read(self, data: bytes, frames: list[Message]) -> None:
        """Adds to `frames` what is complete now."""

    @abstractmethod
    def _drop(self) -> None:
        """Forgets what is buffered."""

    def _breach(self, at: int, frames: list[Message], sentence: str) -> NoReturn:
        """`at`: where the bad frame begins, from `_offset` on."""
        offset = self._offset + at
        self._failure = FramingError(f"At byte {offset:,} of the stream: {sentence}", before=frames, offset=offset)
        self._drop()
        raise self._failure

    def _too_long(self, at: int, frames: list[Message]) -> NoReturn:
        self._breach(
            at,
            frames,
            f"a frame begins that is longer than max_frame ({self._max:,} bytes). Raise max_frame if that is right; "
            "else the two ends do not use the same framing.",
        )


class Gathering(Decoder):
    """Bytes wait until something can be cut off; then everything is looked at as one piece, and the rest waits.

    Every byte is copied a bounded number of times, in whatever pieces it comes: what waits is only joined and looked
    through again when that completes a frame, or a header.
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__(framing)
        self._buffer = bytearray()
        self._need = 1
        """Less than so many bytes are nothing yet."""

    @property
    def pending(self) -> int:
        return len(self._buffer)

    def _read(self, data: bytes, frames: list[Message]) -> None:
        buffer = self._buffer
        if buffer:
            if not self._ripe(data):
                buffer += data
                self._waits()
                return
            data = b"".join((buffer, data))
            buffer.clear()
        at = self._cut(data, frames)
        self._offset += at
        if at < len(data):
            buffer += memoryview(data)[at:]

    def _drop(self) -> None:
        self._buffer.clear()

    def _ripe(self, data: bytes) -> bool:
        """Does it help to look at all that is buffered, with this behind it?"""
        return len(self._buffer) + len(data) >= self._need

    def _waits(self) -> None:
        """More is buffered, and nothing complete. Raises when it never can be."""

    @abstractmethod
    def _cut(self, data: bytes, frames: list[Message]) -> int:
        """Adds what is complete to `frames`; how many bytes were used up."""


@dataclass(frozen=True, kw_only=True)
class Framing(ABC):
    """How messages lie in a stream of bytes: immutable, the same for reading and writing.

    What is written is read back as the same message, but for what an option says is filled up (`pad` without `strip`).
    """

    kind: ClassVar[str]
    max_frame: int = MAX_FRAME

    @property
    def idle_s(self) -> float | None:
        """After a silence of so many seconds the owner calls the decoder's `pause`."""
        return None

    @abstractmethod
    def decoder(self) -> Decoder:
        """A new one, for one direction of one connection."""

    def encode(self, message: Message) -> bytes:
        """The bytes of one message. FramingError: this framing cannot express it."""
        body = message if isinstance(message, bytes) else self._single(message)
        if len(body) > self.max_frame:
            self._refuse(f"it has {len(body):,} bytes, and max_frame is {self.max_frame:,}")
        return self._wrap(body)

    @abstractmethod
    def _wrap(self, body: bytes) -> bytes:
        """The bytes of a message that is not too long."""

    def _single(self, message: list[bytes]) -> bytes:
        if len(message) != 1:
            self._refuse(f"it has {len(message)} frames, and only the kind multipart carries other than one")
        return message[0]

    def _refuse(self, sentence: str) -> NoReturn:
        raise FramingError(f"A message cannot be written with framing {self.kind}: {sentence}.")


def wrong(option: str, sentence: str) -> NoReturn:
    """Options that contradict each other."""
    raise OptionError(f"{option}: {sentence}.", option)


def partial(data: bytes | bytearray, mark: bytes) -> int:
    """How many bytes at the end of `data` may be the beginning of `mark`, at most."""
    for length in range(min(len(mark) - 1, len(data)), 0, -1):
        if data.endswith(mark[:length]):
            return length
    return 0
