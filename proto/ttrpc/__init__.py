"""ttrpc, containerd's small RPC protocol: a 10-byte frame header over a stream socket, protobuf envelopes, unary calls.

Read in this order: `frame` (bytes <-> frames), `message` (frames <-> requests and responses), `connection` (the
protocol state of one side; no socket, no clock), then an adapter: `blocking` (one call at a time) or `aio` (asyncio
client and server).  `protobuf` is the handful of wire-format functions the envelopes need, `status` the error codes.

Everything here is standard library only.  Payloads are opaque bytes: protobuf for containerd, whatever the two sides
agree on elsewhere.  Streaming calls (ttrpc 1.2) are refused with UNIMPLEMENTED.

One thing is added to the protocol, invisible to peers that do not use it: file descriptors may travel with a request,
as SCM_RIGHTS attached to the first byte of its frame.
"""
