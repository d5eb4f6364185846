"""pysc: the OCI runtime's command line, and what a person at a shell needs beside it."""
