// The megakernel: whole decode steps, and one after the other, in a single cooperative launch.
//
// All blocks run this code in step. What a phase writes, others read after the barrier that follows it;
// decisions are made by every block alike, from the same data, so that all leave on the same token.

#include "core/barrier.h"
#include "phase/attention.h"
#include "phase/down.h"
#include "phase/embed.h"
#include "phase/fused.h"
#include "phase/gate_up.h"
#include "phase/head.h"
#include "phase/norm.h"
#include "phase/output.h"
#include "phase/qkv.h"
#include "phase/sample.h"

enum class Variant { redundant_norm, block0_norm, head_blocks, fused_phases };

template <uint32_t HEAD_DIM, int COLUMNS, Variant VARIANT>
struct Megakernel {
    static constexpr bool NORMED = VARIANT == Variant::block0_norm;
    static constexpr bool FUSED = VARIANT == Variant::fused_phases;
    static constexpr bool BY_HEAD = VARIANT == Variant::head_blocks;

    // Where one block computes a norm for all: after `before`, which becomes the norm itself. Like all that
    // follow, false if the launch was aborted.
    __device__ __forceinline__ static bool norm(OgPhase& before, uint32_t layer, uint32_t number, const float* weight) {
        if constexpr (NORMED) {
            if (!GridBarrier().wait(before, layer)) return false;
            norm_phase<COLUMNS>(number, weight);
            GridBarrier().arrive(before = OG_PHASE_NORM);
        }
        return true;
    }

    // Q, K, V and attention, and the O projection. A phase begins by waiting for the one before it, with its
    // own weights on their way.
    __device__ __forceinline__ static bool attention_half(uint32_t layer, OgPhase before) {
        const Block block;
        if (!norm(before, layer, 2 * layer, block.layer_weights<float>(layer, block.model.input_norm))) return false;
        if constexpr (BY_HEAD) {
            if (!GridBarrier().wait(before, layer)) return false;
            head_blocks_phase<HEAD_DIM, COLUMNS>(layer);
        } else {
            if (!qkv_phase<COLUMNS, NORMED>(layer, before)) return false;
            GridBarrier().arrive(OG_PHASE_QKV);
            if constexpr (FUSED) {
                if (!attention_output_phase<HEAD_DIM, COLUMNS>(layer, OG_PHASE_QKV)) return false;
                GridBarrier().arrive(OG_PHASE_OUTPUT);
                return true;
            }
            if (!GridBarrier().wait(OG_PHASE_QKV, layer)) return false;
            attention_phase<HEAD_DIM, COLUMNS>(layer);
        }
        GridBarrier().arrive(OG_PHASE_ATTENTION);
        if (!output_phase<HEAD_DIM, COLUMNS>(layer, OG_PHASE_ATTENTION)) return false;
        GridBarrier().arrive(OG_PHASE_OUTPUT);
        return true;
    }

    __device__ __forceinline__ static bool mlp_half(uint32_t layer) {
        const Block block;
        OgPhase before = OG_PHASE_OUTPUT;
        if (!norm(before, layer, 2 * layer + 1, block.layer_weights<float>(layer, block.model.post_attention_norm))) return false;
        if (!gate_up_phase<COLUMNS, NORMED, FUSED>(layer, before)) return false;
        GridBarrier().arrive(OG_PHASE_GATE_UP);
        if (!down_phase<COLUMNS, FUSED>(layer, OG_PHASE_GATE_UP)) return false;
        GridBarrier().arrive(OG_PHASE_DOWN);
        return true;
    }

    // One pass of the columns through the layers and the head.
    __device__ __forceinline__ static bool run_pass() {
        const Block block;
        trace_pass();
        // Read only behind the barriers to come.
        if (block.thread == 0) block.plan_pass(query_block(COLUMNS), !BY_HEAD && !FUSED);
        embed_phase();
        OgPhase before = OG_PHASE_EMBED;
        GridBarrier().arrive(before);
        const uint32_t layers = block.model.layers;
        for (uint32_t layer = 0; layer < layers; ++layer) {
            if (!attention_half(layer, before)) return false;
            if (!mlp_half(layer)) return false;
            before = OG_PHASE_DOWN;
        }
        if (!norm(before, layers, 2 * layers, block.weights<float>(block.model.final_norm))) return false;
        if (!head_phase<COLUMNS, NORMED>(before)) return false;
        trace_phase(OG_PHASE_HEAD);
        return true;
    }

    // From logits to the next columns.
    __device__ __forceinline__ static bool sample() {
        const Block block;
        const uint32_t layers = block.model.layers;
        score_phase();
        poll_stop(block);
        if (!GridBarrier().sync(OG_PHASE_HEAD, layers)) return false;
        if (block.arguments.select != 0) {
            begin_selection();
            for (int filter = FILTER_TOP_K; filter <= FILTER_TOP_P; ++filter) {
                if ((block.arguments.select & (filter == FILTER_TOP_K ? OG_SELECT_TOP_K : OG_SELECT_TOP_P)) == 0) continue;
                for (int pass = 0; pass < OG_SELECT_PASSES; ++pass) {
                    count_phase(static_cast<Filter>(filter), pass);
                    if (!GridBarrier().sync(OG_PHASE_SELECT, layers)) return false;
                    narrow_phase(static_cast<Filter>(filter), pass);
                }
            }
            end_selection();
            draw_phase();
            if (!GridBarrier().sync(OG_PHASE_SAMPLE, layers)) return false;
        }
        sample_phase();
        return true;
    }

    // A pass; or sample and pass by turns, until every request has ended.
    __device__ __forceinline__ static bool run_passes() {
        const Block block;
        const bool decodes = block.arguments.mode == OG_MODE_DECODE;
        uint32_t steps = 0;
        do {
            if (decodes) {
                if (!sample()) return false;
                trace_phase(OG_PHASE_SAMPLE);
                if (block.shared.control.ended != 0) break;
            }
            if (!run_pass()) return false;
            ++steps;
        } while (decodes && steps < block.arguments.max_steps);
        if (block.thread == 0) block.shared.control.steps = steps;
        return true;
    }

    __device__ __forceinline__ static void run() {
        const Block block;
        if (block.thread == 0) GridBarrier().begin();
        if (!run_passes()) return;
        GridBarrier().finish();
        if (block.is_first_thread()) {
            // A norm of the last pass may have noted something since the last sample.
            OgControl& control = block.shared.control;
            if (control.not_finite == OG_ALL_FINITE) {
                control.not_finite = block.news().not_finite;
                control.not_finite_column = block.news().not_finite_column;
            }
            const bool finite = control.not_finite == OG_ALL_FINITE;
            block.mailbox().report.status = finite ? OG_STATUS_DONE : OG_STATUS_NOT_FINITE;
        }
        BLOCK_SYNC();
        block.save_control();
    }
};

#define MEGAKERNEL(HEAD_DIM, COLUMNS, VARIANT)                                               \
    KERNEL(megakernel_h##HEAD_DIM##_c##COLUMNS##_##VARIANT) {                                \
        Block().begin(arguments);                                                            \
        Megakernel<HEAD_DIM, COLUMNS, Variant::VARIANT>().run();                             \
    }
#define MEGAKERNELS(HEAD_DIM, COLUMNS)                \
    MEGAKERNEL(HEAD_DIM, COLUMNS, redundant_norm)     \
    MEGAKERNEL(HEAD_DIM, COLUMNS, block0_norm)        \
    MEGAKERNEL(HEAD_DIM, COLUMNS, head_blocks)        \
    MEGAKERNEL(HEAD_DIM, COLUMNS, fused_phases)

#if ONEGRID_TRACED
// traced_megakernel.cu has its own.
#elif defined(ONEGRID_FEW_KERNELS)
// For programs with sanitizers, which take long to compile: all that differs from kernel to kernel, once.
MEGAKERNELS(64, 1)
MEGAKERNELS(64, 2)
MEGAKERNEL(64, 8, redundant_norm)
MEGAKERNEL(128, 1, redundant_norm)
MEGAKERNEL(128, 2, redundant_norm)
#elif ONEGRID_EMULATED
MEGAKERNELS(64, 1)
MEGAKERNELS(64, 2)
MEGAKERNELS(64, 4)
MEGAKERNELS(64, 8)
MEGAKERNELS(128, 1)
MEGAKERNELS(128, 2)
MEGAKERNELS(128, 4)
MEGAKERNELS(128, 8)
#else
// The other variants are compared at one column and heads of 128 only, which most models have.
MEGAKERNEL(64, 1, redundant_norm)
MEGAKERNEL(64, 2, redundant_norm)
MEGAKERNEL(64, 4, redundant_norm)
MEGAKERNEL(64, 8, redundant_norm)
MEGAKERNELS(128, 1)
MEGAKERNEL(128, 2, redundant_norm)
MEGAKERNEL(128, 4, redundant_norm)
MEGAKERNEL(128, 8, redundant_norm)
#endif
