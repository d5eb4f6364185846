"""Linux's numbers and layouts.  Imports nothing but proto.wire."""
