"""Sockets.

socket.py is what all address families have in common and what sentry/syscalls calls;
sockopt.py the options of SOL_SOCKET; control.py ancillary data.  AF_UNIX: unix.py, and
unixstream.py, unixpacket.py for its types; unixnames.py says who is bound to what, and
flight.py keeps track of descriptors that travel in messages.
"""
