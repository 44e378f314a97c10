"""Tables that are wrong, and what is said about each: `▶` stands before the place that the problem must name.

A table with several marks has several problems, one for each mark, in the order of the file.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.config.tables import BASE, DMZ_KEY, PLANT_KEY

MARK = "▶"


@dataclass(frozen=True)
class Wrong:
    """`expected`: (line, column, words) of each problem."""

    name: str
    text: str
    expected: tuple[tuple[int, int, str], ...]


WRONG: list[Wrong] = []


def whole(name: str, text: str, *words: str) -> None:
    """A table of its own."""
    places, plain = [], ""
    for index, piece in enumerate(text.split(MARK)):
        if index:
            places.append((plain.count("\n") + 1, len(plain) - plain.rfind("\n")))
        plain += piece
    assert len(places) == len(words) > 0, name
    WRONG.append(Wrong(name, plain, tuple((*place, said) for place, said in zip(places, words, strict=True))))


def change(name: str, old: str, new: str, *words: str) -> None:
    """The right table with one piece of it replaced."""
    assert BASE.count(old) == 1, (name, old)
    whole(name, BASE.replace(old, new), *words)


def route(name: str, lines: str, *words: str) -> None:
    """The right table with a route `extra` of these lines added; `▶` before `extra` if the first line is `@`."""
    key = f"{MARK}extra" if lines.startswith("@") else "extra"
    body = "\n".join("    " + line.strip() for line in lines.removeprefix("@").split("|"))
    whole(name, f"{BASE}  {key}:\n{body}\n", *words)


def end(name: str, lines: str, *words: str, pattern: str = "pipeline") -> None:
    """... with a route whose `from` end at dmz is the long form of these lines; `@` marks `from`'s value (`side`)."""
    first = f"{MARK}side: dmz" if lines.startswith("@") else "side: dmz"
    body = "\n".join("      " + line.rstrip() for line in (first, *lines.removeprefix("@").split("|")))
    age = "    max_age: 5s\n" if pattern in ("reqrep", "pair") else ""
    whole(name, f"{BASE}  extra:\n    pattern: {pattern}\n    to: plant bind local\n{age}    from:\n{body}\n", *words)


# --- no YAML ---------------------------------------------------------------------------------------------------------

whole("empty", "▶", "the table is empty")
whole("comments only", "▶# nothing\n\n", "the table is empty")
whole("empty document", "▶---\n", "the table is empty")
whole("a list", "▶- version: 1\n", "a table is a mapping")
whole("a word", "▶hello\n", "a table is a mapping")
whole("a number", "▶12\n", "a table is a mapping")
change("a tab for indentation", "  dmz:\n", "▶\tdmz:\n", "there is a tab here")
change("two documents", "links:", "▶---\nlinks:", "one YAML document")
change("a colon in an end", "from: dmz bind tcp", "from: dmz▶: bind tcp", "a second ': '")
whole("an open quote", "version: 1\nname: 'dmz\n▶", "never closed")
change("indentation", "  plant:\n", " ▶plant:\n", "indentation")
change("a percent name", "  orders:\n", "  ▶%orders:\n", "cannot begin with this character")
change("an at sign", "name: dmz", "name: ▶@dmz", "single quotes")
change("an unknown alias", "max_age: 5s", "max_age: ▶*age", "no anchor &age")
change("an alias inside itself", "max_age: 5s", "max_age: 5s\n    allow: &a [▶*a]", "inside what it stands for")
change("a tag", "max_age: 5s", "max_age: ▶!time 5s", "a tag")
change("a merge key", "    max_age: 5s", "    ▶<<: {max_age: 5s}\n    max_age: 5s", "merge keys")
change("a key that is a list", "    max_age: 5s", "    ▶[a]: 5s\n    max_age: 5s", "a key must be a plain word")
change(
    "a duplicate key",
    "    max_age: 5s",
    "    max_age: 5s\n    ▶max_age: 6s",
    "max_age' is here twice; it was first said in line 21",
)
change("a duplicate route", "  ticks:\n", "  ▶orders:\n", "routes.orders: 'orders' is here twice")
change(
    "a duplicate section", "routes:\n", "▶sides: {}\nroutes:\n", "'sides' is here twice; it was first said in line 4"
)
change("a control character", "name: dmz", "name: d▶\x07mz", "U+0007")
whole("a flow mapping that is not closed", "version: 1\nsides: {dmz: {key: x}\n▶", "not closed")
change("a backslash in double quotes", "name: dmz", 'name: "d\\▶mz"', "use single quotes")

# --- flow style's traps ----------------------------------------------------------------------------------------------

change(
    "a comma between endpoints in a mapping",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: {side: plant, connect: tcp://127.0.0.1:6555, ▶tcp://127.0.0.1:6565}",
    "routes.orders.to.tcp://127.0.0.1:6565: 'tcp://127.0.0.1:6565' stands where a key is expected; a comma between",
)
change(
    "a comma between endpoints in a list",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: [plant connect tcp://127.0.0.1:6555, ▶tcp://127.0.0.1:6565]",
    "routes.orders.to[1]: 'tcp://127.0.0.1:6565' stands where a side is expected; a comma between endpoints?",
)
change(
    "a comma after an endpoint",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶plant connect tcp://127.0.0.1:6555, tcp://127.0.0.1:6565",
    "ends with a comma",
)
change(
    "a comma and no space",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶plant connect tcp://127.0.0.1:6555,tcp://127.0.0.1:6565",
    "a comma between endpoints?",
)
change(
    "an IPv6 address in braces",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: {side: plant, connect: tcp://▶[::1]:6555}",
    "needs quotes, because of its own brackets",
)
change(
    "an IPv6 address in brackets",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: [plant connect tcp://▶[::1]:6555]",
    "needs quotes, because of its own brackets",
)
change(
    "no space after a colon in braces",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: {side: plant, ▶connect:tcp://127.0.0.1:6555}",
    "a space is missing after 'connect:'",
)
change(
    "a variable in braces",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: {side: plant, connect: $▶{SERVICE}}",
    "a variable inside {...} or [...] needs quotes",
)

# --- YAML 1.1's surprises --------------------------------------------------------------------------------------------

end("no for a boolean", "bind: local|keepalive: ▶no", "keepalive: true or false is expected here, not 'no' (yes, no")
end("22:22 for a number", "bind: local|hwm: ▶22:22", "a whole number is expected here, and '22:22' is none (22:22")
change("22:22 for a time", "max_age: 5s", "max_age: ▶22:22", "'22:22' is no time")
change("0660 without quotes", "    max_age: 5s", "    max_age: ▶0660", "is 432 to one YAML reader and 660 to another")
end("mode without quotes", "bind: ipc://a.sock|mode: ▶0660", "is 432 to one YAML reader")
end("mode as a number", "bind: ipc://a.sock|mode: ▶660", 'write mode: "0660"')
end("mode as 0o660", "bind: ipc://a.sock|mode: ▶0o660", "are no permission bits")
end("mode of five digits", 'bind: ipc://a.sock|mode: ▶"10660"', "are no permission bits")
change("a name that is a number", "name: dmz", "name: ▶12", "is a number here")
change("a name that is a boolean", "name: dmz", "name: ▶true", "this is true, not text")
change(
    "a side that is a number",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: {side: ▶7, bind: local}",
    "is a number here",
)

# --- the head --------------------------------------------------------------------------------------------------------

whole("no version", BASE.replace("version: 1\n", "").replace("name: dmz", "▶name: dmz"), "'version:' is missing here")
change("version 2", "version: 1", "version: ▶2", "tables of version 1")
change("version in quotes", "version: 1", "version: ▶'1'", "write version: 1")
change("an unknown key at the top", "name: dmz", "name: dmz\n▶rotues: {}", "Did you mean 'routes'?")
change("a name with a space", "name: dmz", "name: ▶d mz", "is no name")
change("a name with unicode", "name: dmz", "name: ▶Düsseldorf", "is no name")
change("a name that is too long", "name: dmz", "name: ▶" + "d" * 65, "at most 64 characters")
change("session without unit", "name: dmz", "name: dmz\nsession: ▶1024", "has no unit")
change("session too small", "name: dmz", "name: dmz\nsession: ▶1KiB", "from 1MiB to 1024GiB")
change("an include that is not there", "name: dmz", "name: dmz\ninclude: [▶more.yaml]", "include[0]: there is no file")
change("an include that is a number", "name: dmz", "name: dmz\ninclude: ▶7", "is a number here")
change("an unknown default", "name: dmz", "name: dmz\ndefaults: {▶windw: 4MiB}", "Did you mean 'window'?")
change("a wrong default", "name: dmz", "name: dmz\ndefaults: {delivery: ▶always}", "is no delivery")
change("defaults that are a list", "name: dmz", "name: dmz\ndefaults: ▶[block]", "a mapping of keys and values")

# --- sides and keys --------------------------------------------------------------------------------------------------

whole("no sides", "▶version: 1\nname: dmz\nlinks: [{listen: dmz, dial: plant}]\n", "'sides:' is missing")
whole("no links", "▶" + BASE.split("links:")[0], "'links:' is missing")
change("links that are a word", BASE[BASE.index("links:") : BASE.index("routes:")], "links: ▶none\n", "links is a list")
change(
    "sides that are a list",
    BASE[BASE.index("sides:") : BASE.index("links:")],
    "sides: ▶[dmz, plant]\n",
    "is a mapping of names",
)
change("a side without key", f"  dmz:\n    key: '{DMZ_KEY}'\n", "  ▶dmz: {}\n", "sides.dmz: 'key:' is missing here")
change(
    "an empty side",
    f"  dmz:\n    key: '{DMZ_KEY}'\n",
    "  ▶dmz:\n",
    "sides.dmz: this is empty; a side is a mapping; it needs at least key:",
)
change("a side that is a word", f"\n    key: '{DMZ_KEY}'\n", f" ▶{'x' * 40}\n", "a side is a mapping")
change("a key without a value", f"    key: '{DMZ_KEY}'\n", "    ▶key:\n", "a value is missing after 'key:'")
change("a key file that is not there", f"'{DMZ_KEY}'", "▶keys/dmz.key", "is not there; make it with ztunnel keygen")
change("a key file that is a folder", f"'{DMZ_KEY}'", "▶.", "is not a file")
change("a key that is none", f"'{DMZ_KEY}'", "▶'" + "%" * 40 + "'", "are no CURVE key")
change("the secret half named", f"'{DMZ_KEY}'", "▶keys/dmz.key_secret", "name the public one, keys/dmz.key")
change("the same key twice", f"'{DMZ_KEY}'", f"['{DMZ_KEY}', ▶'{DMZ_KEY}']", "this key is here twice")
change("the key of another side", f"'{PLANT_KEY}'", f"▶'{DMZ_KEY}'", "sides.plant.key: this key is also the key of dmz")
change("no key in the list", f"'{DMZ_KEY}'", "▶[]", "this list is empty")
change(
    "a secret in the table",
    f"'{DMZ_KEY}'",
    f"'{DMZ_KEY}'\n    secret: ▶hunter2",
    "a secret is never written into a table",
)
change("a secret with two sources", f"'{DMZ_KEY}'", f"'{DMZ_KEY}'\n    secret: ▶{{file: a, env: B}}", "has one source")
change("a secret of an unknown kind", f"'{DMZ_KEY}'", f"'{DMZ_KEY}'\n    secret: {{▶fiel: a}}", "Did you mean 'file'?")
whole(
    "a side's name with unicode",
    BASE.replace("  plant:\n", "  ▶plänt:\n", 1).replace("plant", "plänt"),
    "'plänt' is no name",
)
whole(
    "a side's name with a percent",
    BASE.replace("  plant:\n", "  ▶pl%ant:\n", 1).replace("plant", "pl%ant"),
    "'pl%ant' is no name",
)
whole(
    "a side's name with a capital",
    BASE.replace("  plant:\n", "  ▶Plant:\n", 1).replace("plant", "Plant"),
    "'Plant' is no name",
)
change(
    "a side no link reaches",
    "links:",
    "  ▶lab: {key: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}\nlinks:",
    "no link reaches lab",
)

# --- links -----------------------------------------------------------------------------------------------------------

LISTEN = "listen: dmz tcp://127.0.0.1:9440"
DIAL = "dial: plant tcp://127.0.0.1:9440"
change(
    "a link that listens nowhere", f"  - {LISTEN}\n    {DIAL}", f"  - ▶{DIAL}", "links[0]: 'listen:' is missing here"
)
change("a link nobody dials", f"  - {LISTEN}\n    {DIAL}", f"  - ▶{LISTEN}", "links[0]: 'dial:' is missing here")
change("an open listener", LISTEN, "listen: ▶dmz tcp://0.0.0.0:9440", "can be reached from beyond this box")
change("an open listener on every address", LISTEN, "listen: ▶dmz tcp://*:9440", "add allow:")
change("an open listener, mapped", LISTEN, "listen: ▶dmz tcp://[::ffff:192.0.2.1]:9440", "add allow:")
change("an empty allow", LISTEN, "listen: ▶dmz tcp://192.0.2.1:9440\n    allow: []", "add allow:")
change("a link over a slip", DIAL, "dial: ▶plant tpc://127.0.0.1:9440", "Did you mean 'tcp'?")
change("a link over inproc", DIAL, "dial: ▶plant inproc://a", "inproc:// does not leave a process")
change("a link without port", DIAL, "dial: ▶plant tcp://127.0.0.1", "has no port")
change("a link with a method", DIAL, "dial: ▶plant connect tcp://127.0.0.1:9440", "'connect' does not belong here")
change("two addresses to listen at", LISTEN, "listen: ▶dmz tcp://127.0.0.1:9440 tcp://127.0.0.1:9441", "at one address")
change(
    "a side that dials itself",
    DIAL,
    "dial:\n      - plant tcp://127.0.0.1:9440\n      - ▶dmz tcp://127.0.0.1:9440",
    "cannot dial itself",
)
change(
    "two links between two sides",
    f"    {DIAL}\n",
    f"    {DIAL}\n  - listen: plant tcp://127.0.0.1:9441\n    dial: ▶dmz tcp://127.0.0.1:9441\n",
    "are linked already (line 11)",
)
change(
    "a source that is a name",
    DIAL,
    "dial: {side: plant, address: 'tcp://127.0.0.1:9440', source: ▶eth0}",
    "source: is a numeric address",
)
change(
    "a mode on a tcp listener",
    LISTEN,
    "listen: {side: dmz, address: 'tcp://127.0.0.1:9440', mode: ▶'0660'}",
    "is for ipc:// addresses only",
)
change(
    "an unknown key in a link",
    DIAL,
    f"{DIAL}\n    ▶alow: any",
    "links[0].alow: 'alow' is not a key that is known here. Did you mean 'allow'?",
)
change(
    "a password in an address",
    DIAL,
    "dial: ▶plant tcp://me:hunter2@127.0.0.1:9440",
    "does not belong into an endpoint (tcp://127.0.0.1:9440)",
)

# --- routes ----------------------------------------------------------------------------------------------------------

change("routes that are a list", BASE[BASE.index("routes:") :], "routes: ▶[a, b]\n", "routes is a mapping of names")
change(
    "an empty route",
    "  ticks:\n",
    "  ▶nothing:\n  ticks:\n",
    "a route is a mapping; it needs at least pattern:, from: and to:",
)
change("a route that is a word", "  ticks:\n", "  nothing: ▶here\n  ticks:\n", "a route is a mapping")
change("a route's name with a slash", "  ticks:\n", "  ▶a/b:\n", "'a/b' is no name")
change("a route's name with a percent", "  ticks:\n", "  ▶a%b:\n", "'a%b' is no name")
route("without pattern", "@from: dmz bind local|to: plant bind local", "routes.extra: 'pattern:' is missing here")
route("without from", "@pattern: pipeline|to: plant bind local", "routes.extra: 'from:' is missing here")
route("without to", "@pattern: pipeline|from: dmz bind local", "routes.extra: 'to:' is missing here")
change("an unknown pattern", "pattern: reqrep", "pattern: ▶reqrap", "Did you mean 'reqrep'?")
change("a pattern by its sockets", "pattern: reqrep", "pattern: ▶router", "Did you mean 'reqrep'?")
change("a pattern that is a list", "pattern: reqrep", "pattern: ▶[reqrep]", "a pattern is expected here")
change("a misspelt pattern key", "    pattern: reqrep", "    ▶patern: reqrep", "Did you mean 'pattern'?")
change(
    "a misspelt from",
    "    from: dmz bind tcp://127.0.0.1:5555",
    "    ▶form: dmz bind tcp://127.0.0.1:5555",
    "Did you mean 'from'?",
)
route(
    "reqrep without max_age", "@pattern: reqrep|from: dmz bind local|to: plant bind local", "how old a request may be"
)
route("pair without max_age", "@pattern: pair|from: dmz bind local|to: plant bind local", "how old a message may be")
change("max_age without unit", "max_age: 5s", "max_age: ▶5", "5 has no unit; write for example 5s or 200ms")
change(
    "max_age of an unknown unit",
    "max_age: 5s",
    "max_age: ▶5sec",
    "'sec' is no unit of time; write ms, s, m, h or d, such as 5s",
)
change("max_age of nothing", "max_age: 5s", "max_age: ▶0s", "at least 1ms")
change("an empty max_age", "max_age: 5s", "▶max_age:", "a value is missing after 'max_age:'")
change(
    "spooled requests",
    "max_age: 5s",
    "max_age: 5s\n    delivery: ▶spooled",
    "who asked may be gone when a request comes from the disk; use confirmed, or a pipeline",
)
route(
    "a spooled pair",
    "pattern: pair|from: dmz bind local|to: plant bind local|max_age: never|delivery: ▶spooled",
    "use confirmed, or a spooled pipeline each way",
)
route(
    "a spooled stream",
    "pattern: stream|from: dmz bind tcp://127.0.0.1:1|to: plant connect tcp://127.0.0.1:2|delivery: ▶spooled",
    "its delivery is confirmed; take this out",
)
route(
    "spooled topics that nobody is sure to want",
    "pattern: pubsub|from: dmz bind local|to: plant bind local|delivery: ▶spooled",
    "say which topics: subscribe: [''] for all",
)
route(
    "spooled and dropping",
    "pattern: pipeline|from: dmz bind local|to: plant bind local|delivery: spooled|overflow: ▶drop-oldest",
    "its overflow is block",
)
route(
    "spooled and never sent again",
    "pattern: pipeline|from: dmz bind local|to: plant bind local|delivery: spooled|on_restart: ▶drop",
    "always sends again what was not delivered",
)
route(
    "a spool without spooled",
    "pattern: pipeline|from: dmz bind local|to: plant bind local|▶spool: {max: 2GiB}",
    "is for a route with delivery: spooled",
)
route(
    "a message that no disk takes",
    "pattern: pipeline|from: dmz bind local|to: plant bind local|delivery: spooled|max_message: ▶300MiB",
    "at most 256MiB",
)
route(
    "bounds of a spool",
    "pattern: pipeline|from: dmz bind local|to: plant bind local|delivery: spooled"
    "|spool: {max: ▶1KiB, expire: ▶10ms, ▶expires: 7d}",
    "from 1MiB",
    "at least 1s, or 'never'",
    "Did you mean 'expire'?",
)
change("an unknown delivery", "max_age: 5s", "max_age: 5s\n    delivery: ▶confrmed", "Did you mean 'confirmed'?")
change("an unknown overflow", "max_age: 5s", "max_age: 5s\n    overflow: ▶drop_oldest", "Did you mean 'drop-oldest'?")
change("an unknown priority", "max_age: 5s", "max_age: 5s\n    priority: ▶low", "Did you mean 'bulk'?")
change("an unknown on_restart", "max_age: 5s", "max_age: 5s\n    on_restart: ▶resent", "Did you mean 'resend'?")
change(
    "window without unit",
    "max_age: 5s",
    "max_age: 5s\n    window: ▶4194304",
    "4194304 has no unit; write for example 4MiB or 64KiB",
)
change(
    "window in MB",
    "max_age: 5s",
    "max_age: 5s\n    window: ▶4MB",
    "'MB' is no unit of size; write B, KiB, MiB or GiB, such as 4MiB",
)
change("window too small", "max_age: 5s", "max_age: 5s\n    window: ▶1KiB", "from 4KiB to 1GiB")
change("window that is a list", "max_age: 5s", "max_age: 5s\n    window: ▶[4MiB]", "this is no size")
change("max_message too large", "max_age: 5s", "max_age: 5s\n    max_message: ▶2GiB", "from 1B to 2147483647B")
change(
    "keep-latest for requests",
    "max_age: 5s",
    "max_age: 5s\n    overflow: ▶keep-latest",
    "would drop requests of other clients",
)
change("topics for requests", "max_age: 5s", "max_age: 5s\n    ▶topics: {allow: [a]}", "topics: is for pubsub routes")
change("subscribe for requests", "max_age: 5s", "max_age: 5s\n    ▶subscribe: ['']", "subscribe: is for pubsub routes")
TO = "to: dmz bind tcp://127.0.0.1:5556"
change("topics in odd hex", TO, f"{TO}\n    topics: {{allow: [▶'hex:0']}}", "an even number of the digits")
change("topics as numbers", TO, f"{TO}\n    topics: {{deny: [▶17]}}", "17 is a number here, not text; put it in quotes")
change(
    "topics with an unknown key",
    TO,
    f"{TO}\n    topics: {{▶alow: [a]}}",
    "routes.ticks.topics.alow: 'alow' is not a key that is known here. Did you mean 'allow'?",
)
change(
    "topics denied altogether",
    TO,
    f"{TO}\n    topics: {{allow: [b, ▶abc], deny: [ab]}}",
    "deny: covers this whole prefix",
)
change("no topics", TO, f"{TO}\n    topics: {{allow: ▶[]}}", "no topic is allowed")
change("a topic that is too long", TO, f"{TO}\n    subscribe: [▶{'t' * 4097}]", "a topic has at most 4096 bytes")
change(
    "allow with a name",
    "max_age: 5s",
    "max_age: 5s\n    allow: [127.0.0.1, ▶example.com]",
    "routes.orders.allow[1]: 'example.com' is no network",
)
change(
    "allow with host bits",
    "max_age: 5s",
    "max_age: 5s\n    allow: ▶192.0.2.7/24",
    "write 192.0.2.0/24 for the network or 192.0.2.7/32",
)
change("allow with a star", "max_age: 5s", "max_age: 5s\n    allow: ▶'*'", "to let in everybody, say 'any'")
change(
    "allow with a comma", "max_age: 5s", "max_age: 5s\n    allow: ▶10.0.0.0/8, 192.0.2.0/24", "give several as a list"
)
change("allow with a number", "max_age: 5s", "max_age: 5s\n    allow: ▶10", "is a number here")
change(
    "an unknown side",
    "from: dmz bind tcp://127.0.0.1:5555",
    "from: ▶dmx bind tcp://127.0.0.1:5555",
    "'dmx' is no side of this table. Did you mean 'dmz'?",
)
change(
    "a side nothing is like",
    "from: dmz bind tcp://127.0.0.1:5555",
    "from: ▶office bind tcp://127.0.0.1:5555",
    "There are dmz and plant.",
)
change(
    "both ends at one side",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶dmz connect tcp://127.0.0.1:6555",
    "dmz is at both ends",
)
change(
    "one side twice at an end",
    TO,
    "to:\n      - dmz bind local\n      - ▶dmz bind tcp://127.0.0.1:5556",
    "dmz is here twice",
)
change("no end", TO, "to: ▶[]", "this list of ends is empty")
whole(
    "no link joins two sides",
    BASE.replace(
        "links:", "  lab: {key: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}\nlinks:\n  - {listen: dmz, dial: lab}"
    )
    + "  ▶extra:\n    pattern: pipeline\n    from: lab bind local\n    to: plant bind local\n",
    "no link joins lab and plant",
)
change(
    "two routes that bind one address",
    TO,
    "to: ▶dmz bind tcp://127.0.0.1:5555",
    "dmz binds tcp://127.0.0.1:5555 already for the route orders (line 18)",
)
change(
    "a wildcard over a bound address",
    TO,
    "to: ▶dmz bind tcp://*:5555\n    allow: any",
    "dmz binds tcp://127.0.0.1:5555 already",
)
change(
    "a route that binds the link's address", TO, "to: ▶dmz bind tcp://127.0.0.1:9440", "already for the link (line 11)"
)
end("an ipc path bound twice", "bind: [ipc://a, ▶ipc://a]", "ipc://a is here twice")
change(
    "an open bind",
    TO,
    "to: ▶dmz bind tcp://192.0.2.10:5556",
    "tcp://192.0.2.10:5556 can be reached from beyond this box",
)
change("an open bind by interface", TO, "to: ▶dmz bind tcp://eth0:5556", "can be reached from beyond this box")
change(
    "an open bind with an empty allow", TO, "to: dmz bind tcp://192.0.2.10:5556\n    allow: ▶[]", "this list is empty"
)

# --- ends ------------------------------------------------------------------------------------------------------------

FROM = "from: dmz bind tcp://127.0.0.1:5555"
change(
    "an end without method", FROM, "from: ▶dmz tcp://127.0.0.1:5555", "'bind' or 'connect' is missing between 'dmz' and"
)
change(
    "an end with a wrong method",
    FROM,
    "from: ▶dmz bnd tcp://127.0.0.1:5555",
    "'bnd' is neither bind nor connect. Did you mean 'bind'?",
)
change("an end without endpoint", FROM, "from: ▶dmz bind", "an endpoint is missing after 'bind'")
change("an end without side", FROM, "from: ▶bind tcp://127.0.0.1:5555", "the side is missing before 'bind'")
change("an end that is an endpoint", FROM, "from: ▶tcp://127.0.0.1:5555", "stands where a side is expected")
change("an end that is empty text", FROM, "from: ▶''", "this is empty; write 'SIDE bind")
change("an end that is a number", FROM, "from: ▶5555", "a mapping of keys and values is expected here, not 5555")
change("an end with a comma after the side", FROM, "from: ▶dmz, bind tcp://127.0.0.1:5555", "a comma after the side")
change(
    "an end that binds and connects in short",
    FROM,
    "from: ▶dmz bind local connect tcp://127.0.0.1:1",
    "written in the long form",
)
change("an end without scheme", FROM, "from: ▶dmz bind 127.0.0.1:5555", "'127.0.0.1:5555' is no endpoint")
change("an end with ssh", FROM, "from: ▶dmz bind ssh://a/b:1", "ssh:// carries links")
change("an end with udp", FROM, "from: ▶dmz bind udp://127.0.0.1:5555", "udp:// is not carried")
change("an end with a slip in its scheme", FROM, "from: ▶dmz bind tc://127.0.0.1:5555", "Did you mean 'tcp'?")
change("a port that is a word", FROM, "from: ▶dmz bind tcp://127.0.0.1:http", "a port is a number from 1 to 65535")
change("a port that is too large", FROM, "from: ▶dmz bind tcp://127.0.0.1:70000", "a port is a number from 1 to 65535")
change("a port at random", FROM, "from: ▶dmz bind tcp://127.0.0.1:*", "nobody can find")
change("a path after the port", FROM, "from: ▶dmz bind tcp://127.0.0.1:5555/a", "has no path")
change("an IPv6 address without brackets", FROM, "from: ▶dmz bind tcp://::1:5555", "goes into square brackets")
change("a bad IPv6 address", FROM, "from: ▶dmz bind tcp://[::g]:5555", "'::g' is no IPv6 address")
change("a bad IPv4 address", FROM, "from: ▶dmz bind tcp://127.0.0.256:5555", "is no IPv4 address")
change("a name to bind", FROM, "from: ▶dmz bind tcp://localhost:5555", "write tcp://127.0.0.1, or '*'")
change("a long name to bind", FROM, "from: ▶dmz bind tcp://orders.example.com:5555", "not a name")
change("a host that is none", FROM, "from: ▶dmz bind tcp://a$b:5555", "is no host")
change("no host", FROM, "from: ▶dmz bind tcp://:5555", "names no host")
change(
    "connecting to every address",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶plant connect tcp://*:6555",
    "one cannot connect to every address",
)
change(
    "connecting to 0.0.0.0",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶plant connect tcp://0.0.0.0:6555",
    "one cannot connect to every address",
)
change(
    "connecting to ::",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶plant connect tcp://[::]:6555",
    "one cannot connect to every address",
)
change(
    "connecting from a source",
    "to: plant connect tcp://127.0.0.1:6555",
    "to: ▶plant connect tcp://10.0.0.1:0;127.0.0.1:6555",
    "a source address before ';'",
)
change(
    "connecting to local", "to: plant connect tcp://127.0.0.1:6555", "to: ▶plant connect local", "write 'bind local'"
)
change(
    "a password in an endpoint",
    FROM,
    "from: ▶dmz bind tcp://me:hunter2@127.0.0.1:5555",
    "does not belong into an endpoint",
)
end("ipc without path", "bind: ▶ipc://", "names no socket file")
end("ipc with dots", "bind: ▶ipc://../a", "cannot contain '..'")
end("ipc too long", f"bind: ▶ipc://{'a' * 108}", "at most 107 bytes")
end("ipc abstract", "bind: ▶ipc://@a", "has no permissions to guard it")
end("an unknown key", "bind: local|▶hmw: 10", "Did you mean 'hwm'?")
end("hwm of nothing", "bind: local|hwm: ▶0", "this number is at least 1; 0 is not")
end("hwm too large", "bind: local|hwm: ▶10000000", "this number is at most 1000000")
end("hwm in fractions", "bind: local|hwm: ▶1.5", "a whole number is expected here")
end("hwm as text", "bind: local|hwm: ▶'10'", "a whole number is expected here, and '10' is none")
end("mode on tcp", "bind: tcp://127.0.0.1:7000|▶mode: '0660'", "is for ends that bind ipc://")
end("group on tcp", "bind: tcp://127.0.0.1:7000|▶group: users", "is for ends that bind ipc://")
end("allow on ipc", "bind: ipc://a|▶allow: any", "allow: is for ends that bind tcp://")
end("options without endpoint", "▶hwm: 10", "needs an endpoint beside it")
end("an empty bind", "▶bind:", "a value is missing after 'bind:'")
end("a routing id on a pipeline", "bind: local|▶routing_id: a", "is for the 'to' end of a reqrep route")
end("a routing id of zero", "bind: local|routing_id: ▶hex:0001", "cannot begin with a zero byte")
end("handover on a pipeline", "bind: local|▶handover: true", "handover: is for the 'from' end of a reqrep route")
end("a heartbeat too quick", "bind: local|heartbeat: ▶1ms", "from 100ms to 1d")
end("sndbuf without unit", "bind: local|sndbuf: ▶100", "100 has no unit")
change(
    "a pair of three",
    "  ticks:\n",
    "  chat:\n    pattern: pair\n    max_age: never\n    from: dmz bind local\n    to: ▶plant bind local ipc://b\n"
    "  ticks:\n",
    "an end of a pair route has one endpoint",
)
end(
    "curve and plain",
    "bind: tcp://127.0.0.1:7000|curve: {own: a.key_secret}|▶plain: {users: {a: {env: A}}}",
    "CURVE or PLAIN, not both",
)
end("curve without own", "bind: tcp://127.0.0.1:7000|▶curve: {}", "'own:' is missing here")
end("curve with a misspelt key", "bind: tcp://127.0.0.1:7000|curve: {own: a, ▶client: b}", "Did you mean 'clients'?")
end("curve without server", "connect: tcp://127.0.0.1:7000|▶curve: {own: a}", "'server:' is missing here")
end(
    "curve with clients where we connect",
    "connect: tcp://127.0.0.1:7000|curve: {own: a, server: b, ▶clients: c}",
    "clients: is for ends that bind",
)
end(
    "curve with server where we bind",
    "bind: tcp://127.0.0.1:7000|curve: {own: a, ▶server: b}",
    "server: is for ends that connect",
)
end(
    "curve on an end that does both",
    "bind: tcp://127.0.0.1:7000|connect: tcp://127.0.0.1:7001|▶curve: {own: a}",
    "binds or connects, not both",
)
end("plain without users", "bind: tcp://127.0.0.1:7000|▶plain: {users: {}}", "'users:' is missing here")
end("plain without password", "connect: tcp://127.0.0.1:7000|▶plain: {username: a}", "needs username: and password:")
end(
    "plain with users where we connect",
    "connect: tcp://127.0.0.1:7000|plain: {▶users: {a: {env: A}}}",
    "users: is for ends that bind",
)
end(
    "plain with username where we bind",
    "bind: tcp://127.0.0.1:7000|plain: {users: {a: {env: A}}, ▶username: a}",
    "username: is for ends that connect",
)
end(
    "a password in the table",
    "connect: tcp://127.0.0.1:7000|plain: {username: a, password: ▶hunter2}",
    "a secret is never written into a table",
)
end("a user without password", "bind: tcp://127.0.0.1:7000|plain: {users: {▶a: }}", "a value is missing after 'a:'")

# --- variables -------------------------------------------------------------------------------------------------------

change(
    "an unset variable",
    "max_age: 5s",
    "max_age: ▶${ZT_NOT_SET}",
    "the variable ZT_NOT_SET is not set; set it, or write ${ZT_NOT_SET:-default}",
)
change(
    "an unset variable with a reason",
    "max_age: 5s",
    "max_age: ▶${ZT_NOT_SET:?ask the plant}",
    "is not set: ask the plant",
)
change("a variable that is not closed", "max_age: 5s", "max_age: ▶${ZT_NOT_SET", "after '${' a variable's name and '}'")
change("a variable in a default", "max_age: 5s", "max_age: ▶${A:-${B}}", "after '${' a variable's name and '}'")
change("a default that is wrong", "max_age: 5s", "max_age: ▶${ZT_NOT_SET:-soon}", "'soon' is no time")
change(
    "a variable in a key", "    max_age: 5s", "    max_age: 5s\n    ▶${ZT_KEY}: 5s", "is not a key that is known here"
)

# --- the session -----------------------------------------------------------------------------------------------------

change(
    "windows larger than the session",
    "name: dmz",
    "name: dmz\nsession: ▶100MiB",
    "dmz and plant may hold 128MiB together",
)
whole(
    "windows larger than the default session",
    BASE.replace("routes:", "▶routes:").replace("max_age: 5s", "max_age: 5s\n    max_message: 1GiB"),
    "may hold 1088MiB together",
)

# --- bridges ---------------------------------------------------------------------------------------------------------


def bridge(name: str, lines: str, *words: str) -> None:
    key = f"{MARK}old" if lines.startswith("@") else "old"
    body = "\n".join("    " + line for line in lines.removeprefix("@").split("|"))
    extra = "  weights:\n    pattern: pipeline\n    from: plant bind local\n    to: dmz bind local\n"
    whole(name, f"{BASE}{extra}bridges:\n  {key}:\n{body}\n", *words)


LATER = "not in this version yet"
bridge(
    "a kind that is none", "side: plant|kind: ▶tcp-sever|zmq: PUSH connect route:weights", "Did you mean 'tcp-server'?"
)
bridge(
    "a kind nothing is like",
    "side: plant|kind: ▶exec|zmq: PUSH connect route:weights",
    "'exec' is no kind of bridge. There are tcp-server, tcp-client",
)
MADE = "kind: tcp-server|listen: tcp://127.0.0.1:4001"
bridge("a bridge without zmq", f"@side: plant|{MADE}", "'zmq:' is missing here")
bridge(
    "a wrong socket for a route",
    f"side: plant|{MADE}|zmq: ▶PULL connect route:weights",
    "a PULL cannot talk to weights at plant: its 'from' end of pipeline wants PUSH",
)
bridge("an unknown route", f"side: plant|{MADE}|zmq: ▶PUSH connect route:weight", "Did you mean 'weights'?")
bridge("an unknown socket", f"side: plant|{MADE}|zmq: ▶PUHS connect route:weights", "Did you mean 'PUSH'?")
bridge(
    "a bridge that binds a route",
    f"side: plant|{MADE}|zmq: ▶PUSH bind route:weights",
    "write 'PUSH connect route:weights'",
)
bridge("a bridge at an unknown side", f"side: ▶plnt|{MADE}|zmq: PUSH connect route:weights", "Did you mean 'plant'?")
bridge(
    "a bridge to an end that connects",
    "side: plant|kind: tcp-client|connect: tcp://10.0.0.7:4001|zmq: ▶REP connect route:orders",
    "let it 'bind local'",
)
bridge("a bridge's bad endpoint", f"side: plant|{MADE}|zmq: ▶PUSH connect tcp://a", "has no port")
bridge("a bridge's socket in a word", f"side: plant|{MADE}|zmq: ▶PUSH", "a bridge's socket is written")


def server(name: str, lines: str, *words: str, zmq: str = "PUSH connect route:weights") -> None:
    """A tcp-server at plant that is right but for these lines."""
    listen = "" if "listen:" in lines else "listen: tcp://127.0.0.1:4001|"
    bridge(name, f"side: plant|kind: tcp-server|{listen}zmq: {zmq}|{lines}", *words)


def client(name: str, lines: str, *words: str, zmq: str = "REP bind tcp://127.0.0.1:4002") -> None:
    connect = "" if "connect:" in lines else "connect: tcp://10.0.0.7:4001|"
    bridge(name, f"side: plant|kind: tcp-client|{connect}zmq: {zmq}|{lines}", *words)


ASKS = "REQ connect tcp://127.0.0.1:4003"
bridge(
    "a tcp-server without listen",
    "@side: plant|kind: tcp-server|zmq: PUSH connect route:weights",
    "'listen:' is missing here",
)
server("devices from anywhere", "listen: ▶tcp://192.0.2.1:4001", "nothing says by whom")
server(
    "devices from nowhere", "listen: tcp://192.0.2.1:4001|allow: ▶[]", "this list is empty; name networks, or say any"
)
server("an empty list of ports", "listen: ▶[]", "this list is empty; name the address that devices dial")
server("a private port for devices", "listen: ▶local", "'local' is for 0MQ")
server("an unknown framing", "frame: {kind: ▶lines}", "no framing 'lines'. Did you mean 'line'?")
server("an unknown option of a framing", "frame: {delimitr: ▶x}", "Did you mean 'delimiter'?")
server("a frame without a unit", "frame: {max_frame: ▶4096}", "has no unit")
server("a pause without a unit", "frame: {kind: idle, pause: ▶5}", "has no unit")
server("a wrong value of a framing", "frame: {kind: length, width: ▶3}", "width must be")
server("a frame that is a list", "frame: ▶[line]", "a mapping is expected here")
server("an unknown key of a bridge", "▶conections: 5", "Did you mean 'connections'?")
server("a topic for a PUSH", "▶topic: scales", "topic: is for a PUB")
server("a timeout for a PUSH", "▶timeout: 5s", "is for a REQ or DEALER")
server("acked by a PUSH", "accept: ▶acked|ack: x", "a PUSH has accept: queued")
server("acked without a word", "accept: ▶acked", "'ack:' is missing", zmq=ASKS)
server("queued by a REQ", "ack: ▶x", "say accept: acked", zmq=ASKS)
server("a nak for nothing", "▶nak: x", "nak: is for accept: acked", zmq=ASKS)
server("spooled by a PUSH", "accept: ▶spooled|ack: x", "a PUSH has accept: queued")
server("a spool for nothing", "▶spool: {max: 1GiB}", "spool: is for accept: spooled")
server("a takeover of nobody", "▶takeover: newest", "needs per_address:")
server("a takeover by the oldest", "per_address: 1|takeover: ▶oldest", "is no takeover")
server("to all by a PUSH", "▶to: all", "is for a SUB or PULL")
server("a pin for devices", "tls: {cert: a, key: b, ▶pin: '" + "0" * 64 + "'}", "pin: is for links; a bridge")
client("TLS on a unix socket", "connect: ipc:///run/x.sock|▶tls: {ca: x}", "tls: is for tcp://")
server("an ack by a SUB", "▶ack: x", "a SUB does not tell by itself", zmq="SUB connect tcp://127.0.0.1:4003")
server("meta for a PULL", "▶meta: true", "those of a PULL do not", zmq="PULL connect tcp://127.0.0.1:4003")
server("TLS without a certificate", "▶tls: {ca: x}", "a server needs cert: and key: here")
server("a socket of no server", "", "a tcp-server has no XPUB", zmq="▶XPUB bind tcp://127.0.0.1:4003")
client("a client without connect", "connect: ▶[]", "this list is empty; name the address of the server")
client("a certificate without its key", "▶tls: {cert: a}", "cert: and key: of our own go together")
client("a socket of no client", "", "a tcp-client has no ROUTER", zmq="▶ROUTER bind tcp://127.0.0.1:4002")
client(
    "correlation without requests",
    "▶correlate: {offset: 0, length: 2}",
    "is for a REP",
    zmq="PULL bind tcp://127.0.0.1:4002",
)
client("correlation of nothing", "correlate: {offset: 0, length: ▶0}", "at least 1")
client("too many connections", "pool: ▶1000", "at most 256")
client("a start at leisure", "start: ▶later", "is no choice for start")
bridge(
    "a 0MQ socket for everybody",
    "side: plant|kind: tcp-client|connect: tcp://10.0.0.7:4001|zmq: ▶REP bind tcp://192.0.2.1:4002",
    "let a route bind it",
)

# --- imap ------------------------------------------------------------------------------------------------------------


def mailbox(name: str, lines: str, *words: str, zmq: str = "PUSH connect route:weights") -> None:
    """An imap at plant that is right but for these lines."""
    connect = "" if "connect:" in lines else "connect: tcp://mail.example.com:993|"
    login = "" if "login:" in lines else "login: {user: ops, password: {env: P}}|"
    bridge(name, f"side: plant|kind: imap|{connect}{login}zmq: {zmq}|{lines}", *words)


bridge(
    "a mailbox without connect",
    "@side: plant|kind: imap|login: {user: ops, password: {env: P}}|zmq: PUSH connect route:weights",
    "'connect:' is missing here",
)
mailbox("a mailbox in a file", "connect: ▶ipc://mail.sock", "a mail server is at tcp://HOST:PORT")
mailbox("a mailbox without a port", "connect: ▶tcp://mail.example.com", "has no port")
mailbox("a mailbox with a password in its address", "connect: ▶tcp://ops:x@mail.example.com:993", "a user or password")
mailbox("a socket of no mailbox", "", "an imap has no PULL", zmq="▶PULL connect tcp://127.0.0.1:4003")
mailbox("a login without a password", "login: ▶{user: ops}", "'password:' or 'token_command:' is missing")
mailbox(
    "a login with both",
    "login: {user: ops, password: {env: P}, ▶token_command: [token]}",
    "a password or a token, not both",
)
mailbox(
    "a password of a mailbox in the table",
    "login: {user: ops, password: ▶secret}",
    "a secret is never written into a table",
)
mailbox("a user with a line's end", 'login: {user: ▶"o\\r\\nps", password: {env: P}}', "a user has a control character")
mailbox("a token by a program near by", "login: {user: ops, token_command: ▶[./token]}", "its absolute path")
mailbox("no user", "login: {user: ▶'', password: {env: P}}", "a user has 1 to 255 bytes")
mailbox("readable by everybody", "tls: {mode: ▶none}", "reads the password and the mails")
mailbox("insecure with TLS", "tls: {▶insecure: true}", "insecure: is for mode: none")
mailbox(
    "an authority for nothing",
    "connect: tcp://127.0.0.1:143|tls: {mode: none, ▶ca: x}",
    "ca: is for TLS, and mode: none has none",
)
mailbox("TLS in an unknown way", "tls: {mode: ▶ssl}", "'ssl' is no mode")
mailbox("no folder", "folder: ▶[]", "this list is empty; name a folder")
mailbox("too many folders", "folder: ▶[a, b, c, d, e, f, g, h, i]", "at most 8 folders")
mailbox("a folder twice", "folder: [INBOX, ▶inbox]", "'inbox' stands here twice")
mailbox("a folder with a line's end", 'folder: ▶"a\\nb"', "the name of a folder has a control character")
mailbox("a move to where it came from", "after: ▶{move: Inbox}", "mails would be fetched from there again")
mailbox("a quarantine where it came from", "folder: A|quarantine: ▶A", "mails would be fetched from there again")
mailbox("done in an unknown way", "after: ▶sen", "Did you mean 'seen'?")
mailbox("done in two ways", "after: ▶{move: A, keyword: b}", "is one of seen, delete, none, {keyword: NAME}")
mailbox("a flag of the system", "after: ▶{keyword: '\\Answered'}", "is no keyword")
mailbox("a keyword of two", "after: ▶{keyword: 'a b'}", "is no keyword")
mailbox("since yesterday", "since: ▶yesterday", "is no choice for since")
mailbox("renumbered in an unknown way", "rebaseline: ▶ignore", "is no choice for rebaseline")
mailbox("never put aside", "attempts: ▶0", "at least 1")
mailbox("a poll without a unit", "poll: ▶5", "has no unit")
mailbox("a mail too large for a frame", "max_message: ▶100MiB", "a mail has at most 64MiB here")
mailbox("a key that a mailbox has not", "▶folders: INBOX", "Did you mean 'folder'?")

# --- several at once -------------------------------------------------------------------------------------------------

whole(
    "many problems at once",
    BASE.replace("version: 1", "version: ▶3")
    .replace("max_age: 5s", "max_age: ▶soon\n    ▶max_age: 1s\n    window: ▶4\n    ▶windw: 4MiB")
    .replace("from: plant connect tcp://127.0.0.1:6556", "from: ▶plant conect tcp://127.0.0.1:6556")
    .replace("to: dmz bind tcp://127.0.0.1:5556", "to: ▶dmz bind tcp://192.0.2.1:5556\n    delivery: ▶certain"),
    "tables of version 1",
    "'soon' is no time",
    "'max_age' is here twice",
    "4 has no unit",
    "Did you mean 'window'?",
    "Did you mean 'connect'?",
    "can be reached from beyond this box",
    "'certain' is no delivery",
)

# --- links inside SSH and HTTP ---------------------------------------------------------------------------------------

PIN = "ab" * 32


def dial(name: str, address: str, *words: str, more: str = "") -> None:
    """The right table with another address to dial; `▶` before `plant` in the short form, or in `more` (long form)."""
    if not more:
        change(name, DIAL, f"dial: {MARK}plant {address}", *words)
        return
    body = "\n".join("      " + line for line in more.split("|"))
    change(name, DIAL, f"dial:\n      side: plant\n      address: {address}\n{body}", *words)


def listen(name: str, address: str, *words: str, more: str = "", allow: str = "") -> None:
    """... to listen at; what does not fit it is dialled by a side alone."""
    start = f"  - {LISTEN}\n    {DIAL}\n"
    rest = f"    dial: plant\n{allow}"
    if not more:
        change(name, start, f"  - listen: {MARK}dmz {address}\n{rest}", *words)
        return
    body = "\n".join("      " + line for line in more.split("|"))
    change(name, start, f"  - listen:\n      side: dmz\n      address: {address}\n{body}\n{rest}", *words)


dial("ssh with a password", "ssh://me:hunter2@dmz/9440", "a password does not belong into an address; see ssh:")
dial("ssh with a password that has a slash", "ssh://me:a/hunter2@dmz/9440", "a password does not belong into")
dial("ssh without user", "ssh://dmz.example.com/127.0.0.1:9440", "names no user; write ssh://USER@dmz.example.com/...")
dial("ssh with an empty user", "ssh://@dmz/127.0.0.1:9440", "'' is no user")
dial("ssh with an option for a user", "ssh://-oProxyCommand=x@dmz/9440", "'-oProxyCommand=x' is no user")
dial("ssh with an option for a host", "ssh://me@-oProxyCommand=x/9440", "'-oProxyCommand=x' is no host")
dial("ssh without target", "ssh://me@dmz", "ends before it says where beyond the sshd")
dial("ssh with an empty target", "ssh://me@dmz/", "after the '/' comes 127.0.0.1:9440 or run/ztunnel.sock")
dial("ssh with a relative socket", "ssh://me@dmz/zt.sock", "'zt.sock' is neither HOST:PORT nor the absolute path")
dial("ssh with dots in its socket", "ssh://me@dmz/run/../zt.sock", "is no path of a socket")
dial("ssh with a folder for a socket", "ssh://me@dmz/run/zt/", "ends with a name")
dial("ssh with a long socket", f"ssh://me@dmz/run/{'a' * 108}", "at most 107 bytes")
dial("ssh with target port 0", "ssh://me@dmz/127.0.0.1:0", "a port is a number from 1 to 65535")
dial("ssh with target port 70000", "ssh://me@dmz/127.0.0.1:70000", "a port is a number from 1 to 65535")
dial("ssh with a bare target port 70000", "ssh://me@dmz/70000", "a port is a number from 1 to 65535")
dial("ssh with a word for a target port", "ssh://me@dmz/127.0.0.1:link", "a port is a number from 1 to 65535")
dial("ssh with port 0", "ssh://me@dmz:0/9440", "a port is a number from 1 to 65535")
dial("ssh with a word for a port", "ssh://me@dmz:ssh/9440", "a port is a number from 1 to 65535")
dial("ssh to every address", "ssh://me@dmz/*:9440", "one cannot connect to every address")
dial("ssh to 0.0.0.0", "ssh://me@dmz/0.0.0.0:9440", "one cannot connect to every address")
dial("ssh with IPv6 without brackets", "ssh://me@::1/9440", "goes into square brackets")
dial("https with a password", "https://me:hunter2@dmz/link", "a user or password does not belong into an address")
dial("https with a query", "https://dmz/link?key=1", "take out what begins with '?' or '#'")
dial("https with a space's code cut", "https://dmz/li%2", "is no path")
dial("https with dots", "https://dmz/a/../b", "is no path")
dial("https with port 70000", "https://dmz:70000/link", "a port is a number from 1 to 65535")
dial("https with an empty port", "https://dmz:/link", "a port is a number from 1 to 65535")
dial("https without host", "https:///link", "names no host")
dial("https to every address", "https://*/link", "one cannot connect to every address")
dial("wss", "wss://dmz/link", "wss:// is not carried")

dial(
    "tls on a tcp dial",
    "tcp://127.0.0.1:9440",
    "tls: is for https:// addresses; there is none here",
    more="▶tls: {ca: a}",
)
dial("tls on an http dial", "http://dmz/link", "tls: is for https://", more="▶tls: {server_name: a}")
dial("a proxy on tcp", "tcp://127.0.0.1:9440", "proxy: is for http:// and https:// addr", more="▶proxy: http://p:1")
dial("a proxy on ipc", "ipc://a", "there is none here", more="▶proxy: none")
dial("a proxy on ssh", "ssh://me@dmz/9440", "there is none here", more="▶proxy: http://p:1")
dial("ssh words on tcp", "tcp://127.0.0.1:9440", "ssh: is for ssh:// addresses", more="▶ssh: {agent: false}")
dial("ssh words on https", "https://dmz/link", "ssh: is for ssh:// addresses", more="▶ssh: {identity: id}")
change("tls without address", DIAL, "dial: {side: plant, ▶tls: {ca: a}}", "tls: needs an address beside it")
change("an address dialled twice", DIAL, f"dial: ▶plant {DIAL.split()[2]} {DIAL.split()[2]}", "is here twice")
dial(
    "a key of ssh outside its group", "ssh://me@dmz/9440", "'identity' is not a key that is known", more="▶identity: a"
)
dial("an unknown backend", "ssh://me@dmz/9440", "no backend; there are paramiko", more="ssh: {backend: ▶libssh2}")
dial("a pass phrase in the table", "ssh://me@dmz/9440", "a secret is never", more="ssh: {passphrase: ▶hunter2}")
dial("agent: no", "ssh://me@dmz/9440", "true or false is expected here", more="ssh: {agent: ▶no}")
dial("a configuration for paramiko", "ssh://me@dmz/9440", "is for backend: openssh", more="ssh: {▶config: ssh_config}")
dial(
    "a pass phrase and no key",
    "ssh://me@dmz/9440",
    "passphrase: opens identity: files",
    more="ssh: {agent: false, ▶passphrase: {env: A}}",
)
dial("a pin that is too short", "https://dmz/l", "64 hex digits", more=f"tls: {{pin: ▶{PIN[:-1]}x}}")
dial("a pin that is a SHA-1", "https://dmz/l", "64 hex digits", more=f"tls: {{pin: [{PIN}, ▶'{PIN[:40]}']}}")
dial("a pin and an authority", "https://dmz/l", "no authority is asked", more=f"tls: {{ca: a, ▶pin: {PIN}}}")
dial("a client certificate without key", "https://dmz/l", "'key:' is missing here", more="▶tls: {cert: a}")
dial("a client key without certificate", "https://dmz/l", "'cert:' is missing here", more="▶tls: {key: a}")
dial("an unknown key in tls", "https://dmz/l", "Did you mean 'cert'?", more="tls: {ca: a, ▶crt: b}")
dial("tls that is a word", "https://dmz/l", "a mapping of keys and values", more="tls: ▶verify")
dial("a proxy with a password in its url", "https://dmz/l", "see username:", more="proxy: ▶http://me:hunter2@p:3128")
dial("a proxy without scheme", "https://dmz/l", "'p:3128' is no proxy", more="proxy: ▶p:3128")
dial("a proxy over https", "https://dmz/l", "a proxy is spoken to over http://", more="proxy: ▶https://p:3128")
dial("a socks proxy", "https://dmz/l", "a proxy is spoken to over http://", more="proxy: ▶socks5://p:1080")
dial("a proxy without port", "https://dmz/l", "write for example http://p:3128", more="proxy: ▶http://p")
dial("a proxy with a path", "https://dmz/l", "a port is a number", more="proxy: ▶http://p:3128/a")
dial("a proxy without url", "https://dmz/l", "'url:' is missing here", more="▶proxy: {username: a, password: {env: A}}")
dial(
    "a proxy's user without password",
    "https://dmz/l",
    "'password:' is missing here",
    more="▶proxy: {url: 'http://p:1', username: a}",
)
dial(
    "a proxy's password without user",
    "https://dmz/l",
    "'username:' is missing here",
    more="▶proxy: {url: 'http://p:1', password: {env: A}}",
)
dial(
    "a proxy's password in the table",
    "https://dmz/l",
    "a secret is never written",
    more="proxy: {url: 'http://p:1', username: a, password: ▶hunter2}",
)
dial(
    "a proxy's user with a colon",
    "https://dmz/l",
    "no ':'",
    more="proxy: {url: 'http://p:1', username: ▶'a:b', password: {env: A}}",
)
dial(
    "no proxy, and a user",
    "https://dmz/l",
    "nobody to tell a username",
    more="proxy: {url: ▶none, username: a, password: {env: A}}",
)

listen("https without tls", "https://127.0.0.1:8443/link", "needs a certificate; add tls: with cert: and key:")
listen("https with half of tls", "https://127.0.0.1:8443/l", "'key:' is missing here", more="▶tls: {cert: a}")
listen(
    "https with a pin",
    "https://127.0.0.1:1/l",
    "for the side that dials",
    more=f"tls: {{cert: a, key: b, ▶pin: {PIN}}}",
)
listen("https with a name", "https://127.0.0.1:1/l", "that dials", more="tls: {cert: a, key: b, ▶server_name: c}")
listen("tls on a tcp listener", "tcp://127.0.0.1:9440", "tls: is for https://", more="▶tls: {cert: a, key: b}")
listen("tls on an http listener", "http://127.0.0.1:1/l", "tls: is for https://", more="▶tls: {cert: a, key: b}")
listen("a mode on an http listener", "http://127.0.0.1:1/l", "is for ipc:// addresses only", more="mode: ▶'0660'")
listen("ssh words on http", "http://127.0.0.1:1/l", "ssh: is for ssh:// addresses", more="▶ssh: {agent: false}")
listen("http without port", "http://127.0.0.1/link", "a listener says its own, such as http://127.0.0.1:8443/link")
listen("http at a name", "http://localhost:8080/link", "write http://127.0.0.1, or '*'")
listen("http at an interface", "http://eth0:8080/link", "has a numeric address of this box, or '*'")
listen("http at port 0", "http://127.0.0.1:0/link", "a port is a number from 1 to 65535")
listen("http at the path of health", "http://127.0.0.1:8080/healthz", "is answered for those who watch")
listen("http that is open", "http://*:8080/link", "can be reached from beyond this box, and nothing says by whom")
listen("http that is open, IPv6", "http://[::]:8080/link", "add allow:")
listen("ssh at a socket", "ssh://me@gate/run/zt.sock", "what an sshd opens for us is a port")
listen("ssh at a word", "ssh://me@gate/link", "what an sshd opens for us is a port; after the '/' comes 9440")
listen("ssh at port 0", "ssh://me@gate/0", "a port is a number from 1 to 65535")
listen("ssh at nothing", "ssh://me@gate/", "after the '/' comes 9440 or 127.0.0.1:9440")
listen("ssh that is open", "ssh://me@gate:2222/*:9440", "say allow: any, or write ssh://me@gate:2222/9440 for its")
listen("ssh at another address", "ssh://me@gate/192.0.2.1:9440", "192.0.2.1:9440 at gate can be reached from beyond")
listen(
    "ssh with networks",
    "ssh://me@gate/*:9440",
    "does not see from where one comes there",
    more="allow: ▶10.0.0.0/8",
)
listen("ssh with a proxy", "ssh://me@gate/9440", "'proxy' is not a key that is known here", more="▶proxy: none")


def three(name: str, first: str, second: str, *words: str) -> None:
    """A third side; two links of these lines (`|` between lines)."""
    links = "".join("  - " + "\n    ".join(link.split("|")) + "\n" for link in (first, second))
    lab = "  lab: {key: 'rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7'}\n"
    start = BASE.index("links:")
    whole(name, f"{BASE[:start]}{lab}links:\n{links}\n{BASE[BASE.index('routes:') :]}", *words)


three(
    "two paths at one port",
    "listen: dmz http://127.0.0.1:8080/a|dial: plant",
    "listen: ▶dmz http://127.0.0.1:8080/b|dial: lab",
    "dmz binds http://127.0.0.1:8080/a already for the link (line 12)",
)
three(
    "an HTTP port over a tcp port",
    "listen: dmz tcp://127.0.0.1:8080|dial: plant",
    "listen: ▶dmz http://127.0.0.1:8080/b|dial: lab",
    "dmz binds tcp://127.0.0.1:8080 already for the link",
)
three(
    "one port of one sshd twice",
    "listen: dmz ssh://me@gate/9440|dial: plant",
    "listen: ▶dmz ssh://you@gate:22/127.0.0.1:9440|dial: lab",
    "dmz binds ssh://me@gate/9440 already for the link",
)
three(
    "one listener with two ways in",
    "listen: dmz ssh://me@gate/9440|dial: plant",
    "listen: ▶{side: dmz, address: 'ssh://me@gate/9440', ssh: {agent: false}}|dial: lab",
    "both must say the same allow:, mode:, group:, tls: and ssh:",
)
three(
    "one address for two peers",
    "listen: dmz|dial: plant https://gate/link",
    "listen: lab|dial: ▶plant https://gate/link",
    "plant dials https://gate/link already for dmz (line 13); behind one address there is one listener",
)
change(
    "a route at the port of an HTTP link",
    BASE[BASE.index(f"  - {LISTEN}") :],
    "  - listen: dmz http://127.0.0.1:8080/link\n    dial: plant\nroutes:\n  web:\n    pattern: stream\n"
    "    from: ▶dmz bind tcp://127.0.0.1:8080\n    to: plant\n",
    "dmz binds http://127.0.0.1:8080/link already for the link",
)

# --- streams ---------------------------------------------------------------------------------------------------------


def stream(name: str, lines: str, *words: str, from_: str = "", to: str = "") -> None:
    """A stream route of these lines, with right ends where they are not given."""
    from_ = from_ or "dmz bind tcp://127.0.0.1:7000"
    to = to or "plant connect tcp://127.0.0.1:8000"
    route(name, f"pattern: stream|from: {from_}|to: {to}" + (f"|{lines}" if lines else ""), *words)


def at_from(name: str, words: str, keys: str) -> None:
    stream(name, "", words, from_=f"{{side: dmz, bind: 'tcp://127.0.0.1:7000', {keys}}}")


MEANINGLESS = "is for messages; a stream route carries bytes"
stream("a stream with max_age", "▶max_age: 5s", f"max_age: {MEANINGLESS}")
stream("a stream with max_message", "▶max_message: 1MiB", f"max_message: {MEANINGLESS}")
stream("a stream with on_restart", "▶on_restart: resend", f"on_restart: {MEANINGLESS}")
stream("a stream with topics", "▶topics: {allow: a}", "topics: is for pubsub routes; stream has no topics")
stream("a stream with subscribe", "▶subscribe: a", "subscribe: is for pubsub routes; stream has no topics")
stream("a live stream", "delivery: ▶live", "a stream can leave out no byte, so its delivery is confirmed")
stream("a stream that drops", "overflow: ▶drop-oldest", "so its overflow is block")
stream("a stream without connections", "connections: ▶0", "this number is at least 1; 0 is not")
stream("a stream with too many connections", "connections: ▶100001", "at most 100000")
stream("a stream with half a connection", "connections: ▶1.5", "a whole number is expected here")
stream("an idle time without unit", "idle: ▶60", "60 has no unit")
stream("an idle time of nothing", "idle: ▶0s", "from 100ms to 1d")
stream("a connect that is an address", "connect: ▶tcp://a:1", "is no time")
stream("a stream's misspelt key", "▶conections: 5", "Did you mean 'connections'?")
at_from("a stream with hwm", "hwm: is for 0MQ sockets; a stream route has none", "▶hwm: 5")
at_from("a stream with sndbuf", "sndbuf: is for 0MQ sockets", "▶sndbuf: 64KiB")
at_from("a stream with heartbeat", "heartbeat: is for 0MQ sockets", "▶heartbeat: 5s")
at_from("a stream with handover", "handover: is for the 'from' end of a reqrep route", "▶handover: true")
at_from("a stream with a routing id", "routing_id: is for the 'to' end of a reqrep route", "▶routing_id: a")
at_from("a stream with curve", "curve: is for 0MQ sockets; through a stream", "▶curve: {own: a}")
at_from("a stream with plain", "plain: is for 0MQ sockets; through a stream", "▶plain: {users: {a: {env: A}}}")
at_from("proxy_protocol where clients connect", "is for the 'to' end of a stream route", "▶proxy_protocol: true")
stream(
    "a stream from connect", "", "has 'bind', not 'connect'; or are from: and", from_="▶dmz connect tcp://127.0.0.1:1"
)
stream("a stream to bind", "", "goes to a service, so it has 'connect', not 'bind'", to="▶plant bind tcp://127.0.0.1:1")
stream("a stream to local", "", "so it has 'connect', not 'bind'", to="▶plant bind local")
stream("a stream from local", "", "'local' is for bridges, which talk 0MQ", from_="▶dmz bind local")
stream("a relative unix socket", "", "unix:// is followed by an absolute path", from_="▶dmz bind unix://a.sock")
stream("a unix socket of one slash", "", "as in unix:///run/app.sock", from_="▶dmz bind unix:/a.sock")
stream("a unix socket with dots", "", "cannot contain '..'", to="▶plant connect unix:///run/../a")
stream("one unix socket spelt twice", "", "ipc:///run/a is here twice", from_="▶dmz bind unix:///run/a ipc:///run/a")
stream("an open stream", "", "and nothing says by whom", from_="▶dmz bind tcp://192.0.2.1:80")
stream("a stream at a port that is taken", "", "already for the route orders", from_="▶dmz bind tcp://127.0.0.1:5555")
change("unix for a 0MQ socket", FROM, "from: ▶dmz bind unix:///run/a.sock", "write ipc:///run/a.sock")
route(
    "idle on a pipeline", "pattern: pipeline|from: dmz bind local|to: plant bind local|▶idle: 5s", "idle: is for stream"
)
route(
    "connections on a pipeline",
    "pattern: pipeline|from: dmz bind local|to: plant bind local|▶connections: 5",
    "connections: is for stream routes; pipeline carries messages",
)
end("proxy_protocol on a pipeline", "connect: tcp://127.0.0.1:7000|▶proxy_protocol: true", "'to' end of a stream route")
whole(
    "more connections than a session holds",
    BASE.replace("routes:", "▶routes:")
    + "  extra:\n    pattern: stream\n    from: dmz bind tcp://127.0.0.1:7000\n    to: plant\n    connections: 20000\n",
    "dmz and plant may hold 1378MiB together (each the larger of its window and max_message, or 64KiB a connection)",
)

# --- smtp-client -----------------------------------------------------------------------------------------------------


def sender(name: str, lines: str, *words: str, zmq: str = "PULL connect route:weights", side: str = "dmz") -> None:
    """An smtp-client that is right but for these lines."""
    right = {"relay": "tcp://mail.example.com:587", "allow_to": "any"}
    said = "".join(
        f"{key}: {value}|" for key, value in right.items() if f"{key}:" not in lines and "direct: true" not in lines
    )
    if "direct: true" in lines and "allow_to" not in lines:
        said = "allow_to: any|"
    bridge(name, f"side: {side}|kind: smtp-client|zmq: {zmq}|{said}{lines}", *words)


sender(
    "an smtp-client that pushes", "hwm: 5", "an smtp-client has no DEALER; its sockets", zmq="▶DEALER connect tcp://h:1"
)
bridge(
    "an smtp-client for nobody",
    "@side: dmz|kind: smtp-client|zmq: PULL connect route:weights|relay: tcp://h:25",
    "'allow_to:' is missing here",
)
bridge(
    "an smtp-client without relay",
    "@side: dmz|kind: smtp-client|zmq: PULL connect route:weights|allow_to: any",
    "'relay:' is missing here",
)
sender("a relay and direct", "relay: tcp://h:25|allow_to: any|▶direct: true", "take out relay:")
sender("a relay that is no address", "relay: ▶mail.example.com", "is no endpoint; write for example tcp://")
sender("a relay without port", "relay: ▶tcp://mail.example.com", "has no port")
sender("a relay at a unix socket", "relay: ▶ipc://a", "a mail server is dialled at tcp://HOST:PORT")
sender("a recipient that is no pattern", "allow_to: ▶example.com", "is no pattern for addresses")
sender("nobody in allow_to", "allow_to: ▶[]", "this list is empty, so no mail could go anywhere")
sender("any and another", "allow_to: ▶[any, '*@example.com']", "'any' is anybody; take out the other patterns")
sender("a sender that is no address", "from: ▶me", "an address has no @")
sender(
    "a sender with a line break", 'from: ▶"a@example.com\\r\\nRCPT TO:<b@example.com>"', "has a control character in it"
)
sender("a host name with a space", "hostname: ▶a b", "is no host name")
sender("no recipients", "max_recipients: ▶0", "this number is at least 1; 0 is not")
sender("a schedule of nothing", "retry: ▶''", "write a number and its unit")
sender("a schedule without units", "retry: ▶1m,5*2", "has no unit")
sender("a schedule of words", "retry: ▶5m*often", "after the '*' comes how many times")
sender("a schedule too quick", "retry: ▶10ms", "from 1s to 1d")
sender("a rate of nothing", "rate: ▶fast", "is no rate; write for example 100/1m")
sender("a rate without unit", "rate: ▶100/60", "is no rate")
sender("a rate too large", "rate: ▶999999/1m", "at most 100000 mails")
sender("too many connections to a server", "connections: ▶65", "at most 64")
sender("a mail too large", "max_message: ▶65MiB", "a mail has at most 64MiB here")
sender("an unknown way with newlines", "bare_newlines: ▶keep", "there are refuse and normalise")
sender("reply of a PULL", "▶reply: result", "reply: is for a REP; a PULL answers nobody")
sender("subscribe of a PULL at a mail bridge", "▶subscribe: a", "subscribe: is for a SUB")
sender("a login in the clear", "login: {user: a, password: {env: A}}|tls: {mode: ▶none}", "say starttls or implicit")
sender(
    "a login if it happens", "login: {user: a, password: {env: A}}|tls: {mode: ▶offered}", "say starttls or implicit"
)
sender("a password in a login", "login: {user: a, password: ▶hunter2}", "a secret is never written into a table")
sender("a login without user", "▶login: {password: {env: A}}", "'user:' is missing here")
sender("a login to strangers", "direct: true|▶login: {user: a, password: {env: A}}", "login: is for a relay")
sender("a TLS mode that is none", "tls: {mode: ▶tls}", "there are none, offered, starttls and implicit")
sender("a certificate without TLS", "tls: {mode: ▶none, ca: a.pem}", "take out the other keys of tls:")
sender(
    "a pin of a mail server", "tls: {▶pin: 'sha256:'}" if False else f"tls: {{▶pin: '{'a' * 64}'}}", "pin: is for links"
)
sender("half a certificate of our own", "▶tls: {cert: a.pem}", "cert: and key: of our own go together")
sender("implicit TLS to strangers", "direct: true|tls: {mode: ▶implicit}", "this is for a relay")
sender("a name for strangers", "direct: true|tls: {server_name: ▶a}", "this is for a relay")
sender("a template without subject", "from: a@b|▶template: {text: a}", "'subject:' is missing here")
sender("a template without text", "from: a@b|▶template: {subject: a}", "'text:' is missing here")
sender("a template from nobody", "▶template: {subject: a, text: b}", "who sends it? Say from:")
sender("a template with an open brace", "from: a@b|template: {text: b, subject: ▶'a {b'}", "a brace stands alone")
sender("a template with an empty field", "from: a@b|template: {text: b, subject: ▶'a {}'}", "names no field")
sender(
    "a template's other attachments", "from: a@b|template: {text: b, subject: a, attachments: ▶all}", "there are frames"
)
sender(
    "newlines of a template",
    "from: a@b|template: {text: b, subject: a}|▶bare_newlines: normalise",
    "bare_newlines: is for raw mails",
)
sender("a misspelt key of a mail bridge", "▶trase: true", "Did you mean 'trace'?")


def post(name: str, lines: str, *words: str, zmq: str = "PUSH connect route:weights") -> None:
    """An smtp-server at plant that is right but for these lines."""
    listen = "" if "listen" in lines else "listen: tcp://127.0.0.1:2525|"
    rules = "" if "recipients:" in lines else "recipients: {all: {match: '*@*'}}|"
    bridge(name, f"side: plant|kind: smtp-server|{listen}{rules}zmq: {zmq}|{lines}", *words)


post(
    "an smtp-server with another socket",
    "require_tls: false",
    "an smtp-server has no ROUTER",
    zmq="▶ROUTER bind ipc://a",
)
post("mail that is only queued", "accept: ▶queued", "can be lost after its sender was told that it was taken")
post("an accept that is none", "accept: ▶spooler", "Did you mean 'spooled'?")
post(
    "acked with nobody to answer", "accept: acked", "accept: acked needs somebody who answers", zmq="▶PUSH bind ipc://a"
)
post("mail for nobody", "recipients: ▶{}", "nobody is named; say for whom mail is taken")
post("a rule without a pattern", "recipients:|  ▶a: {topic: x}", "'match:' is missing here")
post("a pattern that is none", "recipients:|  a:|    match: ▶everybody", "is no pattern for addresses")
post(
    "a topic of other parts",
    "recipients:|  a:|    match: '*@*'|    topic: ▶'{user}'",
    "'{user}' is no part of an address",
)
post(
    "a rule to an unknown route",
    "recipients:|  a:|    match: '*@*'|    zmq: ▶PUSH connect route:no",
    "'no' is no route of this table",
)
post(
    "a rule with a socket that does not fit",
    "recipients:|  a:|    match: '*@*'|    zmq: ▶PUB connect route:weights",
    "a PUB cannot talk to weights at plant",
)
post("an smtp-server open to anybody", "listen: ▶tcp://10.0.0.1:25", "nothing says by whom")
post("an smtp-server nobody can dial", "listen: ▶[]", "nothing is listened to")
post("TLS from the first byte without a certificate", "▶listen_tls: tcp://127.0.0.1:4650", "listen_tls: needs tls:")
post("users without TLS", "▶users: u", "users: needs tls:")
post("TLS without its files", "▶tls: {ca: x}", "a server needs cert: and key: here")
post("logins without users", "▶require_login: true", "require_login: needs users:")
post("a mail that is too large", "max_message: ▶65MiB", "64MiB is the most")
post("a compat that is none", "compat: ▶devices", "Did you mean 'device'?")
post("duplicates that are neither", "duplicates: ▶soon", "'soon' is no time")
post("a key of a tcp-server", "▶frame: line", "is not a key that is known here")
