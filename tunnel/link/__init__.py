"""The link: what crosses between two halves, as pure functions of bytes and time (docs/protocol.md is the authority).

Nothing in this folder knows sockets, 0MQ, asyncio, the clock or chance: bytes, the time and random numbers come in as
arguments; frames, deliveries and the next deadline go out.

    wire           frames to bytes and back
    outbound       one direction of a channel, at its sender: queue, numbers, replay, window, overflow
    inbound        the same at its receiver: order, fragments, what is delivered
    spooled        both of a channel whose messages are on disk at its sender
    lane           how much may be under way: credit, acknowledgements, how old a lane is
    schedule       whose turn it is
    subscriptions  topic sets, sent and received
    peer           everything about one other side that outlives its connections
    dialler        connecting: attempts, back-off, HELLO and OPEN
    listener       being connected to: routing ids, nonces, eviction
"""
