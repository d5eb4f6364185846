"""Memory as the kernel sees it: layout, brk, ELF images.  Paging is the platform's."""
