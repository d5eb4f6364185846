"""containerd's side of pysc: the shim that containerd starts and drives (README.md)."""
