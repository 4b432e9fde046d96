// The megakernel that records a trace (core/trace.h): the same source, compiled once more for the variant, the
// number of columns and the heads that traces are made of. The other kernels know nothing of it.

#define ONEGRID_TRACED 1
#include "megakernel.cu"

#define TRACED_MEGAKERNEL(HEAD_DIM)                                            \
    KERNEL(traced_h##HEAD_DIM##_c1_redundant_norm) {                           \
        Block().begin(arguments);                                              \
        Megakernel<HEAD_DIM, 1, Variant::redundant_norm>().run();              \
    }

TRACED_MEGAKERNEL(128)
#if ONEGRID_EMULATED
TRACED_MEGAKERNEL(64)
#endif
