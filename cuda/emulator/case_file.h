/* A case: kernels to run one after the other, and the memory that they run on. check.cpp reads it, and
 * writes what the memory holds in the end. All numbers as this machine stores them. The file is
 *   OgCase
 *   images of the weights, the state and the mailbox
 *   `steps` times: an OgCaseStep, and `payload_bytes` of its payload
 * and the result is the images of the state and the mailbox. A trace is no part of it: it is full of times.
 */
#ifndef ONEGRID_EMULATOR_CASE_FILE_H
#define ONEGRID_EMULATOR_CASE_FILE_H

#include <stdint.h>

#include "../abi.h"

/* "OGCASE2\0" on a little-endian machine. */
#define OG_CASE_MAGIC 0x003245534143474fu
#define OG_CASE_KERNEL_NAME 64

typedef struct OgCase {
    uint64_t magic;
    uint64_t weights_bytes;
    uint64_t state_bytes;
    uint64_t mailbox_bytes;
    uint64_t trace_bytes; /* room for what traced kernels record, zero at first */
    uint64_t steps;
    uint64_t arguments_bytes; /* sizeof(OgArguments) */
} OgCase;

enum OgCaseStepKind {
    /* Runs a kernel. The payload is its OgArguments; the addresses in them are filled in. */
    OG_CASE_LAUNCH = 0,
    /* The host writes the payload to the state, `offset` bytes from its start... */
    OG_CASE_WRITE_STATE = 1,
    /* ...or to the mailbox. */
    OG_CASE_WRITE_MAILBOX = 2
};

typedef struct OgCaseStep {
    uint32_t kind; /* OgCaseStepKind */
    uint32_t blocks;
    uint32_t threads; /* of a block */
    uint32_t shared_bytes;
    char kernel[OG_CASE_KERNEL_NAME]; /* ends with a zero */
    uint64_t offset;
    uint64_t payload_bytes;
} OgCaseStep;

#endif
