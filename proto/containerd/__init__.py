"""containerd's messages: own .proto files and the classes generated from them (README.md)."""
