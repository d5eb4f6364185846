"""9P2000.L and the pysc dialect of it, sans-io: bytes in, messages out.

Read `message.py` (what a message is), `messages.py` (9P2000.L) and `dialect.py` (what we add, and why), then
`codec.py` (the decoder derived from them) and `connection.py` (the client's tags, fids and donated descriptors).
The client is the Sentry (sentry/fs/goferfs.py), the server is gofer/server.py; each owns its socket.
"""
