/* The virtual machine: ring 0's memory, the slots of guest-physical memory, the virtual CPUs and their state. */
#include "core.h"
#include "slots.h"
#include <fcntl.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

#define PTE_PRESENT 1ul
#define PTE_WRITABLE 2ul
#define PTE_LARGE 0x80ul
#define PTE_NX (1ul << 63)
#define TABLE (PTE_PRESENT | PTE_WRITABLE)
#define GIGABYTE (1ul << 30)
#define LARGE_PAGE (2ul << 20)

#define SCRATCH_GPA (CORE_GPA + CORE_SIZE)
#define CR0_BITS 0x80050033ul /* PG AM WP NE ET MP PE */
#define EFER_BITS 0xd01ul /* NXE LMA LME SCE */
#define MSR_STAR 0xc0000081
#define MSR_LSTAR 0xc0000082
#define MSR_CSTAR 0xc0000083
#define MSR_FMASK 0xc0000084
#define MSR_TSC_AUX 0xc0000103
#define FLAGS_CLEARED 0x47700 /* AC NT IOPL DF IF TF: by SYSCALL */

extern const char ring0_text[], ring0_text_end[];
extern const char ring0_syscall[], ring0_syscall32[], ring0_stubs[], ring0_start[];

struct vcpu vcpus[MAX_CPUS];
int n_vcpus;
static int vm_fd = -1;
static char *core;
static int n_slots;
static unsigned long tsc_khz, run_size;
static long tsc_offset;
static unsigned long kernel_half[256];

/* ---- tables ---- */

static unsigned long *core_table(unsigned long offset)
{
	return (unsigned long *)(core + offset);
}

static void map_page(unsigned long table, int index, unsigned long offset, unsigned long flags)
{
	core_table(table)[index] = (CORE_GPA + offset) | flags | PTE_PRESENT;
}

static void map_ring0(void)
{
	map_page(CORE_PML4, 511, CORE_PDPT_KERNEL, TABLE);
	map_page(CORE_PML4, 510, CORE_PDPT_DIRECT, TABLE);
	map_page(CORE_PDPT_KERNEL, 0, CORE_PD_KERNEL, TABLE);
	map_page(CORE_PDPT_KERNEL, 1, CORE_PD_CTX, TABLE);
	map_page(CORE_PD_KERNEL, 0, CORE_PT_TEXT, TABLE);
	map_page(CORE_PD_KERNEL, 1, CORE_PT_CPUS, TABLE);
	for (unsigned long at = 0; at < CORE_TEXT_SIZE; at += PAGE)
		map_page(CORE_PT_TEXT, at / PAGE, CORE_TEXT + at, 0);
	map_page(CORE_PT_TEXT, CORE_IDT / PAGE, CORE_IDT, PTE_NX);
	for (unsigned long at = 0; at < MAX_CPUS * CPU_SIZE; at += PAGE)
		map_page(CORE_PT_CPUS, at / PAGE, CORE_CPUS + at, PTE_WRITABLE | PTE_NX);
	map_page(CORE_PT_CPUS, 511, CORE_PARAMS, PTE_NX);
	for (unsigned long at = 0; at < MAX_CTX * PAGE; at += LARGE_PAGE)
		map_page(CORE_PD_CTX, at / LARGE_PAGE, CORE_CTX + at, PTE_LARGE | PTE_WRITABLE | PTE_NX);
	memcpy(kernel_half, core_table(CORE_PML4) + 256, sizeof(kernel_half));
}

static void map_direct(unsigned long window_offset, unsigned long gpa, unsigned long size)
{
	for (unsigned long at = 0; at < size; at += LARGE_PAGE) {
		unsigned long page = (window_offset + at) / LARGE_PAGE, gigabyte = page / 512;

		map_page(CORE_PDPT_DIRECT, gigabyte, CORE_PD_DIRECT + gigabyte * PAGE, TABLE);
		core_table(CORE_PD_DIRECT + gigabyte * PAGE)[page % 512] =
			(gpa + at) | PTE_PRESENT | PTE_LARGE | PTE_WRITABLE | PTE_NX;
	}
}

static int set_slot(unsigned long gpa, void *host, unsigned long size)
{
	struct kvm_userspace_memory_region region = {
		.slot = n_slots,
		.guest_phys_addr = gpa,
		.memory_size = size,
		.userspace_addr = (unsigned long)host,
	};

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region))
		return -errno;
	n_slots++;
	return 0;
}

static int add_slot(unsigned long gpa, void *host, unsigned long size)
{
	map_direct(gpa - KV_WINDOW_GPA, gpa, size);
	return set_slot(gpa, host, size);
}

/* ---- descriptors ---- */

struct gate {
	unsigned short low, selector;
	unsigned char ist, type;
	unsigned short middle;
	unsigned int high, zero;
} __attribute__((packed));

struct tss {
	unsigned int reserved;
	unsigned long rsp[3], reserved2, ist[7], reserved3;
	unsigned short reserved4, io_bitmap;
} __attribute__((packed));

static unsigned long ring0_address(const char *symbol)
{
	return KERNEL_BASE + CORE_TEXT + (symbol - ring0_text);
}

static void fill_idt(void)
{
	struct gate *idt = (void *)(core + CORE_IDT);

	for (int vector = 0; vector < 256; vector++) {
		unsigned long stub = ring0_address(ring0_stubs) + 16 * vector;
		int from_user = vector == 3 || vector == 4 || vector == 0x80;

		idt[vector] = (struct gate){
			.low = stub,
			.middle = stub >> 16,
			.high = stub >> 32,
			.selector = SEL_KERNEL_CS,
			.type = 0x8e | (from_user ? 0x60 : 0),
			.ist = vector == 1 ? 1 : vector == 2 || vector == 18 ? 2 : vector == 8 ? 3 : 0,
		};
	}
}

static void fill_cpu(int index)
{
	unsigned long base = CPU_BASE + index * CPU_SIZE;
	char *host = core + CORE_CPUS + index * CPU_SIZE;
	unsigned long *gdt = (unsigned long *)(host + CPU_TABLES);
	struct tss *tss = (struct tss *)(gdt + GDT_ENTRIES);
	unsigned long tss_base = base + CPU_TABLES + GDT_ENTRIES * 8;

	memset(host, 0, CPU_SIZE);
	gdt[SEL_KERNEL_CS >> 3] = 0x00af9b000000ffff;
	gdt[SEL_KERNEL_SS >> 3] = 0x00cf93000000ffff;
	gdt[SEL_USER32_CS >> 3] = 0x00cffb000000ffff;
	gdt[SEL_USER_SS >> 3] = 0x00cff3000000ffff;
	gdt[SEL_USER_CS >> 3] = 0x00affb000000ffff;
	gdt[SEL_TSS >> 3] = 0x00008b0000000000 | (sizeof(*tss) - 1) | (tss_base & 0xffffff) << 16 |
			    (tss_base >> 24 & 0xff) << 56;
	gdt[(SEL_TSS >> 3) + 1] = tss_base >> 32;
	tss->rsp[0] = base + CPU_STACK_TOP;
	for (int i = 0; i < 3; i++)
		tss->ist[i] = base + CPU_IST + (i + 1) * CPU_IST_SIZE;
	tss->io_bitmap = sizeof(*tss); /* past the limit: no ports for ring 3 */
	*(struct ring0_cpu *)host = (struct ring0_cpu){
		.stack = base + CPU_STACK_TOP,
		.features = processor.features,
		.xcr0 = processor.xcr0,
		.cr3 = CORE_GPA + CORE_PML4,
		.number = index,
	};
}

/* ---- the state of a virtual CPU ---- */

static struct kvm_segment segment(int selector, int type, int s, int l, int db, int dpl)
{
	return (struct kvm_segment){
		.base = 0,
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.dpl = dpl,
		.s = s,
		.l = l,
		.db = db,
		.g = 1,
	};
}

static int set_registers(struct vcpu *v)
{
	unsigned long base = CPU_BASE + v->index * CPU_SIZE;
	struct kvm_regs regs = { .rip = ring0_address(ring0_start), .rflags = 2, .rsp = base + CPU_STACK_TOP };
	struct kvm_sregs sregs;

	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		return -errno;
	sregs.cs = segment(SEL_KERNEL_CS, 11, 1, 1, 0, 0);
	sregs.ss = segment(SEL_KERNEL_SS, 3, 1, 0, 1, 0);
	sregs.ds = sregs.es = sregs.fs = sregs.gs = (struct kvm_segment){ .unusable = 1 };
	sregs.gs.base = base;
	sregs.tr = (struct kvm_segment){ .base = base + CPU_TABLES + GDT_ENTRIES * 8,
					 .limit = sizeof(struct tss) - 1,
					 .selector = SEL_TSS,
					 .type = 11,
					 .present = 1 };
	sregs.ldt = (struct kvm_segment){ .unusable = 1 };
	sregs.gdt = (struct kvm_dtable){ .base = base + CPU_TABLES, .limit = GDT_ENTRIES * 8 - 1 };
	sregs.idt = (struct kvm_dtable){ .base = IDT_ADDR, .limit = 256 * sizeof(struct gate) - 1 };
	sregs.cr0 = CR0_BITS;
	sregs.cr3 = CORE_GPA + CORE_PML4;
	sregs.cr4 = processor.cr4;
	sregs.efer = EFER_BITS;
	if (ioctl(v->fd, KVM_SET_SREGS, &sregs) || ioctl(v->fd, KVM_SET_REGS, &regs))
		return -errno;
	return 0;
}

static int set_msr(struct vcpu *v, unsigned int index, unsigned long value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} msrs = { .head.nmsrs = 1, .entry = { .index = index, .data = value } };

	return ioctl(v->fd, KVM_SET_MSRS, &msrs) == 1 ? 0 : -EINVAL;
}

static int set_msrs(struct vcpu *v)
{
	const struct {
		unsigned int index;
		unsigned long value;
	} msrs[] = {
		{ MSR_STAR, (unsigned long)SEL_USER32_CS << 48 | (unsigned long)SEL_KERNEL_CS << 32 },
		{ MSR_LSTAR, ring0_address(ring0_syscall) },
		{ MSR_CSTAR, ring0_address(ring0_syscall32) },
		{ MSR_FMASK, FLAGS_CLEARED },
	};

	for (unsigned int i = 0; i < sizeof(msrs) / sizeof(msrs[0]); i++)
		if (set_msr(v, msrs[i].index, msrs[i].value))
			return -EINVAL;
	set_msr(v, MSR_TSC_AUX, v->index); /* not every processor has it */
	return 0;
}

/* It is in v->root's tables now. */
void vcpu_drop_former(struct vcpu *v)
{
	if (v->former)
		kv_root_put(v->former);
	v->former = 0;
}

/* Make it begin at ring0_start, whatever became of it.  0 or -errno. */
int vcpu_reset(struct vcpu *v)
{
	struct kvm_vcpu_events events;
	int err;

	kv_stock_return(v->shared->stock, v->in_stock);
	v->in_stock = 0;
	fill_cpu(v->index);
	v->parked = 1;
	v->extended = NULL;
	v->root = 0;
	vcpu_drop_former(v);
	if (ioctl(v->fd, KVM_GET_VCPU_EVENTS, &events))
		return -errno;
	memset(&events.exception, 0, sizeof(events.exception));
	memset(&events.interrupt, 0, sizeof(events.interrupt));
	memset(&events.nmi, 0, sizeof(events.nmi));
	if (ioctl(v->fd, KVM_SET_VCPU_EVENTS, &events))
		return -errno;
	err = set_registers(v);
	return err ? err : set_msrs(v);
}

/* Its tables are to go, and it is parked: ring 0, which runs on whatever tables there are, is to have its own. */
void vcpu_leave_space(struct vcpu *v)
{
	struct kvm_sregs sregs;

	v->root = 0;
	if (ioctl(v->fd, KVM_GET_SREGS, &sregs))
		return;
	sregs.cr3 = CORE_GPA + CORE_PML4;
	ioctl(v->fd, KVM_SET_SREGS, &sregs);
}

/* ---- making it all ---- */

static int set_xcr0(struct vcpu *v)
{
	struct kvm_xcrs xcrs = { .nr_xcrs = 1, .xcrs[0] = { .xcr = 0, .value = processor.xcr0 } };

	if (!(processor.features & HAS_XSAVE))
		return 0;
	return ioctl(v->fd, KVM_SET_XCRS, &xcrs) ? -errno : 0;
}

/* The application's time stamp counter is to be the host's; where it can't be made so, the offset is unknown: LONG_MIN. */
static void set_tsc(struct vcpu *v)
{
	unsigned long none = 0;
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (unsigned long)&none,
	};

	tsc_offset = ioctl(v->fd, KVM_SET_DEVICE_ATTR, &attr) ? (long)(1ul << 63) : 0;
	tsc_khz = ioctl(v->fd, KVM_GET_TSC_KHZ, 0);
}

long kv_tsc_offset(void)
{
	return tsc_offset;
}

unsigned long kv_tsc_khz(void)
{
	return tsc_khz;
}

static int make_vcpu(struct vcpu *v, int index, struct kvm_cpuid2 *cpuid)
{
	int err;

	memset(v, 0, sizeof(*v));
	v->index = index;
	v->fd = ioctl(vm_fd, KVM_CREATE_VCPU, index);
	if (v->fd < 0)
		return -errno;
	n_vcpus = index + 1;
	v->run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (v->run == MAP_FAILED)
		return -errno;
	v->shared = (struct ring0_cpu *)(core + CORE_CPUS + index * CPU_SIZE);
	cpuid_leaf(cpuid, 1, 0)->ebx = (cpuid_leaf(cpuid, 1, 0)->ebx & 0xffffff) | (unsigned int)index << 24;
	if (ioctl(v->fd, KVM_SET_CPUID2, cpuid))
		return -errno;
	err = set_xcr0(v);
	set_tsc(v);
	return err ? err : vcpu_reset(v);
}

static int make_core(int params_fd)
{
	core = mmap(NULL, CORE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (core == MAP_FAILED) {
		core = NULL;
		return -errno;
	}
	madvise(core, CORE_SIZE, MADV_DONTFORK);
	memcpy(core + CORE_TEXT, ring0_text, ring0_text_end - ring0_text);
	map_ring0();
	fill_idt();
	if (params_fd >= 0 && mmap(core + CORE_PARAMS, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, params_fd, 0) == MAP_FAILED)
		return -errno;
	return set_slot(CORE_GPA, core, CORE_SIZE);
}

/* The core of init: everything but the threads.  why is set where that says more than the errno. */
int machine_make(int kvm_fd, int n_cpus, int params_fd, const char **why)
{
	struct kvm_cpuid2 *cpuid = processor_study(kvm_fd, why);
	int err;

	if (!cpuid)
		return *why ? -EOPNOTSUPP : -errno;
	vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0);
	err = vm_fd < 0 ? -errno : 0;
	run_size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (!err)
		err = make_core(params_fd);
	for (int i = 0; !err && i < n_cpus && i < MAX_CPUS; i++)
		err = make_vcpu(&vcpus[i], i, cpuid);
	free(cpuid);
	return err ? err : kv_memory_init(add_slot, quiesce);
}

void machine_unmake(void)
{
	for (int i = 0; i < n_vcpus; i++) {
		if (vcpus[i].run && vcpus[i].run != MAP_FAILED)
			munmap(vcpus[i].run, run_size);
		close(vcpus[i].fd);
	}
	n_vcpus = n_slots = 0;
	if (vm_fd >= 0)
		close(vm_fd);
	vm_fd = -1;
	if (core)
		munmap(core, CORE_SIZE);
	core = NULL;
}

struct ring0_ctx *machine_ctx(int index, unsigned long *address)
{
	*address = CTX_BASE + index * PAGE;
	return (struct ring0_ctx *)(core + CORE_CTX + index * PAGE);
}

unsigned long machine_syscall_address(void)
{
	return ring0_address(ring0_syscall);
}

int kv_is_emulated(void)
{
	return !!(processor.features & SYSCALL_FAULTS);
}

/* Of all virtual CPUs, none of which is in the guest. */
void machine_set_syscall_faults(void)
{
	processor.features |= SYSCALL_FAULTS;
	for (int i = 0; i < n_vcpus; i++)
		vcpus[i].shared->features = processor.features;
}

/* As above: none of them is in the guest. */
void machine_drop_smap(void)
{
	processor_drop_smap();
	for (int i = 0; i < n_vcpus; i++)
		vcpu_reset(&vcpus[i]);
}

/* Taking a slot away, any slot, makes KVM forget all copies of page tables. */
void machine_forget_tables(void)
{
	struct kvm_userspace_memory_region region = {
		.slot = n_slots,
		.guest_phys_addr = SCRATCH_GPA,
		.memory_size = PAGE,
		.userspace_addr = (unsigned long)core,
	};

	ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
	region.memory_size = 0;
	ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Give the memory of contexts back: it is zero when it is used again. */
void machine_forget_ctx(int index)
{
	madvise(core + CORE_CTX + index * PAGE, PAGE, MADV_DONTNEED);
}

int kv_slot_of(int number)
{
	return number >= 0 && number < SLOT_NUMBERS ? slot_of[number] : 0;
}

const unsigned long *kv_kernel_half(void)
{
	return kernel_half;
}

/* See call_of_32_bits in ring0.S. */
_Static_assert((unsigned int)KERNEL_BASE + CORE_TEXT + CORE_TEXT_SIZE <= KV_MIN_ADDR, "half of ring 0's addresses");
_Static_assert(sizeof(struct ring0_ctx) == PAGE, "a context is a page");
_Static_assert(offsetof(struct ring0_ctx, answered) == CTX_ANSWERED, "answered");
_Static_assert(offsetof(struct ring0_ctx, answers) == CTX_ANSWERS, "answers");
_Static_assert(offsetof(struct ring0_ctx, xsave) == CTX_XSAVE, "xsave");
_Static_assert(offsetof(struct ring0_ctx, regs.gs) == CTX_GS, "registers");
_Static_assert(offsetof(struct ring0_cpu, n_stock) == CPU_N_STOCK, "stock");
_Static_assert(offsetof(struct ring0_cpu, lost) == CPU_LOST, "lost");
_Static_assert(offsetof(struct ring0_cpu, stock) == CPU_STOCK_ITEMS, "stock");
