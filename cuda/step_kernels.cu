// The same phases as kernels of their own: the multi-launch baseline, launched one by one or as a captured
// graph. What the megakernel keeps in step with barriers is here divided by launches.
//
// Everything that changes from token to token is in the control block, so that a captured step can be
// replayed. A step that comes after the end does nothing.

#include "core/barrier.h"
#include "phase/attention.h"
#include "phase/down.h"
#include "phase/embed.h"
#include "phase/gate_up.h"
#include "phase/head.h"
#include "phase/output.h"
#include "phase/qkv.h"
#include "phase/sample.h"

// Before any phase: whether there is something to do. `query_block`: that of the attention kernel.
__device__ __forceinline__ bool begin_step(const OgArguments& arguments, uint32_t query_block) {
    const Block block;
    block.begin(arguments);
    if (block.thread == 0) block.plan_pass(query_block, true);
    BLOCK_SYNC();
    return block.columns() > 0;
}

// Before a phase of sampling: whether some request goes on.
__device__ __forceinline__ bool begin_sampling(const OgArguments& arguments) {
    const Block block;
    block.begin(arguments);
    return block.shared.control.ended == 0;
}

#define STEP_KERNELS(COLUMNS)                                                                                             \
    KERNEL(step_embed_c##COLUMNS) {                                                                                       \
        if (begin_step(arguments, query_block(COLUMNS))) embed_phase();                                                   \
    }                                                                                                                     \
    KERNEL(step_qkv_c##COLUMNS) {                                                                                         \
        if (begin_step(arguments, query_block(COLUMNS))) qkv_phase<COLUMNS, false>(arguments.layer, OG_PHASE_EMBED);      \
    }                                                                                                                     \
    KERNEL(step_gate_up_c##COLUMNS) {                                                                                     \
        if (begin_step(arguments, query_block(COLUMNS))) gate_up_phase<COLUMNS, false, false>(arguments.layer, OG_PHASE_OUTPUT); \
    }                                                                                                                     \
    KERNEL(step_down_c##COLUMNS) {                                                                                        \
        if (begin_step(arguments, query_block(COLUMNS))) down_phase<COLUMNS, false>(arguments.layer, OG_PHASE_GATE_UP);   \
    }                                                                                                                     \
    KERNEL(step_head_c##COLUMNS) {                                                                                        \
        if (begin_step(arguments, query_block(COLUMNS))) head_phase<COLUMNS, false>(OG_PHASE_DOWN);                       \
    }

#define STEP_KERNELS_BY_HEAD_DIM(HEAD_DIM, COLUMNS)                                                                       \
    KERNEL(step_attention_h##HEAD_DIM##_c##COLUMNS) {                                                                     \
        if (begin_step(arguments, query_block(COLUMNS))) attention_phase<HEAD_DIM, COLUMNS>(arguments.layer);             \
    }                                                                                                                     \
    KERNEL(step_output_h##HEAD_DIM##_c##COLUMNS) {                                                                        \
        if (begin_step(arguments, query_block(COLUMNS))) output_phase<HEAD_DIM, COLUMNS>(arguments.layer, OG_PHASE_ATTENTION); \
    }

STEP_KERNELS(1)
STEP_KERNELS(2)
STEP_KERNELS(4)
STEP_KERNELS(8)
STEP_KERNELS_BY_HEAD_DIM(64, 1)
STEP_KERNELS_BY_HEAD_DIM(64, 2)
STEP_KERNELS_BY_HEAD_DIM(64, 4)
STEP_KERNELS_BY_HEAD_DIM(64, 8)
STEP_KERNELS_BY_HEAD_DIM(128, 1)
STEP_KERNELS_BY_HEAD_DIM(128, 2)
STEP_KERNELS_BY_HEAD_DIM(128, 4)
STEP_KERNELS_BY_HEAD_DIM(128, 8)

// Sampling, from logits to the columns of the next step: score, then (if a request has filters) count
// and narrow for each filter and pass, and draw; then sample, which is one block's. `layer` numbers the
// passes of the selection: filter * OG_SELECT_PASSES + pass.
KERNEL(step_score) {
    if (!begin_sampling(arguments)) return;
    score_phase();
    poll_stop(Block());
}

KERNEL(step_count) {
    if (!begin_sampling(arguments)) return;
    select_again(arguments.layer);
    count_phase(static_cast<Filter>(arguments.layer / OG_SELECT_PASSES), arguments.layer % OG_SELECT_PASSES);
}

KERNEL(step_draw) {
    if (!begin_sampling(arguments)) return;
    select_again(2 * OG_SELECT_PASSES);
    end_selection();
    draw_phase();
}

KERNEL(step_sample) {
    if (!begin_sampling(arguments)) return;
    sample_phase();
    const Block block;
    block.save_control();
    if (block.is_first_thread() && block.shared.control.ended != 0) {
        const bool finite = block.shared.control.not_finite == OG_ALL_FINITE;
        block.mailbox().report.status = finite ? OG_STATUS_DONE : OG_STATUS_NOT_FINITE;
    }
}
