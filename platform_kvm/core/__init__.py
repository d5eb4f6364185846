"""The C core: the virtual machine, and the memory of the application."""
