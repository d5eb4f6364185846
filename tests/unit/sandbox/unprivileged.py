"""`python unprivileged.py ARGS`: this interpreter with ARGS, as a user without any privilege.

An interpreter in root's home is bound where everybody can read it, in a mount namespace of this process.
"""

import os
import sys

UID = 12345


def main():
    sys.path.insert(0, os.environ["PYTHONPATH"])
    from sandbox import hostcalls as hc

    hc.unshare(hc.CLONE_NEWNS)
    python = os.open(sys.base_prefix, os.O_PATH)
    hc.mount("none", "/", "", hc.MS_REC | hc.MS_PRIVATE)
    if sys.base_prefix.startswith("/root/"):
        hc.mount("none", "/root", "tmpfs", 0, "mode=755")
        os.makedirs(sys.base_prefix)
        hc.mount(f"/proc/self/fd/{python}", sys.base_prefix, "", hc.MS_BIND | hc.MS_REC)
    os.setgroups([])
    os.setgid(UID)
    os.setuid(UID)
    os.execv(sys.executable, [sys.executable, *sys.argv[1:]])


if __name__ == "__main__":
    main()
