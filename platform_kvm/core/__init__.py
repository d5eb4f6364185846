"""The C core of the kvm platform: build.py builds it, memory_cdef.h is the interface of its memory."""
