// Says what /dev/kvm offers here: the extensions and processor features a platform cares for, and whether a guest of
// two instructions runs. Exit status 0: it does. Threads: one; nothing is freed, the program's end does that.
//
//   offer            a line per extension and feature: the machine's own processor, then what KVM gives to guests

#include <cpuid.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { GUEST_PAGE = 0x1000, PORT = 0x42, ENTRIES = 100 };

struct extension {
    const char *name;
    int number;
};

static const struct extension extensions[] = {
    {"IMMEDIATE_EXIT", KVM_CAP_IMMEDIATE_EXIT},
    {"SYNC_REGS", KVM_CAP_SYNC_REGS},
    {"USER_MEMORY", KVM_CAP_USER_MEMORY},
    {"READONLY_MEM", KVM_CAP_READONLY_MEM},
    {"NR_MEMSLOTS", KVM_CAP_NR_MEMSLOTS},
    {"MAX_VCPUS", KVM_CAP_MAX_VCPUS},
    {"SYNC_MMU", KVM_CAP_SYNC_MMU},
    {"TSC_CONTROL", KVM_CAP_TSC_CONTROL},
    {"GET_TSC_KHZ", KVM_CAP_GET_TSC_KHZ},
    {"TSC_DEADLINE_TIMER", KVM_CAP_TSC_DEADLINE_TIMER},
    {"ADJUST_CLOCK", KVM_CAP_ADJUST_CLOCK},
    {"XSAVE", KVM_CAP_XSAVE},
    {"XCRS", KVM_CAP_XCRS},
    {"DEBUGREGS", KVM_CAP_DEBUGREGS},
    {"VCPU_EVENTS", KVM_CAP_VCPU_EVENTS},
    {"SET_GUEST_DEBUG", KVM_CAP_SET_GUEST_DEBUG},
    {"IOEVENTFD", KVM_CAP_IOEVENTFD},
    {"COALESCED_MMIO", KVM_CAP_COALESCED_MMIO},
    {"X86_DISABLE_EXITS", KVM_CAP_X86_DISABLE_EXITS},
    {"EXCEPTION_PAYLOAD", KVM_CAP_EXCEPTION_PAYLOAD},
    {"X86_TRIPLE_FAULT_EVENT", KVM_CAP_X86_TRIPLE_FAULT_EVENT},
};

enum reg { EAX, EBX, ECX, EDX };

struct feature {
    const char *name;
    unsigned leaf, subleaf;
    enum reg reg;
    unsigned bit;
};

static const struct feature features[] = {
    {"fpu", 1, 0, EDX, 0},         {"tsc", 1, 0, EDX, 4},          {"sep", 1, 0, EDX, 11},
    {"pge", 1, 0, EDX, 13},        {"fxsr", 1, 0, EDX, 24},        {"sse2", 1, 0, EDX, 26},
    {"pcid", 1, 0, ECX, 17},       {"xsave", 1, 0, ECX, 26},       {"osxsave", 1, 0, ECX, 27},
    {"avx", 1, 0, ECX, 28},        {"rdrand", 1, 0, ECX, 30},      {"fsgsbase", 7, 0, EBX, 0},
    {"smep", 7, 0, EBX, 7},        {"avx2", 7, 0, EBX, 5},         {"erms", 7, 0, EBX, 9},
    {"invpcid", 7, 0, EBX, 10},    {"smap", 7, 0, EBX, 20},        {"umip", 7, 0, ECX, 2},
    {"pku", 7, 0, ECX, 3},         {"rdpid", 7, 0, ECX, 22},       {"xsaveopt", 0xd, 1, EAX, 0},
    {"xsavec", 0xd, 1, EAX, 1},    {"xgetbv1", 0xd, 1, EAX, 2},    {"xsaves", 0xd, 1, EAX, 3},
    {"syscall", 0x80000001, 0, EDX, 11}, {"nx", 0x80000001, 0, EDX, 20},  {"pdpe1gb", 0x80000001, 0, EDX, 26},
    {"rdtscp", 0x80000001, 0, EDX, 27},  {"lm", 0x80000001, 0, EDX, 29},  {"svm", 0x80000001, 0, ECX, 2},
    {"invtsc", 0x80000007, 0, EDX, 8},   {"npt", 0x8000000a, 0, EDX, 0},  {"nrip-save", 0x8000000a, 0, EDX, 3},
    {"tsc-scale", 0x8000000a, 0, EDX, 4}, {"flushbyasid", 0x8000000a, 0, EDX, 6},
    {"decodeassists", 0x8000000a, 0, EDX, 7},
};

static void fail(const char *what) {
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void own_registers(const struct feature *feature, unsigned registers[4]) {
    memset(registers, 0, 4 * sizeof *registers);
    __get_cpuid_count(feature->leaf, feature->subleaf, &registers[EAX], &registers[EBX], &registers[ECX],
                      &registers[EDX]);
}

static void guest_registers(const struct kvm_cpuid2 *cpuid, const struct feature *feature, unsigned registers[4]) {
    memset(registers, 0, 4 * sizeof *registers);
    for (unsigned i = 0; i < cpuid->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &cpuid->entries[i];
        int indexed = entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        if (entry->function != feature->leaf || (indexed && entry->index != feature->subleaf)) {
            continue;
        }
        registers[EAX] = entry->eax;
        registers[EBX] = entry->ebx;
        registers[ECX] = entry->ecx;
        registers[EDX] = entry->edx;
    }
}

static void print_features(int kvm) {
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof *cpuid + ENTRIES * sizeof *cpuid->entries);
    cpuid->nent = ENTRIES;
    if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        fail("KVM_GET_SUPPORTED_CPUID");
    }
    for (size_t i = 0; i < sizeof features / sizeof *features; i++) {
        const struct feature *feature = &features[i];
        unsigned own[4], guest[4];
        own_registers(feature, own);
        guest_registers(cpuid, feature, guest);
        printf("feature %-14s here %u guest %u\n", feature->name, own[feature->reg] >> feature->bit & 1,
               guest[feature->reg] >> feature->bit & 1);
    }
}

// mov $7, %al; out %al, $PORT, in real mode at address 0 of one page: the least that shows a guest to run.
static int guest_runs(int kvm) {
    static const unsigned char code[] = {0xb0, 7, 0xe6, PORT};
    int vm = ioctl(kvm, KVM_CREATE_VM, 0);
    unsigned char *page = mmap(0, GUEST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = GUEST_PAGE, .userspace_addr = (unsigned long)page};
    if (vm < 0 || ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region) < 0) {
        fail("a VM with a page");
    }
    memcpy(page, code, sizeof code);

    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(0, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0, .rflags = 2};
    if (run == MAP_FAILED || ioctl(vcpu, KVM_GET_SREGS, &sregs) < 0) {
        fail("a vCPU");
    }
    sregs.cs.base = sregs.cs.selector = 0;
    if (ioctl(vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu, KVM_SET_REGS, &regs) < 0) {
        fail("its registers");
    }
    if (ioctl(vcpu, KVM_RUN, 0) < 0) {
        fail("KVM_RUN");
    }
    return run->exit_reason == KVM_EXIT_IO && run->io.port == PORT && ((char *)run)[run->io.data_offset] == 7;
}

int main(void) {
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0) {
        fail("/dev/kvm");
    }
    for (size_t i = 0; i < sizeof extensions / sizeof *extensions; i++) {
        printf("extension %-22s %d\n", extensions[i].name, ioctl(kvm, KVM_CHECK_EXTENSION, extensions[i].number));
    }
    print_features(kvm);
    int runs = guest_runs(kvm);
    printf("guest %s\n", runs ? "runs" : "does not run");
    return !runs;
}
