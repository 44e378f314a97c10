"""Dialler and listener together: HELLO, WELCOME, OPEN, OPENED; what is resumed, refused, evicted, overtaken.

Named after what they do together, as neither says anything without the other; what each does alone is below.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.link.ends import Ends, kinds, piece, refusal, route, token
from tunnel.errors import RemoteProtocolError
from tunnel.limits import EVICTED_S, HANDSHAKE_S, HELLO_BURST, HELLO_GAP_S, REDIAL_MIN_S, SILENCE_S
from tunnel.link import wire
from tunnel.link.acks import FOREVER
from tunnel.link.dialler import Dial, Dialler, HangUp, State
from tunnel.link.outbound import Terms
from tunnel.link.peer import Peer
from tunnel.link.wire import Ack, Data, Kind, Lane

LIVE = {"delivery": "live", "terms": Terms(1 << 20, confirmed=False)}


def joined(**changes: Any) -> Ends:
    ends = Ends()
    ends.both(route(**changes))
    return ends


def test_the_transcript_of_a_first_meeting() -> None:
    ends = joined()
    ends.connect()
    assert ends.said[:4] == ["a: HELLO", "z: WELCOME", "a: OPEN", "z: OPENED"]
    assert (ends.dialler.state, ends.dialler.reason, ends.listener.reason("a")) == (State.OPEN, "", "")
    assert (ends.dialler.resumes, ends.dialler.redials) == (0, 0)
    ends.put(ends.a, b"one")
    ends.put(ends.z, b"two")
    ends.talk()
    assert (ends.hand_on(ends.z), ends.hand_on(ends.a)) == ([b"one"], [b"two"])


def test_open_waits_for_the_data_lane() -> None:
    ends = joined()
    ends.dialler.tick(0.0)
    ends.up(Lane.CONTROL)
    ends.talk()
    assert ends.said == ["a: HELLO", "z: WELCOME"]
    assert not ends.z.peer_session
    ends.up(Lane.DATA)
    ends.talk()
    assert ends.said[2:4] == ["a: OPEN", "z: OPENED"]


def test_nothing_of_the_dialler_goes_before_opened() -> None:
    ends = joined()
    ends.put(ends.a, b"x")
    ends.dialler.tick(0.0)
    ends.up(*Lane)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    assert kinds(ends.from_a()) == ["OPEN"]
    assert ends.from_a() == []


def test_a_cut_resumes_where_it_was() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.a, b"1", b"2", b"3")
    ends.to_z(ends.from_a()[:2])
    ends.cut()
    ends.put(ends.a, b"4")
    ends.connect()
    assert ends.hand_on(ends.z) == [b"1", b"2", b"3", b"4"]
    assert ends.z.channels["r"].inbound is not None
    assert ends.z.channels["r"].inbound.repeats == 0
    assert (ends.dialler.resumes, ends.listener.resumes("a"), ends.listener.redials("a")) == (1, 1, 1)


def test_opened_numbers_count_live_losses_exactly() -> None:
    """Frames of the old connection arrive between HELLO and OPEN: they are not lost, and not counted as lost."""
    ends = joined(**LIVE)
    ends.connect()
    ends.put(ends.a, b"1", b"2", b"3")
    late = ends.from_a()
    ends.cut()
    ends.now += 1
    ends.dialler.tick(ends.now)
    ends.up(*Lane)
    ends.to_z(ends.from_a())
    ends.to_z(late[:2], attempt=1)
    ends.talk()
    ends.put(ends.a, b"4")
    ends.talk()
    assert ends.hand_on(ends.z) == [b"1", b"2", b"4"]
    assert ends.a.channels["r"].outbound is not None
    assert ends.a.channels["r"].outbound.dropped == {"link_cut": 1}


def test_a_live_message_cut_in_two_does_not_grow_into_the_next() -> None:
    ends = joined(**LIVE)
    ends.connect()
    out = ends.a.channels["r"].outbound
    assert out is not None
    out.put([piece(b"h" * 9, messages=0, more=True), piece(b"t" * 9)], ends.now)
    ends.a.wake(ends.a.channels["r"])
    ends.to_z(ends.from_a()[:1])
    ends.cut()
    ends.put(ends.a, b"next")
    ends.connect()
    assert ends.hand_on(ends.z) == [b"next"]
    assert out.dropped == {"link_cut": 1}


def test_late_frames_of_an_overtaken_connection_are_not_heard() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.a, b"1", b"2")
    late = ends.from_a()
    ends.cut()
    ends.connect()
    ends.to_z(late, attempt=1)
    assert ends.hand_on(ends.z) == [b"1", b"2"]
    assert ends.listener.counts["unbound"] == 2


def test_an_acknowledgement_that_overtakes_opened_is_no_breach() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.a, b"1")
    ends.talk()
    ends.cut()
    ends.now += 1
    ends.dialler.tick(ends.now)
    ends.up(*Lane)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    ends.to_z(ends.from_a())
    opened = ends.from_z()
    ends.hand_on(ends.z)
    ends.put(ends.z, b"back")
    ends.to_a(ends.from_z())
    ends.to_a(opened)
    assert ends.dialler.state is State.OPEN
    ends.talk()
    assert ends.hand_on(ends.a) == [b"back"]


def test_a_new_process_that_dials_is_not_resumed() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.z, b"1")
    ends.talk()
    again = Ends(z=ends.z, now=ends.now + 10, base=50)
    again.listener = ends.listener
    again.a.add(route())
    again.connect()
    assert again.hand_on(again.a) == [b"1"]
    assert ends.z.channels["r"].outbound is not None
    assert ends.z.channels["r"].outbound.may_repeat == 1
    assert again.listener.resumes("a") == 0


def test_a_new_process_that_listens_is_not_resumed() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.a, b"1")
    ends.talk()
    ends.cut()
    new = Ends()
    new.z.add(route())
    ends.z, ends.listener = new.z, new.listener
    ends.connect()
    assert ends.hand_on(ends.z) == [b"1"]
    assert ends.dialler.resumes == 0


@pytest.mark.parametrize("who", ["a", "z"])
def test_a_route_that_was_taken_away_and_came_again_begins_anew(who: str) -> None:
    ends = joined()
    ends.connect()
    for n in range(3):
        ends.put(ends.a, b"up%d" % n)
        ends.put(ends.z, b"down%d" % n)
    ends.talk()
    ends.hand_on(ends.a)
    ends.hand_on(ends.z)
    ends.now += 1
    ends.talk()
    peer = ends.a if who == "a" else ends.z
    peer.remove("r")
    peer.add(route())
    ends.cut()
    ends.connect()
    assert ends.dialler.resumes == 1
    ends.put(ends.a, b"new up")
    ends.put(ends.z, b"new down")
    ends.talk()
    assert (ends.hand_on(ends.z), ends.hand_on(ends.a)) == ([b"new up"], [b"new down"])


# --- refusals --------------------------------------------------------------------------------------------------------


def greet(ends: Ends) -> None:
    """Up to the HELLO, which waits in `transmit`."""
    ends.dialler.tick(ends.now)
    ends.up(*Lane)


def test_a_greeting_that_was_overtaken_is_stale() -> None:
    ends = joined()
    greet(ends)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    late = ends.from_a()
    ends.cut()
    greet(ends)
    ends.to_z(ends.from_a())
    ends.to_z(late, attempt=1)
    frames = ends.from_z()
    assert refusal(frames)["code"] == "stale"
    assert not ends.z.peer_session
    ends.to_a(frames)
    ends.talk()
    assert ends.z.is_open


def test_a_greeting_expires() -> None:
    ends = joined()
    greet(ends)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    late = ends.from_a()
    ends.now += HANDSHAKE_S + 0.1
    ends.to_z(late)
    assert refusal(ends.from_z())["code"] == "stale"


def test_an_older_attempt_is_refused() -> None:
    ends = joined()
    greet(ends)
    late = ends.from_a()
    ends.to_z(late)
    ends.now += 1
    ends.to_z(late, attempt=7)
    assert refusal(ends.from_z())["code"] == "attempt"


def test_greetings_that_follow_too_closely_are_dropped() -> None:
    ends = joined()
    greet(ends)
    hello = ends.from_a()
    for attempt in range(7, 7 + HELLO_BURST):
        ends.to_z(hello, attempt=attempt)
    assert kinds(ends.from_z()) == ["WELCOME"] + ["REFUSE"] * (HELLO_BURST - 1)
    ends.now += HELLO_GAP_S / 2
    ends.to_z(hello, attempt=50)
    assert kinds(ends.from_z()) == []
    assert ends.listener.counts["hello_flood"] == 1
    ends.now += HELLO_GAP_S
    ends.to_z(hello, attempt=51)
    assert kinds(ends.from_z()) == ["REFUSE"]


@pytest.mark.parametrize("user_id", ["", "stranger"])
def test_a_key_without_a_link_is_refused(user_id: str) -> None:
    ends = joined()
    greet(ends)
    ends.listener.receive("c", user_id, ends.from_a()[0][1], ends.now)
    assert refusal(ends.from_z())["code"] == "side"


def test_a_side_may_not_greet_as_another() -> None:
    ends = joined()
    ends.listener.add(Peer("z", "b", token(16)))
    greet(ends)
    ends.listener.receive("c", "b", ends.from_a()[0][1], ends.now)
    assert "the key is b's, but the greeting says a" in refusal(ends.from_z())["text"]


def test_open_must_come_with_the_key_of_the_greeting() -> None:
    ends = joined()
    ends.listener.add(Peer("z", "b", token(16)))
    greet(ends)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    ((_, opening),) = ends.from_a()
    ends.listener.receive((Lane.DATA, 1), "b", opening, ends.now)
    assert refusal(ends.from_z())["code"] == "stale"
    assert not ends.z.is_open


def test_open_must_come_on_another_connection_than_the_greeting() -> None:
    ends = joined()
    greet(ends)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    ((_, opening),) = ends.from_a()
    ends.to_z([(Lane.CONTROL, opening)])
    assert refusal(ends.from_z())["code"] == "frame"


def test_a_connection_may_not_change_its_key() -> None:
    ends = joined()
    ends.connect()
    ends.listener.receive((Lane.CONTROL, 1), "b", wire.encode_ping(1), ends.now)
    assert refusal(ends.from_z())["code"] == "side"
    assert not ends.z.is_open


def test_another_version_is_told_in_a_sentence_at_both_ends() -> None:
    ends = joined()
    greet(ends)
    ((lane, parts),) = ends.from_a()
    fields = wire.decode_json(parts) | {"version": 99}
    ends.to_z([(lane, wire.encode_json(Kind.HELLO, fields))])
    ends.to_a(ends.from_z())
    assert "install the same release on both boxes" in ends.dialler.reason
    assert ends.dialler.state is State.IDLE
    assert ends.listener.counts["refused_version"] == 1


def test_the_wrong_listener_is_refused() -> None:
    ends = joined()
    greet(ends)
    ends.to_z(ends.from_a())
    ((conn, parts),) = ends.from_z()
    ends.to_a([(conn, wire.encode_json(Kind.WELCOME, wire.decode_json(parts) | {"side": "x"}))])
    assert "the listener says it is x, the table says z" in ends.dialler.reason
    assert refusal(ends.from_a())["code"] == "side"


@pytest.mark.parametrize(
    "parts",
    [[], [b""], [b"\xff"], [b"\2{"], [b"\5{}"], [wire.encode_data(Data(1, 1, 0, 0, False, None))], [b"\3{"]],
)
def test_garbage_from_the_listener_ends_the_attempt(parts: list[bytes]) -> None:
    ends = joined()
    greet(ends)
    ends.from_a()
    ends.dialler.receive(Lane.CONTROL, parts, ends.now)
    assert ends.dialler.state is State.IDLE
    assert isinstance(ends.dialler.actions[-1], HangUp)
    assert kinds(ends.from_a()) == ["REFUSE"]


@pytest.mark.parametrize("parts", [[], [b""], [b"\xff"], [b"\1{"], [b"\1[]"], [b"\4"], [b"\4" + b"n" * 16]])
def test_garbage_from_strangers_is_refused_and_counted(parts: list[bytes]) -> None:
    ends = joined()
    ends.connect()
    ends.now += 1
    ends.listener.receive("stranger", "a", parts, ends.now)
    assert kinds(ends.from_z())[0] == "REFUSE"
    assert ends.z.is_open
    ends.put(ends.a, b"x")
    ends.talk()
    assert ends.hand_on(ends.z) == [b"x"]


def test_a_breach_on_an_open_link_breaks_it_off_and_it_comes_back() -> None:
    ends = joined()
    ends.connect()
    ends.listener.receive((Lane.CONTROL, 1), "a", wire.encode_ack(Ack(0, [(1, 9)])), ends.now)
    ends.to_a(ends.from_z())
    assert "never sent (sequence)" in ends.dialler.reason
    ends.now += 1
    ends.connect()


@pytest.mark.parametrize("by", ["a", "z"])
def test_a_breach_that_is_found_out_late_is_told_and_followed_by_a_pause(by: str) -> None:
    """While a batch is fed, say: there is no frame to answer, but else all is as with any breach."""
    ends = joined()
    ends.connect()
    error = RemoteProtocolError("batch", "a batch is malformed")
    for _ in range(2):  # found out twice at once, it ends one connection
        if by == "a":
            ends.dialler.break_off(error, ends.now)
        else:
            ends.listener.break_off("a", error.code, str(error))
    up, down = ends.from_a(), ends.from_z()
    assert kinds(up if by == "a" else down) == ["REFUSE"]
    ends.to_z(up)
    ends.to_a(down)
    assert not ends.a.is_open
    assert not ends.z.is_open
    assert ends.dialler.deadline() > ends.now
    assert "malformed" in ends.dialler.reason
    assert "malformed" in ends.listener.reason("a")
    ends.now += 60
    ends.connect()


# --- eviction --------------------------------------------------------------------------------------------------------


def test_a_second_process_takes_the_place_and_the_first_stays_away() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.a, b"unacknowledged")
    ends.from_a()
    twin = Ends(z=ends.z, now=ends.now + 10, base=50)
    twin.listener = ends.listener
    twin.a.add(route())
    greet(twin)
    refused = []
    for _ in range(3):
        twin.to_z(twin.from_a())
        frames = twin.from_z()
        refused += [frame for frame in frames if frame[0][1] == 1]
        twin.to_a(frames)
    assert twin.dialler.state is State.OPEN
    assert refusal(refused)["code"] == "evicted"

    session = ends.a.session
    ends.to_a(refused)
    assert ends.dialler.state is State.IDLE
    assert ends.dialler.deadline() == ends.now + EVICTED_S
    assert ends.a.session != session
    assert ends.a.channels["r"].outbound is not None
    assert ends.a.channels["r"].outbound.may_repeat == 1


def test_the_evicted_sessions_late_greeting_is_refused() -> None:
    ends = joined()
    ends.connect()
    ends.cut()
    twin = Ends(z=ends.z, now=ends.now, base=50)
    twin.listener = ends.listener
    twin.a.add(route())
    twin.connect()
    ends.now = twin.now + 1
    greet(ends)
    ends.to_z(ends.from_a())
    assert refusal(ends.from_z())["code"] == "evicted"
    assert twin.z.is_open


# --- time ------------------------------------------------------------------------------------------------------------


def lonely() -> Dialler:
    peer = Peer("a", "z", token(16))
    peer.add(route())
    return Dialler(peer, lambda: 0.5, token)


def test_a_dialler_dials_at_once_and_gives_up_on_silence() -> None:
    dialler = lonely()
    assert dialler.deadline() == 0.0
    dialler.tick(0.0)
    assert dialler.actions == [Dial(1)]
    assert dialler.deadline() == HANDSHAKE_S
    dialler.tick(HANDSHAKE_S)
    assert isinstance(dialler.actions[-1], HangUp)
    assert "did not answer within 5 s (connecting)" in dialler.reason
    assert dialler.deadline() > HANDSHAKE_S


def test_a_dialler_never_gives_up_for_good() -> None:
    dialler, now, dials = lonely(), 0.0, 0
    while now < 3600:
        now = dialler.deadline()
        dialler.tick(now)
        dials += sum(isinstance(action, Dial) for action in dialler.actions)
        dialler.actions.clear()
    assert dials > 3600 / 40
    assert dialler.redials == dials - 1


def test_frames_and_losses_after_hanging_up_change_nothing() -> None:
    dialler = lonely()
    dialler.tick(0.0)
    dialler.lane_lost(Lane.DATA, "refused", 1.0)
    at = dialler.deadline()
    dialler.lane_lost(Lane.CONTROL, "refused", 2.0)
    dialler.receive(Lane.CONTROL, [b"\xff"], 2.0)
    assert (dialler.state, dialler.reason, dialler.deadline()) == (State.IDLE, "refused", at)


def test_attempts_count_on_when_the_link_is_made_anew() -> None:
    """A reload makes a new Dialler; the listener knows the attempts of a session for as long as that lives."""
    ends = joined()
    ends.connect()
    ends.cut()
    ends.connect()
    ends.dialler.goodbye("the table has changed", ends.now)
    ends.to_z(ends.from_a())
    ends.dialler = Dialler(ends.a, lambda: 0.0, token)
    ends.base = 100
    ends.now += 1
    greet(ends)
    ends.talk()
    assert ends.dialler.state is State.OPEN


def test_a_silent_link_is_given_up_at_both_ends() -> None:
    ends = joined()
    ends.connect()
    start, dead = ends.now, {}
    while ends.now < start + 20 and len(dead) < 2:
        ends.now += 0.5
        ends.dialler.tick(ends.now)
        ends.listener.tick(ends.now)
        ends.from_a()
        ends.from_z()
        for name, peer in (("a", ends.a), ("z", ends.z)):
            if not peer.is_open:
                dead.setdefault(name, ends.now - start)
    assert set(dead) == {"a", "z"}
    assert max(dead.values()) <= SILENCE_S + 1


@pytest.mark.parametrize("lane", list(Lane))
def test_a_connection_that_the_listener_lost_is_told_on_the_other_lane(lane: Lane) -> None:
    ends = joined()
    ends.connect()
    assert ends.listener.lost((lane, 1), "unreachable") is ends.z
    assert ends.listener.lost((lane, 1), "unreachable") is None
    ends.to_a(ends.from_z())
    assert ends.dialler.reason == "z refused: unreachable (lost)"
    assert ends.dialler.deadline() == ends.now + REDIAL_MIN_S


def test_a_listener_whose_table_changed_voids_greetings_under_way() -> None:
    ends = joined()
    greet(ends)
    ends.to_z(ends.from_a())
    ends.to_a(ends.from_z())
    ends.listener.break_off("a", "reload", "the table has changed")
    ends.to_z(ends.from_a())
    assert refusal(ends.from_z())["code"] == "stale"


# --- goodbye ---------------------------------------------------------------------------------------------------------


def test_a_dialler_says_goodbye_and_stays_away() -> None:
    ends = joined()
    ends.connect()
    ends.put(ends.a, b"last")
    ends.dialler.goodbye("stopping", ends.now)
    frames = ends.from_a()
    assert kinds(frames)[-1] == "BYE"
    assert "DATA" in kinds(frames)
    ends.to_z(frames)
    assert ends.listener.reason("a") == "a said goodbye: stopping"
    assert ends.hand_on(ends.z) == [b"last"]
    assert ends.dialler.deadline() == FOREVER


def test_a_listener_says_goodbye_and_the_dialler_tries_again() -> None:
    ends = joined()
    ends.connect()
    ends.listener.goodbye("stopping", ends.now)
    ends.to_a(ends.from_z())
    assert ends.dialler.reason == "z said goodbye: stopping"
    assert ends.now < ends.dialler.deadline() < FOREVER


def test_a_side_that_is_removed_is_told() -> None:
    ends = joined()
    ends.connect()
    ends.listener.remove("a", "a is not in the table any more")
    ends.to_a(ends.from_z())
    assert "a is not in the table any more" in ends.dialler.reason


def test_two_sides_do_not_touch_each_other() -> None:
    ends = joined()
    ends.connect()
    other = Peer("z", "b", token(16))
    other.add(route())
    ends.listener.add(other)
    ends.listener.receive("b1", "b", [b"\xff"], ends.now)
    ends.listener.break_off("b", "reload", "x")
    assert refusal(ends.from_z())["code"] == "frame"
    assert ends.z.is_open
    assert repr(ends.listener) == "<Listener bound=2 open=['a']>"
