/* What the host's KVM and its virtual processors can do, and what of it the machine uses. */
#include "core.h"
#include <cpuid.h>
#include <stdlib.h>

#define CR4_PAE (1ul << 5)
#define CR4_OSFXSR (1ul << 9)
#define CR4_OSXMMEXCPT (1ul << 10)
#define CR4_UMIP (1ul << 11)
#define CR4_FSGSBASE (1ul << 16)
#define CR4_OSXSAVE (1ul << 18)
#define CR4_SMEP (1ul << 20)
#define CR4_SMAP (1ul << 21)
#define XCR0_VECTORS 0xe4 /* AVX; AVX-512's masks, upper halves and upper registers */

struct processor processor;

static struct kvm_cpuid2 *supported_cpuid(int kvm_fd)
{
	const int n = 256;
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + n * sizeof(cpuid->entries[0]));

	if (!cpuid)
		return NULL;
	cpuid->nent = n;
	if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid)) {
		free(cpuid);
		return NULL;
	}
	return cpuid;
}

struct kvm_cpuid_entry2 *cpuid_leaf(struct kvm_cpuid2 *cpuid, unsigned int function, unsigned int index)
{
	static struct kvm_cpuid_entry2 none;

	for (unsigned int i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == function && cpuid->entries[i].index == index)
			return &cpuid->entries[i];
	return &none;
}

static unsigned long choose_xstate(struct kvm_cpuid2 *cpuid)
{
	int layout[8][2] = { { 0 } };

	for (int component = 2; component < 8; component++) {
		layout[component][0] = cpuid_leaf(cpuid, 0xd, component)->ebx;
		layout[component][1] = cpuid_leaf(cpuid, 0xd, component)->eax;
	}
	return xstate_choose(cpuid_leaf(cpuid, 0xd, 0)->eax, layout);
}

/* The vector registers that ring 3 has on a host that runs it on its own processor, as bits of XCR0: that may be more than
 * its KVM offers. */
static unsigned long shown_vectors(void)
{
	unsigned int eax, ebx, ecx, edx;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE))
		return 0;
	asm volatile("xgetbv" : "=a"(eax), "=d"(edx) : "c"(0));
	return eax & XCR0_VECTORS;
}

/* Without XSAVE in ring 0, KVM itself has to save what ring 3 sees all the same.  NULL, or why that can't be. */
static const char *keep_outside(struct kvm_cpuid2 *cpuid, int kvm_fd)
{
	unsigned long shown = shown_vectors();

	processor.keeps_outside = shown != 0;
	if (!shown)
		return NULL;
	if (shown & ~choose_xstate(cpuid) || ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE) <= 0)
		return "its virtual processors do not save the vector registers that programs see";
	return NULL;
}

/* NULL, or what is missing. */
static const char *study_processor(struct kvm_cpuid2 *cpuid)
{
	unsigned int features = cpuid_leaf(cpuid, 1, 0)->ecx, more = cpuid_leaf(cpuid, 7, 0)->ebx;
	unsigned int extended = cpuid_leaf(cpuid, 0x80000001, 0)->edx;

	if ((extended & (1u << 29 | 1u << 20 | 1u << 11)) != (1u << 29 | 1u << 20 | 1u << 11))
		return "its virtual processors lack long mode, NX or SYSCALL";
	processor.has_rdtscp = extended >> 27 & 1;
	processor.features = 0;
	processor.cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	if (features & 1u << 26) {
		processor.features |= HAS_XSAVE;
		processor.cr4 |= CR4_OSXSAVE;
		processor.xcr0 = choose_xstate(cpuid);
		if (cpuid_leaf(cpuid, 0xd, 1)->eax & 1)
			processor.features |= HAS_XSAVEOPT;
	}
	if (more & 1) {
		processor.features |= HAS_FSGSBASE;
		processor.cr4 |= CR4_FSGSBASE;
	}
	if (more & 1u << 7)
		processor.cr4 |= CR4_SMEP;
	if (more & 1u << 20) {
		processor.features |= HAS_SMAP;
		processor.cr4 |= CR4_SMAP;
	}
	if (cpuid_leaf(cpuid, 7, 0)->ecx & 1u << 2)
		processor.cr4 |= CR4_UMIP;
	return NULL;
}

static const char *const capabilities[] = {
	[KVM_CAP_USER_MEMORY] = "it lacks guest memory of the user's",
	[KVM_CAP_IMMEDIATE_EXIT] = "it lacks immediate exits",
	[KVM_CAP_VCPU_EVENTS] = "it lacks events of virtual CPUs",
	[KVM_CAP_SYNC_MMU] = "it lacks guest memory that follows the user's mappings",
};

static const char *missing_capability(int kvm_fd)
{
	int version = ioctl(kvm_fd, KVM_GET_API_VERSION, 0);

	if (version != KVM_API_VERSION)
		return version < 0 ? "the device is not KVM's" : "it lacks the stable interface";
	for (unsigned int i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++)
		if (capabilities[i] && ioctl(kvm_fd, KVM_CHECK_EXTENSION, i) <= 0)
			return capabilities[i];
	return NULL;
}

/* What the virtual processors are to say of themselves, to be freed; NULL: *why or errno tells. */
struct kvm_cpuid2 *processor_study(int kvm_fd, const char **why)
{
	struct kvm_cpuid2 *cpuid;

	*why = missing_capability(kvm_fd);
	cpuid = *why ? NULL : supported_cpuid(kvm_fd);
	if (!cpuid)
		return NULL;
	*why = study_processor(cpuid);
	if (!*why && !(processor.features & HAS_XSAVE))
		*why = keep_outside(cpuid, kvm_fd);
	if (!*why)
		return cpuid;
	free(cpuid);
	return NULL;
}

/* Its far returns do not go with SMAP. */
void processor_drop_smap(void)
{
	processor.features &= ~HAS_SMAP;
	processor.cr4 &= ~CR4_SMAP;
}

/* Do contexts have more than FXSAVE's 512 bytes? */
int processor_has_xstate(void)
{
	return processor.features & HAS_XSAVE || processor.keeps_outside;
}

int kv_has_rdtscp(void)
{
	return processor.has_rdtscp;
}
