"""An HTTP/1.1 server (RFC 9112) that runs a WSGI application (PEP 3333)."""
