"""What tests of the shim share: a client that plays containerd, and a Sentry that runs nothing but host processes.

`harness` starts a shim by its real command line.  With `fake_entry` as that command, the sandbox package is replaced
by `fake_sandbox`, whose Sentry (`fake_sentry`) speaks the real control protocol but runs the container's processes on
the host, unconfined.  So everything of the shim is tested without an application kernel.
"""
