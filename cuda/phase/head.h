// The LM head: the final RMSNorm and the logits of every column that wants them.
#pragma once

#include "../core/overlap.h"
#include "../core/rms_norm.h"
#include "guide.h"

// Whether some column of the pass wants logits: the same for all blocks.
__device__ __forceinline__ bool wants_logits(const Block& block) {
    for (uint32_t c = 0; c < block.columns(); ++c) {
        if (block.shared.control.column[c].logits_row != OG_NO_LOGITS) return true;
    }
    return false;
}

// The product of a row of the head and a column of `input`, weighted where it is not NORMED, by one warp.
template <bool NORMED>
__device__ __forceinline__ float head_product(const Block& block, const uint16_t* row, const float* x, const float* weight) {
    float sum = 0.0f;
#pragma unroll 2
    for (uint32_t e = block.lane() * 8; e < block.model.hidden_stride; e += WARP * 8) {
        const uint4 values = __ldg(reinterpret_cast<const uint4*>(row + e));
        const uint32_t pairs[4] = {values.x, values.y, values.z, values.w};
#pragma unroll
        for (uint32_t half = 0; half < 2; ++half) {
            float4 input = load_four(x + e + 4 * half);
            if constexpr (!NORMED) {
                const float4 w = load_four(weight + e + 4 * half);
                input = make_float4(input.x * w.x, input.y * w.y, input.z * w.z, input.w * w.w);
            }
            sum = fmaf(bf16_low(pairs[2 * half]), input.x, fmaf(bf16_high(pairs[2 * half]), input.y, sum));
            sum = fmaf(bf16_low(pairs[2 * half + 1]), input.z, fmaf(bf16_high(pairs[2 * half + 1]), input.w, sum));
        }
    }
    return lanes_sum(sum);
}

// The few rows that the guide of a column's request lists, where no others are wanted: a warp for each.
template <bool NORMED>
PHASE void gather_rows() {
    const Block block;
    const OgModel& model = block.model;
    const float* weight = block.weights<float>(model.final_norm);
    const uint16_t* head = block.weights<uint16_t>(model.head);
#pragma unroll 1
    for (uint32_t c = 0; c < block.columns(); ++c) {
        const OgColumn& column = block.shared.control.column[c];
        if (column.few_of == 0) continue;
        const OgRequest& request = block.shared.control.request[column.few_of - 1];
        const Share share = block.even_share(request.guide_count);
        // Block 0 checks the norm even if it has no row.
        const bool checks = !NORMED && block.index == 0 && block.warp() == 0;
        if (block.warp() >= share.count && !checks) continue;
        const float* x = block.state<float>(NORMED ? block.at.normed : block.at.residual) + static_cast<uint64_t>(c) * model.hidden_stride;
        float scale = 1.0f;
        if constexpr (!NORMED) {
            float squares = 0.0f;
#pragma unroll 2
            for (uint32_t e = block.lane() * 4; e < model.hidden_stride; e += WARP * 4) {
                const float4 four = load_four(x + e);
                squares = fmaf(four.x, four.x, fmaf(four.y, four.y, fmaf(four.z, four.z, fmaf(four.w, four.w, squares))));
            }
            squares = lanes_sum(squares);
            scale = isfinite(squares) ? 1.0f / sqrtf(squares / static_cast<float>(model.hidden) + model.norm_eps) : squares;
            if (checks && block.lane() == 0 && !isfinite(scale)) block.note_not_finite(2 * model.layers, c);
        }
        float* logits = block.state<float>(block.at.logits) + static_cast<uint64_t>(request.logits_row) * model.vocab;
        const uint32_t* listed = Guide(block, request).listed + share.first;
#pragma unroll 1
        for (uint32_t i = block.warp(); i < share.count; i += block.warps()) {
            const uint32_t token = listed[i];
            const float product = head_product<NORMED>(block, head + static_cast<uint64_t>(token) * model.hidden_stride, x, weight);
            if (block.lane() == 0) logits[token] = product * scale;
        }
    }
}

// NORMED: one block has computed the norm for all. Waits even if nobody wants logits.
template <int COLUMNS, bool NORMED>
PHASE bool head_phase(OgPhase before) {
    const Block block;
    const Share share = block.shared.share[OG_PHASE_HEAD];
    const uint32_t first = share.first * ROWS;
    const uint32_t stride = block.model.hidden_stride;
    const uint32_t vocab = block.model.vocab;
    const uint32_t layers = block.model.layers;
    const uint16_t* matrix = block.weights<uint16_t>(block.model.head) + static_cast<uint64_t>(first) * stride;
    Product<COLUMNS> product(block, matrix, Block::rows_of(share, vocab), stride, stride, 1);
    Batch<COLUMNS> batch;
    if (!wait_loading(block, product, batch, before, layers, block.weights<float>(block.model.final_norm))) return false;
    gather_rows<NORMED>();
    if (!wants_logits(block)) return true;

    float* logits = block.state<float>(block.at.logits);
    const auto finish = [&](uint32_t row, uint32_t c, const float (&sums)[ROWS]) {
        const uint32_t logits_row = block.shared.control.column[c].logits_row;
        if (logits_row == OG_NO_LOGITS) return;
        for (uint32_t r = 0; r < ROWS && first + row + r < vocab; ++r) {
            logits[static_cast<uint64_t>(logits_row) * vocab + first + row + r] = sums[r];
        }
    };
    if constexpr (NORMED) {
        product.run(block, batch, first, normed_stage<COLUMNS>(block), finish);
    } else {
        NormStage<COLUMNS, Residual> stage(block, residual_of(block), block.weights<float>(block.model.final_norm));
        product.run(block, batch, first, stage, finish);
        check_norm(block, 2 * layers);
    }
    return true;
}
