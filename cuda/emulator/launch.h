/* How a host runs kernels on CPU threads. Plain C. All of it may be called from any thread; launches
 * run one after the other. */
#ifndef ONEGRID_EMULATOR_LAUNCH_H
#define ONEGRID_EMULATOR_LAUNCH_H

#include <stdint.h>

#include "../abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Threads that a launch may have, all blocks together. */
#define OG_EMULATOR_MAX_THREADS 4096
/* Bytes of shared memory that a block may have: as on sm_90. */
#define OG_EMULATOR_MAX_SHARED 232448

enum OgEmulatorError {
    OG_EMULATOR_OK = 0,
    /* No kernel has this name. */
    OG_EMULATOR_UNKNOWN_KERNEL = 1,
    /* No blocks, threads that are no whole warps or more than OG_MAX_THREADS, or too many in all. */
    OG_EMULATOR_BAD_GRID = 2,
    /* More shared memory than a block may have. */
    OG_EMULATOR_BAD_SHARED = 3,
    /* The operating system gave no thread or no memory. */
    OG_EMULATOR_NO_RESOURCES = 4
};

/* Runs a kernel, and returns an OgEmulatorError when all its threads ended. `arguments` is read until
 * then. Every block has `shared_bytes` of shared memory of its own, full of NaN at first. */
int32_t onegrid_emulator_launch(
    const char *kernel, uint32_t blocks, uint32_t threads, uint32_t shared_bytes, const OgArguments *arguments);

/* The name of a kernel, from 0; NULL behind the last. */
const char *onegrid_emulator_kernel(uint32_t index);

/* Barriers of a block are known by their site in the source ("core/barrier.h:51", from the folder cuda/ on),
 * those of the grid by the phase that they stand behind ("qkv", "gate_up", ...). */

/* The name of a site that some launch has reached, from 0 and in no order; NULL behind the last. */
const char *onegrid_emulator_site(uint32_t index);

/* Leaves the barrier of a site out, in all launches from now on: its threads still meet there, but this
 * orders no memory as far as ThreadSanitizer can see. The name is not checked. */
void onegrid_emulator_leave_out(const char *site);

/* Lets threads yield or sleep for a moment at barriers, here and there, in all launches from now on.
 * 0 ends it. */
void onegrid_emulator_jitter(uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif
