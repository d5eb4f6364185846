"""The kvm platform: application code runs as guest ring 3 in a virtual machine of the sandbox's own.

Guest-physical memory is a window of the Sentry's address space; core/memory_cdef.h says how it and the page tables in
it are used.  An address space is a tree of page tables, kept by core/tables.c; what lies where in it is kept as Linux
keeps it, in regions (core/regions.c); pages come when they are touched (core/faults.c).
"""
