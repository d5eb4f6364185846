"""A machine in which /dev/kvm is what the processor's manual says: AMD's virtualisation, emulated by qemu.

The kvm platform needs a host with hardware virtualisation, which neither a developer's virtual machine nor CI has to
have. So qemu plays a whole computer with SVM in software and boots Debian's kernel with kvm-amd in it. There is no
image to build: the machine's root is this host's own, shared read-only (virtiofs) under a layer of memory, so that
Python, the checkout, its .venv and its C cores are what they are here, and nothing that happens in it stays.

Read on in kernel.py (where the kernel comes from), initramfs.py, init.sh and root.sh (its first steps), machine.py (one
boot), __main__.py (a command in it), suite.py (the tests in it).
bench/emulated.py measures in it.
"""
