"""An HTTP/1.1 server (RFC 9110, 9112) that runs a WSGI application (PEP 3333).

Modules, each with what it decides:

    request.py      the head of a request: parsed or refused (pure)
    body.py         where a body ends: Content-Length or chunks (pure)
    response.py     the response, handed over as the client takes it
    connection.py   one socket, its state and its deadline
    connections.py  how many connections there may be, and which to close first
    wsgi.py         calls the app for a parsed request
    server.py       the selector and the threads

Threads: one thread at a time leads. The leader alone uses the selector, accepts, receives heads
and small bodies, parses, and sends. It also runs the app. When the app waits for its client, or
takes longer than five milliseconds, another thread becomes the leader and the one in the app goes
on; with its response ready it hands the connection back to the leader and waits to lead again. The
thread that called `serve_forever` watches whether the leader is late, and leads itself during
shutdown.
"""
