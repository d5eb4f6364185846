"""The gofer: a confined process that holds one container's files and serves them to the Sentry over 9P.

Read README.md first, then `server.py` (sockets), `session.py` (dispatch), `plain.py` and `dialect.py` (the handlers)
and `localfs.py` (the host calls).
"""
