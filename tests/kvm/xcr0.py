"""A kvm.ko whose vCPUs start with all of XCR0's features, for programs that set XCR0 inside the guest.

qemu's SVM does not intercept XSETBV (7.2): the guest's value holds until the next exit, and then KVM, which has never
heard of it, puts the old one back. runsc's kvm platform dies of that at its first XRSTOR. A platform that sets XCR0
with KVM_SET_XCRS does not mind, so tests run with the kernel as it is; only benchmarks beside runsc use this one.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.kvm.kernel import Unavailable

FUNCTION = "kvm_vcpu_reset"  # vcpu->arch.xcr0 = XFEATURE_MASK_FP, the only assignment of a 64-bit 1 in it
STORE = re.compile(r"((?:[0-9a-f]{2} )+)\s*movq +\$0x1,0x")
FEATURES = 0x207  # x87, SSE, AVX, PKRU: what the machine's processor has
SIGNATURE = b"~Module signature appended~\n"


def with_all_features(module: Path) -> bytes:
    """The module, without the signature that it no longer matches."""
    command = ["objdump", "--insn-width=16", f"--disassemble={FUNCTION}", str(module)]
    stores = STORE.findall(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    content = module.read_bytes()
    if len(stores) != 1 or content.count(store := bytes.fromhex(stores[0])) != 1:
        raise Unavailable(f"{module.name} sets XCR0 in a way that is not known here")
    return unsigned(content.replace(store, store[:-4] + FEATURES.to_bytes(4, "little")))


def unsigned(content: bytes) -> bytes:
    """Without struct module_signature, whose last member is the length of the signature before it, and its mark."""
    if not content.endswith(SIGNATURE):
        return content
    end = len(content) - len(SIGNATURE)
    return content[: end - 12 - int.from_bytes(content[end - 4 : end], "big")]
