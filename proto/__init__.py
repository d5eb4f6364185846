"""Every byte that crosses a process boundary.  Standard library only, but for the generated containerd messages."""
