"""The C core of the ptrace platform, built ahead by build.py."""
