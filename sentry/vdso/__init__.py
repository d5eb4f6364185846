"""Our own vDSO: an ELF image that tells applications the time without a system call, and the clock behind it.

The image (vdso.c, vdso.lds) lies in an application's memory directly above one page of parameters, struct vdso_params
of cdef.h, which the application can only read.  calibration.py measures the host's clocks and writes the page;
params.h is how it is read, by the image and by a platform's own ring 0 alike; image.py has the image's bytes.
What is the processor's is in x86_64.h and nowhere else.
"""
