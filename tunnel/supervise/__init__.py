"""Runs one side of a table: plan → private supervisord → processes, and tells when they are ready.

    places     where the runtime files lie, who runs here
    programs   plan → the list of processes
    daemon     supervisord's configuration, start, stop, and what it says over XML-RPC
    child      what supervisord really starts: binds the process to its supervisor's life, then becomes it
    keeper     starts again, with back-off and for ever, what has died
    status     the device's reply and the list of processes, merged into one answer
    notify     systemd: READY, STATUS, WATCHDOG

Nothing is imported here: `child` and `keeper` must start quickly and stay small.
"""
