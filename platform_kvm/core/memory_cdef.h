/* The interface of guest-physical memory and of address spaces; read by cffi and by the C compiler.
 *
 * Guest-physical memory is a window of our own address space: the byte at `host` has the guest-physical address
 * KV_WINDOW_GPA + (host - kv_window()).  Nothing here knows of KVM.
 *
 * Threads: one lock is held by every function, recursive, and kv_lock() takes it too.  One thread alone, the
 * Sentry's, changes spaces; others call kv_fault, kv_drop_beyond_eof and the kv_stock functions, for spaces that are
 * not released meanwhile.  The lock is let go while a function waits for a file's data.
 * Results: 0 or a count, an address where that is said, or -errno.
 */

#define KV_WINDOW_GPA 0x100000000
#define KV_WINDOW_SIZE 0x8000000000
#define KV_SLOT_SIZE 0x100000000
#define KV_MIN_ADDR 0x10000 /* mmap_min_addr: no space has anything below */

/* kv_fault's access: what the faulting instruction did; neither: it read. */
#define KV_WRITE 1
#define KV_EXEC 2

/* struct kv_mapping, kind */
#define KV_NORMAL 0
#define KV_VDSO 1
#define KV_VVAR 2

/* Of a leaf entry, what is not the processor's.  KV_PTE_ZERO is no bit but the whole entry of a page of zeros that does
 * not exist yet, in memory that may be written: ring 0 may exchange it (it has KV_PTE_ZERO_NX as well if the page is
 * not to be executed) for an entry with a frame of its stock, present, user, writable, accessed and dirty, without any
 * bit of these, if and only if the three entries above it, too, are writable: else the table is shared with another
 * space. */
#define KV_PTE_ZERO 6
#define KV_PTE_ZERO_NX 0x8000000000000006
#define KV_PTE_FIXED 0x200  /* a file's page or the page of zeros: not counted, copied before it is written if private */
#define KV_PTE_HELD 0x400   /* not present, for the application may not touch it; the frame is kept */

struct kv_account;
struct kv_space;

struct kv_fault_info {
	int signo, code;
	unsigned long addr;
};

struct kv_mapping {
	unsigned long start, end, offset, dev, ino;
	int prot, shared, kind;
};

/* In frames.  Handed out: named by tables and objects, tables themselves, those in ring 0's stock. */
struct kv_frames_info {
	unsigned long handed_out;
	unsigned long in_stock;   /* zeroed, with memory under them */
	unsigned long to_clear;   /* given back, not yet zeroed or given to the host */
	unsigned long free;       /* without memory under them */
	unsigned long window_used; /* bytes of the window under which files are mapped */
	unsigned long objects;    /* files and pieces of shared memory that are mapped somewhere */
};

/* add_slot: make this piece of the window guest memory; 0 or -errno.  quiesce: return when no virtual CPU executes in
 * the space; none may again until the lock is free, and each is to flush its TLB before it does.  It is called with
 * the lock held, by whatever thread needs it (kv_fault does, to copy a page), and once, unless the lock was let go
 * meanwhile; so nobody may wait for the lock and be executing in the space.  Both may be NULL. */
int kv_memory_init(int (*add_slot)(unsigned long gpa, void *host, unsigned long size),
		   void (*quiesce)(struct kv_space *space));
/* From now on there are copies of page tables that do not follow their changes, but do follow those of the window's
 * mappings: a KVM without nested paging makes them, and loses them all by `forget`.  kv_forget_stale_copies has it do so
 * if anything has changed since that makes them wrong.  Called with the lock held. */
void kv_expect_copies(void (*forget)(void));
void kv_forget_stale_copies(void);
void kv_memory_close(void); /* every space and account has been released */
char *kv_window(void);
void kv_lock(void);
void kv_unlock(void);
void kv_frames(struct kv_frames_info *out);

/* How much memory the spaces of one container may use and do, in pages.  The limit may be changed at any time. */
struct kv_account *kv_account_new(unsigned long limit_pages);
void kv_account_free(struct kv_account *account); /* after its spaces */
unsigned long kv_account_used(const struct kv_account *account);
void kv_account_limit(struct kv_account *account, unsigned long limit_pages);

/* Frames for ring 0 and for the core's own use, zeroed; both give them back with kv_stock_return, zeroed.  take: how
 * many there were.  used: ring 0 has put this one into a table of the space; may be said late, or twice. */
unsigned int kv_stock_take(unsigned long *gpas, unsigned int n);
void kv_stock_return(const unsigned long *gpas, unsigned int n);
void kv_stock_used(struct kv_space *space, unsigned long gpa);

/* kernel_half: entries 256 to 511 of the top table.  NULL, or -ENOMEM from fork: no memory. */
struct kv_space *kv_space_new(struct kv_account *account, unsigned long end, unsigned long mmap_base,
			      const unsigned long *kernel_half);
int kv_space_fork(struct kv_space *parent, struct kv_space **child);
void kv_space_free(struct kv_space *space); /* no virtual CPU runs in it, nor has its tables in a TLB when it next runs */
unsigned long kv_space_root(const struct kv_space *space); /* gpa of the top table */
/* Keep a top table, of which the kernel's half alone is left when its space is freed, until it is put back. */
void kv_root_hold(unsigned long root);
void kv_root_put(unsigned long root);

/* The address, or -errno. */
long kv_map(struct kv_space *space, unsigned long addr, unsigned long length, int prot, int flags, int fd,
	    unsigned long offset);
long kv_map_kind(struct kv_space *space, unsigned long addr, unsigned long length, int prot, int flags, int fd,
		 unsigned long offset, int kind);
int kv_unmap(struct kv_space *space, unsigned long addr, unsigned long length);
int kv_protect(struct kv_space *space, unsigned long addr, unsigned long length, int prot);
long kv_remap(struct kv_space *space, unsigned long addr, unsigned long old_length, unsigned long new_length, int flags,
	      unsigned long new_addr);
int kv_advise(struct kv_space *space, unsigned long addr, unsigned long length, int advice);
int kv_sync(struct kv_space *space, unsigned long addr, unsigned long length, int flags);

/* 0: run on.  1: a signal, described in out.  -ENOMEM: the account's or the host's memory is used up. */
int kv_fault(struct kv_space *space, unsigned long addr, int access, struct kv_fault_info *out);
/* Forget the pages of files that are no longer as long: the number of entries that were. */
long kv_drop_beyond_eof(struct kv_space *space);

/* The count, short at the first page that is not there or may not be touched so; -EFAULT if that is the first. */
long kv_read(struct kv_space *space, unsigned long addr, char *buffer, unsigned long length);
long kv_write(struct kv_space *space, unsigned long addr, const char *buffer, unsigned long length);
/* Up to and with the first NUL: the bytes read; -ENAMETOOLONG if there is none in limit bytes. */
long kv_read_cstr(struct kv_space *space, unsigned long addr, char *buffer, unsigned long limit);
/* pread(2) and pwrite(2) of our descriptor. */
long kv_read_from_file(struct kv_space *space, int fd, unsigned long offset, unsigned long addr, unsigned long length);
long kv_write_to_file(struct kv_space *space, int fd, unsigned long offset, unsigned long addr, unsigned long length);
/* What the aligned word held, or -EFAULT. */
long kv_cmpxchg(struct kv_space *space, unsigned long addr, unsigned int expected, unsigned int value);

/* How many there are; as many of them as there is room for, in address order. */
int kv_mappings(struct kv_space *space, struct kv_mapping *out, int max);
void kv_resident(struct kv_space *space, unsigned long *out); /* size, resident, shared, in pages */
